//! What an LLM call used, and what that costs: counts of tokens, rates, and one rounding.
//!
//! **Shape.** A caller looks rates up in a price book and sends them as [`Usage`] beside the
//! amount. [`Usage::price`] computes the amount again, from nothing but the command: the ledger has
//! no price table, so a price change cannot reach into a call that is under way, and replay needs
//! no book.
//!
//! **Correctness.** Integers only. The sum is exact ([`Usage::numerator`]); it is divided once, and
//! rounded half to even.

use std::collections::BTreeMap;
use std::fmt;

use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use sha2::{Digest, Sha256};

use crate::chain::Hash;
use crate::money::{Asset, Units};
use crate::text::Text;

/// The decimals of a rate: it counts 10⁻¹² of a whole unit of the asset for one token.
pub const RATE_SCALE: u8 = 12;
/// Counts and rates stay below this, so that every JSON reader keeps them exactly.
const NUMBER_END: u64 = 1 << 53;
/// More dimensions or tiers than any price list has; bounds what a log row may hold.
const ENTRIES_MAX: usize = 32;
/// The dimension whose count a caller can still choose when the balance is short.
pub const OUTPUT: &str = "output";
/// The dimension of what goes into a model.
pub const INPUT: &str = "input";

/// What is counted, such as `input` or `cache_read`: `[a-z0-9_]{1,32}`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Dimension(Box<str>);

impl Dimension {
    /// The dimension, checked.
    ///
    /// # Errors
    /// [`UsageError::Dimension`] when it has other characters than `a-z`, `0-9` and `_`, or more
    /// than 32 of them.
    pub fn new(name: &str) -> Result<Self, UsageError> {
        let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        if name.is_empty() || name.len() > 32 || !name.bytes().all(legal) {
            return Err(UsageError::Dimension(name.to_owned()));
        }
        Ok(Dimension(name.into()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What tokens of this dimension are as well, the closest first: sound read from the cache is
    /// sound, is read from the cache, is input.
    fn wholes(&self) -> Vec<String> {
        match self.0.split_once("cache_read_") {
            Some(("", kind)) => vec![format!("input_{kind}"), "cache_read".to_owned(), INPUT.to_owned()],
            _ if self.0.starts_with("cache_write_") => vec!["cache_write".to_owned(), INPUT.to_owned()],
            _ if self.is_input() => vec![INPUT.to_owned()],
            _ if self.0.starts_with("output_") => vec![OUTPUT.to_owned()],
            _ => Vec::new(),
        }
    }

    /// Whether its count decides which tier a call is in: what goes into the model, cached or not.
    #[must_use]
    pub fn is_input(&self) -> bool {
        self.0.starts_with("input") || self.0.starts_with("cache")
    }
}

impl TryFrom<String> for Dimension {
    type Error = UsageError;

    fn try_from(name: String) -> Result<Self, UsageError> {
        Dimension::new(&name)
    }
}

impl From<Dimension> for String {
    fn from(dimension: Dimension) -> String {
        dimension.0.into_string()
    }
}

impl fmt::Display for Dimension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Dimension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl std::borrow::Borrow<str> for Dimension {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// How many tokens of each dimension; dimensions do not overlap.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tokens(#[serde(deserialize_with = "each_once")] pub BTreeMap<Dimension, u64>);

impl Tokens {
    /// The count of a dimension; 0 when it is not there.
    #[must_use]
    pub fn get(&self, dimension: &str) -> u64 {
        self.0.get(dimension).copied().unwrap_or(0)
    }

    /// The count by which tiers are chosen: everything that goes into the model.
    #[must_use]
    pub fn basis(&self) -> u64 {
        let inputs = self.0.iter().filter(|(dimension, _)| dimension.is_input());
        inputs.fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }
}

impl FromIterator<(Dimension, u64)> for Tokens {
    fn from_iter<I: IntoIterator<Item = (Dimension, u64)>>(counts: I) -> Self {
        Tokens(counts.into_iter().collect())
    }
}

/// A price list: for each dimension its rates by tier, as `[from, rate]` in ascending order.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rates(#[serde(deserialize_with = "each_once")] pub BTreeMap<Dimension, Vec<(u64, u64)>>);

/// A map in which no dimension stands twice: two readers of one signed body must not see two prices.
fn each_once<'de, D, V>(deserializer: D) -> Result<BTreeMap<Dimension, V>, D::Error>
where
    D: Deserializer<'de>,
    V: Deserialize<'de>,
{
    struct Once<V>(PhantomData<V>);

    impl<'de, V: Deserialize<'de>> Visitor<'de> for Once<V> {
        type Value = BTreeMap<Dimension, V>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object by dimension")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
            let mut map = BTreeMap::new();
            while let Some((dimension, value)) = members.next_entry::<Dimension, V>()? {
                if map.contains_key(&dimension) {
                    return Err(A::Error::custom(format!("`{dimension}` is there twice")));
                }
                map.insert(dimension, value);
            }
            Ok(map)
        }
    }

    deserializer.deserialize_map(Once(PhantomData))
}

/// A struct that is written as an object; a reader of structs would also take an array.
pub(crate) fn object<'de, D, T>(deserializer: D) -> Result<Option<Box<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct Object<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Object<T> {
        type Value = Option<Box<T>>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_unit<E: serde::de::Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Self::Value, A::Error> {
            T::deserialize(MapAccessDeserializer::new(members)).map(|value| Some(Box::new(value)))
        }
    }

