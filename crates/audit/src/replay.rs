//! Replaying: the whole log, from its first event, into accounts and books.

use futures_util::StreamExt;
use holdfast_core::Position;
use holdfast_core::evolve::FoldError;
use holdfast_projector::load;
use holdfast_store::{Logged, StoreError, copy};
use sqlx::PgConnection;
use tokio::sync::mpsc;

use crate::folded::Folded;

/// Why a replay stopped.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The log could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The log contradicts the rules.
    #[error(transparent)]
    Fold(#[from] FoldError),
}

/// So many decoded runs may wait to be visited.
const RUNS_AHEAD: usize = 4;

/// Reads the log in order up to `to`, giving each run of it to `visit`; reading and decoding go on
/// meanwhile. The connection is given back when it can be used again.
pub async fn runs<T: copy::Read, E: From<StoreError>>(
    connection: PgConnection,
    partition: i16,
    to: Position,
    mut visit: impl FnMut(&[T]) -> Result<(), E>,
) -> (Result<PgConnection, StoreError>, Result<(), E>) {
    let (sender, mut waiting) = mpsc::channel(RUNS_AHEAD);
    let reading = tokio::spawn(read(connection, partition, to, sender));
    let mut visited = Ok(());
    // What comes after a failure is taken and left alone.
    while let Some(run) = waiting.recv().await {
        if visited.is_ok() {
            visited = run.map_err(E::from).and_then(|(run, unreadable)| {
                visit(&run)?;
                unreadable.map_or(Ok(()), |error| Err(error.into()))
            });
        }
    }
    let broken = |_| StoreError::Inconsistent("reading the log was broken off".to_owned());
    (reading.await.map_err(broken), visited)
}

async fn read<T: copy::Read>(
    mut connection: PgConnection,
    partition: i16,
    to: Position,
    runs: mpsc::Sender<Result<copy::Run<T>, StoreError>>,
) -> PgConnection {
    match copy::runs(&mut connection, partition, Position::default(), to).await {
        Ok(mut stream) => {
            while let Some(run) = stream.next().await {
                if runs.send(run).await.is_err() {
                    break;
                }
            }
        }
        Err(error) => {
            let _ = runs.send(Err(error)).await;
        }
    }
    connection
}

/// Folds the log up to `to`, or up to where the projections are, and gives the connection back.
pub async fn replay(
    mut connection: PgConnection,
    partition: i16,
    to: Option<Position>,
    mut progress: impl FnMut(Position, Position),
) -> Result<(PgConnection, Folded), ReplayError> {
    let to = match to {
        Some(to) => to,
        None => load::checkpoint(&mut connection, partition).await?,
    };
    let mut folded = Folded::default();
    let (connection, visited) =
        runs(connection, partition, to, |run: &[Logged]| -> Result<(), ReplayError> {
            for logged in run {
                folded.apply(&logged.event)?;
            }
            progress(folded.position, to);
            Ok(())
        })
        .await;
    visited?;
    Ok((connection?, folded))
}
