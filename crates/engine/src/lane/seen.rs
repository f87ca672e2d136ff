//! Which ids are certainly new: ids of version 7 carry their time, so most need no look-up.
//!
//! **Correctness.** The head of the log keeps the latest time that any id of version 7 in it carries,
//! moved in the same transaction as the events. Whatever carries a later one has not been decided
//! before this reign, and what this reign has decided is remembered here: an id that is later than the
//! bound and not remembered is new. When ids are forgotten the bound rises to the latest time of them. An
//! id that carries no time, or an early one, is merely looked up.

use holdfast_store::Set;
use holdfast_store::head::time_of_id;
use uuid::Uuid;

/// How many ids make a generation. One or two of them are remembered, half a second to a second of full
/// load, within which clocks must agree for the look-up to be spared. 3 MB.
const GENERATION: usize = 1 << 15;

/// The ids of one kind, of commands or of holds.
pub(super) struct Seen {
    /// Whatever carries a later time than this and was decided is remembered.
    bound_ms: i64,
    /// Forgotten together, which spares looking for each.
    older: Generation,
    newer: Generation,
}

#[derive(Default)]
struct Generation {
    ids: Set<Uuid>,
    latest_ms: i64,
}

impl Seen {
    /// At the begin of a reign, over a log whose ids carry no time later than `latest_ms`.
    pub(super) fn after(latest_ms: i64) -> Self {
        Seen { bound_ms: latest_ms, older: Generation::default(), newer: Generation::default() }
    }

    /// Whether `id` was certainly never decided.
    pub(super) fn is_new(&self, id: &Uuid) -> bool {
        time_of_id(id)
            .is_some_and(|time| time > self.bound_ms && (time > self.latest_ms() || !self.knows(id)))
    }

    /// The latest time of all that are remembered: most ids carry a later one, which spares looking for them.
    fn latest_ms(&self) -> i64 {
        self.newer.latest_ms.max(self.older.latest_ms)
    }

    fn knows(&self, id: &Uuid) -> bool {
        self.newer.ids.contains(id) || self.older.ids.contains(id)
    }

    /// `id` is decided now.
    pub(super) fn add(&mut self, id: Uuid) {
        let Some(time) = time_of_id(&id).filter(|time| *time > self.bound_ms) else { return };
        self.newer.latest_ms = self.newer.latest_ms.max(time);
        if self.newer.ids.insert(id) && self.newer.ids.len() >= GENERATION {
            std::mem::swap(&mut self.older, &mut self.newer);
            self.bound_ms = self.bound_ms.max(self.newer.latest_ms);
            self.newer.ids.clear();
            self.newer.latest_ms = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(millis: u64, n: u8) -> Uuid {
        Uuid::from_u128(u128::from(millis) << 80 | 7 << 76 | 2 << 62 | u128::from(n))
    }

    #[test]
    fn an_id_is_new_only_when_it_is_later_than_the_log_and_not_remembered() {
        let mut seen = Seen::after(1_000_000);
        let (early, late) = (id(999_000, 1), id(1_001_000, 2));
        assert!(!seen.is_new(&early), "the log may have it");
        assert!(seen.is_new(&late));
        seen.add(late);
        assert!(!seen.is_new(&late), "this reign has it");
        assert!(!seen.is_new(&Uuid::from_u128(4 << 76)), "it carries no time");
    }

    #[test]
    fn what_is_forgotten_raises_the_bound() {
        let mut seen = Seen::after(0);
        let generation = GENERATION as u64;
        let at = |n: u64| id(5_000 + n * 1_000, 0);
        for n in 0..2 * generation - 1 {
            seen.add(at(n));
            assert!(!seen.is_new(&at(n)) && !seen.is_new(&at(0)), "after {n}");
        }
        assert!(seen.is_new(&id(5_000, 9)), "nothing is forgotten yet");
        seen.add(at(2 * generation - 1));
        assert!(!seen.is_new(&at(0)), "forgotten, and so it must be looked up");
        assert!(!seen.is_new(&id(5_000, 9)), "as early as what was forgotten");
        assert!(!seen.is_new(&at(2 * generation - 1)), "remembered");
        assert!(seen.is_new(&id(5_000 + generation * 1_000, 9)), "later than all that was forgotten");
    }
}
