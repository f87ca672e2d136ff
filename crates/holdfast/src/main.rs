//! `holdfast`: the ledger and everything around it, as one binary.
//!
//! Exit codes: 0 fine, 1 a check failed or a command was rejected, 2 bad usage, 3 unavailable.

mod cli;
mod commands;
mod monitor;
mod output;
mod prices;
mod progress;
mod runtime;
mod services;
mod settings;

use std::process::ExitCode;

use clap::Parser;

/// Commands come and go by the ten thousand a second, allocated on one thread and freed on another:
/// the system's allocator took a third of the ledger's time with that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    start_logging();
    match commands::run(cli).await {
        Ok(done) => done.into(),
        Err(error) => {
            tracing::debug!(?error, "failed");
            eprintln!("holdfast: {error:#}");
            commands::Exit::of(&error).into()
        }
    }
}

/// Logs go to standard error; `RUST_LOG` chooses what is said.
fn start_logging() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| {
        "holdfast=info,holdfast_engine=info,holdfast_http=info,holdfast_testkit=info,warn".into()
    });
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}
