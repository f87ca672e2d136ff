//! The runner: starts sagas, goes on with those that others left, and finds those whose log was lost.
//!
//! **Shape.** [`Runner::run`] drives one saga for a caller who waits. [`Runner::serve`] runs beside it for
//! as long as the service does: it follows the logs, and drives on whatever was silent for longer than
//! the lease, or was resumed by an operator.
//!
//! **Correctness.** Whether a saga is silent is judged by clocks, so two instances may take it at the
//! same time; only one of them can append `taken`, and the other is fenced. Within a process a saga is
//! driven once, which the set of driven sagas makes sure of.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use holdfast_client::Client;
use holdfast_client::query::OpenSaga;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::definition::Saga;
use crate::driver::{Driver, Shared};
use crate::entry::{Origin, What};
use crate::error::SagaError;
use crate::index::Index;
use crate::key::SagaKey;
use crate::log::{SagaLog, Stored, Writer, now_ms};
use crate::money::{Money, reserve_body};
use crate::options::RunnerOptions;
use crate::outcome::SagaOutcome;
use crate::state::{Broken, State, fold};
use crate::timeline::{Line, Summary, lines, summaries};

/// How long to wait before following the logs again after an error.
const BACKOFF: Duration = Duration::from_secs(1);
/// The shortest time between two sweeps.
const SWEEP_LEAST: Duration = Duration::from_millis(50);

/// Drives the sagas of one definition. Cheap to clone; clones drive as one.
pub struct Runner<S: Saga> {
    shared: Arc<Shared<S>>,
    client: Client,
    log: SagaLog,
    driven: Arc<Mutex<HashSet<SagaKey>>>,
}

impl<S: Saga> Clone for Runner<S> {
    fn clone(&self) -> Self {
        Runner {
            shared: Arc::clone(&self.shared),
            client: self.client.clone(),
            log: self.log.clone(),
            driven: Arc::clone(&self.driven),
        }
    }
}

/// What became of one open hold that names a saga.
#[derive(Debug)]
pub struct Reconciled {
    /// The saga.
    pub saga: SagaKey,
    /// How it ended, or why not.
    pub outcome: Result<SagaOutcome, SagaError>,
}

impl<S: Saga> Runner<S> {
    /// A runner that asks the ledger through `client`, whose NATS account has the stream of sagas.
    ///
    /// # Errors
    /// [`SagaError::Log`] when the stream is not there and cannot be made.
    pub async fn new(client: Client, saga: S, options: RunnerOptions) -> Result<Self, SagaError> {
        let log = SagaLog::open(client.nats().clone()).await?;
        Ok(Self::over(client, log, Arc::new(saga), options))
    }

    fn over(client: Client, log: SagaLog, saga: Arc<S>, options: RunnerOptions) -> Self {
        let money = Money::new(client.clone(), &options);
        let shared = Arc::new(Shared { saga, money, options });
        Runner { shared, client, log, driven: Arc::default() }
    }

    /// A runner as another process would have it: of the same settings, with nothing remembered.
    pub(crate) fn restarted(&self) -> Self {
        let options = self.shared.options.clone();
        Self::over(self.client.clone(), self.log.clone(), Arc::clone(&self.shared.saga), options)
    }

    pub(crate) fn limits(&self) -> crate::state::Limits {
        self.shared.options.limits
    }

    /// The log, in which every saga of the service is.
    #[must_use]
    pub fn log(&self) -> &SagaLog {
        &self.log
    }

    /// The name of this definition's saga `id`.
    ///
    /// # Errors
    /// [`SagaError::Key`] when the id cannot be one.
    pub fn key(&self, id: &str) -> Result<SagaKey, SagaError> {
        Ok(SagaKey::new(S::NAME, id)?)
    }

    /// Runs the saga `id` to its end, or until it is stuck. Starting it again with the same account and
    /// input is safe: the outcome of one that has ended is told again, one that was left is driven on.
    ///
    /// Dropping the future leaves the saga to [`Runner::serve`] of any instance.
    ///
    /// # Errors
    /// [`SagaError::Driven`] when it is being driven elsewhere; [`SagaError::OtherInput`] when the id
    /// was used for another. Whatever comes from the ledger or the log leaves the saga to a later sweep.
    pub async fn run(&self, id: &str, account: &str, input: &S::Input) -> Result<SagaOutcome, SagaError> {
        let saga = self.key(id)?;
        let _driving = self.drives(&saga)?;
        let stored = self.log.read(&saga).await?;
        let Some(last) = stored.last() else { return self.start(saga, account, input).await };
        let state = folded(&saga, &stored)?;
        if state.origin != Origin::Lost && (state.account != account || state.input != written(input)?) {
            return Err(SagaError::OtherInput(saga));
        }
        if let Some(outcome) = SagaOutcome::of(&saga, &state) {
            return Ok(outcome);
        }
        if !self.is_left(last) {
            return Err(SagaError::Driven { saga, by: last.entry.by.clone() });
        }
        self.go_on(saga, &stored, state).await
    }

