//! Commands and batches as a service sends them, without a client's help.

use anyhow::{Context, Result, ensure};
use async_nats::Message;
use futures_util::StreamExt;
use holdfast_core::Timestamp;
use holdfast_protocol::bundle::Outgoing;
use holdfast_protocol::envelope::BATCH;
use holdfast_protocol::outcome::{SIGNATURE_HEADER, signature_holds};
use holdfast_protocol::{ClientKeys, Draft, Outcome, subject};
use holdfast_testkit::tenant::Tenant;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{AUDIENCE, SOON, keys};

const INSTANCE: &str = "batch-test";

/// Publishes as an instance of `backend` and reads what it is told.
pub struct Publisher {
    nats: async_nats::Client,
    outcomes: async_nats::Subscriber,
    keys: ClientKeys,
    instance: String,
}

impl Publisher {
    /// Connects and listens.
    pub async fn new(tenant: &Tenant) -> Result<Self> {
        Publisher::named(tenant, INSTANCE).await
    }

    /// Connects and listens as the instance `instance`.
    pub async fn named(tenant: &Tenant, instance: &str) -> Result<Self> {
        let options = async_nats::ConnectOptions::new();
        let nats = holdfast_client::nats::connect(tenant.nats_url("backend"), "test", options).await;
        let nats = nats.map_err(anyhow::Error::msg)?;
        let outcomes = nats.subscribe(subject::outcomes("backend", instance)).await?;
        Ok(Publisher { nats, outcomes, keys: keys("backend")?, instance: instance.to_owned() })
    }

    /// Publishes one command and waits for nothing.
    pub async fn publish(&self, id: Uuid, verb: &str, account: &str, body: &Value) -> Result<()> {
        self.publish_message(self.signed(id, verb, account, body)?).await
    }

    /// Publishes a message as it is.
    pub async fn publish_message(&self, message: Outgoing) -> Result<()> {
        Ok(self.nats.publish(message.subject, message.payload).await?)
    }

    /// One command, signed and not published.
    pub fn signed(&self, id: Uuid, verb: &str, account: &str, body: &Value) -> Result<Outgoing> {
        let body = RawValue::from_string(body.to_string())?;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
        let now = Timestamp::from_micros(now.as_micros().try_into()?);
        let draft = Draft {
            id,
            audience: AUDIENCE,
            verb,
            account,
            reply: &self.instance,
            issued_at: now,
            expires_at: now.plus_millis(60_000),
            body: &body,
        };
        let subject = draft.subject(&self.keys.issuer);
        Ok(Outgoing { subject, payload: draft.sign(&self.keys).into() })
    }

    /// The next message to this instance, whose signature must hold.
    pub async fn told(&mut self) -> Result<Message> {
        let message = tokio::time::timeout(SOON, self.outcomes.next()).await?.context("outcomes")?;
        let header = message.headers.as_ref().and_then(|headers| headers.get(SIGNATURE_HEADER));
        let header = header.context("a signature")?.as_str();
        ensure!(signature_holds(&self.keys.outcome, &message.subject, &message.payload, header));
        Ok(message)
    }

    /// Sends `members` as a batch and waits for `expected` outcomes.
    pub async fn send(&mut self, members: &Value, expected: usize) -> Result<Vec<Outcome>> {
        self.publish(Uuid::now_v7(), BATCH, "user-1", members).await?;
        let mut told: Vec<Outcome> = Vec::new();
        while told.len() < expected {
            told.extend(serde_json::from_slice::<Vec<Outcome>>(&self.told().await?.payload)?);
        }
        Ok(told)
    }
}

/// A command within a batch.
#[must_use]
pub fn member(id: Uuid, verb: &str, account: &str, body: Value) -> Value {
    json!({ "id": id, "verb": verb, "account": account, "body": body })
}
