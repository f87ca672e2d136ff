//! What the lane reads of a projection: the one place.
//!
//! **Correctness.** Every answer comes with the checkpoint that it is as of, from the same
//! statement. An account's balances must be those that the log states at the account's last
//! event; when they differ, the projection is wrong and nobody may decide by it.

use std::collections::HashMap;

use holdfast_core::{Account, AccountId, Hold, HoldId, Position, Timestamp};
use holdfast_store::StoreError;
use holdfast_store::record::moment;
use sqlx::{AssertSqlSafe, PgConnection, Row as _};

use crate::rows;
use crate::tables::LOCK_SHARED;

/// Something read, and the checkpoint that it is as of.
#[derive(Debug)]
pub struct AsOf<T> {
    /// Everything up to here is in it.
    pub checkpoint: Position,
    /// What was read.
    pub value: T,
}

/// Begins a transaction in which all reads are as of one moment.
pub async fn begin(connection: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::query("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY").execute(&mut *connection).await?;
    sqlx::query(LOCK_SHARED).execute(connection).await?;
    Ok(())
}

/// Ends it.
pub async fn end(connection: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::query("COMMIT").execute(connection).await?;
    Ok(())
}

/// How far the projection is.
pub async fn checkpoint(connection: &mut PgConnection, partition: i16) -> Result<Position, StoreError> {
    let row: (i64,) = sqlx::query_as("SELECT position FROM projection.checkpoint WHERE partition = $1")
        .bind(partition)
        .fetch_one(connection)
        .await?;
    Ok(Position(row.0))
}

/// Those of the accounts `ids` that exist, each with all its open holds.
pub async fn accounts(
    connection: &mut PgConnection,
    partition: i16,
    ids: &[AccountId],
) -> Result<AsOf<HashMap<AccountId, Account>>, StoreError> {
    let wanted: Vec<&[u8]> = ids.iter().map(|id| id.as_str().as_bytes()).collect();
    // An account without open holds is one row with an empty right side. Columns of the same
    // name on both sides are read by the position that `rows` selects them at: `h.account` last.
    // Subqueries with a LIMIT or OFFSET are walked into for each key, however the tables grow.
    let sql = format!(
        "SELECT c.position AS checkpoint, {account}, e.posted AS logged_posted, e.held AS logged_held,
                h.hold, h.status AS hold_status, h.amount, h.captured, h.absorbed, h.policies, h.reserved_at,
                h.expires_at, h.rates, h.last_position AS hold_last_position
         FROM projection.checkpoint c
         LEFT JOIN (UNNEST($2::bytea[]) AS n (account) CROSS JOIN LATERAL (
             SELECT * FROM projection.account WHERE partition = $1 AND account = n.account LIMIT 1
         ) a) ON true
         LEFT JOIN LATERAL (
             SELECT posted, held FROM ledger_event WHERE partition = $1 AND position = a.last_position LIMIT 1
         ) e ON true
         LEFT JOIN LATERAL (
             SELECT * FROM projection.hold
             WHERE partition = $1 AND account = a.account AND status = 'open' OFFSET 0
         ) h ON true
         WHERE c.partition = $1",
        account = rows::ACCOUNT
    );
    let found = sqlx::query(AssertSqlSafe(sql)).bind(partition).bind(wanted).fetch_all(connection).await?;
    let mut accounts: HashMap<AccountId, Account> = HashMap::new();
    let mut checkpoint = Position::default();
    for row in &found {
        checkpoint = Position(row.try_get("checkpoint")?);
        let Some(bytes) = row.try_get::<Option<Vec<u8>>, _>("account")? else { continue };
        let id = rows::account_id(bytes)?;
        if !accounts.contains_key(&id) {
            let account = rows::account(row)?;
            must_agree(&account, row.try_get("logged_posted")?, row.try_get("logged_held")?)?;
            accounts.insert(id.clone(), account);
        }
        if let Some(hold) = row.try_get::<Option<HoldId>, _>("hold")? {
            let account = accounts.get_mut(&id).expect("inserted above");
            account.holds.insert(hold, open_hold(row)?);
        }
    }
    Ok(AsOf { checkpoint, value: accounts })
}

fn must_agree(account: &Account, posted: Option<i64>, held: Option<i64>) -> Result<(), StoreError> {
    if (posted, held) == (Some(account.posted), Some(account.held)) {
        return Ok(());
    }
    Err(StoreError::Inconsistent(format!(
        "the projection of account {:?} does not agree with the log at position {}; run `holdfast verify`",
        account.id, account.last_position
    )))
}

fn open_hold(row: &sqlx::postgres::PgRow) -> Result<Hold, StoreError> {
    Ok(Hold {
        status: holdfast_core::HoldStatus::Open,
        amount: row.try_get("amount")?,
        captured: row.try_get("captured")?,
        absorbed: row.try_get("absorbed")?,
        policies: serde_json::from_str(row.try_get("policies")?)
            .map_err(|_| StoreError::Inconsistent("the policies of a hold cannot be read".to_owned()))?,
        reserved_at: moment(row.try_get("reserved_at")?),
        expires_at: moment(row.try_get("expires_at")?),
        ended: None,
        last_position: Position(row.try_get("hold_last_position")?),
        rates: rows::rates(row)?,
    })
}

/// A hold's key.
pub type HoldKey = (AccountId, HoldId);

/// Those of `keys` that exist, whatever their status.
pub async fn holds(
    connection: &mut PgConnection,
    partition: i16,
    keys: &[HoldKey],
) -> Result<AsOf<HashMap<HoldKey, Hold>>, StoreError> {
    let accounts: Vec<&[u8]> = keys.iter().map(|(account, _)| account.as_str().as_bytes()).collect();
    let ids: Vec<HoldId> = keys.iter().map(|(_, hold)| *hold).collect();
    let sql = format!(
        "SELECT c.position AS checkpoint, {hold}
         FROM projection.checkpoint c
         LEFT JOIN (UNNEST($2::bytea[], $3::uuid[]) AS w (account, hold) CROSS JOIN LATERAL (
             SELECT * FROM projection.hold
             WHERE partition = $1 AND hold = w.hold AND account = w.account LIMIT 1
         ) h) ON true
         WHERE c.partition = $1",
        hold = rows::HOLD
    );
    let found = sqlx::query(AssertSqlSafe(sql))
        .bind(partition)
        .bind(accounts)
        .bind(ids)
        .fetch_all(connection)
        .await?;
    let mut holds = HashMap::new();
    let mut checkpoint = Position::default();
    for row in &found {
        checkpoint = Position(row.try_get("checkpoint")?);
        let Some(id) = row.try_get::<Option<HoldId>, _>("hold")? else { continue };
        holds.insert((rows::account_id(row.try_get("account")?)?, id), rows::hold(row)?);
    }
    Ok(AsOf { checkpoint, value: holds })
}

/// When the time of each open hold comes.
pub async fn open_hold_times(
    connection: &mut PgConnection,
    partition: i16,
) -> Result<Vec<(Timestamp, HoldKey)>, StoreError> {
    let found = sqlx::query(
        "SELECT account, hold, expires_at FROM projection.hold WHERE partition = $1 AND status = 'open'",
    )
    .bind(partition)
    .fetch_all(connection)
    .await?;
    found
        .iter()
        .map(|row| {
            let key = (rows::account_id(row.try_get("account")?)?, row.try_get("hold")?);
            Ok((moment(row.try_get("expires_at")?), key))
        })
        .collect()
}
