//! A hold: the money that is promised to one call, and the guard that sees to its end.
//!
//! **Shape.** [`crate::Calls::hold`] makes one. The caller says when the request goes out
//! ([`Hold::dispatched`]) and what the provider tells meanwhile, and settles it once, with a method
//! that consumes it.
//!
//! **Correctness.** A hold cannot be settled twice, and cannot be forgotten: dropped, it ends as a
//! call that was aborted at that moment. What it decides is decided before the first `await` of the
//! settling method, so that cancelling one changes nothing but who hears of the outcome.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use holdfast_core::usage::OUTPUT;
use holdfast_core::{AccountId, HoldId, Tokens, Usage, UsageSource};
use holdfast_protocol::Outcome;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use crate::call::OnAbort;
use crate::desk::Desk;
use crate::driver::{self, Order, Part, Unsent};
use crate::heartbeat::json;
use crate::journal::{Ending, JournalError, source_name};
use crate::meter::Meter;
use crate::plan::{Charge, Plan};
use crate::price;
use crate::settlement::{self, Action, End};

/// How a call was settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    /// It was charged; the outcome has the amount, and what the house absorbed.
    Captured(Box<Outcome>),
    /// It was given back.
    Released(Box<Outcome>),
    /// It was left to expire, since nobody knows whether the provider worked.
    Kept,
}

impl Settled {
    /// The ledger's answer; none when the hold was kept.
    #[must_use]
    pub fn outcome(&self) -> Option<&Outcome> {
        match self {
            Settled::Captured(outcome) | Settled::Released(outcome) => Some(outcome),
            Settled::Kept => None,
        }
    }
}

/// Why it is not said how a call was settled.
#[derive(Debug, thiserror::Error)]
pub enum SettleError {
    /// The ledger rejected it, for good. `hold_settled`, `hold_released` and `hold_expired` say
    /// that the hold had ended before.
    #[error("the settlement was rejected: {}", told(.0))]
    Rejected(Box<Outcome>),
    /// No outcome came in time. It is in the journal, and the driver goes on; do not settle this
    /// call in any other way.
    #[error("hold {0} has no outcome yet; the driver goes on")]
    Pending(HoldId),
    /// A part cannot be priced; nothing was sent.
    #[error("the part cannot be priced: {0}")]
    Usage(String),
    /// The journal did not take what has to be written before; nothing was sent.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The command cannot be signed or is too large; nothing was sent.
    #[error("the settlement cannot be sent: {0}")]
    Unsendable(String),
}

impl From<Unsent> for SettleError {
    fn from(error: Unsent) -> Self {
        match error {
            Unsent::Unsendable(error) => SettleError::Unsendable(error),
            Unsent::Unwritten(error) => SettleError::Journal(error),
        }
    }
}

/// An outcome that is no acceptance, in words.
pub(crate) fn told(outcome: &Outcome) -> String {
    let code = outcome.code.as_deref().unwrap_or("no code");
    format!("{code}: {}", outcome.detail.as_deref().unwrap_or_default())
}

/// How far a hold is, seen from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Its row is perhaps not in the journal.
    Unwritten,
    /// Its reserve is in the journal, and perhaps accepted.
    Reserved,
    /// The request may have gone to the provider.
    Dispatched,
    /// Somebody else's business.
    Settled,
}

/// A part whose outcome is not known.
struct Unsure {
    part: Arc<Part>,
    /// None when nobody will tell it any more.
    outcome: Option<oneshot::Receiver<driver::Result>>,
}

/// Money promised to one call to a model.
///
/// Settle it with one of the methods that consume it. Dropped before [`Hold::dispatched`], it is
/// released; dropped after, what was observed is captured, and without anything observed it is
/// left to expire. Both are written to the journal by the drop, and sent by the driver.
#[must_use = "a hold that is dropped at once is released again"]
pub struct Hold {
    desk: Arc<Desk>,
    plan: Plan,
    stage: Stage,
    meter: Meter,
    /// What the journal was told last.
    noted: Option<(Tokens, UsageSource)>,
    /// A part that no outcome came for in time.
    unsure: Option<Unsure>,
    max_output_tokens: u64,
    on_abort: OnAbort,
    outcome: Option<Box<Outcome>>,
}

impl Hold {
    /// A hold whose reserve is about to be written.
    pub(crate) fn new(desk: Arc<Desk>, plan: Plan, max_output_tokens: u64, on_abort: OnAbort) -> Self {
        Hold {
            desk,
            plan,
            stage: Stage::Unwritten,
            meter: Meter::default(),
            noted: None,
            unsure: None,
            max_output_tokens,
            on_abort,
            outcome: None,
        }
    }

    /// The reserve is in the journal.
    pub(crate) fn written(&mut self) {
        self.stage = Stage::Reserved;
    }

