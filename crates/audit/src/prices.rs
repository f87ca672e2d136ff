//! Checking prices afterwards: every priced charge against the book that it says it is by.
//!
//! The ledger computed each amount from the rates in the command and looked nothing up. Whether those
//! were the published rates is told here.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use chrono::{DateTime, TimeDelta, Utc};
use holdfast_core::chain::Hash;
use holdfast_core::usage::{BookId, Usage};
use holdfast_core::{Asset, Event, Fact, Units};
use holdfast_prices::Book;
use holdfast_prices::book::PriceList;
use holdfast_store::record::date;

/// For how long whoever prices a call may go by rates that it has looked up before.
const REMEMBERED: TimeDelta = TimeDelta::minutes(10);

/// A price list of a book: provider, model and variant, and the digest of its rates.
type Key = (BookId, String, Hash);

/// What is known of prices so far.
pub(crate) struct Prices<'a> {
    books: HashMap<&'a BookId, &'a Book>,
    /// The price lists that were looked up already.
    lists: HashMap<Key, Vec<&'a PriceList>>,
    /// Priced events whose rates are in their book.
    pub(crate) good: u64,
    /// Priced events by a book that is not known here.
    pub(crate) unverifiable: u64,
}

impl<'a> Prices<'a> {
    pub(crate) fn new(books: &'a [Book]) -> Self {
        let books = books.iter().map(|book| (book.id(), book)).collect();
        Prices { books, lists: HashMap::new(), good: 0, unverifiable: 0 }
    }

    /// Checks an event, if it is priced.
    ///
    /// # Errors
    /// What is wrong with its price.
    pub(crate) fn check(&mut self, event: &Event) -> Result<(), String> {
        let Some(priced) = event.fact.priced() else { return Ok(()) };
        let asset = event.asset.ok_or("it is priced and has no asset")?;
        let usage = &priced.usage;
        amount_is_price(&event.fact, usage, asset)?;
        let Some(book) = self.books.get(&usage.book).copied() else {
            self.unverifiable += 1;
            return Ok(());
        };
        if book.header.asset.as_str() != asset.code() {
            return Err(format!(
                "the price book {} is in {}, the charge in {asset}",
                usage.book, book.header.asset
            ));
        }
        let lists = self.lists(book, usage);
        if lists.is_empty() {
            return Err(format!("the price book {} has no such rates for {}", usage.book, name(usage)));
        }
        if begins(&event.fact) && !lists.iter().any(|list| held(list, date(event.time))) {
            return Err(format!("these rates of {} did not hold then", name(usage)));
        }
        self.good += 1;
        Ok(())
    }

    fn lists(&mut self, book: &'a Book, usage: &Usage) -> &[&'a PriceList] {
        let key = (usage.book.clone(), name(usage), usage.rates.digest());
        match self.lists.entry(key) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => {
                let variant = usage.variant.as_ref().map(|variant| variant.as_str());
                let (provider, model) = (usage.provider.as_str(), usage.model.as_str());
                unknown.insert(book.with_rates(provider, model, variant, &usage.rates))
            }
        }
    }
}

fn name(usage: &Usage) -> String {
    let variant = usage.variant.as_ref().map(|variant| format!(" ({variant})")).unwrap_or_default();
    format!("{}/{}{variant}", usage.provider, usage.model)
}

/// Whether the rates were chosen here: a capture keeps those of its reserve, however old.
fn begins(fact: &Fact) -> bool {
    matches!(fact, Fact::Reserved { .. } | Fact::Deducted { .. })
}

fn held(list: &PriceList, at: DateTime<Utc>) -> bool {
    list.holds(at) || list.holds(at - REMEMBERED)
}

/// What was promised, charged and absorbed is the price of the tokens; the house may absorb a part.
fn amount_is_price(fact: &Fact, usage: &Usage, asset: Asset) -> Result<(), String> {
    let price = usage.price(asset).map_err(|error| error.to_string())?;
    let stated = stated(fact).ok_or("it is priced and has no amount")?;
    if price == stated {
        return Ok(());
    }
    Err(format!("{} was charged, its tokens cost {}", asset.format(stated), asset.format(price)))
}

fn stated(fact: &Fact) -> Option<Units> {
    match fact {
        Fact::Captured { held, drawn, absorbed, .. } => held.checked_add(*drawn)?.checked_add(*absorbed),
        Fact::CapturedLate { charged, absorbed, .. } => charged.checked_add(*absorbed),
        fact => fact.amount(),
    }
}
