//! Which ids are certainly new: ids of version 7 carry their time, so most need no look-up.
//!
//! **Correctness.** The head of the log keeps the latest time that any id of version 7 in it carries,
//! moved in the same transaction as the events. Whatever carries a later one has not been decided
//! before this reign, and what this reign has decided is remembered here: an id that is later than the
//! bound and not remembered is new. When the oldest is forgotten the bound rises to its time. An id
//! that carries no time, or an early one, is merely looked up.

use std::collections::VecDeque;

use holdfast_store::Set;
use holdfast_store::head::time_of_id;
use uuid::Uuid;

/// How many ids are remembered: a second at full load, within which clocks must agree for the look-up to
/// be spared; 3 MB.
const REMEMBERED: usize = 1 << 16;

/// The ids of one kind, of commands or of holds.
pub(super) struct Seen {
    /// Whatever carries a later time than this and was decided is remembered.
    bound_ms: i64,
    known: Set<Uuid>,
    oldest: VecDeque<Uuid>,
}

impl Seen {
    /// At the begin of a reign, over a log whose ids carry no time later than `latest_ms`.
    pub(super) fn after(latest_ms: i64) -> Self {
        Seen { bound_ms: latest_ms, known: Set::default(), oldest: VecDeque::new() }
    }

    /// Whether `id` was certainly never decided.
    pub(super) fn is_new(&self, id: &Uuid) -> bool {
        time_of_id(id).is_some_and(|time| time > self.bound_ms) && !self.known.contains(id)
    }

    /// `id` is decided now.
    pub(super) fn add(&mut self, id: Uuid) {
        let Some(time) = time_of_id(&id) else { return };
        if time <= self.bound_ms || !self.known.insert(id) {
            return;
        }
        self.oldest.push_back(id);
        if self.oldest.len() > REMEMBERED
            && let Some(forgotten) = self.oldest.pop_front()
        {
            self.known.remove(&forgotten);
            self.bound_ms = self.bound_ms.max(time_of_id(&forgotten).unwrap_or(0));
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
        let first = id(5_000, 0);
        seen.add(first);
        for n in 0..REMEMBERED as u64 {
            seen.add(id(6_000 + n * 1_000, 1));
        }
        assert!(!seen.is_new(&first), "forgotten, and so it must be looked up");
        assert!(!seen.is_new(&id(5_000, 9)), "as early as what was forgotten");
        assert!(seen.is_new(&id(6_000, 9)));
    }
}
