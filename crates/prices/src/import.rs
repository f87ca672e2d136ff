//! Making a book of the data of `genai-prices` (its `prices/new_data/v2/data.json`).
//!
//! **Shape.** Prices there are dollars for a million tokens, or for a thousand of something, as
//! decimal numbers; here they become integers of 10⁻¹² dollars for one. Price lists that are written
//! as changes to the ordinary one become whole.
//!
//! **Correctness.** A model whose prices cannot be expressed exactly is left out, and said so
//! ([`Import::refused`]); none is rounded, except that a number which is an exact rate but for the
//! noise of a binary float is taken as that rate.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{NaiveDate, NaiveTime};
use holdfast_core::text::Text;
use holdfast_core::usage::{Dimension, Rates};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::book::{Book, BookError, Header, Model, PriceList, Provider};
use crate::matching::Clause;

/// A book, and what could not be taken over.
#[derive(Debug)]
pub struct Import {
    /// The book.
    pub book: Book,
    /// The models that were left out, as `provider/model: why`.
    pub refused: Vec<String>,
}

/// What the imported data is, for the header.
#[derive(Debug, Clone)]
pub struct Origin {
    /// Where it is from, with its version.
    pub source: String,
    /// The day it was taken.
    pub date: NaiveDate,
    /// Whose it is, and under which licence.
    pub notice: String,
}

#[derive(Deserialize)]
struct SourceProvider<'a> {
    id: Text<128>,
    #[serde(default)]
    provider_match: Option<Clause>,
    #[serde(default)]
    model_match: Option<Clause>,
    #[serde(default)]
    fallback_model_providers: Vec<Text<128>>,
    #[serde(borrow)]
    models: Vec<SourceModel<'a>>,
}

#[derive(Deserialize)]
struct SourceModel<'a> {
    id: Text<128>,
    #[serde(rename = "match")]
    names: Clause,
    #[serde(borrow)]
    prices: &'a RawValue,
    #[serde(default, borrow)]
    price_variants: Vec<SourceVariant<'a>>,
}

#[derive(Deserialize)]
struct SourceVariant<'a> {
    when: BTreeMap<String, String>,
    #[serde(borrow)]
    prices: Prices<'a>,
    #[serde(default)]
    constraint: Constraint,
}

#[derive(Deserialize)]
struct SourceList<'a> {
    #[serde(default)]
    constraint: Constraint,
    #[serde(borrow)]
    prices: Prices<'a>,
}

type Prices<'a> = BTreeMap<String, &'a RawValue>;

#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Constraint {
    start_date: Option<NaiveDate>,
    #[serde(deserialize_with = "time")]
    start_time: Option<NaiveTime>,
    #[serde(deserialize_with = "time")]
    end_time: Option<NaiveTime>,
}

fn time<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<NaiveTime>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let time = NaiveTime::parse_from_str(text.trim_end_matches('Z'), "%H:%M:%S");
    time.map(Some).map_err(serde::de::Error::custom)
}

#[derive(Deserialize)]
struct Tiered<'a> {
    #[serde(borrow)]
    base: &'a RawValue,
    #[serde(borrow)]
    tiers: Vec<Tier<'a>>,
}

#[derive(Deserialize)]
struct Tier<'a> {
    start: u64,
    #[serde(borrow)]
    price: &'a RawValue,
}

/// Makes a book of `json`.
///
/// # Errors
/// [`BookError`] when the data is not of the known shape.
pub fn import(json: &str, origin: Origin) -> Result<Import, BookError> {
    let providers: Vec<SourceProvider<'_>> = serde_json::from_str(json)
        .map_err(|error| BookError::Line { line: error.line(), problem: error.to_string() })?;
    let (mut models, mut refused) = (Vec::new(), Vec::new());
    for provider in &providers {
        for model in &provider.models {
            match take(provider, model) {
                Ok(model) => models.push(model),
                Err(why) => refused.push(format!("{}/{}: {why}", provider.id, model.id)),
            }
        }
    }
    let providers = providers.into_iter().map(|provider| Provider {
        provider: provider.id,
        names: provider.provider_match.map(without_lookahead),
        models: provider.model_match.map(without_lookahead),
        fallback: provider.fallback_model_providers,
    });
    let Origin { source, date, notice } = origin;
    let header = Header { holdfast_price_book: 1, source, date, asset: Text::literal("USD"), notice };
    Ok(Import { book: Book::new(header, providers.collect(), models)?, refused })
}

