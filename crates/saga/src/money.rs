//! What a saga asks of the ledger: one reserve, a capture for each step that cost something, refunds,
//! and one settlement.
//!
//! **Correctness.** Every id is derived from the saga and the step, so a repeat is answered with the
//! first outcome, by whatever instance and however long after. Where the first command under an id said
//! something else (`idempotency_conflict`: a step was captured by a run whose entry was lost, and cost
//! another amount then), the first is the truth, and it is looked up. Extensions alone have ids of
//! their own: repeating one does no harm.
//!
//! A hold that has expired still takes one late capture. So where a release comes too late for it, a
//! final capture of nothing takes that place: from then on what was charged is certain.

use std::time::Duration;

use holdfast_client::query::QueryError;
use holdfast_client::{Client, Request};
use holdfast_core::{CommandId, HoldId, Issuer, Verb};
use holdfast_protocol::Outcome;
use serde_json::value::to_raw_value;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::amount::Sum;
use crate::definition::{Cost, Estimate};
use crate::error::SagaError;
use crate::key::SagaKey;
use crate::options::RunnerOptions;
use crate::state::{Settlement, State};

/// For how long a command that must land however late is worth deciding; the ledger does not look at it.
const VALID_FOR: Duration = Duration::from_secs(24 * 60 * 60);
/// How long to wait for an extension: it is asked for again soon.
const EXTEND_WITHIN: Duration = Duration::from_secs(5);
/// The longest part of a reason that is the definition's, in characters.
const REASON_MAX_CHARS: usize = 800;
/// The code of a command whose id was used for something else.
const CONFLICT: &str = "idempotency_conflict";
/// The code of a command that came after the hold's time.
const EXPIRED: &str = "hold_expired";
/// How far the projections may be behind an outcome, and how often to look.
const PROJECTED_WITHIN: Duration = Duration::from_secs(10);
const PROJECTED_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// What became of a capture.
pub(crate) enum Captured {
    /// It was charged.
    Charged {
        /// How much.
        amount: String,
        /// Whether the hold had ended before.
        late: bool,
    },
    /// It was not, and never will be under this id.
    Rejected {
        /// The ledger's code and sentence.
        problem: String,
    },
}

/// What became of an extension.
pub(crate) enum Extended {
    /// The hold has its time.
    Yes,
    /// The hold is open, and was not extended.
    NotNow(String),
    /// The ledger does not say.
    Unanswered(String),
    /// The hold has ended.
    Ended(String),
}

/// The ledger, as a saga needs it.
#[derive(Clone)]
pub(crate) struct Money {
    client: Client,
    issuer: Issuer,
    within: Duration,
    reserve_within: Duration,
}

/// A saga and its hold.
#[derive(Debug, Clone)]
pub(crate) struct Paying {
    pub(crate) saga: SagaKey,
    pub(crate) account: String,
    pub(crate) hold: HoldId,
}

impl Paying {
    pub(crate) fn of(saga: &SagaKey, state: &State) -> Self {
        Paying { saga: saga.clone(), account: state.account.clone(), hold: state.hold }
    }
}

/// The body of a saga's reserve. It is kept in the saga's log, so that a repeat says the same whatever
/// the definition estimates by then.
pub(crate) fn reserve_body(saga: &SagaKey, estimate: &Estimate) -> Value {
    let ttl_ms = u64::try_from(estimate.ttl.as_millis()).unwrap_or(u64::MAX);
    let name = saga.to_string();
    let mut body = json!({
        "amount": estimate.amount.to_string(), "job_id": name, "saga": name,
        "ttl_ms": ttl_ms, "overage": "draw",
    });
    if let Some(usage) = &estimate.usage {
        body["usage"] = usage.clone();
    }
    body
}

/// How long the hold of such a reserve lives, and is extended by.
pub(crate) fn ttl(reserve: &Value) -> Duration {
    let ttl_ms = reserve.get("ttl_ms").and_then(Value::as_u64);
    ttl_ms.map_or(crate::definition::HOLD_TTL, Duration::from_millis)
}

