//! The state machine: from the entries of a saga's log to the next thing to do. No I/O.
//!
//! **Shape.** [`fold`] reads a log; [`State::decide`] says what is to be done, as a [`Todo`]. The driver
//! does it, writes an entry of what happened, and asks again. A saga that is resumed is folded and asked
//! in the same way, so there is no other code for crashes.
//!
//! ```text
//! reserve ▶ step: act, worked, capture, done; step, … ▶ settle (capture of 0) ▶ completed
//!    │        └─ fails ─▶ undo in reverse ▶ settle (release) ▶ charges looked up, refunded ▶ undone
//!    │                      └─ keeps failing ▶ stuck ─ resumed by an operator ─▶ undo …
//!    └─ rejected ▶ refused
//! ```
//!
//! **Correctness.** What work cost, also that of a try that failed, is in the log before it is captured,
//! and is captured before anything else is done. So nothing is done twice because the ledger gave no
//! outcome.
//!
//! A try that began and of which nothing was heard again is *lost*: it may have done its work, and may
//! have been charged. So a step that had one, and whose charge is not known otherwise, is looked up in
//! the ledger before the saga says what stays charged. That happens after the settlement, from when on
//! no capture is accepted any more from an instance that was taken over without having noticed.
//!
//! A log may have been lost, or its end in a power failure. Then it is *cut*: all steps are looked up, for
//! any of them may have been charged by the run that is not in the log. Where the hold turns out to be
//! settled by the saga itself, `settled` is written early: after a capture the saga had been completed,
//! and is; after a release it had been undone, so it is undone again.

use std::time::Duration;

use holdfast_core::HoldId;
use serde_json::Value;

use crate::amount::Sum;
use crate::definition::{Charge, Cost, Outputs};
use crate::entry::{Ending, Entry, Origin, What};
use crate::key::is_step_name;

/// The most steps of a saga: beyond it the definition does not come to an end.
pub const STEPS_MAX: usize = 1_000;

/// What stands for everything that a lost log would have named; no step can have this name.
pub const EVERYTHING: &str = "(everything)";

/// How the hold of a saga that was undone is settled.
const RELEASED: &str = "released";

/// Whether the hold of a saga that was completed is settled like that.
pub(crate) fn is_captured(how: &str) -> bool {
    matches!(how, "captured" | "captured_late")
}

/// How often something is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How often an action or an undo may fail before it counts as failed.
    pub attempts_max: u32,
    /// How often the process may go away while it is tried, which may be its own doing.
    pub interruptions_max: u32,
    /// How long to wait before the second try; each further wait is twice as long.
    pub pause: Duration,
    /// The longest wait between two tries.
    pub pause_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            attempts_max: 5,
            interruptions_max: 10,
            pause: Duration::from_millis(500),
            pause_max: Duration::from_secs(60),
        }
    }
}

impl Limits {
    /// The highest number that a try can have.
    pub(crate) fn tries_max(&self) -> u32 {
        self.attempts_max.saturating_add(self.interruptions_max)
    }

    fn pause_after(&self, failed: u32) -> Duration {
        match failed.checked_sub(1) {
            None => Duration::ZERO,
            Some(doublings) => {
                let factor = 2_u32.checked_pow(doublings).unwrap_or(u32::MAX);
                self.pause.saturating_mul(factor).min(self.pause_max)
            }
        }
    }
}

/// The tries at one action or one undo.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tries {
    begun: u32,
    failed: u32,
    interrupted: u32,
    open: bool,
    given_up: bool,
}

impl Tries {
    fn begin(&mut self) {
        self.interrupted += u32::from(self.open);
        self.open = true;
        self.begun += 1;
    }

    fn fail(&mut self, again: bool) {
        self.open = false;
        self.failed += 1;
        self.given_up |= !again;
    }

    /// Tries that began and of which nothing was heard again.
    fn lost(&self) -> u32 {
        self.interrupted + u32::from(self.open)
    }

    fn spent(&self, limits: &Limits) -> bool {
        self.given_up || self.failed >= limits.attempts_max || self.lost() >= limits.interruptions_max
    }
}

