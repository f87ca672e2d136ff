//! Queries over NATS: the service `ledger` with its endpoints below `ledger.svc.`.
//!
//! **Shape.** Core request and reply, answered from the projections; `nats micro` lists and
//! measures them. Errors carry the service API's code and description headers.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow};
use async_nats::service::error::Error as ServiceError;
use async_nats::service::{Service, ServiceExt};
use bytes::Bytes;
use chrono::Utc;
use futures_util::StreamExt;
use holdfast_core::{AccountId, Issuer};
use holdfast_engine::bus;
use holdfast_http::Monitor;
use holdfast_prices::book::UNPRICED_MODEL;
use holdfast_prices::{Ask, Book};
use holdfast_projector::queries::{self, OpenSaga};
use holdfast_protocol::outcome::Told;
use holdfast_protocol::subject;
use holdfast_store::lookup;
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::commands::views;
use crate::monitor::LedgerMonitor;
use crate::runtime::PARTITION;

/// What the endpoints read from.
pub(crate) struct Services {
    pub(crate) pool: PgPool,
    pub(crate) monitor: Arc<LedgerMonitor>,
    pub(crate) book: watch::Receiver<Arc<Book>>,
}

type Answer = Result<Value, ServiceError>;

/// How long one query may take; the next waits behind it.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How long to wait before connecting again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// How many open sagas are told at once.
const SAGAS_MAX: i64 = 1_000;

/// The queries, each with its subject below `ledger.svc`.
const ENDPOINTS: [(&str, &str); 7] = [
    ("balance", "balance.*"),
    ("hold", "hold.*.*"),
    ("command", "command.*.*"),
    ("prices", "prices.*"),
    ("sagas", "sagas.*"),
    ("health", "health"),
    ("stats", "stats"),
];

/// A registered service.
struct Serving {
    service: Service,
    /// Ends when the connection's client does.
    tasks: JoinSet<()>,
}

