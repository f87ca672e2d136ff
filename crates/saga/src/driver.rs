//! Drives one saga: asks the state machine, does it, writes what happened.
//!
//! **Shape.** A [`Driver`] is made by the runner for a saga that is new or that somebody left, and lives
//! until the saga has ended, is stuck, or belongs to somebody else.
//!
//! **Correctness.** Nothing is remembered that is not in the log: a driver that is dropped anywhere
//! leaves a saga that another can go on with. What is about to be tried is written before, what was
//! done after. What work cost is written before the ledger is told, so that a capture without an outcome
//! is asked for again, under its id, and the work is not done again. While something takes long the
//! driver writes `alive` and extends the hold beside it; when it is told that it is fenced, what was
//! running is dropped.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

use crate::definition::{Charge, Cost, Done, Failure, Saga, Step, StepContext, find};
use crate::entry::{Ending, Origin, What, cut};
use crate::error::SagaError;
use crate::faults::{Faults, Moment};
use crate::key::SagaKey;
use crate::log::Writer;
use crate::money::{Captured, Extended, Money, Paying, is_charge, ttl};
use crate::options::RunnerOptions;
use crate::outcome::SagaOutcome;
use crate::state::{EVERYTHING, Planned, Settlement, State, Todo, is_captured};

/// The largest output of a step, in bytes of JSON: a saga's log is read again whenever it is resumed.
const OUTPUT_MAX_BYTES: usize = 256 * 1024;
/// After an extension that did not happen, the next is asked for after this, or sooner.
const EXTEND_AGAIN_AFTER: Duration = Duration::from_secs(30);
/// The shortest time between two signs of life.
const BEAT_LEAST: Duration = Duration::from_millis(20);
/// What `alive` says between two tries.
const WAITING: &str = "(waiting)";
/// What `alive` says while the ledger is asked.
const LEDGER: &str = "(ledger)";

/// What all drivers of a runner have in common.
pub(crate) struct Shared<S> {
    pub(crate) saga: Arc<S>,
    pub(crate) money: Money,
    pub(crate) options: RunnerOptions,
}

/// One saga that is being driven.
pub(crate) struct Driver<S: Saga> {
    shared: Arc<Shared<S>>,
    saga: SagaKey,
    writer: Writer,
    state: State,
    input: Option<S::Input>,
    /// When the hold is to be extended.
    extend_at: Instant,
    /// Whether the hold may have ended before this driver began; then nothing is done until the ledger
    /// has said.
    hold_unknown: bool,
}

impl<S: Saga> Driver<S> {
    /// A driver of a saga whose log says this; `writer` goes on after it.
    pub(crate) fn new(shared: Arc<Shared<S>>, saga: SagaKey, writer: Writer, state: State) -> Self {
        // How long ago the hold was extended is not known.
        Driver { shared, saga, writer, state, input: None, extend_at: Instant::now(), hold_unknown: true }
    }

    /// Begins a saga's log. `started` must be the entry of that name.
    pub(crate) async fn begin(
        shared: Arc<Shared<S>>,
        saga: SagaKey,
        mut writer: Writer,
        started: What,
    ) -> Result<Self, SagaError> {
        let entry = append(&shared.options.faults, &mut writer, started).await?;
        let state = State::start(&entry).ok_or_else(|| SagaError::log("not the beginning of a log"))?;
        Ok(Driver::new(shared, saga, writer, state))
    }

    /// Writes that it is driven from here on; whoever drove it before is fenced.
    pub(crate) async fn take(&mut self) -> Result<(), SagaError> {
        self.append(What::Taken).await
    }

