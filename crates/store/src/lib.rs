//! The log on Postgres: append behind a fence, look up, read by position.
//!
//! **Shape.** The lane owns one [`Writer`]; everybody else reads through [`read`]. No rule of
//! billing is known here: a [`Record`] comes in whole, hashed and numbered.
//!
//! **Correctness.** A commit is one statement that updates the head of its partition, on the
//! condition that epoch and position are still the writer's, and inserts from what that update
//! returned. A writer that was replaced updates nothing and so inserts nothing.

mod appending;
pub mod connect;
pub mod copy;
mod encode;
pub mod error;
pub mod head;
pub mod lookup;
pub mod prices;
pub mod read;
pub mod recent;
pub mod record;
pub mod safety;
pub mod writer;

/// A hash map for what every command goes through: keyed by a seed of its own as the standard one is,
/// and several times faster.
pub type Map<K, V> = std::collections::HashMap<K, V, foldhash::fast::RandomState>;

/// A set of the same kind.
pub type Set<K> = std::collections::HashSet<K, foldhash::fast::RandomState>;

pub use connect::Role;
pub use error::StoreError;
pub use head::{Applied, Head};
pub use record::{Logged, Record, Row};
pub use writer::Writer;
