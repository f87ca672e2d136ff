//! One step of a projection: a run of the log becomes changed rows and a new checkpoint.
//!
//! **Correctness.** What is written is written under a lock that keeps out every other fold and
//! the swap, and only if the checkpoint is still the one that was folded from: nothing is folded
//! twice, however many projectors there are.

use holdfast_core::books::{Book, Postings, postings};
use holdfast_core::chain::Hash;
use holdfast_core::costs::{Cost, CostKey, cost};
use holdfast_core::{AccountId, Asset, Event, Fact, Position, evolve};
use holdfast_store::recent::{Follower, Run};
use holdfast_store::{Logged, Map, StoreError, read};
use sqlx::{AssertSqlSafe, PgConnection};

use crate::cache::Cache;
use crate::holds::{Holds, Touched};
use crate::tables::{LOCK, Tables};

/// The most events of one step. Each step takes what has come meanwhile, so steps grow with the
/// load; many holds then begin and end within one step and are written once, as is each account. More would
/// cost little less for each event, and a query that waits for a step waits for all of it, some 0.3 s.
pub(crate) const STEP_EVENTS: usize = 60_000;

/// Who folds what, with what is remembered between steps.
pub(crate) struct Folder {
    pub(crate) tables: Tables,
    pub(crate) partition: i16,
    pub(crate) follower: Follower,
    pub(crate) cache: Cache,
}

impl Folder {
    pub(crate) fn new(tables: Tables, partition: i16, follower: Follower) -> Self {
        Folder { tables, partition, follower, cache: Cache::default() }
    }

    /// Folds the next run of the log; answers the new checkpoint, which is the old one when there was
    /// nothing to fold.
    ///
    /// Everything that is read is read before the lock is taken: a process that is stopped while a
    /// large answer waits for it must not keep the lock from others.
    pub(crate) async fn step(&mut self, connection: &mut PgConnection) -> Result<Position, StoreError> {
        let from = self.checkpoint(connection).await?;
        let Some((to, changes)) = self.fold(connection, from).await? else { return Ok(from) };
        sqlx::query("BEGIN").execute(&mut *connection).await?;
        let result = self.write_unless_overtaken(connection, from, to, &changes).await;
        let end = if result.is_ok() { "COMMIT" } else { "ROLLBACK" };
        sqlx::query(end).execute(&mut *connection).await?;
        match result? {
            Written::All => {
                self.cache.commit(to);
                Ok(to)
            }
            Written::Nothing => self.checkpoint(connection).await,
        }
    }

    /// The same inside a transaction that the caller has begun.
    pub(crate) async fn step_inside(
        &mut self,
        connection: &mut PgConnection,
    ) -> Result<Position, StoreError> {
        sqlx::query(LOCK).execute(&mut *connection).await?;
        let from = self.checkpoint(connection).await?;
        let Some((to, changes)) = self.fold(connection, from).await? else { return Ok(from) };
        self.write(connection, to, &changes).await?;
        Ok(to)
    }

    async fn checkpoint(&self, connection: &mut PgConnection) -> Result<Position, StoreError> {
        let sql = format!("SELECT position FROM {}.checkpoint WHERE partition = $1", self.tables.schema());
        let row: (i64,) =
            sqlx::query_as(AssertSqlSafe(sql)).bind(self.partition).fetch_one(connection).await?;
        Ok(Position(row.0))
    }

    /// Folds what follows `from` in memory.
    async fn fold(
        &mut self,
        connection: &mut PgConnection,
        from: Position,
    ) -> Result<Option<(Position, Changes)>, StoreError> {
        let run = self.follower.after(connection, self.partition, from, STEP_EVENTS).await?;
        let Some(to) = run.last() else { return Ok(None) };
        self.cache.begin(from);
        self.cache.load(connection, self.tables, self.partition, &run).await?;
        Ok(Some((to, self.changes(from, &run)?)))
    }