    deserializer.deserialize_any(Object(PhantomData))
}

impl Rates {
    /// The rate of `dimension` for a call of this tier basis; none when it has no price.
    #[must_use]
    pub fn of(&self, dimension: &str, basis: u64) -> Option<u64> {
        let tiers = self.0.get(dimension)?;
        tiers.iter().take_while(|(from, _)| *from <= basis).last().map(|(_, rate)| *rate)
    }

    /// `tokens` in dimensions that have a rate: a cached token that the provider sells at no rate of
    /// its own is an input token. Counts that are part of nothing priced stay as they are, unless they
    /// are zero.
    #[must_use]
    pub fn fold(&self, tokens: &Tokens) -> Tokens {
        let mut folded = Tokens::default();
        for (dimension, count) in &tokens.0 {
            let wholes = dimension.wholes();
            let priced = std::iter::once(dimension.as_str())
                .chain(wholes.iter().map(String::as_str))
                .find(|name| self.0.contains_key(*name));
            if priced.is_none() && *count == 0 {
                continue;
            }
            let dimension = priced.map_or_else(|| dimension.clone(), |name| Dimension(name.into()));
            let sum = folded.0.entry(dimension).or_default();
            *sum = sum.saturating_add(*count);
        }
        folded
    }

    /// The SHA-256 of the canonical JSON: what a hold remembers of the rates that it was reserved
    /// under.
    #[must_use]
    pub fn digest(&self) -> Hash {
        let json = serde_json::to_vec(self).expect("rates are plain values");
        Sha256::digest(json).into()
    }

    /// Whether the tiers are such as a price list has.
    ///
    /// # Errors
    /// [`UsageError::Tiers`] naming a dimension whose tiers do not begin at 0 or do not ascend;
    /// [`UsageError::TooMany`], [`UsageError::Number`].
    pub fn check(&self) -> Result<(), UsageError> {
        bounded("rates", self.0.len())?;
        for (dimension, tiers) in &self.0 {
            bounded("rates", tiers.len())?;
            let ascending = tiers.windows(2).all(|pair| pair[0].0 < pair[1].0);
            if tiers.first().is_none_or(|(from, _)| *from != 0) || !ascending {
                return Err(UsageError::Tiers(dimension.clone()));
            }
            if tiers.iter().any(|(from, rate)| *from >= NUMBER_END || *rate >= NUMBER_END) {
                return Err(UsageError::Number { field: "rates", dimension: dimension.clone() });
            }
        }
        Ok(())
    }
}

/// Where token counts are from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UsageSource {
    /// From before the call, or because the provider reported nothing.
    Estimated,
    /// From the provider.
    Reported,
    /// From what arrived before the stream broke.
    Delivered,
}

/// The digest of a price book: 64 lower-case hexadecimal digits.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BookId(Box<str>);

impl BookId {
    /// The digest, checked.
    ///
    /// # Errors
    /// [`UsageError::Book`] when it is not 64 lower-case hexadecimal digits.
    pub fn new(digest: &str) -> Result<Self, UsageError> {
        let legal = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if digest.len() != 64 || !digest.bytes().all(legal) {
            return Err(UsageError::Book(digest.to_owned()));
        }
        Ok(BookId(digest.into()))
    }

    /// The digest as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for BookId {
    type Error = UsageError;

    fn try_from(digest: String) -> Result<Self, UsageError> {
        BookId::new(&digest)
    }
}