/// Answers queries until told to stop. `first` is registered already; when its connection ends for
/// good, which a message that the NATS client cannot take may bring about, another is made.
pub(crate) async fn run(
    url: String,
    services: Arc<Services>,
    first: Registered,
    stop: CancellationToken,
) -> Result<()> {
    let mut serving = Some(first.0);
    loop {
        if let Some(mut current) = serving.take() {
            tokio::select! {
                () = stop.cancelled() => {
                    let stopped = current.service.stop().await;
                    return stopped.map_err(|error| anyhow!("stopping the NATS services: {error}"));
                }
                ended = current.tasks.join_next() => {
                    tracing::warn!(?ended, "a NATS service has ended; starting them again");
                    // Where the connection is alive, the old service must not be listed beside the new.
                    let _ = tokio::time::timeout(ANSWER_WITHIN, current.service.stop()).await;
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(AGAIN_AFTER) => {}
        }
        serving = match register(&url, &services).await {
            Ok(Registered(serving)) => Some(serving),
            Err(error) => {
                tracing::warn!(%error, "the NATS services are not there yet");
                None
            }
        };
    }
}

/// A service that answers from here on.
pub(crate) struct Registered(Serving);

/// Connects and registers the service.
pub(crate) async fn register(url: &str, services: &Arc<Services>) -> Result<Registered> {
    let client = bus::connect(url, "holdfast services").await?;
    let builder = client.service_builder().description("Balances, holds and outcomes of Holdfast");
    let started = builder.start("ledger", env!("CARGO_PKG_VERSION")).await;
    let service = started.map_err(|error| anyhow!("starting the NATS services: {error}"))?;
    let group = service.group("ledger.svc");
    let mut tasks = JoinSet::new();
    for (name, pattern) in ENDPOINTS {
        let endpoint = group.endpoint_builder().name(name).add(pattern).await;
        let mut endpoint = endpoint.map_err(|error| anyhow!("adding the NATS service {name}: {error}"))?;
        let services = Arc::clone(services);
        tasks.spawn(async move {
            while let Some(request) = endpoint.next().await {
                let asked = services.answer(&request.message.subject, &request.message.payload);
                let answer = tokio::time::timeout(ANSWER_WITHIN, asked).await;
                let answer = answer.unwrap_or_else(|_| Err(error(503, "the database does not answer")));
                let answer = answer.map(|value| Bytes::from(value.to_string()));
                if let Err(error) = request.respond(answer).await {
                    tracing::warn!(%error, name, "a query was not answered");
                }
            }
        });
    }
    Ok(Registered(Serving { service, tasks }))
}

impl Services {
    async fn answer(&self, asked: &str, payload: &[u8]) -> Answer {
        let tokens: Vec<&str> = asked.split('.').skip(2).collect();
        match tokens[..] {
            ["balance", account] => self.balance(account).await,
            ["hold", account, hold] => self.hold(account, hold).await,
            ["command", issuer, id] => self.command(issuer, id).await,
            ["prices", model] => self.price(model, payload),
            ["sagas", definition] => self.sagas(definition).await,
            ["health"] => Ok(self.health().await),
            ["stats"] => self.stats().await,
            _ => Err(error(404, "there is no such query")),
        }
    }

    async fn balance(&self, token: &str) -> Answer {
        let id = account_id(token)?;
        let mut connection = self.pool.acquire().await.map_err(unavailable)?;
        let account = queries::account(&mut connection, PARTITION, &id).await.map_err(unavailable)?;
        account.map(|account| views::account(&account)).ok_or_else(|| error(404, "there is no such account"))
    }

    async fn hold(&self, token: &str, hold: &str) -> Answer {
        let id = account_id(token)?;
        let hold = hold.parse().map_err(|_| error(400, "the last token is no hold id"))?;
        let mut connection = self.pool.acquire().await.map_err(unavailable)?;
        let found = queries::holds(&mut connection, PARTITION, hold, Some(&id)).await.map_err(unavailable)?;
        found.first().map(views::hold).ok_or_else(|| error(404, "there is no such hold"))
    }

    async fn command(&self, issuer: &str, id: &str) -> Answer {
        let issuer = Issuer::new(issuer).map_err(|problem| error(400, &problem.to_string()))?;
        let id = id.parse().map_err(|_| error(400, "the last token is no command id"))?;
        let mut connection = self.pool.acquire().await.map_err(unavailable)?;
        let key = (issuer, id);
        let rows = lookup::commands(&mut connection, PARTITION, std::slice::from_ref(&key)).await;
        let row = rows.map_err(unavailable)?.remove(&key);
        let row = row.ok_or_else(|| error(404, "no such command was decided"))?;
        serde_json::to_value(Told::of_event(id, &row.event, true)).map_err(unavailable)
    }

    fn price(&self, token: &str, payload: &[u8]) -> Answer {
        let model = subject::account_of_token(token);
        let model = model.ok_or_else(|| error(400, "the token is no encoded model"))?;
        let which: Ask = match payload {
            [] => Ask::default(),
            json => serde_json::from_slice(json).map_err(|problem| error(400, &problem.to_string()))?,
        };
        let quote = self.book.borrow().quote(&Ask { model, ..which }, Utc::now());
        let quote = quote.map_err(|why| error(404, &format!("{UNPRICED_MODEL}: {why}")))?;
        serde_json::to_value(quote).map_err(unavailable)
    }

    async fn sagas(&self, definition: &str) -> Answer {
        let mut connection = self.pool.acquire().await.map_err(unavailable)?;
        let prefix = format!("{definition}/");
        let open = queries::open_sagas(&mut connection, PARTITION, &prefix, SAGAS_MAX).await;
        let view = |open: OpenSaga| json!({"account": open.account, "hold": open.hold, "saga": open.saga});
        Ok(open.map_err(unavailable)?.into_iter().map(view).collect())
    }

    async fn health(&self) -> Value {
        let parts = self.monitor.parts().await;
        let well = parts.iter().all(|(_, problem)| problem.is_none());
        let parts: serde_json::Map<String, Value> = parts
            .into_iter()
            .map(|(part, problem)| (part, problem.unwrap_or_else(|| "ok".to_owned()).into()))
            .collect();
        json!({ "status": if well { "ok" } else { "unavailable" }, "parts": parts })
    }

    async fn stats(&self) -> Answer {
        let stats = self.monitor.queue().await.map_err(|problem| error(503, &problem))?;
        serde_json::to_value(stats).map_err(unavailable)
    }
}

fn account_id(token: &str) -> Result<AccountId, ServiceError> {
    let id =
        subject::account_of_token(token).ok_or_else(|| error(400, "the token is no encoded account id"))?;
    AccountId::new(&id).map_err(|problem| error(400, &problem.to_string()))
}

fn error(code: usize, status: &str) -> ServiceError {
    ServiceError { code, status: status.to_owned() }
}

fn unavailable(problem: impl std::fmt::Display) -> ServiceError {
    tracing::warn!(%problem, "a query failed");
    error(503, "the database does not answer")
}
