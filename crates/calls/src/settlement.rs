//! How a call is settled: the table of `docs/llm.md`, and nothing else.
//!
//! **Correctness.** [`Action::Keep`] is the answer to every doubt. A hold that is released although
//! the provider worked gives the work away; one that is kept expires by itself, and may be settled
//! until then by who learns more.

use std::borrow::Cow;

use holdfast_core::{Tokens, UsageSource};

use crate::meter::Meter;
use crate::plan::{Charge, Plan};

/// How a call went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// It was certainly never sent (connection refused). Not believed once anything has come.
    NotDispatched,
    /// The provider answered with an error, such as 429 or 500. If output had come before, this is
    /// like [`End::Aborted`]. The statuses 408, 499, 504, 522 and 524 say only that somebody waited
    /// too long or went away: they are [`End::Unknown`].
    ProviderError,
    /// The provider finished. What it reported of this provider call, if it did: in place of what was
    /// observed of it, and less what parts have charged of it. Without, the latest report of the whole
    /// call that was observed; without that too, what was reserved for is captured.
    Completed(Option<Tokens>),
    /// The stream broke, or was abandoned: what came is captured. When nothing shows that the
    /// provider worked, neither output nor a report of the whole call, the hold is kept.
    Aborted,
    /// Nobody knows whether the provider worked: a time-out, a connection lost before any answer.
    /// If something shows it all the same, this is like [`End::Aborted`].
    Unknown,
}

/// What to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    Release(Cow<'static, str>),
    Capture(Charge),
    Keep,
}

/// The table. `dispatched` is whether the request may have gone to the provider.
pub(crate) fn action(end: End, dispatched: bool, meter: &Meter, plan: &Plan) -> Action {
    match end {
        End::Completed(Some(tokens)) => completed(meter.left(plan, Some(tokens))),
        End::Completed(None) => {
            meter.reported(plan).map_or_else(|| Action::Capture(estimated(meter, plan)), completed)
        }
        // What the last provider call came to says nothing of one before it.
        End::NotDispatched if !meter.began(plan) && !meter.is_in_doubt() => {
            Action::Release("not_dispatched".into())
        }
        End::Aborted if !dispatched && !meter.began(plan) && !meter.is_in_doubt() => {
            Action::Release("not_dispatched".into())
        }
        End::ProviderError if !meter.output_came(plan) && !meter.is_in_doubt() => {
            Action::Release("provider_error".into())
        }
        End::NotDispatched | End::ProviderError | End::Unknown | End::Aborted => match meter.came(plan) {
            Some((tokens, source)) => Action::Capture(Charge { tokens, source, reason: "aborted" }),
            None => Action::Keep,
        },
    }
}

/// The charge of what was reserved for: all that is known of a call whose provider reported nothing.
pub(crate) fn estimated(meter: &Meter, plan: &Plan) -> Charge {
    Charge { tokens: meter.estimate_left(plan), source: UsageSource::Estimated, reason: "usage_missing" }
}

pub(crate) fn completed(tokens: Tokens) -> Action {
    Action::Capture(Charge { tokens, source: UsageSource::Reported, reason: "completed" })
}

#[cfg(test)]
mod tests {
    use holdfast_core::UsageSource::{Delivered, Estimated, Reported};

    use super::*;
    use crate::plan::testing::{plan, tokens};

    fn seen(report: Option<&str>, text: &str) -> Meter {
        let mut meter = Meter::default();
        meter.text(text);
        if let Some(report) = report {
            meter.report(tokens(report));
        }
        meter
    }

    fn capture(json: &str, source: UsageSource, reason: &'static str) -> Action {
        Action::Capture(Charge { tokens: tokens(json), source, reason })
    }

