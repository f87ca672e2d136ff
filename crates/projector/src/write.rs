//! Writing what a step changed: one statement a table and kind of change.
//!
//! The fold knows which rows are new, so nothing here asks the database whether a row exists; how
//! many rows each statement changed is checked. Rows are written in the order of their keys, so that each walk
//! down an index passes the pages of the one before. Rows to be changed are found by a walk down the index
//! for each key (the LIMIT makes sure of it) and then by their place, which nobody else can change
//! while the fold has its lock: no belief of the planner about a table that grows makes this slow.

use holdfast_core::books::Book;
use holdfast_core::costs::{Cost, CostKey};
use holdfast_core::{Account, AccountId, Hold, HoldId};
use holdfast_store::record::date;
use holdfast_store::{Map, StoreError};
use sqlx::postgres::PgQueryResult;
use sqlx::{AssertSqlSafe, PgConnection};

use crate::fold::{Changes, Labels, State};
use crate::rows;
use crate::tables::Tables;

/// How many events stand in a row of `activity`; migration 0006 has the same number, and so have the
/// queries.
const RUN_EVENTS: i64 = 64;

/// Writes `changed`, whose rows are as `accounts` has them.
pub(crate) async fn changes(
    connection: &mut PgConnection,
    tables: Tables,
    partition: i16,
    accounts: &Map<AccountId, Box<Option<Account>>>,
    changed: &Changes,
) -> Result<(), StoreError> {
    let mut write = Write { connection, schema: tables.schema(), partition };
    let touched = |wanted: State| -> Vec<&Account> {
        let of_state = changed.accounts.iter().filter(|(_, state)| **state == wanted);
        let mut touched: Vec<&Account> =
            of_state.filter_map(|(id, _)| accounts.get(id)?.as_ref().as_ref()).collect();
        touched.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        touched
    };
    write.new_accounts(&touched(State::New)).await?;
    write.balances(&touched(State::Known)).await?;
    let terms: Vec<&Account> =
        changed.terms.iter().filter_map(|id| accounts.get(id)?.as_ref().as_ref()).collect();
    write.terms(&terms).await?;
    let touched = |wanted: State| -> Vec<Held<'_>> {
        let of_state = changed.holds.iter().filter(|(_, state)| **state == wanted);
        let found = of_state.filter_map(|(key, _)| {
            let hold = accounts.get(&key.0)?.as_ref().as_ref()?.holds.get(&key.1)?;
            Some(Held { account: &key.0, id: key.1, hold, labels: changed.labels.get(key) })
        });
        let mut touched: Vec<Held<'_>> = found.collect();
        touched.sort_unstable_by_key(|held| held.id);
        touched
    };
    write.new_holds(&touched(State::New)).await?;
    write.holds(&touched(State::Known)).await?;
    write.activity(changed).await?;
    write.books(changed).await?;
    write.costs(changed).await
}

/// A hold with what identifies it.
struct Held<'a> {
    account: &'a AccountId,
    id: HoldId,
    hold: &'a Hold,
    labels: Option<&'a Labels>,
}

struct Write<'a> {
    connection: &'a mut PgConnection,
    schema: &'static str,
    partition: i16,
}

