//! Commands on the bus: signed, published, and their outcomes checked as any client would.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use async_nats::{Client, ConnectOptions, Message, Subscriber};
use futures_util::{FutureExt, StreamExt};
use holdfast_client::nats;
use holdfast_core::{CommandId, Timestamp, Verb};
use holdfast_protocol::bundle::{BUNDLE_FULL_BYTES, Outgoing, bundle};
use holdfast_protocol::envelope::BATCH;
use holdfast_protocol::outcome::{SIGNATURE_HEADER, signature_holds};
use holdfast_protocol::subject::GATHERING;
use holdfast_protocol::{ClientKeys, Draft, subject};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::deployment::{AUDIENCE, Deployment};

/// For how long a command is worth deciding.
const VALID_MS: u64 = 60_000;
/// How the subject of outcomes that are told together ends.
const GATHERED: &str = ".gathered";
/// Outcomes that may wait to be looked at.
const OUTCOMES_MAX: usize = 1 << 18;

/// A connection that commands go out by and outcomes come in by.
pub(crate) struct Bus {
    client: Client,
    outcomes: Subscriber,
    keys: ClientKeys,
    instance: String,
    /// Commands that wait to be published, and their bytes.
    waiting: Vec<Outgoing>,
    waiting_bytes: usize,
    /// Whether those leave in bundles.
    pub(crate) bundles: bool,
}

/// A command within a batch.
#[derive(Serialize)]
pub(crate) struct Member {
    pub(crate) id: CommandId,
    pub(crate) verb: Verb,
    pub(crate) account: String,
    pub(crate) body: Box<RawValue>,
}

/// What the generator needs of an outcome.
#[derive(Debug, Deserialize)]
pub(crate) struct Told {
    pub(crate) id: CommandId,
    pub(crate) kind: String,
    pub(crate) replayed: bool,
    pub(crate) code: Option<String>,
}

/// One outcome of many that are told together. The generator never uses an id twice, so that it need not
/// look whose command is answered.
#[derive(Deserialize)]
struct Answered {
    outcome: Told,
}

impl Bus {
    pub(crate) async fn connect(deployment: &Deployment) -> Result<Self> {
        let options = ConnectOptions::new().subscription_capacity(OUTCOMES_MAX).client_capacity(16_384);
        let url = deployment.stack.nats.url("backend");
        let client = nats::connect(&url, "holdfast bench", options).await.map_err(anyhow::Error::msg)?;
        let (keys, instance) = (deployment.keys()?, format!("{GATHERING}{}", Uuid::new_v4().simple()));
        let outcomes = client.subscribe(subject::outcomes(keys.issuer.as_str(), &instance)).await?;
        client.flush().await?;
        let (waiting, waiting_bytes, bundles) = (Vec::new(), 0, true);
        Ok(Bus { client, outcomes, keys, instance, waiting, waiting_bytes, bundles })
    }

    /// Signs a command with the present as its time.
    pub(crate) fn sign(&self, id: CommandId, verb: Verb, account: &str, body: String) -> Result<Outgoing> {
        self.seal(id, verb.as_str(), account, body)
    }

    /// Signs many commands at once, in one envelope.
    pub(crate) fn sign_batch(&self, members: &[Member]) -> Result<Outgoing> {
        let account = &members.first().context("a batch has a member")?.account;
        self.seal(Uuid::now_v7(), BATCH, account, serde_json::to_string(members)?)
    }

    fn seal(&self, id: CommandId, verb: &str, account: &str, body: String) -> Result<Outgoing> {
        let now = Timestamp::from_micros(micros_now());
        let body = RawValue::from_string(body)?;
        let draft = Draft {
            id,
            audience: AUDIENCE,
            verb,
            account,
            reply: &self.instance,
            issued_at: now,
            expires_at: now.plus_millis(VALID_MS),
            body: &body,
        };
        Ok(Outgoing { subject: draft.subject(&self.keys.issuer), payload: draft.sign(&self.keys).into() })
    }

    /// Publishes a message by itself.
    pub(crate) async fn publish(&self, message: Outgoing) -> Result<()> {
        Ok(self.client.publish(message.subject, message.payload).await?)
    }

    /// Publishes a command, with those that wait at the same moment: the client does no other with what
    /// its callers send. They leave when they are a message, and before anybody waits for an outcome.
    pub(crate) async fn send(&mut self, command: Outgoing) -> Result<()> {
        if !self.bundles {
            return self.publish(command).await;
        }
        self.waiting_bytes += command.payload.len() + 1;
        self.waiting.push(command);
        if self.waiting_bytes >= BUNDLE_FULL_BYTES { self.publish_waiting().await } else { Ok(()) }
    }

    async fn publish_waiting(&mut self) -> Result<()> {
        self.waiting_bytes = 0;
        for message in bundle(self.waiting.drain(..)) {
            self.client.publish(message.subject, message.payload).await?;
        }
        Ok(())
    }

    /// The outcomes of the next message; none when nothing came within `limit`.
    pub(crate) async fn outcomes(&mut self, limit: Duration) -> Result<Option<Vec<Told>>> {
        self.publish_waiting().await?;
        match tokio::time::timeout(limit, self.outcomes.next()).await {
            Ok(Some(message)) => self.read(&message).map(Some),
            Ok(None) => bail!("the subscription ended"),
            Err(_) => Ok(None),
        }
    }

    /// The outcomes that have come already.
    pub(crate) fn waiting(&mut self) -> Result<Option<Vec<Told>>> {
        match self.outcomes.next().now_or_never() {
            Some(Some(message)) => self.read(&message).map(Some),
            _ => Ok(None),
        }
    }

    /// Checks the signature and reads the outcomes.
    fn read(&self, message: &Message) -> Result<Vec<Told>> {
        let header = message.headers.as_ref().and_then(|headers| headers.get(SIGNATURE_HEADER));
        let header = header.context("an outcome without a signature")?.as_str();
        if !signature_holds(&self.keys.outcome, &message.subject, &message.payload, header) {
            bail!("an outcome whose signature does not hold");
        }
        if message.subject.ends_with(GATHERED) {
            let answers: Vec<Answered> = serde_json::from_slice(&message.payload)?;
            return Ok(answers.into_iter().map(|answer| answer.outcome).collect());
        }
        // Those of a batch.
        Ok(serde_json::from_slice(&message.payload)?)
    }
}

fn micros_now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
