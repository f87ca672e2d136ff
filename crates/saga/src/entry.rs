//! The entries of a saga's log: readable JSON, one object each.
//!
//! ```json
//! {"n":3,"at":1760000060120,"by":"web-1#5f0c…","entry":"step_done","step":"plan","charged":"0.0012"}
//! ```
//!
//! **Correctness.** An entry says what *has* happened, or what is about to be tried (`…_begun`). What is
//! about to be tried is written first, so a crash leaves a trace of it; what the ledger was told is
//! written after its outcome, since the ledger remembers it by its id.

use holdfast_core::HoldId;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::definition::{Charge, Cost};

/// The longest error that is kept, in characters.
const ERROR_MAX_CHARS: usize = 1_000;

/// One entry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Its number in the saga's log, from 1, without gaps.
    pub n: u64,
    /// When it was written, in Unix milliseconds of the writer's clock.
    pub at: u64,
    /// Who wrote it: an instance's name and the run of the saga in it.
    pub by: String,
    /// What it says.
    #[serde(flatten)]
    pub what: What,
}

/// What an entry says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "snake_case")]
pub enum What {
    /// The saga begins; nothing was done yet, and nothing reserved unless it is driven again.
    Started {
        /// The account that pays.
        account: String,
        /// Its hold.
        hold: HoldId,
        /// The body of its reserve.
        #[serde(default)]
        reserve: Value,
        /// Its input.
        #[serde(default)]
        input: Value,
        /// Whether it is new.
        origin: Origin,
    },
    /// The ledger promised the money.
    Reserved {
        /// How much.
        amount: String,
        /// Whether it had done so before: the outcome of an earlier run, whose log is perhaps lost.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        replayed: bool,
    },
    /// An instance drives the saga on that another left.
    Taken,
    /// The instance that drives it is still at it.
    Alive {
        /// What it is at.
        step: String,
    },
    /// A step is about to be tried.
    StepBegun {
        /// The step.
        step: String,
        /// Which try, from 1.
        attempt: u32,
        /// What becomes of its charge when it is undone.
        charge: Charge,
    },
    /// A step failed.
    StepFailed {
        /// The step.
        step: String,
        /// Whether another try is worth it.
        again: bool,
        /// Why.
        error: String,
        /// What the try cost all the same; it is captured next.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cost: Option<Cost>,
    },
    /// What a try that failed had cost is captured.
    AttemptCharged {
        /// The step.
        step: String,
        /// Which try, from 1.
        attempt: u32,
        /// What the account was charged for it.
        charged: String,
        /// Whether the hold had ended by then, and the charge was a late one.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        late: bool,
        /// Why nothing was charged: the ledger's code and sentence.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        problem: Option<String>,
    },
    /// A step has done its work; what it cost is captured next, and the work is not repeated.
    StepWorked {
        /// The step.
        step: String,
        /// Its output.
        output: Value,
        /// What it cost.
        cost: Cost,
    },
    /// A step is done, and what it cost is captured.
    StepDone {
        /// The step.
        step: String,
        /// Its output; none when `step_worked` has it.
        #[serde(default, skip_serializing_if = "Value::is_null")]
        output: Value,
        /// What the account was charged for it; none when it cost nothing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        charged: Option<String>,
        /// Whether the hold had ended by then, and the charge was a late one.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        late: bool,
    },
    /// The hold ended under the saga: its time came, or somebody settled or released it.
    HoldLost {
        /// How: the ledger's code.
        code: String,
    },
    /// From here on the saga is undone.
    Undoing {
        /// Why.
        because: String,
    },
    /// An undo is about to be tried.
    UndoBegun {
        /// The step.
        step: String,
        /// Which try, from 1.
        attempt: u32,
    },
    /// An undo failed.
    UndoFailed {
        /// The step.
        step: String,
        /// Whether another try is worth it.
        again: bool,
        /// Why.
        error: String,
    },
    /// A step is undone.
    StepUndone {
        /// The step.
        step: String,
        /// Further steps, known to the definition only, whose charges are to be refunded.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        refund: Vec<String>,
    },
    /// An undo kept failing. The saga waits for an operator.
    Stuck {
        /// The step.
        step: String,
        /// The last error.
        error: String,
    },
    /// An operator says: go on.
    Resumed {
        /// Whether the undo that was stuck counts as done, because it was done by hand.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        by_hand: bool,
    },
    /// The hold is settled.
    Settled {
        /// The kind of the event that did it, or the code of who came first.
        how: String,
        /// What the hold was charged in all, where the log does not have it in parts.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        charged: Option<String>,
    },
    /// What a step of unknown fate was charged, as the ledger has it.
    ChargeKnown {
        /// The step.
        step: String,
        /// How much; 0 when it was not captured.
        charged: String,
        /// What tries that failed were charged, with their numbers.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        attempts: Vec<(u32, String)>,
    },
    /// The charge of an undone step was given back.
    Refunded {
        /// The step.
        step: String,
        /// Which try, when it is what one that failed was charged.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        attempt: Option<u32>,
        /// How much.
        amount: String,
        /// Why nothing was given back: the ledger's code.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<String>,
    },
    /// The saga is over. No entry follows.
    Ended {
        /// How.
        ended: Ending,
        /// Why, where it was not completed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        because: Option<String>,
        /// What was charged in all, before refunds.
        charged: String,
        /// What was given back of it.
        refunded: String,
    },
}

/// Whether a saga is new or is driven again after its log was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// It is new.
    New,
    /// Its log was lost; the service knew its input.
    Recovered,
    /// Its log was lost, and its input is not known.
    Lost,
}

