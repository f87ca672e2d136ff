//! What a process chooses once: where its journal is, how long it waits, when it gives up.

use std::path::PathBuf;
use std::time::Duration;

use holdfast_client::Client;
use holdfast_core::Asset;
use holdfast_core::command::TTL_DEFAULT_MS;

use crate::breaker::BreakerPolicy;

/// How long a service that is about to call a model waits for the ledger.
const RESERVE_WITHIN: Duration = Duration::from_secs(5);
/// How long a caller waits for the outcome of its capture; the driver goes on after it.
const SETTLE_WITHIN: Duration = Duration::from_secs(10);
/// How long an abandoned stream is read on for its usage.
const DRAIN_WITHIN: Duration = Duration::from_secs(120);
/// How long a looked-up price is used again. A price change reaches new calls within this time.
const QUOTE_FOR: Duration = Duration::from_secs(60);
/// Settlements that are on the way at once; more would only queue in front of the lane.
const SETTLE_CONCURRENCY: usize = 64;

/// How [`crate::Calls`] is set up. [`Options::new`] has defaults for everything but two members.
#[derive(Clone)]
pub struct Options {
    /// The connection to the ledger, under the service's own issuer.
    pub client: Client,
    /// The journal's file. One process at a time may use it; it must be on a disk that survives
    /// the process.
    pub journal: PathBuf,
    /// The asset of the accounts that are charged. Prices are computed in its smallest unit, so
    /// accounts of another asset need a [`crate::Calls`] (and a journal) of their own.
    pub asset: Asset,
    /// How long a hold lives unless the call says otherwise; at most 24 hours.
    pub ttl: Duration,
    /// How long to wait for the outcome of a reserve.
    pub reserve_within: Duration,
    /// How long to wait for the outcome of a capture or release, before it is left to the driver.
    pub settle_within: Duration,
    /// How long [`crate::Hold::abandon`] reads on for the usage.
    pub drain_within: Duration,
    /// For how long a looked-up price is used again.
    pub quote_for: Duration,
    /// How many settlements may be on the way at once; at least 1.
    pub settle_concurrency: usize,
    /// When the ledger is taken for down.
    pub ledger_breaker: BreakerPolicy,
    /// When a provider is taken for down.
    pub provider_breaker: BreakerPolicy,
    /// How often a provider is asked again where it did not work on the request.
    pub provider_retry: RetryPolicy,
}

impl Options {
    /// The defaults, for accounts in `USD`.
    #[must_use]
    pub fn new(client: Client, journal: impl Into<PathBuf>) -> Self {
        Options {
            client,
            journal: journal.into(),
            asset: Asset::USD,
            ttl: Duration::from_millis(TTL_DEFAULT_MS),
            reserve_within: RESERVE_WITHIN,
            settle_within: SETTLE_WITHIN,
            drain_within: DRAIN_WITHIN,
            quote_for: QUOTE_FOR,
            settle_concurrency: SETTLE_CONCURRENCY,
            ledger_breaker: BreakerPolicy::default(),
            provider_breaker: BreakerPolicy::default(),
            provider_retry: RetryPolicy::default(),
        }
    }
}

/// How often, and with which pauses, something is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// How often it is tried in all; 1 means never again.
    pub attempts: u32,
    /// The longest first pause. Each later one may be twice as long.
    pub pause: Duration,
    /// The longest pause of all, also when the other side asks for a longer one.
    pub pause_max: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        RetryPolicy { attempts: 3, pause: Duration::from_millis(250), pause_max: Duration::from_secs(10) }
    }
}

impl RetryPolicy {
    /// The pause after the `attempt`-th failure, counted from 0: anything up to twice the one
    /// before. Without the randomness those who failed together would come back together.
    #[must_use]
    pub fn pause_after(&self, attempt: u32) -> Duration {
        let factor = 1_u32.checked_shl(attempt.min(20)).unwrap_or(u32::MAX);
        let longest = self.pause.saturating_mul(factor).min(self.pause_max);
        // At least half, so that a draw near zero does not make it a busy loop.
        longest.mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_are_bounded() {
        let policy = RetryPolicy::default();
        for attempt in [0, 1, 5, 31, 32, u32::MAX] {
            let pause = policy.pause_after(attempt);
            assert!(pause >= policy.pause / 2 && pause <= policy.pause_max, "{attempt}: {pause:?}");
        }
        assert!(policy.pause_after(0) <= policy.pause);
    }
}
