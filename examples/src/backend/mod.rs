//! The backend: chats and wikis, paid by the user whom the gateway names.
//!
//! **Shape.** [`chat`] is one call under one hold; [`job`] is the wiki, a saga of many, of which each
//! order is kept ([`orders`]). Both use any OpenAI-compatible endpoint ([`model`]).

mod chat;
pub mod job;
pub mod model;
pub mod orders;

use std::io;
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use holdfast_calls::Calls;
use holdfast_calls::layer::InternalToken;
use holdfast_client::Client;
use holdfast_client::query::QueryError;
use holdfast_saga::{Ending, Runner, SagaError};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::extract::{Route, User, parse};
use crate::names;
use crate::problem::Problem;
use crate::serving;
use crate::wiki::PAGES_MAX;
use job::{Order, WikiJob};
use model::Model;
use orders::{Kept, Orders};

/// The largest order. It is kept in the log of its saga, also when that is refused.
const ORDER_MAX_BYTES: usize = 64 * 1024;
/// The longest topic, in characters.
const TOPIC_MAX_CHARS: usize = 1_000;
/// How often an order is taken anew when another was faster.
const TAKEN_MAX: u32 = 8;
/// How often open holds are compared with the logs of sagas.
const RECONCILE_EVERY: std::time::Duration = std::time::Duration::from_secs(30);

/// Where a process that is to be killed there stops and waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Halt {
    /// The money is held; the call is not announced.
    Held,
    /// The call is announced in the journal; it is not sent.
    Dispatched,
    /// The provider has answered; nothing of it is settled.
    Answered,
}

/// What a backend needs.
pub struct Backend {
    /// The ledger, as this service.
    pub client: Client,
    /// The cost tracker.
    pub calls: Calls,
    /// The model's endpoint.
    pub model: Model,
    /// The model that is used unless a request names one.
    pub default_model: String,
    /// Sagas.
    pub wikis: Runner<WikiJob>,
    /// What a wiki is made with.
    pub job: WikiJob,
    /// For tests of crashes: where to stop and wait for the end.
    pub halt: Option<Halt>,
}

impl Backend {
    async fn halted_at(&self, point: Halt) {
        if self.halt == Some(point) {
            tracing::info!(?point, "halted, as asked");
            std::future::pending::<()>().await;
        }
    }
}

/// The service's routes.
pub fn router(backend: Arc<Backend>, token: InternalToken) -> Router {
    let routes = Router::new()
        .route("/chat", post(chat::chat))
        .route("/wiki", post(wiki))
        .route("/wiki/{project}", get(timeline))
        .with_state(backend);
    serving::guarded(routes, token)
}

/// Serves until told to stop. Sagas that were left are driven on meanwhile.
///
/// # Errors
/// When the listener cannot accept.
pub async fn serve(
    listener: TcpListener,
    backend: Arc<Backend>,
    token: InternalToken,
    stop: CancellationToken,
) -> io::Result<()> {
    let (calls, wikis) = (backend.calls.clone(), backend.wikis.clone());
    let sagas = tokio::spawn(async move {
        tokio::join!(wikis.serve(), reconcile(&wikis));
    });
    let served = serving::serve(listener, router(backend, token), stop).await;
    sagas.abort();
    calls.close().await;
    served
}

/// Finds sagas whose log was lost, as long as it is let.
async fn reconcile(wikis: &Runner<WikiJob>) {
    // A saga may take long, and another may be lost meanwhile.
    let mut rounds = JoinSet::new();
    loop {
        while rounds.try_join_next().is_some() {}
        match wikis.open_sagas().await {
            Ok(open) => {
                let wikis = wikis.clone();
                rounds.spawn(async move {
                    for ended in wikis.reconcile(open).await {
                        if let Err(error) = ended.outcome {
                            tracing::warn!(%error, saga = %ended.saga, "a saga was not driven again");
                        }
                    }
                });
            }
            Err(error) => tracing::warn!(%error, "the ledger's open sagas are not known"),
        }
        tokio::time::sleep(RECONCILE_EVERY).await;
    }
}

/// What is asked.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ask {
    /// The project that the wiki goes to; one wiki each.
    project: String,
    /// What it is about.
    topic: String,
    /// How many pages.
    pages: usize,
    /// The model; the backend's own unless given.
    model: Option<String>,
}

