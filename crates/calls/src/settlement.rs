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
    /// like [`End::Aborted`]. The statuses 408 and 504 say only that somebody waited too long:
    /// they are [`End::Unknown`].
    ProviderError,
    /// The provider finished. What it reported, if it did; without, the latest report of the whole
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
        End::Completed(Some(tokens)) => completed(meter.completed(plan, tokens)),
        End::Completed(None) => {
            meter.reported(plan).map_or_else(|| Action::Capture(estimated(meter, plan)), completed)
        }
        End::NotDispatched if !meter.began() => Action::Release("not_dispatched".into()),
        End::Aborted if !dispatched && !meter.began() => Action::Release("not_dispatched".into()),
        End::ProviderError if !meter.output_came() => Action::Release("provider_error".into()),
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

fn completed(tokens: Tokens) -> Action {
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
        let ended = action(End::Completed(Some(tokens(r#"{"output":7}"#))), true, &meter, &plan());
        assert_eq!(ended, capture(r#"{"output":7}"#, Reported, "completed"));
        assert_eq!(action(End::Aborted, true, &meter, &plan()), Action::Keep);
    }
}
