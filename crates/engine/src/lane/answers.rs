//! Telling outcomes, after their commit and in order, on a connection of their own.

use std::time::Duration;

use async_nats::{Client, HeaderMap};
use holdfast_core::chain::Hash;
use holdfast_protocol::Outcome;
use holdfast_protocol::outcome::{FINGERPRINT_HEADER, SIGNATURE_HEADER, signature};
use holdfast_protocol::token::hex;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::entries::Reply;

/// So many batches of outcomes may wait for the network before the lane waits with them.
const QUEUE_BATCHES: usize = 64;

/// How long the lane waits for room in that queue.
const TELL_WITHIN: Duration = Duration::from_secs(5);

/// An outcome on its way.
pub(super) struct Answer {
    subject: String,
    fingerprint: String,
    signature: String,
    payload: Vec<u8>,
}

impl Answer {
    pub(super) fn new(reply: &Reply<'_>, fingerprint: &Hash, outcome: &Outcome) -> Self {
        let payload = outcome.to_bytes();
        let signature = signature(reply.key, &reply.subject, &payload);
        Answer { subject: reply.subject.clone(), fingerprint: hex(fingerprint), signature, payload }
    }
}

/// The queue to the publishing task.
pub(super) struct Answers {
    queue: mpsc::Sender<Vec<Answer>>,
    task: JoinHandle<()>,
}

impl Answers {
    pub(super) fn start(client: Client) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE_BATCHES);
        Answers { queue, task: tokio::spawn(publish(client, waiting)) }
    }

    pub(super) async fn tell(&self, answers: Vec<Answer>) {
        if !answers.is_empty() {
            // Whoever is not told can ask again; the lane must not wait without end for a network.
            if self.queue.send_timeout(answers, TELL_WITHIN).await.is_err() {
                tracing::warn!("outcomes were dropped: the bus takes none");
            }
        }
    }

    /// Waits until everything told so far has left the process.
    pub(super) async fn finish(self) {
        drop(self.queue);
        let _ = self.task.await;
    }
}

async fn publish(client: Client, mut waiting: mpsc::Receiver<Vec<Answer>>) {
    while let Some(batch) = waiting.recv().await {
        for answer in batch {
            let mut headers = HeaderMap::new();
            headers.insert(SIGNATURE_HEADER, answer.signature.as_str());
            headers.insert(FINGERPRINT_HEADER, answer.fingerprint.as_str());
            // An outcome that does not arrive is asked for again by the command's retry.
            if let Err(error) =
                client.publish_with_headers(answer.subject, headers, answer.payload.into()).await
            {
                tracing::warn!(%error, "an outcome was not sent");
            }
        }
    }
    let _ = client.flush().await;
}
