//! One step of a projection: a run of the log becomes changed rows and a new checkpoint.
//!
//! **Correctness.** What is written is written under a lock that keeps out every other fold and
//! the swap, and only if the checkpoint is still the one that was folded from: nothing is folded
//! twice, however many projectors there are.

use std::collections::{BTreeMap, HashMap};

use holdfast_core::books::{Book, Postings, postings};
use holdfast_core::{Account, AccountId, Asset, Event, Fact, Hold, HoldId, Position, evolve};
use holdfast_store::record::date;
use holdfast_store::{Row, StoreError, read};
use sqlx::{AssertSqlSafe, PgConnection, Row as _};

use crate::rows;
use crate::tables::{LOCK, Tables};

/// The most events of one step: large enough to share one transaction's cost, small enough to
/// keep the lag of the last of them short.
pub(crate) const STEP_EVENTS: i64 = 2_000;

/// Folds the next run of the log into `tables`; answers the new checkpoint, which is the old one
/// when there was nothing to fold.
///
/// Everything that is read is read before the lock is taken: a process that is stopped while a
/// large answer waits for it must not keep the lock from others.
pub(crate) async fn step(
    connection: &mut PgConnection,
    tables: Tables,
    partition: i16,
) -> Result<Position, StoreError> {
    let Some(run) = Run::read(connection, tables, partition).await? else {
        return checkpoint(connection, tables, partition).await;
    };
    sqlx::query("BEGIN").execute(&mut *connection).await?;
    let result = run.write_unless_overtaken(connection, tables, partition).await;
    let end = if result.is_ok() { "COMMIT" } else { "ROLLBACK" };
    sqlx::query(end).execute(connection).await?;
    result
}

/// The same inside a transaction that the caller has begun.
pub(crate) async fn step_inside(
    connection: &mut PgConnection,
    tables: Tables,
    partition: i16,
) -> Result<Position, StoreError> {
    sqlx::query(LOCK).execute(&mut *connection).await?;
    match Run::read(connection, tables, partition).await? {
        Some(run) => run.write(connection, tables, partition).await,
        None => checkpoint(connection, tables, partition).await,
    }
}

/// A run of the log, folded in memory.
struct Run {
    from: Position,
    to: Position,
    changes: Changes,
}

impl Run {
    async fn read(
        connection: &mut PgConnection,
        tables: Tables,
        partition: i16,
    ) -> Result<Option<Self>, StoreError> {
        let from = checkpoint(connection, tables, partition).await?;
        let rows = read::after(connection, partition, from, STEP_EVENTS).await?;
        let Some(to) = rows.last().map(|row| row.event.position) else { return Ok(None) };
        let mut changes = Changes::load(connection, tables, partition, &rows).await?;
        for row in &rows {
            changes.apply(&row.event)?;
        }
        Ok(Some(Run { from, to, changes }))
    }

    /// Writes it, or nothing when somebody else has folded meanwhile; answers the checkpoint.
    async fn write_unless_overtaken(
        self,
        connection: &mut PgConnection,
        tables: Tables,
        partition: i16,
    ) -> Result<Position, StoreError> {
        sqlx::query(LOCK).execute(&mut *connection).await?;
        let now = checkpoint(connection, tables, partition).await?;
        if now == self.from { self.write(connection, tables, partition).await } else { Ok(now) }
    }

    async fn write(
        self,
        connection: &mut PgConnection,
        tables: Tables,
        partition: i16,
    ) -> Result<Position, StoreError> {
        self.changes.write(connection, tables, partition).await?;
        let sql = format!("UPDATE {}.checkpoint SET position = $2 WHERE partition = $1", tables.schema());
        sqlx::query(AssertSqlSafe(sql)).bind(partition).bind(self.to.0).execute(connection).await?;
        Ok(self.to)
    }
}

async fn checkpoint(
    connection: &mut PgConnection,
    tables: Tables,
    partition: i16,
) -> Result<Position, StoreError> {
    let sql = format!("SELECT position FROM {}.checkpoint WHERE partition = $1", tables.schema());
    let row: (i64,) = sqlx::query_as(AssertSqlSafe(sql)).bind(partition).fetch_one(connection).await?;
    Ok(Position(row.0))
}

/// The rows that a run of events touches, before and then after it.
struct Changes {
    accounts: HashMap<AccountId, Option<Account>>,
    /// What a reserve says of its hold that the rules do not need.
    labels: HashMap<(AccountId, HoldId), (Option<String>, Option<String>)>,
    touched_holds: BTreeMap<(AccountId, HoldId), ()>,
    activity: Vec<(AccountId, Position)>,
    books: BTreeMap<(String, Book), i128>,
}

