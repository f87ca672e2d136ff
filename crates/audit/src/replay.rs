//! Replaying: the whole log, from its first event, into accounts and books.

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

/// Reads the log in order up to `to`, giving each row to `visit`.
pub async fn rows<E: From<StoreError>>(
    connection: &mut PgConnection,
    partition: i16,
    to: Position,
    mut visit: impl FnMut(Row) -> Result<(), E>,
) -> Result<(), E> {
    let mut rows = copy::rows(connection, partition, Position::default(), to).await?;
    let visited = loop {
        match rows.next().await.map_err(E::from) {
            Ok(Some(row)) => match visit(row) {
                Ok(()) => {}
                Err(error) => break Err(error),
            },
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    // The connection is of use again only when everything that it sends has been taken.
    rows.finish().await?;
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
    rows(connection, partition, to, |row| -> Result<(), ReplayError> {
        folded.apply(&row.event)?;
        progress(row.event.position, to);
        Ok(())
    })
    .await?;
    Ok(folded)
}
