//! What the integration tests share: a real ledger process on real servers, and a client of it.
//!
//! Each test has a [`Tenant`] of its own; the binary under test is the one that
//! `cargo test --workspace` built.

pub mod batch;
pub mod books;
pub mod http;
pub mod load;
pub mod shop;
pub mod tools;
pub mod work;

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use holdfast_client::{Client, ClientOptions, Request};
use holdfast_core::{Issuer, Verb};
use holdfast_protocol::{ClientKeys, Outcome, RootToken};
use holdfast_store::Role;
use holdfast_testkit::tenant::Tenant;
use rustix::process::{Pid, Signal, kill_process};
use secrecy::SecretString;
use serde_json::Value;
use serde_json::value::RawValue;
use sqlx::PgConnection;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use uuid::Uuid;

/// The internal token of every test.
pub const TOKEN: &str = "hf1_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";
/// The deployment's name in every test.
pub const AUDIENCE: &str = "ledger.test";
/// How long anything may take that should happen soon: these machines are slow at times.
pub const SOON: Duration = Duration::from_secs(30);

/// The `holdfast` binary, which lies above this test's own.
pub fn binary() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let folder = test.parent().and_then(|deps| deps.parent()).context("no folder of binaries")?;
    let binary = folder.join("holdfast");
    if !binary.is_file() {
        bail!("{} is missing; run `cargo test --workspace`, which builds it", binary.display());
    }
    Ok(binary)
}

/// A `holdfast serve` process.
pub struct Serve {
    child: Child,
    /// What it said when it was ready.
    pub ready: Value,
}

impl Serve {
    /// Starts one for `tenant` and waits until it is ready.
    pub async fn start(tenant: &Tenant) -> Result<Self> {
        Self::start_with(tenant, &[]).await
    }

    /// The same with further arguments.
    pub async fn start_with(tenant: &Tenant, arguments: &[&str]) -> Result<Self> {
        Self::start_on(tenant, &tenant.database_url, arguments).await
    }

    /// The same on another way to the tenant's database.
    pub async fn start_on(tenant: &Tenant, database_url: &str, arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new(binary()?);
        command
            .args(["serve", "--output", "json", "--http", "127.0.0.1:0", "--audience", AUDIENCE])
            .args(arguments);
        command.env("INTERNAL_SERVICE_TOKEN", TOKEN);
        command.env("HOLDFAST_DATABASE_URL", database_url);
        command.env("HOLDFAST_NATS_URL", tenant.nats_url("ledger"));
        command.env("HOLDFAST_HTTP_NATS_URL", tenant.nats_url("http"));
        command.stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().context("starting holdfast serve")?;
        let mut lines = BufReader::new(child.stdout.take().context("no standard output")?).lines();
        let line = tokio::time::timeout(SOON, lines.next_line()).await.context("not ready in time")??;
        let ready = serde_json::from_str(&line.context("holdfast serve ended before it was ready")?)?;
        Ok(Serve { child, ready })
    }

    /// The façade's address.
    pub fn http(&self) -> &str {
        self.ready["http"].as_str().expect("the ready line has the address")
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
        kill_process(pid.context("the process has ended")?, signal)?;
        Ok(())
    }

    /// Kills it as a crash would.
    pub async fn kill(mut self) -> Result<()> {
        self.child.kill().await?;
        Ok(())
    }

    /// Asks it to stop; answers whether it ended well.
    pub async fn stop(mut self) -> Result<bool> {
        self.signal(Signal::TERM)?;
        self.ended().await
    }

    /// Waits for its end; answers whether it ended well.
    pub async fn ended(&mut self) -> Result<bool> {
        let status = tokio::time::timeout(SOON, self.child.wait()).await.context("it did not end")??;
        Ok(status.success())
    }
}

/// Runs `holdfast` with these arguments against the tenant's servers.
pub async fn run(tenant: &Tenant, arguments: &[&str]) -> Result<std::process::Output> {
    let mut command = Command::new(binary()?);
    command.args(arguments);
    command.env("INTERNAL_SERVICE_TOKEN", TOKEN);
    command.env("HOLDFAST_DATABASE_URL", &tenant.database_url);
    command.env("HOLDFAST_NATS_URL", tenant.nats_url("ledger"));
    command.env("HOLDFAST_AUDIENCE", AUDIENCE);
    command.env("NATS_URL", tenant.nats_url("operator"));
    Ok(tokio::time::timeout(SOON, command.output()).await.context("it did not end")??)
}

/// The keys of `issuer`.
pub fn keys(issuer: &str) -> Result<ClientKeys> {
    let root = RootToken::new(&SecretString::from(TOKEN))?;
    Ok(ClientKeys::derive(&root, &Issuer::new(issuer)?, 1))
}

/// A client of the tenant's ledger as `issuer`.
pub async fn client(tenant: &Tenant, issuer: &str) -> Result<Caller> {
    let options = ClientOptions {
        nats_url: tenant.nats_url(issuer).to_owned(),
        keys: keys(issuer)?,
        audience: AUDIENCE.to_owned(),
    };
    Ok(Caller(Arc::new(Client::connect(options).await?)))
}

/// A client with short words.
#[derive(Clone)]
pub struct Caller(pub Arc<Client>);

impl Caller {
    /// Sends a command under a new id.
    pub async fn send(&self, verb: Verb, account: &str, body: &str) -> Result<Outcome> {
        self.send_as(Uuid::now_v7(), verb, account, body).await
    }

    /// Sends a command under this id.
    pub async fn send_as(&self, id: Uuid, verb: Verb, account: &str, body: &str) -> Result<Outcome> {
        let body = RawValue::from_string(body.to_owned())?;
        Ok(self.0.send(Request { id, verb, account, body: &body, within: SOON, valid_for: SOON }).await?)
    }

    /// Opens an account and puts `amount` into it.
    pub async fn fund(&self, account: &str, amount: &str) -> Result<Outcome> {
        self.send(Verb::OpenAccount, account, "{}").await?;
        self.send(Verb::TopUp, account, &format!(r#"{{"amount":"{amount}"}}"#)).await
    }
}

/// A connection to the tenant's database with every right.
pub async fn database(tenant: &Tenant) -> Result<PgConnection> {
    Ok(holdfast_store::connect::connect(&tenant.database_url, Role::Login).await?)
}

/// The number that a query answers.
pub async fn count(connection: &mut PgConnection, sql: &'static str) -> Result<i64> {
    let row: (i64,) = sqlx::query_as(sql).fetch_one(connection).await?;
    Ok(row.0)
}

/// A JetStream context as the tenant's `operator`.
pub async fn jetstream(tenant: &Tenant, user: &str) -> Result<async_nats::jetstream::Context> {
    let options = async_nats::ConnectOptions::new();
    let client = holdfast_client::nats::connect(tenant.nats_url(user), "test", options).await;
    Ok(async_nats::jetstream::new(client.map_err(anyhow::Error::msg)?))
}
