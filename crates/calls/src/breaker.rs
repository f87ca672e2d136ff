//! Circuit breakers: who did not answer several times in a row is left alone for a while.
//!
//! **Shape.** [`Breaker::acquire`] gives a [`Permit`] for one attempt, which reports how it went.
//! One breaker stands before the ledger's `reserve`, and one before each provider
//! ([`Provider::call`]). Captures and releases pass none: they must arrive however long it takes.
//!
//! **Correctness.** A permit from before the state changed no longer counts, so a slow failure of
//! last minute cannot open what a probe has just closed. A permit that is dropped without a
//! report (its caller went away) says nothing, and frees the place of the probe.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::options::RetryPolicy;

/// When a breaker opens, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerPolicy {
    /// How many failures in a row open it; at least 1.
    pub failures: u32,
    /// How long it stays open before one attempt is let through.
    pub cool_down: Duration,
}

impl Default for BreakerPolicy {
    fn default() -> Self {
        BreakerPolicy { failures: 5, cool_down: Duration::from_secs(10) }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Attempts pass; so many in a row have failed.
    Closed { failures: u32 },
    /// No attempt passes until then.
    Open { until: Instant },
    /// One attempt at a time passes, and decides.
    HalfOpen { probing: bool },
}

impl State {
    /// The value of the gauge.
    fn level(self) -> f64 {
        match self {
            State::Closed { .. } => 0.0,
            State::HalfOpen { .. } => 1.0,
            State::Open { .. } => 2.0,
        }
    }
}

struct Inner {
    state: State,
    /// Counts the changes between the three states.
    generation: u64,
}

/// The breaker lets nothing through at the moment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the breaker of {name} is open; try again in {retry_in:?}")]
pub struct BreakerOpen {
    /// What it stands before.
    pub name: String,
    /// When the next attempt may pass; zero while another attempt is deciding it.
    pub retry_in: Duration,
}

/// One circuit breaker.
pub(crate) struct Breaker {
    name: String,
    policy: BreakerPolicy,
    inner: Mutex<Inner>,
}

impl Breaker {
    pub(crate) fn new(name: impl Into<String>, policy: BreakerPolicy) -> Arc<Self> {
        let inner = Inner { state: State::Closed { failures: 0 }, generation: 0 };
        let breaker = Breaker { name: name.into(), policy, inner: Mutex::new(inner) };
        breaker.show(State::Closed { failures: 0 });
        Arc::new(breaker)
    }

    /// A permit for one attempt, now.
    pub(crate) fn acquire(self: &Arc<Self>) -> Result<Permit, BreakerOpen> {
        self.acquire_at(Instant::now())
    }

    fn acquire_at(self: &Arc<Self>, now: Instant) -> Result<Permit, BreakerOpen> {
        let mut inner = self.lock();
        let refused = |retry_in| Err(BreakerOpen { name: self.name.clone(), retry_in });
        let state = inner.state;
        match state {
            State::Closed { .. } => {}
            State::Open { until } if now < until => return refused(until - now),
            State::HalfOpen { probing: true } => return refused(Duration::ZERO),
            State::Open { .. } => self.change(&mut inner, State::HalfOpen { probing: true }),
            State::HalfOpen { probing: false } => inner.state = State::HalfOpen { probing: true },
        }
        let generation = inner.generation;
        Ok(Permit { breaker: Arc::clone(self), generation, reported: false })
    }

    fn report(&self, generation: u64, report: Report, now: Instant) {
        let mut inner = self.lock();
        if inner.generation != generation {
            return;
        }
        match (inner.state, report) {
            (State::Closed { .. }, Report::Success) => inner.state = State::Closed { failures: 0 },
            (State::Closed { failures }, Report::Failure) => {
                let failures = failures.saturating_add(1);
                if failures >= self.policy.failures {
                    self.change(&mut inner, State::Open { until: now + self.policy.cool_down });
                } else {
                    inner.state = State::Closed { failures };
                }
            }
            (State::HalfOpen { .. }, Report::Success) => {
                self.change(&mut inner, State::Closed { failures: 0 });
            }
            (State::HalfOpen { .. }, Report::Failure) => {
                self.change(&mut inner, State::Open { until: now + self.policy.cool_down });
            }
            (State::HalfOpen { .. }, Report::Nothing) => inner.state = State::HalfOpen { probing: false },
            // No permit is given while it is open, so there is none of that generation.
            (State::Closed { .. }, Report::Nothing) | (State::Open { .. }, _) => {}
        }
    }