/// How far a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// It was begun, and is neither done nor undone.
    Begun,
    /// It is done.
    Done,
    /// It is undone.
    Undone,
}

/// One step of a saga, as its log has it.
#[derive(Debug, Clone, PartialEq)]
pub struct StepState {
    /// Its name.
    pub name: String,
    /// What becomes of its charge when it is undone.
    pub charge: Charge,
    /// How far it is.
    pub progress: Progress,
    /// Its output, from when on it is done.
    pub output: Option<Value>,
    /// What it was charged, once that is known.
    pub charged: Option<String>,
    /// What was refunded of it, once that was asked for.
    pub refunded: Option<String>,
    /// Tries that failed and cost something all the same.
    pub attempts: Vec<AttemptState>,
    /// What it has done, and what that cost, until it is captured.
    worked: Option<(Value, Cost)>,
    /// Whether the ledger was asked what it was charged.
    looked_up: bool,
    acting: Tries,
    undoing: Tries,
    error: String,
}

/// A try that failed and cost something all the same.
#[derive(Debug, Clone, PartialEq)]
pub struct AttemptState {
    /// Its number, from 1.
    pub attempt: u32,
    /// What it was charged, once that is known.
    pub charged: Option<String>,
    /// What was refunded of it, once that was asked for.
    pub refunded: Option<String>,
    /// What it cost, where it is to be captured.
    cost: Option<Cost>,
}

impl StepState {
    fn begun(name: &str, charge: Charge) -> Self {
        StepState {
            name: name.to_owned(),
            charge,
            progress: Progress::Begun,
            output: None,
            charged: None,
            refunded: None,
            attempts: Vec::new(),
            worked: None,
            looked_up: false,
            acting: Tries::default(),
            undoing: Tries::default(),
            error: String::new(),
        }
    }

    fn fail(&mut self, again: bool, error: &str, cost: Option<&Cost>) {
        self.acting.fail(again);
        error.clone_into(&mut self.error);
        self.worked = None;
        let attempt = self.acting.begun;
        self.attempts.extend(cost.map(|cost| AttemptState {
            attempt,
            charged: None,
            refunded: None,
            cost: Some(cost.clone()),
        }));
    }

    /// `charged` is what is known. Without it nothing was, unless another run of it is `doubtful`.
    fn done(&mut self, output: &Value, charged: Option<&String>, doubtful: bool) {
        self.acting.open = false;
        self.progress = Progress::Done;
        self.output = Some(self.worked.take().map_or_else(|| output.clone(), |(output, _)| output));
        let free = || (!doubtful && self.acting.lost() == 0).then(|| "0".to_owned());
        self.charged = charged.cloned().or_else(free);
    }

    fn attempt_charged(&mut self, attempt: u32, charged: &str) {
        let charged = Some(charged.to_owned());
        match self.attempts.iter_mut().find(|known| known.attempt == attempt) {
            Some(known) => known.charged = known.charged.take().or(charged),
            None => self.attempts.push(AttemptState { attempt, charged, refunded: None, cost: None }),
        }
    }

    fn know(&mut self, charged: &str, attempts: &[(u32, String)]) {
        self.looked_up = true;
        self.charged.get_or_insert_with(|| charged.to_owned());
        for (attempt, charged) in attempts {
            self.attempt_charged(*attempt, charged);
        }
    }

    fn refunded(&mut self, attempt: Option<u32>, amount: &str) {
        let amount = Some(amount.to_owned());
        match attempt {
            None => self.refunded = amount,
            Some(attempt) => {
                let known = self.attempts.iter_mut().find(|known| known.attempt == attempt);
                known.into_iter().for_each(|known| known.refunded.clone_from(&amount));
            }
        }
    }

    /// What is to be captured before anything else is done.
    fn uncaptured(&self) -> Option<Todo> {
        let charge = |attempt, cost: &Cost| {
            let cost = Box::new(cost.clone());
            Todo::Charge { step: self.name.clone(), attempt, cost }
        };
        let mut open = self.attempts.iter().filter(|attempt| attempt.charged.is_none());
        let attempt = open.find_map(|failed| Some(charge(Some(failed.attempt), failed.cost.as_ref()?)));
        attempt.or_else(|| self.worked.as_ref().map(|(_, cost)| charge(None, cost)))
    }

