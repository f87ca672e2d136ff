//! A price book: its file, its digest, and finding a model's rates in it.

use std::collections::BTreeSet;

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use holdfast_core::text::Text;
use holdfast_core::usage::{BookId, Quote, Rates};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::matching::{Clause, with_dashed_date};

/// The form of the file.
const FORM: u32 = 1;

/// The first line: what the rest is. It is no part of the digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// The form of the file: 1.
    pub holdfast_price_book: u32,
    /// Where the prices are from.
    pub source: String,
    /// The day they were taken.
    pub date: NaiveDate,
    /// The code of the asset that rates are in; `USD` unless given.
    #[serde(default = "dollars", skip_serializing_if = "is_dollars")]
    pub asset: Text<8>,
    /// Whose they are, and under which licence.
    pub notice: String,
}

fn dollars() -> Text<8> {
    Text::literal("USD")
}

fn is_dollars(asset: &Text<8>) -> bool {
    *asset == dollars()
}

/// Who runs models.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provider {
    /// Its id.
    pub provider: Text<128>,
    /// Other names of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub names: Option<Clause>,
    /// Models that are its own when nobody says who runs them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub models: Option<Clause>,
    /// Providers whose price lists hold for what it has none for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fallback: Vec<Text<128>>,
}

/// A model with its price lists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Who runs it.
    pub provider: Text<128>,
    /// Its id.
    pub model: Text<128>,
    /// Other names of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub names: Option<Clause>,
    /// Its price lists; of those that hold at a moment the last counts.
    pub prices: Vec<PriceList>,
}

/// Rates, and when they hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriceList {
    /// Another way of using the model, such as `batch`; none for the ordinary one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<Text<32>>,
    /// The first day, in UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<NaiveDate>,
    /// The hours of the day, in UTC, begin included and end not; past midnight when the end is first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hours: Option<(NaiveTime, NaiveTime)>,
    /// The rates.
    pub rates: Rates,
}

impl PriceList {
    /// Whether it holds at a moment, if none after it does.
    #[must_use]
    pub fn holds(&self, at: DateTime<Utc>) -> bool {
        let time = at.time();
        let in_hours = self.hours.is_none_or(|(begin, end)| {
            if begin <= end { begin <= time && time < end } else { begin <= time || time < end }
        });
        in_hours && self.from.is_none_or(|from| from <= at.date_naive())
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Line {
    Model(Model),
    Provider(Provider),
}

/// A price book.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Book {
    /// What it is.
    pub header: Header,
    /// The providers, in the order in which they are asked.
    pub providers: Vec<Provider>,
    /// The models, in the order in which they are tried.
    pub models: Vec<Model>,
    id: BookId,
}

/// Why a file is no price book.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BookError {
    /// A line that cannot be read.
    #[error("line {line}: {problem}")]
    Line {
        /// Which, from 1.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// A file of another form.
    #[error("the file says holdfast_price_book {0}, this version reads {FORM}")]
    Form(u32),
}

/// What is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ask {
    /// The model, by any of its names.
    pub model: String,
    /// Who runs it; who is known for the model unless given.
    pub provider: Option<String>,
    /// Which of its price lists.
    pub variant: Option<String>,
}

/// Why there is no price.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unpriced {
    /// Nobody of this name.
    #[error("provider: the price book has no provider `{0}`")]
    Provider(String),
    /// Nobody is known to run it.
    #[error(
        "model: no provider of `{0}` is known; name one in `provider`, or add the model to the price book"
    )]
    Nobody(String),
    /// No price for it.
    #[error("model: the price book has no price for `{model}` of `{provider}`; add one")]
    Model {
        /// Who runs it.
        provider: String,
        /// The model.
        model: String,
    },
    /// No such price list of it.
    #[error("variant: `{model}` of `{provider}` has no price list `{variant}`")]
    Variant {
        /// Who runs it.
        provider: String,
        /// The model.
        model: String,
        /// The price list.
        variant: String,
    },
}

