//! The cost tracker: holds money before a call to a model, and charges what the call really cost,
//! whatever fails in between.
//!
//! ```no_run
//! # use holdfast_calls::{Call, Calls, End, Options, usage};
//! # async fn chat(client: holdfast_client::Client, answer: serde_json::Value) -> Result<(), Box<dyn std::error::Error>> {
//! let calls = Calls::open(Options::new(client, "calls.db")).await?;
//! let mut hold = calls.hold(Call::new("user-1", "gemini-2.5-flash", 1200, 4000)).await?;
//! hold.dispatched().await?;
//! // … the request, with `hold.max_output_tokens()` …
//! hold.settle(End::Completed(usage::gemini(&answer))).await?;
//! # Ok(()) }
//! ```
//!
//! **Shape.** One [`Calls`] per process. [`Calls::hold`] looks the model's rates up, writes the
//! reserve into the journal, sends it, and gives out a [`Hold`]. However the hold ends, its ending
//! is written to the journal and handed to the driver, which sends it until there is an outcome.
//! Beside them the heartbeat extends the holds of long calls.
//!
//! **Correctness.** What is about to be done is on the disk before it is done, so a crash at any
//! point leaves a row that says how to go on ([`Calls::open`] does). Money is never given back on
//! doubt: a call whose fate is unknown keeps its hold until that expires. Commands are repeated
//! under their ids only, and a hold ends once in the ledger, so nobody is charged twice.

mod breaker;
mod call;
#[cfg(test)]
mod cross_tests;
mod desk;
mod driver;
mod extract;
mod heartbeat;
mod hold;
mod journal;
pub mod layer;
mod meter;
mod options;
mod plan;
mod price;
mod recover;
mod settlement;
mod sizing;

/// From a provider's report of usage to tokens by dimension.
pub mod usage {
    pub use crate::extract::{anthropic, gemini, openai};
}

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use holdfast_client::{Client, ClientError, Request};
use holdfast_core::Verb;
use holdfast_core::usage::Quote;
use tokio::time::Instant;

pub use breaker::{BreakerOpen, BreakerPolicy, Fault, Provider, ProviderError};
pub use call::{Call, HoldError, OnAbort};
pub use hold::{Hold, SettleError, Settled};
pub use journal::JournalError;
pub use options::{Options, RetryPolicy};
pub use settlement::End;
pub use sizing::Sizing;

use crate::breaker::{Breaker, Providers};
use crate::call::{Ask, Terms};
use crate::desk::{Desk, Waits};
use crate::journal::Journal;
use crate::sizing::Samples;

/// How many models' rates are remembered.
const QUOTES_MAX: usize = 1_000;

/// How long a reserve is valid at least. The ledger compares it by its own clock, from which that of
/// a service may be some seconds away.
const RESERVE_VALID_FOR_MIN: Duration = Duration::from_secs(60);

/// A model as it was asked for: name, provider, variant.
type Model = (String, Option<String>, Option<String>);

/// The cost tracker of a process. Cheap to clone.
#[derive(Clone)]
pub struct Calls(Arc<Inner>);

struct Inner {
    client: Client,
    desk: Arc<Desk>,
    ttl: Duration,
    reserve_within: Duration,
    quote_for: Duration,
    ledger: Arc<Breaker>,
    providers: Providers,
    /// Rates that were looked up, and when. Only models that have a price get in.
    quotes: Mutex<HashMap<Model, (Instant, Arc<Quote>)>>,
}

impl Calls {
    /// Opens the journal, hands what it has left to the driver, and starts driver and heartbeat.
    /// Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// [`JournalError::InUse`] when another process has the file; [`JournalError`] when it cannot
    /// be opened or read.
    pub async fn open(options: Options) -> Result<Self, JournalError> {
        let journal = Journal::open(&options.journal).await?;
        journal.sweep();
        let samples = Samples::of(journal.samples().await?);
        let waits = Waits { settle: options.settle_within, drain: options.drain_within };
        let (desk, orders) = Desk::new(journal.clone(), options.asset, waits, samples);
        recover::recover(&desk).await?;
        let client = options.client;
        let drive = driver::drive(client.clone(), journal.clone(), orders, options.settle_concurrency);
        desk.runs(tokio::spawn(drive));
        let beat = heartbeat::beat(client.clone(), journal, Arc::downgrade(&desk.live));
        desk.runs(tokio::spawn(beat));
        Ok(Calls(Arc::new(Inner {
            client,
            desk,
            ttl: options.ttl,
            reserve_within: options.reserve_within,
            quote_for: options.quote_for,
            ledger: Breaker::new("ledger", options.ledger_breaker),
            providers: Providers::new(options.provider_breaker, options.provider_retry),
            quotes: Mutex::default(),
        })))
    }

    /// Holds money for a call.
    ///
    /// With [`Call::fit`] a call that the account cannot pay for is asked for once more, under new
    /// ids and bounded to the output that it can.
    ///
    /// # Errors
    /// [`HoldError`]; then there is no hold, or none that lasts, and the call must not be made.
    pub async fn hold(&self, call: Call) -> Result<Hold, HoldError> {
        let quote = self.quote(&call).await?;
        let most = call.max_output_tokens;
        let first = self.reserve(&call, &quote, most, call.sizing).await;
        let (least, affordable) = match (&first, call.fit) {
            (Err(HoldError::InsufficientFunds { affordable_output_tokens, .. }), Some(least)) => {
                (least, affordable_output_tokens.unwrap_or(0))
            }
            _ => return first,
        };
        if affordable == 0 || affordable < least {
            return first;
        }
        self.reserve(&call, &quote, affordable.min(most), Sizing::WorstCase).await
    }