    /// Drives until the saga has ended or is stuck.
    pub(crate) async fn drive(mut self) -> Result<SagaOutcome, SagaError> {
        if let Err(error) = self.read_input() {
            self.park("(input)", &error).await?;
        }
        loop {
            self.keep_hold().await?;
            let todo = self.state.decide(&self.shared.options.limits, |done| {
                let step = self.shared.saga.next_step(self.input.as_ref()?, done)?;
                Some(Planned { name: step.name, charge: step.charge })
            });
            match todo {
                Todo::Reserve => self.reserve().await?,
                Todo::Act { step, charge, attempt, pause } => self.act(step, charge, attempt, pause).await?,
                Todo::Charge { step, attempt: None, cost } => self.charge(step, *cost).await?,
                Todo::Charge { step, attempt: Some(attempt), cost } => {
                    self.charge_attempt(step, attempt, *cost).await?;
                }
                Todo::Turn { because } => self.append(What::Undoing { because: cut(&because) }).await?,
                Todo::Undo { step, attempt, pause } => self.undo(step, attempt, pause).await?,
                Todo::Park { step, error } => self.park(&step, &error).await?,
                Todo::Settle(how) => self.settle(how).await?,
                Todo::LookUp { step } => self.look_up(step).await?,
                Todo::Refund { step, attempt } => self.refund(step, attempt).await?,
                Todo::End { ending, because } => self.end(ending, because).await?,
                Todo::Wait | Todo::Nothing => {
                    let outcome = SagaOutcome::of(&self.saga, &self.state);
                    return outcome.ok_or_else(|| SagaError::log("a saga has ended without an outcome"));
                }
            }
        }
    }

    /// The input as the definition reads it. One that it cannot read any more parks the saga: neither
    /// its steps nor their undos are known, until the program is mended.
    fn read_input(&mut self) -> Result<(), String> {
        if self.state.origin == Origin::Lost || self.state.ended.is_some() {
            return Ok(());
        }
        let input = serde_json::from_value(self.state.input.clone());
        self.input = Some(input.map_err(|error| format!("the definition cannot read it: {error}"))?);
        Ok(())
    }

    async fn append(&mut self, what: What) -> Result<(), SagaError> {
        let entry = append(&self.shared.options.faults, &mut self.writer, what).await?;
        self.state.apply(&entry);
        Ok(())
    }

    fn paying(&self) -> Paying {
        Paying::of(&self.saga, &self.state)
    }

    fn context(&self, step: &str, attempt: u32) -> StepContext {
        StepContext {
            saga: self.saga.clone(),
            account: self.state.account.clone(),
            hold: self.state.hold,
            step: step.to_owned(),
            attempt,
            done: Arc::new(self.state.outputs()),
            issuer: self.shared.options.issuer.clone(),
        }
    }

    fn find(&self, name: &str) -> Result<Step, Failure> {
        let found = self
            .input
            .as_ref()
            .and_then(|input| find(self.shared.saga.as_ref(), input, &self.state.outputs(), name));
        found.ok_or_else(|| Failure::last(format!("the definition has no step `{name}` any more")))
    }

    // The hold.

    async fn reserve(&mut self) -> Result<(), SagaError> {
        let (money, paying, body) = (self.shared.money.clone(), self.paying(), self.state.reserve.clone());
        let asked = async move { money.reserve(&paying, &body).await };
        match self.beating(LEDGER, asked).await?? {
            Ok(outcome) => {
                // One that was decided before may have run out, or may even be settled: find out.
                let fresh = Instant::now() + ttl(&self.state.reserve) / 2;
                self.extend_at = if outcome.replayed { Instant::now() } else { fresh };
                self.hold_unknown = outcome.replayed;
                let amount = outcome.amount.unwrap_or_default();
                self.append(What::Reserved { amount, replayed: outcome.replayed }).await
            }
            Err(problem) => self.end(Ending::Refused, Some(cut(&problem))).await,
        }
    }

    /// Extends the hold when half of its time is over.
    async fn keep_hold(&mut self) -> Result<(), SagaError> {
        let open = self.state.reserved && self.state.settled.is_none() && self.state.hold_lost.is_none();
        if !open
            || self.state.ended.is_some()
            || self.state.stuck.is_some()
            || Instant::now() < self.extend_at
        {
            return Ok(());
        }
        let ttl = ttl(&self.state.reserve);
        match self.shared.money.extend(&self.paying(), ttl).await? {
            Extended::Yes => self.extend_at = Instant::now() + ttl / 2,
            Extended::Unanswered(problem) if self.hold_unknown => return Err(SagaError::Query(problem)),
            Extended::NotNow(problem) | Extended::Unanswered(problem) => {
                tracing::warn!(saga = %self.saga, problem, "the hold of a saga was not extended");
                self.extend_later();
            }
            Extended::Ended(code) => {
                let lost = self.ended_how(code).await?;
                tracing::warn!(saga = %self.saga, found = ?lost, "the hold of a saga has ended under it");
                self.append(lost).await?;
            }
        }
        self.hold_unknown = false;
        Ok(())
    }