/// How a saga ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// All steps are done.
    Completed,
    /// It was undone.
    Undone,
    /// There was no money for it; no step was run.
    Refused,
    /// It has not ended: an undo keeps failing, and an operator must look.
    Stuck,
}

impl Ending {
    /// The word for it, as in the entries.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Ending::Completed => "completed",
            Ending::Undone => "undone",
            Ending::Refused => "refused",
            Ending::Stuck => "stuck",
        }
    }
}

impl What {
    /// The entry's kind, as its JSON has it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            What::Started { .. } => "started",
            What::Reserved { .. } => "reserved",
            What::Taken => "taken",
            What::Alive { .. } => "alive",
            What::StepBegun { .. } => "step_begun",
            What::StepFailed { .. } => "step_failed",
            What::AttemptCharged { .. } => "attempt_charged",
            What::StepWorked { .. } => "step_worked",
            What::StepDone { .. } => "step_done",
            What::HoldLost { .. } => "hold_lost",
            What::Undoing { .. } => "undoing",
            What::UndoBegun { .. } => "undo_begun",
            What::UndoFailed { .. } => "undo_failed",
            What::StepUndone { .. } => "step_undone",
            What::Stuck { .. } => "stuck",
            What::Resumed { .. } => "resumed",
            What::Settled { .. } => "settled",
            What::ChargeKnown { .. } => "charge_known",
            What::Refunded { .. } => "refunded",
            What::Ended { .. } => "ended",
        }
    }

    /// The step it is about.
    #[must_use]
    pub fn step(&self) -> Option<&str> {
        match self {
            What::Alive { step }
            | What::StepBegun { step, .. }
            | What::StepFailed { step, .. }
            | What::AttemptCharged { step, .. }
            | What::StepWorked { step, .. }
            | What::StepDone { step, .. }
            | What::UndoBegun { step, .. }
            | What::UndoFailed { step, .. }
            | What::StepUndone { step, .. }
            | What::Stuck { step, .. }
            | What::ChargeKnown { step, .. }
            | What::Refunded { step, .. } => Some(step),
            _ => None,
        }
    }
}

/// An error's text, cut to what an entry should hold.
pub(crate) fn cut(error: &str) -> String {
    error.chars().take(ERROR_MAX_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn cost() -> Cost {
        let usage = json!({"tokens": {"input": 3}, "rates": {"input": [[0, 300_000]]}});
        let amount = "0.10".parse().expect("an amount");
        Cost { amount, usage: Some(usage), reason: Some("e".to_owned()) }
    }

    fn every_kind() -> Vec<What> {
        let step = || "plan".to_owned();
        vec![
            What::Started {
                account: "user-1".to_owned(),
                hold: HoldId::nil(),
                reserve: json!({"amount": "1"}),
                input: json!(null),
                origin: Origin::New,
            },
            What::Reserved { amount: "1".to_owned(), replayed: true },
            What::Taken,
            What::Alive { step: step() },
            What::StepBegun { step: step(), attempt: 1, charge: Charge::Refund },
            What::StepFailed { step: step(), again: true, error: "e".to_owned(), cost: Some(cost()) },
            What::AttemptCharged {
                step: step(),
                attempt: 2,
                charged: "0.1".to_owned(),
                late: true,
                problem: Some("e".to_owned()),
            },
            What::StepWorked { step: step(), output: json!({"a": 1}), cost: cost() },
            What::StepDone {
                step: step(),
                output: json!({"a": 1}),
                charged: Some("0.1".to_owned()),
                late: true,
            },
            What::StepDone { step: step(), output: json!(null), charged: None, late: false },
            What::HoldLost { code: "hold_expired".to_owned() },
            What::Undoing { because: "e".to_owned() },
            What::UndoBegun { step: step(), attempt: 2 },
            What::UndoFailed { step: step(), again: false, error: "e".to_owned() },
            What::StepUndone { step: step(), refund: vec![step()] },
            What::Stuck { step: step(), error: "e".to_owned() },
            What::Resumed { by_hand: true },
            What::Settled { how: "released".to_owned(), charged: Some("1".to_owned()) },
            What::ChargeKnown {
                step: step(),
                charged: "0".to_owned(),
                attempts: vec![(1, "0.1".to_owned())],
            },
            What::Refunded { step: step(), attempt: Some(2), amount: "0.1".to_owned(), code: None },
            What::Ended {
                ended: Ending::Undone,
                because: None,
                charged: "0".to_owned(),
                refunded: "0".to_owned(),
            },
        ]
    }

    #[test]
    fn every_entry_reads_back_and_names_its_kind() {
        for what in every_kind() {
            let entry = Entry { n: 3, at: 1_760_000_060_120, by: "web-1#1".to_owned(), what };
            let json = serde_json::to_value(&entry).expect("plain values");
            assert_eq!(json["entry"], entry.what.kind());
            let bytes = serde_json::to_vec(&entry).expect("plain values");
            assert_eq!(serde_json::from_slice::<Entry>(&bytes).expect("an entry"), entry);
        }
    }

    #[test]
    fn an_entry_is_json_that_people_can_read() {
        let what = What::StepDone {
            step: "write-page-2".to_owned(),
            output: json!({"path": "2.md"}),
            charged: Some("0.0012".to_owned()),
            late: false,
        };
        let entry = Entry { n: 3, at: 7, by: "web-1#1".to_owned(), what };
        let expected = r#"{"n":3,"at":7,"by":"web-1#1","entry":"step_done","step":"write-page-2","output":{"path":"2.md"},"charged":"0.0012"}"#;
        assert_eq!(serde_json::to_string(&entry).expect("plain values"), expected);
    }
}
