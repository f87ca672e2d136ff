//! Sagas: jobs of many steps under one hold, each step undone when a later one fails.
//!
//! **Shape.** A service defines its saga ([`Saga`]) and makes a [`Runner`] of it. [`Runner::run`] starts
//! a saga and drives it to its end; [`Runner::serve`] goes on with those that another instance left.
//! What a saga did is in its log, a subject of the stream `SAGAS` ([`SagaLog`]), which people read with
//! the `nats` command or as a [`timeline`]. The [`state`] machine reads the log and says what is next; it
//! has no I/O. [`proof`] runs a definition with every step twice, every failure and every crash.
//!
//! **Correctness.** Steps run at least once, so they are idempotent. Each entry of a log is appended
//! only where the log ends as its writer believes, so one instance at a time drives a saga. Ids of
//! commands are derived from the saga and the step, so money moves once whoever repeats it, and one
//! command alone can settle the hold. The reserve names the saga in the ledger: when the log is lost,
//! [`Runner::reconcile`] drives the saga again from there.

mod amount;
pub mod definition;
mod driver;
pub mod entry;
mod error;
mod faults;
mod index;
mod key;
mod log;
mod money;
mod options;
mod outcome;
pub mod proof;
mod runner;
pub mod state;
pub mod timeline;

pub use definition::{Charge, Cost, Done, Estimate, Failure, Outputs, Saga, Step, StepContext};
pub use entry::{Ending, Entry, Origin, What};
pub use error::SagaError;
pub use faults::{Fault, Faults, Moment};
pub use holdfast_client::query::OpenSaga;
pub use key::{KeyError, SagaKey, is_step_name};
pub use log::{STREAM, SagaLog, Stored};
pub use options::RunnerOptions;
pub use outcome::{SagaOutcome, StepOutcome};
pub use runner::{Reconciled, Runner};
pub use state::{Broken, Limits};
pub use timeline::{Line, Summary};
