//! What is known to have been used by one call and is not charged yet.
//!
//! **Shape.** A hold may pay for several provider calls, one after another. What a provider reports
//! is cumulative: it is of its whole call, so of a dimension the latest report counts. The calls are
//! summed, and what parts have charged is taken out of the sum.
//!
//! **Correctness.** What the provider reports counts as it is. Only counts that are made from text
//! are bounded by what was reserved for. Nothing counts twice: a part is taken out by what it
//! charged, so that a later report, which has it in it, counts less that; and a report of no output
//! in a stream that has brought text was made before the text was counted. Nor does a part that
//! charged more than was known take anything from the next provider call.

use holdfast_core::usage::OUTPUT;
use holdfast_core::{Tokens, UsageSource};

use crate::plan::Plan;
use crate::price;

/// How many bytes of text count as one token when nobody reports better.
const BYTES_PER_TOKEN: u64 = 4;

/// The meter of one hold.
#[derive(Debug, Clone, Default)]
pub(crate) struct Meter {
    /// Of some earlier provider call nobody has said what became of it.
    doubt: bool,
    /// By the provider, of the provider call that is under way.
    reported: Option<Tokens>,
    /// Of text that came in it.
    text_bytes: u64,
    /// What the provider calls before it used, no less than what parts have charged for them.
    earlier: Tokens,
    /// How many they were.
    calls: u64,
    /// How much of their output is counted by its text.
    counted: u64,
    /// What parts have charged, or are about to.
    charged: Tokens,
    /// The most that was in `charged`: a part that was rejected has told what is to be charged.
    told: Tokens,
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

    /// A part charges `tokens`.
    pub(crate) fn part(&mut self, tokens: &Tokens) {
        self.charged = price::sum(&self.charged, tokens);
        self.told = price::most(&self.told, &self.charged);
    }

    /// A part of `tokens` charged nothing after all: they are to be charged still.
    pub(crate) fn put_back(&mut self, tokens: &Tokens) {
        self.charged = price::minus(&self.charged, tokens);
    }

    /// Another provider call begins; what comes from now on is of that one.
    pub(crate) fn next_call(&mut self, plan: &Plan) {
        self.doubt |= self.reported(plan).is_none();
        let current = self.current(plan);
        if let Some((tokens, UsageSource::Delivered)) = &current {
            self.counted = self.counted.saturating_add(tokens.get(OUTPUT));
        }
        let calls = self.calls.saturating_add(u64::from(current.is_some()));
        self.earlier = self.used(plan, current.map(|(tokens, _)| tokens));
        self.calls = calls;
        (self.reported, self.text_bytes) = (None, 0);
    }

    /// Whether an earlier provider call may have been billed without anybody having heard of it.
    pub(crate) fn is_in_doubt(&self) -> bool {
        self.doubt
    }

    /// Whether a part was charged.
    pub(crate) fn is_parted(&self) -> bool {
        any(&self.charged)
    }

    /// Whether all that was used is of one provider call, and no part has charged any of it.
    pub(crate) fn is_plain(&self) -> bool {
        !any(&self.told) && !any(&self.earlier)
    }

    /// Whether anything is known to have been used that no part has charged.
    pub(crate) fn began(&self, plan: &Plan) -> bool {
        if self.is_plain() {
            return self.text_bytes > 0 || self.reported.is_some();
        }
        self.came(plan).is_some_and(|(tokens, _)| any(&tokens))
    }

    /// Whether any output is known that no part has charged, or anything of an earlier provider
    /// call.
    pub(crate) fn output_came(&self, plan: &Plan) -> bool {
        if self.is_plain() {
            return self.text_bytes > 0 || self.reported.as_ref().is_some_and(price::has_output);
        }
        let came = self.came(plan).is_some_and(|(tokens, _)| price::has_output(&tokens));
        came || any(&self.left(plan, None))
    }

