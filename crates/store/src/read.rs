//! Reading the log by position: how everybody follows it.

use holdfast_core::Position;
use holdfast_core::chain::Hash;
use sqlx::{AssertSqlSafe, PgConnection};

use crate::error::StoreError;
use crate::record::{COLUMNS, EVENT_COLUMNS, Logged, Row, hash_of};

/// At most `limit` events after `after`, in order, each with its chain hash. Positions are gapless and
/// appended in order, so what is committed later always comes later.
///
/// Envelopes stay where they are: they are as long as callers make them, and whoever follows needs none.
pub async fn after(
    connection: &mut PgConnection,
    partition: i16,
    after: Position,
    limit: i64,
) -> Result<Vec<Logged>, StoreError> {
    let sql = format!(
        "SELECT {EVENT_COLUMNS} FROM ledger_event WHERE partition = $1 AND position > $2 ORDER BY position LIMIT $3"
    );
    let rows = sqlx::query(AssertSqlSafe(sql))
        .bind(partition)
        .bind(after.0)
        .bind(limit)
        .fetch_all(connection)
        .await?;
    rows.iter().map(Logged::from_row).collect()
}

/// The same with all that a row keeps, for people.
pub async fn rows_after(
    connection: &mut PgConnection,
    partition: i16,
    after: Position,
    limit: i64,
) -> Result<Vec<Row>, StoreError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM ledger_event WHERE partition = $1 AND position > $2 ORDER BY position LIMIT $3"
    );
    let query = sqlx::query(AssertSqlSafe(sql)).bind(partition).bind(after.0).bind(limit);
    query.fetch_all(connection).await?.iter().map(Row::from_row).collect()
}

/// The chain hash at `position`, if the log reaches there.
pub async fn hash(
    connection: &mut PgConnection,
    partition: i16,
    position: Position,
) -> Result<Option<Hash>, StoreError> {
    let found: Option<(Vec<u8>,)> =
        sqlx::query_as("SELECT hash FROM ledger_event WHERE partition = $1 AND position = $2")
            .bind(partition)
            .bind(position.0)
            .fetch_optional(connection)
            .await?;
    found.map(|(hash,)| hash_of(&hash)).transpose()
}