impl Changes {
    async fn load(
        connection: &mut PgConnection,
        tables: Tables,
        partition: i16,
        rows: &[Row],
    ) -> Result<Self, StoreError> {
        let mut accounts: HashMap<AccountId, Option<Account>> =
            rows.iter().map(|row| (row.event.account.clone(), None)).collect();
        let names: Vec<&[u8]> = accounts.keys().map(|id| id.as_str().as_bytes()).collect();
        let sql = format!(
            "SELECT {} FROM {}.account a WHERE a.partition = $1 AND a.account = ANY($2)",
            rows::ACCOUNT,
            tables.schema()
        );
        for row in
            sqlx::query(AssertSqlSafe(sql)).bind(partition).bind(names).fetch_all(&mut *connection).await?
        {
            let account = rows::account(&row)?;
            accounts.insert(account.id.clone(), Some(account));
        }
        let named = rows
            .iter()
            .filter_map(|row| Some((row.event.account.as_str().as_bytes(), row.event.fact.hold()?)));
        let (owners, ids): (Vec<&[u8]>, Vec<HoldId>) = named.unzip();
        let sql = format!(
            "SELECT {} FROM (SELECT DISTINCT * FROM UNNEST($2::bytea[], $3::uuid[]) AS n (account, hold)) w
             JOIN {}.hold h ON h.partition = $1 AND h.account = w.account AND h.hold = w.hold",
            rows::HOLD,
            tables.schema()
        );
        let found =
            sqlx::query(AssertSqlSafe(sql)).bind(partition).bind(owners).bind(ids).fetch_all(connection);
        for row in found.await? {
            let owner = rows::account_id(row.try_get("account")?)?;
            let account = accounts.get_mut(&owner).and_then(Option::as_mut).ok_or_else(|| {
                StoreError::Inconsistent(format!(
                    "a hold of account {owner:?} is projected, the account is not"
                ))
            })?;
            account.holds.insert(row.try_get("hold")?, rows::hold(&row)?);
        }
        Ok(Changes {
            accounts,
            labels: HashMap::new(),
            touched_holds: BTreeMap::new(),
            activity: Vec::with_capacity(rows.len()),
            books: BTreeMap::new(),
        })
    }

    fn apply(&mut self, event: &Event) -> Result<(), StoreError> {
        let account = self.accounts.entry(event.account.clone()).or_default();
        evolve(account, event).map_err(|error| StoreError::Inconsistent(error.to_string()))?;
        self.activity.push((event.account.clone(), event.position));
        if let Some(hold) = event.fact.hold().filter(|_| !matches!(event.fact, Fact::Rejected { .. })) {
            self.touched_holds.insert((event.account.clone(), hold), ());
            if let Fact::Reserved { job_id, saga, .. } = &event.fact {
                let text = |label: &Option<_>| label.as_ref().map(ToString::to_string);
                self.labels.insert((event.account.clone(), hold), (text(job_id), text(saga)));
            }
        }
        if let Some(asset) = event.asset {
            self.post(asset, postings(&event.fact));
        }
        Ok(())
    }

    fn post(&mut self, asset: Asset, Postings(changes): Postings) {
        for (book, change) in Book::ALL.into_iter().zip(changes).filter(|(_, change)| *change != 0) {
            *self.books.entry((asset.to_string(), book)).or_default() += i128::from(change);
        }
    }

    async fn write(
        &self,
        connection: &mut PgConnection,
        tables: Tables,
        partition: i16,
    ) -> Result<(), StoreError> {
        self.write_accounts(connection, tables, partition).await?;
        self.write_holds(connection, tables, partition).await?;
        self.write_activity(connection, tables, partition).await?;
        self.write_books(connection, tables, partition).await
    }

