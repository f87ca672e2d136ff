//! What people and the façade read.

use chrono::NaiveDate;
use futures_util::{Stream, StreamExt};
use holdfast_core::books::Book;
use holdfast_core::costs::{Cost, CostKey};
use holdfast_core::text::{Text, Tier};
use holdfast_core::usage::Usage;
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
    /// What it was reserved for.
    pub usage: Option<Usage>,
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
        "SELECT {}, h.job_id, h.saga, h.usage, a.asset FROM projection.hold h
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
    let usage = row.try_get::<Option<&str>, _>("usage")?.map(serde_json::from_str).transpose();
    Ok(HoldView {
        account: rows::account_id(row.try_get("account")?)?,
        asset: asset.map_err(|_| StoreError::Inconsistent("an asset cannot be read".to_owned()))?,
        id: row.try_get("hold")?,
        hold: rows::hold(row)?,
        job_id: row.try_get("job_id")?,
        saga: row.try_get("saga")?,
        usage: usage
            .map_err(|_| StoreError::Inconsistent("the usage of a hold cannot be read".to_owned()))?,
    })
}

/// Walks an account's list of events from the newest. A page that begins at an event of the account,
/// as every page but the first does, is entered there and not from the end.
const STATEMENT: &str = "
WITH RECURSIVE entered AS (
    SELECT coalesce(
        (SELECT v.previous[($3 - 1) % 64 + 1] FROM projection.activity v, ledger_event e
         WHERE v.partition = $1 AND v.run = ($3 - 1) / 64
           AND e.partition = $1 AND e.position = $3 AND e.account = $2),
        (SELECT a.last_position FROM projection.account a WHERE a.partition = $1 AND a.account = $2)
    ) AS position
), walk AS (
    SELECT position FROM entered WHERE position > 0
    UNION ALL
    SELECT v.previous[(walk.position - 1) % 64 + 1] FROM walk JOIN projection.activity v
        ON v.partition = $1 AND v.run = (walk.position - 1) / 64
    WHERE v.previous[(walk.position - 1) % 64 + 1] > 0
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
        .bind(before.map_or(i64::MAX, |before| before.0.max(1)))
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

/// A saga that money is promised to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenSaga {
    /// Who pays.
    pub account: AccountId,
    /// The hold.
    pub hold: HoldId,
    /// The saga, as its reserve names it.
    pub saga: String,
}

/// At most `limit` open holds that name a saga beginning with `prefix`, in the order of their reserves.
pub async fn open_sagas(
    connection: &mut PgConnection,
    partition: i16,
    prefix: &str,
    limit: i64,
) -> Result<Vec<OpenSaga>, StoreError> {
    let found: Vec<(Vec<u8>, HoldId, String)> = sqlx::query_as(
        "SELECT account, hold, saga FROM projection.hold
         WHERE partition = $1 AND status = 'open' AND saga IS NOT NULL AND starts_with(saga, $2)
         ORDER BY reserved_at, hold LIMIT $3",
    )
    .bind(partition)
    .bind(prefix)
    .bind(limit)
    .fetch_all(connection)
    .await?;
    let open = |(account, hold, saga)| Ok(OpenSaga { account: rows::account_id(account)?, hold, saga });
    found.into_iter().map(open).collect()
}

/// What costs are grouped by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CostGroup {
    /// By provider and model.
    Model,
    /// By account.
    User,
    /// By day, in UTC.
    Day,
}

/// A line of the cost report, in units of the asset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CostLine {
    /// The provider and model, the account, or the day.
    pub group: String,
    /// What amounts are in.
    pub asset: Asset,
    /// The sums.
    pub cost: Cost,
}

/// The costs from day `from` to day `to`, both included where given, the dearest group first (days in
/// their order).
pub async fn costs(
    connection: &mut PgConnection,
    partition: i16,
    by: CostGroup,
    from: Option<NaiveDate>,
    to: Option<NaiveDate>,
) -> Result<Vec<CostLine>, StoreError> {
    let (group, order) = match by {
        CostGroup::Model => ("provider || '/' || model", "charged DESC, \"group\""),
        CostGroup::User => ("convert_from(account, 'UTF8')", "charged DESC, \"group\""),
        CostGroup::Day => ("day::text", "\"group\""),
    };
    let sql = format!(
        "SELECT \"group\", asset, charges, input_tokens::text, output_tokens::text, charged::text, absorbed::text
         FROM (SELECT {group} AS \"group\", asset, sum(charges)::int8 AS charges, sum(input_tokens) AS input_tokens,
                      sum(output_tokens) AS output_tokens, sum(charged) AS charged, sum(absorbed) AS absorbed
               FROM projection.cost
               WHERE partition = $1 AND ($2::date IS NULL OR day >= $2) AND ($3::date IS NULL OR day <= $3)
               GROUP BY 1, 2) AS summed
         ORDER BY {order}, asset"
    );
    let found: Vec<(String, String, i64, String, String, String, String)> =
        sqlx::query_as(AssertSqlSafe(sql)).bind(partition).bind(from).bind(to).fetch_all(connection).await?;
    let line = |(group, asset, charges, input, output, charged, absorbed): (_, String, _, _, _, _, _)| {
        let cost = sums(charges, [input, output, charged, absorbed])?;
        Ok(CostLine { group, asset: asset.parse().map_err(|_| unreadable_cost())?, cost })
    };
    found.into_iter().map(line).collect()
}

/// Every cost, in no order, as the database sends them.
pub fn every_cost(
    connection: &mut PgConnection,
    partition: i16,
) -> impl Stream<Item = Result<(CostKey, Cost), StoreError>> {
    sqlx::query(
        "SELECT day - date '1970-01-01' AS day, account, provider, model, asset, charges, input_tokens::text,
                output_tokens::text, charged::text, absorbed::text
         FROM projection.cost WHERE partition = $1",
    )
    .bind(partition)
    .fetch(connection)
    .map(|row| {
        let row = row?;
        let text =
            |name: &str| Text::try_from(row.try_get::<String, _>(name)?).map_err(|_| unreadable_cost());
        let key = CostKey {
            day: row.try_get::<i32, _>("day")?.into(),
            account: rows::account_id(row.try_get("account")?)?,
            provider: text("provider")?,
            model: text("model")?,
            asset: row.try_get("asset")?,
        };
        let [input, output, charged, absorbed] =
            ["input_tokens", "output_tokens", "charged", "absorbed"].map(|name| row.try_get(name));
        Ok((key, sums(row.try_get("charges")?, [input?, output?, charged?, absorbed?])?))
    })
}

/// Sums as the database writes them.
fn sums(charges: i64, sums: [String; 4]) -> Result<Cost, StoreError> {
    let [input, output, charged, absorbed] = sums.map(|text| text.parse().map_err(|_| unreadable_cost()));
    Ok(Cost { charges, input_tokens: input?, output_tokens: output?, charged: charged?, absorbed: absorbed? })
}

fn unreadable_cost() -> StoreError {
    StoreError::Inconsistent("a cost cannot be read; rebuild the projections".to_owned())
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
