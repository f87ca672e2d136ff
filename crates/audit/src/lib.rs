//! Finance's view: folding the log again, and proving that nothing in it was edited.
//!
//! **Shape.** [`replay::replay`] folds the log into accounts and books; [`verify::verify`] checks
//! every row on the way and compares the result with the projections, field by field and once
//! more in plain SQL; [`signatures`] checks the stored envelopes.
//!
//! **Correctness.** Everything is read in one snapshot, as a role that can only read.

pub mod compare;
pub mod folded;
mod prices;
pub mod replay;
pub mod signatures;
pub mod verify;

pub use folded::Folded;
