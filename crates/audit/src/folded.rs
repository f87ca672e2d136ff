//! The log, folded: every account with every hold, and the books.

use std::collections::{BTreeMap, HashMap};

use holdfast_core::books::{Book, Postings, postings};
use holdfast_core::evolve::FoldError;
use holdfast_core::{Account, AccountId, Asset, Event, Position, evolve};

/// What the log says, up to a position.
#[derive(Debug, Default)]
pub struct Folded {
    /// The last event folded.
    pub position: Position,
    accounts: HashMap<AccountId, Option<Account>>,
    books: BTreeMap<(String, Book), i128>,
}

impl Folded {
    /// Folds the next event.
    pub fn apply(&mut self, event: &Event) -> Result<(), FoldError> {
        let account = self.accounts.entry(event.account.clone()).or_default();
        evolve(account, event)?;
        self.position = event.position;
        let Some(asset) = event.asset else { return Ok(()) };
        let Postings(changes) = postings(&event.fact);
        for (book, change) in Book::ALL.into_iter().zip(changes) {
            *self.books.entry((asset.to_string(), book)).or_default() += i128::from(change);
        }
        Ok(())
    }

    /// Every account.
    pub fn accounts(&self) -> impl Iterator<Item = &Account> {
        self.accounts.values().flatten()
    }

    /// The account of this id.
    #[must_use]
    pub fn account(&self, id: &AccountId) -> Option<&Account> {
        self.accounts.get(id).and_then(Option::as_ref)
    }

    /// The balance of a book, in units.
    #[must_use]
    pub fn book(&self, asset: &str, book: Book) -> i128 {
        self.books.get(&(asset.to_owned(), book)).copied().unwrap_or(0)
    }

    /// The assets that something was posted in.
    #[must_use]
    pub fn assets(&self) -> Vec<Asset> {
        let mut codes: Vec<&String> = self.books.keys().map(|(asset, _)| asset).collect();
        codes.dedup();
        codes.into_iter().filter_map(|code| code.parse().ok()).collect()
    }

    /// The sum of all books of an asset: zero, or money came from nowhere.
    #[must_use]
    pub fn trial_balance(&self, asset: &str) -> i128 {
        Book::ALL.into_iter().map(|book| self.book(asset, book)).sum()
    }
}
