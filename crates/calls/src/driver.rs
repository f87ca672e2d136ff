//! The driver: takes every capture and release to its outcome, however long that takes.
//!
//! **Shape.** One task. [`crate::desk::Desk`] hands it [`Order`]s whose row is in the journal;
//! each is sent with the same id and the same body until an outcome comes. The outcome goes into
//! the journal and to whoever still waits for it.
//!
//! **Correctness.** An outcome is an end, and so is a rejection: `hold_settled` says that the hold was
//! charged, `hold_expired` and `hold_released` that it cannot be any more. But [`LEAVES_IT_OPEN`]:
//! after those the call would be free, so what is held is captured instead, as another command.
//! What ends a hold ends it once in the ledger, so a repeat after a crash, or by another program,
//! charges nobody twice. A capture in part ends nothing: with its outcome the row goes on, and what waited for it is done.
//! The task lives until nobody can hand it anything and everything has an outcome, or until it is
//! stopped; then the journal has the rest.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use holdfast_client::{Client, ClientError, Request};
use holdfast_core::body::Capture;
use holdfast_core::text::Text;
use holdfast_core::{AccountId, CommandId, HoldId, Tokens, UsageSource, Verb};
use holdfast_protocol::Outcome;
use serde_json::value::RawValue;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::sleep;
use uuid::Uuid;

use crate::journal::{Ending, Journal, JournalError};
use crate::options::RetryPolicy;

/// How long one attempt waits. The client publishes again every two seconds within it.
const WITHIN: Duration = Duration::from_secs(10);
/// How long an attempt is valid. Captures and releases land however late; this bounds only what
/// the ledger says about the age of a message.
const VALID_FOR: Duration = Duration::from_secs(24 * 60 * 60);
/// Between attempts that got no answer. The ledger's own recovery takes seconds.
const BACKOFF: RetryPolicy =
    RetryPolicy { attempts: u32::MAX, pause: Duration::from_millis(500), pause_max: Duration::from_secs(30) };

/// The capture is of more than is held, and the hold's overage policy is `reject`.
const EXCEEDS_HOLD: &str = "exceeds_hold";
/// The rejections of a capture that do not end the hold.
const LEAVES_IT_OPEN: [&str; 3] = [EXCEEDS_HOLD, "price_mismatch", "balance_overflow"];

/// Why there is no outcome, and never will be.
#[derive(Debug, Clone)]
pub(crate) enum Unsent {
    /// The command cannot be signed or is too large.
    Unsendable(String),
    /// The journal did not take it.
    Unwritten(JournalError),
}

/// What became of an order.
pub(crate) type Result = std::result::Result<Box<Outcome>, Unsent>;

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
    let mut left = Some(order);
    while let Some(order) = left {
        let result = outcome_of(&client, &permits, &order).await;
        left = conclude(&journal, order, result).await;
    }
}

/// Finishes the order, or says what is to be sent in its place: after a rejection that left the hold
/// open, the capture of all that is held. It is in the journal when this returns.
async fn conclude(journal: &Journal, order: Order, result: Result) -> Option<Order> {
    let Some((ending, code, detail)) = otherwise(&order, &result) else {
        finish(journal, order, result);
        return None;
    };
    let (hold, id, account) = (order.hold, order.id, &order.account);
    if code == EXCEEDS_HOLD {
        tracing::warn!(%hold, %id, %account, code, detail, "a call cost more than is held; all that is held is captured");
    } else {
        tracing::error!(%hold, %id, %account, code, detail, "a capture was rejected; all that is held is captured");
    }
    if let Err(error) = journal.settling_otherwise(hold, id, &ending).await {
        // Sent all the same, like every settlement: recovered, the row leads to another of its kind.
        tracing::error!(%hold, %error, "a settlement was not written to the journal");
    }
    let Ending { verb, id, body } = ending;
    Some(Order { verb, id, body, ..order })
}

/// What is captured in place of a capture that did not end the hold, with the code of its rejection
/// and what that says. One of all that is held has nothing in its place.
fn otherwise<'a>(order: &Order, result: &'a Result) -> Option<(Ending, &'static str, &'a str)> {
    let outcome = result.as_ref().ok().filter(|_| order.part.is_none() && order.verb == Verb::Capture)?;
    let code = outcome.code.as_deref()?;
    let code = LEAVES_IT_OPEN.into_iter().find(|open| *open == code)?;
    let capture: Capture = serde_json::from_str(&order.body).ok()?;
    capture.amount?;
    // Without an amount it is all that is held; without usage there is no price to be checked.
    let capture = Capture { amount: None, usage: None, reason: Some(Text::literal(code)), ..capture };
    let body = serde_json::to_string(&capture).expect("a body is plain values");
    let ending = Ending { verb: Verb::Capture, id: Uuid::now_v7(), body };
    Some((ending, code, outcome.detail.as_deref().unwrap_or_default()))
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
        Err(Unsent::Unsendable(error)) => {
            tracing::error!(%hold, %id, %account, verb = %order.verb, error, "a settlement cannot be sent");
        }
        Err(Unsent::Unwritten(error)) => {
            tracing::error!(%hold, %id, %account, verb = %order.verb, %error, "a settlement was not written to the journal");
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
        Err(Unsent::Unsendable(error)) => serde_json::json!({ "error": error }).to_string(),
        Err(Unsent::Unwritten(error)) => serde_json::json!({ "error": error.to_string() }).to_string(),
    }
}

