//! What people and the façade read.

use futures_util::{Stream, StreamExt};
use holdfast_core::books::Book;
use holdfast_core::text::Tier;
use holdfast_core::{Account, AccountId, Asset, Hold, HoldId, Position};
use holdfast_store::Row;
use holdfast_store::{StoreError, lookup};
use sqlx::{AssertSqlSafe, PgConnection, Row as _};

use crate::rows;

/// A hold with what identifies it.
#[derive(Debug, Clone, PartialEq)]
pub struct HoldView {
    /// Its account.
    pub account: AccountId,
    /// The account's asset.
    pub asset: Asset,
    /// Its id.
    pub id: HoldId,
    /// What it is.
    pub hold: Hold,
    /// The caller's job.
    pub job_id: Option<String>,
    /// The saga that it pays for.
    pub saga: Option<String>,
}

/// The account, without its holds.
pub async fn account(
    connection: &mut PgConnection,
    partition: i16,
    id: &AccountId,
) -> Result<Option<Account>, StoreError> {
    let sql = format!(
        "SELECT {} FROM projection.account a WHERE a.partition = $1 AND a.account = $2",
        rows::ACCOUNT
    );
    let row = sqlx::query(AssertSqlSafe(sql)).bind(partition).bind(id.as_str().as_bytes());
    row.fetch_optional(connection).await?.map(|row| rows::account(&row)).transpose()
}

/// At most `limit` accounts with ids after `after`, in order, without their holds.
pub async fn accounts_after(
    connection: &mut PgConnection,
    partition: i16,
    after: Option<&AccountId>,
    limit: i64,
) -> Result<Vec<Account>, StoreError> {
    let sql = format!(
        "SELECT {} FROM projection.account a
         WHERE a.partition = $1 AND ($2::bytea IS NULL OR a.account > $2) ORDER BY a.account LIMIT $3",
        rows::ACCOUNT
    );
    let found = sqlx::query(AssertSqlSafe(sql))
        .bind(partition)
        .bind(after.map(|after| after.as_str().as_bytes()))
        .bind(limit)
        .fetch_all(connection)
        .await?;
    found.iter().map(rows::account).collect()
}

/// Every hold, in no order, as the database sends them.
pub fn every_hold(
    connection: &mut PgConnection,
    partition: i16,
) -> impl Stream<Item = Result<(AccountId, HoldId, Hold), StoreError>> {
    let sql = format!("SELECT {} FROM projection.hold h WHERE h.partition = $1", rows::HOLD);
    sqlx::query(AssertSqlSafe(sql)).bind(partition).fetch(connection).map(|row| {
        let row = row?;
        Ok((rows::account_id(row.try_get("account")?)?, row.try_get("hold")?, rows::hold(&row)?))
    })
}

/// The holds of this id: of one account, or of each that has one.
pub async fn holds(
    connection: &mut PgConnection,
    partition: i16,
    id: HoldId,
    account: Option<&AccountId>,
) -> Result<Vec<HoldView>, StoreError> {
    let sql = format!(
        "SELECT {}, h.job_id, h.saga, a.asset FROM projection.hold h
         JOIN projection.account a ON a.partition = h.partition AND a.account = h.account
         WHERE h.partition = $1 AND h.hold = $2 AND ($3::bytea IS NULL OR h.account = $3) ORDER BY h.account",
        rows::HOLD
    );
    let found = sqlx::query(AssertSqlSafe(sql))
        .bind(partition)
        .bind(id)
        .bind(account.map(|account| account.as_str().as_bytes()))
        .fetch_all(connection)
        .await?;
    found.iter().map(hold_view).collect()
}

fn hold_view(row: &sqlx::postgres::PgRow) -> Result<HoldView, StoreError> {
    let asset = row.try_get::<&str, _>("asset")?.parse();
    Ok(HoldView {
        account: rows::account_id(row.try_get("account")?)?,
        asset: asset.map_err(|_| StoreError::Inconsistent("an asset cannot be read".to_owned()))?,
        id: row.try_get("hold")?,
        hold: rows::hold(row)?,
        job_id: row.try_get("job_id")?,
        saga: row.try_get("saga")?,
    })
}