    /// What is to be charged when the provider reported the whole of this call. A report that does
    /// not count the output, as one at the start of a stream, is not that, unless none was reserved
    /// for.
    pub(crate) fn reported(&self, plan: &Plan) -> Option<Tokens> {
        let tokens = self.reported.as_ref().filter(|tokens| is_whole(tokens, plan))?;
        Some(self.left(plan, Some(tokens.clone())))
    }

    /// What is to be charged of a call that got no further, and the source of its counts; none when
    /// nothing shows that the provider worked.
    pub(crate) fn came(&self, plan: &Plan) -> Option<(Tokens, UsageSource)> {
        let current = self.current(plan);
        let is_shown = current.is_some() && !self.is_parted();
        let source = match current {
            None | Some((_, UsageSource::Reported)) if self.counted > 0 => UsageSource::Delivered,
            None => UsageSource::Reported,
            Some((_, source)) => source,
        };
        let left = self.left(plan, current.map(|(tokens, _)| tokens));
        // What parts have charged to the last token says nothing of what the provider does since.
        (is_shown || any(&left)).then_some((left, source))
    }

    /// What was reserved for, beside what earlier provider calls used, less what parts have charged.
    pub(crate) fn estimate_left(&self, plan: &Plan) -> Tokens {
        let told = price::rated(&self.told, &plan.usage.rates);
        let all = price::most(&price::sum(&self.earlier, plan.estimate()), &told);
        price::minus(&all, &price::rated(&self.charged, &plan.usage.rates))
    }

    /// What is to be charged when the provider call that is under way used `current`, if anything.
    pub(crate) fn left(&self, plan: &Plan, current: Option<Tokens>) -> Tokens {
        price::minus(&self.used(plan, current), &price::rated(&self.charged, &plan.usage.rates))
    }

    /// What `tokens` are that nobody was charged for: as they are, but for the call itself, and the
    /// input as estimated where nothing is known of input.
    pub(crate) fn uncharged(&self, plan: &Plan, tokens: Tokens) -> Tokens {
        let tokens = if self.is_plain() { plan.completed(tokens) } else { self.one_call(plan, tokens) };
        price::rated(&tokens, &plan.usage.rates)
    }

    /// `tokens` and the call itself, where calls have a price, unless a part has charged that.
    pub(crate) fn one_call(&self, plan: &Plan, tokens: Tokens) -> Tokens {
        if self.charged.get(price::REQUEST) > 0 { tokens } else { plan.one_call(tokens) }
    }

    /// What the provider call that is under way used, as far as it has come; none when nothing shows
    /// that the provider worked on it.
    fn current(&self, plan: &Plan) -> Option<(Tokens, UsageSource)> {
        let mut tokens = self.reported.clone().unwrap_or_default();
        if self.text_bytes == 0 || price::has_output(&tokens) {
            let worked = price::has_output(&tokens) || (self.reported.is_some() && is_whole(&tokens, plan));
            return worked.then_some((tokens, UsageSource::Reported));
        }
        let reserved = plan.estimate().get(OUTPUT).saturating_sub(self.counted);
        price::set(&mut tokens, OUTPUT, self.text_bytes.div_ceil(BYTES_PER_TOKEN).min(reserved));
        Some((tokens, UsageSource::Delivered))
    }

    /// All that was used, in dimensions that have rates, with what only this side knows: the calls
    /// themselves, and the input as estimated where neither the provider nor a part said anything of
    /// it.
    fn used(&self, plan: &Plan, current: Option<Tokens>) -> Tokens {
        let told = price::rated(&self.told, &plan.usage.rates);
        let Some(current) = current else { return price::most(&self.earlier, &told) };
        let mut current = price::rated(&current, &plan.usage.rates);
        let is_told = price::minus(&told, &self.earlier).0.iter().any(|(name, n)| name.is_input() && *n > 0);
        if !is_told && !current.0.keys().any(|dimension| dimension.is_input()) {
            let inputs = plan.estimate().0.iter().filter(|(dimension, _)| dimension.is_input());
            current.0.extend(inputs.map(|(dimension, count)| (dimension.clone(), *count)));
        }
        let mut all = price::sum(&self.earlier, &current);
        let reserved = plan.estimate().get(price::REQUEST);
        if reserved > 0 && current.get(price::REQUEST) == 0 {
            // More are reserved for where it was meant to be several.
            let calls = reserved.max(self.calls.saturating_add(1));
            price::set(&mut all, price::REQUEST, calls.max(self.earlier.get(price::REQUEST)));
        }
        price::most(&price::rated(&all, &plan.usage.rates), &told)
    }
}