    fn change(&self, inner: &mut Inner, state: State) {
        inner.state = state;
        inner.generation += 1;
        self.show(state);
        tracing::warn!(breaker = %self.name, ?state, "a circuit breaker changed its state");
    }

    fn show(&self, state: State) {
        metrics::gauge!("holdfast_breaker_state", "name" => self.name.clone()).set(state.level());
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Report {
    Success,
    Failure,
    Nothing,
}

/// One attempt's leave to go on.
pub(crate) struct Permit {
    breaker: Arc<Breaker>,
    generation: u64,
    reported: bool,
}

impl Permit {
    /// The other side answered, whatever it said.
    pub(crate) fn success(self) {
        self.report_at(Report::Success, Instant::now());
    }

    /// The other side did not answer, or is not well.
    pub(crate) fn failure(self) {
        self.report_at(Report::Failure, Instant::now());
    }

    fn report_at(mut self, report: Report, now: Instant) {
        self.reported = true;
        self.breaker.report(self.generation, report, now);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if !self.reported {
            self.breaker.report(self.generation, Report::Nothing, Instant::now());
        }
    }
}

/// How an attempt at a provider failed; it decides whether it is tried again, and whether it
/// speaks against the provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault<E> {
    /// The request never left (connection refused, name not found): tried again, counts.
    NotDispatched(E),
    /// The provider turned the request away without working on it (429): tried again, counts.
    Throttled {
        /// What it said.
        error: E,
        /// When it wants to be asked again (`Retry-After`).
        retry_after: Option<Duration>,
    },
    /// The provider failed, or its answer is lost (408, 499, 504, 522 and 524 say no more than that);
    /// it may have worked and may bill: never tried again here, counts.
    Failed(E),
    /// The request is at fault (400, 401): not tried again, does not count.
    Refused(E),
}

impl<E> Fault<E> {
    /// The error itself.
    pub fn into_error(self) -> E {
        match self {
            Fault::NotDispatched(error)
            | Fault::Throttled { error, .. }
            | Fault::Failed(error)
            | Fault::Refused(error) => error,
        }
    }
}

/// Why a provider's call has no result.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError<E> {
    /// It was not tried: the provider has failed too often of late.
    #[error(transparent)]
    Open(#[from] BreakerOpen),
    /// The last attempt failed.
    #[error("{0}")]
    Failed(E),
}

/// A provider behind its breaker; from [`crate::Calls::provider`].
#[derive(Clone)]
pub struct Provider {
    breaker: Arc<Breaker>,
    retry: RetryPolicy,
}

impl Provider {
    /// Calls the provider. `call` makes one attempt and classes its failure as a [`Fault`]; it is
    /// called again only after faults that say that nothing was worked on, with growing pauses,
    /// and at most as often as [`crate::Options::provider_retry`] says.
    ///
    /// Mark the hold as dispatched before, once: repeats do not need it again.
    ///
    /// # Errors
    /// [`ProviderError::Open`] without an attempt; [`ProviderError::Failed`] with the last error.
    pub async fn call<T, E, F, A>(&self, mut call: F) -> Result<T, ProviderError<E>>
    where
        F: FnMut() -> A,
        A: Future<Output = Result<T, Fault<E>>>,
    {
        let mut attempt = 0;
        loop {
            let permit = self.breaker.acquire()?;
            let fault = match call().await {
                Ok(value) => {
                    permit.success();
                    return Ok(value);
                }
                Err(fault) => fault,
            };
            if matches!(fault, Fault::Refused(_)) {
                permit.success()
            } else {
                permit.failure()
            }
            let wanted = match &fault {
                Fault::NotDispatched(_) => Duration::ZERO,
                Fault::Throttled { retry_after, .. } => retry_after.unwrap_or_default(),
                Fault::Failed(_) | Fault::Refused(_) => {
                    return Err(ProviderError::Failed(fault.into_error()));
                }
            };
            // Who wants a longer pause than we make would only turn the next attempt away too.
            if attempt + 1 >= self.retry.attempts || wanted > self.retry.pause_max {
                return Err(ProviderError::Failed(fault.into_error()));
            }
            sleep(self.retry.pause_after(attempt).max(wanted)).await;
            attempt += 1;
        }
    }
}

/// The breakers of all providers, by name.
pub(crate) struct Providers {
    policy: BreakerPolicy,
    retry: RetryPolicy,
    known: Mutex<HashMap<String, Arc<Breaker>>>,
}

impl Providers {
    pub(crate) fn new(policy: BreakerPolicy, retry: RetryPolicy) -> Self {
        Providers { policy, retry, known: Mutex::default() }
    }