    /// A provider, behind a circuit breaker of its own. The same name has the same breaker; names
    /// must be few, since each is kept and is a label of a metric.
    #[must_use]
    pub fn provider(&self, name: &str) -> Provider {
        self.0.providers.of(name)
    }

    /// How many holds of the journal have no end yet: calls under way and settlements without an
    /// outcome.
    #[must_use]
    pub fn unfinished(&self) -> u64 {
        u64::try_from(self.0.desk.journal.unfinished()).unwrap_or(0)
    }

    /// Stops driver and heartbeat, writes what was handed over, closes the journal and lets go of
    /// its lock. What has no outcome yet is settled by who opens the journal next. Holds that are
    /// still there can be neither dispatched nor settled any more; their rows say how to go on.
    ///
    /// Call it before the process ends: without it the last drops may not reach the disk.
    pub async fn close(&self) {
        self.0.desk.stop().await;
    }

    /// The rates of the call's model.
    async fn quote(&self, call: &Call) -> Result<Arc<Quote>, HoldError> {
        let model = (call.model.clone(), call.provider.clone(), call.variant.clone());
        let known = self.quotes().get(&model).cloned();
        if let Some((_, quote)) = known.filter(|(at, _)| at.elapsed() < self.0.quote_for) {
            return Ok(quote);
        }
        let asked = self.0.client.quote(&call.model, call.provider.as_deref(), call.variant.as_deref()).await;
        let quote = Arc::new(asked?);
        let asset = self.0.desk.asset;
        if quote.asset.as_str() != asset.code() {
            let problem = format!("prices are in {}, this tracker is of {}", quote.asset, asset.code());
            return Err(HoldError::Invalid(problem));
        }
        let mut quotes = self.quotes();
        if quotes.len() >= QUOTES_MAX {
            // Names are chosen by users, and any number of names may mean one model.
            quotes.clear();
        }
        quotes.insert(model, (Instant::now(), Arc::clone(&quote)));
        drop(quotes);
        Ok(quote)
    }

    fn quotes(&self) -> std::sync::MutexGuard<'_, HashMap<Model, (Instant, Arc<Quote>)>> {
        self.0.quotes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One reserve, under new ids.
    async fn reserve(
        &self,
        call: &Call,
        quote: &Quote,
        max_output_tokens: u64,
        sizing: Sizing,
    ) -> Result<Hold, HoldError> {
        let Inner { client, desk, .. } = &*self.0;
        let (issuer, asset, samples) = (client.issuer(), desk.asset, &desk.samples);
        let terms = Terms { quote, issuer, asset, ttl: self.0.ttl, samples, max_output_tokens, sizing };
        let Ask { plan, body, ttl } = call.ask(&terms)?;
        let permit = self.0.ledger.acquire()?;

        let (id, account) = (plan.reserve_id, plan.account.clone());
        // Before anything is written: from here on, whoever cancels this drops a hold, and that
        // releases what may have been reserved.
        let mut hold = Hold::new(Arc::clone(desk), plan, max_output_tokens, call.on_abort);
        let (row, text) = (account.to_string(), body.get().to_owned());
        if let Err(error) = desk.journal.reserving(hold.id(), row, id, text).await {
            hold.void(String::new());
            return Err(error.into());
        }
        hold.written();

        let sent = Instant::now();
        let within = self.0.reserve_within;
        let (verb, account) = (Verb::Reserve, account.as_str());
        let request =
            Request { id, verb, account, body: &body, within, valid_for: reserve_valid_for(within) };
        match client.send(request).await {
            Ok(outcome) if outcome.accepted() => {
                permit.success();
                hold.accepted(outcome, ttl, sent);
                Ok(hold)
            }
            Ok(outcome) => {
                permit.success();
                hold.void(serde_json::to_string(&outcome).unwrap_or_default());
                Err(HoldError::of_outcome(outcome))
            }
            Err(error @ (ClientError::Unavailable { .. } | ClientError::Connect(_))) => {
                permit.failure();
                // The reserve may have been decided, or may still be: dropped, the hold is released.
                drop(hold);
                Err(HoldError::Unavailable(error.to_string()))
            }
            Err(error @ (ClientError::TooLarge { .. } | ClientError::Body(_))) => {
                hold.void(serde_json::json!({ "error": error.to_string() }).to_string());
                Err(HoldError::Invalid(error.to_string()))
            }
        }
    }
}

/// How long a reserve is valid whose outcome is waited for `within` that time. What is decided after
/// it is released by the drop of its hold.
fn reserve_valid_for(within: Duration) -> Duration {
    within.max(RESERVE_VALID_FOR_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_some_seconds_behind_makes_no_reserve_expire() {
        for (within, valid_for) in [(5, 60), (60, 60), (300, 300)] {
            let valid_for = Duration::from_secs(valid_for);
            assert_eq!(reserve_valid_for(Duration::from_secs(within)), valid_for, "{within} s");
        }
    }
}
