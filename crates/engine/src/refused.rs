//! The record of what was passed over in silence, or set aside.
//!
//! A forger can send as fast as the network carries, so records of what was passed over are
//! limited; the counter of each reason is not. A command that was set aside stands in the log as well.

use std::time::{Duration, Instant};

use async_nats::{Client, jetstream};
use holdfast_core::{AccountId, HoldId};
use holdfast_protocol::subject;
use holdfast_protocol::token::hex;
use holdfast_protocol::verify::Silent;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use crate::intake::Delivery;

/// At most so many records of silence a second.
const RECORDS_PER_SECOND: u32 = 10;
/// Beyond this many waiting records, new ones are only counted.
const QUEUE_MAX: usize = 256;

struct Notice {
    subject: String,
    payload: Vec<u8>,
}

/// Publishes to `LEDGER_REFUSED` without ever holding the lane up.
pub(crate) struct Refused {
    queue: mpsc::Sender<Notice>,
    window: Instant,
    in_window: u32,
}

impl Refused {
    /// Starts the publishing task; it ends when this is dropped.
    pub(crate) fn start(client: Client) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE_MAX);
        tokio::spawn(publish(client, waiting));
        Refused { queue, window: Instant::now(), in_window: 0 }
    }

    /// A message was passed over, or an envelope of a bundle.
    pub(crate) fn silent(&mut self, reason: Silent, delivery: &Delivery, carried: &[u8]) {
        metrics::counter!("holdfast_refused_total", "reason" => reason.as_str()).increment(1);
        if self.window.elapsed() >= Duration::from_secs(1) {
            (self.window, self.in_window) = (Instant::now(), 0);
        }
        self.in_window += 1;
        if self.in_window > RECORDS_PER_SECOND {
            return;
        }
        let record = serde_json::json!({
            "reason": reason.as_str(),
            "sequence": delivery.sequence,
            "bytes": carried.len(),
            "sha256": hex(&Sha256::digest(carried)),
        });
        self.notice(reason.as_str(), record.to_string().into_bytes());
    }

    /// A command was set aside: its envelope is kept for people to look at.
    pub(crate) fn quarantined(&mut self, problem: &str, delivery: &Delivery, carried: &[u8]) {
        metrics::counter!("holdfast_quarantined_total").increment(1);
        tracing::error!(
            sequence = delivery.sequence,
            problem,
            "a command was set aside; look at LEDGER_REFUSED"
        );
        self.notice("quarantined", carried.to_vec());
    }

    /// A hold's time came and could not be acted on: its money stays held until somebody releases
    /// or captures it.
    pub(crate) fn stuck(&mut self, problem: &str, account: &AccountId, hold: HoldId) {
        metrics::counter!("holdfast_quarantined_total").increment(1);
        tracing::error!(%account, %hold, problem, "a hold could not expire; release or capture it by hand");
        let record = serde_json::json!({ "account": account, "hold": hold, "problem": problem });
        self.notice("stuck_hold", record.to_string().into_bytes());
    }

    fn notice(&self, reason: &str, payload: Vec<u8>) {
        let _ = self.queue.try_send(Notice { subject: subject::refused(reason), payload });
    }
}

async fn publish(client: Client, mut waiting: mpsc::Receiver<Notice>) {
    let jetstream = jetstream::new(client);
    while let Some(notice) = waiting.recv().await {
        let published = async { jetstream.publish(notice.subject, notice.payload.into()).await?.await };
        if let Err(error) = published.await {
            tracing::warn!(%error, "a record of a refused message was not stored");
        }
    }
}
