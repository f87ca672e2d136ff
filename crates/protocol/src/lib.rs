//! The wire: signed envelopes, subjects, outcomes, and the keys that bind them.
//!
//! **Shape.** A client builds and signs an [`envelope::Envelope`]; the lane runs
//! [`verify::verify`] on what JetStream delivered, gets a [`holdfast_core::Command`] out of it
//! and answers with a signed [`Outcome`]. `docs/envelope.md` says all of it for other languages,
//! and `vectors/envelope-v1.json` binds them.
//!
//! **Correctness.** No I/O here, and no clock: a signature is checked against what is passed in.

pub mod bundle;
pub mod envelope;
pub mod event;
pub mod issuers;
pub mod keys;
pub mod outcome;
pub mod subject;
pub mod token;
pub mod verify;

pub use envelope::{Draft, Envelope};
pub use issuers::Issuers;
pub use keys::{ClientKeys, Keyring};
pub use outcome::Outcome;
pub use token::RootToken;