fn take(provider: &SourceProvider<'_>, model: &SourceModel<'_>) -> Result<Model, String> {
    let names = without_lookahead(model.names.clone());
    names.check()?;
    let lists = lists(model.prices)?;
    let mut prices = Vec::new();
    for list in &lists {
        let Constraint { start_date, start_time, end_time } = list.constraint;
        if start_time.is_some() != end_time.is_some() {
            return Err("hours have a begin and an end".to_owned());
        }
        let rates = rates(&list.prices)?;
        prices.push(PriceList { variant: None, from: start_date, hours: start_time.zip(end_time), rates });
    }
    if prices[0].hours.is_some() {
        return Err("its first price list holds only at some hours".to_owned());
    }
    prices.extend(variants(&lists, &model.price_variants)?);
    Ok(Model { provider: provider.id.clone(), model: model.id.clone(), names: Some(names), prices })
}

fn lists(prices: &RawValue) -> Result<Vec<SourceList<'_>>, String> {
    let lists = if prices.get().starts_with('[') {
        serde_json::from_str(prices.get())
    } else {
        serde_json::from_str(prices.get())
            .map(|prices| vec![SourceList { constraint: Constraint::default(), prices }])
    };
    let lists: Vec<SourceList<'_>> = lists.map_err(|error| error.to_string())?;
    if lists.is_empty() { Err("it has no price list".to_owned()) } else { Ok(lists) }
}

/// The variants as whole price lists: for every day on which something changes, the ordinary prices
/// of that day with those of the variant in their place.
fn variants(lists: &[SourceList<'_>], variants: &[SourceVariant<'_>]) -> Result<Vec<PriceList>, String> {
    let names: BTreeSet<Vec<&str>> = variants.iter().map(name).collect();
    if !names.is_empty() && lists.iter().any(|list| list.constraint.start_time.is_some()) {
        return Err("it has both hours and variants".to_owned());
    }
    let mut days: BTreeSet<Option<NaiveDate>> = lists.iter().map(|list| list.constraint.start_date).collect();
    days.extend(variants.iter().map(|variant| variant.constraint.start_date));
    days.insert(None);
    let mut made = Vec::new();
    for wanted in names {
        for &from in &days {
            let holds =
                |constraint: &Constraint| constraint.start_date.is_none_or(|start| Some(start) <= from);
            let ordinary = lists.iter().rfind(|list| holds(&list.constraint)).unwrap_or(&lists[0]);
            let mut prices = ordinary.prices.clone();
            let mut replaced = BTreeSet::new();
            for variant in
                variants.iter().filter(|variant| name(variant) == wanted && holds(&variant.constraint))
            {
                for (key, price) in &variant.prices {
                    if replaced.insert(key) {
                        prices.insert(key.clone(), price);
                    }
                }
            }
            let variant = Text::try_from(wanted.join(":")).map_err(|error| error.to_string())?;
            made.push(PriceList { variant: Some(variant), from, hours: None, rates: rates(&prices)? });
        }
    }
    Ok(made)
}

/// `batch` for `{"processing":"batch"}`; where several conditions must hold, their values.
fn name<'a>(variant: &'a SourceVariant<'_>) -> Vec<&'a str> {
    variant.when.values().map(String::as_str).collect()
}

fn rates(prices: &Prices<'_>) -> Result<Rates, String> {
    let mut rates = Rates::default();
    for (key, price) in prices {
        let unknown = || format!("its price {key} is none for tokens, calls or things");
        let (dimension, scale) = dimension(key).ok_or_else(unknown)?;
        let tiers = tiers(price, scale).map_err(|why| format!("{key} {why}"))?;
        rates.0.insert(Dimension::new(dimension).map_err(|error| error.to_string())?, tiers);
    }
    if rates.0.is_empty() {
        return Err("it has no price for tokens or calls".to_owned());
    }
    rates.check().map_err(|error| error.to_string())?;
    Ok(rates)
}

