//! How each part is doing, for whoever asks.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// The parts of a running ledger, each well or with a problem in words.
#[derive(Debug, Default)]
pub struct Health(Mutex<BTreeMap<&'static str, Option<String>>>);

impl Health {
    /// `part` is well.
    pub fn well(&self, part: &'static str) {
        self.set(part, None);
    }

    /// `part` is not there yet.
    pub fn starting(&self, part: &'static str) {
        let mut parts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        parts.insert(part, Some("starting".to_owned()));
    }

    /// `part` has a problem.
    pub fn ill(&self, part: &'static str, problem: impl Into<String>) {
        self.set(part, Some(problem.into()));
    }

    /// Every part that has said something, with its problem if it has one.
    #[must_use]
    pub fn parts(&self) -> BTreeMap<&'static str, Option<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, part: &'static str, problem: Option<String>) {
        let mut parts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = parts.insert(part, problem.clone());
        drop(parts);
        match problem {
            Some(problem) if before.flatten().as_ref() != Some(&problem) => {
                tracing::warn!(part, problem, "not well")
            }
            _ => {}
        }
    }
}