    fn extend_later(&mut self) {
        self.extend_at = Instant::now() + (ttl(&self.state.reserve) / 8).min(EXTEND_AGAIN_AFTER);
    }

    /// The hold has ended. By whom? Perhaps by the saga itself, whose log has lost its end since.
    async fn ended_how(&self, code: String) -> Result<What, SagaError> {
        let (money, paying) = (&self.shared.money, self.paying());
        let Some(how) = money.settled(&paying).await? else { return Ok(What::HoldLost { code }) };
        let charged = if is_captured(&how) { Some(money.charged_in_all(&paying).await?) } else { None };
        Ok(What::Settled { how, charged })
    }

    async fn settle(&mut self, how: Settlement) -> Result<(), SagaError> {
        let (money, paying) = (self.shared.money.clone(), self.paying());
        let asked = async move { money.settle(&paying, how).await };
        let how = self.beating(LEDGER, asked).await??;
        // A sign of life may have found the hold settled before the outcome came.
        if self.state.settled.is_some() {
            return Ok(());
        }
        self.append(What::Settled { how, charged: None }).await
    }

    async fn look_up(&mut self, step: String) -> Result<(), SagaError> {
        let (money, paying, name) = (self.shared.money.clone(), self.paying(), step.clone());
        // Tries that failed are known from the log, unless there was another one.
        let tries = if self.state.is_cut() { self.shared.options.limits.tries_max() } else { 0 };
        let asked = async move {
            let charged = money.charged(&paying, &name, None).await?;
            let mut attempts = Vec::new();
            for attempt in 1..=tries {
                let charged = money.charged(&paying, &name, Some(attempt)).await?;
                attempts.extend(charged.map(|charged| (attempt, charged)));
            }
            Ok::<_, SagaError>((charged.unwrap_or_else(|| "0".to_owned()), attempts))
        };
        let (charged, attempts) = self.beating(LEDGER, asked).await??;
        self.append(What::ChargeKnown { step, charged, attempts }).await
    }

    async fn refund(&mut self, step: String, attempt: Option<u32>) -> Result<(), SagaError> {
        let (money, paying, name) = (self.shared.money.clone(), self.paying(), step.clone());
        let asked = async move { money.refund(&paying, &name, attempt).await };
        let (amount, code) = self.beating(LEDGER, asked).await??;
        if let Some(code) = &code {
            tracing::warn!(saga = %self.saga, step, code, "the charge of an undone step was not refunded");
        }
        self.append(What::Refunded { step, attempt, amount, code }).await
    }

    // Steps.

    async fn act(
        &mut self,
        step: String,
        charge: Charge,
        attempt: u32,
        pause: Duration,
    ) -> Result<(), SagaError> {
        self.rest(pause).await?;
        self.append(What::StepBegun { step: step.clone(), attempt, charge }).await?;
        let (context, options) = (self.context(&step, attempt), &self.shared.options);
        let work = match self.find(&step) {
            Ok(found) => acting(found, context, options.faults.clone()),
            Err(failure) => std::future::ready(Err(failure)).boxed(),
        };
        let work = within(options.try_within, work);
        let result = match self.beating(&step, work).await? {
            Ok(done) => check_output(done),
            Err(failure) => Err(failure),
        };
        match result {
            Ok(done) => self.worked(step, done).await,
            Err(failure) => self.failed(step, &failure).await,
        }
    }

    async fn failed(&mut self, step: String, failure: &Failure) -> Result<(), SagaError> {
        let (again, error) = (failure.is_again(), cut(&failure.to_string()));
        tracing::info!(saga = %self.saga, step, again, error, "a step of a saga failed");
        let cost = failure.cost().filter(|cost| is_charge(cost)).cloned();
        self.append(What::StepFailed { step, again, error, cost }).await
    }

