//! `dev`: the ledger with embedded servers, for working against.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use holdfast_protocol::RootToken;
use holdfast_store::Role;
use holdfast_store::connect::{connect, migrate};
use holdfast_testkit::nats::ACCOUNTS_CONFIG;
use holdfast_testkit::{Stack, identity, secrets};
use secrecy::SecretString;
use serde::Serialize;
use sqlx::Executor;

use super::{Exit, StopSignals, serve, token};
use crate::cli::DevArgs;
use crate::output::{self, Output};
use crate::runtime::{IssuersSource, Ledger, LedgerConfig};
use crate::settings::{TokenArgs, TuningArgs};

/// The audience of embedded deployments.
pub(crate) const AUDIENCE: &str = "ledger.dev";
pub(crate) const DATABASE: &str = "holdfast";

/// Embedded servers with a ledger on them.
#[cfg_attr(not(feature = "demo"), allow(dead_code, reason = "what the demonstration needs of it"))]
pub(crate) struct Dev {
    pub(crate) stack: Stack,
    pub(crate) ledger: Ledger,
    /// The folder for everything that is kept.
    pub(crate) data: PathBuf,
    token_file: Option<PathBuf>,
    database_url: String,
    token: TokenArgs,
}

pub(crate) async fn run(args: DevArgs, output: Output) -> Result<Exit> {
    let dev = Dev::start(args).await?;
    let signals = StopSignals::listen()?;
    match output {
        Output::Json => output::json(&dev.ready())?,
        Output::Table => output::text(&dev.describe())?,
    }
    let Dev { mut stack, ledger, .. } = dev;
    let exit = serve::run_until_stopped(ledger, signals).await;
    stack.stop()?;
    exit
}

/// The line that `dev --output json` prints; every URL is usable as it is.
#[derive(Debug, Serialize)]
pub(crate) struct Ready {
    ready: bool,
    http: String,
    postgres: String,
    nats: NatsUrls,
    audience: &'static str,
}

#[derive(Debug, Serialize)]
struct NatsUrls {
    operator: String,
    ledger: String,
    services: Services,
}

#[derive(Debug, Serialize)]
struct Services {
    backend: String,
    auth: String,
}

#[cfg_attr(not(feature = "demo"), allow(dead_code, reason = "what the demonstration needs of it"))]
impl Dev {
    pub(crate) async fn start(args: DevArgs) -> Result<Self> {
        let wanted = args.data.clone().unwrap_or_else(|| PathBuf::from(".holdfast"));
        let data = identity::reachable_data(&wanted, args.data.is_some())?;
        let stack = Stack::start(&data, ACCOUNTS_CONFIG).await?;
        let database_url = prepare_database(&stack).await?;
        let (roots, token_file) = root_tokens(&args, &data)?;
        let token = args.token.clone();
        let config = LedgerConfig {
            database_url: database_url.clone(),
            nats_url: stack.nats.url("ledger"),
            http_nats_url: stack.nats.url("http"),
            http: args.http,
            audience: AUDIENCE.to_owned(),
            roots,
            issuers: IssuersSource::Shipped,
            tuning: TuningArgs { docs: true, ..args.tuning },
        };
        let ledger = Ledger::start(config).await?;
        Ok(Dev { stack, ledger, data, token_file, database_url, token })
    }

    /// The tokens that this deployment accepts.
    pub(crate) fn roots(&self) -> Result<Vec<RootToken>> {
        if self.token.current()?.is_some() {
            return self.token.roots();
        }
        let file = self.token_file.as_ref().context("a token that was made up has a file")?;
        Ok(vec![RootToken::new(&SecretString::from(std::fs::read_to_string(file)?))?])
    }

    /// The database, for this machine's own processes.
    pub(crate) fn database_url(&self) -> String {
        self.database_url.clone()
    }

    /// Where the façade is.
    pub(crate) fn http_url(&self) -> String {
        format!("http://{}", self.ledger.http)
    }

    /// Stops everything.
    pub(crate) async fn stop(self) -> Result<()> {
        let Dev { mut stack, ledger, .. } = self;
        ledger.stop().await?;
        stack.stop()
    }

    /// What programs are told once everything answers.
    pub(crate) fn ready(&self) -> Ready {
        let nats = |user| self.stack.nats.url(user);
        Ready {
            ready: true,
            http: format!("http://{}", self.ledger.http),
            postgres: self.stack.postgres.url(DATABASE),
            nats: NatsUrls {
                operator: nats("operator"),
                ledger: nats("ledger"),
                services: Services { backend: nats("backend"), auth: nats("auth") },
            },
            audience: AUDIENCE,
        }
    }

    fn describe(&self) -> String {
        let token = match &self.token_file {
            Some(file) => format!("INTERNAL_SERVICE_TOKEN_FILE={}", file.display()),
            None => "from INTERNAL_SERVICE_TOKEN".to_owned(),
        };
        let mut table = output::table(&["ready", ""]);
        table.add_row(["HTTP", &format!("http://{} (docs at /docs)", self.ledger.http)]);
        table.add_row(["token", &token]);
        table.add_row(["Postgres", &self.stack.postgres.url(DATABASE)]);
        table.add_row(["NATS, operator", &self.stack.nats.url("operator")]);
        table.add_row(["NATS, backend", &self.stack.nats.url("backend")]);
        table.add_row(["audience", AUDIENCE]);
        format!("{table}\nCtrl-C stops it; what it kept is there the next time.")
    }
}

/// The database's URL for the ledger itself, made and migrated.
async fn prepare_database(stack: &Stack) -> Result<String> {
    let mut admin = connect(&stack.postgres.local_url("postgres"), Role::Login).await?;
    let exists: (bool,) =
        sqlx::query_as("SELECT EXISTS (SELECT FROM pg_database WHERE datname = 'holdfast')")
            .fetch_one(&mut admin)
            .await?;
    if !exists.0 {
        admin.execute("CREATE DATABASE holdfast").await?;
    }
    let url = stack.postgres.local_url(DATABASE);
    migrate(&url).await?;
    Ok(url)
}

/// The tokens that are given, or one made up and kept in the data folder.
fn root_tokens(args: &DevArgs, data: &Path) -> Result<(Vec<RootToken>, Option<PathBuf>)> {
    if args.token.current()?.is_some() {
        return Ok((args.token.roots()?, args.token.token_file.clone()));
    }
    let file = data.join("internal-token");
    let text = secrets::kept(&file, token::new)?;
    Ok((vec![RootToken::new(&SecretString::from(text))?], Some(file)))
}
