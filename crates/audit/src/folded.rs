//! The log, folded: every account with every hold, and the books.

use holdfast_core::books::{Book, Postings, postings};
use holdfast_core::costs::{Cost, CostKey, cost};
use holdfast_core::evolve::FoldError;
use holdfast_core::{Account, AccountId, Asset, Event, Position, evolve};
use holdfast_store::Map;

/// What the log says, up to a position.
#[derive(Debug, Default)]
pub struct Folded {
    /// The last event folded.
    pub position: Position,
    accounts: Map<AccountId, Option<Account>>,
    costs: Map<CostKey, Cost>,
    books: Vec<(Asset, [i128; Book::ALL.len()])>,
}

impl Folded {
    /// Folds the next event.
    pub fn apply(&mut self, event: &Event) -> Result<(), FoldError> {
        match self.accounts.get_mut(&event.account) {
            Some(account) => evolve(account, event)?,
            None => evolve(self.accounts.entry(event.account.clone()).or_default(), event)?,
        }
        self.position = event.position;
        if let Some((key, cost)) = cost(event) {
            self.costs.entry(key).or_default().add(cost);
        }
        let Some(asset) = event.asset else { return Ok(()) };
        let Postings(changes) = postings(&event.fact);
        let at = self.books.iter().position(|(known, _)| *known == asset).unwrap_or_else(|| {
            self.books.push((asset, [0; Book::ALL.len()]));
            self.books.len() - 1
        });
        for (book, change) in self.books[at].1.iter_mut().zip(changes) {
            *book += i128::from(change);
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
    pub fn book(&self, asset: Asset, book: Book) -> i128 {
        let index = Book::ALL.iter().position(|known| *known == book).expect("every book is listed");
        self.books.iter().find(|(known, _)| *known == asset).map_or(0, |(_, books)| books[index])
    }

    /// What priced charges of this key sum to.
    #[must_use]
    pub fn cost(&self, key: &CostKey) -> Option<&Cost> {
        self.costs.get(key)
    }

    /// How many keys have costs.
    #[must_use]
    pub fn costs(&self) -> usize {
        self.costs.len()
    }

    /// The assets that something was posted in.
    pub fn assets(&self) -> impl Iterator<Item = Asset> {
        self.books.iter().map(|(asset, _)| *asset)
    }

    /// The sum of all books of an asset: zero, or money came from nowhere.
    #[must_use]
    pub fn trial_balance(&self, asset: Asset) -> i128 {
        Book::ALL.into_iter().map(|book| self.book(asset, book)).sum()
    }
}
