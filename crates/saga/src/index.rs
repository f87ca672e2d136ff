//! What the runner knows of all sagas from following their logs: which are left, which are stuck.

use std::collections::HashMap;

use crate::entry::What;
use crate::key::SagaKey;
use crate::log::Stored;

/// The sagas that have not ended.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// When the stream was made that this is of, in Unix microseconds.
    pub(crate) created: i64,
    /// The last sequence that was looked at.
    pub(crate) last: u64,
    open: HashMap<SagaKey, Seen>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    stored_ms: u64,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Running,
    Stuck,
    /// An operator said to go on, and nobody has yet.
    Resumed,
}

impl Index {
    /// Nothing yet, of a stream that was made then.
    pub(crate) fn of(created: i64) -> Self {
        Index { created, ..Index::default() }
    }

    pub(crate) fn apply(&mut self, stored: &Stored) {
        let stage = match &stored.entry.what {
            What::Ended { .. } => {
                self.open.remove(&stored.saga);
                return;
            }
            What::Stuck { .. } => Stage::Stuck,
            What::Resumed { .. } => Stage::Resumed,
            _ => Stage::Running,
        };
        self.open.insert(stored.saga.clone(), Seen { stored_ms: stored.stored_ms, stage });
    }

    /// Sagas that somebody should go on with: silent for longer than the lease, or resumed.
    pub(crate) fn due(&self, now_ms: u64, lease_ms: u64) -> Vec<SagaKey> {
        let due = self.open.iter().filter(|(_, seen)| match seen.stage {
            Stage::Running => now_ms.saturating_sub(seen.stored_ms) >= lease_ms,
            Stage::Stuck => false,
            Stage::Resumed => true,
        });
        due.map(|(saga, _)| saga.clone()).collect()
    }

    /// How many sagas are stuck.
    pub(crate) fn stuck(&self) -> usize {
        self.open.values().filter(|seen| seen.stage == Stage::Stuck).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{Ending, Entry};

    #[test]
    fn a_saga_is_due_when_it_was_silent_for_the_lease_or_was_resumed() {
        let saga = SagaKey::new("book", "7").expect("legal");
        let stored = |what| {
            let entry = Entry { n: 1, at: 100, by: "test#1".to_owned(), what };
            Stored { saga: saga.clone(), sequence: 1, stored_ms: 100, entry }
        };
        let stuck = What::Stuck { step: "plan".to_owned(), error: "no".to_owned() };
        let ended = What::Ended {
            ended: Ending::Undone,
            because: None,
            charged: "0".to_owned(),
            refunded: "0".to_owned(),
        };
        let mut index = Index::of(0);
        let cases = [
            (What::Taken, 109, 0, 0),
            (What::Taken, 110, 1, 0),
            (stuck, 999, 0, 1),
            (What::Resumed { by_hand: false }, 100, 1, 0),
            (ended, 999, 0, 0),
        ];
        for (what, now_ms, due, stuck) in cases {
            index.apply(&stored(what.clone()));
            assert_eq!((index.due(now_ms, 10).len(), index.stuck()), (due, stuck), "{what:?} at {now_ms}");
        }
    }
}
