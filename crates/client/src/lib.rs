//! The client: sends a signed command and waits for its signed outcome.
//!
//! **Shape.** One [`Client`] per process and issuer: it has one subscription for all its outcomes
//! and gives each to the caller that waits for it. Commands that callers send at the same moment leave
//! together, each signed by itself.
//!
//! **Correctness.** An acknowledgement of the bus means "accepted for delivery" and is not waited
//! for; only the outcome counts. Until it comes, the same bytes under the same id are published
//! again, now by themselves, which the ledger answers with the same outcome. An outcome whose signature
//! does not hold is dropped. [`ClientError::Unavailable`] carries the id: the command may still be decided.

pub mod nats;
mod outbox;
pub mod query;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::{ConnectOptions, Message};
use bytes::Bytes;
use futures_util::StreamExt;
use holdfast_core::chain::fingerprint;
use holdfast_core::{CommandId, Issuer, Timestamp, Verb};
use holdfast_protocol::bundle::Outgoing;
use holdfast_protocol::envelope::ENVELOPE_MAX_BYTES;
use holdfast_protocol::outcome::{Answer, FINGERPRINT_HEADER, SIGNATURE_HEADER, signature_holds};
use holdfast_protocol::subject::GATHERING;
use holdfast_protocol::token::hex;
use holdfast_protocol::{ClientKeys, Draft, Outcome, subject};
use serde_json::value::RawValue;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use crate::outbox::Outbox;

/// How long to wait for an outcome before the command is published again.
const RETRY_AFTER: Duration = Duration::from_secs(2);
/// Outcomes that may wait to be given out; beyond it the connection drops them, and callers retry.
const OUTCOMES_MAX: usize = 65_536;

/// How to reach the ledger.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// The bus, with user and password.
    pub nats_url: String,
    /// The service's keys.
    pub keys: ClientKeys,
    /// The deployment.
    pub audience: String,
}

/// Why there is no outcome.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The bus cannot be reached at all.
    #[error("NATS: {0}")]
    Connect(String),
    /// No outcome came in time. The command may have been decided, or may still be: ask again
    /// with the same id and the same body.
    #[error("no outcome of command {id} came in time; ask again with the same id")]
    Unavailable {
        /// The command.
        id: CommandId,
    },
    /// The signed envelope would be larger than the ledger reads; nothing was sent.
    #[error("the signed command has {bytes} bytes, at most {ENVELOPE_MAX_BYTES} are read")]
    TooLarge {
        /// How large it would be.
        bytes: usize,
    },
    /// The body is not JSON.
    #[error("the body cannot be written as JSON: {0}")]
    Body(#[from] serde_json::Error),
}

/// A command to be sent.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// The id: a new one for a new attempt, the same for the same.
    pub id: CommandId,
    /// The verb.
    pub verb: Verb,
    /// The account.
    pub account: &'a str,
    /// The body: JSON, sent to the byte.
    pub body: &'a RawValue,
    /// How long to wait for the outcome.
    pub within: Duration,
    /// For how long the command is worth deciding, where that matters (`exp`). A caller who will
    /// come back with the same id wants longer than it waits now.
    pub valid_for: Duration,
}

type Waiters = Mutex<HashMap<CommandId, Vec<Waiter>>>;

/// Somebody who waits for the outcome of one command.
struct Waiter {
    /// In hexadecimal, as the header of the outcome has it.
    fingerprint: String,
    outcome: oneshot::Sender<Outcome>,
}

/// A connection to the ledger. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    nats: async_nats::Client,
    options: Arc<ClientOptions>,
    instance: Arc<str>,
    waiters: Arc<Waiters>,
    outbox: Arc<Outbox>,
    _outcomes: Arc<Outcomes>,
}

/// The task that gives outcomes out; it ends, and with it the connection, with the last client.
struct Outcomes(AbortHandle);

impl Drop for Outcomes {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Client {
    /// Connects and subscribes to this instance's outcomes.
    pub async fn connect(options: ClientOptions) -> Result<Self, ClientError> {
        let issuer = options.keys.issuer.clone();
        let name = format!("holdfast client {issuer}");
        let connect = ConnectOptions::new().subscription_capacity(OUTCOMES_MAX);
        let nats = nats::connect(&options.nats_url, &name, connect).await.map_err(ClientError::Connect)?;
        let instance: Arc<str> = format!("{GATHERING}{}", Uuid::new_v4().simple()).into();
        let subject = subject::outcomes(issuer.as_str(), &instance);
        let outcomes = nats.subscribe(subject).await;
        let mut outcomes = outcomes.map_err(|error| ClientError::Connect(error.to_string()))?;
        let (options, waiters) = (Arc::new(options), Arc::<Waiters>::default());
        let (waiting, keys) = (Arc::clone(&waiters), options.keys.clone());
        let task = tokio::spawn(async move {
            while let Some(message) = outcomes.next().await {
                deliver(&waiting, &keys, &message);
            }
        });
        let outcomes = Arc::new(Outcomes(task.abort_handle()));
        let outbox = Arc::new(Outbox::start(nats.clone()));
        Ok(Client { nats, options, instance, waiters, outbox, _outcomes: outcomes })
    }

