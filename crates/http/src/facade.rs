//! What every request shares: the client of the ledger, the projections, and what was promised.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use axum::http::StatusCode;
use futures_util::future::BoxFuture;
use holdfast_client::{Client, ClientError, Request};
use holdfast_core::chain::fingerprint;
use holdfast_core::{CommandId, Issuer, Position, Verb};
use holdfast_prices::Book;
use holdfast_projector::Progress;
use holdfast_protocol::Outcome;
use holdfast_protocol::outcome::Told;
use holdfast_store::{Row, StoreError, head, lookup};
use metrics_exporter_prometheus::PrometheusHandle;
use secrecy::SecretString;
use serde::Serialize;
use serde_json::value::RawValue;
use sqlx::pool::PoolConnection;
use sqlx::{PgPool, Postgres};
use tokio::sync::watch;
use utoipa::ToSchema;

use crate::auth::Tokens;
use crate::problem::Problem;

/// How long a caller waits for an outcome before it is told to come back.
const OUTCOME_WITHIN: Duration = Duration::from_secs(5);
/// How long a command is worth deciding whose caller can repeat it under the same id.
const REPEATABLE_FOR: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a command is worth deciding whose caller cannot: less than the caller waits, so that
/// the log can be asked after the last moment at which it could have been accepted.
const UNREPEATABLE_FOR: Duration = Duration::from_secs(3);
/// How long a read waits for the projections.
const PROJECTED_WITHIN: Duration = Duration::from_secs(5);

/// How far the commands are, for `/monitoring/queue/stats`.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct QueueStats {
    /// Commands in the stream that are not applied yet.
    pub queued: u64,
    /// The last stream sequence that was applied.
    pub applied: u64,
    /// The last sequence of the stream.
    pub last_sequence: u64,
    /// The last event's position.
    pub position: i64,
    /// How far the projections are.
    pub projected: i64,
    /// How many holds are open.
    pub open_holds: i64,
}

/// What only the running ledger knows.
pub trait Monitor: Send + Sync {
    /// Every part with its problem, if it has one.
    fn parts(&self) -> BoxFuture<'_, Vec<(String, Option<String>)>>;
    /// How far the commands are.
    fn queue(&self) -> BoxFuture<'_, Result<QueueStats, String>>;
}

/// What a façade is made of.
pub struct FacadeConfig {
    /// The connection to the ledger, as issuer `http`.
    pub client: Client,
    /// The projections, read only.
    pub pool: PgPool,
    /// The partition.
    pub partition: i16,
    /// How far the projections are.
    pub projected: Progress,
    /// What only the running ledger knows.
    pub monitor: Arc<dyn Monitor>,
    /// The price book in force.
    pub book: watch::Receiver<Arc<Book>>,
    /// The accepted internal tokens.
    pub tokens: Vec<SecretString>,
    /// Whether `/docs` and `/openapi.json` need no token.
    pub docs: bool,
    /// Where the metrics are rendered from.
    pub metrics: PrometheusHandle,
}

/// The façade's shared state.
pub struct Facade {
    config: FacadeConfig,
    tokens: Tokens,
    issuer: Issuer,
    /// The highest position that was answered to anybody.
    promised: AtomicI64,
}

impl Facade {
    /// A façade of `config`.
    #[must_use]
    pub fn new(config: FacadeConfig) -> Arc<Self> {
        let tokens = Tokens::new(config.tokens.iter());
        let issuer = Issuer::new("http").expect("a legal name");
        Arc::new(Facade { config, tokens, issuer, promised: AtomicI64::new(0) })
    }

    pub(crate) fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    pub(crate) fn docs_are_open(&self) -> bool {
        self.config.docs
    }

    pub(crate) fn issuer(&self) -> &Issuer {
        &self.issuer
    }

    pub(crate) fn partition(&self) -> i16 {
        self.config.partition
    }

    /// The price book in force.
    pub(crate) fn book(&self) -> Arc<Book> {
        Arc::clone(&self.config.book.borrow())
    }

    pub(crate) fn monitor(&self) -> &dyn Monitor {
        &*self.config.monitor
    }

    pub(crate) fn metrics(&self) -> String {
        self.config.metrics.render()
    }

