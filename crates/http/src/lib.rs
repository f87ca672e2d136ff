//! The HTTP façade: the old billing server's calls, and a few more, on port 6004.
//!
//! **Shape.** A request is authorized before anything of it is looked at, then becomes a signed
//! command of issuer `http` that travels like any other client's. Reads come from the
//! projections. There is no second way to write.
//!
//! **Correctness.** A read waits until the projections have every event that this façade has
//! answered before, so a caller sees its own writes. When no outcome came in time, the log is
//! asked for the command before 503 is answered.

mod auth;
mod body;
mod facade;
mod problem;
mod respond;
mod routes;
pub mod server;

pub use facade::{Facade, FacadeConfig, Monitor, QueueStats};
pub use routes::{openapi, router};