    /// The provider `name`; the same breaker for the same name.
    pub(crate) fn of(&self, name: &str) -> Provider {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Breaker::new(name, self.policy);
        let breaker = Arc::clone(known.entry(name.to_owned()).or_insert_with(new));
        Provider { breaker, retry: self.retry }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: BreakerPolicy = BreakerPolicy { failures: 2, cool_down: Duration::from_secs(10) };

    /// A step: at which second, how the attempt ends (or that none may pass), and the level after.
    #[derive(Clone, Copy)]
    enum Step {
        Good(u64, f64),
        Bad(u64, f64),
        Gone(u64, f64),
        Shut(u64, f64),
    }
    use Step::{Bad, Gone, Good, Shut};

    #[test]
    fn states() {
        let cases: &[(&str, &[Step])] = &[
            ("failures in a row open it", &[Bad(0, 0.0), Bad(0, 2.0), Shut(9, 2.0)]),
            ("a success between starts the count anew", &[Bad(0, 0.0), Good(0, 0.0), Bad(0, 0.0)]),
            (
                "after the cool-down a probe closes it",
                &[Bad(0, 0.0), Bad(0, 2.0), Good(10, 0.0), Bad(10, 0.0)],
            ),
            ("a probe that fails opens it again", &[Bad(0, 0.0), Bad(0, 2.0), Bad(10, 2.0), Shut(19, 2.0)]),
            ("a probe that left makes room", &[Bad(0, 0.0), Bad(0, 2.0), Gone(10, 1.0), Good(10, 0.0)]),
        ];
        for (what, steps) in cases {
            let (breaker, start) = (Breaker::new("test", POLICY), Instant::now());
            for (at, step) in steps.iter().enumerate() {
                let (Good(second, level) | Bad(second, level) | Gone(second, level) | Shut(second, level)) =
                    *step;
                let now = start + Duration::from_secs(second);
                match (step, breaker.acquire_at(now)) {
                    (Good(..), Ok(permit)) => permit.report_at(Report::Success, now),
                    (Bad(..), Ok(permit)) => permit.report_at(Report::Failure, now),
                    (Gone(..), Ok(permit)) => drop(permit),
                    (Shut(..), Err(_)) => {}
                    (_, passed) => panic!("{what}, step {at}: passed: {}", passed.is_ok()),
                }
                let now_level = breaker.lock().state.level();
                assert!((now_level - level).abs() < 0.1, "{what}, step {at}: {now_level}");
            }
        }
    }

    #[test]
    fn one_probe_at_a_time_and_old_permits_do_not_count() {
        let (breaker, start) = (Breaker::new("test", POLICY), Instant::now());
        let old = breaker.acquire_at(start).expect("closed");
        for _ in 0..2 {
            breaker.acquire_at(start).expect("closed").report_at(Report::Failure, start);
        }
        let later = start + POLICY.cool_down;
        let probe = breaker.acquire_at(later).expect("the probe");
        assert!(breaker.acquire_at(later).is_err(), "only one probe");
        old.report_at(Report::Failure, later);
        probe.report_at(Report::Success, later);
        assert!(breaker.acquire_at(later).is_ok(), "the probe decided");
    }

    #[tokio::test]
    async fn only_what_was_not_worked_on_is_tried_again() {
        let retry =
            RetryPolicy { attempts: 3, pause: Duration::from_millis(1), pause_max: Duration::from_millis(5) };
        let policy = BreakerPolicy { failures: 100, cool_down: Duration::from_secs(1) };
        let throttled = Fault::Throttled { error: "429", retry_after: None };
        let patient = Fault::Throttled { error: "429", retry_after: Some(Duration::from_secs(60)) };
        let cases = [
            (Fault::NotDispatched("refused"), 3),
            (throttled, 3),
            (patient, 1),
            (Fault::Failed("500"), 1),
            (Fault::Refused("400"), 1),
        ];
        for (fault, attempts) in cases {
            let (provider, mut made) = (Providers::new(policy, retry).of("test"), 0);
            let result: Result<(), _> = provider
                .call(|| {
                    made += 1;
                    std::future::ready(Err(fault.clone()))
                })
                .await;
            assert!(matches!(result, Err(ProviderError::Failed(_))), "{fault:?}");
            assert_eq!(made, attempts, "{fault:?}");
        }
    }
}