    /// What it was charged, with its tries that failed.
    pub(crate) fn charged_sum(&self) -> Sum {
        let attempts = self.attempts.iter().map(|attempt| sum(attempt.charged.as_deref()));
        attempts.chain([sum(self.charged.as_deref())]).sum()
    }

    /// What was given back of that.
    pub(crate) fn refunded_sum(&self) -> Sum {
        let attempts = self.attempts.iter().map(|attempt| sum(attempt.refunded.as_deref()));
        attempts.chain([sum(self.refunded.as_deref())]).sum()
    }

    /// The next of its charges that its rule gives back.
    fn to_be_refunded(&self) -> Option<Todo> {
        if self.charge != Charge::Refund {
            return None;
        }
        let owed = |charged: &Option<String>, refunded: &Option<String>| {
            refunded.is_none() && !sum(charged.as_deref()).is_zero()
        };
        let attempt = self.attempts.iter().find(|attempt| owed(&attempt.charged, &attempt.refunded));
        let attempt = attempt.map(|attempt| Some(attempt.attempt));
        let due = attempt.or_else(|| owed(&self.charged, &self.refunded).then_some(None))?;
        Some(Todo::Refund { step: self.name.clone(), attempt: due })
    }
}

fn sum(amount: Option<&str>) -> Sum {
    amount.map_or(Sum::default(), Sum::of)
}

/// A saga, as far as its log tells.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// The account that pays.
    pub account: String,
    /// Its hold.
    pub hold: HoldId,
    /// The body of its reserve.
    pub reserve: Value,
    /// Its input.
    pub input: Value,
    /// Whether it is new.
    pub origin: Origin,
    /// Whether the money was promised.
    pub reserved: bool,
    /// Whether there was perhaps another run, of which this log says nothing.
    cut: bool,
    /// Its steps, in the order in which they were begun.
    pub steps: Vec<StepState>,
    /// Why it is being undone, if it is.
    pub undoing: Option<String>,
    /// How its hold ended under it, if it did.
    pub hold_lost: Option<String>,
    /// How its hold was settled, once it was.
    pub settled: Option<String>,
    /// What its hold was charged in all, where the steps do not say.
    settled_charged: Option<String>,
    /// The undo that kept failing, and its error, while nobody said to go on.
    pub stuck: Option<(String, String)>,
    /// How and why it ended, once it did.
    pub ended: Option<(Ending, Option<String>)>,
}

/// Why a log cannot be folded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// It does not begin with `started`, or is empty.
    #[error("the log has no beginning")]
    NoStart,
    /// An entry is missing.
    #[error("the entry after number {0} is missing")]
    Gap(u64),
}

/// The next thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Todo {
    /// Ask for the money.
    Reserve,
    /// Try a step.
    Act {
        /// The step.
        step: String,
        /// What becomes of its charge when it is undone.
        charge: Charge,
        /// Which try, from 1.
        attempt: u32,
        /// How long to wait before.
        pause: Duration,
    },
    /// Capture what a step cost.
    Charge {
        /// The step.
        step: String,
        /// Which try, when it is one that failed.
        attempt: Option<u32>,
        /// What it cost.
        cost: Box<Cost>,
    },
    /// Write that the saga is undone from here on.
    Turn {
        /// Why.
        because: String,
    },
    /// Try an undo.
    Undo {
        /// The step.
        step: String,
        /// Which try, from 1.
        attempt: u32,
        /// How long to wait before.
        pause: Duration,
    },
    /// Write that the saga is stuck, and tell people.
    Park {
        /// The step.
        step: String,
        /// The last error.
        error: String,
    },
    /// Settle the hold.
    Settle(Settlement),
    /// Ask the ledger what a step was charged.
    LookUp {
        /// The step.
        step: String,
    },
    /// Give a step's charge back.
    Refund {
        /// The step.
        step: String,
        /// Which try, when it is what one that failed was charged.
        attempt: Option<u32>,
    },
    /// Write that the saga is over.
    End {
        /// How.
        ending: Ending,
        /// Why, where it was not completed.
        because: Option<String>,
    },
    /// Nothing, until an operator says so.
    Wait,
    /// Nothing any more.
    Nothing,
}