impl From<BookId> for String {
    fn from(book: BookId) -> String {
        book.0.into_string()
    }
}

impl fmt::Display for BookId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for BookId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// What a call used or is expected to use, with the rates that price it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Usage {
    /// Who runs the model.
    pub provider: Text<128>,
    /// The model, as the price book has it.
    pub model: Text<128>,
    /// The price book that the rates are from.
    pub book: BookId,
    /// Another price list of the same model, such as `batch`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<Text<32>>,
    /// Where the counts are from.
    pub source: UsageSource,
    /// The counts.
    pub tokens: Tokens,
    /// The rates.
    pub rates: Rates,
}

impl Usage {
    /// Checks what types do not: tiers, sizes, and that everything counted has a rate.
    ///
    /// # Errors
    /// The [`UsageError`] of the first thing that is wrong.
    pub fn check(&self) -> Result<(), UsageError> {
        self.rates.check()?;
        bounded("tokens", self.tokens.0.len())?;
        for (dimension, count) in &self.tokens.0 {
            if *count >= NUMBER_END {
                return Err(UsageError::Number { field: "tokens", dimension: dimension.clone() });
            }
            if !self.rates.0.contains_key(dimension) {
                return Err(UsageError::NoRate(dimension.clone()));
            }
        }
        Ok(())
    }

    /// The exact price, in 10⁻¹² of a whole unit of the asset.
    ///
    /// # Errors
    /// [`UsageError::NoRate`] when something is counted that has no rate.
    pub fn numerator(&self) -> Result<u128, UsageError> {
        let basis = self.tokens.basis();
        self.tokens.0.iter().try_fold(0_u128, |sum, (dimension, count)| {
            let rate = self.rates.of(dimension.as_str(), basis);
            let rate = rate.ok_or_else(|| UsageError::NoRate(dimension.clone()))?;
            // 32 products below 2^106 each cannot overflow.
            Ok(sum + u128::from(*count) * u128::from(rate))
        })
    }

    /// The price in the smallest unit of `asset`, rounded once, half to even.
    ///
    /// # Errors
    /// [`UsageError::NoRate`]; [`UsageError::TooMuch`] when it does not fit into 64 bits.
    pub fn price(&self, asset: Asset) -> Result<Units, UsageError> {
        round(self.numerator()?, asset)
    }

    /// How many tokens of `output` fit into `units`, with every other count as it is; none when
    /// output has no rate, or costs nothing.
    #[must_use]
    pub fn affordable_output(&self, units: Units, asset: Asset) -> Option<u64> {
        let rate = self.rates.of(OUTPUT, self.tokens.basis()).filter(|rate| *rate > 0)?;
        let mut rest = self.clone();
        rest.tokens.0.remove(OUTPUT);
        // Rounded half to even, half a unit more than `units` may still round down to it; that
        // half is left to the customer.
        let budget = u128::try_from(units).ok().and_then(|units| scaled_up(units, asset)).unwrap_or(0);
        let left = budget.saturating_sub(rest.numerator().ok()?);
        u64::try_from(left / u128::from(rate)).ok()
    }
}

/// `numerator` in units of `asset`.
fn round(numerator: u128, asset: Asset) -> Result<Units, UsageError> {
    let units = match RATE_SCALE.checked_sub(asset.scale()) {
        None => 10_u128.pow(u32::from(asset.scale() - RATE_SCALE)).checked_mul(numerator),
        Some(decimals) => Some(divide_half_even(numerator, 10_u128.pow(u32::from(decimals)))),
    };
    units.and_then(|units| Units::try_from(units).ok()).ok_or(UsageError::TooMuch)
}

fn divide_half_even(numerator: u128, divisor: u128) -> u128 {
    let (quotient, rest) = (numerator / divisor, numerator % divisor);
    let up = match (rest * 2).cmp(&divisor) {
        std::cmp::Ordering::Less => false,
        std::cmp::Ordering::Equal => quotient % 2 == 1,
        std::cmp::Ordering::Greater => true,
    };
    quotient + u128::from(up)
}

/// `units` of `asset` in 10⁻¹² of a whole unit, rounded down.
fn scaled_up(units: u128, asset: Asset) -> Option<u128> {
    match RATE_SCALE.checked_sub(asset.scale()) {
        None => Some(units / 10_u128.pow(u32::from(asset.scale() - RATE_SCALE))),
        Some(decimals) => units.checked_mul(10_u128.pow(u32::from(decimals))),
    }
}