/// Sends the command until there is an outcome.
async fn outcome_of(client: &Client, permits: &Semaphore, order: &Order) -> Result {
    let body =
        RawValue::from_string(order.body.clone()).map_err(|error| Unsent::Unsendable(error.to_string()))?;
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
                return Err(Unsent::Unsendable(error.to_string()));
            }
        }
        let (hold, id) = (order.hold, order.id);
        tracing::warn!(%hold, %id, attempt, "no outcome of a settlement yet; it is sent again");
        sleep(BACKOFF.pause_after(attempt)).await;
        attempt = attempt.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::State;
    use crate::journal::testing::Folder;
    use crate::plan::Charge;
    use crate::plan::testing::{plan, reserve_body, tokens};

    fn rejected(order: &Order, code: &str) -> Result {
        let outcome = serde_json::json!({
            "id": order.id, "kind": "rejected", "account": "user-1", "replayed": false, "code": code,
        });
        Ok(serde_json::from_value(outcome).expect("an outcome"))
    }

    #[tokio::test]
    async fn a_rejection_that_leaves_the_hold_open_leads_to_a_capture_of_all_that_is_held() {
        let cases = [
            ("exceeds_hold", true),
            ("price_mismatch", true),
            ("balance_overflow", true),
            ("hold_settled", false),
            ("hold_expired", false),
        ];
        for (code, leaves_it_open) in cases {
            let (folder, plan) = (Folder::new(), plan());
            let journal = Journal::open(&folder.file()).await.expect("opened");
            let (hold, account) = (plan.hold, plan.account.clone());
            journal
                .reserving(hold, account.to_string(), plan.reserve_id, reserve_body(&plan))
                .await
                .expect("written");
            let (used, source) = (tokens(r#"{"input":1,"output":9000}"#), UsageSource::Reported);
            let ending = plan.capture(&Charge { tokens: used, source, reason: "completed" }, plan.estimate());
            journal.settling(hold, plan.reserve_id, &ending, |_| {});
            let Ending { verb, id, body } = ending;
            let (reply, mut told) = oneshot::channel();
            let order = Order { hold, account, verb, id, body, part: None, reply: Some(reply) };
            let result = rejected(&order, code);
            let next = conclude(&journal, order, result).await;
            let row = journal.row(hold).await.expect("read").expect("there");
            let Some(next) = next else {
                assert_eq!((leaves_it_open, row.state), (false, State::Ended), "{code}");
                continue;
            };
            assert!(leaves_it_open, "{code}");
            let wanted = format!(r#"{{"hold":"{hold}","reason":"{code}"}}"#);
            assert_eq!((next.verb, &next.body), (Verb::Capture, &wanted), "{code}");
            assert_ne!(next.id, id, "{code}");
            assert_eq!((row.state, row.settle_id), (State::Settling, Some(next.id.to_string())), "{code}");
            assert_eq!(row.settle_body, Some(wanted), "{code}");
            assert!(told.try_recv().is_err(), "{code}: whoever waits is told the end");
            // There is nothing in place of that.
            let result = rejected(&next, code);
            assert!(conclude(&journal, next, result).await.is_none(), "{code}");
            assert!(told.try_recv().is_ok(), "{code}");
            let row = journal.row(hold).await.expect("read").expect("there");
            assert_eq!(row.state, State::Ended, "{code}");
        }
    }

    #[tokio::test]
    async fn neither_a_part_nor_a_release_has_anything_in_its_place() {
        let plan = plan();
        let (used, source) = (tokens(r#"{"output":1}"#), UsageSource::Reported);
        let part = plan.part(&Charge { tokens: used.clone(), source, reason: "part" });
        let part = part.expect("priced").expect("a command");
        for (ending, part) in [(part, Some(Part::new(used, source))), (plan.release("not_dispatched"), None)]
        {
            let (Ending { verb, id, body }, account) = (ending, plan.account.clone());
            let order = Order { hold: plan.hold, account, verb, id, body, part, reply: None };
            assert!(otherwise(&order, &rejected(&order, EXCEEDS_HOLD)).is_none(), "{verb}");
        }
    }
}
