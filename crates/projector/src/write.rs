//! Writing what a step changed: one statement a table and kind of change.
//!
//! The fold knows which rows are new, so nothing here asks the database whether a row exists; how
//! many rows each statement changed is checked. Rows are written in the order of their keys, so that each walk
//! down an index passes the pages of the one before. Rows to be changed are found by a walk down the index
//! for each key (the LIMIT makes sure of it) and then by their place, which nobody else can change
//! while the fold has its lock: no belief of the planner about a table that grows makes this slow.

use holdfast_core::books::Book;
use holdfast_core::costs::{Cost, CostKey};
use holdfast_core::{Account, AccountId};
use holdfast_store::{Map, StoreError};
use sqlx::postgres::{PgBindIterExt as _, PgQueryResult};
use sqlx::{AssertSqlSafe, PgConnection};

use crate::fold::{Changes, State};
use crate::holds::{HoldRow, Touched};
use crate::rows;
use crate::tables::Tables;

/// How many events stand in a row of `activity`; migration 0006 has the same number, and so have the
/// queries.
const RUN_EVENTS: i64 = 64;

/// How many holds one statement takes: what the database makes of their list stays in its caches, and is never
/// so much (`work_mem`) that it writes it to a file.
const HOLDS_AT_ONCE: usize = 4_000;

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
        let of_state = changed.accounts.iter().filter(|(_, state)| *state == wanted);
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
    write.new_holds(&changed.new_holds).await?;
    write.known_holds(&changed.known_holds).await?;
    write.activity(changed).await?;
    write.books(changed).await?;
    write.costs(changed).await
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

    async fn new_holds(&mut self, holds: &[Touched]) -> Result<(), StoreError> {
        let sql = format!(
            "INSERT INTO {}.hold (partition, hold, account, status, amount, captured, absorbed, expires_at, ended_kind,
                                  ended_position, last_position, policies, reserved_at, job_id, saga, usage, rates)
             SELECT $1, n.* FROM UNNEST($2::projected_hold[]) AS n",
            self.schema
        );
        self.each_hold(&sql, holds, Touched::whole).await
    }

    async fn known_holds(&mut self, holds: &[Touched]) -> Result<(), StoreError> {
        let sql = format!(
            "UPDATE {0}.hold h SET status = n.status, amount = n.amount, captured = n.captured, absorbed = n.absorbed,
                    expires_at = n.expires_at, ended_kind = n.ended_kind, ended_position = n.ended_position,
                    last_position = n.last_position
             FROM UNNEST($2::projected_hold[]) AS n
             CROSS JOIN LATERAL (
                 SELECT ctid FROM {0}.hold
                 WHERE partition = $1 AND hold = n.hold AND account = n.account LIMIT 1
             ) found
             WHERE h.ctid = found.ctid",
            self.schema
        );
        self.each_hold(&sql, holds, Touched::state).await
    }

    /// Executes `sql` with the rows of `holds`, which changes one row for each.
    async fn each_hold<'a>(
        &mut self,
        sql: &str,
        holds: &'a [Touched],
        row: fn(&'a Touched) -> HoldRow<'a>,
    ) -> Result<(), StoreError> {
        for holds in holds.chunks(HOLDS_AT_ONCE) {
            let rows = holds.iter().map(row).bind_iter();
            let query = sqlx::query(AssertSqlSafe(sql.to_owned())).bind(self.partition).bind(rows);
            all(&query.execute(&mut *self.connection).await?, holds.len(), "hold")?;
        }
        Ok(())
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
