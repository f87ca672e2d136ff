//! Replaying: the whole log, from its first event, into accounts and books.

use holdfast_core::Position;
use holdfast_core::evolve::FoldError;
use holdfast_projector::load;
use holdfast_store::{Row, StoreError, read};
use sqlx::PgConnection;

use crate::folded::Folded;

/// How many rows are read at once.
const ROWS: i64 = 5_000;

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
    let mut at = Position::default();
    while at < to {
        let rows = read::each_after(connection, partition, at, ROWS.min(to.0 - at.0)).await?;
        if rows.is_empty() {
            return Ok(());
        }
        for row in rows {
            let row = row?;
            at = row.event.position;
            visit(row)?;
        }
    }
    Ok(())
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