    /// A time-out, tried again under the same hold, and then turned away: the first may be billed.
    #[test]
    fn after_a_call_of_unknown_fate_nothing_is_released() {
        for end in [End::NotDispatched, End::ProviderError, End::Aborted] {
            let mut meter = seen(None, "");
            meter.next_call(&plan());
            assert_eq!(action(end.clone(), false, &meter, &plan()), Action::Keep, "{end:?}");
        }
        let mut told = seen(Some(r#"{"input":5,"output":2}"#), "");
        told.next_call(&plan());
        assert!(matches!(action(End::ProviderError, true, &told, &plan()), Action::Capture(_)));
    }

    #[test]
    fn the_table() {
        let (some, none) = (r#"{"input":5,"output":2}"#, r#"{"input":5,"output":0}"#);
        let (zeros, start) = (r#"{"input":0,"output":0}"#, r#"{"input":5}"#);
        let (estimate, text) = (r#"{"input":1000,"output":500}"#, r#"{"input":1000,"output":2}"#);
        let nothing = || seen(None, "");
        let released = |reason: &'static str| Action::Release(reason.into());
        let cases = [
            (End::NotDispatched, true, nothing(), released("not_dispatched")),
            (End::NotDispatched, true, seen(None, "12345678"), capture(text, Delivered, "aborted")),
            (End::ProviderError, true, nothing(), released("provider_error")),
            (End::ProviderError, true, seen(Some(start), ""), released("provider_error")),
            (End::ProviderError, true, seen(Some(none), ""), released("provider_error")),
            (End::ProviderError, true, seen(Some(some), ""), capture(some, Reported, "aborted")),
            (End::Completed(Some(tokens(some))), true, nothing(), capture(some, Reported, "completed")),
            (End::Completed(Some(tokens(zeros))), true, nothing(), capture(zeros, Reported, "completed")),
            (End::Completed(None), true, seen(Some(some), ""), capture(some, Reported, "completed")),
            (End::Completed(None), true, seen(Some(none), "1234"), capture(none, Reported, "completed")),
            (End::Completed(None), true, seen(None, "1234"), capture(estimate, Estimated, "usage_missing")),
            (
                End::Completed(None),
                true,
                seen(Some(start), ""),
                capture(estimate, Estimated, "usage_missing"),
            ),
            (End::Completed(None), true, nothing(), capture(estimate, Estimated, "usage_missing")),
            (End::Aborted, true, seen(Some(some), ""), capture(some, Reported, "aborted")),
            (End::Aborted, true, seen(Some(none), ""), capture(none, Reported, "aborted")),
            (End::Aborted, true, seen(None, "12345678"), capture(text, Delivered, "aborted")),
            (End::Aborted, true, nothing(), Action::Keep),
            (End::Aborted, true, seen(Some(start), ""), Action::Keep),
            (End::Aborted, false, nothing(), released("not_dispatched")),
            (End::Aborted, false, seen(None, "12345678"), capture(text, Delivered, "aborted")),
            (End::Unknown, true, nothing(), Action::Keep),
            (End::Unknown, false, nothing(), Action::Keep),
            (End::Unknown, true, seen(Some(start), ""), Action::Keep),
            // Who reports the whole call has worked, with or without output.
            (End::Unknown, true, seen(Some(none), ""), capture(none, Reported, "aborted")),
            (End::Unknown, true, seen(None, "12345678"), capture(text, Delivered, "aborted")),
        ];
        for (end, dispatched, meter, expected) in cases {
            let said = format!("{end:?}, dispatched: {dispatched}, {meter:?}");
            assert_eq!(action(end, dispatched, &meter, &plan()), expected, "{said}");
        }
    }

    #[test]
    fn after_a_part_only_the_rest_is_charged() {
        let mut meter = Meter::default();
        meter.part(&tokens(r#"{"input":1000,"output":100}"#));
        let rest = r#"{"input":0,"output":400}"#;
        let ended = action(End::Completed(None), true, &meter, &plan());
        assert_eq!(ended, capture(rest, Estimated, "usage_missing"));
        // A report is of the whole provider call.
        let report = End::Completed(Some(tokens(r#"{"input":1000,"output":107}"#)));
        let ended = action(report, true, &meter, &plan());
        assert_eq!(ended, capture(r#"{"input":0,"output":7}"#, Reported, "completed"));
        assert_eq!(action(End::Aborted, true, &meter, &plan()), Action::Keep);
        assert_eq!(action(End::Unknown, true, &meter, &plan()), Action::Keep);
        let refused = action(End::ProviderError, true, &meter, &plan());
        assert_eq!(refused, Action::Release("provider_error".into()));
    }

    #[test]
    fn what_an_earlier_provider_call_used_is_charged_however_the_next_ends() {
        let mut meter = seen(Some(r#"{"input":5,"output":2}"#), "");
        meter.next_call(&plan());
        let aborted = capture(r#"{"input":5,"output":2}"#, Reported, "aborted");
        for end in [End::NotDispatched, End::ProviderError, End::Unknown, End::Aborted] {
            assert_eq!(action(end.clone(), true, &meter, &plan()), aborted, "{end:?}");
        }
        let ended = action(End::Completed(Some(tokens(r#"{"input":1,"output":1}"#))), true, &meter, &plan());
        assert_eq!(ended, capture(r#"{"input":6,"output":3}"#, Reported, "completed"));
    }
}
