//! The books: every event as postings between five accounts of the house, which sum to zero.
//!
//! **Shape.** [`postings`] is a pure function of an event. The projector adds postings up to a
//! trial balance; `verify` recomputes them in SQL.

use serde::{Deserialize, Serialize};

use crate::account::Account;
use crate::event::Fact;
use crate::money::Units;

/// The chart of accounts. Credits are positive, so what the house owes its customers is too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Book {
    /// What customers may still spend or promise.
    CustomersAvailable,
    /// What customers have promised to holds.
    CustomersHeld,
    /// What customers were charged or the house paid in their stead.
    Revenue,
    /// What came in from outside (negative: an asset of the house).
    Funding,
    /// What the house absorbed (negative: a cost).
    Absorbed,
}

impl Book {
    /// Every book, in the order of a trial balance.
    pub const ALL: [Book; 5] =
        [Book::CustomersAvailable, Book::CustomersHeld, Book::Revenue, Book::Funding, Book::Absorbed];

    /// The book in SQL and JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Book::CustomersAvailable => "customers_available",
            Book::CustomersHeld => "customers_held",
            Book::Revenue => "revenue",
            Book::Funding => "funding",
            Book::Absorbed => "absorbed",
        }
    }
}

/// One event's effect on the books: a change for each of [`Book::ALL`], in that order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Postings(pub [Units; 5]);

impl Postings {
    /// Whether credits and debits are equal.
    #[must_use]
    pub fn balance(&self) -> bool {
        self.0.iter().map(|units| i128::from(*units)).sum::<i128>() == 0
    }
}

/// What `fact` posts. Sums to zero for every fact.
#[must_use]
pub fn postings(fact: &Fact) -> Postings {
    let [available, held, revenue, funding, absorbed] = match *fact {
        Fact::ToppedUp { amount, .. } => [amount, 0, 0, -amount, 0],
        Fact::TopUpReversed { amount, .. } => [-amount, 0, 0, amount, 0],
        Fact::Deducted { amount, .. } => [-amount, 0, amount, 0, 0],
        Fact::Refunded { amount, .. } => [amount, 0, -amount, 0, 0],
        Fact::Reserved { amount, .. } | Fact::Increased { amount, .. } => [-amount, amount, 0, 0, 0],
        Fact::Captured { held, drawn, absorbed, released, .. } => {
            [released - drawn, -(held + released), held + drawn + absorbed, 0, -absorbed]
        }
        Fact::CapturedLate { charged, absorbed, .. } => [-charged, 0, charged + absorbed, 0, -absorbed],
        Fact::Released { amount, .. } => [amount, -amount, 0, 0, 0],
        Fact::HoldExpired { released, captured, .. } => [released, -(released + captured), captured, 0, 0],
        Fact::AccountOpened { .. }
        | Fact::AccountSet { .. }
        | Fact::Extended { .. }
        | Fact::Rejected { .. } => [0; 5],
    };
    let postings = Postings([available, held, revenue, funding, absorbed]);
    assert!(postings.balance(), "postings of {fact:?} do not sum to zero");
    postings
}

/// `posted` and `held` of an account after `fact`; zero where there is no account.
///
/// Taken from the postings, so that [`crate::evolve`], which changes the account field by field,
/// is checked against an independent figure at every event.
#[must_use]
pub fn balances_after(account: Option<&Account>, fact: &Fact) -> (Units, Units) {
    let (posted, held) = account.map_or((0, 0), |account| (account.posted, account.held));
    let Postings([to_available, to_held, ..]) = postings(fact);
    // Freed and promised money may exceed 64 bits on the way to a sum that does not.
    let sum = |units: [Units; 3]| {
        let wide: i128 = units.into_iter().map(i128::from).sum();
        Units::try_from(wide).expect("decisions keep balances within 64 bits")
    };
    (sum([posted, to_available, to_held]), sum([held, to_held, 0]))
}