/// The code that callers are told.
pub const UNPRICED_MODEL: &str = "unpriced_model";

impl Book {
    /// A book of these lines.
    ///
    /// # Errors
    /// [`BookError::Line`] counting the header, naming what is wrong with a provider or model.
    pub fn new(header: Header, providers: Vec<Provider>, models: Vec<Model>) -> Result<Self, BookError> {
        let mut book =
            Book { header, providers, models, id: BookId::new(&"0".repeat(64)).expect("a digest") };
        book.check()?;
        let digest = Sha256::digest(book.lines());
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        book.id = BookId::new(&digest).expect("a digest");
        Ok(book)
    }

    /// The book that comes with this version.
    #[must_use]
    pub fn vendored() -> Self {
        Book::parse(include_str!("../data/book.jsonl")).expect("the book that comes with it was checked")
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`BookError`] naming the line.
    pub fn parse(text: &str) -> Result<Self, BookError> {
        let mut lines = text.lines().enumerate();
        let fail = |line: usize, error: serde_json::Error| BookError::Line {
            line: line + 1,
            problem: error.to_string(),
        };
        let (_, first) = lines.next().unwrap_or((0, ""));
        let header: Header = serde_json::from_str(first).map_err(|error| fail(0, error))?;
        if header.holdfast_price_book != FORM {
            return Err(BookError::Form(header.holdfast_price_book));
        }
        let (mut providers, mut models) = (Vec::new(), Vec::new());
        for (number, line) in lines {
            // Read as what it says it is, so that an error names the member at fault.
            let of_model = line.contains("\"model\":");
            if of_model {
                models.push(serde_json::from_str(line).map_err(|error| fail(number, error))?);
            } else {
                providers.push(serde_json::from_str(line).map_err(|error| fail(number, error))?);
            }
        }
        Book::new(header, providers, models)
    }

    /// The file.
    #[must_use]
    pub fn to_text(&self) -> String {
        let header = serde_json::to_string(&self.header).expect("a header is plain values");
        format!("{header}\n{}", self.lines())
    }

    fn lines(&self) -> String {
        let mut text = String::new();
        let providers = self.providers.iter().cloned().map(Line::Provider);
        for line in providers.chain(self.models.iter().cloned().map(Line::Model)) {
            text.push_str(&serde_json::to_string(&line).expect("a line is plain values"));
            text.push('\n');
        }
        text
    }

    fn check(&self) -> Result<(), BookError> {
        let mut known = BTreeSet::new();
        for (index, provider) in self.providers.iter().enumerate() {
            let mut clauses = provider.names.iter().chain(&provider.models);
            let checked = clauses.try_for_each(Clause::check);
            checked.map_err(|problem| BookError::Line { line: index + 2, problem })?;
        }
        for (index, model) in self.models.iter().enumerate() {
            let line = index + 2 + self.providers.len();
            let fail = |problem: String| BookError::Line { line, problem };
            check_model(model).map_err(fail)?;
            if !known.insert((&model.provider, &model.model)) {
                return Err(fail(format!("{} of {} is there twice", model.model, model.provider)));
            }
        }
        Ok(())
    }

    /// Its name: the SHA-256 of everything after the header.
    #[must_use]
    pub fn id(&self) -> &BookId {
        &self.id
    }

    /// This book with what `overrides` says instead: whole models and providers replace those of the
    /// same id, and are tried first.
    ///
    /// # Errors
    /// As [`Book::new`].
    pub fn overridden(&self, overrides: &Book) -> Result<Self, BookError> {
        let other =
            |provider: &&Provider| !overrides.providers.iter().any(|o| o.provider == provider.provider);
        let kept = |model: &&Model| {
            !overrides.models.iter().any(|o| (&o.provider, &o.model) == (&model.provider, &model.model))
        };
        let providers = overrides.providers.iter().chain(self.providers.iter().filter(other));
        let models = overrides.models.iter().chain(self.models.iter().filter(kept));
        Book::new(self.header.clone(), providers.cloned().collect(), models.cloned().collect())
    }