fn capture_body(hold: HoldId, step: &str, attempt: Option<u32>, cost: &Cost) -> Value {
    let of = match attempt {
        Some(attempt) => format!("saga step {step}, try {attempt}, which failed"),
        None => format!("saga step {step}"),
    };
    let reason = match &cost.reason {
        Some(reason) => format!("{of}: {}", printable(reason)),
        None => of,
    };
    let mut body = json!({"hold": hold, "amount": cost.amount.to_string(), "final": false, "reason": reason});
    if let Some(usage) = &cost.usage {
        body["usage"] = usage.clone();
    }
    body
}

/// A text as the ledger takes it in a reason; a charge must not fail for its reason.
fn printable(text: &str) -> String {
    let wrong = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}');
    text.chars().map(|c| if wrong(c) { ' ' } else { c }).take(REASON_MAX_CHARS).collect()
}

fn problem(outcome: &Outcome) -> String {
    let code = outcome.code.as_deref().unwrap_or_default();
    format!("{code}: {}", outcome.detail.as_deref().unwrap_or_default())
}

fn amount(outcome: &Outcome) -> String {
    outcome.amount.clone().unwrap_or_else(|| "0".to_owned())
}

fn is_ended(code: &str) -> bool {
    matches!(code, "hold_settled" | "hold_released" | "hold_expired" | "hold_not_found")
}

fn capture_id(saga: &SagaKey, issuer: &Issuer, step: &str, attempt: Option<u32>) -> CommandId {
    match attempt {
        Some(attempt) => saga.attempt_capture_id(issuer, step, attempt),
        None => saga.capture_id(issuer, step),
    }
}

impl Money {
    pub(crate) fn new(client: Client, options: &RunnerOptions) -> Self {
        Money {
            client,
            issuer: options.issuer.clone(),
            within: options.ledger_within,
            reserve_within: options.reserve_within,
        }
    }

    /// Reserves; `Err` in the result is the ledger's no, for good.
    pub(crate) async fn reserve(
        &self,
        paying: &Paying,
        body: &Value,
    ) -> Result<Result<Outcome, String>, SagaError> {
        let id = paying.saga.hold(&self.issuer);
        let outcome = self.send(id, Verb::Reserve, &paying.account, body).await?;
        Ok(if outcome.accepted() { Ok(outcome) } else { Err(problem(&outcome)) })
    }

    /// Captures what `step`, or a try at it that failed, cost, which is more than nothing.
    pub(crate) async fn capture(
        &self,
        paying: &Paying,
        step: &str,
        attempt: Option<u32>,
        cost: &Cost,
    ) -> Result<Captured, SagaError> {
        let id = capture_id(&paying.saga, &self.issuer, step, attempt);
        let body = capture_body(paying.hold, step, attempt, cost);
        let outcome = self.send_or_first(id, Verb::Capture, &paying.account, &body).await?;
        if !outcome.accepted() {
            return Ok(Captured::Rejected { problem: problem(&outcome) });
        }
        Ok(Captured::Charged { amount: amount(&outcome), late: outcome.kind == "captured_late" })
    }

    /// What `step`, or a try at it that failed, was charged, by whichever run; none when it was not.
    pub(crate) async fn charged(
        &self,
        paying: &Paying,
        step: &str,
        attempt: Option<u32>,
    ) -> Result<Option<String>, SagaError> {
        let first = self.first(capture_id(&paying.saga, &self.issuer, step, attempt)).await?;
        Ok(first.filter(Outcome::accepted).map(|outcome| amount(&outcome)))
    }