    /// Drives a saga on at once, whoever drives it now and however short the silence: that instance is
    /// fenced. For operators and tests; [`Runner::serve`] waits for the lease.
    ///
    /// # Errors
    /// [`SagaError::Unknown`] when there is no such saga, and as for [`Runner::run`].
    pub async fn take_over(&self, id: &str) -> Result<SagaOutcome, SagaError> {
        let saga = self.key(id)?;
        let _driving = self.drives(&saga)?;
        let stored = self.log.read(&saga).await?;
        if stored.is_empty() {
            return Err(SagaError::Unknown(saga));
        }
        let state = folded(&saga, &stored)?;
        match SagaOutcome::of(&saga, &state) {
            Some(outcome) => Ok(outcome),
            None => self.go_on(saga, &stored, state).await,
        }
    }

    /// Lets a saga that is stuck go on, and drives it. With `by_hand` the undo that is stuck counts as
    /// done; without, it is tried again.
    ///
    /// # Errors
    /// [`SagaError::NotStuck`], and as for [`Runner::take_over`].
    pub async fn resume(&self, id: &str, by_hand: bool) -> Result<SagaOutcome, SagaError> {
        let saga = self.key(id)?;
        self.log.resume(&saga, &self.shared.options.instance, by_hand).await?;
        self.take_over(id).await
    }

    /// What became of the saga `id`; none while it is under way, and when there is no such saga.
    ///
    /// # Errors
    /// [`SagaError::Log`] when the log cannot be read, [`SagaError::Broken`] when it is not whole.
    pub async fn outcome(&self, id: &str) -> Result<Option<SagaOutcome>, SagaError> {
        let saga = self.key(id)?;
        let stored = self.log.read(&saga).await?;
        if stored.is_empty() {
            return Ok(None);
        }
        Ok(SagaOutcome::of(&saga, &folded(&saga, &stored)?))
    }

    /// What the saga `id` did, line by line; nothing when there is no such saga.
    ///
    /// # Errors
    /// [`SagaError::Log`] when the log cannot be read.
    pub async fn timeline(&self, id: &str) -> Result<Vec<Line>, SagaError> {
        let stored = self.log.read(&self.key(id)?).await?;
        Ok(lines(stored.iter().map(|stored| &stored.entry)))
    }

    /// The sagas of this definition that the log still has, ended ones included.
    ///
    /// # Errors
    /// [`SagaError::Log`] when the log cannot be read.
    pub async fn list(&self) -> Result<Vec<Summary>, SagaError> {
        Ok(summaries(self.log.read_all(Some(S::NAME)).await?))
    }

    /// Goes on with sagas that were left, until it is dropped. Every instance of a service should run
    /// it. What it drives is dropped with it.
    pub async fn serve(&self) {
        let (mut index, mut drives) = (Index::default(), JoinSet::new());
        loop {
            if let Err(error) = self.follow(&mut index, &mut drives).await {
                tracing::warn!(%error, saga = S::NAME, "the logs of sagas cannot be followed; trying again");
            }
            sleep(BACKOFF).await;
        }
    }