    /// The reserve was accepted.
    pub(crate) fn accepted(&mut self, outcome: Outcome, ttl: Duration, reserve_sent: Instant) {
        self.desk.journal.reserved(self.plan.hold);
        self.desk.live.add(self.plan.hold, self.plan.account.clone(), ttl, reserve_sent);
        self.outcome = Some(Box::new(outcome));
    }

    /// There is no hold: the reserve was rejected, or never sent.
    pub(crate) fn void(mut self, ending: String) {
        if self.stage != Stage::Unwritten {
            self.desk.journal.ended(self.plan.hold, ending);
        }
        self.stage = Stage::Settled;
    }

    /// The hold's id.
    #[must_use]
    pub fn id(&self) -> HoldId {
        self.plan.hold
    }

    /// The account that is charged.
    #[must_use]
    pub fn account(&self) -> &AccountId {
        &self.plan.account
    }

    /// What was reserved for, with the rates at which the call will be charged.
    #[must_use]
    pub fn estimate(&self) -> &Usage {
        &self.plan.usage
    }

    /// How many output tokens to ask the provider for at most: the call's own number, or fewer
    /// where the call was fitted to the balance.
    #[must_use]
    pub fn max_output_tokens(&self) -> u64 {
        self.max_output_tokens
    }

    /// What is to be done when the stream breaks.
    #[must_use]
    pub fn on_abort(&self) -> OnAbort {
        self.on_abort
    }

    /// The ledger's answer to the reserve: amount, balances, when the hold expires.
    #[must_use]
    pub fn outcome(&self) -> Option<&Outcome> {
        self.outcome.as_deref()
    }

    /// Says that the request is about to go to the provider. When this returns it is on the disk,
    /// and from here on a crash does not give the money back. Call it right before the request.
    ///
    /// Called again it says that another provider call begins, under the same hold: what is reported
    /// from then on is of that one, and is charged beside what those before it used. Where one before it
    /// reported nothing, the hold is not released any more whatever becomes of this one.
    ///
    /// # Errors
    /// [`JournalError`], also while a part has no outcome; then the request must not be sent.
    pub async fn dispatched(&mut self) -> Result<(), JournalError> {
        // A part is of the call before. Rejected, it is charged later; without an outcome, the
        // journal refuses.
        let _ = self.resolve().await;
        self.desk.journal.dispatched(self.plan.hold).await?;
        if self.stage == Stage::Dispatched {
            self.meter.next_call(&self.plan);
        }
        self.stage = Stage::Dispatched;
        Ok(())
    }

    /// Takes in what the provider reported during the call, see [`crate::usage`]. A dimension that
    /// is reported again replaces its earlier count; others stay. Once the output is counted (as
    /// zero, perhaps) it is a report of the whole call; before, as at the start of a stream, it
    /// shows only what went in. What has no price is logged and counts as no report.
    pub fn observe(&mut self, tokens: Tokens) {
        let Plan { hold, usage, asset, .. } = &self.plan;
        if let Err(error) = price::priced(usage, &tokens, UsageSource::Reported, *asset) {
            tracing::error!(%hold, %error, ?tokens, "reported usage cannot be priced; it counts as missing");
            return;
        }
        self.meter.report(tokens);
        self.note();
    }

    /// Takes in a piece of the text that has come. It counts where the provider reports no output:
    /// as one token for every four bytes, rounded up, at most as many as were reserved for, beside
    /// the input as estimated. The journal has it within 200 ms.
    pub fn observe_text(&mut self, text: &str) {
        self.meter.text(text);
        self.note();
    }

    /// Hands what came to the journal: a report at once, text with the next tick.
    fn note(&mut self) {
        let came = self.meter.came(&self.plan);
        if came == self.noted {
            return;
        }
        match &came {
            Some((tokens, UsageSource::Delivered)) => {
                self.desk.live.delivered(self.plan.hold, tokens.clone());
            }
            Some((tokens, source)) => self.write(Some((tokens, *source))),
            None => self.write(None),
        }
        self.noted = came;
    }

    fn write(&self, observed: Option<(&Tokens, UsageSource)>) {
        self.desk.live.observed(&self.desk.journal, self.plan.hold, observed.map(noted));
    }

    /// Charges `tokens`, and frees the rest. They are what is to be charged, so none that a part was
    /// charged for are among them. Without parts, and with one provider call, the same as
    /// [`Hold::settle`] with [`End::Completed`], which takes a report.
    ///
    /// # Errors
    /// [`SettleError`]; except for [`SettleError::Rejected`], the driver goes on.
    pub async fn capture(self, tokens: Tokens) -> Result<Settled, SettleError> {
        let action = settlement::completed(self.meter.uncharged(&self.plan, tokens));
        self.finish(action).await
    }

