//! Example services around the ledger: small, but real ones.
//!
//! **Shape.** They are what the application is made of that sells LLM calls: a [`backend`] with chats
//! and wikis, a scripted model [`provider`], and the [`files`], [`git`], [`vectors`] and [`auth`]
//! services, which call each other over HTTP with the headers `X-INTERNAL-TOKEN` and `X-User-ID`. Each service is one module
//! with `router` and `serve`; what it keeps is in the folder that it is given, and nothing is
//! global, so that any number of them run in one process. [`clients`] calls them, and [`wiki`] has
//! what a wiki is made of: prompts and plans. [`town`] starts all of them in one process.
//!
//! **Correctness.** Each write is idempotent, and so is each undo, for that is what a job of many
//! steps relies on when it is resumed after a crash.

pub mod auth;
pub mod backend;
pub mod clients;
pub mod extract;
pub mod files;
pub mod git;
pub mod http;
pub mod names;
pub mod problem;
pub mod provider;
pub mod serving;
pub mod town;
pub mod vectors;
pub mod wiki;

mod durable;
