//! The backend: chats and wikis, paid by the user whom the gateway names.
//!
//! **Shape.** [`chat`] is one call under one hold; [`job`] is the wiki, a saga of many. Both use any
//! OpenAI-compatible endpoint ([`model`]).

mod chat;
pub mod job;
pub mod model;

use std::io;
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use holdfast_calls::Calls;
use holdfast_calls::layer::InternalToken;
use holdfast_client::Client;
use holdfast_client::query::QueryError;
use holdfast_saga::{Ending, Runner, SagaError};
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::extract::{Json, Route, User};
use crate::names;
use crate::problem::Problem;
use crate::serving;
use crate::wiki::PAGES_MAX;
use job::{Order, WikiJob};
use model::Model;

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
    loop {
        match wikis.open_sagas().await {
            Ok(open) => {
                if let Err(error) = wikis.reconcile(open).await {
                    tracing::warn!(%error, "sagas could not be compared with the ledger");
                }
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
    Json(ask): Json<Ask>,
) -> Result<Response, Problem> {
    names::project(&ask.project)?;
    if !(1..=PAGES_MAX).contains(&ask.pages) {
        return Err(Problem::invalid("pages", format!("1 to {PAGES_MAX}")));
    }
    let model = ask.model.unwrap_or_else(|| backend.default_model.clone());
    let quote = backend.client.quote(&model, None, None).await.map_err(unpriced)?;
    let order = Order { user, project: ask.project, topic: ask.topic, pages: ask.pages, quote };
    let id = saga_id(&order);
    let order = backend.job.same_as_before(&id, order);
    backend.job.keep(&id, &order).map_err(|error| Problem::internal("keeping the order", error))?;
    let outcome = backend.wikis.run(&id, &order.user, &order).await.map_err(|error| match error {
        SagaError::Driven { .. } => Problem::conflict("under_way", error.to_string()),
        SagaError::OtherInput(_) => {
            Problem::conflict("wiki_exists", "the project has a wiki of another order; name another project")
        }
        SagaError::Key(_) => Problem::invalid("project", error),
        error => Problem::unavailable(error.to_string()),
    })?;
    let status = match outcome.ended {
        Ending::Completed => StatusCode::OK,
        Ending::Refused => StatusCode::PAYMENT_REQUIRED,
        Ending::Undone | Ending::Stuck => StatusCode::BAD_GATEWAY,
    };
    Ok((status, axum::Json(outcome)).into_response())
}

/// A project has one wiki; projects of different users may have the same name.
fn saga_id(order: &Order) -> String {
    format!("{}.{}", names::folder(&order.user), order.project)
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
    let id = format!("{}.{project}", names::folder(&user));
    let lines = backend.wikis.timeline(&id).await;
    let lines = lines.map_err(|error| Problem::unavailable(error.to_string()))?;
    if lines.is_empty() {
        return Err(Problem::not_found("the project has no wiki"));
    }
    Ok(axum::Json(lines).into_response())
}

/// The folder for orders below `data`, made if it is not there.
///
/// # Errors
/// When the disk does not let it.
pub fn orders(data: &Path) -> io::Result<std::path::PathBuf> {
    let folder = data.join("orders");
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}