    /// Sends a command and answers its outcome, accepted or not.
    pub(crate) async fn send(&self, command: Sending<'_>) -> Result<Outcome, Problem> {
        let request = Request {
            id: command.id,
            verb: command.verb,
            account: command.account,
            body: command.body,
            within: OUTCOME_WITHIN,
            valid_for: if command.repeatable { REPEATABLE_FOR } else { UNREPEATABLE_FOR },
        };
        let outcome = match self.config.client.send(request).await {
            Ok(outcome) => outcome,
            Err(ClientError::Unavailable { .. }) => self.look_up(&command).await?,
            Err(ClientError::TooLarge { .. }) => return Err(Problem::too_large()),
            Err(error) => return Err(Problem::unavailable(error.to_string())),
        };
        if let Some(position) = outcome.position {
            self.promised.fetch_max(position, Ordering::Relaxed);
        }
        if outcome.accepted() { Ok(outcome) } else { Err(Problem::of_outcome(&outcome)) }
    }

    /// The outcome may have been decided and lost on its way: the log knows. It must be of this
    /// very command: another may have used the id before.
    async fn look_up(&self, command: &Sending<'_>) -> Result<Outcome, Problem> {
        let id = command.id;
        let unknown = || Problem::unavailable(command.what_to_do()).with("id", id.to_string());
        let row = self.decided(id).await.map_err(|_| unknown())?;
        let said = fingerprint(command.verb.as_str(), command.account, command.body.get().as_bytes());
        let row = row.filter(|row| row.fingerprint == said);
        let row = row.ok_or_else(unknown)?;
        Ok(Told::of_event(id, &row.event, true).into_owned())
    }

    /// The row of a command of this façade; none when it was not decided.
    pub(crate) async fn decided(&self, id: CommandId) -> Result<Option<Row>, Problem> {
        let mut connection = self.connection().await?;
        let key = (self.issuer.clone(), id);
        let rows = lookup::commands(&mut connection, self.config.partition, std::slice::from_ref(&key)).await;
        Ok(rows.map_err(|error| store(&error))?.remove(&key))
    }

    /// A connection to projections that have everything this façade has answered so far.
    pub(crate) async fn read(&self) -> Result<PoolConnection<Postgres>, Problem> {
        self.wait_for(Position(self.promised.load(Ordering::Relaxed))).await?;
        self.connection().await
    }

    /// The same, with everything that was in the log when this was called.
    pub(crate) async fn read_up_to_head(&self) -> Result<PoolConnection<Postgres>, Problem> {
        let mut connection = self.connection().await?;
        let head = head::read(&mut connection, self.config.partition).await.map_err(|error| store(&error))?;
        // Whoever waits must not keep a connection from others.
        drop(connection);
        self.wait_for(head.position).await?;
        self.connection().await
    }

    /// Waits until the projections have `position`.
    pub(crate) async fn wait_for(&self, position: Position) -> Result<(), Problem> {
        let reached = self.config.projected.reach(position);
        tokio::time::timeout(PROJECTED_WITHIN, reached).await.map_err(|_| {
            Problem::unavailable(format!("the projections have not reached position {position} in time"))
        })
    }

    async fn connection(&self) -> Result<PoolConnection<Postgres>, Problem> {
        self.config.pool.acquire().await.map_err(|error| store(&StoreError::from(error)))
    }
}

/// A command about to be sent.
pub(crate) struct Sending<'a> {
    pub(crate) id: CommandId,
    pub(crate) verb: Verb,
    pub(crate) account: &'a str,
    pub(crate) body: &'a RawValue,
    /// Whether the caller can repeat it under the same id.
    pub(crate) repeatable: bool,
}

impl Sending<'_> {
    /// What a caller is told to do that was not answered.
    fn what_to_do(&self) -> &'static str {
        if self.repeatable {
            "the ledger has not answered in time; repeat the request with the same Idempotency-Key or job_id"
        } else if self.verb.expires() {
            "the ledger has not answered in time, and carries this out no more after a few seconds; look at the \
             account before you repeat it"
        } else {
            "the ledger has not answered in time and may still carry this out; look at the account before you \
             repeat it, and send an Idempotency-Key with it"
        }
    }
}

/// A database that does not answer; its words are for the log, not for callers.
pub(crate) fn store(error: &StoreError) -> Problem {
    tracing::warn!(%error, "a read failed");
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "the database does not answer")
}
