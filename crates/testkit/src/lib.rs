//! Real servers for development, demonstrations and tests: Postgres and NATS, found or fetched,
//! started below one folder and stopped with the process that started them.
//!
//! **Shape.** [`servers::Stack`] starts one pair; [`tenant`] gives each test of a binary its own
//! database and its own NATS accounts on a pair that they share.
//!
//! Not for production: the servers listen on loopback with passwords made up on the spot.

pub mod fetch;
pub mod identity;
pub mod locate;
mod memory;
pub mod nats;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod secrets;
pub mod servers;
pub mod tenant;
pub mod wait;

pub use servers::Stack;