    /// What the hold, which is settled, was charged in all.
    pub(crate) async fn charged_in_all(&self, paying: &Paying) -> Result<String, SagaError> {
        let deadline = Instant::now() + PROJECTED_WITHIN;
        loop {
            match self.client.hold_state(&paying.account, paying.hold).await {
                Ok(state) if state.status != "open" => return Ok(state.captured),
                // The projections are behind.
                Ok(_) | Err(QueryError::NotFound(_)) if Instant::now() < deadline => {}
                Ok(_) => return Err(SagaError::Query("it shows a settled hold as open".to_owned())),
                Err(error) => return Err(SagaError::Query(error.to_string())),
            }
            sleep(PROJECTED_AGAIN_AFTER).await;
        }
    }

    /// Settles the hold, and answers how it was settled: an event's kind, or the code of who was first.
    pub(crate) async fn settle(&self, paying: &Paying, how: Settlement) -> Result<String, SagaError> {
        let (verb, body) = match how {
            Settlement::Capture => {
                let reason = format!("saga {} completed", paying.saga);
                (Verb::Capture, json!({"hold": paying.hold, "amount": "0", "final": true, "reason": reason}))
            }
            Settlement::Release => {
                let reason = format!("saga {} undone", paying.saga);
                (Verb::Release, json!({"hold": paying.hold, "reason": reason}))
            }
        };
        let id = paying.saga.settle_id(&self.issuer);
        let outcome = self.send_or_first(id, verb, &paying.account, &body).await?;
        if let Some(code) = &outcome.code
            && !is_ended(code)
        {
            let detail = outcome.detail.as_deref();
            tracing::error!(saga = %paying.saga, code, detail, "the hold of a saga cannot be settled");
        }
        if outcome.code.as_deref() == Some(EXPIRED) {
            self.close(paying).await?;
        }
        Ok(outcome.code.unwrap_or(outcome.kind))
    }

    /// Settles a hold that has expired, so that it takes no late capture any more. Whether this or
    /// another capture was the one that it took is all the same.
    async fn close(&self, paying: &Paying) -> Result<(), SagaError> {
        let reason = format!("saga {} undone, after its hold had expired", paying.saga);
        let body = json!({"hold": paying.hold, "amount": "0", "final": true, "reason": reason});
        let id = paying.saga.close_id(&self.issuer);
        self.send_or_first(id, Verb::Capture, &paying.account, &body).await.map(drop)
    }

    /// How the saga itself settled its hold, if it did: the kind of the event.
    pub(crate) async fn settled(&self, paying: &Paying) -> Result<Option<String>, SagaError> {
        let first = self.first(paying.saga.settle_id(&self.issuer)).await?;
        Ok(first.filter(Outcome::accepted).map(|outcome| outcome.kind))
    }

    /// Gives back what `step`, or a try at it that failed, was charged: how much was given back, and the
    /// code when nothing was.
    pub(crate) async fn refund(
        &self,
        paying: &Paying,
        step: &str,
        attempt: Option<u32>,
    ) -> Result<(String, Option<String>), SagaError> {
        let of = capture_id(&paying.saga, &self.issuer, step, attempt);
        let body = json!({"of": of, "reason": format!("saga step {step} undone")});
        let id = match attempt {
            Some(attempt) => paying.saga.attempt_refund_id(&self.issuer, step, attempt),
            None => paying.saga.refund_id(&self.issuer, step),
        };
        let outcome = self.send_or_first(id, Verb::Refund, &paying.account, &body).await?;
        if outcome.accepted() { Ok((amount(&outcome), None)) } else { Ok(("0".to_owned(), outcome.code)) }
    }

    /// Gives the hold `ttl` from now.
    pub(crate) async fn extend(&self, paying: &Paying, ttl: Duration) -> Result<Extended, SagaError> {
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        let body = json!({"hold": paying.hold, "ttl_ms": ttl_ms});
        let within = self.within.min(EXTEND_WITHIN);
        let asked = self.ask(Uuid::now_v7(), Verb::Extend, &paying.account, &body, within, VALID_FOR).await;
        Ok(match asked {
            Err(SagaError::Ledger(error)) => Extended::Unanswered(error.to_string()),
            Err(error) => return Err(error),
            Ok(outcome) => match &outcome.code {
                None => Extended::Yes,
                Some(code) if is_ended(code) => Extended::Ended(code.clone()),
                Some(_) => Extended::NotNow(problem(&outcome)),
            },
        })
    }

