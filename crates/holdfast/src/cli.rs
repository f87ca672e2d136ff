//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

#[cfg(feature = "demo")]
use crate::commands::demo;
use crate::commands::{bench, finance, look, prices, relay, saga, send, token};
use crate::output::Output;
use crate::settings::{DatabaseArgs, ServeArgs};

/// Holdfast: a pre-authorized billing ledger for applications that sell LLM calls.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, max_term_width = 100)]
pub(crate) struct Cli {
    /// How results are written.
    #[arg(long, global = true, value_enum, default_value_t)]
    pub(crate) output: Output,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What no flag may carry, since command lines are visible to every user of a machine.
const ENVIRONMENT_ONLY: &str = "\
From the environment only:
  INTERNAL_SERVICE_TOKEN           the internal token, which every key is derived from
  INTERNAL_SERVICE_TOKEN_PREVIOUS  the one before, accepted while rotating
  RUST_LOG                         what is logged, such as holdfast=debug,warn";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the ledger against a Postgres and a NATS server.
    #[command(after_help = ENVIRONMENT_ONLY)]
    Serve(Box<ServeArgs>),
    /// Run the ledger with embedded servers, empty, for working against.
    #[command(after_help = ENVIRONMENT_ONLY)]
    Dev(DevArgs),
    /// Play real traffic through a ledger with embedded servers, and prove the result.
    #[cfg(feature = "demo")]
    Demo(demo::DemoArgs),
    /// Measure how fast the ledger is on this machine, and prove that it was right as well.
    Bench(bench::BenchArgs),
    /// Bring the database to this version's schema.
    Migrate(DatabaseArgs),
    /// Say what is wrong with the set-up that `serve` would use.
    Doctor(Box<ServeArgs>),
    /// Show an account.
    Balance(look::BalanceArgs),
    /// Show a hold.
    Hold(look::HoldArgs),
    /// Show what happened on an account.
    Statement(look::StatementArgs),
    /// Print events as they are committed.
    Tail(look::TailArgs),
    /// Fold the log again from its first event; compare with the live projections.
    Replay(finance::ReplayArgs),
    /// Prove that the log is whole and that everything follows from it.
    Verify(finance::VerifyArgs),
    /// Mend the projections.
    #[command(subcommand)]
    Projections(finance::ProjectionsCommand),
    /// Import, compare, publish and show price books.
    #[command(subcommand)]
    Prices(prices::PricesCommand),
    /// Show what models cost, by model, user or day.
    Costs(look::CostsArgs),
    /// Make, derive and check the secrets that commands are signed with.
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Mend the stream of events.
    #[command(subcommand)]
    Relay(relay::RelayCommand),
    /// Look at the sagas of a service, and let one that is stuck go on.
    #[command(subcommand)]
    Saga(saga::SagaCommand),
    /// Sign and send a command, and wait for its outcome.
    Send(send::SendArgs),
}

/// Where the façade listens unless told otherwise.
pub(crate) const HTTP_DEFAULT: &str = "127.0.0.1:6004";

/// Where the embedded servers keep their data, and where HTTP listens.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct DevArgs {
    /// Folder for everything that is kept; .holdfast in the working folder unless given.
    #[arg(long, env = "HOLDFAST_DATA", value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Address of the HTTP façade; port 0 takes a free one.
    #[arg(long, env = "HOLDFAST_HTTP", default_value = HTTP_DEFAULT, value_name = "ADDRESS")]
    pub(crate) http: String,
    #[command(flatten)]
    pub(crate) token: crate::settings::TokenArgs,
    #[command(flatten)]
    pub(crate) tuning: crate::settings::TuningArgs,
}
