//! The benchmark: what the ledger does, beside what the same Postgres can do at all and what one
//! would write instead, all in one run on one machine.
//!
//! **Shape.** [`run`] starts embedded servers with durable settings and a ledger process of its
//! own, takes each [`Measure`] in turn, and answers a [`Report`]. Load generator, ledger and servers
//! share the machine, so figures of different runs are compared by their ratios.
//!
//! **Correctness.** A fast wrong answer is none: the generator keeps books of its own, and the run
//! ends with `verify` and a comparison of every balance with them. Only that decides success.

mod bulk;
mod commands;
mod curves;
mod deployment;
mod drain;
mod floor;
mod http;
mod latency;
mod load;
mod machine;
mod memory;
mod naive;
mod plot;
mod processes;
mod replaying;
mod report;
mod run;
mod settings;
mod takeover;
mod workload;

pub use plot::plots;
pub use report::{Figures, Report};
pub use run::{Options, run};
pub use settings::{Measure, Size};
