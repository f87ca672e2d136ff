//! `relay rebuild`: makes the events stream anew, for the relay to fill again from the log.

use anyhow::Result;
use clap::{Args, Subcommand};
use holdfast_engine::bus;

use super::Exit;
use crate::settings::one_of;

#[derive(Debug, Subcommand)]
pub(crate) enum RelayCommand {
    /// Delete LEDGER_EVENTS and create it empty; the running ledger fills it again from the log.
    Rebuild(BusArgs),
}

/// Where the bus is.
#[derive(Debug, Args)]
pub(crate) struct BusArgs {
    /// The bus, as the user `ledger`.
    #[arg(long, env = "HOLDFAST_NATS_URL", hide_env_values = true, value_name = "URL")]
    nats_url: Option<String>,
    /// File with the bus's URL.
    #[arg(long, env = "HOLDFAST_NATS_URL_FILE", value_name = "FILE")]
    nats_url_file: Option<std::path::PathBuf>,
}

impl BusArgs {
    pub(crate) fn url(&self) -> Result<String> {
        one_of("HOLDFAST_NATS_URL", self.nats_url.clone(), self.nats_url_file.as_ref())
    }
}

pub(crate) async fn run(command: &RelayCommand) -> Result<Exit> {
    let RelayCommand::Rebuild(args) = command;
    let client = bus::connect(&args.url()?, "holdfast relay rebuild").await?;
    bus::recreate_events(&client).await?;
    tracing::info!("LEDGER_EVENTS is empty; the running ledger fills it again from the log");
    Ok(Exit::Fine)
}