    /// Charges what was reserved for, where the provider finished and said nothing.
    ///
    /// # Errors
    /// As [`Hold::capture`].
    pub async fn capture_estimate(self) -> Result<Settled, SettleError> {
        let charge = settlement::estimated(&self.meter, &self.plan);
        self.carry_out(Action::Capture(charge)).await
    }

    /// Gives the money back. Only for calls of which it is certain that the provider will not bill
    /// them. `reason` is for people; the most of it that a note may have is kept.
    ///
    /// # Errors
    /// As [`Hold::capture`].
    pub async fn release(self, reason: &str) -> Result<Settled, SettleError> {
        self.carry_out(Action::Release(reason.to_owned().into())).await
    }

    /// Leaves the hold to expire, where nobody knows whether the provider worked. Until then it may
    /// be settled by who learns more, by its id.
    pub fn keep(mut self) {
        self.act(Action::Keep, None);
    }

    /// Settles by what happened: the table of the documentation.
    ///
    /// # Errors
    /// As [`Hold::capture`].
    pub async fn settle(self, end: End) -> Result<Settled, SettleError> {
        let action = settlement::action(end, self.may_have_run(), &self.meter, &self.plan);
        self.finish(action).await
    }

    /// Learns from what was decided, and does it.
    async fn finish(self, action: Action) -> Result<Settled, SettleError> {
        match &action {
            Action::Capture(charge) if charge.reason == "completed" && self.meter.is_plain() => {
                self.desk.learn(&self.plan, charge.tokens.get(OUTPUT));
            }
            _ => {}
        }
        self.carry_out(action).await
    }

    /// Abandons a stream, by the call's policy. With [`OnAbort::Drain`] a task awaits `rest`, which
    /// reads the stream to its end and returns the usage that the provider reports there, and
    /// captures that; without a report, or when it takes too long, and always with
    /// [`OnAbort::Delivered`], what was observed so far is captured. Nobody waits for the outcome.
    pub fn abandon<F>(mut self, rest: F)
    where
        F: Future<Output = Option<Tokens>> + Send + 'static,
    {
        let runtime = match self.on_abort {
            OnAbort::Drain => tokio::runtime::Handle::try_current().ok(),
            OnAbort::Delivered => None,
        };
        // Without a task the drop, here, does the rest.
        let Some(runtime) = runtime else { return };
        runtime.spawn(async move {
            if let Ok(Some(tokens)) = timeout(self.desk.waits.drain, rest).await {
                self.observe(tokens);
            }
            drop(self);
        });
    }

    /// Charges a part of the hold, which stays open with less: a step of a long job. `tokens` are
    /// what is charged now, and are not charged again: what is reported later of the same provider
    /// call counts less that. A part is priced by itself, by the tier of its own input. `None` when
    /// it costs nothing.
    ///
    /// It is in the journal before it is sent, so after a crash it is sent again under its id.
    /// Dropping what this returns cancels only the waiting.
    ///
    /// # Errors
    /// [`SettleError::Pending`] when no outcome came in time: the part is charged by the driver, and
    /// must not be charged again. What settles the hold waits for it. [`SettleError::Rejected`],
    /// [`SettleError::Unsendable`] and [`SettleError::Journal`] when nothing was charged, by this
    /// part or by the one that was pending before it; its tokens are still to be.
    pub async fn capture_part(&mut self, tokens: Tokens) -> Result<Option<Box<Outcome>>, SettleError> {
        self.resolve().await?;
        let tokens = self.meter.one_call(&self.plan, tokens);
        let charge = Charge { tokens, source: UsageSource::Reported, reason: "part" };
        let ending = self.plan.part(&charge).map_err(SettleError::Usage)?;
        // All of it before the first `await`: whoever gives up waiting leaves a hold that knows.
        self.meter.part(&charge.tokens);
        self.noted = self.meter.came(&self.plan);
        let left = self.noted.as_ref().map(|(tokens, source)| (tokens, *source));
        let Some(Ending { verb, id, body }) = ending else {
            self.write(left);
            return Ok(None);
        };
        let part = Part::new(charge.tokens, charge.source);
        let (reply, outcome) = oneshot::channel();
        let Plan { hold, account, reserve_id, .. } = &self.plan;
        let (hold, account, reply) = (*hold, account.clone(), Some(reply));
        let order = Order { hold, account, verb, id, body, part: Some(Arc::clone(&part)), reply };
        self.unsure = Some(Unsure { part, outcome: Some(outcome) });
        self.desk.part(order, *reserve_id, left.map(noted));
        self.resolve().await
    }

