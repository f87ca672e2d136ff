//! What models cost whom on which day: the sum of every priced charge.

use crate::event::{Event, Fact};
use crate::id::AccountId;
use crate::money::{Asset, Units};
use crate::text::Text;
use crate::time::Timestamp;
use crate::usage::OUTPUT;

/// What costs are summed by.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CostKey {
    /// The day in UTC, counted from 1970-01-01, by lane time.
    pub day: i64,
    /// Who was charged.
    pub account: AccountId,
    /// Who ran the model.
    pub provider: Text<128>,
    /// The model.
    pub model: Text<128>,
    /// What the amounts are units of, as `CODE:SCALE`.
    pub asset: String,
}

/// What was charged; refunds do not change it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cost {
    /// How many charges; a call that is captured in parts counts as often.
    pub charges: i64,
    /// Tokens that went in, cached ones included.
    pub input_tokens: i128,
    /// Tokens of `output`.
    pub output_tokens: i128,
    /// What customers were charged, in units.
    pub charged: i128,
    /// What the house absorbed, in units.
    pub absorbed: i128,
}

impl Cost {
    /// Adds another.
    pub fn add(&mut self, other: Cost) {
        self.charges += other.charges;
        self.input_tokens += other.input_tokens;
        self.output_tokens += other.output_tokens;
        self.charged += other.charged;
        self.absorbed += other.absorbed;
    }
}

/// What `event` adds to the costs; none unless it is a priced charge.
#[must_use]
pub fn cost(event: &Event) -> Option<(CostKey, Cost)> {
    let charged = event.fact.charged()?;
    let usage = &event.fact.priced()?.usage;
    let key = CostKey {
        day: day(event.time),
        account: event.account.clone(),
        provider: usage.provider.clone(),
        model: usage.model.clone(),
        asset: event.asset.as_ref().map_or_else(String::new, Asset::to_string),
    };
    let cost = Cost {
        charges: 1,
        input_tokens: i128::from(usage.tokens.basis()),
        output_tokens: i128::from(usage.tokens.get(OUTPUT)),
        charged: i128::from(charged),
        absorbed: i128::from(absorbed(&event.fact)),
    };
    Some((key, cost))
}

fn absorbed(fact: &Fact) -> Units {
    match fact {
        Fact::Captured { absorbed, .. } | Fact::CapturedLate { absorbed, .. } => *absorbed,
        _ => 0,
    }
}

fn day(time: Timestamp) -> i64 {
    time.micros().div_euclid(24 * 60 * 60 * 1_000_000)
}
