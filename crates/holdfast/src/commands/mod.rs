//! One file a command.

pub(crate) mod bench;
#[cfg(feature = "demo")]
pub(crate) mod demo;
pub(crate) mod dev;
pub(crate) mod doctor;
pub(crate) mod finance;
pub(crate) mod look;
pub(crate) mod prices;
pub(crate) mod relay;
pub(crate) mod saga;
pub(crate) mod send;
pub(crate) mod serve;
pub(crate) mod token;
pub(crate) mod views;

use std::process::ExitCode;

use anyhow::Result;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::{Cli, Command};

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// As asked.
    Fine,
    /// A check failed, or the ledger said no.
    Failed,
    /// The request makes no sense.
    Usage,
    /// A server could not be reached.
    Unavailable,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(match exit {
            Exit::Fine => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Unavailable => 3,
        })
    }
}

impl Exit {
    /// The exit code that an error stands for.
    pub(crate) fn of(error: &anyhow::Error) -> Self {
        let unavailable = error.chain().any(|cause| {
            matches!(cause.downcast_ref(), Some(holdfast_store::StoreError::Unavailable(_)))
                || matches!(
                    cause.downcast_ref(),
                    Some(holdfast_audit::replay::ReplayError::Store(
                        holdfast_store::StoreError::Unavailable(_)
                    ))
                )
                || cause.is::<holdfast_engine::bus::BusError>()
                || cause.is::<holdfast_engine::LaneError>()
                || cause.is::<holdfast_client::ClientError>()
        });
        if unavailable { Exit::Unavailable } else { Exit::Usage }
    }
}

pub(crate) async fn run(cli: Cli) -> Result<Exit> {
    match cli.command {
        Command::Serve(args) => serve::run(*args, cli.output).await,
        Command::Dev(args) => dev::run(args, cli.output).await,
        #[cfg(feature = "demo")]
        Command::Demo(args) => demo::run(args, cli.output).await,
        Command::Bench(args) => bench::run(args, cli.output).await,
        Command::Migrate(args) => serve::migrate(&args).await,
        Command::Doctor(args) => doctor::run(*args, cli.output).await,
        Command::Balance(args) => look::balance(args, cli.output).await,
        Command::Hold(args) => look::hold(args, cli.output).await,
        Command::Statement(args) => look::statement(args, cli.output).await,
        Command::Tail(args) => look::tail(args, cli.output).await,
        Command::Replay(args) => finance::run_replay(args, cli.output).await,
        Command::Verify(args) => finance::run_verify(args, cli.output).await,
        Command::Projections(command) => finance::run_projections(&command).await,
        Command::Prices(command) => prices::run(command, cli.output).await,
        Command::Costs(args) => look::costs(args, cli.output).await,
        Command::Token(command) => token::run(&command, cli.output),
        Command::Relay(command) => relay::run(&command).await,
        Command::Saga(command) => saga::run(command, cli.output).await,
        Command::Send(args) => send::run(args, cli.output).await,
    }
}

/// The signals that ask the process to stop.
pub(crate) struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    /// Takes signals from here on; one that comes before ends the process at once. So whoever says that
    /// it is ready listens first.
    pub(crate) fn listen() -> Result<Self> {
        let (interrupt, terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        Ok(StopSignals { interrupt, terminate })
    }

    /// Completes when the process is asked to stop.
    pub(crate) async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