    /// Waits for the outcome of a part that is on its way.
    async fn resolve(&mut self) -> Result<Option<Box<Outcome>>, SettleError> {
        let Some(Unsure { part, outcome }) = &mut self.unsure else { return Ok(None) };
        let pending = SettleError::Pending(self.plan.hold);
        let Some(receiver) = outcome else { return Err(pending) };
        let result = match timeout(self.desk.waits.settle, receiver).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => {
                // The driver was stopped; the journal has the part.
                *outcome = None;
                return Err(pending);
            }
            Err(_) => return Err(pending),
        };
        let tokens = part.tokens.clone();
        self.unsure = None;
        let error = match result {
            Ok(outcome) if outcome.accepted() => return Ok(Some(outcome)),
            Ok(outcome) => SettleError::Rejected(outcome),
            Err(error) => error.into(),
        };
        self.meter.put_back(&tokens);
        self.noted = self.meter.came(&self.plan);
        self.write(self.noted.as_ref().map(|(tokens, source)| (tokens, *source)));
        Err(error)
    }

    /// Whether the provider may have worked: it was told so, or has something to show for it.
    fn may_have_run(&self) -> bool {
        self.stage == Stage::Dispatched || self.meter.began(&self.plan) || self.meter.is_parted()
    }

    /// Does what was decided and waits for the outcome.
    async fn carry_out(mut self, action: Action) -> Result<Settled, SettleError> {
        let settled = match action {
            Action::Keep => {
                self.keep();
                return Ok(Settled::Kept);
            }
            Action::Release(_) => Settled::Released,
            Action::Capture(_) => Settled::Captured,
        };
        let (reply, outcome) = oneshot::channel();
        self.act(action, Some(reply));
        self.wait(outcome, settled).await
    }

    /// Does what was decided; nobody need wait.
    fn act(&mut self, action: Action, reply: Option<oneshot::Sender<driver::Result>>) {
        let is_ours = self.stage != Stage::Unwritten;
        self.stage = Stage::Settled;
        let (desk, plan) = (Arc::clone(&self.desk), self.plan.clone());
        let left = self.meter.estimate_left(&self.plan);
        let Some(Unsure { part, .. }) = self.unsure.take() else {
            return end(&desk, &plan, action, &left, is_ours, reply);
        };
        // Should the process die before the part has its outcome, this is what is charged then.
        let observed = match &action {
            Action::Capture(charge) if charge.source != UsageSource::Estimated => {
                Some((&charge.tokens, charge.source))
            }
            _ => self.noted.as_ref().map(|(tokens, source)| (tokens, *source)),
        };
        self.write(observed);
        let tokens = part.tokens.clone();
        part.then(move |charged| {
            let (action, left) = if charged {
                (action, left)
            } else {
                (with_uncharged(action, &tokens), price::sum(&left, &tokens))
            };
            end(&desk, &plan, action, &left, is_ours, reply);
        });
    }

    async fn wait(
        self,
        outcome: oneshot::Receiver<driver::Result>,
        settled: fn(Box<Outcome>) -> Settled,
    ) -> Result<Settled, SettleError> {
        match timeout(self.desk.waits.settle, outcome).await {
            Ok(Ok(Ok(outcome))) if outcome.accepted() => Ok(settled(outcome)),
            Ok(Ok(Ok(outcome))) => Err(SettleError::Rejected(outcome)),
            Ok(Ok(Err(error))) => Err(error.into()),
            Ok(Err(_)) | Err(_) => Err(SettleError::Pending(self.plan.hold)),
        }
    }
}

/// Tokens and their source as the journal has them.
fn noted((tokens, source): (&Tokens, UsageSource)) -> (String, &'static str) {
    (json(tokens), source_name(source))
}

/// Ends a hold as was decided. `left` is what was reserved for and not charged by parts.
fn end(
    desk: &Desk,
    plan: &Plan,
    action: Action,
    left: &Tokens,
    is_ours: bool,
    reply: Option<oneshot::Sender<driver::Result>>,
) {
    let ending = match action {
        Action::Release(reason) => plan.release(&reason),
        Action::Capture(charge) => plan.capture(&charge, left),
        Action::Keep => return desk.keep(plan.hold),
    };
    desk.settle(plan.hold, &plan.account, plan.reserve_id, ending, is_ours, reply);
}

/// What is done instead when a part of `tokens` turns out not to have been charged.
fn with_uncharged(action: Action, tokens: &Tokens) -> Action {
    match action {
        Action::Capture(charge) => {
            Action::Capture(Charge { tokens: price::sum(&charge.tokens, tokens), ..charge })
        }
        Action::Keep => Action::Capture(Charge {
            tokens: tokens.clone(),
            source: UsageSource::Reported,
            reason: "aborted",
        }),
        release @ Action::Release(_) => release,
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.stage == Stage::Settled {
            return;
        }
        let action = settlement::action(End::Aborted, self.may_have_run(), &self.meter, &self.plan);
        self.act(action, None);
    }
}

#[cfg(test)]
#[path = "hold_tests.rs"]
mod tests;