    /// The rates of a model at a moment.
    ///
    /// # Errors
    /// [`Unpriced`] when there are none: the call must be refused.
    pub fn quote(&self, ask: &Ask, at: DateTime<Utc>) -> Result<Quote, Unpriced> {
        let name = ask.model.to_lowercase();
        let provider = match &ask.provider {
            Some(named) => self.provider(named).ok_or_else(|| Unpriced::Provider(named.clone()))?,
            None => self.runs(&name).ok_or_else(|| Unpriced::Nobody(ask.model.clone()))?,
        };
        let model = self.model(provider, &name).ok_or_else(|| Unpriced::Model {
            provider: provider.provider.to_string(),
            model: ask.model.clone(),
        })?;
        let of_variant =
            |list: &&PriceList| list.variant.as_ref().map(Text::as_str) == ask.variant.as_deref();
        let list = model.prices.iter().filter(of_variant).rfind(|list| list.holds(at));
        let Some(list) = list else {
            let (provider, model) = (model.provider.to_string(), model.model.to_string());
            return Err(match &ask.variant {
                Some(variant) => Unpriced::Variant { provider, model, variant: variant.clone() },
                None => Unpriced::Model { provider, model },
            });
        };
        Ok(Quote {
            provider: model.provider.clone(),
            model: model.model.clone(),
            variant: list.variant.clone(),
            asset: self.header.asset.clone(),
            book: self.id.clone(),
            effective_from: list.from.map(|from| Text::literal(&from.to_string())),
            rates: list.rates.clone(),
        })
    }

    /// The price lists of this model that have exactly these rates.
    #[must_use]
    pub fn with_rates(
        &self,
        provider: &str,
        model: &str,
        variant: Option<&str>,
        rates: &Rates,
    ) -> Vec<&PriceList> {
        let same = |found: &&Model| found.provider.as_str() == provider && found.model.as_str() == model;
        let lists = self.models.iter().find(same).map_or(&[][..], |model| &model.prices);
        let wanted = |list: &&PriceList| list.variant.as_ref().map(Text::as_str) == variant;
        lists.iter().filter(wanted).filter(|list| list.rates == *rates).collect()
    }

    fn provider(&self, named: &str) -> Option<&Provider> {
        let name = named.trim().to_lowercase();
        let by_id = self.providers.iter().find(|provider| provider.provider.as_str() == name);
        by_id.or_else(|| self.providers.iter().find(|p| p.names.as_ref().is_some_and(|c| c.holds(&name))))
    }

    fn runs(&self, model: &str) -> Option<&Provider> {
        self.providers.iter().find(|provider| provider.models.as_ref().is_some_and(|c| c.holds(model)))
    }

    fn model(&self, provider: &Provider, name: &str) -> Option<&Model> {
        let found = self.model_named(provider, name);
        found.or_else(|| self.model_named(provider, &with_dashed_date(name)?))
    }

    /// The provider's own model of this name, or that of one whose price lists it shares.
    fn model_named(&self, provider: &Provider, name: &str) -> Option<&Model> {
        std::iter::once(&provider.provider).chain(&provider.fallback).find_map(|provider| {
            let own = || self.models.iter().filter(|model| model.provider == *provider);
            let by_id = own().find(|model| model.model.as_str().to_lowercase() == name);
            by_id.or_else(|| own().find(|model| model.names.as_ref().is_some_and(|c| c.holds(name))))
        })
    }
}