/// Walks an account's list of events from the newest. A page that begins at an event of the account,
/// as every page but the first does, is entered there and not from the end.
const STATEMENT: &str = "
WITH RECURSIVE entered AS (
    SELECT coalesce(
        (SELECT v.previous FROM projection.activity v JOIN ledger_event e USING (partition, position)
         WHERE v.partition = $1 AND v.position = $3 AND e.account = $2),
        (SELECT a.last_position FROM projection.account a WHERE a.partition = $1 AND a.account = $2)
    ) AS position
), walk AS (
    SELECT v.position, v.previous FROM entered JOIN projection.activity v
        ON v.partition = $1 AND v.position = entered.position
    UNION ALL
    SELECT v.position, v.previous FROM walk JOIN projection.activity v
        ON v.partition = $1 AND v.position = walk.previous
)
SELECT position FROM walk WHERE position < $3 LIMIT $4";

/// At most `limit` events of an account with positions below `before`, the newest first.
pub async fn statement(
    connection: &mut PgConnection,
    partition: i16,
    id: &AccountId,
    before: Option<Position>,
    limit: i64,
) -> Result<Vec<Row>, StoreError> {
    let positions: Vec<(i64,)> = sqlx::query_as(STATEMENT)
        .bind(partition)
        .bind(id.as_str().as_bytes())
        .bind(before.map_or(i64::MAX, |before| before.0))
        .bind(limit)
        .fetch_all(&mut *connection)
        .await?;
    let wanted: Vec<Position> = positions.into_iter().map(|(position,)| Position(position)).collect();
    let mut rows = lookup::positions(connection, partition, &wanted).await?;
    Ok(wanted.iter().filter_map(|position| rows.remove(position)).collect())
}

/// How many accounts are not closed, by tier.
pub async fn accounts_by_tier(
    connection: &mut PgConnection,
    partition: i16,
) -> Result<Vec<(Tier, i64)>, StoreError> {
    let found: Vec<(String, i64)> = sqlx::query_as(
        "SELECT tier, count(*) FROM projection.account
         WHERE partition = $1 AND status <> 'closed' GROUP BY tier ORDER BY tier",
    )
    .bind(partition)
    .fetch_all(connection)
    .await?;
    let tier = |text: String| {
        Tier::try_from(text).map_err(|_| StoreError::Inconsistent("a tier cannot be read".to_owned()))
    };
    found.into_iter().map(|(text, count)| Ok((tier(text)?, count))).collect()
}

/// How many holds are open.
pub async fn open_holds(connection: &mut PgConnection, partition: i16) -> Result<i64, StoreError> {
    let row: (i64,) =
        sqlx::query_as("SELECT count(*) FROM projection.hold WHERE partition = $1 AND status = 'open'")
            .bind(partition)
            .fetch_one(connection)
            .await?;
    Ok(row.0)
}

/// How many holds' time came and freed them.
pub async fn expired_holds(connection: &mut PgConnection, partition: i16) -> Result<i64, StoreError> {
    let row: (i64,) =
        sqlx::query_as("SELECT count(*) FROM projection.hold WHERE partition = $1 AND status = 'expired'")
            .bind(partition)
            .fetch_one(connection)
            .await?;
    Ok(row.0)
}

/// A line of the trial balance: credits are positive, in units of the asset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BookBalance {
    /// The asset.
    pub asset: Asset,
    /// The book.
    pub book: Book,
    /// Its balance; may exceed 64 bits.
    pub balance: i128,
}

/// The trial balance; each asset sums to zero.
pub async fn trial_balance(
    connection: &mut PgConnection,
    partition: i16,
) -> Result<Vec<BookBalance>, StoreError> {
    let found: Vec<(String, String, String)> = sqlx::query_as(
        "SELECT asset, book, balance::text FROM projection.book WHERE partition = $1 ORDER BY asset, book",
    )
    .bind(partition)
    .fetch_all(connection)
    .await?;
    let unreadable = || StoreError::Inconsistent("a book cannot be read; rebuild the projections".to_owned());
    found
        .into_iter()
        .map(|(asset, book, balance)| {
            Ok(BookBalance {
                asset: asset.parse().map_err(|_| unreadable())?,
                book: Book::ALL.into_iter().find(|known| known.as_str() == book).ok_or_else(unreadable)?,
                balance: balance.parse().map_err(|_| unreadable())?,
            })
        })
        .collect()
}