    /// Writes that the work is done; what it cost is captured next.
    async fn worked(&mut self, step: String, done: Done) -> Result<(), SagaError> {
        let output = done.output;
        match done.cost.filter(is_charge) {
            Some(cost) => self.append(What::StepWorked { step, output, cost }).await,
            None => self.append(What::StepDone { step, output, charged: None, late: false }).await,
        }
    }

    async fn capture(&mut self, step: &str, attempt: Option<u32>, cost: Cost) -> Result<Captured, SagaError> {
        let (money, paying, name) = (self.shared.money.clone(), self.paying(), step.to_owned());
        let asked = async move { money.capture(&paying, &name, attempt, &cost).await };
        self.beating(LEDGER, asked).await?
    }

    /// Captures what the step cost, and only then writes that it is done.
    async fn charge(&mut self, step: String, cost: Cost) -> Result<(), SagaError> {
        match self.capture(&step, None, cost).await? {
            Captured::Charged { amount, late } => {
                let charged = Some(amount);
                self.append(What::StepDone { step, output: Value::Null, charged, late }).await
            }
            // Work that cannot be charged is not left standing.
            Captured::Rejected { problem } => {
                let failure = Failure::last(format!("its capture was not carried out: {problem}"));
                self.failed(step, &failure).await
            }
        }
    }

    /// Captures what a try that failed cost.
    async fn charge_attempt(&mut self, step: String, attempt: u32, cost: Cost) -> Result<(), SagaError> {
        let what = match self.capture(&step, Some(attempt), cost).await? {
            Captured::Charged { amount: charged, late } => {
                What::AttemptCharged { step, attempt, charged, late, problem: None }
            }
            Captured::Rejected { problem } => {
                tracing::warn!(saga = %self.saga, step, attempt, problem, "a failed try was not charged");
                let (charged, problem) = ("0".to_owned(), Some(cut(&problem)));
                What::AttemptCharged { step, attempt, charged, late: false, problem }
            }
        };
        self.append(what).await
    }

    async fn undo(&mut self, step: String, attempt: u32, pause: Duration) -> Result<(), SagaError> {
        self.rest(pause).await?;
        self.append(What::UndoBegun { step: step.clone(), attempt }).await?;
        let (context, options) = (self.context(&step, attempt), &self.shared.options);
        let work = if step == EVERYTHING {
            abandoning(Arc::clone(&self.shared), context)
        } else {
            match self.find(&step) {
                Ok(found) => undoing(found, context, options.faults.clone()),
                Err(failure) => std::future::ready(Err(failure)).boxed(),
            }
        };
        let work = within(options.try_within, work);
        match self.beating(&step, work).await? {
            Ok(refund) => self.append(What::StepUndone { step, refund }).await,
            Err(failure) => {
                let (again, error) = (failure.is_again(), cut(&failure.to_string()));
                tracing::warn!(saga = %self.saga, step, again, error, "an undo of a saga failed");
                self.append(What::UndoFailed { step, again, error }).await
            }
        }
    }

    async fn park(&mut self, step: &str, error: &str) -> Result<(), SagaError> {
        if self.state.stuck.is_some() || self.state.ended.is_some() {
            return Ok(());
        }
        self.append(What::Stuck { step: step.to_owned(), error: cut(error) }).await?;
        metrics::counter!("holdfast_sagas_stuck_total", "saga" => S::NAME).increment(1);
        tracing::error!(
            saga = %self.saga, step, error,
            "a saga is stuck: look into it, then resume it (`holdfast saga show {}`)", self.saga
        );
        Ok(())
    }

    async fn end(&mut self, ended: Ending, because: Option<String>) -> Result<(), SagaError> {
        let (charged, refunded) = (self.state.charged().to_string(), self.state.refunded().to_string());
        self.append(What::Ended { ended, because, charged, refunded }).await?;
        metrics::counter!("holdfast_sagas_ended_total", "saga" => S::NAME, "ended" => ended.as_str())
            .increment(1);
        Ok(())
    }

    // Signs of life.

    async fn rest(&mut self, pause: Duration) -> Result<(), SagaError> {
        if pause.is_zero() { Ok(()) } else { self.beating(WAITING, sleep(pause)).await }
    }