/// How a hold is settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settlement {
    /// By a final capture of nothing: the work is done, and charged in parts.
    Capture,
    /// By a release of what is left.
    Release,
}

/// What the definition has as the next step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// Its name.
    pub name: String,
    /// What becomes of its charge when it is undone.
    pub charge: Charge,
}

/// Reads a log: the entries of one saga, in their order.
///
/// A later `started` begins anew, whatever was before it: it is written when the log was found cut.
///
/// # Errors
/// [`Broken`] when entries are missing.
pub fn fold<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Result<State, Broken> {
    let (mut state, mut last) = (None::<State>, 0);
    for entry in entries {
        if let Some(started) = State::start(&entry.what) {
            state = Some(started);
        } else if let Some(state) = &mut state {
            if entry.n != last + 1 {
                return Err(Broken::Gap(last));
            }
            state.apply(&entry.what);
        }
        last = entry.n;
    }
    state.ok_or(Broken::NoStart)
}

impl State {
    /// The state after `started`; none after any other entry.
    #[must_use]
    pub fn start(what: &What) -> Option<Self> {
        let What::Started { account, hold, reserve, input, origin } = what else { return None };
        Some(State {
            account: account.clone(),
            hold: *hold,
            reserve: reserve.clone(),
            input: input.clone(),
            origin: *origin,
            // A saga that is driven again was found by its hold.
            reserved: *origin != Origin::New,
            cut: *origin != Origin::New,
            steps: Vec::new(),
            undoing: None,
            hold_lost: None,
            settled: None,
            settled_charged: None,
            stuck: None,
            ended: None,
        })
    }

    /// The state after one more entry.
    pub fn apply(&mut self, what: &What) {
        match what {
            What::Started { .. } | What::Taken | What::Alive { .. } => {}
            What::Reserved { replayed, .. } => {
                self.reserved = true;
                self.cut |= *replayed;
            }
            What::StepBegun { step, charge, .. } => self.begin(step, *charge),
            What::StepFailed { step, again, error, cost } => {
                self.on(step, |step| step.fail(*again, error, cost.as_ref()));
            }
            What::AttemptCharged { step, attempt, charged, late, .. } => {
                self.on(step, |step| step.attempt_charged(*attempt, charged));
                self.captured(*late);
            }
            What::StepWorked { step, output, cost } => self.on(step, |step| {
                step.acting.open = false;
                step.worked = Some((output.clone(), cost.clone()));
            }),
            What::StepDone { step, output, charged, late } => {
                let cut = self.cut;
                self.on(step, |step| step.done(output, charged.as_ref(), cut));
                self.captured(*late);
            }
            What::HoldLost { code } => self.lose_hold(code),
            What::Undoing { because } => self.turn(because),
            What::UndoBegun { step, .. } => self.on(step, |step| step.undoing.begin()),
            What::UndoFailed { step, again, error } => self.on(step, |step| {
                step.undoing.fail(*again);
                step.error.clone_from(error);
            }),
            What::StepUndone { step, refund } => self.undone(step, refund),
            What::Stuck { step, error } => self.stuck = Some((step.clone(), error.clone())),
            What::Resumed { by_hand } => self.resume(*by_hand),
            What::Settled { how, charged } => self.settle(how, charged.as_ref()),
            What::ChargeKnown { step, charged, attempts } => {
                self.on(step, |step| step.know(charged, attempts));
            }
            What::Refunded { step, attempt, amount, .. } => {
                self.on(step, |step| step.refunded(*attempt, amount));
            }
            What::Ended { ended, because, .. } => self.ended = Some((*ended, because.clone())),
        }
    }

    fn on(&mut self, name: &str, change: impl FnOnce(&mut StepState)) {
        if let Some(step) = self.steps.iter_mut().find(|step| step.name == name) {
            change(step);
        }
    }

    fn begin(&mut self, name: &str, charge: Charge) {
        if !self.steps.iter().any(|step| step.name == name) {
            self.steps.push(StepState::begun(name, charge));
        }
        self.on(name, |step| step.acting.begin());
    }

