//! Replaying: the whole log, from its first event, into accounts and books.

use futures_util::StreamExt;
use holdfast_core::Position;
use holdfast_core::evolve::FoldError;
use holdfast_projector::load;
use holdfast_store::{Row, StoreError, copy};
use sqlx::PgConnection;

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

/// Reads the log in order up to `to`, giving each run of rows to `visit`.
pub async fn runs<E: From<StoreError>>(
    connection: &mut PgConnection,
    partition: i16,
    to: Position,
    mut visit: impl FnMut(&[Row]) -> Result<(), E>,
) -> Result<(), E> {
    let mut runs = copy::runs(connection, partition, Position::default(), to).await?;
    let mut visited = Ok(());
    // The connection is of use again only when everything that it sends has been taken.
    while let Some(run) = runs.next().await {
        if visited.is_ok() {
            let (rows, unreadable) = run?;
            visited = visit(&rows).and(unreadable.map_or(Ok(()), |error| Err(error.into())));
        }
    }
    visited
}

/// Folds the log up to `to`, or up to where the projections are.
pub async fn replay(
    connection: &mut PgConnection,
    partition: i16,
    to: Option<Position>,
    mut progress: impl FnMut(Position, Position),
) -> Result<Folded, ReplayError> {
    let to = match to {
        Some(to) => to,
        None => load::checkpoint(connection, partition).await?,
    };
    let mut folded = Folded::default();
    runs(connection, partition, to, |rows| -> Result<(), ReplayError> {
        for row in rows {
            folded.apply(&row.event)?;
        }
        progress(folded.position, to);
        Ok(())
    })
    .await?;
    Ok(folded)
}