    fn changes(&mut self, after: Position, run: &Run) -> Result<Changes, StoreError> {
        let previous = Vec::with_capacity(run.len());
        let mut changes = Changes { end: run.last_hash(), after, previous, ..Changes::default() };
        let mut holds = Holds::default();
        for Logged { event, .. } in run.iter() {
            let account = self.cache.accounts.get_mut(&event.account).expect("loaded above").as_mut();
            let previous = account.as_ref().map(|account| account.last_position);
            changes.previous.push(previous.unwrap_or_default());
            evolve(account, event).map_err(|error| StoreError::Inconsistent(error.to_string()))?;
            if account.is_some() {
                changes.add(event, previous);
                holds.add(event);
            }
        }
        for (state, touched) in holds.take_out(&mut self.cache) {
            match state {
                State::New => changes.new_holds.push(touched),
                State::Known => changes.known_holds.push(touched),
            }
        }
        Ok(changes)
    }

    /// Writes, unless somebody else has folded meanwhile.
    async fn write_unless_overtaken(
        &self,
        connection: &mut PgConnection,
        from: Position,
        to: Position,
        changes: &Changes,
    ) -> Result<Written, StoreError> {
        sqlx::query(LOCK).execute(&mut *connection).await?;
        if self.checkpoint(connection).await? != from {
            return Ok(Written::Nothing);
        }
        // What was folded from memory must be what the log says: it may have been set back to an older
        // state since.
        if read::hash(connection, self.partition, to).await? != changes.end {
            return Err(StoreError::Inconsistent(format!(
                "the log is another one at position {to} than it was"
            )));
        }
        self.write(connection, to, changes).await.map(|()| Written::All)
    }

    async fn write(
        &self,
        connection: &mut PgConnection,
        to: Position,
        changes: &Changes,
    ) -> Result<(), StoreError> {
        crate::write::changes(connection, self.tables, self.partition, &self.cache.accounts, changes).await?;
        let sql =
            format!("UPDATE {}.checkpoint SET position = $2 WHERE partition = $1", self.tables.schema());
        sqlx::query(AssertSqlSafe(sql)).bind(self.partition).bind(to.0).execute(connection).await?;
        Ok(())
    }
}

/// What a step came to.
enum Written {
    All,
    Nothing,
}

/// Whether a row is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum State {
    New,
    Known,
}

/// What a run of events touched. How the accounts are then, the cache says.
#[derive(Default)]
pub(crate) struct Changes {
    /// The chain hash of the last event.
    end: Option<Hash>,
    /// Each once.
    pub(crate) accounts: Vec<(AccountId, State)>,
    /// The accounts whose terms were set.
    pub(crate) terms: Vec<AccountId>,
    /// In the order of their ids, as the next.
    pub(crate) new_holds: Vec<Touched>,
    pub(crate) known_holds: Vec<Touched>,
    /// The position after which the run begins.
    pub(crate) after: Position,
    /// For each event that of its account's event before; 0 for its first, and where there is no account.
    pub(crate) previous: Vec<Position>,
    /// What priced charges add to the costs.
    pub(crate) costs: Map<CostKey, Cost>,
    /// What each asset's books change by, in the order of [`Book::ALL`].
    pub(crate) books: Vec<(Asset, [i128; Book::ALL.len()])>,
}

impl Changes {
    /// Adds an event of an account whose event before was `previous`.
    fn add(&mut self, event: &Event, previous: Option<Position>) {
        match previous {
            None => self.accounts.push((event.account.clone(), State::New)),
            Some(previous) if previous <= self.after => {
                self.accounts.push((event.account.clone(), State::Known));
            }
            Some(_) => {}
        }
        if matches!(event.fact, Fact::AccountSet { .. }) {
            self.terms.push(event.account.clone());
        }
        if let Some((key, cost)) = cost(event) {
            self.costs.entry(key).or_default().add(cost);
        }
        if let Some(asset) = event.asset {
            self.post(asset, postings(&event.fact));
        }
    }

    fn post(&mut self, asset: Asset, Postings(changes): Postings) {
        let at = self.books.iter().position(|(known, _)| *known == asset).unwrap_or_else(|| {
            self.books.push((asset, [0; Book::ALL.len()]));
            self.books.len() - 1
        });
        for (book, change) in self.books[at].1.iter_mut().zip(changes) {
            *book += i128::from(change);
        }
    }
}
