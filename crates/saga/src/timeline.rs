//! A saga's log for people.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::entry::{Entry, What};
use crate::key::SagaKey;
use crate::log::Stored;
use crate::outcome::SagaOutcome;
use crate::state::fold;

/// One line of a saga's timeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    /// The entry's number.
    pub n: u64,
    /// When, in Unix milliseconds.
    pub at_ms: u64,
    /// Who wrote it.
    pub by: String,
    /// The kind of entry.
    pub entry: &'static str,
    /// The step it is about.
    pub step: Option<String>,
    /// The rest, in words; may be empty.
    pub detail: String,
}

/// One saga of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// The saga.
    pub saga: SagaKey,
    /// The account that pays; none when the log's beginning is missing.
    pub account: Option<String>,
    /// `running`, `undoing`, `stuck`, `completed`, `undone`, `refused` or `broken`.
    pub status: &'static str,
    /// The step that the last entry is about.
    pub step: Option<String>,
    /// When the last entry was written, in Unix milliseconds.
    pub at_ms: u64,
    /// Who wrote it.
    pub by: String,
}

/// The lines of a saga. Signs of life are left out.
#[must_use]
pub fn lines<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Vec<Line> {
    let entries = entries.into_iter().filter(|entry| !matches!(entry.what, What::Alive { .. }));
    entries.map(line).collect()
}

fn line(entry: &Entry) -> Line {
    Line {
        n: entry.n,
        at_ms: entry.at,
        by: entry.by.clone(),
        entry: entry.what.kind(),
        step: entry.what.step().map(str::to_owned),
        detail: detail(&entry.what),
    }
}

fn detail(what: &What) -> String {
    match what {
        What::Started { account, hold, .. } => format!("account {account}, hold {hold}"),
        What::Reserved { amount, replayed } => {
            format!("{amount}{}", if *replayed { ", as before" } else { "" })
        }
        What::StepBegun { attempt, .. } | What::UndoBegun { attempt, .. } => format!("try {attempt}"),
        What::StepFailed { again, error, cost, .. } => {
            let cost = cost.as_ref().map_or_else(String::new, |cost| format!("; it cost {}", cost.amount));
            format!("{}{cost}", failed(*again, error))
        }
        What::UndoFailed { again, error, .. } => failed(*again, error),
        What::AttemptCharged { attempt, charged, late, problem, .. } => {
            let problem = problem.as_ref().map_or_else(String::new, |problem| format!(" ({problem})"));
            format!("try {attempt}: {}{problem}", charged_as(charged, *late))
        }
        What::StepWorked { cost, .. } => format!("it cost {}", cost.amount),
        What::StepDone { charged, late, .. } => {
            charged.as_ref().map_or_else(String::new, |charged| charged_as(charged, *late))
        }
        What::HoldLost { code } => code.clone(),
        What::Undoing { because } => because.clone(),
        What::StepUndone { refund, .. } if !refund.is_empty() => format!("refunds {}", refund.join(", ")),
        What::Stuck { error, .. } => error.clone(),
        What::Resumed { by_hand } => (if *by_hand { "done by hand" } else { "" }).to_owned(),
        What::Settled { how, charged } => match charged {
            Some(charged) => format!("{how}, charged {charged}"),
            None => how.clone(),
        },
        What::ChargeKnown { charged, attempts, .. } => {
            let attempts = attempts.iter().map(|(attempt, charged)| format!(", {charged} for try {attempt}"));
            format!("charged {charged}{}", attempts.collect::<String>())
        }
        What::Refunded { attempt, amount, code, .. } => {
            let attempt = attempt.map_or_else(String::new, |attempt| format!(" of try {attempt}"));
            let code = code.as_ref().map_or_else(String::new, |code| format!(" ({code})"));
            format!("{amount}{attempt}{code}")
        }
        What::Ended { ended, because, charged, refunded } => {
            let because = because.as_ref().map_or_else(String::new, |because| format!(" ({because})"));
            format!("{}{because}; charged {charged}, refunded {refunded}", ended.as_str())
        }
        What::Taken | What::Alive { .. } | What::StepUndone { .. } => String::new(),
    }
}

fn failed(again: bool, error: &str) -> String {
    format!("{error}{}", if again { "" } else { " (no other try)" })
}

fn charged_as(charged: &str, late: bool) -> String {
    format!("charged {charged}{}", if late { ", after the hold had ended" } else { "" })
}

/// The sagas of a log, by name.
#[must_use]
pub fn summaries(entries: Vec<Stored>) -> Vec<Summary> {
    let mut sagas = BTreeMap::<SagaKey, Vec<Entry>>::new();
    for stored in entries {
        sagas.entry(stored.saga).or_default().push(stored.entry);
    }
    sagas.into_iter().filter_map(|(saga, entries)| summary(saga, &entries)).collect()
}

fn summary(saga: SagaKey, entries: &[Entry]) -> Option<Summary> {
    let last = entries.last()?;
    let (account, status) = match fold(entries) {
        Ok(state) => {
            let status = match SagaOutcome::of(&saga, &state) {
                Some(outcome) => outcome.ended.as_str(),
                None if state.undoing.is_some() => "undoing",
                None => "running",
            };
            (Some(state.account), status)
        }
        Err(_) => (None, "broken"),
    };
    let step = last.what.step().map(str::to_owned);
    Some(Summary { saga, account, status, step, at_ms: last.at, by: last.by.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::definition::Charge;
    use crate::entry::Origin;

    fn entries() -> Vec<Entry> {
        let whats = [
            What::Started {
                account: "user-1".to_owned(),
                hold: uuid::Uuid::nil(),
                reserve: serde_json::Value::Null,
                input: serde_json::Value::Null,
                origin: Origin::New,
            },
            What::StepBegun { step: "plan".to_owned(), attempt: 1, charge: Charge::Keep },
            What::Alive { step: "plan".to_owned() },
            What::StepFailed { step: "plan".to_owned(), again: false, error: "no".to_owned(), cost: None },
        ];
        (1..).zip(whats).map(|(n, what)| Entry { n, at: n, by: "test#1".to_owned(), what }).collect()
    }

    #[test]
    fn a_timeline_says_what_happened_without_the_signs_of_life() {
        let lines = lines(&entries());
        let told: Vec<_> = lines.iter().map(|line| (line.n, line.entry, line.detail.as_str())).collect();
        let nil = "account user-1, hold 00000000-0000-0000-0000-000000000000";
        let expected =
            [(1, "started", nil), (2, "step_begun", "try 1"), (4, "step_failed", "no (no other try)")];
        assert_eq!(told, expected);
    }

    #[test]
    fn a_list_has_one_line_a_saga() {
        let saga = SagaKey::new("book", "7").expect("legal");
        let stored = entries().into_iter().map(|entry| Stored {
            saga: saga.clone(),
            sequence: entry.n,
            stored_ms: entry.at,
            entry,
        });
        let list = summaries(stored.collect());
        assert_eq!(list.len(), 1);
        assert_eq!((list[0].status, list[0].step.as_deref()), ("running", Some("plan")));
        assert_eq!(list[0].account.as_deref(), Some("user-1"));
    }
}
