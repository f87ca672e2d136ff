//! A definition: which steps a saga has, how each is done and undone, and what stays charged.
//!
//! **Shape.** A service implements [`Saga`]. Steps are made as they are needed: [`Saga::next_step`] is
//! asked with the outputs so far, so a plan may decide how many pages there are.
//!
//! **Correctness.** The runner promises to run each step *at least* once and in order. So actions and
//! undos must be idempotent, and an undo must do no harm where its action did nothing or only a part:
//! a step that failed is undone as well. Two instances may run the same action at the same time for a
//! moment, until the one that was taken over notices it.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use holdfast_core::{Decimal, HoldId, Issuer};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::key::SagaKey;

/// How long a saga's hold lives unless it is extended: a service may be down for about half of it
/// before its sagas lose their holds.
pub const HOLD_TTL: Duration = Duration::from_secs(60 * 60);

/// A definition of sagas.
pub trait Saga: Send + Sync + 'static {
    /// Its name: 1 to 64 of a-z, 0-9 and `-`, one token of the subjects of its entries. A saga whose
    /// definition is renamed is not found again.
    const NAME: &'static str;

    /// What a saga is started with. It is kept in the saga's log, so it should name large things and
    /// not contain them.
    type Input: Serialize + DeserializeOwned + Send + Sync + 'static;

    /// What to reserve for a saga of this input.
    fn estimate(&self, input: &Self::Input) -> Estimate;

    /// The step after those in `done`, or none when the saga is complete.
    ///
    /// It must be a function of its arguments: it is asked again after a crash, and for each prefix
    /// of `done` when steps are undone. No two steps of a saga may have the same name.
    fn next_step(&self, input: &Self::Input, done: &Outputs) -> Option<Step>;

    /// The input of the saga `id`, from the service's own data: its log was lost while its hold is
    /// open. With none everything is undone ([`Saga::abandon`]).
    ///
    /// # Errors
    /// A [`Failure`] of either kind leaves the saga as it is, until the next reconciliation.
    fn recover(&self, id: &str) -> impl Future<Output = Result<Option<Self::Input>, Failure>> + Send;

    /// Undoes whatever the saga may have done, without its log; idempotent. It answers with the names
    /// of the steps whose charges are to be refunded; one that was never charged may be among them. A
    /// step that the saga knows keeps the rule that it was begun with.
    ///
    /// It is called when log and input are lost, and, after the known steps were undone, when only
    /// the log was lost: the lost run may have come further. The default undoes nothing.
    ///
    /// # Errors
    /// A [`Failure`], which counts like that of an undo.
    fn abandon(&self, context: StepContext) -> impl Future<Output = Result<Vec<String>, Failure>> + Send {
        let _ = context;
        std::future::ready(Ok(Vec::new()))
    }
}

/// What to reserve.
#[derive(Debug, Clone, PartialEq)]
pub struct Estimate {
    /// How much, in whole units of the account's asset, above zero.
    pub amount: Decimal,
    /// How long the hold lives without being extended, at most 24 hours. It is extended while a saga
    /// is driven; a saga that nobody drives for longer has lost its hold and is undone.
    pub ttl: Duration,
    /// What the amount is the price of, when all captures will be at the same rates.
    pub usage: Option<Value>,
}

impl Estimate {
    /// Reserves `amount` for [`HOLD_TTL`] at a time.
    #[must_use]
    pub fn new(amount: Decimal) -> Self {
        Estimate { amount, ttl: HOLD_TTL, usage: None }
    }
}

/// What becomes of a step's charge when the step is undone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Charge {
    /// It stays: the provider is paid in any case.
    #[default]
    Keep,
    /// It is refunded.
    Refund,
}

/// What a step, or a try at it that failed, really cost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// How much, in whole units of the account's asset; zero is not captured.
    #[serde(deserialize_with = "decimal")]
    pub amount: Decimal,
    /// What the amount is the price of, as the ledger's `usage`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Value>,
    /// Why this much, for people; added to the step's name in the capture's reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// An amount as a text: entries are read through values, which have no numbers as they were written.
fn decimal<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Decimal, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
}

impl Cost {
    /// A cost without further explanation.
    #[must_use]
    pub fn of(amount: Decimal) -> Self {
        Cost { amount, usage: None, reason: None }
    }
}

/// A step that was done.
#[derive(Debug, Clone, PartialEq)]
pub struct Done {
    /// What later steps, and its undo, need to know of it: at most 256 KiB of JSON.
    pub output: Value,
    /// What it cost; nothing is captured without.
    pub cost: Option<Cost>,
}

impl Done {
    /// Done, at no cost.
    #[must_use]
    pub fn free(output: Value) -> Self {
        Done { output, cost: None }
    }

    /// Done, and `cost` is captured.
    #[must_use]
    pub fn at(output: Value, cost: Cost) -> Self {
        Done { output, cost: Some(cost) }
    }
}

/// Why a step or an undo failed, whether trying again is worth it, and what the try cost all the same.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct Failure {
    error: String,
    again: bool,
    cost: Option<Box<Cost>>,
}

impl Failure {
    /// It may go well another time: a time-out, a service that is down.
    pub fn again(error: impl fmt::Display) -> Self {
        Failure { error: error.to_string(), again: true, cost: None }
    }

