//! From counts to an amount, with the rates that the hold was reserved under.
//!
//! **Correctness.** The ledger computes the same and refuses any other amount; that arithmetic is
//! in the core crate and only used here. Counts are folded first ([`Rates::fold`]): a provider may
//! report a dimension for which the price book has no rate of its own.

use holdfast_core::usage::{Dimension, OUTPUT, UsageError};
use holdfast_core::{Asset, Decimal, Rates, Tokens, Units, Usage, UsageSource};

/// The dimension that counts calls.
pub(crate) const REQUEST: &str = "request";

/// `tokens` in dimensions that have rates; a call that has no price beside its tokens is not
/// counted.
pub(crate) fn rated(tokens: &Tokens, rates: &Rates) -> Tokens {
    let mut rated = rates.fold(tokens);
    if !rates.0.contains_key(REQUEST) {
        rated.0.remove(REQUEST);
    }
    rated
}

/// The count of `dimension` set to `count`.
pub(crate) fn set(tokens: &mut Tokens, dimension: &str, count: u64) {
    let dimension = Dimension::new(dimension).expect("a dimension's name, written in the program");
    tokens.0.insert(dimension, count);
}

/// Both together.
pub(crate) fn sum(tokens: &Tokens, more: &Tokens) -> Tokens {
    let mut sum = tokens.clone();
    for (dimension, count) in &more.0 {
        let all = sum.0.entry(dimension.clone()).or_default();
        *all = all.saturating_add(*count);
    }
    sum
}

/// Of each dimension the larger count.
pub(crate) fn most(tokens: &Tokens, others: &Tokens) -> Tokens {
    let mut most = tokens.clone();
    for (dimension, count) in &others.0 {
        let larger = most.0.entry(dimension.clone()).or_default();
        *larger = (*larger).max(*count);
    }
    most
}

/// `tokens` less `charged`, none below 0.
pub(crate) fn minus(tokens: &Tokens, charged: &Tokens) -> Tokens {
    let left = |(dimension, count): (&Dimension, &u64)| {
        (dimension.clone(), count.saturating_sub(charged.get(dimension.as_str())))
    };
    tokens.0.iter().map(left).collect()
}

/// Whether any output is counted.
pub(crate) fn has_output(tokens: &Tokens) -> bool {
    tokens.0.iter().any(|(dimension, count)| dimension.as_str().starts_with(OUTPUT) && *count > 0)
}

/// The usage `like` with other counts, checked as the ledger will check it, and its price.
pub(crate) fn priced(
    like: &Usage,
    tokens: &Tokens,
    source: UsageSource,
    asset: Asset,
) -> Result<(Box<Usage>, Units), UsageError> {
    let mut usage = like.clone();
    usage.tokens = rated(tokens, &like.rates);
    usage.source = source;
    usage.check()?;
    let units = usage.price(asset)?;
    Ok((Box::new(usage), units))
}

/// `units`, none of them negative, as an amount of the wire.
pub(crate) fn amount(units: Units, asset: Asset) -> Decimal {
    asset.format(units).parse().expect("a price is a decimal number without a sign")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_rate_is_counted_where_it_belongs() {
        let plain = r#"{"input":[[0,1]],"output":[[0,2]]}"#;
        let dear = r#"{"input":[[0,1]],"input_audio":[[0,3]],"output":[[0,2]],"request":[[0,9]]}"#;
        let cases = [
            (plain, r#"{"input":1,"output":2}"#, r#"{"input":1,"output":2}"#),
            (plain, r#"{"input":1,"cache_read":4,"cache_write":2}"#, r#"{"input":7}"#),
            (plain, r#"{"output":1,"output_audio":4,"request":1}"#, r#"{"output":5}"#),
            (dear, r#"{"cache_read_audio":4,"request":1}"#, r#"{"input_audio":4,"request":1}"#),
            (plain, r#"{"pages":3}"#, r#"{"pages":3}"#),
        ];
        for (rates, given, expected) in cases {
            let rates: Rates = serde_json::from_str(rates).expect("rates");
            let given: Tokens = serde_json::from_str(given).expect("tokens");
            let expected: Tokens = serde_json::from_str(expected).expect("tokens");
            assert_eq!(rated(&given, &rates), expected);
        }
    }
}
