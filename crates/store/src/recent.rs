//! The latest committed batches, kept in memory for those who follow the log closely.
//!
//! **Shape.** The lane pushes what it has committed; relay and projector take what comes after
//! their place with [`after`], which reads the database only when they are further behind.
//!
//! **Correctness.** Only committed records are ever pushed, and committed records never change, so
//! what is taken from here is what the database would answer. A process that writes nothing keeps
//! nothing, and its followers read the database.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use holdfast_core::chain::Hash;
use holdfast_core::{Event, Position};
use sqlx::PgConnection;
use tokio::sync::watch;

use crate::error::StoreError;
use crate::read;
use crate::record::Record;

/// How many bytes of records are kept: about a second at full load, which is longer than the projector
/// rests. A follower that is further behind gains from the database's larger reads what it loses.
const KEPT_BYTES_MAX: usize = 32 * 1024 * 1024;
/// What a record takes besides its body and envelope.
const RECORD_BYTES: usize = 512;

/// How far followers may fall behind while the lane is pressed, in events: two seconds of their work.
/// A take-over has to wait for the projector, or fold itself what it lacks.
const LAG_MAX: i64 = 200_000;
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
    batches: VecDeque<Arc<Vec<Record>>>,
    bytes: usize,
}

impl Recent {
    /// The lane says whether commands come faster than they are committed.
    pub fn press(&self, pressed: bool) {
        self.pressed.store(pressed, Ordering::Relaxed);
    }

    /// In a burst followers leave the machine to the lane, until they are [`LAG_MAX`] behind: somebody
    /// waits for each outcome, and for what follows from it nobody does. Waits if that is so.
    pub async fn yield_to_lane(&self, at: Position, committed: &watch::Receiver<Position>) {
        while self.pressed.load(Ordering::Relaxed) && committed.borrow().0 - at.0 < LAG_MAX {
            tokio::time::sleep(YIELD_FOR).await;
        }
    }

    /// Forgets everything: another log may be there after a take-over than before.
    pub fn clear(&self) {
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Kept::default();
    }

    /// Keeps a batch that was committed.
    pub fn push(&self, batch: Arc<Vec<Record>>) {
        let Some(first) = batch.first().map(|record| record.event.position) else { return };
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.end().is_some_and(|end| end.next() != first) {
            *kept = Kept::default();
        }
        kept.bytes += bytes(&batch);
        kept.batches.push_back(batch);
        while kept.bytes > KEPT_BYTES_MAX && kept.batches.len() > 1 {
            if let Some(oldest) = kept.batches.pop_front() {
                kept.bytes -= bytes(&oldest);
            }
        }
    }

    /// At most `limit` records after `at`, if that far back is kept.
    fn after(&self, at: Position, limit: usize) -> Option<Run> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = kept.batches.front()?.first()?.event.position;
        if at.next() < begin || kept.end()? <= at {
            return None;
        }
        let from =
            kept.batches.partition_point(|batch| batch.last().is_some_and(|last| last.event.position <= at));
        let first = kept.batches.get(from)?.first()?.event.position;
        let skip = usize::try_from(at.next().0 - first.0).ok()?;
        let (mut batches, mut count) = (Vec::new(), 0);
        for batch in kept.batches.range(from..) {
            if count >= limit + skip {
                break;
            }
            count += batch.len();
            batches.push(Arc::clone(batch));
        }
        Some(Run(Source::Kept { batches, skip, take: limit.min(count - skip) }))
    }
}

impl Kept {
    fn end(&self) -> Option<Position> {
        Some(self.batches.back()?.last()?.event.position)
    }
}

fn bytes(batch: &[Record]) -> usize {
    batch.iter().map(|record| record.body.len() + record.envelope.len() + RECORD_BYTES).sum()
}

/// A run of the log, in order.
pub struct Run(Source);

enum Source {
    Read(Vec<(Event, Hash)>),
    Kept { batches: Vec<Arc<Vec<Record>>>, skip: usize, take: usize },
}

/// What followers need of a row.
#[derive(Debug, Clone, Copy)]
pub struct Followed<'a> {
    /// The event.
    pub event: &'a Event,
    /// Its chain hash.
    pub hash: &'a Hash,
}

impl Run {
    /// Its events, in order.
    pub fn iter(&self) -> impl Iterator<Item = Followed<'_>> {
        let (read, kept) = match &self.0 {
            Source::Read(rows) => (Some(rows.iter().map(|(event, hash)| Followed { event, hash })), None),
            Source::Kept { batches, skip, take } => {
                let records = batches.iter().flat_map(|batch| batch.iter()).skip(*skip).take(*take);
                (None, Some(records.map(|record| Followed { event: &record.event, hash: &record.hash })))
            }
        };
        read.into_iter().flatten().chain(kept.into_iter().flatten())
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.0 {
            Source::Read(rows) => rows.len(),
            Source::Kept { take, .. } => *take,
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The chain hash that it ends with.
    #[must_use]
    pub fn last_hash(&self) -> Option<Hash> {
        self.iter().last().map(|followed| *followed.hash)
    }

    /// Where it ends.
    #[must_use]
    pub fn last(&self) -> Option<Position> {
        let first = self.iter().next()?.event.position;
        Some(Position(first.0 + i64::try_from(self.len()).ok()? - 1))
    }
}

/// At most `limit` events after `at`: from memory where they are kept, else from the database.
pub async fn after(
    recent: &Recent,
    connection: &mut PgConnection,
    partition: i16,
    at: Position,
    limit: usize,
) -> Result<Run, StoreError> {
    if let Some(run) = recent.after(at, limit) {
        return Ok(run);
    }
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    Ok(Run(Source::Read(read::after(connection, partition, at, limit).await?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn followers_stand_back_in_a_burst_but_not_for_ever() {
        let (committed, watched) = watch::channel(Position(0));
        let recent = Arc::new(Recent::default());
        recent.yield_to_lane(Position(0), &watched).await;
        recent.press(true);
        let follower = {
            let recent = Arc::clone(&recent);
            tokio::spawn(async move { recent.yield_to_lane(Position(0), &watched).await })
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
}