fn bounded(field: &'static str, len: usize) -> Result<(), UsageError> {
    if len > ENTRIES_MAX { Err(UsageError::TooMany { field, len }) } else { Ok(()) }
}

/// What a price book says of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quote {
    /// Who runs the model.
    pub provider: Text<128>,
    /// The model, as the book has it.
    pub model: Text<128>,
    /// Which price list of the model.
    pub variant: Option<Text<32>>,
    /// The code of the asset that the rates are in.
    #[serde(default = "dollars")]
    pub asset: Text<8>,
    /// The book.
    pub book: BookId,
    /// The first day, in UTC, that the rates hold on; none when they always did.
    pub effective_from: Option<Text<32>>,
    /// The rates.
    pub rates: Rates,
}

fn dollars() -> Text<8> {
    Text::literal(Asset::USD.code())
}

impl Quote {
    /// The usage of a call of this model. Counts of dimensions that the model has no rate for are
    /// counted as input or output, which they are a part of.
    #[must_use]
    pub fn usage(&self, source: UsageSource, tokens: &Tokens) -> Usage {
        Usage {
            provider: self.provider.clone(),
            model: self.model.clone(),
            book: self.book.clone(),
            variant: self.variant.clone(),
            source,
            tokens: self.rates.fold(tokens),
            rates: self.rates.clone(),
        }
    }
}

/// A usage that was priced, as events keep it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Priced {
    /// The exact price before rounding, in 10⁻¹² of a whole unit, as decimal digits.
    pub numerator: Box<str>,
    /// What was priced.
    pub usage: Usage,
}

