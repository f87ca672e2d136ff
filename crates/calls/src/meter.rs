//! What is known to have been used by one call and is not charged yet.
//!
//! **Correctness.** What the provider reports counts as it is. Only counts that are made from text
//! are bounded by what was reserved for. Nothing counts twice: what a part charged is not in here
//! any more, and a report of no output in a stream that has brought text was made before the text
//! was counted.

use holdfast_core::usage::OUTPUT;
use holdfast_core::{Tokens, UsageSource};

use crate::plan::Plan;
use crate::price;

/// How many bytes of text count as one token when nobody reports better.
const BYTES_PER_TOKEN: u64 = 4;

/// The meter of one call.
#[derive(Debug, Clone, Default)]
pub(crate) struct Meter {
    /// By the provider, since the last part.
    reported: Option<Tokens>,
    /// Of text that came since the last part.
    text_bytes: u64,
    /// What parts have charged; none while there was no part.
    charged: Option<Tokens>,
}

impl Meter {
    /// The provider reported; of a dimension the latest report counts.
    pub(crate) fn report(&mut self, tokens: Tokens) {
        self.reported.get_or_insert_default().0.extend(tokens.0);
    }

    /// Text came.
    pub(crate) fn text(&mut self, text: &str) {
        let bytes = u64::try_from(text.len()).unwrap_or(u64::MAX);
        self.text_bytes = self.text_bytes.saturating_add(bytes);
    }

    /// A part charges `tokens`, and everything that was known before is in it.
    pub(crate) fn part(&mut self, tokens: &Tokens) {
        let charged = price::sum(self.charged.as_ref().unwrap_or(&Tokens::default()), tokens);
        *self = Meter { charged: Some(charged), ..Meter::default() };
    }

    /// The last part charged nothing: what was known `before` it is to be charged still.
    pub(crate) fn put_back(&mut self, before: Meter) {
        let since = std::mem::replace(self, before);
        self.text_bytes = self.text_bytes.saturating_add(since.text_bytes);
        if let Some(tokens) = since.reported {
            self.reported = Some(price::sum(&tokens, self.reported.as_ref().unwrap_or(&Tokens::default())));
        }
    }

    /// Whether a part was charged.
    pub(crate) fn is_parted(&self) -> bool {
        self.charged.is_some()
    }

    /// Whether anything is known to have been used.
    pub(crate) fn began(&self) -> bool {
        self.text_bytes > 0 || self.reported.is_some()
    }

    /// Whether any output is known.
    pub(crate) fn output_came(&self) -> bool {
        self.text_bytes > 0 || self.reported.as_ref().is_some_and(price::has_output)
    }

    /// What the provider reported of the whole call. A report that does not count the output, as
    /// one at the start of a stream, is not that, unless none was reserved for.
    pub(crate) fn reported(&self, plan: &Plan) -> Option<Tokens> {
        let tokens = self.reported.as_ref()?;
        let counts_output = tokens.0.keys().any(|dimension| dimension.as_str().starts_with(OUTPUT));
        let is_complete = counts_output || !price::has_output(plan.estimate());
        is_complete.then(|| self.completed(plan, tokens.clone()))
    }

    /// What is charged of a call that got no further, and the source of its counts; none when
    /// nothing shows that the provider worked.
    pub(crate) fn came(&self, plan: &Plan) -> Option<(Tokens, UsageSource)> {
        let reported = self.reported.clone().unwrap_or_default();
        if self.text_bytes == 0 || price::has_output(&reported) {
            let worked = self.output_came() || self.reported(plan).is_some();
            return worked.then(|| (self.completed(plan, reported), UsageSource::Reported));
        }
        let mut tokens = self.completed(plan, reported);
        let output = self.text_bytes.div_ceil(BYTES_PER_TOKEN).min(self.estimate_left(plan).get(OUTPUT));
        price::set(&mut tokens, OUTPUT, output);
        Some((tokens, UsageSource::Delivered))
    }

