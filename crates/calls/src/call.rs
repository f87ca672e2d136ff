//! A call that is about to be made: what a service says of it, and what is asked of the ledger.

use std::time::Duration;

use holdfast_client::query::QueryError;
use holdfast_core::body::{JobId, Reserve};
use holdfast_core::command::hold_of_job;
use holdfast_core::usage::{INPUT, OUTPUT, Quote};
use holdfast_core::{AccountId, Asset, HoldId, Issuer, Overage, Tokens, Trace, UsageSource};
use holdfast_protocol::Outcome;
use serde_json::value::{RawValue, to_raw_value};
use uuid::Uuid;

use crate::breaker::BreakerOpen;
use crate::hold::told;
use crate::journal::JournalError;
use crate::plan::Plan;
use crate::price;
use crate::sizing::{self, Samples, Sizing};

/// What is done when a stream breaks or is abandoned after output had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnAbort {
    /// The stream is read on for the usage that the provider reports at its end
    /// ([`crate::Hold::abandon`]); the provider bills the rest anyway.
    Drain,
    /// What came is charged: the estimated input and the output that was delivered.
    #[default]
    Delivered,
}

/// A call to a model, for which money is to be held.
///
/// Everything but `account`, `model` and the counts has a default:
/// `Call { job_id: Some(job), ..Call::new("user-1", "gemini-2.5-flash", 1200, 4000) }`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Who pays: the id of an account that is open.
    pub account: String,
    /// The model, by any name that the price book knows it by.
    pub model: String,
    /// Who runs the model, where several do.
    pub provider: Option<String>,
    /// Another price list of the model, such as `batch`.
    pub variant: Option<String>,
    /// How many tokens go in, none of which is in `tokens`.
    pub input_tokens: u64,
    /// How many tokens of other dimensions go in, such as `cache_read`. `output` is not looked at.
    pub tokens: Tokens,
    /// How many tokens may come out at most: what the provider is asked for.
    pub max_output_tokens: u64,
    /// The caller's name of the job, at most 128 bytes, from which the hold's id is made. A job has
    /// one hold, for ever.
    pub job_id: Option<String>,
    /// The saga that this reserve starts.
    pub saga: Option<String>,
    /// For how much output to reserve.
    pub sizing: Sizing,
    /// What a capture of more than was reserved does. `draw` unless chosen otherwise: the provider
    /// is paid in any case. With `reject` all that is held is captured then, and no more.
    pub overage: Overage,
    /// How long the hold lives without a sign of life from this process; [`crate::Options::ttl`]
    /// unless given. It is extended while the call runs.
    pub ttl: Option<Duration>,
    /// What is done when the stream breaks.
    pub on_abort: OnAbort,
    /// The caller's trace, as a W3C `traceparent`; kept with the reserve and its settlement.
    pub trace: Option<String>,
    /// If the balance does not suffice: accept less output, as much as the balance affords, but at
    /// least so many tokens. [`crate::Hold::max_output_tokens`] says how many it became.
    pub fit: Option<u64>,
}

impl Call {
    /// A call of `model` paid by `account`.
    #[must_use]
    pub fn new(
        account: impl Into<String>,
        model: impl Into<String>,
        input_tokens: u64,
        max_output_tokens: u64,
    ) -> Self {
        Call {
            account: account.into(),
            model: model.into(),
            provider: None,
            variant: None,
            input_tokens,
            tokens: Tokens::default(),
            max_output_tokens,
            job_id: None,
            saga: None,
            sizing: Sizing::default(),
            overage: Overage::Draw,
            ttl: None,
            on_abort: OnAbort::default(),
            trace: None,
            fit: None,
        }
    }
}