fn check_model(model: &Model) -> Result<(), String> {
    model.names.as_ref().map_or(Ok(()), Clause::check)?;
    for list in &model.prices {
        list.rates.check().map_err(|error| error.to_string())?;
        if list.rates.0.is_empty() {
            return Err(format!("{} of {} has a price list without rates", model.model, model.provider));
        }
    }
    let ordinary = model.prices.iter().find(|list| list.variant.is_none());
    if ordinary.is_none_or(|list| list.hours.is_some()) {
        return Err(format!(
            "the first price list of {} of {} must hold all day",
            model.model, model.provider
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"{"holdfast_price_book":1,"source":"test","date":"2026-01-01","notice":"none"}
{"provider":"acme","names":{"contains":"acme"},"models":{"starts_with":"m-"}}
{"provider":"resale","fallback":["acme"]}
{"provider":"acme","model":"m-1","prices":[{"rates":{"input":[[0,1]]}},{"from":"2026-02-01","rates":{"input":[[0,2]]}},{"hours":["16:00:00","01:00:00"],"rates":{"input":[[0,3]]}},{"variant":"batch","rates":{"input":[[0,9]]}}]}
{"provider":"acme","model":"m-2","names":{"starts_with":"m-2-2025-05-14"},"prices":[{"rates":{"input":[[0,4]]}}]}
"#;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().expect("a time")
    }

    fn ask(model: &str, provider: Option<&str>, variant: Option<&str>) -> Ask {
        let own = |text: Option<&str>| text.map(str::to_owned);
        Ask { model: model.to_owned(), provider: own(provider), variant: own(variant) }
    }

    #[test]
    fn quotes() {
        let book = Book::parse(TEXT).expect("a book");
        assert_eq!(book.to_text(), TEXT);
        let cases = [
            ("m-1", None, None, "2026-01-31T12:00:00Z", Some(1)),
            ("M-1", Some("ACME corp"), None, "2026-02-01T12:00:00Z", Some(2)),
            ("m-1", Some("resale"), None, "2026-02-01T16:00:00Z", Some(3)),
            ("m-1", None, None, "2026-02-01T00:59:59Z", Some(3)),
            ("m-1", None, Some("batch"), "2026-02-01T12:00:00Z", Some(9)),
            ("m-1", None, Some("flex"), "2026-02-01T12:00:00Z", None),
            ("m-2-20250514-v1", None, None, "2026-02-01T12:00:00Z", Some(4)),
            ("m-3", None, None, "2026-02-01T12:00:00Z", None),
            ("x", None, None, "2026-02-01T12:00:00Z", None),
            ("m-1", Some("nobody"), None, "2026-02-01T12:00:00Z", None),
        ];
        for (model, provider, variant, when, expected) in cases {
            let quote = book.quote(&ask(model, provider, variant), at(when));
            let rate = quote.ok().and_then(|quote| quote.rates.of("input", 0));
            assert_eq!(rate, expected, "{model} {provider:?} {variant:?} {when}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_book_is_named() {
        let cases = [
            (TEXT.replace("\"m-2\"", "\"m-1\""), "line 5: m-1 of acme is there twice"),
            (
                TEXT.replace("[[0,4]]", "[[1,4]]"),
                "line 5: the rates of `input` must be [from, rate] pairs, the first from 0, ascending",
            ),
            (TEXT.replace("{\"input\":[[0,4]]}", "{}"), "line 5: m-2 of acme has a price list without rates"),
            (
                TEXT.replace("book\":1", "book\":2"),
                "the file says holdfast_price_book 2, this version reads 1",
            ),
            (TEXT.replace("[[0,4]]", "[[0,-4]]"), "line 5: invalid value: integer `-4`, expected u64"),
        ];
        for (text, expected) in cases {
            let error = Book::parse(&text).expect_err("wrong").to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn overrides_replace_whole_models() {
        let book = Book::parse(TEXT).expect("a book");
        let header = TEXT.lines().next().expect("a header");
        let line = r#"{"provider":"acme","model":"m-2","prices":[{"rates":{"input":[[0,7]]}}]}"#;
        let overrides = Book::parse(&format!("{header}\n{line}\n")).expect("a book");
        let both = book.overridden(&overrides).expect("a book");
        let quote = both.quote(&ask("m-2", None, None), at("2026-02-01T12:00:00Z")).expect("priced");
        assert_eq!(quote.rates.of("input", 0), Some(7));
        assert_eq!(both.models.len(), book.models.len());
        assert_ne!(both.id(), book.id());
    }
}
