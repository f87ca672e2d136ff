//! The latest committed batches, kept in memory for those who follow the log closely.
//!
//! **Shape.** The lane pushes what it has committed; relay and projector take what comes after
//! their place with [`Follower::after`], which reads the database only when they are further behind. What
//! all of them have is let go.
//!
//! **Correctness.** Only committed events are ever pushed, and committed events never change, so
//! what is taken from here is what the database would answer. A process that writes nothing keeps
//! nothing, and its followers read the database.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_core::Position;
use holdfast_core::chain::Hash;
use sqlx::PgConnection;
use tokio::sync::watch;

use crate::error::StoreError;
use crate::read;
use crate::record::{Logged, Record};

/// How many bytes of events are kept: at some 450 an event, more than the projector may fall behind in a
/// burst, so that it need not read from the database what was just written to it.
const KEPT_BYTES_MAX: usize = 96 * 1024 * 1024;

/// How long a follower waits before it looks again whether the lane is still pressed.
const YIELD_FOR: Duration = Duration::from_millis(50);

/// Committed batches, the oldest first, without a gap between them.
#[derive(Default)]
pub struct Recent {
    kept: Mutex<Kept>,
    /// Whether commands come faster than they are committed.
    pressed: AtomicBool,
}

#[derive(Default)]
struct Kept {
    batches: VecDeque<Batch>,
    bytes: usize,
    /// What each follower has, by the number that it was given.
    followers: Vec<(u64, Position)>,
    numbered: u64,
}

struct Batch {
    events: Arc<Vec<Logged>>,
    bytes: usize,
}

impl Recent {
    /// The lane says whether commands come faster than they are committed.
    pub fn press(&self, pressed: bool) {
        self.pressed.store(pressed, Ordering::Relaxed);
    }

    /// In a burst followers leave the machine to the lane, until they are `lag_max` events behind: somebody
    /// waits for each outcome, and for what follows from it nobody does. Waits if that is so.
    pub async fn yield_to_lane(&self, at: Position, lag_max: i64, committed: &watch::Receiver<Position>) {
        while self.pressed.load(Ordering::Relaxed) && committed.borrow().0 - at.0 < lag_max {
            tokio::time::sleep(YIELD_FOR).await;
        }
    }

    /// Forgets everything: another log may be there after a take-over than before.
    pub fn clear(&self) {
        let gone = self.kept().clear();
        drop(gone);
    }

    /// Keeps what was committed, and answers it. Bodies and envelopes are in the log; nobody here needs
    /// them any more.
    pub fn push(&self, records: Vec<Record>) -> Arc<Vec<Logged>> {
        let bytes = records.iter().map(|record| size_of::<Logged>() + record.body.len()).sum();
        // Not collected, which would keep the larger allocation of the records.
        let mut events = Vec::with_capacity(records.len());
        events.extend(records.into_iter().map(Logged::from));
        let events = Arc::new(events);
        let gone = self.kept().push(Batch { events: Arc::clone(&events), bytes });
        drop(gone);
        events
    }

