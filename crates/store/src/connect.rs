//! Connections, each bound to one database role from its first statement.

use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions, PgConnection};

use crate::error::{StoreError, within};

/// How long a pool waits for a free connection before it says that there is none.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long connecting may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// How long the server keeps a connection, in milliseconds, whose other side takes nothing: a
/// process that vanished in the middle of a large answer must not keep its locks.
const UNACKNOWLEDGED_MS: &str = "10000";
/// A process that was stopped in the middle of a transaction loses it, and with it its locks, so
/// that a successor need not wait for it.
const IDLE_IN_TRANSACTION: &str = "5s";

/// Lane and projector find rows by their keys, some thousand at once, and nothing else. Without these
/// the planner would think anew for every batch, and on a table that has grown since it was last
/// analysed it would read the whole of it.
const PLANS: [(&str, &str); 5] = [
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("jit", "off"),
];

/// What a crash takes back of a projection is folded again from the log, so that no step need wait
/// for the disk. Never of the log itself.
const REBUILDABLE: (&str, &str) = ("synchronous_commit", "off");

/// What a connection may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Add to the log and read everything.
    Writer,
    /// Read the log and write projections.
    Projector,
    /// Read everything.
    Reader,
    /// Whatever the URL's user may: for migrating and for `doctor`.
    Login,
}

impl Role {
    /// What the server calls its connections, such as in `pg_stat_activity`.
    pub(crate) fn application(self) -> &'static str {
        match self {
            Role::Writer => "holdfast writer",
            Role::Projector => "holdfast projector",
            Role::Reader => "holdfast reader",
            Role::Login => "holdfast",
        }
    }

    /// Whether it works at the pace of the log.
    fn is_hot(self) -> bool {
        matches!(self, Role::Writer | Role::Projector)
    }

    fn name(self) -> Option<&'static str> {
        match self {
            Role::Writer => Some("holdfast_writer"),
            Role::Projector => Some("holdfast_projector"),
            Role::Reader => Some("holdfast_reader"),
            Role::Login => None,
        }
    }
}

/// The options to connect to `url` as `role`. The role is part of the handshake, so there is no
/// moment in which the connection may do more.
pub fn options(url: &str, role: Role) -> Result<PgConnectOptions, StoreError> {
    let options = PgConnectOptions::from_str(url)?.application_name(role.application());
    let options = options.disable_statement_logging();
    let options = options.options([
        ("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION),
        ("tcp_user_timeout", UNACKNOWLEDGED_MS),
    ]);
    let options = if role.is_hot() { options.options(PLANS) } else { options };
    let options = if role == Role::Projector { options.options([REBUILDABLE]) } else { options };
    Ok(match role.name() {
        Some(name) => options.options([("role", name)]),
        None => options,
    })
}

/// Whether `url` leads to a Unix socket of this machine.
pub(crate) fn is_local(url: &str) -> Result<bool, StoreError> {
    let options = PgConnectOptions::from_str(url)?;
    Ok(options.get_socket().is_some() || options.get_host().starts_with('/'))
}

/// One connection.
pub async fn connect(url: &str, role: Role) -> Result<PgConnection, StoreError> {
    let connected = async { Ok(options(url, role)?.connect().await?) };
    match within(CONNECT_WITHIN, connected).await {
        // A role that does not exist is an invalid value of the parameter `role`.
        Err(StoreError::Content { sqlstate, .. }) if sqlstate == "22023" => Err(StoreError::Unmigrated),
        other => other,
    }
}

/// A pool of at most `size` connections.
pub fn pool(url: &str, role: Role, size: u32) -> Result<PgPool, StoreError> {
    let pool = PgPoolOptions::new().max_connections(size).acquire_timeout(ACQUIRE_TIMEOUT);
    Ok(pool.connect_lazy_with(options(url, role)?))
}

/// Brings the database to the newest schema.
pub async fn migrate(url: &str) -> Result<(), StoreError> {
    let mut connection = connect(url, Role::Login).await?;
    let migrations = sqlx::migrate!("../../migrations");
    migrations
        .run(&mut connection)
        .await
        .map_err(|error| StoreError::Unavailable(sqlx::Error::Migrate(Box::new(error))))
}