    fn lose_hold(&mut self, code: &str) {
        self.hold_lost.get_or_insert_with(|| code.to_owned());
    }

    /// A capture was accepted; `late` when the hold had ended before.
    fn captured(&mut self, late: bool) {
        if late {
            self.lose_hold("captured_late");
        }
    }

    fn settle(&mut self, how: &str, charged: Option<&String>) {
        let due = match self.undoing {
            Some(_) => self.steps.iter().all(|step| step.progress == Progress::Undone),
            None => how != RELEASED && self.steps.iter().all(|step| step.progress == Progress::Done),
        };
        // The run that settled it had come further than this log says.
        self.cut |= !due;
        self.settled = Some(how.to_owned());
        self.settled_charged = charged.cloned();
    }

    /// Whether there was perhaps another run, of which this log says nothing.
    pub(crate) fn is_cut(&self) -> bool {
        self.cut
    }

    fn turn(&mut self, because: &str) {
        self.undoing = Some(because.to_owned());
        if self.cut {
            // The run whose log was lost may have come further than this one: undone last.
            let everything =
                StepState { charged: Some("0".to_owned()), ..StepState::begun(EVERYTHING, Charge::Keep) };
            self.steps.insert(0, everything);
        }
    }

    fn undone(&mut self, name: &str, refund: &[String]) {
        self.on(name, |step| {
            step.undoing.open = false;
            step.progress = Progress::Undone;
        });
        for name in refund {
            if self.steps.iter().any(|step| step.name == *name) {
                continue;
            }
            let mut step = StepState::begun(name, Charge::Refund);
            step.progress = Progress::Undone;
            // Begun by the run that was lost: so it may have been charged.
            step.acting.begin();
            self.steps.push(step);
        }
    }

    fn resume(&mut self, by_hand: bool) {
        let Some((name, _)) = self.stuck.take() else { return };
        self.on(&name, |step| {
            step.undoing = Tries { begun: step.undoing.begun, ..Tries::default() };
            if by_hand {
                step.progress = Progress::Undone;
            }
        });
    }

    /// The outputs of the steps that are done, or were before they were undone.
    #[must_use]
    pub fn outputs(&self) -> Outputs {
        let done = self.steps.iter().filter_map(|step| Some((step.name.clone(), step.output.clone()?)));
        Outputs::new(done.collect())
    }

    /// What is to be done next. `plan` is the definition: the step after those outputs. It is asked
    /// only when a new step is due.
    pub fn decide(&self, limits: &Limits, plan: impl FnOnce(&Outputs) -> Option<Planned>) -> Todo {
        if self.ended.is_some() {
            Todo::Nothing
        } else if self.stuck.is_some() {
            Todo::Wait
        } else if !self.reserved {
            Todo::Reserve
        } else if let Some(charge) = self.steps.iter().find_map(StepState::uncaptured) {
            charge
        } else if let Some(because) = &self.undoing {
            self.backward(limits, because)
        } else {
            self.forward(limits, plan)
        }
    }

    fn forward(&self, limits: &Limits, plan: impl FnOnce(&Outputs) -> Option<Planned>) -> Todo {
        if self.settled.as_deref().is_some_and(is_captured) {
            return self.completed(plan);
        }
        if self.origin == Origin::Lost {
            return Todo::Turn { because: "its log and its input are lost".to_owned() };
        }
        if self.settled.as_deref() == Some(RELEASED) {
            return Todo::Turn { because: "it had been undone when its log was cut".to_owned() };
        }
        match self.steps.last().filter(|step| step.progress == Progress::Begun) {
            Some(step) => self.again(limits, step),
            None => self.further(plan(&self.outputs())),
        }
    }