    /// It will fail every time. Of a step: the saga is undone. Of an undo: the saga is stuck.
    pub fn last(error: impl fmt::Display) -> Self {
        Failure { error: error.to_string(), again: false, cost: None }
    }

    /// The same of a try that cost something although it failed: a provider that has answered is paid,
    /// whatever the answer is good for. Each try's cost is captured on its own, and is refunded with
    /// the step's where its rule says so. Of an undo it means nothing.
    #[must_use]
    pub fn costing(mut self, cost: Cost) -> Self {
        self.cost = Some(Box::new(cost));
        self
    }

    /// Whether another try is worth it.
    #[must_use]
    pub fn is_again(&self) -> bool {
        self.again
    }

    /// What the try cost.
    #[must_use]
    pub fn cost(&self) -> Option<&Cost> {
        self.cost.as_deref()
    }
}

/// The outputs of the steps that are done, in their order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outputs(Vec<(String, Value)>);

impl Outputs {
    /// The outputs, each with its step's name.
    #[must_use]
    pub fn new(outputs: Vec<(String, Value)>) -> Self {
        Outputs(outputs)
    }

    /// The output of `step`, when it is done.
    #[must_use]
    pub fn get(&self, step: &str) -> Option<&Value> {
        self.0.iter().find(|(name, _)| name == step).map(|(_, output)| output)
    }

    /// The output of `step` as a `T`.
    ///
    /// # Errors
    /// [`Failure::last`] when the step is not done or its output is something else.
    pub fn read<T: DeserializeOwned>(&self, step: &str) -> Result<T, Failure> {
        let output = self.get(step).ok_or_else(|| Failure::last(format!("`{step}` is not done")))?;
        T::deserialize(output).map_err(|error| Failure::last(format!("the output of `{step}`: {error}")))
    }

    /// Whether `step` is done.
    #[must_use]
    pub fn has(&self, step: &str) -> bool {
        self.get(step).is_some()
    }

    /// How many steps are done.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The names of the steps that are done, in their order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }
}

/// What an action or an undo is told.
#[derive(Debug, Clone)]
pub struct StepContext {
    /// The saga.
    pub saga: SagaKey,
    /// The account that pays.
    pub account: String,
    /// The saga's hold.
    pub hold: HoldId,
    /// The step.
    pub step: String,
    /// Which try this is, from 1. It goes on counting over crashes, and each of an undo's from its own 1.
    pub attempt: u32,
    /// The outputs of all steps that are done; those of a step under way are not.
    pub done: Arc<Outputs>,
    pub(crate) issuer: Issuer,
}

impl StepContext {
    /// A key for other services that `step` calls: the same for every attempt at the same step.
    #[must_use]
    pub fn idempotency_key(&self, step: &str) -> Uuid {
        self.saga.idempotency_key(&self.issuer, step)
    }
}

type Action<T> = Arc<dyn Fn(StepContext) -> BoxFuture<'static, Result<T, Failure>> + Send + Sync>;

/// A step: a name, what it does, what undoes it, and what becomes of its charge then.
#[derive(Clone)]
pub struct Step {
    pub(crate) name: String,
    pub(crate) charge: Charge,
    pub(crate) act: Action<Done>,
    pub(crate) undo: Action<()>,
}

impl Step {
    /// The step `name` (1 to 64 of letters, digits, `-`, `_` and `.`) that is done by `act`. Nothing
    /// undoes it, and its charge stays, unless said otherwise.
    pub fn new<F, R>(name: impl Into<String>, act: F) -> Self
    where
        F: Fn(StepContext) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Done, Failure>> + Send + 'static,
    {
        Step {
            name: name.into(),
            charge: Charge::Keep,
            act: Arc::new(move |context| act(context).boxed()),
            undo: Arc::new(|_: StepContext| std::future::ready(Ok::<(), Failure>(())).boxed()),
        }
    }

    /// The same step, undone by `undo`. It finds the step's output, if it was done, in
    /// [`StepContext::done`].
    #[must_use]
    pub fn undone_by<F, R>(mut self, undo: F) -> Self
    where
        F: Fn(StepContext) -> R + Send + Sync + 'static,
        R: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        self.undo = Arc::new(move |context| undo(context).boxed());
        self
    }

    /// The same step, whose charge is given back when it is undone.
    #[must_use]
    pub fn refunded(mut self) -> Self {
        self.charge = Charge::Refund;
        self
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What becomes of its charge when it is undone.
    #[must_use]
    pub fn charge(&self) -> Charge {
        self.charge
    }
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Step").field("name", &self.name).field("charge", &self.charge).finish_non_exhaustive()
    }
}

/// The step `name` of a saga that has come as far as `done`: the definition is asked for each prefix, the
/// longest first, since that is the one of a step under way.
pub(crate) fn find<S: Saga>(saga: &S, input: &S::Input, done: &Outputs, name: &str) -> Option<Step> {
    (0..=done.len()).rev().find_map(|count| {
        let before = Outputs(done.0[..count].to_vec());
        saga.next_step(input, &before).filter(|step| step.name == name)
    })
}
