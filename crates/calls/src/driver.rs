//! The driver: takes every capture and release to its outcome, however long that takes.
//!
//! **Shape.** One task. [`crate::desk::Desk`] hands it [`Order`]s whose row is in the journal;
//! each is sent with the same id and the same body until an outcome comes. The outcome goes into
//! the journal and to whoever still waits for it.
//!
//! **Correctness.** Every outcome is an end, a rejection too: `hold_settled` says that the hold was
//! charged, `hold_expired` and `hold_released` that it cannot be any more. What ends a hold ends it
//! once in the ledger, so a repeat after a crash, or by another program, charges nobody twice. A
//! capture in part ends nothing: with its outcome the row goes on, and what waited for it is done.
//! The task lives until nobody can hand it anything and everything has an outcome, or until it is
//! stopped; then the journal has the rest.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use holdfast_client::{Client, ClientError, Request};
use holdfast_core::{AccountId, CommandId, HoldId, Tokens, UsageSource, Verb};
use holdfast_protocol::Outcome;
use serde_json::value::RawValue;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::journal::Journal;
use crate::options::RetryPolicy;

/// How long one attempt waits. The client publishes again every two seconds within it.
const WITHIN: Duration = Duration::from_secs(10);
/// How long an attempt is valid. Captures and releases land however late; this bounds only what
/// the ledger says about the age of a message.
const VALID_FOR: Duration = Duration::from_secs(24 * 60 * 60);
/// Between attempts that got no answer. The ledger's own recovery takes seconds.
const BACKOFF: RetryPolicy =
    RetryPolicy { attempts: u32::MAX, pause: Duration::from_millis(500), pause_max: Duration::from_secs(30) };

/// Why there is no outcome, and never will be.
#[derive(Debug, Clone)]
pub(crate) struct Unsendable(pub(crate) String);

/// What became of an order.
pub(crate) type Result = std::result::Result<Box<Outcome>, Unsendable>;

/// A command to be taken to its outcome.
pub(crate) struct Order {
    pub(crate) hold: HoldId,
    pub(crate) account: AccountId,
    pub(crate) verb: Verb,
    pub(crate) id: CommandId,
    pub(crate) body: String,
    /// Set where it does not end the hold.
    pub(crate) part: Option<Arc<Part>>,
    /// Who waits for it, perhaps.
    pub(crate) reply: Option<oneshot::Sender<Result>>,
}

/// What is done once it is known whether a part was charged.
type Next = Box<dyn FnOnce(bool) + Send>;

/// A capture in part on its way. What settles the hold for good must wait for it: the ledger would
/// reject a part that comes after that.
pub(crate) struct Part {
    /// What it charges.
    pub(crate) tokens: Tokens,
    pub(crate) source: UsageSource,
    then: Mutex<Then>,
}

enum Then {
    /// Nobody waits.
    Nothing,
    Do(Next),
    /// It has its outcome: whether it was charged.
    Known(bool),
}

impl Part {
    pub(crate) fn new(tokens: Tokens, source: UsageSource) -> Arc<Self> {
        Arc::new(Part { tokens, source, then: Mutex::new(Then::Nothing) })
    }

    /// Does `next` when it has its outcome, which may be now.
    pub(crate) fn then(&self, next: impl FnOnce(bool) + Send + 'static) {
        let mut then = self.then.lock().unwrap_or_else(PoisonError::into_inner);
        if let Then::Known(charged) = *then {
            drop(then);
            next(charged);
        } else {
            *then = Then::Do(Box::new(next));
        }
    }

    fn known(&self, charged: bool) {
        let mut then = self.then.lock().unwrap_or_else(PoisonError::into_inner);
        let next = std::mem::replace(&mut *then, Then::Known(charged));
        drop(then);
        if let Then::Do(next) = next {
            next(charged);
        }
    }
}

