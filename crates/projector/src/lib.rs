//! Projections: tables folded from the log, and the queries on them.
//!
//! **Shape.** [`Projector`] follows the log by position and keeps accounts, holds, activity and
//! books; [`rebuild`] does the same from the first event beside the live tables; [`queries`] is
//! what people and the façade read; [`load`] is the one thing that the lane reads.
//!
//! **Correctness.** Changes and checkpoint move in one transaction, so a crash leaves the tables
//! at some checkpoint and folding goes on from there. The same `evolve` folds here as in the lane.

mod cache;
mod fold;
mod holds;
pub mod load;
pub mod progress;
pub mod projector;
pub mod queries;
pub mod rebuild;
mod rows;
mod tables;
mod write;

pub use progress::Progress;
pub use projector::Projector;
