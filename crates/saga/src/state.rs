//! The state machine: from the entries of a saga's log to the next thing to do. No I/O.
//!
//! **Shape.** [`fold`] reads a log; [`State::decide`] says what is to be done, as a [`Todo`]. The driver
//! does it, writes an entry of what happened, and asks again. A saga that is resumed is folded and asked
//! in the same way, so there is no other code for crashes.
//!
//! ```text
//! reserve ▶ step, step, … ▶ settle (capture of 0) ▶ completed
//!    │        └─ fails ─▶ undo in reverse ▶ settle (release) ▶ charges looked up, refunded ▶ undone
//!    │                      └─ keeps failing ▶ stuck ─ resumed by an operator ─▶ undo …
//!    └─ rejected ▶ refused
//! ```
//!
//! **Correctness.** A try that began and of which nothing was heard again is *lost*: it may have done
//! its work, and may have been charged. So a step that had one is looked up in the ledger before the
//! saga says what stays charged. That happens after the release, from when on no capture is accepted
//! any more from an instance that was taken over without having noticed.
//!
//! A log may have lost its end in a power failure. Where the hold turns out to be settled by the saga
//! itself, `settled` is written early: after a capture the saga had been completed, so what is missing
//! in the log is run again without a hold, under ids that were all used before; after a release it had
//! been undone, so it is undone again.

use std::time::Duration;

use holdfast_core::HoldId;
use serde_json::Value;

use crate::amount::Sum;
use crate::definition::{Charge, Outputs};
use crate::entry::{Ending, Entry, Origin, What};
use crate::key::is_step_name;

/// The most steps of a saga: beyond it the definition does not come to an end.
pub const STEPS_MAX: usize = 1_000;

/// What stands for everything that a lost log would have named; no step can have this name.
pub const EVERYTHING: &str = "(everything)";

/// How the hold of a saga that was undone is settled.
pub(crate) const RELEASED: &str = "released";

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
    acting: Tries,
    undoing: Tries,
    error: String,
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
            acting: Tries::default(),
            undoing: Tries::default(),
            error: String::new(),
        }
    }

    /// Whether it may have been charged without its log knowing.
    fn is_unsure(&self) -> bool {
        self.charged.is_none() && self.acting.lost() > 0
    }

    fn charged_sum(&self) -> Sum {
        self.charged.as_deref().map_or(Sum::default(), Sum::of)
    }

    fn refunded_sum(&self) -> Sum {
        self.refunded.as_deref().map_or(Sum::default(), Sum::of)
    }

    fn is_to_be_refunded(&self) -> bool {
        self.charge == Charge::Refund && self.refunded.is_none() && !self.charged_sum().is_zero()
    }
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
    /// Its steps, in the order in which they were begun.
    pub steps: Vec<StepState>,
    /// Why it is being undone, if it is.
    pub undoing: Option<String>,
    /// How its hold ended under it, if it did.
    pub hold_lost: Option<String>,
    /// How its hold was settled, once it was.
    pub settled: Option<String>,
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
            steps: Vec::new(),
            undoing: None,
            hold_lost: None,
            settled: None,
            stuck: None,
            ended: None,
        })
    }

    /// The state after one more entry.
    pub fn apply(&mut self, what: &What) {
        match what {
            What::Started { .. } | What::Taken | What::Alive { .. } => {}
            What::Reserved { .. } => self.reserved = true,
            What::StepBegun { step, charge, .. } => self.begin(step, *charge),
            What::StepFailed { step, again, error } => self.on(step, |step| {
                step.acting.fail(*again);
                step.error.clone_from(error);
            }),
            What::StepDone { step, output, charged, late } => {
                self.on(step, |step| {
                    step.acting.open = false;
                    step.progress = Progress::Done;
                    step.output = Some(output.clone());
                    step.charged = Some(charged.clone().unwrap_or_else(|| "0".to_owned()));
                });
                if *late {
                    self.lose_hold("captured_late");
                }
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
            What::Settled { how } => self.settled = Some(how.clone()),
            What::ChargeKnown { step, charged } => {
                self.on(step, |step| step.charged = Some(charged.clone()));
            }
            What::Refunded { step, amount, .. } => {
                self.on(step, |step| step.refunded = Some(amount.clone()));
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

    fn turn(&mut self, because: &str) {
        self.undoing = Some(because.to_owned());
        if self.origin != Origin::New {
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
        } else if let Some(because) = &self.undoing {
            self.backward(limits, because)
        } else {
            self.forward(limits, plan)
        }
    }

    fn forward(&self, limits: &Limits, plan: impl FnOnce(&Outputs) -> Option<Planned>) -> Todo {
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
                Some(_) => Todo::End { ending: Ending::Completed, because: None },
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
        if self.steps.is_empty() && self.origin == Origin::New {
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
        if let Some(step) = self.steps.iter().find(|step| step.is_unsure()) {
            return Todo::LookUp { step: step.name.clone() };
        }
        if let Some(step) = self.steps.iter().find(|step| step.is_to_be_refunded()) {
            return Todo::Refund { step: step.name.clone() };
        }
        Todo::End { ending: Ending::Undone, because: Some(because.to_owned()) }
    }

    /// What was charged in all, before refunds.
    pub(crate) fn charged(&self) -> Sum {
        self.steps.iter().map(StepState::charged_sum).sum()
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