    async fn write_accounts(
        &self,
        connection: &mut PgConnection,
        tables: Tables,
        partition: i16,
    ) -> Result<(), StoreError> {
        let accounts: Vec<&Account> = self.accounts.values().flatten().collect();
        let column =
            |value: fn(&Account) -> i64| accounts.iter().map(|account| value(account)).collect::<Vec<i64>>();
        let text = |value: fn(&Account) -> String| accounts.iter().map(|a| value(a)).collect::<Vec<String>>();
        let sql = format!(
            "INSERT INTO {}.account (partition, account, asset, tier, status, overdraft_limit, posted, held,
                                     opened_position, opened_tier, opened_limit, last_position)
             SELECT $1, * FROM UNNEST($2::bytea[], $3::text[], $4::text[], $5::text[], $6::int8[], $7::int8[],
                                      $8::int8[], $9::int8[], $10::text[], $11::int8[], $12::int8[])
             ON CONFLICT (partition, account) DO UPDATE SET
                 tier = excluded.tier, status = excluded.status, overdraft_limit = excluded.overdraft_limit,
                 posted = excluded.posted, held = excluded.held, last_position = excluded.last_position",
            tables.schema()
        );
        sqlx::query(AssertSqlSafe(sql))
            .bind(partition)
            .bind(accounts.iter().map(|account| account.id.as_str().as_bytes()).collect::<Vec<&[u8]>>())
            .bind(text(|account| account.asset.to_string()))
            .bind(text(|account| account.tier.to_string()))
            .bind(text(|account| rows::status(account).to_owned()))
            .bind(column(|account| account.overdraft_limit))
            .bind(column(|account| account.posted))
            .bind(column(|account| account.held))
            .bind(column(|account| account.opening.position.0))
            .bind(text(|account| account.opening.tier.to_string()))
            .bind(column(|account| account.opening.overdraft_limit))
            .bind(column(|account| account.last_position.0))
            .execute(connection)
            .await?;
        Ok(())
    }

    async fn write_holds(
        &self,
        connection: &mut PgConnection,
        tables: Tables,
        partition: i16,
    ) -> Result<(), StoreError> {
        let holds: Vec<(&AccountId, HoldId, &Hold)> = self
            .touched_holds
            .keys()
            .filter_map(|(owner, id)| Some((owner, *id, self.accounts.get(owner)?.as_ref()?.holds.get(id)?)))
            .collect();
        if holds.is_empty() {
            return Ok(());
        }
        let column =
            |value: fn(&Hold) -> i64| holds.iter().map(|(_, _, hold)| value(hold)).collect::<Vec<i64>>();
        let labels: Vec<_> =
            holds.iter().map(|(owner, id, _)| self.labels.get(&((*owner).clone(), *id))).collect();
        let policies =
            |hold: &Hold| serde_json::to_string(&hold.policies).expect("policies are plain values");
        let sql = format!(
            "INSERT INTO {0}.hold AS h (partition, account, hold, status, amount, captured, absorbed, policies,
                                  reserved_at, expires_at, ended_kind, ended_position, last_position, job_id, saga)
             SELECT $1, * FROM UNNEST($2::bytea[], $3::uuid[], $4::text[], $5::int8[], $6::int8[], $7::int8[],
                                      $8::text[], $9::timestamptz[], $10::timestamptz[], $11::text[], $12::int8[],
                                      $13::int8[], $14::text[], $15::text[])
             ON CONFLICT (partition, account, hold) DO UPDATE SET
                 status = excluded.status, amount = excluded.amount, captured = excluded.captured,
                 absorbed = excluded.absorbed, expires_at = excluded.expires_at, ended_kind = excluded.ended_kind,
                 ended_position = excluded.ended_position, last_position = excluded.last_position",
            tables.schema()
        );
        sqlx::query(AssertSqlSafe(sql))
            .bind(partition)
            .bind(holds.iter().map(|(owner, _, _)| owner.as_str().as_bytes()).collect::<Vec<&[u8]>>())
            .bind(holds.iter().map(|(_, id, _)| *id).collect::<Vec<HoldId>>())
            .bind(holds.iter().map(|(_, _, hold)| hold.status.as_str()).collect::<Vec<&str>>())
            .bind(column(|hold| hold.amount))
            .bind(column(|hold| hold.captured))
            .bind(column(|hold| hold.absorbed))
            .bind(holds.iter().map(|(_, _, hold)| policies(hold)).collect::<Vec<String>>())
            .bind(holds.iter().map(|(_, _, hold)| date(hold.reserved_at)).collect::<Vec<_>>())
            .bind(holds.iter().map(|(_, _, hold)| date(hold.expires_at)).collect::<Vec<_>>())
            .bind(holds.iter().map(|(_, _, hold)| rows::ended_kind(hold)).collect::<Vec<_>>())
            .bind(holds.iter().map(|(_, _, hold)| hold.ended.map(|end| end.position.0)).collect::<Vec<_>>())
            .bind(column(|hold| hold.last_position.0))
            .bind(labels.iter().map(|label| label.and_then(|label| label.0.clone())).collect::<Vec<_>>())
            .bind(labels.iter().map(|label| label.and_then(|label| label.1.clone())).collect::<Vec<_>>())
            .execute(connection)
            .await?;
        Ok(())
    }

    async fn write_activity(
        &self,
        connection: &mut PgConnection,
        tables: Tables,
        partition: i16,
    ) -> Result<(), StoreError> {
        let sql = format!(
            "INSERT INTO {}.activity (partition, account, position)
             SELECT $1, * FROM UNNEST($2::bytea[], $3::int8[])",
            tables.schema()
        );
        sqlx::query(AssertSqlSafe(sql))
            .bind(partition)
            .bind(self.activity.iter().map(|(id, _)| id.as_str().as_bytes()).collect::<Vec<&[u8]>>())
            .bind(self.activity.iter().map(|(_, position)| position.0).collect::<Vec<i64>>())
            .execute(connection)
            .await?;
        Ok(())
    }

    async fn write_books(
        &self,
        connection: &mut PgConnection,
        tables: Tables,
        partition: i16,
    ) -> Result<(), StoreError> {
        if self.books.is_empty() {
            return Ok(());
        }
        let sql = format!(
            "INSERT INTO {}.book AS b (partition, asset, book, balance)
             SELECT $1, asset, book, change::numeric FROM UNNEST($2::text[], $3::text[], $4::text[]) AS n (asset, book, change)
             ON CONFLICT (partition, asset, book) DO UPDATE SET balance = b.balance + excluded.balance",
            tables.schema()
        );
        sqlx::query(AssertSqlSafe(sql))
            .bind(partition)
            .bind(self.books.keys().map(|(asset, _)| asset.clone()).collect::<Vec<String>>())
            .bind(self.books.keys().map(|(_, book)| book.as_str()).collect::<Vec<&str>>())
            .bind(self.books.values().map(i128::to_string).collect::<Vec<String>>())
            .execute(connection)
            .await?;
        Ok(())
    }
}