    /// What was reserved for, less what parts have charged.
    pub(crate) fn estimate_left(&self, plan: &Plan) -> Tokens {
        self.charged.as_ref().map_or_else(
            || plan.estimate().clone(),
            |charged| price::minus(plan.estimate(), &price::rated(charged, &plan.usage.rates)),
        )
    }

    /// `tokens` in dimensions that have rates, with what only this side knows, unless a part has
    /// charged that.
    pub(crate) fn completed(&self, plan: &Plan, tokens: Tokens) -> Tokens {
        let tokens = if self.is_parted() { tokens } else { plan.completed(tokens) };
        price::rated(&tokens, &plan.usage.rates)
    }
}

#[cfg(test)]
mod tests {
    use holdfast_core::UsageSource::{Delivered, Reported};

    use super::*;
    use crate::plan::testing::{plan, tokens};

    fn meter(report: Option<&str>, text: usize) -> Meter {
        let mut meter = Meter::default();
        meter.text(&"x".repeat(text));
        if let Some(report) = report {
            meter.report(tokens(report));
        }
        meter
    }

    #[test]
    fn what_came_is_charged() {
        let cases = [
            (None, 0, None),
            // A report at the start of a stream says nothing of the output.
            (Some(r#"{"input":5}"#), 0, None),
            (Some(r#"{"input":5}"#), 9, Some((r#"{"input":5,"output":3}"#, Delivered))),
            (Some(r#"{"input":5,"output":0}"#), 0, Some((r#"{"input":5,"output":0}"#, Reported))),
            // It was made before the text was counted.
            (Some(r#"{"input":5,"output":0}"#), 9, Some((r#"{"input":5,"output":3}"#, Delivered))),
            (Some(r#"{"input":5,"output":2}"#), 9, Some((r#"{"input":5,"output":2}"#, Reported))),
            (Some(r#"{"output":2}"#), 0, Some((r#"{"input":1000,"output":2}"#, Reported))),
            // Text is bounded by what was reserved for; what the provider says is not.
            (None, 40_000, Some((r#"{"input":1000,"output":500}"#, Delivered))),
            (Some(r#"{"input":5,"output":9000}"#), 0, Some((r#"{"input":5,"output":9000}"#, Reported))),
            (
                Some(r#"{"input":5,"cache_read":7,"output":1}"#),
                0,
                Some((r#"{"input":12,"output":1}"#, Reported)),
            ),
        ];
        for (report, text, expected) in cases {
            let came = meter(report, text).came(&plan());
            let expected = expected.map(|(json, source)| (tokens(json), source));
            assert_eq!(came, expected, "{report:?}, {text} bytes");
        }
    }

    #[test]
    fn a_report_is_complete_when_it_counts_the_output_or_there_is_none() {
        assert_eq!(meter(Some(r#"{"input":5}"#), 0).reported(&plan()), None);
        let mut plan = plan();
        price::set(&mut plan.usage.tokens, OUTPUT, 0);
        let embedding = meter(Some(r#"{"input":5}"#), 0);
        assert_eq!(embedding.reported(&plan), Some(tokens(r#"{"input":5}"#)));
    }

    #[test]
    fn what_a_part_charged_does_not_count_again() {
        let plan = plan();
        let mut meter = meter(Some(r#"{"input":5,"output":2}"#), 9);
        let before = meter.clone();
        meter.part(&tokens(r#"{"input":1000,"output":400}"#));
        assert_eq!(meter.came(&plan), None);
        assert_eq!(meter.estimate_left(&plan), tokens(r#"{"input":0,"output":100}"#));
        meter.text(&"x".repeat(4000));
        assert_eq!(meter.came(&plan), Some((tokens(r#"{"output":100}"#), Delivered)));
        meter.report(tokens(r#"{"output":300}"#));
        assert_eq!(meter.came(&plan), Some((tokens(r#"{"output":300}"#), Reported)));
        meter.put_back(before);
        assert_eq!(meter.came(&plan), Some((tokens(r#"{"input":5,"output":302}"#), Reported)));
        assert!(!meter.is_parted());
    }
}
