//! Faults that a runner commits when it is asked to: what the proofs are made of.
//!
//! In production the list is empty, and looking at it costs a lock that nobody else wants.

use std::sync::{Arc, Mutex, PoisonError};

/// Whether something happens just before or just after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Before.
    Before,
    /// After.
    After,
}

/// One fault. Crashes, failures that are worth another try, and those with a number of times are used
/// up; the others hold for the whole saga.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// A step fails, before it did anything or after it did everything: every time it is tried, or
    /// once, when it says that another try is worth it.
    FailStep {
        /// The step.
        step: String,
        /// Before or after its action.
        moment: Moment,
        /// Whether it says that another try is worth it.
        again: bool,
    },
    /// An undo fails `times` times, saying that another try is worth it.
    FailUndo {
        /// The step.
        step: String,
        /// How often.
        times: u32,
    },
    /// The process dies just before or after it appends the entry of this number, once.
    CrashAt {
        /// The entry's number.
        entry: u64,
        /// Before or after.
        moment: Moment,
    },
    /// Every action is run twice.
    EveryStepTwice,
    /// Every undo is run twice.
    EveryUndoTwice,
}

/// The faults still to be committed. Clones share them, so a runner that takes over from one that
/// crashed does not crash again at the same place.
#[derive(Debug, Clone, Default)]
pub struct Faults(Arc<Mutex<Vec<Fault>>>);

impl Faults {
    /// These faults.
    #[must_use]
    pub fn new(faults: Vec<Fault>) -> Self {
        Faults(Arc::new(Mutex::new(faults)))
    }

    /// The faults that were not committed.
    #[must_use]
    pub fn left(&self) -> Vec<Fault> {
        self.with(|faults| faults.clone())
    }

    fn with<T>(&self, use_them: impl FnOnce(&mut Vec<Fault>) -> T) -> T {
        use_them(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn take(&self, wanted: &Fault) -> bool {
        self.with(|faults| match faults.iter().position(|fault| fault == wanted) {
            Some(found) => {
                faults.remove(found);
                true
            }
            None => false,
        })
    }

    pub(crate) fn crashes(&self, entry: u64, moment: Moment) -> bool {
        self.take(&Fault::CrashAt { entry, moment })
    }

    /// Whether `step` fails now, and if so, whether another try is worth it.
    pub(crate) fn fails(&self, step: &str, moment: Moment) -> Option<bool> {
        let fault = |again| Fault::FailStep { step: step.to_owned(), moment, again };
        if self.with(|faults| faults.contains(&fault(false))) {
            // Not used up: a crash before it was written must not make the step go well.
            return Some(false);
        }
        self.take(&fault(true)).then_some(true)
    }

    pub(crate) fn fails_undo(&self, wanted: &str) -> bool {
        self.with(|faults| {
            faults.iter_mut().any(|fault| match fault {
                Fault::FailUndo { step, times } if step == wanted && *times > 0 => {
                    *times -= 1;
                    true
                }
                _ => false,
            })
        })
    }

    pub(crate) fn step_twice(&self) -> bool {
        self.with(|faults| faults.contains(&Fault::EveryStepTwice))
    }

    pub(crate) fn undo_twice(&self) -> bool {
        self.with(|faults| faults.contains(&Fault::EveryUndoTwice))
    }
}
