//! The rules of the ledger: money, accounts, holds, and what each command does to them.
//!
//! **Shape.** [`decide()`] looks at one account and one [`Command`] and says what
//! happens, as data; [`evolve`] applies an [`Event`] to the account. Nothing else changes an
//! account, here or elsewhere: the lane, the projector and `replay` all fold with [`evolve`].
//!
//! **Correctness.** There is no clock, no randomness, no I/O and no float in this crate, and its
//! manifest has no dependency that would bring one: time and ids are arguments. Equal logs
//! therefore fold to equal accounts, wherever and whenever that is done.
#![deny(
    clippy::float_arithmetic,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss
)]

pub mod account;
pub mod body;
pub mod books;
pub mod chain;
pub mod command;
pub mod costs;
pub mod decide;
pub mod event;
pub mod evolve;
pub mod hold;
pub mod holds;
pub mod id;
pub mod money;
pub mod rejection;
pub mod text;
pub mod time;
pub mod trace;
pub mod usage;

pub use account::{Account, AccountStatus};
pub use command::{Command, Intent, Verb};
pub use decide::{Context, Decision, References, decide};
pub use event::{Event, Fact, Kind};
pub use evolve::evolve;
pub use hold::{Hold, HoldStatus, Late, OnExpiry, Overage};
pub use holds::Holds;
pub use id::{AccountId, CommandId, HoldId, Issuer, Position, derived_id};
pub use money::{Asset, Assets, Decimal, Units};
pub use rejection::{Refusal, Rejection};
pub use time::Timestamp;
pub use trace::Trace;
pub use usage::{Priced, Rates, Tokens, Usage, UsageSource};