    /// The saga itself has settled its hold by a capture, so all was done: now, or in a run whose log
    /// was lost.
    fn completed(&self, plan: impl FnOnce(&Outputs) -> Option<Planned>) -> Todo {
        if let Some(todo) = self.unsure() {
            return todo;
        }
        let begun = self.steps.iter().any(|step| step.progress == Progress::Begun);
        let whole = self.origin != Origin::Lost && !begun && plan(&self.outputs()).is_none();
        let because = match (whole, self.steps.is_empty()) {
            (true, _) => None,
            (false, true) => Some("it was completed before; its log is gone".to_owned()),
            (false, false) => Some("it was completed before; the end of its log is gone".to_owned()),
        };
        Todo::End { ending: Ending::Completed, because }
    }

    /// A step was begun and is not done.
    fn again(&self, limits: &Limits, step: &StepState) -> Todo {
        if step.acting.spent(limits) {
            let error: &str =
                if step.error.is_empty() { "it was interrupted too often" } else { &step.error };
            return Todo::Turn { because: format!("{}: {error}", step.name) };
        }
        if let Some(todo) = self.without_hold() {
            return todo;
        }
        Todo::Act {
            step: step.name.clone(),
            charge: step.charge,
            attempt: step.acting.begun + 1,
            pause: limits.pause_after(step.acting.failed),
        }
    }

    /// All steps that were begun are done.
    fn further(&self, planned: Option<Planned>) -> Todo {
        let Some(Planned { name, charge }) = planned else {
            return match self.settled {
                Some(_) => self.unsure().unwrap_or(Todo::End { ending: Ending::Completed, because: None }),
                None => Todo::Settle(Settlement::Capture),
            };
        };
        if let Some(todo) = self.without_hold() {
            return todo;
        }
        let problem = if !is_step_name(&name) {
            "is no name of a step"
        } else if self.steps.iter().any(|step| step.name == name) {
            "comes twice"
        } else if self.steps.len() >= STEPS_MAX {
            "is one step too many"
        } else {
            return Todo::Act { step: name, charge, attempt: 1, pause: Duration::ZERO };
        };
        Todo::Turn { because: format!("the definition is wrong: `{name}` {problem}") }
    }

    /// Nothing is run without a promise of the money for it.
    fn without_hold(&self) -> Option<Todo> {
        let code = self.hold_lost.as_deref()?;
        if self.steps.is_empty() && !self.cut {
            return Some(Todo::End { ending: Ending::Refused, because: Some(code.to_owned()) });
        }
        Some(Todo::Turn { because: format!("its hold has ended: {code}") })
    }

    fn backward(&self, limits: &Limits, because: &str) -> Todo {
        if let Some(step) = self.steps.iter().rev().find(|step| step.progress != Progress::Undone) {
            let name = step.name.clone();
            if step.undoing.spent(limits) {
                let error: &str =
                    if step.undoing.failed > 0 { &step.error } else { "it was interrupted too often" };
                return Todo::Park { step: name, error: error.to_owned() };
            }
            let pause = limits.pause_after(step.undoing.failed);
            return Todo::Undo { step: name, attempt: step.undoing.begun + 1, pause };
        }
        if self.settled.is_none() {
            return Todo::Settle(Settlement::Release);
        }
        let refund = || self.steps.iter().find_map(StepState::to_be_refunded);
        let ended = || Todo::End { ending: Ending::Undone, because: Some(because.to_owned()) };
        self.unsure().or_else(refund).unwrap_or_else(ended)
    }

    /// The next step that may have been charged without its log knowing.
    fn unsure(&self) -> Option<Todo> {
        let unsure = |step: &&StepState| {
            let in_doubt = self.cut || (step.charged.is_none() && step.acting.lost() > 0);
            in_doubt && !step.looked_up && step.name != EVERYTHING
        };
        self.steps.iter().find(unsure).map(|step| Todo::LookUp { step: step.name.clone() })
    }

    /// What was charged in all, before refunds.
    pub(crate) fn charged(&self) -> Sum {
        let steps = || self.steps.iter().map(StepState::charged_sum).sum();
        self.settled_charged.as_deref().map_or_else(steps, Sum::of)
    }

    /// What was given back in all.
    pub(crate) fn refunded(&self) -> Sum {
        self.steps.iter().map(StepState::refunded_sum).sum()
    }

    /// What stays charged for `step`.
    pub(crate) fn kept(step: &StepState) -> Sum {
        step.charged_sum().minus(step.refunded_sum())
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
