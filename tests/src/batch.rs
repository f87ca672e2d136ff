//! Batches as a service sends them, without a client's help.

use anyhow::{Context, Result, ensure};
use futures_util::StreamExt;
use holdfast_core::Timestamp;
use holdfast_protocol::envelope::BATCH;
use holdfast_protocol::outcome::{SIGNATURE_HEADER, signature_holds};
use holdfast_protocol::{ClientKeys, Draft, Outcome, subject};
use holdfast_testkit::tenant::Tenant;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{AUDIENCE, SOON, keys};

const INSTANCE: &str = "batch-test";

/// Publishes batches as `backend` and reads their outcomes.
pub struct Publisher {
    nats: async_nats::Client,
    outcomes: async_nats::Subscriber,
    keys: ClientKeys,
}

impl Publisher {
    /// Connects and listens.
    pub async fn new(tenant: &Tenant) -> Result<Self> {
        let options = async_nats::ConnectOptions::new();
        let nats = holdfast_client::nats::connect(tenant.nats_url("backend"), "test", options).await;
        let nats = nats.map_err(anyhow::Error::msg)?;
        let outcomes = nats.subscribe(subject::outcomes("backend", INSTANCE)).await?;
        Ok(Publisher { nats, outcomes, keys: keys("backend")? })
    }

    /// Sends `members` and waits for `expected` outcomes.
    pub async fn send(&mut self, members: &Value, expected: usize) -> Result<Vec<Outcome>> {
        let body = RawValue::from_string(members.to_string())?;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
        let now = Timestamp::from_micros(now.as_micros().try_into()?);
        let draft = Draft {
            id: Uuid::now_v7(),
            audience: AUDIENCE,
            verb: BATCH,
            account: "user-1",
            reply: INSTANCE,
            issued_at: now,
            expires_at: now.plus_millis(60_000),
            body: &body,
        };
        self.nats.publish(draft.subject(&self.keys.issuer), draft.sign(&self.keys).into()).await?;
        let mut told: Vec<Outcome> = Vec::new();
        while told.len() < expected {
            let message = tokio::time::timeout(SOON, self.outcomes.next()).await?.context("outcomes")?;
            let header = message.headers.as_ref().and_then(|headers| headers.get(SIGNATURE_HEADER));
            let header = header.context("a signature")?.as_str();
            ensure!(signature_holds(&self.keys.outcome, &message.subject, &message.payload, header));
            told.extend(serde_json::from_slice::<Vec<Outcome>>(&message.payload)?);
        }
        Ok(told)
    }
}

/// A command within a batch.
#[must_use]
pub fn member(id: Uuid, verb: &str, account: &str, body: Value) -> Value {
    json!({ "id": id, "verb": verb, "account": account, "body": body })
}