    /// Follows the logs until something is not as it should be.
    async fn follow(&self, index: &mut Index, drives: &mut JoinSet<()>) -> Result<(), SagaError> {
        let created = self.log.ensure().await?;
        if index.created != created {
            *index = Index::of(created);
        }
        let mut deliveries = self.log.deliveries(&SagaKey::subjects_of(S::NAME), index.last + 1).await?;
        let mut sweep = interval((self.shared.options.lease / 3).max(SWEEP_LEAST));
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                stored = deliveries.next() => {
                    if let Some(stored) = stored? {
                        index.apply(&stored);
                    }
                    index.last = deliveries.last;
                }
                _ = sweep.tick() => {
                    if self.log.ensure().await? != created {
                        return Err(SagaError::Log("the stream was made anew".to_owned()));
                    }
                    metrics::gauge!("holdfast_sagas_stuck", "saga" => S::NAME).set(number(index.stuck()));
                }
            }
            // What is not read yet may say that a saga has long ended.
            if deliveries.pending == 0 {
                self.drive_due(index, drives);
            }
        }
    }

    fn drive_due(&self, index: &Index, drives: &mut JoinSet<()>) {
        while drives.try_join_next().is_some() {}
        let lease_ms = u64::try_from(self.shared.options.lease.as_millis()).unwrap_or(u64::MAX);
        for saga in index.due(now_ms(), lease_ms) {
            if drives.len() >= self.shared.options.parallel_max {
                return;
            }
            if self.is_driven(&saga) {
                continue;
            }
            let runner = self.clone();
            drives.spawn(async move { runner.drive_left(saga).await });
        }
    }

    /// Drives a saga on that seems to have been left, and says in the process's log what went wrong.
    async fn drive_left(&self, saga: SagaKey) {
        match self.go_on_if_left(&saga).await {
            Ok(Some(outcome)) => {
                tracing::info!(%saga, ended = outcome.ended.as_str(), "a saga that was left was driven on");
            }
            // Somebody else was faster.
            Ok(None) | Err(SagaError::Fenced(_) | SagaError::Driven { .. }) => {}
            Err(error) => {
                tracing::warn!(%saga, %error, "a saga that was left could not be driven to its end")
            }
        }
    }

    async fn go_on_if_left(&self, saga: &SagaKey) -> Result<Option<SagaOutcome>, SagaError> {
        let _driving = self.drives(saga)?;
        let stored = self.log.read(saga).await?;
        let Some(last) = stored.last().filter(|last| self.is_left(last)) else { return Ok(None) };
        if matches!(last.entry.what, What::Ended { .. } | What::Stuck { .. }) {
            return Ok(None);
        }
        let state = folded(saga, &stored)?;
        self.go_on(saga.clone(), &stored, state).await.map(Some)
    }

    /// The open holds that name a saga of this definition, as the ledger's projections have them: for
    /// [`Runner::reconcile`]. At most 1,000, the oldest first.
    ///
    /// # Errors
    /// [`SagaError::Query`] when the ledger does not answer.
    pub async fn open_sagas(&self) -> Result<Vec<OpenSaga>, SagaError> {
        let open = self.client.open_sagas(S::NAME).await;
        open.map_err(|error| SagaError::Query(error.to_string()))
    }

    /// Compares the open holds of the ledger with the logs, and drives again every saga of this
    /// definition whose log is missing or has lost its beginning: from its input, if
    /// [`Saga::recover`] knows it, else it is undone and its hold settled. The logs of all are begun
    /// again before the first is driven; then as many as [`RunnerOptions::parallel_max`] are driven at a
    /// time, each to its end. The answer tells of those alone; one that fails keeps no other back.
    ///
    /// A saga's log begins before it reserves, so a hold without a log has lost it. A hold that is not
    /// the saga's own, but of another service's saga of the same name, is let alone.
    pub async fn reconcile(&self, open: Vec<OpenSaga>) -> Vec<Reconciled> {
        let (mut reconciled, mut begun) = (Vec::new(), Vec::new());
        for hold in open {
            let Some(saga) = self.saga_of(&hold) else { continue };
            match self.begin_again(&saga, hold).await {
                Ok(None) => {}
                Ok(Some(driving)) => begun.push(driving),
                Err(error) => reconciled.push(Reconciled { saga, outcome: Err(error) }),
            }
        }
        let (mut begun, mut drives) = (begun.into_iter(), JoinSet::new());
        let parallel = self.shared.options.parallel_max.max(1);
        loop {
            for (driving, driver) in begun.by_ref().take(parallel - drives.len()) {
                drives.spawn(async move {
                    let outcome = Box::pin(driver.drive()).await;
                    Reconciled { saga: driving.saga.clone(), outcome }
                });
            }
            match drives.join_next().await {
                Some(Ok(ended)) => reconciled.push(ended),
                Some(Err(error)) => tracing::error!(%error, "driving a saga again has failed"),
                None => return reconciled,
            }
        }
    }

    /// The saga of this definition whose hold it is, if it is one that this process does not drive.
    fn saga_of(&self, open: &OpenSaga) -> Option<SagaKey> {
        let saga = open.saga.parse::<SagaKey>().ok()?;
        let ours = saga.definition() == S::NAME && open.hold == saga.hold(&self.shared.options.issuer);
        (ours && !self.is_driven(&saga)).then_some(saga)
    }

    /// Begins the log of a saga again, when it is not whole.
    async fn begin_again(
        &self,
        saga: &SagaKey,
        open: OpenSaga,
    ) -> Result<Option<(Driving, Driver<S>)>, SagaError> {
        let driving = self.drives(saga)?;
        let stored = self.log.read(saga).await?;
        let broken = match fold(stored.iter().map(|stored| &stored.entry)) {
            Ok(state) => {
                if state.ended.is_some() {
                    tracing::error!(%saga, hold = %open.hold, "a saga has ended, but its hold is open");
                }
                return Ok(None);
            }
            Err(broken) => broken,
        };
        tracing::warn!(%saga, %broken, "a saga's log is not whole; driving it again from its hold");
        let recovered = self.shared.saga.recover(saga.id()).await;
        let recovered = recovered.map_err(|failure| SagaError::Log(format!("its input: {failure}")))?;
        let (origin, reserve, input) = match &recovered {
            Some(input) => {
                let reserve = reserve_body(saga, &self.shared.saga.estimate(input));
                (Origin::Recovered, reserve, serde_json::to_value(input)?)
            }
            None => (Origin::Lost, Value::Null, Value::Null),
        };
        let started = What::Started { account: open.account, hold: open.hold, reserve, input, origin };
        let writer = self.writer(saga, stored.last());
        let driver = Driver::begin(Arc::clone(&self.shared), saga.clone(), writer, started).await?;
        Ok(Some((driving, driver)))
    }

    async fn start(&self, saga: SagaKey, account: &str, input: &S::Input) -> Result<SagaOutcome, SagaError> {
        let started = What::Started {
            account: account.to_owned(),
            hold: saga.hold(&self.shared.options.issuer),
            reserve: reserve_body(&saga, &self.shared.saga.estimate(input)),
            input: serde_json::to_value(input)?,
            origin: Origin::New,
        };
        let writer = self.writer(&saga, None);
        let driver = Driver::begin(Arc::clone(&self.shared), saga, writer, started).await?;
        // A saga's future holds those of all that a step may do: too much for the stack of a caller.
        Box::pin(driver.drive()).await
    }

    async fn go_on(&self, saga: SagaKey, stored: &[Stored], state: State) -> Result<SagaOutcome, SagaError> {
        let writer = self.writer(&saga, stored.last());
        let mut driver = Driver::new(Arc::clone(&self.shared), saga, writer, state);
        driver.take().await?;
        Box::pin(driver.drive()).await
    }

    fn writer(&self, saga: &SagaKey, last: Option<&Stored>) -> Writer {
        let (sequence, n) = last.map_or((0, 0), |last| (last.sequence, last.entry.n));
        Writer::after(self.log.clone(), saga.clone(), &self.shared.options.instance, sequence, n)
    }

    /// Whether whoever wrote this last entry has left the saga.
    fn is_left(&self, last: &Stored) -> bool {
        let lease_ms = u64::try_from(self.shared.options.lease.as_millis()).unwrap_or(u64::MAX);
        matches!(last.entry.what, What::Resumed { .. }) || now_ms().saturating_sub(last.stored_ms) >= lease_ms
    }

    fn is_driven(&self, saga: &SagaKey) -> bool {
        self.driven.lock().unwrap_or_else(PoisonError::into_inner).contains(saga)
    }

    fn drives(&self, saga: &SagaKey) -> Result<Driving, SagaError> {
        let mut driven = self.driven.lock().unwrap_or_else(PoisonError::into_inner);
        if !driven.insert(saga.clone()) {
            return Err(SagaError::Driven { saga: saga.clone(), by: "this process".to_owned() });
        }
        drop(driven);
        Ok(Driving { saga: saga.clone(), driven: Arc::clone(&self.driven) })
    }
}

/// That this process drives a saga; ends when it is dropped.
struct Driving {
    saga: SagaKey,
    driven: Arc<Mutex<HashSet<SagaKey>>>,
}

impl Drop for Driving {
    fn drop(&mut self) {
        self.driven.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.saga);
    }
}

fn folded(saga: &SagaKey, stored: &[Stored]) -> Result<State, SagaError> {
    let state = fold(stored.iter().map(|stored| &stored.entry));
    state.map_err(|broken: Broken| SagaError::Broken { saga: saga.clone(), broken })
}

/// An input as its log has it: floats may change once when they are written.
fn written(input: &impl serde::Serialize) -> Result<Value, SagaError> {
    Ok(serde_json::from_slice(&serde_json::to_vec(input)?)?)
}

/// Metrics are floats.
fn number(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}