impl Write<'_> {
    async fn new_accounts(&mut self, accounts: &[&Account]) -> Result<(), StoreError> {
        if accounts.is_empty() {
            return Ok(());
        }
        let text = |value: fn(&Account) -> String| accounts.iter().map(|a| value(a)).collect::<Vec<String>>();
        let sql = format!(
            "INSERT INTO {}.account (partition, account, asset, tier, status, overdraft_limit, posted, held,
                                     opened_position, opened_tier, opened_limit, last_position)
             SELECT $1, * FROM UNNEST($2::bytea[], $3::text[], $4::text[], $5::text[], $6::int8[], $7::int8[],
                                      $8::int8[], $9::int8[], $10::text[], $11::int8[], $12::int8[])",
            self.schema
        );
        let result = sqlx::query(AssertSqlSafe(sql))
            .bind(self.partition)
            .bind(names(accounts))
            .bind(text(|account| account.asset.to_string()))
            .bind(text(|account| account.tier.to_string()))
            .bind(accounts.iter().map(|account| rows::status(account)).collect::<Vec<&str>>())
            .bind(column(accounts, |account| account.overdraft_limit))
            .bind(column(accounts, |account| account.posted))
            .bind(column(accounts, |account| account.held))
            .bind(column(accounts, |account| account.opening.position.0))
            .bind(text(|account| account.opening.tier.to_string()))
            .bind(column(accounts, |account| account.opening.overdraft_limit))
            .bind(column(accounts, |account| account.last_position.0))
            .execute(&mut *self.connection)
            .await?;
        all(&result, accounts.len(), "account")
    }

    async fn balances(&mut self, accounts: &[&Account]) -> Result<(), StoreError> {
        if accounts.is_empty() {
            return Ok(());
        }
        let sql = format!(
            "UPDATE {0}.account a SET posted = n.posted, held = n.held, last_position = n.last_position
             FROM UNNEST($2::bytea[], $3::int8[], $4::int8[], $5::int8[]) AS n (account, posted, held, last_position)
             CROSS JOIN LATERAL (
                 SELECT ctid FROM {0}.account WHERE partition = $1 AND account = n.account LIMIT 1
             ) found
             WHERE a.ctid = found.ctid",
            self.schema
        );
        let result = sqlx::query(AssertSqlSafe(sql))
            .bind(self.partition)
            .bind(names(accounts))
            .bind(column(accounts, |account| account.posted))
            .bind(column(accounts, |account| account.held))
            .bind(column(accounts, |account| account.last_position.0))
            .execute(&mut *self.connection)
            .await?;
        all(&result, accounts.len(), "account")
    }

    async fn terms(&mut self, accounts: &[&Account]) -> Result<(), StoreError> {
        let sql = format!(
            "UPDATE {}.account SET tier = $3, status = $4, overdraft_limit = $5 WHERE partition = $1 AND account = $2",
            self.schema
        );
        for account in accounts {
            let result = sqlx::query(AssertSqlSafe(sql.clone()))
                .bind(self.partition)
                .bind(account.id.as_str().as_bytes())
                .bind(account.tier.as_str())
                .bind(rows::status(account))
                .bind(account.overdraft_limit)
                .execute(&mut *self.connection)
                .await?;
            all(&result, 1, "account")?;
        }
        Ok(())
    }

    async fn new_holds(&mut self, holds: &[Held<'_>]) -> Result<(), StoreError> {
        if holds.is_empty() {
            return Ok(());
        }
        let policies =
            |hold: &Hold| serde_json::to_string(&hold.policies).expect("policies are plain values");
        let label = |pick: fn(&Labels) -> &Option<String>| {
            holds
                .iter()
                .map(|held| held.labels.and_then(|labels| pick(labels).as_deref()))
                .collect::<Vec<_>>()
        };
        let sql = format!(
            "INSERT INTO {}.hold (partition, hold, account, status, amount, captured, absorbed, expires_at, ended_kind,
                                  ended_position, last_position, policies, reserved_at, job_id, saga, usage, rates)
             SELECT $1, * FROM UNNEST($2::uuid[], $3::bytea[], $4::text[], $5::int8[], $6::int8[], $7::int8[],
                                      $8::timestamptz[], $9::text[], $10::int8[], $11::int8[], $12::text[],
                                      $13::timestamptz[], $14::text[], $15::text[], $16::text[], $17::bytea[])",
            self.schema
        );
        let query = state(sqlx::query(AssertSqlSafe(sql)).bind(self.partition), holds);
        let result = query
            .bind(holds.iter().map(|held| policies(held.hold)).collect::<Vec<String>>())
            .bind(holds.iter().map(|held| date(held.hold.reserved_at)).collect::<Vec<_>>())
            .bind(label(|labels| &labels.job_id))
            .bind(label(|labels| &labels.saga))
            .bind(label(|labels| &labels.usage))
            .bind(
                holds.iter().map(|held| held.hold.rates.as_ref().map(|rates| &rates[..])).collect::<Vec<_>>(),
            )
            .execute(&mut *self.connection)
            .await?;
        all(&result, holds.len(), "hold")
    }

    async fn holds(&mut self, holds: &[Held<'_>]) -> Result<(), StoreError> {
        if holds.is_empty() {
            return Ok(());
        }
        let sql = format!(
            "UPDATE {0}.hold h SET status = n.status, amount = n.amount, captured = n.captured, absorbed = n.absorbed,
                    expires_at = n.expires_at, ended_kind = n.ended_kind, ended_position = n.ended_position,
                    last_position = n.last_position
             FROM UNNEST($2::uuid[], $3::bytea[], $4::text[], $5::int8[], $6::int8[], $7::int8[], $8::timestamptz[],
                         $9::text[], $10::int8[], $11::int8[])
                 AS n (hold, account, status, amount, captured, absorbed, expires_at, ended_kind, ended_position,
                       last_position)
             CROSS JOIN LATERAL (
                 SELECT ctid FROM {0}.hold
                 WHERE partition = $1 AND hold = n.hold AND account = n.account LIMIT 1
             ) found
             WHERE h.ctid = found.ctid",
            self.schema
        );
        let query = state(sqlx::query(AssertSqlSafe(sql)).bind(self.partition), holds);
        all(&query.execute(&mut *self.connection).await?, holds.len(), "hold")
    }

    /// The first run may have begun before; the others are new.
    async fn activity(&mut self, changed: &Changes) -> Result<(), StoreError> {
        let previous: Vec<i64> = changed.previous.iter().map(|position| position.0).collect();
        let (run, filled) = (changed.after.0 / RUN_EVENTS, changed.after.0 % RUN_EVENTS);
        let lacks = usize::try_from((RUN_EVENTS - filled) % RUN_EVENTS).unwrap_or(0).min(previous.len());
        let (begun, new) = previous.split_at(lacks);
        if !begun.is_empty() {
            let sql = format!(
                "UPDATE {}.activity SET previous = previous || $3
                 WHERE partition = $1 AND run = $2 AND cardinality(previous) = $4",
                self.schema
            );
            let filled = i32::try_from(filled).unwrap_or(i32::MAX);
            let query =
                sqlx::query(AssertSqlSafe(sql)).bind(self.partition).bind(run).bind(begun).bind(filled);
            all(&query.execute(&mut *self.connection).await?, 1, "activity")?;
        }
        if new.is_empty() {
            return Ok(());
        }
        let sql = format!(
            "INSERT INTO {}.activity (partition, run, previous)
             SELECT $1, $2 + n, ($3::int8[])[n * $4 + 1 : (n + 1) * $4]
             FROM generate_series(0, (cardinality($3::int8[]) - 1) / $4) n",
            self.schema
        );
        sqlx::query(AssertSqlSafe(sql))
            .bind(self.partition)
            .bind(run + i64::from(filled > 0))
            .bind(new)
            .bind(i32::try_from(RUN_EVENTS).unwrap_or(i32::MAX))
            .execute(&mut *self.connection)
            .await?;
        Ok(())
    }

    async fn costs(&mut self, changed: &Changes) -> Result<(), StoreError> {
        if changed.costs.is_empty() {
            return Ok(());
        }
        let costs: Vec<(&CostKey, &Cost)> = changed.costs.iter().collect();
        let text =
            |value: fn(&CostKey) -> &str| costs.iter().map(|(key, _)| value(key)).collect::<Vec<&str>>();
        let sql = format!(
            "INSERT INTO {}.cost AS c (partition, day, account, provider, model, asset, charges, input_tokens,
                                       output_tokens, charged, absorbed)
             SELECT $1, date '1970-01-01' + day, account, provider, model, asset, charges, input_tokens::numeric,
                    output_tokens::numeric, charged::numeric, absorbed::numeric
             FROM UNNEST($2::int4[], $3::bytea[], $4::text[], $5::text[], $6::text[], $7::int8[], $8::text[],
                         $9::text[], $10::text[], $11::text[])
                 AS n (day, account, provider, model, asset, charges, input_tokens, output_tokens, charged, absorbed)
             ON CONFLICT (partition, day, account, provider, model, asset) DO UPDATE SET
                 charges = c.charges + excluded.charges, input_tokens = c.input_tokens + excluded.input_tokens,
                 output_tokens = c.output_tokens + excluded.output_tokens, charged = c.charged + excluded.charged,
                 absorbed = c.absorbed + excluded.absorbed",
            self.schema
        );
        sqlx::query(AssertSqlSafe(sql))
            .bind(self.partition)
            .bind(
                costs.iter().map(|(key, _)| i32::try_from(key.day).unwrap_or(i32::MAX)).collect::<Vec<i32>>(),
            )
            .bind(costs.iter().map(|(key, _)| key.account.as_str().as_bytes()).collect::<Vec<_>>())
            .bind(text(|key| key.provider.as_str()))
            .bind(text(|key| key.model.as_str()))
            .bind(text(|key| &key.asset))
            .bind(costs.iter().map(|(_, cost)| cost.charges).collect::<Vec<i64>>())
            .bind(numbers(&costs, |cost| cost.input_tokens))
            .bind(numbers(&costs, |cost| cost.output_tokens))
            .bind(numbers(&costs, |cost| cost.charged))
            .bind(numbers(&costs, |cost| cost.absorbed))
            .execute(&mut *self.connection)
            .await?;
        Ok(())
    }

    async fn books(&mut self, changed: &Changes) -> Result<(), StoreError> {
        if changed.books.is_empty() {
            return Ok(());
        }
        let sql = format!(
            "INSERT INTO {}.book AS b (partition, asset, book, balance)
             SELECT $1, asset, book, change::numeric FROM UNNEST($2::text[], $3::text[], $4::text[]) AS n (asset, book, change)
             ON CONFLICT (partition, asset, book) DO UPDATE SET balance = b.balance + excluded.balance",
            self.schema
        );
        let lines = changed.books.iter().flat_map(|(asset, changes)| {
            let of_asset = Book::ALL.into_iter().zip(changes).filter(|(_, change)| **change != 0);
            of_asset.map(move |(book, change)| (asset.to_string(), (book.as_str(), change.to_string())))
        });
        let (assets, (books, changes)): (Vec<String>, (Vec<&str>, Vec<String>)) = lines.unzip();
        sqlx::query(AssertSqlSafe(sql))
            .bind(self.partition)
            .bind(assets)
            .bind(books)
            .bind(changes)
            .execute(&mut *self.connection)
            .await?;
        Ok(())
    }
}