/// Writes a wiki, and answers what became of it.
async fn wiki(
    State(backend): State<Arc<Backend>>,
    User(user): User,
    request: Request,
) -> Result<Response, Problem> {
    let ask = asked(request).await?;
    names::project(&ask.project)?;
    let topic = ask.topic.chars().count();
    if topic > TOPIC_MAX_CHARS || ask.topic.trim().is_empty() {
        let detail = format!("1 to {TOPIC_MAX_CHARS} characters, not all of them space");
        return Err(Problem::invalid("topic", detail));
    }
    if !(1..=PAGES_MAX).contains(&ask.pages) {
        return Err(Problem::invalid("pages", format!("1 to {PAGES_MAX}")));
    }
    let model = ask.model.unwrap_or_else(|| backend.default_model.clone());
    let quote = backend.client.quote(&model, None, None).await.map_err(unpriced)?;
    let order = Order { user, project: ask.project, topic: ask.topic, pages: ask.pages, quote };
    if let Some(dimension) = order.unpriced() {
        return Err(Problem::invalid("model", format!("{} has no price for {dimension}", order.quote.model)));
    }
    let kept = taken(&backend, order).await?;
    let outcome = backend.wikis.run(&kept.id(), &kept.order.user, &kept.order).await;
    let outcome = outcome.map_err(|error| match error {
        SagaError::Driven { .. } => Problem::conflict("under_way", error.to_string()),
        SagaError::OtherInput(_) => other_order(),
        SagaError::Key(_) => Problem::invalid("project", error),
        error => Problem::unavailable(error.to_string()),
    })?;
    if outcome.ended == Ending::Refused {
        let orders = backend.job.orders.clone();
        on_disk(move || orders.remove(&kept)).await?;
    }
    let status = match outcome.ended {
        Ending::Completed => StatusCode::OK,
        Ending::Refused => StatusCode::PAYMENT_REQUIRED,
        Ending::Undone | Ending::Stuck => StatusCode::BAD_GATEWAY,
    };
    Ok((status, axum::Json(outcome)).into_response())
}

/// Reads what is asked, which is never large.
async fn asked(request: Request) -> Result<Ask, Problem> {
    match Limited::new(request.into_body(), ORDER_MAX_BYTES).collect().await {
        Ok(collected) => parse(&collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            let detail = format!("an order has at most {ORDER_MAX_BYTES} bytes");
            Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail))
        }
        Err(_) => Err(Problem::invalid("body", "it could not be read to its end")),
    }
}

/// The try to carry out for this order. A project has one wiki: as long as that is there, or is being
/// written, the order must be the same, and the rates that it had hold. After one that came to nothing
/// any order begins a new try.
async fn taken(backend: &Backend, order: Order) -> Result<Kept, Problem> {
    for _ in 0..TAKEN_MAX {
        let (orders, user, project) = (backend.job.orders.clone(), order.user.clone(), order.project.clone());
        let before = on_disk(move || orders.of(&user, &project)).await?;
        if let Some(before) = &before {
            let outcome = backend.wikis.outcome(&before.id()).await;
            let outcome = outcome.map_err(|error| Problem::unavailable(error.to_string()))?;
            let came_to_nothing =
                outcome.is_some_and(|outcome| matches!(outcome.ended, Ending::Refused | Ending::Undone));
            match before.order.asks_for_the_same_as(&order) {
                _ if came_to_nothing => {}
                true => return Ok(before.clone()),
                false => return Err(other_order()),
            }
        }
        let number = before.map(|before| before.number);
        let (orders, next) = (backend.job.orders.clone(), Kept::new(order.clone(), number));
        let put = next.clone();
        if on_disk(move || orders.put(number, &put)).await? {
            return Ok(next);
        }
    }
    Err(Problem::conflict("under_way", "the project is being given another wiki"))
}

fn other_order() -> Problem {
    Problem::conflict("wiki_exists", "the project has a wiki of another order; name another project")
}

/// Reads or writes orders.
async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Problem> {
    serving::blocking(move || work().map_err(|error| Problem::internal("keeping the order", error))).await
}

fn unpriced(error: QueryError) -> Problem {
    match error {
        QueryError::NotFound(why) => Problem::new(StatusCode::NOT_FOUND, "unpriced_model", why),
        QueryError::Invalid(why) => Problem::invalid("model", why),
        QueryError::Unavailable(why) => Problem::unavailable(why),
    }
}

/// What the wiki of a project has been through.
async fn timeline(
    State(backend): State<Arc<Backend>>,
    User(user): User,
    Route(project): Route<String>,
) -> Result<Response, Problem> {
    names::project(&project)?;
    let none = || Problem::not_found("the project has no wiki");
    let orders = backend.job.orders.clone();
    let kept = on_disk(move || orders.of(&user, &project)).await?.ok_or_else(none)?;
    let lines = backend.wikis.timeline(&kept.id()).await;
    let lines = lines.map_err(|error| Problem::unavailable(error.to_string()))?;
    if lines.is_empty() {
        return Err(none());
    }
    Ok(axum::Json(lines).into_response())
}

/// The folder for orders below `data`, made if it is not there.
///
/// # Errors
/// When the disk does not let it.
pub fn orders(data: &Path) -> io::Result<Orders> {
    Orders::open(&data.join("orders"))
}
