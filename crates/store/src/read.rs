//! Reading the log by position: how everybody follows it.

use holdfast_core::Position;
use sqlx::{AssertSqlSafe, PgConnection};

use crate::error::StoreError;
use crate::record::{COLUMNS, Row};

/// At most `limit` rows after `after`, in order. Positions are gapless and appended in order, so
/// what is committed later always comes later.
pub async fn after(
    connection: &mut PgConnection,
    partition: i16,
    after: Position,
    limit: i64,
) -> Result<Vec<Row>, StoreError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM ledger_event WHERE partition = $1 AND position > $2 ORDER BY position LIMIT $3"
    );
    let rows = sqlx::query(AssertSqlSafe(sql))
        .bind(partition)
        .bind(after.0)
        .bind(limit)
        .fetch_all(connection)
        .await?;
    rows.iter().map(Row::from_row).collect()
}
