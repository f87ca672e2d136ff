//! Look-ups in the log that decisions need: commands seen before and references made before.
//!
//! Whatever is looked for by many keys at once is a LATERAL subquery with a LIMIT: one walk down the
//! index for each key, whatever the planner believes about the size of a table that grows.

use std::collections::HashMap;

use holdfast_core::chain::Hash;
use holdfast_core::{CommandId, Issuer, Position};
use sqlx::{AssertSqlSafe, PgConnection, Row as _};

use crate::error::StoreError;
use crate::record::{COLUMNS, Row, hash_of};
use crate::writer::Evidence;

/// The key of idempotency.
pub type CommandKey = (Issuer, CommandId);

/// The rows of those of `keys` that were decided before.
pub async fn commands(
    connection: &mut PgConnection,
    partition: i16,
    keys: &[CommandKey],
) -> Result<HashMap<CommandKey, Row>, StoreError> {
    if keys.is_empty() {
        return Ok(HashMap::new());
    }
    let issuers: Vec<&str> = keys.iter().map(|(issuer, _)| issuer.as_str()).collect();
    let ids: Vec<CommandId> = keys.iter().map(|(_, id)| *id).collect();
    let sql = format!(
        "SELECT e.* FROM UNNEST($2::text[], $3::uuid[]) AS n (issuer, command_id)
         CROSS JOIN LATERAL (
             SELECT {COLUMNS} FROM ledger_event
             WHERE partition = $1 AND issuer = n.issuer AND command_id = n.command_id LIMIT 1
         ) e"
    );
    let rows =
        sqlx::query(AssertSqlSafe(sql)).bind(partition).bind(issuers).bind(ids).fetch_all(connection).await?;
    let mut found = HashMap::with_capacity(rows.len());
    for row in &rows {
        let row = Row::from_row(row)?;
        found.insert((row.event.issuer.clone(), row.event.command), row);
    }
    Ok(found)
}

/// The rows at `positions`.
pub async fn positions(
    connection: &mut PgConnection,
    partition: i16,
    positions: &[Position],
) -> Result<HashMap<Position, Row>, StoreError> {
    if positions.is_empty() {
        return Ok(HashMap::new());
    }
    let numbers: Vec<i64> = positions.iter().map(|position| position.0).collect();
    let sql = format!("SELECT {COLUMNS} FROM ledger_event WHERE partition = $1 AND position = ANY($2)");
    let rows = sqlx::query(AssertSqlSafe(sql)).bind(partition).bind(numbers).fetch_all(connection).await?;
    let mut found = HashMap::with_capacity(rows.len());
    for row in &rows {
        let row = Row::from_row(row)?;
        found.insert(row.event.position, row);
    }
    Ok(found)
}

/// The envelopes of batches with these digests.
pub async fn evidence(
    connection: &mut PgConnection,
    partition: i16,
    digests: &[Hash],
) -> Result<Evidence, StoreError> {
    if digests.is_empty() {
        return Ok(Evidence::new());
    }
    let wanted: Vec<&[u8]> = digests.iter().map(Hash::as_slice).collect();
    let found: Vec<(Vec<u8>, Vec<u8>)> = sqlx::query_as(
        "SELECT digest, envelope FROM ledger_evidence WHERE partition = $1 AND digest = ANY($2)",
    )
    .bind(partition)
    .bind(wanted)
    .fetch_all(connection)
    .await?;
    found.into_iter().map(|(digest, envelope)| Ok((hash_of(&digest)?, envelope.into()))).collect()
}

/// Where those of `references` that were booked before were booked.
pub async fn external_refs(
    connection: &mut PgConnection,
    partition: i16,
    references: &[&str],
) -> Result<HashMap<String, Position>, StoreError> {
    if references.is_empty() {
        return Ok(HashMap::new());
    }
    let bytes: Vec<&[u8]> = references.iter().map(|text| text.as_bytes()).collect();
    let rows = sqlx::query(
        "SELECT external_ref, position FROM ledger_ref
         WHERE partition = $1 AND kind = 'external_ref' AND external_ref = ANY($2)",
    )
    .bind(partition)
    .bind(bytes)
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            let text = String::from_utf8(row.try_get("external_ref")?);
            let text =
                text.map_err(|_| StoreError::Inconsistent("an external_ref is not UTF-8".to_owned()))?;
            Ok((text, Position(row.try_get("position")?)))
        })
        .collect()
}

/// How often, and how much of, the events at `origins` was undone so far.
pub async fn undone(
    connection: &mut PgConnection,
    partition: i16,
    origins: &[Position],
) -> Result<HashMap<Position, (u32, i64)>, StoreError> {
    if origins.is_empty() {
        return Ok(HashMap::new());
    }
    let numbers: Vec<i64> = origins.iter().map(|position| position.0).collect();
    let rows = sqlx::query(
        "SELECT DISTINCT ON (origin) origin, n, total FROM ledger_ref
         WHERE partition = $1 AND kind = 'refund' AND origin = ANY($2) ORDER BY origin, n DESC",
    )
    .bind(partition)
    .bind(numbers)
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            let n: i32 = row.try_get("n")?;
            Ok((Position(row.try_get("origin")?), (n.unsigned_abs(), row.try_get("total")?)))
        })
        .collect()
}
