//! How a runner drives sagas.

use std::time::Duration;

use holdfast_core::Issuer;

use crate::faults::Faults;
use crate::state::Limits;

/// How a runner drives sagas. The defaults suit steps of seconds to minutes.
#[derive(Debug, Clone)]
pub struct RunnerOptions {
    /// The service in whose name the client signs; every id is derived from it.
    pub issuer: Issuer,
    /// This instance's name in the logs, for people; a random part is added for each run of a saga.
    pub instance: String,
    /// How long a saga's log may be silent before another instance drives the saga on. Whoever drives
    /// it writes at least three times as often.
    pub lease: Duration,
    /// How often actions and undos are tried.
    pub limits: Limits,
    /// How long one try of an action or an undo may take; then it has failed, and may be tried again.
    pub try_within: Duration,
    /// How long to wait for the outcome of a command before the saga is left to a later sweep.
    pub ledger_within: Duration,
    /// For how long a reserve is worth deciding. A saga that could not even reserve within this is
    /// refused.
    pub reserve_within: Duration,
    /// How many sagas that others left are driven at a time.
    pub parallel_max: usize,
    /// Faults to commit; none but in tests.
    pub faults: Faults,
}

impl RunnerOptions {
    /// The defaults, for the service `issuer`.
    #[must_use]
    pub fn new(issuer: Issuer) -> Self {
        RunnerOptions {
            issuer,
            instance: "runner".to_owned(),
            lease: Duration::from_secs(60),
            limits: Limits::default(),
            try_within: Duration::from_secs(15 * 60),
            ledger_within: Duration::from_secs(60),
            reserve_within: Duration::from_secs(10 * 60),
            parallel_max: 64,
            faults: Faults::default(),
        }
    }
}
