//! Moments and spans, as integers that come in from outside.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A moment: microseconds since the Unix epoch, the resolution that Postgres keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The moment `micros` microseconds after the Unix epoch.
    #[must_use]
    pub const fn from_micros(micros: i64) -> Self {
        Timestamp(micros)
    }

    /// The moment `millis` milliseconds after the Unix epoch; the far end of time if that overflows.
    #[must_use]
    pub fn from_millis(millis: u64) -> Self {
        let micros = i64::try_from(millis).ok().and_then(|ms| ms.checked_mul(1000));
        Timestamp(micros.unwrap_or(i64::MAX))
    }

    /// Microseconds since the Unix epoch.
    #[must_use]
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// Milliseconds since the Unix epoch, rounded down.
    #[must_use]
    pub const fn millis(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// The moment `millis` milliseconds later.
    #[must_use]
    pub fn plus_millis(self, millis: u64) -> Self {
        let span = i64::try_from(millis).unwrap_or(i64::MAX).saturating_mul(1000);
        Timestamp(self.0.saturating_add(span))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}us", self.0)
    }
}
