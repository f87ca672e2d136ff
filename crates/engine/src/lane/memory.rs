//! The lane's memory: the accounts it has looked at, disposable at any moment.
//!
//! **Correctness.** What is not in memory has nothing in the log past the projection's
//! checkpoint: at take-over the tail of the log after the checkpoint is folded once, and later an
//! account or an ended hold leaves memory only when the checkpoint has passed its last event. So
//! whatever `load` answers for something that is not here is the truth. A checkpoint below one
//! that was used already would break that, and is refused.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use holdfast_core::{Account, AccountId, Event, Fact, HoldId, Position, Timestamp, evolve};
use holdfast_projector::load;
use holdfast_store::{Logged, Set, StoreError, copy};
use sqlx::PgConnection;

use super::accounts::Accounts;
use crate::message::HoldKey;

/// So many ended holds may stay in memory without a question whether the projection has them.
const ENDED_FEW: usize = 10_000;
/// How often that is asked at most.
const REFRESH_EVERY: Duration = Duration::from_millis(100);
/// How many rows of the tail are read at once, some 20 MB.
const TAIL_ROWS: i64 = 20_000;

pub(super) struct Memory {
    partition: i16,
    accounts_max: usize,
    /// Loaded accounts.
    accounts: Accounts,
    /// The ids of this batch that have no account.
    absent: Set<AccountId>,
    /// The highest checkpoint that was used.
    checkpoint: Position,
    /// When it was last asked for.
    refreshed_at: Instant,
    /// Ended holds by their last event, to leave when the checkpoint has passed it.
    ended: VecDeque<(Position, HoldKey)>,
    /// When the time of each open hold comes: one entry for each, of accounts in memory or not.
    due: BTreeSet<(Timestamp, HoldKey)>,
}

impl Memory {
    /// What the log says now; whoever calls is the only one who appends to it.
    pub(super) async fn take_over(
        connection: &mut PgConnection,
        partition: i16,
        accounts_max: usize,
    ) -> Result<Self, StoreError> {
        let mut memory = Memory {
            partition,
            accounts_max,
            accounts: Accounts::default(),
            absent: Set::default(),
            checkpoint: Position::default(),
            refreshed_at: Instant::now(),
            ended: VecDeque::new(),
            due: BTreeSet::new(),
        };
        // One moment for the checkpoint, the tail after it and the rows that it is folded onto.
        load::begin(&mut *connection).await?;
        memory.checkpoint = load::checkpoint(&mut *connection, partition).await?;
        memory.due.extend(load::open_hold_times(&mut *connection, partition).await?);
        memory.fold_tail(&mut *connection).await?;
        load::end(connection).await?;
        Ok(memory)
    }

    async fn fold_tail(&mut self, connection: &mut PgConnection) -> Result<(), StoreError> {
        let mut at = self.checkpoint;
        loop {
            let to = Position(at.0 + TAIL_ROWS);
            let rows: Vec<Logged> = copy::all(&mut *connection, self.partition, at, to).await?;
            let Some(last) = rows.last() else { return Ok(()) };
            at = last.event.position;
            let accounts = rows.iter().map(|logged| &logged.event.account);
            let events = rows.iter().map(|logged| &logged.event);
            let holds = events.filter_map(|event| Some((&event.account, event.fact.ended_hold()?)));
            self.prepare(connection, accounts, holds).await?;
            for Logged { event, .. } in &rows {
                self.apply(event)?;
            }
        }
    }

    /// Loads what is not here yet of `accounts` and `holds`.
    pub(super) async fn prepare<'a>(
        &mut self,
        connection: &mut PgConnection,
        accounts: impl Iterator<Item = &'a AccountId>,
        holds: impl Iterator<Item = (&'a AccountId, HoldId)>,
    ) -> Result<(), StoreError> {
        let missing: BTreeSet<&AccountId> =
            accounts.filter(|id| !self.accounts.contains(id) && !self.absent.contains(*id)).collect();
        if !missing.is_empty() {
            let ids: Vec<AccountId> = missing.into_iter().cloned().collect();
            let loaded = load::accounts(&mut *connection, self.partition, &ids).await?;
            self.advance(loaded.checkpoint)?;
            let mut found = loaded.value;
            for id in ids {
                match found.remove(&id) {
                    Some(account) => self.accounts.insert(account),
                    None => drop(self.absent.insert(id)),
                }
            }
        }
        let unknown = |(id, hold): &(&AccountId, HoldId)| {
            self.account(id).is_some_and(|account| !account.holds.contains(hold))
        };
        let missing: BTreeSet<(&AccountId, HoldId)> = holds.filter(unknown).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let keys: Vec<HoldKey> = missing.into_iter().map(|(id, hold)| (id.clone(), hold)).collect();
        let loaded = load::holds(&mut *connection, self.partition, &keys).await?;
        self.advance(loaded.checkpoint)?;
        for ((id, hold_id), hold) in loaded.value {
            // An open hold is here whenever its account is. One that a projection still calls open
            // ended in memory or was never open: what is in memory is newer.
            if hold.is_open() {
                continue;
            }
            self.ended.push_back((hold.last_position, (id.clone(), hold_id)));
            if let Some(account) = self.accounts.get_mut(&id).and_then(Option::as_mut) {
                account.holds.insert(hold_id, hold);
            }
        }
        Ok(())
    }