/// Whether there is anything in it but zeros.
fn any(tokens: &Tokens) -> bool {
    tokens.0.values().any(|count| *count > 0)
}

/// Whether a report is one of the whole provider call.
fn is_whole(tokens: &Tokens, plan: &Plan) -> bool {
    let counts_output = tokens.0.keys().any(|dimension| dimension.as_str().starts_with(OUTPUT));
    counts_output || !price::has_output(plan.estimate())
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
        let mut meter = meter(Some(r#"{"input":5,"output":12}"#), 9);
        meter.part(&tokens(r#"{"input":5,"output":2}"#));
        // Only what it charged is taken out, and what is reported later has it in it.
        assert_eq!(meter.came(&plan), Some((tokens(r#"{"input":0,"output":10}"#), Reported)));
        assert_eq!(meter.estimate_left(&plan), tokens(r#"{"input":995,"output":498}"#));
        meter.report(tokens(r#"{"output":300}"#));
        assert_eq!(meter.came(&plan), Some((tokens(r#"{"input":0,"output":298}"#), Reported)));
        assert_eq!(meter.reported(&plan), Some(tokens(r#"{"input":0,"output":298}"#)));
        meter.part(&tokens(r#"{"output":400}"#));
        assert_eq!(meter.came(&plan), None, "never less than nothing");
        assert!(!meter.began(&plan) && !meter.output_came(&plan));
        meter.report(tokens(r#"{"output":403}"#));
        assert_eq!(meter.came(&plan), Some((tokens(r#"{"input":0,"output":1}"#), Reported)));
        meter.put_back(&tokens(r#"{"output":400}"#));
        assert_eq!(meter.came(&plan), Some((tokens(r#"{"input":0,"output":401}"#), Reported)));
        meter.put_back(&tokens(r#"{"input":5,"output":2}"#));
        assert_eq!(meter.came(&plan), Some((tokens(r#"{"input":5,"output":403}"#), Reported)));
        assert!(!meter.is_parted());
    }

    #[test]
    fn what_a_part_told_of_input_is_not_estimated_and_text_counts_from_the_start() {
        let plan = plan();
        let mut meter = meter(None, 0);
        meter.part(&tokens(r#"{"input":7,"output":400}"#));
        assert_eq!(meter.came(&plan), None);
        meter.text(&"x".repeat(1600));
        assert_eq!(meter.came(&plan), None, "the text that the part charged");
        meter.text("12345");
        assert_eq!(meter.came(&plan), Some((tokens(r#"{"input":0,"output":2}"#), Delivered)));
        meter.text(&"x".repeat(4000));
        assert_eq!(meter.came(&plan), Some((tokens(r#"{"input":0,"output":100}"#), Delivered)));
    }

    #[test]
    fn a_rejected_part_has_told_what_is_to_be_charged() {
        let (plan, part) = (plan(), tokens(r#"{"input":10,"output":7}"#));
        let mut meter = meter(None, 0);
        meter.part(&part);
        meter.put_back(&part);
        assert_eq!(meter.came(&plan), Some((part.clone(), Reported)));
        meter.part(&part);
        assert_eq!(meter.came(&plan), None, "tried again, it is charged once");
        meter.put_back(&part);
        meter.report(tokens(r#"{"input":10,"output":9}"#));
        assert_eq!(meter.came(&plan), Some((tokens(r#"{"input":10,"output":9}"#), Reported)));
    }

    #[test]
    fn provider_calls_are_summed() {
        let plan = plan();
        let mut meter = meter(Some(r#"{"input":5,"output":2}"#), 0);
        meter.next_call(&plan);
        assert_eq!(meter.came(&plan), Some((tokens(r#"{"input":5,"output":2}"#), Reported)));
        assert_eq!(meter.reported(&plan), None, "it has not reported yet");
        meter.report(tokens(r#"{"input":6}"#));
        meter.report(tokens(r#"{"input":6,"output":3}"#));
        assert_eq!(meter.reported(&plan), Some(tokens(r#"{"input":11,"output":5}"#)));
        meter.part(&tokens(r#"{"input":10,"output":1}"#));
        meter.next_call(&plan);
        assert_eq!(meter.came(&plan), Some((tokens(r#"{"input":1,"output":4}"#), Reported)));
        // Counted by its text, with the input as estimated.
        meter.text("1234");
        assert_eq!(meter.came(&plan), Some((tokens(r#"{"input":1001,"output":5}"#), Delivered)));
        meter.next_call(&plan);
        meter.report(tokens(r#"{"input":1,"output":1}"#));
        assert_eq!(meter.came(&plan), Some((tokens(r#"{"input":1002,"output":6}"#), Delivered)));
        assert_eq!(meter.estimate_left(&plan), tokens(r#"{"input":2001,"output":505}"#));
        // The text of all calls is bounded by what was reserved for.
        meter.next_call(&plan);
        meter.text(&"x".repeat(9000));
        assert_eq!(meter.came(&plan), Some((tokens(r#"{"input":2002,"output":505}"#), Delivered)));
    }

    #[test]
    fn a_call_of_which_nothing_shows_that_it_ran_adds_nothing() {
        let plan = plan();
        let mut meter = meter(Some(r#"{"input":5}"#), 0);
        meter.next_call(&plan);
        assert_eq!(meter.came(&plan), None);
        assert!(meter.is_plain());
        meter.report(tokens(r#"{"input":6,"output":3}"#));
        assert_eq!(meter.came(&plan), Some((tokens(r#"{"input":6,"output":3}"#), Reported)));
    }

    #[test]
    fn a_part_that_charged_more_than_was_known_does_not_pay_for_the_next_call() {
        let plan = plan();
        let mut meter = meter(None, 0);
        meter.part(&tokens(r#"{"input":10,"output":7}"#));
        meter.next_call(&plan);
        assert_eq!(meter.came(&plan), None);
        meter.report(tokens(r#"{"input":4,"output":3}"#));
        assert_eq!(meter.came(&plan), Some((tokens(r#"{"input":4,"output":3}"#), Reported)));
        meter.put_back(&tokens(r#"{"input":10,"output":7}"#));
        assert_eq!(meter.came(&plan), Some((tokens(r#"{"input":14,"output":10}"#), Reported)));
    }

    #[test]
    fn the_price_of_a_call_itself_is_charged_once_for_each() {
        let mut plan = plan();
        plan.usage.rates = serde_json::from_str(
            r#"{"input":[[0,1000000]],"output":[[0,10000000]],"request":[[0,5000000000]]}"#,
        )
        .expect("rates");
        price::set(&mut plan.usage.tokens, price::REQUEST, 1);
        let mut meter = meter(Some(r#"{"input":5,"output":2}"#), 0);
        assert_eq!(meter.reported(&plan), Some(tokens(r#"{"input":5,"output":2,"request":1}"#)));
        meter.part(&tokens(r#"{"input":5,"request":1}"#));
        assert_eq!(meter.reported(&plan), Some(tokens(r#"{"input":0,"output":2,"request":0}"#)));
        meter.next_call(&plan);
        meter.report(tokens(r#"{"input":5,"output":2}"#));
        assert_eq!(meter.reported(&plan), Some(tokens(r#"{"input":5,"output":4,"request":1}"#)));
    }
}
