//! The engine: the lane that decides, the relay that tells everybody, and expiry.
//!
//! **Shape.** [`Lane`] takes commands from the stream in order, verifies, decides, commits and
//! answers them in batches; [`Relay`] publishes what was committed. Both are started by `serve`
//! and stopped by a token; what they are doing is in [`Health`].
//!
//! **Correctness.** Memory is disposable: after any doubt the lane takes its partition over again
//! and reads what the log says. It reads no projection but through `holdfast_projector::load`.

pub mod bus;
pub mod clock;
pub mod health;
mod intake;
pub mod lane;
mod message;
mod raw;
mod refused;
pub mod relay;
mod trim;

pub use clock::{Clock, SystemClock};
pub use health::Health;
pub use lane::{Lane, LaneConfig, LaneError};
pub use relay::Relay;