    fn advance(&mut self, checkpoint: Position) -> Result<(), StoreError> {
        if checkpoint < self.checkpoint {
            let problem = format!("the projection went back from {} to {checkpoint}", self.checkpoint);
            return Err(StoreError::Inconsistent(problem));
        }
        self.checkpoint = checkpoint;
        Ok(())
    }

    /// A prepared account.
    pub(super) fn account(&self, id: &AccountId) -> Option<&Account> {
        self.accounts.get(id)
    }

    /// Applies an event whose account is prepared.
    pub(super) fn apply(&mut self, event: &Event) -> Result<(), StoreError> {
        let Some(account) = self.accounts.get_mut(&event.account) else { return self.open(event) };
        let before =
            event.fact.hold().and_then(|id| account.as_ref()?.holds.get(&id)).map(|hold| hold.expires_at);
        fold(account, event)?;
        let Some(account) = account else { return Ok(()) };
        let Some(id) = event.fact.hold().filter(|_| !matches!(event.fact, Fact::Rejected { .. })) else {
            return Ok(());
        };
        let hold = account.holds.get(&id).expect("an event's hold is in its account");
        let key = (event.account.clone(), id);
        if let Some(at) = before {
            self.due.remove(&(at, key.clone()));
        }
        if hold.is_open() {
            self.due.insert((hold.expires_at, key));
        } else {
            self.ended.push_back((hold.last_position, key));
        }
        Ok(())
    }

    /// Applies an event of an id that has no account, which may open it.
    fn open(&mut self, event: &Event) -> Result<(), StoreError> {
        let mut account = None;
        fold(&mut account, event)?;
        if let Some(account) = account {
            self.absent.remove(&event.account);
            self.accounts.insert(account);
        }
        Ok(())
    }

    /// When the next hold's time may come.
    pub(super) fn next_due(&self) -> Option<Timestamp> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Takes out at most `limit` holds whose time is no later than `horizon`; they must be expired
    /// then, or memory be dropped.
    pub(super) fn take_due(&mut self, horizon: Timestamp, limit: usize) -> Vec<HoldKey> {
        let mut keys = Vec::new();
        while keys.len() < limit && self.next_due().is_some_and(|at| at <= horizon) {
            keys.extend(self.due.pop_first().map(|(_, key)| key));
        }
        keys
    }

    /// Lets go of what the projection has.
    pub(super) fn evict(&mut self) {
        self.absent.clear();
        while let Some((position, (id, hold_id))) = self.ended.pop_front_if(|(at, _)| *at <= self.checkpoint)
        {
            let Some(account) = self.accounts.get_mut(&id).and_then(Option::as_mut) else { continue };
            if account
                .holds
                .get(&hold_id)
                .is_some_and(|hold| !hold.is_open() && hold.last_position == position)
            {
                account.holds.remove(&hold_id);
            }
        }
        if self.is_full() {
            self.evict_accounts();
        }
        metrics::gauge!("holdfast_lane_accounts").set(small(self.accounts.len()));
        metrics::gauge!("holdfast_lane_open_holds").set(small(self.due.len()));
    }

    /// A quarter at once, so that it is not done for every batch.
    fn evict_accounts(&mut self) {
        let mut surplus = self.accounts.len() - self.accounts_max * 3 / 4;
        let checkpoint = self.checkpoint;
        self.accounts.retain(|account| {
            let evict = account.last_position <= checkpoint && surplus > 0;
            surplus -= usize::from(evict);
            !evict
        });
    }

    /// Whether no further account should be loaded.
    pub(super) fn is_full(&self) -> bool {
        self.accounts.len() > self.accounts_max
    }

    /// Whether it is time to ask how far the projection is: what it has may leave, and a lane that finds
    /// everything in memory hears of it by nothing else.
    pub(super) fn is_stale(&self) -> bool {
        self.ended.len() > ENDED_FEW && self.refreshed_at.elapsed() > REFRESH_EVERY
    }

    /// Learns how far the projection is by now.
    pub(super) async fn refresh(&mut self, connection: &mut PgConnection) -> Result<(), StoreError> {
        self.refreshed_at = Instant::now();
        let checkpoint = load::checkpoint(&mut *connection, self.partition).await?;
        self.advance(checkpoint)
    }
}

fn fold(account: &mut Option<Account>, event: &Event) -> Result<(), StoreError> {
    evolve(account, event).map_err(|error| StoreError::Inconsistent(error.to_string()))
}

/// Counts that are far below 2^52.
#[allow(clippy::cast_precision_loss)]
fn small(count: usize) -> f64 {
    count as f64
}