/// Why there is no hold. The call must not be made.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// The account cannot pay for it.
    #[error("insufficient funds: {available} is available, {held} is held by calls in flight")]
    InsufficientFunds {
        /// How many tokens of output it could pay for, with everything else as it is.
        affordable_output_tokens: Option<u64>,
        /// What the account has and has not promised, in whole units of its asset.
        available: String,
        /// What it has promised to calls in flight, in whole units.
        held: String,
    },
    /// No price book has a price for the model. It is refused, never free.
    #[error("the model has no price: {0}")]
    UnpricedModel(String),
    /// At the model's rates the call costs nothing (or less than half of the smallest unit), and
    /// the ledger holds nothing for nothing. It needs no hold.
    #[error("the call costs nothing; there is nothing to hold")]
    CostsNothing,
    /// Something about the call is wrong; nothing was sent.
    #[error("the call cannot be reserved for: {0}")]
    Invalid(String),
    /// The ledger rejected or refused it.
    #[error("the hold was rejected: {}", told(.0))]
    Rejected(Box<Outcome>),
    /// The ledger did not answer in time. Should it have reserved after all, the hold is released
    /// by the driver.
    #[error("the ledger does not answer: {0}")]
    Unavailable(String),
    /// The ledger did not answer several times in a row, and is left alone for a while.
    #[error(transparent)]
    BreakerOpen(#[from] BreakerOpen),
    /// The journal did not take it; nothing was sent.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

impl HoldError {
    /// From an outcome that is no acceptance.
    pub(crate) fn of_outcome(outcome: Outcome) -> Self {
        if outcome.code.as_deref() != Some("insufficient_funds") {
            return HoldError::Rejected(Box::new(outcome));
        }
        HoldError::InsufficientFunds {
            affordable_output_tokens: outcome.affordable_output_tokens,
            available: outcome.available.unwrap_or_default(),
            held: outcome.held.unwrap_or_default(),
        }
    }
}

impl From<QueryError> for HoldError {
    fn from(error: QueryError) -> Self {
        match error {
            QueryError::NotFound(what) => HoldError::UnpricedModel(what),
            QueryError::Invalid(problem) => HoldError::Invalid(problem),
            QueryError::Unavailable(problem) => HoldError::Unavailable(problem),
        }
    }
}

/// What a reserve is made of beside the call.
pub(crate) struct Terms<'a> {
    pub(crate) quote: &'a Quote,
    pub(crate) issuer: &'a Issuer,
    pub(crate) asset: Asset,
    /// The default.
    pub(crate) ttl: Duration,
    pub(crate) samples: &'a Samples,
    /// The bound on output, which may be lower than the call's.
    pub(crate) max_output_tokens: u64,
    pub(crate) sizing: Sizing,
}

/// A reserve that is ready to be written and sent.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) plan: Plan,
    pub(crate) body: Box<RawValue>,
    pub(crate) ttl: Duration,
}

impl Call {
    /// The reserve of this call, under new ids.
    pub(crate) fn ask(&self, terms: &Terms<'_>) -> Result<Ask, HoldError> {
        self.try_ask(terms).map_err(HoldError::Invalid)?.ok_or(HoldError::CostsNothing)
    }

    fn try_ask(&self, terms: &Terms<'_>) -> Result<Option<Ask>, String> {
        let account = AccountId::new(&self.account).map_err(|error| format!("account {error}"))?;
        let trace = self.trace.as_deref().map(Trace::new).transpose().map_err(|error| error.to_string())?;
        let ttl = self.ttl.unwrap_or(terms.ttl);
        let ttl_ms = u64::try_from(ttl.as_millis()).map_err(|_| "the ttl is too long")?;

        let quote = terms.quote;
        let mut estimate = quote.usage(UsageSource::Estimated, &self.counts(quote));
        let output =
            sizing::output_for(terms.sizing, &estimate, terms.max_output_tokens, terms.samples, terms.asset)?;
        price::set(&mut estimate.tokens, OUTPUT, output);
        let priced = price::priced(&estimate, &estimate.tokens, UsageSource::Estimated, terms.asset);
        let (usage, units) = priced.map_err(|error| error.to_string())?;
        if units == 0 {
            return Ok(None);
        }

        let (reserve_id, job_id) = (Uuid::now_v7(), text("job_id", self.job_id.as_deref())?);
        let hold = hold_id(terms.issuer, job_id.as_ref())?;
        let body = Reserve {
            amount: price::amount(units, terms.asset),
            hold: job_id.is_none().then_some(hold),
            ttl_ms: Some(ttl_ms),
            overage: Some(self.overage),
            on_expiry: None,
            late: None,
            job_id,
            saga: text("saga", self.saga.as_deref())?,
            usage: Some(usage.clone()),
            trace: trace.clone(),
        };
        let body = to_raw_value(&body).map_err(|error| error.to_string())?;
        let plan = Plan { hold, account, reserve_id, usage, trace, asset: terms.asset };
        Ok(Some(Ask { plan, body, ttl }))
    }

    /// Everything that goes in, in dimensions that have rates.
    fn counts(&self, quote: &Quote) -> Tokens {
        let mut tokens = self.tokens.clone();
        tokens.0.remove(OUTPUT);
        let input = tokens.get(INPUT).saturating_add(self.input_tokens);
        price::set(&mut tokens, INPUT, input);
        if quote.rates.0.contains_key(price::REQUEST) && tokens.get(price::REQUEST) == 0 {
            price::set(&mut tokens, price::REQUEST, 1);
        }
        price::rated(&tokens, &quote.rates)
    }
}