    /// The outcome of a command; of the first one under its id, where that said something else.
    async fn send_or_first(
        &self,
        id: CommandId,
        verb: Verb,
        account: &str,
        body: &Value,
    ) -> Result<Outcome, SagaError> {
        let outcome = self.send(id, verb, account, body).await?;
        if outcome.code.as_deref() != Some(CONFLICT) {
            return Ok(outcome);
        }
        tracing::warn!(%id, account, "a saga's command was decided before, and said something else then");
        let first = self.first(id).await?;
        first.ok_or_else(|| {
            SagaError::Query(format!("command {id} is in conflict with one that is not there"))
        })
    }

    async fn send(
        &self,
        id: CommandId,
        verb: Verb,
        account: &str,
        body: &Value,
    ) -> Result<Outcome, SagaError> {
        let valid_for = if verb == Verb::Reserve { self.reserve_within } else { VALID_FOR };
        self.ask(id, verb, account, body, self.within, valid_for).await
    }

    async fn ask(
        &self,
        id: CommandId,
        verb: Verb,
        account: &str,
        body: &Value,
        within: Duration,
        valid_for: Duration,
    ) -> Result<Outcome, SagaError> {
        let body = to_raw_value(body)?;
        Ok(self.client.send(Request { id, verb, account, body: &body, within, valid_for }).await?)
    }

    /// The stored outcome of a command of this service, if it was decided.
    async fn first(&self, id: CommandId) -> Result<Option<Outcome>, SagaError> {
        self.client.decided(id).await.map_err(|error| SagaError::Query(error.to_string()))
    }
}

/// Whether there is anything to capture.
pub(crate) fn is_charge(cost: &Cost) -> bool {
    !Sum::of(&cost.amount.to_string()).is_zero()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> SagaKey {
        SagaKey::new("book", "7").expect("legal")
    }

    #[test]
    fn the_reserve_names_the_saga_in_the_ledger() {
        let amount = "1.5".parse().expect("an amount");
        let body = reserve_body(&key(), &Estimate { ttl: Duration::from_secs(60), ..Estimate::new(amount) });
        let expected = json!({
            "amount": "1.5", "job_id": "book/7", "saga": "book/7", "ttl_ms": 60_000, "overage": "draw",
        });
        assert_eq!(body, expected);
        assert_eq!(ttl(&body), Duration::from_secs(60));
    }

    #[test]
    fn a_reason_that_cannot_be_printed_does_not_spoil_a_capture() {
        let cost =
            Cost { reason: Some("two\nlines".to_owned()), ..Cost::of("0.1".parse().expect("an amount")) };
        let body = capture_body(HoldId::nil(), "plan", None, &cost);
        assert_eq!(body["reason"], "saga step plan: two lines");
        let body = capture_body(HoldId::nil(), "plan", Some(2), &cost);
        assert_eq!(body["reason"], "saga step plan, try 2, which failed: two lines");
        assert_eq!(body["final"], false);
    }

    #[test]
    fn the_bodies_are_what_the_ledger_reads() {
        let issuer = Issuer::new("backend").expect("legal");
        let read = |verb, body: &Value| {
            let json = body.to_string();
            holdfast_core::Intent::parse(verb, json.as_bytes(), &issuer, Uuid::nil())
        };
        let amount = "0.1".parse().expect("an amount");
        let reserve = read(Verb::Reserve, &reserve_body(&key(), &Estimate::new(amount))).expect("a reserve");
        assert_eq!(reserve.hold(), Some(key().hold(&issuer)));
        let capture = capture_body(key().hold(&issuer), "plan", None, &Cost::of(amount));
        assert_eq!(read(Verb::Capture, &capture).expect("a capture").hold(), reserve.hold());
    }
}