/// Why a usage cannot be priced.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UsageError {
    /// A dimension's name.
    #[error("`{0}` is no dimension: 1 to 32 of a-z, 0-9 and _")]
    Dimension(String),
    /// A book's digest.
    #[error("`{0}` is no digest of a price book: 64 of 0-9 and a-f")]
    Book(String),
    /// Tiers out of order.
    #[error("the rates of `{0}` must be [from, rate] pairs, the first from 0, ascending")]
    Tiers(Dimension),
    /// A number that JSON readers may not keep exactly.
    #[error("the {field} of `{dimension}` must be below 2^53")]
    Number {
        /// The member.
        field: &'static str,
        /// The dimension.
        dimension: Dimension,
    },
    /// Too many entries.
    #[error("{field} has {len} entries, at most {ENTRIES_MAX} are allowed")]
    TooMany {
        /// The member.
        field: &'static str,
        /// How many there are.
        len: usize,
    },
    /// Something is counted that has no rate.
    #[error("`{0}` is counted and has no rate")]
    NoRate(Dimension),
    /// The price does not fit.
    #[error("the price is more than an amount can be")]
    TooMuch,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn usage(tokens: &str, rates: &str) -> Usage {
        Usage {
            provider: Text::literal("google"),
            model: Text::literal("gemini"),
            book: BookId::new(&"0".repeat(64)).expect("a digest"),
            variant: None,
            source: UsageSource::Reported,
            tokens: serde_json::from_str(tokens).expect("tokens"),
            rates: serde_json::from_str(rates).expect("rates"),
        }
    }

    #[test]
    fn prices() {
        let tiered = r#"{"input":[[0,1250000],[200001,2500000]],"output":[[0,10000000],[200001,15000000]]}"#;
        let cases = [
            (
                r#"{"input":1200,"output":4000}"#,
                r#"{"input":[[0,300000]],"output":[[0,2500000]]}"#,
                10_360_000,
            ),
            (r#"{"input":200000,"output":1}"#, tiered, 250_010_000),
            (r#"{"input":200001,"output":1}"#, tiered, 500_017_500),
            // Half to even: 0.5, 1.5, 2.5 nano-dollars.
            (r#"{"output":1}"#, r#"{"output":[[0,500]]}"#, 0),
            (r#"{"output":3}"#, r#"{"output":[[0,500]]}"#, 2),
            (r#"{"output":5}"#, r#"{"output":[[0,500]]}"#, 2),
            (r#"{"output":501}"#, r#"{"output":[[0,1]]}"#, 1),
            (r#"{"output":0}"#, r#"{"output":[[0,1]]}"#, 0),
            ("{}", "{}", 0),
        ];
        for (tokens, rates, expected) in cases {
            assert_eq!(usage(tokens, rates).price(Asset::USD), Ok(expected), "{tokens} {rates}");
        }
    }

    #[test]
    fn cached_tokens_count_for_the_tier() {
        let rates = r#"{"input":[[0,10000],[101,20000]],"cache_read":[[0,1000],[101,2000]]}"#;
        assert_eq!(usage(r#"{"input":100}"#, rates).price(Asset::USD), Ok(1_000));
        assert_eq!(usage(r#"{"input":50,"cache_read":51}"#, rates).price(Asset::USD), Ok(1_102));
    }

    #[test]
    fn counts_without_a_rate_are_part_of_others() {
        let cases = [
            (
                r#"{"cache_read":5,"input":1,"output_reasoning":2}"#,
                r#"["input","output"]"#,
                r#"{"input":6,"output":2}"#,
            ),
            (r#"{"cache_read_audio":5}"#, r#"["cache_read","input"]"#, r#"{"cache_read":5}"#),
            (r#"{"cache_read_audio":5}"#, r#"["cache_read","input","input_audio"]"#, r#"{"input_audio":5}"#),
            (r#"{"cache_write_1h":5}"#, r#"["cache_write","input"]"#, r#"{"cache_write":5}"#),
            (r#"{"input":5,"output":0,"web_search":0}"#, r#"["input"]"#, r#"{"input":5}"#),
            (r#"{"input":5,"web_search":1}"#, r#"["input"]"#, r#"{"input":5,"web_search":1}"#),
        ];
        for (tokens, priced, expected) in cases {
            let priced: Vec<Dimension> = serde_json::from_str(priced).expect("names");
            let rates = Rates(priced.into_iter().map(|dimension| (dimension, vec![(0, 1)])).collect());
            let folded = rates.fold(&serde_json::from_str(tokens).expect("tokens"));
            assert_eq!(serde_json::to_string(&folded).expect("JSON"), expected, "{tokens}");
        }
    }

    #[test]
    fn what_cannot_be_priced_says_why() {
        let dimension = |name: &str| Dimension::new(name).expect("a dimension");
        let cases = [
            (r#"{"audio":1}"#, "{}", UsageError::NoRate(dimension("audio"))),
            ("{}", r#"{"input":[[1,5]]}"#, UsageError::Tiers(dimension("input"))),
            ("{}", r#"{"input":[[0,5],[0,6]]}"#, UsageError::Tiers(dimension("input"))),
            ("{}", r#"{"input":[]}"#, UsageError::Tiers(dimension("input"))),
            (
                r#"{"input":9007199254740992}"#,
                r#"{"input":[[0,5]]}"#,
                UsageError::Number { field: "tokens", dimension: dimension("input") },
            ),
        ];
        for (tokens, rates, expected) in cases {
            assert_eq!(usage(tokens, rates).check(), Err(expected), "{tokens} {rates}");
        }
        let dear = usage(r#"{"input":9007199254740991}"#, r#"{"input":[[0,9007199254740991]]}"#);
        assert_eq!(dear.check(), Ok(()));
        assert_eq!(dear.price(Asset::USD), Err(UsageError::TooMuch));
        assert!(Dimension::new("Input").is_err() && BookId::new("abc").is_err());
    }

    proptest! {
        /// The most output that is affordable is affordable, and one token more is not (but for
        /// what rounding gives away, which is less than one token or half a unit).
        #[test]
        fn what_is_affordable_is_the_most(
            input in 0..2_000_000_u64, input_rate in 0..100_000_000_u64,
            rate in 1_000..100_000_000_u64, units in 0..1_000_000_000_000_i64,
        ) {
            let rates = format!(r#"{{"input":[[0,{input_rate}]],"output":[[0,{rate}]]}}"#);
            let mut call = usage(&format!(r#"{{"input":{input},"output":0}}"#), &rates);
            let output = Dimension::new(OUTPUT).expect("a dimension");
            let most = call.affordable_output(units, Asset::USD).expect("output has a rate");
            call.tokens.0.insert(output.clone(), most);
            let price = call.price(Asset::USD).expect("small");
            prop_assert!(most == 0 || price <= units, "{most} tokens cost {price}");
            call.tokens.0.insert(output, most + 2);
            prop_assert!(call.price(Asset::USD).expect("small") > units);
        }

        /// Rounding once is at most half a unit away from the exact price.
        #[test]
        fn one_rounding(numerator in 0..u64::MAX) {
            let units = round(u128::from(numerator), Asset::USD).expect("fits");
            let back = i128::from(units) * 1000;
            prop_assert!((i128::from(numerator) - back).abs() <= 500);
        }
    }
}