fn text(member: &str, text: Option<&str>) -> Result<Option<JobId>, String> {
    let text = text.map(|text| JobId::try_from(text.to_owned())).transpose();
    text.map_err(|error| format!("{member} {error}"))
}

/// The hold's id: what the job stands for, or a new one.
fn hold_id(issuer: &Issuer, job_id: Option<&JobId>) -> Result<HoldId, String> {
    match job_id {
        Some(job) => hold_of_job(issuer, job).map_err(|refusal| refusal.detail()),
        None => Ok(Uuid::now_v7()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::{tokens, usage};

    fn quote(rates: &str) -> Quote {
        let json = format!(
            r#"{{"provider":"google","model":"m","variant":null,"book":"{:0>64}","effective_from":null,"rates":{rates}}}"#,
            0
        );
        serde_json::from_str(&json).expect("a quote")
    }

    fn ask(call: &Call, quote: &Quote) -> Result<Ask, HoldError> {
        let issuer = Issuer::new("chat-api").expect("legal");
        call.ask(&Terms {
            quote,
            issuer: &issuer,
            asset: Asset::USD,
            ttl: Duration::from_secs(600),
            samples: &Samples::default(),
            max_output_tokens: call.max_output_tokens,
            sizing: call.sizing,
        })
    }

    fn plain() -> Quote {
        let rates = serde_json::to_string(&usage("{}").rates).expect("JSON");
        quote(&rates)
    }

    #[test]
    fn a_reserve_is_priced_by_its_worst_case() {
        let cases = [
            (Call::new("u", "m", 1000, 500), plain(), "0.006", r#"{"input":1000,"output":500}"#),
            (
                Call { tokens: tokens(r#"{"cache_read":400,"output":9}"#), ..Call::new("u", "m", 600, 500) },
                plain(),
                "0.006",
                r#"{"input":1000,"output":500}"#,
            ),
            (
                Call {
                    sizing: Sizing::Capped("0.002".parse().expect("an amount")),
                    ..Call::new("u", "m", 1000, 500)
                },
                plain(),
                "0.002",
                r#"{"input":1000,"output":100}"#,
            ),
            (
                Call::new("u", "m", 0, 0),
                quote(r#"{"input":[[0,1]],"output":[[0,1]],"request":[[0,10000000000]]}"#),
                "0.01",
                r#"{"input":0,"output":0,"request":1}"#,
            ),
            // An embedding: there is no output, and no rate for it.
            (Call::new("u", "m", 1000, 0), quote(r#"{"input":[[0,1000000]]}"#), "0.001", r#"{"input":1000}"#),
        ];
        for (call, quote, amount, counts) in cases {
            let ask = ask(&call, &quote).expect("a reserve");
            let body: Reserve = serde_json::from_str(ask.body.get()).expect("a body");
            assert_eq!(Ok(body.amount), amount.parse(), "{call:?}");
            assert_eq!(body.usage.expect("usage").tokens, tokens(counts), "{call:?}");
            assert_eq!((body.hold, body.overage), (Some(ask.plan.hold), Some(Overage::Draw)));
        }
    }

    #[test]
    fn a_job_stands_for_its_hold() {
        let call = Call { job_id: Some("job-7".to_owned()), ..Call::new("u", "m", 1000, 500) };
        let ask = ask(&call, &plain()).expect("a reserve");
        assert_eq!(ask.plan.hold.to_string(), "5d10d4e6-a2db-59e6-8e9a-642189994ca4");
        let body: Reserve = serde_json::from_str(ask.body.get()).expect("a body");
        assert_eq!((body.hold, body.job_id.is_some()), (None, true), "one of the two");
    }

    #[test]
    fn what_cannot_be_reserved_for_says_why() {
        let call = || Call::new("u", "m", 1000, 500);
        let free = quote(r#"{"input":[[0,0]],"output":[[0,0]]}"#);
        assert!(matches!(ask(&call(), &free), Err(HoldError::CostsNothing)));
        let cases = [
            (Call { account: String::new(), ..call() }, "account"),
            (Call { trace: Some("x".to_owned()), ..call() }, "traceparent"),
            (Call { job_id: Some("x".repeat(200)), ..call() }, "job_id"),
            (Call { tokens: tokens(r#"{"pages":3}"#), ..call() }, "pages"),
            (Call { input_tokens: 1 << 60, ..call() }, "2^53"),
        ];
        for (call, word) in cases {
            let error = ask(&call, &plain()).expect_err("refused").to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