/// The dimension of a price, and by which power of ten its number becomes 10⁻¹² dollars for one. Prices
/// of time have no such number.
fn dimension(key: &str) -> Option<(&str, i32)> {
    Some(match key {
        "cache_audio_read_mtok" => ("cache_read_audio", 6),
        "cache_image_read_mtok" => ("cache_read_image", 6),
        "requests_kcount" => ("request", 9),
        "web_searches_kcount" => ("web_search", 9),
        "storage_searches_kcount" => ("storage_search", 9),
        "input_text_messages_kcount" => ("text_message", 9),
        "input_document_kpages" => ("document_page", 9),
        "input_annotated_document_kpages" => ("annotated_page", 9),
        "input_mchars" => ("character", 6),
        key => (key.strip_suffix("_mtok")?, 6),
    })
}

fn tiers(price: &RawValue, scale: i32) -> Result<Vec<(u64, u64)>, String> {
    let Ok(tiered) = serde_json::from_str::<Tiered<'_>>(price.get()) else {
        return Ok(vec![(0, rate(price, scale)?)]);
    };
    let mut tiers = vec![(0, rate(tiered.base, scale)?)];
    for tier in tiered.tiers {
        // There a tier holds above its start, here from its first token on.
        tiers.push((tier.start + 1, rate(tier.price, scale)?));
    }
    Ok(tiers)
}

/// More digits than these are noise of a binary float.
const EXACT_DIGITS: usize = 12;

/// A number of JSON times ten to the `scale`, as an integer.
fn rate(number: &RawValue, scale: i32) -> Result<u64, String> {
    let refused = || format!("of {} cannot be expressed in 10^-12 dollars for one", number.get());
    let (mantissa, exponent) = decimal(number.get()).ok_or_else(refused)?;
    let shift = exponent + scale;
    if let Ok(zeros) = u32::try_from(shift) {
        let rate = 10_u64.checked_pow(zeros).and_then(|power| mantissa.checked_mul(power));
        return rate.ok_or_else(refused);
    }
    let divisor = 10_u64.checked_pow(shift.unsigned_abs()).ok_or_else(refused)?;
    let nearest = (mantissa + divisor / 2) / divisor;
    let off = mantissa.abs_diff(nearest.checked_mul(divisor).ok_or_else(refused)?);
    let noise = mantissa / 10_u64.pow(u32::try_from(EXACT_DIGITS).expect("small"));
    if off == 0 || (off <= noise && nearest > 0) { Ok(nearest) } else { Err(refused()) }
}