    /// A follower, which has nothing yet.
    #[must_use]
    pub fn follow(self: &Arc<Self>) -> Follower {
        let mut kept = self.kept();
        kept.numbered += 1;
        let number = kept.numbered;
        kept.followers.push((number, Position::default()));
        drop(kept);
        Follower { recent: Arc::clone(self), number }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn end(&self) -> Option<Position> {
        Some(self.batches.back()?.events.last()?.event.position)
    }

    /// Answers what is let go, as the other changes do: it is many small things, and the lane must not wait
    /// for the lock while each is freed.
    fn push(&mut self, batch: Batch) -> Vec<Batch> {
        let Some(first) = batch.events.first().map(|logged| logged.event.position) else { return Vec::new() };
        let mut gone =
            if self.end().is_some_and(|end| end.next() != first) { self.clear() } else { Vec::new() };
        self.bytes += batch.bytes;
        self.batches.push_back(batch);
        while self.bytes > KEPT_BYTES_MAX && self.batches.len() > 1 {
            gone.extend(self.pop());
        }
        gone
    }

    fn pop(&mut self) -> Option<Batch> {
        let oldest = self.batches.pop_front()?;
        self.bytes -= oldest.bytes;
        Some(oldest)
    }

    fn clear(&mut self) -> Vec<Batch> {
        self.bytes = 0;
        self.batches.drain(..).collect()
    }

    /// Follower `number` has everything up to `at`: what the others have too is let go.
    fn passed(&mut self, number: u64, at: Position) -> Vec<Batch> {
        for (_, place) in self.followers.iter_mut().filter(|(other, _)| *other == number) {
            *place = at;
        }
        let all = self.followers.iter().map(|(_, place)| *place).min().unwrap_or_default();
        let mut gone = Vec::new();
        while self.batches.front().is_some_and(|batch| batch.ends_by(all)) {
            gone.extend(self.pop());
        }
        gone
    }

    /// At most `limit` events after `at`, if that far back is kept.
    fn after(&self, at: Position, limit: usize) -> Option<Run> {
        let begin = self.batches.front()?.events.first()?.event.position;
        if at.next() < begin || self.end()? <= at {
            return None;
        }
        let from = self.batches.partition_point(|batch| batch.ends_by(at));
        let first = self.batches.get(from)?.events.first()?.event.position;
        let skip = usize::try_from(at.next().0 - first.0).ok()?;
        let (mut batches, mut count) = (Vec::new(), 0);
        for batch in self.batches.range(from..) {
            if count >= limit + skip {
                break;
            }
            count += batch.events.len();
            batches.push(Arc::clone(&batch.events));
        }
        Some(Run { batches, skip, take: limit.min(count - skip) })
    }
}

impl Batch {
    fn ends_by(&self, at: Position) -> bool {
        self.events.last().is_none_or(|last| last.event.position <= at)
    }
}

/// One who follows the log. What it has not taken yet is kept for it, up to a bound.
pub struct Follower {
    recent: Arc<Recent>,
    number: u64,
}

impl Follower {
    /// At most `limit` events after `at`, up to which this follower has them: from memory where they are
    /// kept, else from the database.
    ///
    /// # Errors
    /// What reading the log may end with.
    pub async fn after(
        &self,
        connection: &mut PgConnection,
        partition: i16,
        at: Position,
        limit: usize,
    ) -> Result<Run, StoreError> {
        if let Some(run) = self.kept_after(at, limit) {
            return Ok(run);
        }
        let events = read::after(connection, partition, at, i64::try_from(limit).unwrap_or(i64::MAX)).await?;
        let take = events.len();
        Ok(Run { batches: vec![Arc::new(events)], skip: 0, take })
    }

    fn kept_after(&self, at: Position, limit: usize) -> Option<Run> {
        let mut kept = self.recent.kept();
        let gone = kept.passed(self.number, at);
        let run = kept.after(at, limit);
        drop(kept);
        drop(gone);
        run
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.recent.kept().followers.retain(|(number, _)| *number != self.number);
    }
}

/// A run of the log, in order.
pub struct Run {
    batches: Vec<Arc<Vec<Logged>>>,
    skip: usize,
    take: usize,
}

impl Run {
    /// Its events, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Logged> {
        self.batches.iter().flat_map(|batch| batch.iter()).skip(self.skip).take(self.take)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.take
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.take == 0
    }

    /// The chain hash that it ends with.
    #[must_use]
    pub fn last_hash(&self) -> Option<Hash> {
        self.iter().last().map(|logged| logged.hash)
    }

