//! Price books: what a model's tokens cost, as data.
//!
//! **Shape.** A [`Book`] is a file of lines, named by their digest. [`Book::quote`] finds the rates of
//! a model at a moment; who sells calls sends them with each command, and the ledger looks nothing
//! up. [`import()`] makes a book of the data of `genai-prices`, [`diff`] compares two, and
//! [`Book::vendored`] is the one that comes with this version.
//!
//! **Correctness.** Prices are read from their decimal text into integers. One that no integer rate
//! can express, or that is negative, is refused with its model: a model without a price is refused to
//! callers, and never free.

pub mod book;
pub mod diff;
pub mod import;
pub mod matching;

pub use book::{Ask, Book, BookError, Unpriced};
pub use diff::diff;
pub use import::import;