/// The digits and the power of ten of a number that is not negative.
fn decimal(text: &str) -> Option<(u64, i32)> {
    let (digits, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let mantissa: u64 = format!("{whole}{fraction}").parse().ok()?;
    let exponent: i32 = exponent.parse().ok()?;
    Some((mantissa, exponent.checked_sub(i32::try_from(fraction.len()).ok()?)?))
}

/// A look-ahead at the beginning of an expression, which no engine of linear time has, as a condition
/// of its own: `^(?!a)b` is not `^a`, and is `^b`.
fn without_lookahead(clause: Clause) -> Clause {
    let all = |clauses: Vec<Clause>| clauses.into_iter().map(without_lookahead).collect();
    match clause {
        Clause::Regex(pattern) => match split_lookahead(&pattern) {
            None => Clause::Regex(pattern),
            Some((excluded, rest)) => {
                let mut clauses = vec![Clause::Not(Box::new(Clause::Regex(format!("^{excluded}"))))];
                if !rest.is_empty() {
                    clauses.push(Clause::Regex(format!("^{rest}")));
                }
                Clause::And(clauses)
            }
        },
        Clause::Or(clauses) => Clause::Or(all(clauses)),
        Clause::And(clauses) => Clause::And(all(clauses)),
        other => other,
    }
}

/// What `^(?!…)` excludes, and what follows it.
fn split_lookahead(pattern: &str) -> Option<(&str, &str)> {
    let inner = pattern.strip_prefix("^(?!")?;
    let mut depth = 1;
    for (at, character) in inner.char_indices() {
        match character {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some((&inner[..at], &inner[at + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn imported(models: &str) -> Import {
        let json = format!(r#"[{{"id":"p","name":"P","api_pattern":"x","models":[{models}]}}]"#);
        let date = NaiveDate::from_ymd_opt(2026, 1, 1).expect("a day");
        import(&json, Origin { source: "t".to_owned(), date, notice: "n".to_owned() }).expect("the shape")
    }

    fn model(prices: &str) -> String {
        format!(r#"{{"id":"m","match":{{"equals":"m"}},"prices":{prices}}}"#)
    }

    #[test]
    fn prices_become_exact_rates() {
        let cases = [
            (r#"{"input_mtok":0.3}"#, r#"{"input":[[0,300000]]}"#),
            (r#"{"input_mtok":1e-2,"output_mtok":15}"#, r#"{"input":[[0,10000]],"output":[[0,15000000]]}"#),
            (r#"{"input_mtok":0.18000000000000002}"#, r#"{"input":[[0,180000]]}"#),
            (r#"{"requests_kcount":5}"#, r#"{"request":[[0,5000000000]]}"#),
            (
                r#"{"input_mtok":{"base":1.25,"tiers":[{"start":200000,"price":2.5}]}}"#,
                r#"{"input":[[0,1250000],[200001,2500000]]}"#,
            ),
            (r#"{"cache_audio_read_mtok":1}"#, r#"{"cache_read_audio":[[0,1000000]]}"#),
        ];
        for (prices, expected) in cases {
            let Import { book, refused } = imported(&model(prices));
            assert_eq!(refused, Vec::<String>::new(), "{prices}");
            assert_eq!(serde_json::to_string(&book.models[0].prices[0].rates).expect("JSON"), expected);
        }
    }

    #[test]
    fn what_cannot_be_expressed_is_refused() {
        for prices in [
            "{}",
            r#"{"input_mtok":0.08333333333333334}"#,
            r#"{"input_mtok":-1}"#,
            r#"{"input_mtok":0.0000001}"#,
            r#"{"audio_hours":1}"#,
            r#"{"input_mtok":1,"audio_hours":3}"#,
            r#"{"input_mtok":1e30}"#,
            r#"{"input_mtok":"1"}"#,
        ] {
            let Import { book, refused } = imported(&model(prices));
            assert!(book.models.is_empty() && refused.len() == 1, "{prices}");
        }
    }

    #[test]
    fn look_aheads_become_conditions() {
        let clause = without_lookahead(Clause::Regex("^(?![^/]+/)(?:code|dev)stral".to_owned()));
        assert_eq!(clause.check(), Ok(()));
        for (name, expected) in [("codestral", true), ("mistral/codestral", false), ("x", false)] {
            assert_eq!(clause.holds(name), expected, "{name}");
        }
        let clause = without_lookahead(Clause::Regex("^(?!.*-tts(?:$|-))".to_owned()));
        assert!(clause.holds("gemini-2.5-pro") && !clause.holds("gemini-2.5-pro-tts-preview"));
    }

    #[test]
    fn variants_become_whole_price_lists() {
        let json = r#"{"id":"m","match":{"equals":"m"},
            "prices":[{"prices":{"input_mtok":2,"output_mtok":8}},
                      {"constraint":{"start_date":"2027-01-01"},"prices":{"input_mtok":4,"output_mtok":8}}],
            "price_variants":[{"when":{"processing":"batch"},"prices":{"input_mtok":1},
                               "constraint":{"start_date":"2026-06-01"}}]}"#;
        let Import { book, .. } = imported(json);
        let lists = serde_json::to_string(&book.models[0].prices[2..]).expect("JSON");
        let expected = r#"[{"variant":"batch","rates":{"input":[[0,2000000]],"output":[[0,8000000]]}},{"variant":"batch","from":"2026-06-01","rates":{"input":[[0,1000000]],"output":[[0,8000000]]}},{"variant":"batch","from":"2027-01-01","rates":{"input":[[0,1000000]],"output":[[0,8000000]]}}]"#;
        assert_eq!(lists, expected);
    }
}
