//! How a call is settled: the table of `docs/llm.md`, and nothing else.
//!
//! **Correctness.** [`Action::Keep`] is the answer to every doubt. A hold that is released although
//! the provider worked gives the work away; one that is kept expires by itself, and may be settled
//! until then by who learns more.

use holdfast_core::{Tokens, UsageSource};

use crate::plan::{Charge, Plan};
use crate::price;

/// How a call went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// It was never sent, or never accepted (connection refused, turned away with 429).
    NotDispatched,
    /// The provider answered with an error. If output had come before, this is like [`End::Aborted`].
    ProviderError,
    /// The provider finished. What it reported, if it did; without, the latest report that was
    /// observed in the stream; without that too, what was reserved for is captured.
    Completed(Option<Tokens>),
    /// The stream broke, or was abandoned.
    Aborted,
    /// Nobody knows whether the provider worked: a time-out, a connection lost before any answer.
    /// If output had come before, this is like [`End::Aborted`].
    Unknown,
}

/// What is known to have been used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Observed {
    pub(crate) tokens: Tokens,
    pub(crate) source: UsageSource,
}

/// What to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    Release(&'static str),
    Capture(Charge),
    Keep,
}

/// The table. `dispatched` is whether the request may have gone to the provider.
pub(crate) fn action(end: End, dispatched: bool, observed: Option<&Observed>, plan: &Plan) -> Action {
    let reported = observed.filter(|observed| observed.source == UsageSource::Reported);
    let output_came = observed.is_some_and(|observed| price::has_output(&observed.tokens));
    match end {
        End::NotDispatched => Action::Release("not_dispatched"),
        End::Completed(Some(tokens)) => completed(tokens),
        End::Completed(None) => reported
            .map_or_else(|| Action::Capture(plan.whole_estimate()), |seen| completed(seen.tokens.clone())),
        End::ProviderError if !output_came => Action::Release("provider_error"),
        End::Unknown if !output_came => Action::Keep,
        End::Aborted if !dispatched && observed.is_none() => Action::Release("not_dispatched"),
        End::ProviderError | End::Unknown | End::Aborted => match observed.cloned() {
            Some(Observed { tokens, source }) => {
                Action::Capture(Charge { tokens, source, reason: "aborted" })
            }
            None => Action::Keep,
        },
    }
}

fn completed(tokens: Tokens) -> Action {
    Action::Capture(Charge { tokens, source: UsageSource::Reported, reason: "completed" })
}

#[cfg(test)]
mod tests {
    use holdfast_core::UsageSource::{Delivered, Estimated, Reported};

    use super::*;
    use crate::plan::testing::{plan, tokens};

    fn seen(json: &str, source: UsageSource) -> Option<Observed> {
        Some(Observed { tokens: tokens(json), source })
    }

    fn capture(json: &str, source: UsageSource, reason: &'static str) -> Action {
        Action::Capture(Charge { tokens: tokens(json), source, reason })
    }

    #[test]
    fn the_table() {
        let (some, none) = (r#"{"input":5,"output":2}"#, r#"{"input":5,"output":0}"#);
        let zeros = r#"{"input":0,"output":0}"#;
        let estimate = r#"{"input":1000,"output":500}"#;
        let cases = [
            (End::NotDispatched, true, None, Action::Release("not_dispatched")),
            (End::ProviderError, true, None, Action::Release("provider_error")),
            (End::ProviderError, true, seen(none, Reported), Action::Release("provider_error")),
            (End::ProviderError, true, seen(some, Reported), capture(some, Reported, "aborted")),
            (End::Completed(Some(tokens(some))), true, None, capture(some, Reported, "completed")),
            (End::Completed(Some(tokens(zeros))), true, None, capture(zeros, Reported, "completed")),
            (End::Completed(None), true, seen(some, Reported), capture(some, Reported, "completed")),
            (
                End::Completed(None),
                true,
                seen(some, Delivered),
                capture(estimate, Estimated, "usage_missing"),
            ),
            (End::Completed(None), true, None, capture(estimate, Estimated, "usage_missing")),
            (End::Aborted, true, seen(some, Reported), capture(some, Reported, "aborted")),
            (End::Aborted, true, seen(some, Delivered), capture(some, Delivered, "aborted")),
            (End::Aborted, true, None, Action::Keep),
            (End::Aborted, false, None, Action::Release("not_dispatched")),
            (End::Aborted, false, seen(some, Delivered), capture(some, Delivered, "aborted")),
            (End::Unknown, true, None, Action::Keep),
            (End::Unknown, false, None, Action::Keep),
            (End::Unknown, true, seen(none, Reported), Action::Keep),
            (End::Unknown, true, seen(some, Delivered), capture(some, Delivered, "aborted")),
        ];
        for (end, dispatched, observed, expected) in cases {
            let said = format!("{end:?}, dispatched: {dispatched}, {observed:?}");
            assert_eq!(action(end, dispatched, observed.as_ref(), &plan()), expected, "{said}");
        }
    }
}
