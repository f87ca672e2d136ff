//! Folding the whole log again beside the live tables, then swapping the two.
//!
//! **Correctness.** Readers go on with the live tables until the new ones are at least as far;
//! the swap happens in the transaction that folds the rest, while nobody else can fold. A crash
//! before it leaves the live tables as they were; starting again begins from nothing.

use std::sync::Arc;

use holdfast_core::Position;
use holdfast_store::connect::connect;
use holdfast_store::recent::Recent;
use holdfast_store::{Role, StoreError, head};
use sqlx::PgConnection;

use crate::fold::{Folder, STEP_EVENTS};
use crate::load;
use crate::tables::Tables;

/// Rebuilds the projections of `partition` and answers the position that they were swapped at.
/// `progress` hears the position folded to and the head.
pub async fn rebuild(
    url: &str,
    partition: i16,
    mut progress: impl FnMut(Position, Position),
) -> Result<Position, StoreError> {
    let mut connection = connect(url, Role::Projector).await?;
    alone(&mut connection).await?;
    clear(&mut connection).await?;
    let follower = Arc::new(Recent::default()).follow();
    let mut folder = Folder::new(Tables::Next, partition, follower);
    loop {
        let at = folder.step(&mut connection).await?;
        let head = head::read(&mut connection, partition).await?.position;
        progress(at, head);
        // A busy ledger never stands still; the rest is folded with the swap.
        if head.0 - at.0 < i64::try_from(STEP_EVENTS).unwrap_or(i64::MAX) {
            return swap(&mut connection, &mut folder).await;
        }
    }
}

/// Two rebuilds would empty each other's tables. The lock ends with the connection.
async fn alone(connection: &mut PgConnection) -> Result<(), StoreError> {
    let (free,): (bool,) = sqlx::query_as("SELECT pg_try_advisory_lock(hashtext('holdfast rebuild'))")
        .fetch_one(connection)
        .await?;
    if free {
        Ok(())
    } else {
        Err(StoreError::Inconsistent("another rebuild is under way; wait for it".to_owned()))
    }
}

/// Empties the tables that are put away, of every partition.
async fn clear(connection: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::raw_sql(
        "TRUNCATE projection_next.account, projection_next.hold, projection_next.activity, projection_next.book,
                  projection_next.cost;
         UPDATE projection_next.checkpoint SET position = 0",
    )
    .execute(connection)
    .await?;
    Ok(())
}

async fn swap(connection: &mut PgConnection, folder: &mut Folder) -> Result<Position, StoreError> {
    sqlx::query("BEGIN").execute(&mut *connection).await?;
    let result = catch_up_and_swap(connection, folder).await;
    let end = if result.is_ok() { "COMMIT" } else { "ROLLBACK" };
    sqlx::query(end).execute(connection).await?;
    result
}

async fn catch_up_and_swap(
    connection: &mut PgConnection,
    folder: &mut Folder,
) -> Result<Position, StoreError> {
    // The first step locks out the live projector; from then on its checkpoint stands still.
    let mut at = folder.step_inside(connection).await?;
    let live = load::checkpoint(connection, folder.partition).await?;
    while at < live {
        at = folder.step_inside(connection).await?;
    }
    sqlx::query("SELECT projection_swap()").execute(connection).await?;
    Ok(at)
}
