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
use crate::driver::{self, Unsendable};
use crate::heartbeat::json;
use crate::journal::{Ending, JournalError};
use crate::plan::{Charge, Plan};
use crate::price;
use crate::settlement::{self, Action, End, Observed};

/// How many bytes of text count as one token when nobody reports better.
const BYTES_PER_TOKEN: u64 = 4;

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
    /// As the provider reported it, part by part, or as counted from text.
    observed: Option<Observed>,
    text_bytes: u64,
    /// Whether a part was charged: then the estimate of the input is not to be charged again.
    parted: bool,
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
            observed: None,
            text_bytes: 0,
            parted: false,
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
    /// # Errors
    /// [`JournalError`]; then the request must not be sent.
    pub async fn dispatched(&mut self) -> Result<(), JournalError> {
        self.desk.journal.dispatched(self.plan.hold).await?;
        self.stage = Stage::Dispatched;
        Ok(())
    }

    /// Takes in what the provider reported during the call, see [`crate::usage`]. A dimension that
    /// is reported again replaces its earlier count; others stay.
    pub fn observe(&mut self, tokens: Tokens) {
        let before = self.observed.take().filter(|seen| seen.source == UsageSource::Reported);
        let mut all = before.as_ref().map(|seen| seen.tokens.clone()).unwrap_or_default();
        all.0.extend(tokens.0);
        let is_new = before.is_none_or(|seen| seen.tokens != all);
        self.observed = Some(Observed { tokens: all, source: UsageSource::Reported });
        if is_new {
            let written = self.complete().map(|seen| (json(&seen.tokens), "reported"));
            self.desk.live.observed(&self.desk.journal, self.plan.hold, written);
        }
    }

    /// Takes in a piece of the text that has come. It counts where the provider reports nothing:
    /// as the estimated input, and one token of output for every four bytes, rounded up, at most as
    /// many as were reserved for. The journal has it within 200 ms.
    pub fn observe_text(&mut self, text: &str) {
        let bytes = u64::try_from(text.len()).unwrap_or(u64::MAX);
        self.text_bytes = self.text_bytes.saturating_add(bytes);
        let reported = self.observed.as_ref().is_some_and(|seen| seen.source == UsageSource::Reported);
        if reported || bytes == 0 {
            return;
        }
        let output = self.text_bytes.div_ceil(BYTES_PER_TOKEN).min(self.plan.estimate().get(OUTPUT));
        if self.observed.as_ref().is_some_and(|seen| seen.tokens.get(OUTPUT) == output) {
            return;
        }
        let mut tokens = if self.parted { Tokens::default() } else { self.plan.estimate().clone() };
        price::set(&mut tokens, OUTPUT, output);
        self.desk.live.delivered(self.plan.hold, tokens.clone());
        self.observed = Some(Observed { tokens, source: UsageSource::Delivered });
    }

    /// Charges what the call used, and frees the rest. `tokens` are those that no part was charged
    /// for. The same as [`Hold::settle`] with [`End::Completed`].
    ///
    /// # Errors
    /// [`SettleError`]; except for [`SettleError::Rejected`], the driver goes on.
    pub async fn capture(self, tokens: Tokens) -> Result<Settled, SettleError> {
        self.settle(End::Completed(Some(tokens))).await
    }

    /// Charges what was reserved for, where the provider finished and said nothing.
    ///
    /// # Errors
    /// As [`Hold::capture`].
    pub async fn capture_estimate(self) -> Result<Settled, SettleError> {
        let charge = self.plan.whole_estimate();
        self.carry_out(Action::Capture(charge)).await
    }

    /// Gives the money back. Only for calls of which it is certain that the provider will not bill
    /// them. `reason` is for people; the most of it that a note may have is kept.
    ///
    /// # Errors
    /// As [`Hold::capture`].
    pub async fn release(mut self, reason: &str) -> Result<Settled, SettleError> {
        let (reply, outcome) = oneshot::channel();
        let ending = self.plan.release(reason);
        self.end(ending, Some(reply));
        self.wait(outcome, Settled::Released).await
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
        let action = settlement::action(end, self.may_have_run(), self.observed.as_ref(), &self.plan);
        match &action {
            Action::Capture(charge) if charge.reason == "completed" && !self.parted => {
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

    /// Charges a part of the hold, which stays open with less: a step of a long job. What has been
    /// observed so far is taken to be in it; from here on, tokens are those after it. A part is
    /// priced by itself, by the tier of its own input. `None` when it costs nothing.
    ///
    /// A crash while the part is on its way may leave it uncharged; it is never charged twice.
    ///
    /// # Errors
    /// [`SettleError::Pending`] when no outcome came in time: the part is charged by the driver as
    /// long as the process lives, and must not be charged again.
    pub async fn capture_part(&mut self, tokens: Tokens) -> Result<Option<Box<Outcome>>, SettleError> {
        let charge = Charge { tokens, source: UsageSource::Reported, reason: "part" };
        let part = self.plan.part(&charge).map_err(SettleError::Usage)?;
        // Before the part is sent: a crash right after it must not charge the same tokens again.
        let hold = self.plan.hold;
        self.desk.live.forget_delivered(hold);
        self.desk.journal.observed_now(hold, None).await?;
        let before = (self.observed.take(), std::mem::take(&mut self.text_bytes), self.parted);
        self.parted = true;
        let Some(part) = part else { return Ok(None) };
        let (reply, outcome) = oneshot::channel();
        self.desk.charge_part(&self.plan, part, reply);
        match timeout(self.desk.waits.settle, outcome).await {
            Ok(Ok(Ok(outcome))) if outcome.accepted() => Ok(Some(outcome)),
            Ok(Ok(failed)) => {
                // Nothing was charged, so what was observed is still to be.
                (self.observed, self.text_bytes, self.parted) = before;
                let written = self.complete().map(|seen| (json(&seen.tokens), source_name(seen.source)));
                self.desk.live.observed(&self.desk.journal, hold, written);
                Err(match failed {
                    Ok(outcome) => SettleError::Rejected(outcome),
                    Err(Unsendable(error)) => SettleError::Unsendable(error),
                })
            }
            Ok(Err(_)) | Err(_) => Err(SettleError::Pending(hold)),
        }
    }

    /// Whether the provider may have worked: it was told so, or has something to show for it.
    fn may_have_run(&self) -> bool {
        self.stage == Stage::Dispatched || self.observed.is_some() || self.parted
    }

    /// What was observed, with what the provider left out of its report so far.
    fn complete(&self) -> Option<Observed> {
        let Observed { tokens, source } = self.observed.clone()?;
        let tokens = if self.parted { tokens } else { self.plan.completed(tokens) };
        Some(Observed { tokens, source })
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
        match action {
            Action::Release(reason) => self.end(self.plan.release(reason), reply),
            Action::Capture(mut charge) => {
                if !self.parted {
                    charge.tokens = self.plan.completed(charge.tokens);
                }
                self.end(self.plan.capture(&charge), reply);
            }
            Action::Keep => {
                self.stage = Stage::Settled;
                self.desk.keep(self.plan.hold);
            }
        }
    }

    fn end(&mut self, ending: Ending, reply: Option<oneshot::Sender<driver::Result>>) {
        let is_ours = self.stage != Stage::Unwritten;
        self.stage = Stage::Settled;
        let Plan { hold, account, reserve_id, .. } = &self.plan;
        self.desk.settle(*hold, account, *reserve_id, ending, is_ours, reply);
    }

    async fn wait(
        self,
        outcome: oneshot::Receiver<driver::Result>,
        settled: fn(Box<Outcome>) -> Settled,
    ) -> Result<Settled, SettleError> {
        match timeout(self.desk.waits.settle, outcome).await {
            Ok(Ok(Ok(outcome))) if outcome.accepted() => Ok(settled(outcome)),
            Ok(Ok(Ok(outcome))) => Err(SettleError::Rejected(outcome)),
            Ok(Ok(Err(Unsendable(error)))) => Err(SettleError::Unsendable(error)),
            Ok(Err(_)) | Err(_) => Err(SettleError::Pending(self.plan.hold)),
        }
    }
}

/// A source as the journal has it; estimates are never observed.
fn source_name(source: UsageSource) -> &'static str {
    match source {
        UsageSource::Delivered => "delivered",
        UsageSource::Reported | UsageSource::Estimated => "reported",
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.stage == Stage::Settled {
            return;
        }
        let observed = self.observed.as_ref();
        let action = settlement::action(End::Aborted, self.may_have_run(), observed, &self.plan);
        self.act(action, None);
    }
}

#[cfg(test)]
mod tests {
    use holdfast_core::body::Capture;
    use holdfast_core::{Asset, Verb};
    use tokio::sync::mpsc::UnboundedReceiver;

    use super::*;
    use crate::desk::Waits;
    use crate::driver::Order;
    use crate::journal::testing::Folder;
    use crate::journal::{Journal, Row, State};
    use crate::plan::testing::{plan, reserve_body, tokens};
    use crate::sizing::Samples;

    struct Bench {
        _folder: Folder,
        desk: Arc<Desk>,
        orders: UnboundedReceiver<Order>,
    }

    async fn bench() -> Bench {
        let folder = Folder::new();
        let journal = Journal::open(&folder.file()).await.expect("opened");
        let waits = Waits { settle: Duration::from_millis(20), drain: Duration::from_secs(5) };
        let (desk, orders) = Desk::new(journal, Asset::USD, waits, Samples::default());
        Bench { _folder: folder, desk, orders }
    }

    impl Bench {
        /// A hold that was reserved.
        async fn hold(&self, on_abort: OnAbort) -> Hold {
            let plan = plan();
            let (account, body) = (plan.account.to_string(), reserve_body(&plan));
            self.desk.journal.reserving(plan.hold, account, plan.reserve_id, body).await.expect("written");
            let mut hold = Hold::new(Arc::clone(&self.desk), plan, 500, on_abort);
            hold.written();
            hold
        }

        async fn row(&self, hold: HoldId) -> Row {
            self.desk.journal.row(hold).await.expect("read").expect("there")
        }
    }

    #[tokio::test]
    async fn dropped_before_it_was_sent_it_is_released() {
        let mut bench = bench().await;
        let hold = bench.hold(OnAbort::Delivered).await;
        let id = hold.id();
        drop(hold);
        let row = bench.row(id).await;
        assert_eq!((row.state, row.settle_verb.as_deref()), (State::Settling, Some("release")));
        assert!(row.settle_body.as_deref().is_some_and(|body| body.contains("not_dispatched")));
        let order = bench.orders.recv().await.expect("sent");
        assert_eq!(
            (order.verb, Some(order.body)),
            (Verb::Release, row.settle_body),
            "the bytes of the journal"
        );
    }

    #[tokio::test]
    async fn dropped_after_it_was_sent_it_captures_what_was_observed() {
        type Case = (&'static str, fn(&mut Hold), Option<(&'static str, UsageSource)>);
        let cases: [Case; 5] = [
            ("nothing is known", |_| {}, None),
            ("text", |hold| hold.observe_text("12345"), Some(("0.00102", UsageSource::Delivered))),
            (
                "much text",
                |hold| hold.observe_text(&"x".repeat(9000)),
                Some(("0.006", UsageSource::Delivered)),
            ),
            (
                "a report in parts",
                |hold| {
                    hold.observe_text("123456789");
                    hold.observe(tokens(r#"{"input":2000,"output":1}"#));
                    hold.observe(tokens(r#"{"output":7}"#));
                    hold.observe_text("text does not count beside a report");
                },
                Some(("0.00207", UsageSource::Reported)),
            ),
            (
                "a report of zeros",
                |hold| hold.observe(tokens(r#"{"input":0}"#)),
                Some(("0", UsageSource::Reported)),
            ),
        ];
        for (what, observe, expected) in cases {
            let mut bench = bench().await;
            let mut hold = bench.hold(OnAbort::Delivered).await;
            let id = hold.id();
            hold.dispatched().await.expect("written");
            observe(&mut hold);
            drop(hold);
            let row = bench.row(id).await;
            let Some((amount, source)) = expected else {
                assert_eq!((row.state, row.ending.as_deref()), (State::Ended, Some("kept")), "{what}");
                continue;
            };
            assert_eq!(row.state, State::Settling, "{what}");
            let body: Capture = serde_json::from_str(&row.settle_body.expect("a body")).expect("a capture");
            assert_eq!(body.amount, amount.parse().ok(), "{what}");
            assert_eq!(body.usage.map(|usage| usage.source), Some(source), "{what}");
            assert_eq!(body.reason.expect("a reason").as_str(), "aborted", "{what}");
            assert_eq!(bench.orders.recv().await.expect("sent").hold, id, "{what}");
        }
    }

    #[tokio::test]
    async fn a_report_is_in_the_journal_before_the_end() {
        let bench = bench().await;
        let mut hold = bench.hold(OnAbort::Delivered).await;
        hold.dispatched().await.expect("written");
        hold.observe(tokens(r#"{"output":7}"#));
        let row = bench.row(hold.id()).await;
        assert_eq!(row.observed.as_deref(), Some(r#"{"input":1000,"output":7}"#));
        assert_eq!(row.observed_source.as_deref(), Some("reported"));
        hold.keep();
    }

    #[tokio::test]
    async fn a_settlement_without_an_outcome_is_pending_and_written() {
        let mut bench = bench().await;
        let mut hold = bench.hold(OnAbort::Delivered).await;
        let id = hold.id();
        hold.dispatched().await.expect("written");
        let settled = hold.capture(tokens(r#"{"input":1,"output":2}"#)).await;
        assert!(matches!(settled, Err(SettleError::Pending(hold)) if hold == id), "{settled:?}");
        assert_eq!(bench.row(id).await.state, State::Settling);
        assert_eq!(bench.orders.recv().await.expect("sent").hold, id);
        assert!(bench.orders.try_recv().is_err(), "once");
    }

    #[tokio::test]
    async fn an_abandoned_stream_is_read_on_by_policy() {
        for (policy, amount) in [(OnAbort::Drain, "0.00109"), (OnAbort::Delivered, "0.00101")] {
            let mut bench = bench().await;
            let mut hold = bench.hold(policy).await;
            hold.dispatched().await.expect("written");
            hold.observe_text("1");
            hold.abandon(async { Some(tokens(r#"{"input":1000,"output":9}"#)) });
            let order = bench.orders.recv().await.expect("sent");
            let body: Capture = serde_json::from_str(&order.body).expect("a capture");
            assert_eq!(body.amount, amount.parse().ok(), "{policy:?}");
        }
    }

    #[tokio::test]
    async fn a_part_takes_what_was_observed_with_it() {
        let mut bench = bench().await;
        let mut hold = bench.hold(OnAbort::Delivered).await;
        let id = hold.id();
        hold.dispatched().await.expect("written");
        hold.observe(tokens(r#"{"input":10,"output":7}"#));
        let part = hold.capture_part(tokens(r#"{"input":10,"output":7}"#)).await;
        assert!(matches!(part, Err(SettleError::Pending(_))), "nobody answers here: {part:?}");
        assert_eq!(bench.row(id).await.observed, None);
        assert!(!bench.orders.recv().await.expect("sent").ends);
        hold.observe_text("1234");
        drop(hold);
        let order = bench.orders.recv().await.expect("sent");
        let body: Capture = serde_json::from_str(&order.body).expect("a capture");
        assert_eq!(body.amount, "0.00001".parse().ok(), "no input twice");
    }

    #[tokio::test]
    async fn a_hold_that_was_never_written_settles_nobody_elses() {
        let mut bench = bench().await;
        let other = bench.hold(OnAbort::Delivered).await;
        let mut same = plan();
        same.hold = other.id();
        drop(Hold::new(Arc::clone(&bench.desk), same, 500, OnAbort::Delivered));
        assert_eq!(bench.row(other.id()).await.state, State::Reserving);
        assert!(bench.orders.try_recv().is_err());
        drop(other);
        assert!(bench.orders.recv().await.is_some());
    }
}
