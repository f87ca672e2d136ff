//! `saga`: looking at the sagas of a service, and letting one that is stuck go on.

use anyhow::{Context, Result, bail};
use async_nats::ConnectOptions;
use clap::{Args, Subcommand};
use holdfast_saga::timeline::{lines, summaries};
use holdfast_saga::{SagaError, SagaKey, SagaLog};

use super::Exit;
use crate::output::{self, Output};

#[derive(Debug, Subcommand)]
pub(crate) enum SagaCommand {
    /// List sagas with how they stand.
    List(ListArgs),
    /// Show what a saga has been through.
    Show(ShowArgs),
    /// Let a saga that is stuck go on; the service's instances notice it.
    Resume(ResumeArgs),
}

/// Whose sagas.
#[derive(Debug, Args)]
pub(crate) struct ServiceArgs {
    /// The bus, as the service's own user: its sagas are in its own NATS account.
    #[arg(long, env = "NATS_URL", hide_env_values = true, value_name = "URL")]
    nats_url: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Only those of this definition.
    #[arg(long, value_name = "NAME")]
    definition: Option<String>,
    #[command(flatten)]
    service: ServiceArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// The saga, as <definition>/<id>.
    saga: SagaKey,
    #[command(flatten)]
    service: ServiceArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ResumeArgs {
    /// The saga, as <definition>/<id>.
    saga: SagaKey,
    /// The undo that is stuck was done by hand: count it as done instead of trying it again.
    #[arg(long)]
    by_hand: bool,
    #[command(flatten)]
    service: ServiceArgs,
}

pub(crate) async fn run(command: SagaCommand, output: Output) -> Result<Exit> {
    match command {
        SagaCommand::List(args) => list(args, output).await,
        SagaCommand::Show(args) => show(args, output).await,
        SagaCommand::Resume(args) => resume(args).await,
    }
}

async fn log(args: &ServiceArgs) -> Result<SagaLog> {
    let Some(url) = &args.nats_url else { bail!("NATS_URL or --nats-url must be set") };
    let nats = holdfast_client::nats::connect(url, "holdfast saga", ConnectOptions::new()).await;
    let nats = nats.map_err(holdfast_client::ClientError::Connect)?;
    SagaLog::existing(nats).await.context("is this the user of a service that has sagas?")
}

async fn list(args: ListArgs, output: Output) -> Result<Exit> {
    let stored = log(&args.service).await?.read_all(args.definition.as_deref()).await?;
    let sagas = summaries(stored);
    if output == Output::Json {
        output::json(&serde_json::to_value(&sagas)?)?;
        return Ok(Exit::Fine);
    }
    let mut table = output::table(&["saga", "account", "status", "last step", "when", "by"]);
    for saga in sagas {
        let (account, step) = (saga.account.unwrap_or_default(), saga.step.unwrap_or_default());
        let when = moment(saga.at_ms);
        table.add_row([saga.saga.to_string(), account, saga.status.to_owned(), step, when, saga.by]);
    }
    output::text(&table.to_string())?;
    Ok(Exit::Fine)
}

async fn show(args: ShowArgs, output: Output) -> Result<Exit> {
    let stored = log(&args.service).await?.read(&args.saga).await?;
    let lines = lines(stored.iter().map(|stored| &stored.entry));
    if lines.is_empty() {
        tracing::error!("there is no saga {}", args.saga);
        return Ok(Exit::Failed);
    }
    if output == Output::Json {
        output::json(&serde_json::to_value(&lines)?)?;
        return Ok(Exit::Fine);
    }
    let mut table = output::table(&["n", "when", "entry", "step", "detail", "by"]);
    for line in lines {
        let (n, when) = (line.n.to_string(), moment(line.at_ms));
        table.add_row([n, when, line.entry.to_owned(), line.step.unwrap_or_default(), line.detail, line.by]);
    }
    output::text(&table.to_string())?;
    Ok(Exit::Fine)
}

async fn resume(args: ResumeArgs) -> Result<Exit> {
    match log(&args.service).await?.resume(&args.saga, "holdfast saga resume", args.by_hand).await {
        Ok(()) => {
            tracing::info!("{} may go on; an instance of its service will drive it", args.saga);
            Ok(Exit::Fine)
        }
        Err(error @ (SagaError::NotStuck(_) | SagaError::Unknown(_) | SagaError::Fenced(_))) => {
            tracing::error!("{error}");
            Ok(Exit::Failed)
        }
        Err(error) => Err(error.into()),
    }
}

/// Unix milliseconds as a time in UTC.
fn moment(at_ms: u64) -> String {
    let at = i64::try_from(at_ms).ok().and_then(chrono::DateTime::from_timestamp_millis);
    at.map_or_else(|| at_ms.to_string(), |at| at.format("%Y-%m-%d %H:%M:%S%.3f").to_string())
}