    /// Runs `work`, and beside it tells everybody that this instance is still at it. Drops it when
    /// another instance has taken the saga.
    async fn beating<T>(&mut self, at: &str, work: impl Future<Output = T>) -> Result<T, SagaError> {
        let every = self.beat_every();
        let mut work = pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Ok(done),
                () = sleep(every) => {}
            }
            let mut beat = pin!(self.beat(at));
            // A sign of life that has begun is brought to its end: its entry may be on its way.
            let (beaten, done) = tokio::select! {
                beaten = &mut beat => (beaten, None),
                done = &mut work => (beat.await, Some(done)),
            };
            beaten?;
            if let Some(done) = done {
                return Ok(done);
            }
        }
    }

    async fn beat(&mut self, at: &str) -> Result<(), SagaError> {
        self.append(What::Alive { step: at.to_owned() }).await?;
        match self.keep_hold().await {
            // What is running is worth more than knowing this now.
            Err(SagaError::Query(problem)) => {
                tracing::warn!(saga = %self.saga, problem, "the hold of a saga is perhaps not open");
                self.extend_later();
                Ok(())
            }
            kept => kept,
        }
    }

    fn beat_every(&self) -> Duration {
        (self.shared.options.lease / 3).min(ttl(&self.state.reserve) / 4).max(BEAT_LEAST)
    }
}

/// Appends an entry, and answers what everybody will read; or dies beside it, when it is to.
async fn append(faults: &Faults, writer: &mut Writer, what: What) -> Result<What, SagaError> {
    let n = writer.next_n();
    if faults.crashes(n, Moment::Before) {
        return Err(SagaError::Crashed);
    }
    let entry = writer.append(what).await?;
    if faults.crashes(n, Moment::After) { Err(SagaError::Crashed) } else { Ok(entry.what) }
}

/// The action of `step`, with the faults that are to be committed.
fn acting(step: Step, context: StepContext, faults: Faults) -> BoxFuture<'static, Result<Done, Failure>> {
    async move {
        failing(&faults, &step.name, Moment::Before)?;
        let mut done = (step.act)(context.clone()).await?;
        if faults.step_twice() {
            done = (step.act)(context).await?;
        }
        failing(&faults, &step.name, Moment::After)?;
        Ok(done)
    }
    .boxed()
}

fn failing(faults: &Faults, step: &str, moment: Moment) -> Result<(), Failure> {
    match faults.fails(step, moment) {
        None => Ok(()),
        Some(true) => Err(Failure::again("failed, as was asked for")),
        Some(false) => Err(Failure::last("failed, as was asked for")),
    }
}

/// The undo of `step`, which leaves nothing further to be refunded.
fn undoing(
    step: Step,
    context: StepContext,
    faults: Faults,
) -> BoxFuture<'static, Result<Vec<String>, Failure>> {
    async move {
        if faults.fails_undo(&step.name) {
            return Err(Failure::again("failed, as was asked for"));
        }
        (step.undo)(context.clone()).await?;
        if faults.undo_twice() {
            (step.undo)(context).await?;
        }
        Ok(Vec::new())
    }
    .boxed()
}

fn abandoning<S: Saga>(
    shared: Arc<Shared<S>>,
    context: StepContext,
) -> BoxFuture<'static, Result<Vec<String>, Failure>> {
    async move { shared.saga.abandon(context).await }.boxed()
}

async fn within<T>(limit: Duration, work: BoxFuture<'static, Result<T, Failure>>) -> Result<T, Failure> {
    let late = || Failure::again(format!("it took longer than {} s", limit.as_secs()));
    timeout(limit, work).await.unwrap_or_else(|_| Err(late()))
}

/// An output that the log would not take must not be tried again and again.
fn check_output(done: Done) -> Result<Done, Failure> {
    let bytes = size(&done.output);
    if bytes <= OUTPUT_MAX_BYTES {
        return Ok(done);
    }
    let failure = Failure::last(format!(
        "its output has {bytes} bytes, at most {OUTPUT_MAX_BYTES} are kept: store it elsewhere and name it"
    ));
    Err(match done.cost {
        Some(cost) => failure.costing(cost),
        None => failure,
    })
}

fn size(output: &Value) -> usize {
    serde_json::to_vec(output).map_or(usize::MAX, |json| json.len())
}