    /// Sends a command and waits for its outcome, whatever that is.
    ///
    /// # Errors
    /// [`ClientError::Unavailable`] when none came within `request.within`.
    pub async fn send(&self, request: Request<'_>) -> Result<Outcome, ClientError> {
        let draft = self.draft(&request, &self.instance);
        let (subject, payload) = (draft.subject(&self.options.keys.issuer), self.sign(&draft));
        if payload.len() > ENVELOPE_MAX_BYTES {
            return Err(ClientError::TooLarge { bytes: payload.len() });
        }
        let said = fingerprint(request.verb.as_str(), request.account, request.body.get().as_bytes());
        let waiting = self.wait_for(request.id, hex(&said));
        let mut outcome = waiting.outcome;
        let deadline = Instant::now() + request.within;
        let mut first = true;
        loop {
            // A publish that fails is as good as one that was lost: the next round repeats it. Not in a
            // bundle, which an older ledger does not read, and whatever was wrong with the first.
            let round = deadline.min(Instant::now() + RETRY_AFTER);
            let (subject, payload) = (subject.clone(), payload.clone());
            if std::mem::take(&mut first) {
                let _ = timeout_at(round, self.outbox.put(Outgoing { subject, payload })).await;
            } else {
                let _ = timeout_at(round, self.nats.publish(subject, payload)).await;
            }
            match timeout_at(round, &mut outcome).await {
                Ok(Ok(outcome)) => return Ok(outcome),
                Ok(Err(_)) => return Err(ClientError::Unavailable { id: request.id }),
                Err(_) if Instant::now() >= deadline => {
                    return Err(ClientError::Unavailable { id: request.id });
                }
                Err(_) => {}
            }
        }
    }

    /// The subject and signed bytes of a command, as `nats pub` would take them; nobody waits.
    #[must_use]
    pub fn signed(&self, request: &Request<'_>) -> (String, Bytes) {
        signed(&self.options, request)
    }

    /// The service that it speaks for.
    #[must_use]
    pub fn issuer(&self) -> &Issuer {
        &self.options.keys.issuer
    }

    /// The connection, for queries of the ledger's services.
    #[must_use]
    pub fn nats(&self) -> &async_nats::Client {
        &self.nats
    }

    fn draft<'a>(&'a self, request: &Request<'a>, reply: &'a str) -> Draft<'a> {
        draft(&self.options, request, reply)
    }

    fn sign(&self, draft: &Draft<'_>) -> Bytes {
        draft.sign(&self.options.keys).into()
    }

    fn wait_for(&self, id: CommandId, fingerprint: String) -> Waiting {
        let (sender, outcome) = oneshot::channel();
        let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        waiters.entry(id).or_default().push(Waiter { fingerprint, outcome: sender });
        drop(waiters);
        Waiting { outcome, _entry: Entry { id, waiters: Arc::clone(&self.waiters) } }
    }
}

/// The subject and signed bytes of a command that nobody waits for; needs no connection.
#[must_use]
pub fn signed(options: &ClientOptions, request: &Request<'_>) -> (String, Bytes) {
    let draft = draft(options, request, "");
    (draft.subject(&options.keys.issuer), draft.sign(&options.keys).into())
}

fn draft<'a>(options: &'a ClientOptions, request: &Request<'a>, reply: &'a str) -> Draft<'a> {
    let now = Timestamp::from_millis(now_millis());
    let valid_ms = u64::try_from(request.valid_for.as_millis()).unwrap_or(u64::MAX);
    Draft {
        id: request.id,
        audience: &options.audience,
        verb: request.verb.as_str(),
        account: request.account,
        reply,
        issued_at: now,
        expires_at: now.plus_millis(valid_ms),
        body: request.body,
    }
}

fn now_millis() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Gives an outcome to everybody who waits for it, if it is authentic. Who sent another command
/// under the same id waits for another outcome.
fn deliver(waiters: &Waiters, keys: &ClientKeys, message: &Message) {
    let header = |name| message.headers.as_ref()?.get(name).map(|value| value.as_str());
    let authentic = header(SIGNATURE_HEADER)
        .is_some_and(|header| signature_holds(&keys.outcome, &message.subject, &message.payload, header));
    if !authentic {
        tracing::warn!(subject = %message.subject, "an outcome that the ledger did not sign was dropped");
        return;
    }
    let answers = match read(&message.payload, header(FINGERPRINT_HEADER)) {
        Ok(answers) => answers,
        Err(error) => {
            tracing::warn!(subject = %message.subject, %error, "an outcome that cannot be read was dropped");
            return;
        }
    };
    let mut waiters = waiters.lock().unwrap_or_else(PoisonError::into_inner);
    for Answer { fingerprint, outcome } in answers {
        let Some(waiting) = waiters.get_mut(&outcome.id) else { continue };
        for waiter in waiting.extract_if(.., |waiter| waiter.fingerprint == fingerprint) {
            let _ = waiter.outcome.send(outcome.clone());
        }
    }
}

/// What a message tells. A ledger that does not gather yet tells an outcome alone, with its fingerprint
/// in a header.
fn read(payload: &[u8], fingerprint: Option<&str>) -> serde_json::Result<Vec<Answer>> {
    if payload.first() == Some(&b'[') {
        return serde_json::from_slice(payload);
    }
    let (fingerprint, outcome) =
        (fingerprint.unwrap_or_default().to_owned(), serde_json::from_slice(payload)?);
    Ok(vec![Answer { fingerprint, outcome }])
}

/// One caller's place among those who wait.
struct Waiting {
    outcome: oneshot::Receiver<Outcome>,
    _entry: Entry,
}

/// Leaves when the caller does, so that nobody waits for ever for those who left.
struct Entry {
    id: CommandId,
    waiters: Arc<Waiters>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waiting) = waiters.get_mut(&self.id) {
            waiting.retain(|waiter| !waiter.outcome.is_closed());
            if waiting.is_empty() {
                waiters.remove(&self.id);
            }
        }
    }
}
