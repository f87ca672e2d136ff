//! Checking prices afterwards: every priced charge against the books that it says it is by.
//!
//! The ledger computed each amount from the rates in the command and looked nothing up. Whether those
//! were the published rates is told here.

use std::collections::{HashMap, HashSet};

use holdfast_core::chain::Hash;
use holdfast_core::usage::{BookId, Usage};
use holdfast_core::{Asset, Event, Fact, Units};
use holdfast_prices::Book;

/// What is known of prices so far.
pub(crate) struct Prices<'a> {
    books: HashMap<&'a BookId, &'a Book>,
    /// Price lists that were found in their book already, by what identifies them.
    found: HashSet<(BookId, String, Hash)>,
    /// Priced events whose rates are in their book.
    pub(crate) good: u64,
    /// Priced events by a book that is not known here.
    pub(crate) unverifiable: u64,
}

impl<'a> Prices<'a> {
    pub(crate) fn new(books: &'a [Book]) -> Self {
        let books = books.iter().map(|book| (book.id(), book)).collect();
        Prices { books, found: HashSet::new(), good: 0, unverifiable: 0 }
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
        let Some(book) = self.books.get(&usage.book) else {
            self.unverifiable += 1;
            return Ok(());
        };
        let variant = usage.variant.as_ref().map(|variant| variant.as_str());
        let list = format!("{}/{}/{}", usage.provider, usage.model, variant.unwrap_or_default());
        let key = (usage.book.clone(), list, usage.rates.digest());
        if !self.found.contains(&key) {
            if !book.has(usage.provider.as_str(), usage.model.as_str(), variant, &usage.rates) {
                return Err(format!("the price book {} has no such rates for {}", usage.book, key.1));
            }
            self.found.insert(key);
        }
        self.good += 1;
        Ok(())
    }
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