/// Takes orders to their outcomes until there can be no more of them.
pub(crate) async fn drive(
    client: Client,
    journal: Journal,
    mut orders: mpsc::UnboundedReceiver<Order>,
    concurrency: usize,
) {
    let permits = Arc::new(Semaphore::new(concurrency.clamp(1, Semaphore::MAX_PERMITS)));
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            order = orders.recv() => match order {
                Some(order) => {
                    running.spawn(carry_out(client.clone(), journal.clone(), Arc::clone(&permits), order));
                }
                None => break,
            },
            Some(_) = running.join_next(), if !running.is_empty() => {}
        }
    }
    while running.join_next().await.is_some() {}
}

async fn carry_out(client: Client, journal: Journal, permits: Arc<Semaphore>, order: Order) {
    let result = outcome_of(&client, &permits, &order).await;
    finish(&journal, order, result);
}

/// Writes the outcome down, and tells everybody.
pub(crate) fn finish(journal: &Journal, order: Order, result: Result) {
    let how = match &result {
        Ok(outcome) => outcome.code.as_ref().unwrap_or(&outcome.kind).clone(),
        Err(_) => "unsendable".to_owned(),
    };
    let (hold, id, account) = (order.hold, order.id, &order.account);
    match &result {
        Ok(outcome) if outcome.accepted() => tracing::debug!(%hold, %id, %how, "a call was settled"),
        Ok(outcome) => {
            let detail = outcome.detail.as_deref().unwrap_or_default();
            tracing::warn!(%hold, %id, %account, verb = %order.verb, code = %how, detail, "a settlement was rejected");
        }
        Err(Unsendable(error)) => {
            tracing::error!(%hold, %id, %account, verb = %order.verb, error, "a settlement cannot be sent");
        }
    }
    let Some(part) = order.part else {
        metrics::counter!("holdfast_calls_settled_total", "how" => how).increment(1);
        // Before the reply, so that whoever was told finds the row ended.
        journal.ended(hold, ending_of(&result));
        reply(order.reply, result);
        return;
    };
    let charged = result.as_ref().is_ok_and(|outcome| outcome.accepted());
    journal.parted(hold, id, (!charged).then(|| (part.tokens.clone(), part.source)));
    reply(order.reply, result);
    part.known(charged);
}

fn reply(waiting: Option<oneshot::Sender<Result>>, result: Result) {
    if let Some(waiting) = waiting {
        let _ = waiting.send(result);
    }
}

/// What the journal keeps of it.
fn ending_of(result: &Result) -> String {
    match result {
        Ok(outcome) => serde_json::to_string(outcome).expect("an outcome is plain values"),
        Err(Unsendable(error)) => serde_json::json!({ "error": error }).to_string(),
    }
}

/// Sends the command until there is an outcome.
async fn outcome_of(client: &Client, permits: &Semaphore, order: &Order) -> Result {
    let body = RawValue::from_string(order.body.clone()).map_err(|error| Unsendable(error.to_string()))?;
    let mut attempt = 0_u32;
    loop {
        let request = Request {
            id: order.id,
            verb: order.verb,
            account: order.account.as_str(),
            body: &body,
            within: WITHIN,
            valid_for: VALID_FOR,
        };
        // Not held while it pauses: the pauses of an outage must not use up the places.
        let permit = permits.acquire().await;
        let sent = client.send(request).await;
        drop(permit);
        match sent {
            Ok(outcome) => return Ok(Box::new(outcome)),
            Err(ClientError::Unavailable { .. } | ClientError::Connect(_)) => {}
            Err(error @ (ClientError::TooLarge { .. } | ClientError::Body(_))) => {
                return Err(Unsendable(error.to_string()));
            }
        }
        let (hold, id) = (order.hold, order.id);
        tracing::warn!(%hold, %id, attempt, "no outcome of a settlement yet; it is sent again");
        sleep(BACKOFF.pause_after(attempt)).await;
        attempt = attempt.saturating_add(1);
    }
}