    /// Where it ends.
    #[must_use]
    pub fn last(&self) -> Option<Position> {
        let first = self.iter().next()?.event.position;
        Some(Position(first.0 + i64::try_from(self.len()).ok()? - 1))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use holdfast_core::{AccountId, Event, Fact, HoldId, Issuer, Timestamp};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn followers_stand_back_in_a_burst_but_not_for_ever() {
        const LAG_MAX: i64 = 1_000;
        let (committed, watched) = watch::channel(Position(0));
        let recent = Arc::new(Recent::default());
        recent.yield_to_lane(Position(0), LAG_MAX, &watched).await;
        recent.press(true);
        let follower = {
            let recent = Arc::clone(&recent);
            tokio::spawn(async move { recent.yield_to_lane(Position(0), LAG_MAX, &watched).await })
        };
        for lag in [1, LAG_MAX - 1] {
            committed.send_replace(Position(lag));
            tokio::time::sleep(YIELD_FOR * 3).await;
            assert!(!follower.is_finished(), "at {lag}");
        }
        committed.send_replace(Position(LAG_MAX));
        tokio::time::sleep(YIELD_FOR * 3).await;
        assert!(follower.is_finished());
    }

    fn records(positions: std::ops::RangeInclusive<i64>, body: usize) -> Vec<Record> {
        let record = |position| Record {
            event: Event {
                position: Position(position),
                time: Timestamp::from_micros(position),
                issuer: Issuer::ledger(),
                command: HoldId::nil(),
                account: AccountId::new("a").expect("an id"),
                asset: None,
                posted: 0,
                held: 0,
                fact: Fact::Extended { hold: HoldId::nil(), expires_at: Timestamp::from_micros(0) },
            },
            fingerprint: [0; 32],
            stored_time: Timestamp::from_micros(0),
            body: vec![0; body],
            envelope: Bytes::new(),
            hash: [0; 32],
        };
        positions.map(record).collect()
    }

    fn taken(follower: &Follower, at: i64, limit: usize) -> Option<Vec<i64>> {
        let run = follower.kept_after(Position(at), limit)?;
        assert_eq!(run.last().map(|last| last.0), run.iter().last().map(|logged| logged.event.position.0));
        Some(run.iter().map(|logged| logged.event.position.0).collect())
    }

    #[test]
    fn what_is_kept_is_taken_across_batches_and_let_go_when_all_have_it() {
        let recent = Arc::new(Recent::default());
        let (quick, slow) = (recent.follow(), recent.follow());
        recent.push(records(1..=3, 0));
        recent.push(records(4..=6, 0));
        assert_eq!(taken(&quick, 0, 10), Some(vec![1, 2, 3, 4, 5, 6]));
        assert_eq!(taken(&quick, 2, 3), Some(vec![3, 4, 5]));
        assert_eq!(taken(&quick, 6, 10), None, "nothing is new");
        assert_eq!(taken(&slow, 0, 2), Some(vec![1, 2]), "kept for the slow one");
        assert_eq!(taken(&slow, 3, 1), Some(vec![4]));
        assert_eq!(taken(&quick, 0, 10), None, "the first batch both had");
        drop(slow);
        assert_eq!(taken(&quick, 6, 10), None);
        assert!(recent.kept().batches.is_empty(), "nobody lacks anything");
        assert_eq!(recent.kept().bytes, 0);
    }

    #[test]
    fn a_follower_far_behind_is_not_waited_for() {
        let recent = Arc::new(Recent::default());
        let follower = recent.follow();
        for n in 0..5 {
            recent.push(records(n + 1..=n + 1, KEPT_BYTES_MAX / 4));
        }
        assert_eq!(taken(&follower, 0, 10), None, "the database has it");
        assert_eq!(taken(&follower, 2, 10), Some(vec![3, 4, 5]));
    }

    #[test]
    fn batches_that_do_not_follow_replace_those_before() {
        let recent = Arc::new(Recent::default());
        let follower = recent.follow();
        recent.push(records(1..=3, 0));
        recent.push(records(7..=8, 0));
        assert_eq!(taken(&follower, 0, 10), None);
        assert_eq!(taken(&follower, 6, 10), Some(vec![7, 8]));
        recent.clear();
        assert_eq!(taken(&follower, 6, 10), None);
    }
}
