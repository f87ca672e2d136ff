//! The servers and the ledger that are measured: embedded servers, and a ledger process of its own
//! as a deployment has it.

use std::fs::File;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use holdfast_core::Issuer;
use holdfast_engine::bus;
use holdfast_protocol::{ClientKeys, RootToken};
use holdfast_store::connect::{connect, migrate};
use holdfast_store::{Role, head};
use holdfast_testkit::Stack;
use holdfast_testkit::nats::ACCOUNTS_CONFIG;
use secrecy::SecretString;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Executor, PgConnection};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::processes::Processes;

/// The deployment's name.
pub(crate) const AUDIENCE: &str = "ledger.bench";
/// The only partition there is for now.
pub(crate) const PARTITION: i16 = 0;
/// The database of the ledger that is measured.
const DATABASE: &str = "holdfast";
/// The service that commands are signed as.
const ISSUER: &str = "backend";
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long projector and relay may take to catch up after a burst.
const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(600);
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Running servers, and a ledger on them while one is started.
pub(crate) struct Deployment {
    pub(crate) stack: Stack,
    pub(crate) token: String,
    folder: PathBuf,
    program: PathBuf,
    ledger: Option<Running>,
}

struct Running {
    child: Child,
    http: String,
}

impl Deployment {
    /// Starts the servers below `folder`; `program` is the `holdfast` to be measured.
    pub(crate) async fn start(folder: PathBuf, program: PathBuf, token: String) -> Result<Self> {
        let stack = Stack::start(&folder, ACCOUNTS_CONFIG).await?;
        let deployment = Deployment { stack, token, folder, program, ledger: None };
        deployment.create_database(DATABASE).await?;
        migrate(&deployment.database_url()).await?;
        Ok(deployment)
    }

    /// A database beside the ledger's own.
    pub(crate) async fn create_database(&self, name: &str) -> Result<String> {
        let mut admin = connect(&self.stack.postgres.local_url("postgres"), Role::Login).await?;
        admin.execute(AssertSqlSafe(format!("CREATE DATABASE {name}"))).await?;
        Ok(self.stack.postgres.local_url(name))
    }

    pub(crate) fn database_url(&self) -> String {
        self.stack.postgres.local_url(DATABASE)
    }

    /// What one measure has left to be written must not be charged to the next. And a database that has run
    /// for a while has files of its write-ahead log to use again: one that has not fills each new one with
    /// zeros first, and whoever commits waits for that.
    pub(crate) async fn settle(&self) -> Result<()> {
        sqlx::query("CHECKPOINT").execute(&mut self.connection().await?).await?;
        tokio::task::spawn_blocking(rustix::fs::sync).await?;
        Ok(())
    }

    /// Uses `pages` of the server's buffers, and as much write-ahead log, once. A virtual machine may take 8 µs
    /// for a page that it touches for the first time, and a new file of the log takes some 15 ms. A database
    /// that has run for a while pays neither.
    pub(crate) async fn warm(&self, pages: i64) -> Result<()> {
        let mut connection = self.connection().await?;
        connection.execute("CREATE TABLE filler (page text STORAGE PLAIN)").await?;
        // Not by COPY or CREATE TABLE AS, which go round in a few buffers of their own.
        sqlx::query("INSERT INTO filler SELECT repeat('x', 8000) FROM generate_series(1, $1)")
            .bind(pages)
            .execute(&mut connection)
            .await?;
        connection.execute("DROP TABLE filler").await?;
        Ok(())
    }

    pub(crate) async fn connection(&self) -> Result<PgConnection> {
        Ok(connect(&self.database_url(), Role::Login).await?)
    }

    /// The keys that the generator signs with.
    pub(crate) fn keys(&self) -> Result<ClientKeys> {
        let root = RootToken::new(&SecretString::from(self.token.clone()))?;
        Ok(ClientKeys::derive(&root, &Issuer::new(ISSUER)?, 1))
    }

    /// Starts the ledger, if it is not running, and waits until it is ready.
    pub(crate) async fn lead(&mut self) -> Result<()> {
        if self.ledger.is_some() {
            return Ok(());
        }
        let log = File::options().create(true).append(true).open(self.folder.join("ledger.log"))?;
        let mut child = Command::new(&self.program)
            .args(["serve", "--output", "json", "--http", "127.0.0.1:0", "--audience", AUDIENCE])
            .env("INTERNAL_SERVICE_TOKEN", &self.token)
            .env("HOLDFAST_DATABASE_URL", self.database_url())
            .env("HOLDFAST_NATS_URL", self.stack.nats.url("ledger"))
            .env("HOLDFAST_HTTP_NATS_URL", self.stack.nats.url("http"))
            // As the image has it.
            .env("MIMALLOC_PURGE_DELAY", "100")
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .context("starting the ledger")?;
        let mut lines = BufReader::new(child.stdout.take().context("no standard output")?).lines();
        let line = tokio::time::timeout(READY_WITHIN, lines.next_line())
            .await
            .context("the ledger is not ready")??;
        let ready: Value = serde_json::from_str(&line.context("the ledger ended; see ledger.log")?)?;
        let http = ready["http"].as_str().context("no address")?.to_owned();
        self.ledger = Some(Running { child, http });
        Ok(())
    }

    /// Kills the ledger as a crash would.
    pub(crate) async fn kill(&mut self) -> Result<()> {
        if let Some(mut ledger) = self.ledger.take() {
            ledger.child.kill().await?;
        }
        Ok(())
    }

    /// The façade's address.
    pub(crate) fn http(&self) -> Result<&str> {
        Ok(&self.ledger.as_ref().context("the ledger is not running")?.http)
    }

    pub(crate) fn processes(&self) -> Processes {
        Processes {
            ledger: self.ledger.as_ref().and_then(|ledger| ledger.child.id()),
            nats: self.stack.nats.pid(),
            postgres: self.stack.postgres.pid(),
        }
    }

    /// Waits until projector and relay are where the log ends; answers how long that took.
    pub(crate) async fn caught_up(&self) -> Result<Duration> {
        let begun = Instant::now();
        let mut connection = self.connection().await?;
        let nats = bus::connect(&self.stack.nats.url("ledger"), "holdfast bench").await?;
        let streams = async_nats::jetstream::new(nats);
        loop {
            let end = head::read(&mut connection, PARTITION).await?.position;
            let projected = holdfast_projector::load::checkpoint(&mut connection, PARTITION).await?;
            let events = streams.get_stream(bus::EVENTS).await.context("the events stream")?;
            let relayed = i64::try_from(events.cached_info().state.last_sequence)?;
            if projected == end && relayed == end.0 {
                return Ok(begun.elapsed());
            }
            if begun.elapsed() > CAUGHT_UP_WITHIN {
                bail!("the log ends at {end}, the projector is at {projected}, the relay at {relayed}");
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Stops everything.
    pub(crate) async fn stop(mut self) -> Result<()> {
        self.kill().await?;
        self.stack.stop()
    }
}