type Query<'q> = sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments>;

/// Binds what of a hold may change, and what identifies it: `$2` to `$11`.
fn state<'q>(query: Query<'q>, holds: &'q [Held<'q>]) -> Query<'q> {
    let column = |value: fn(&Hold) -> i64| holds.iter().map(|held| value(held.hold)).collect::<Vec<i64>>();
    query
        .bind(holds.iter().map(|held| held.id).collect::<Vec<HoldId>>())
        .bind(holds.iter().map(|held| held.account.as_str().as_bytes()).collect::<Vec<&'q [u8]>>())
        .bind(holds.iter().map(|held| held.hold.status.as_str()).collect::<Vec<&'static str>>())
        .bind(column(|hold| hold.amount))
        .bind(column(|hold| hold.captured))
        .bind(column(|hold| hold.absorbed))
        .bind(holds.iter().map(|held| date(held.hold.expires_at)).collect::<Vec<_>>())
        .bind(holds.iter().map(|held| rows::ended_kind(held.hold)).collect::<Vec<_>>())
        .bind(holds.iter().map(|held| held.hold.ended.map(|end| end.position.0)).collect::<Vec<_>>())
        .bind(column(|hold| hold.last_position.0))
}

fn names<'a>(accounts: &[&'a Account]) -> Vec<&'a [u8]> {
    accounts.iter().map(|account| account.id.as_str().as_bytes()).collect()
}

fn column(accounts: &[&Account], value: fn(&Account) -> i64) -> Vec<i64> {
    accounts.iter().map(|account| value(account)).collect()
}

fn numbers(costs: &[(&CostKey, &Cost)], value: fn(&Cost) -> i128) -> Vec<String> {
    costs.iter().map(|(_, cost)| value(cost).to_string()).collect()
}

/// A row that should be there and is not means that the tables are not what was folded.
fn all(result: &PgQueryResult, wanted: usize, table: &str) -> Result<(), StoreError> {
    if result.rows_affected() == wanted as u64 {
        return Ok(());
    }
    let changed = result.rows_affected();
    Err(StoreError::Inconsistent(format!(
        "{changed} of {wanted} rows of the projection `{table}` were there to change; rebuild the projections"
    )))
}
