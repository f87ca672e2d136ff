//! Telling outcomes, after their commit and in order, on a connection of their own.
//!
//! **Shape.** A task of its own writes and signs them, while the lane decides what comes next.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::{Client, HeaderMap, HeaderName};
use holdfast_core::{Event, Position};
use holdfast_protocol::outcome::{FINGERPRINT_HEADER, SIGNATURE_HEADER, Told, signature};
use holdfast_protocol::token::hex;
use holdfast_store::Row;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::decisions::{Batch, Verdict};
use crate::message::{Asked, Message, Reply};

/// So many batches of outcomes may wait for the network before the lane waits with them.
const QUEUE_BATCHES: usize = 4;

/// How long the lane waits for room in that queue.
const TELL_WITHIN: Duration = Duration::from_secs(5);

/// The most bytes of one message: below the server's default maximum of 1 MiB, headers included.
const MESSAGE_BYTES_MAX: usize = 900 * 1024;

/// A batch that is committed, and what its repeats refer to.
pub(super) struct Decided {
    pub(super) messages: Vec<Message>,
    pub(super) batch: Batch,
    /// The rows of [`Verdict::At`].
    pub(super) rows: HashMap<Position, Row>,
}

/// The queue to the publishing task.
pub(super) struct Answers {
    queue: mpsc::Sender<Decided>,
    task: JoinHandle<()>,
}

impl Answers {
    pub(super) fn start(client: Client) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE_BATCHES);
        Answers { queue, task: tokio::spawn(publish(client, waiting)) }
    }

    pub(super) async fn tell(&self, decided: Decided) {
        // Whoever is not told can ask again; the lane must not wait without end for a network.
        if self.queue.send_timeout(decided, TELL_WITHIN).await.is_err() {
            tracing::warn!("outcomes were dropped: the bus takes none");
        }
    }

    /// Waits until everything told so far has left the process.
    pub(super) async fn finish(self) {
        drop(self.queue);
        let _ = self.task.await;
    }
}

async fn publish(client: Client, mut waiting: mpsc::Receiver<Decided>) {
    while let Some(decided) = waiting.recv().await {
        let mut verdicts = decided.batch.verdicts.iter();
        for message in &decided.messages {
            let verdicts = verdicts.by_ref().take(message.asks.len());
            let told = message.asks.iter().zip(verdicts);
            let outcomes = told.filter_map(|(asked, verdict)| decided.outcome(asked, verdict));
            let Some(reply) = &message.reply else {
                outcomes.for_each(drop);
                continue;
            };
            for payload in payloads(outcomes, reply.is_batch) {
                // An outcome that does not arrive is asked for again by the command's retry.
                if let Err(error) = send(&client, reply, payload).await {
                    tracing::warn!(%error, "an outcome was not sent");
                }
            }
        }
    }
    let _ = client.flush().await;
}

async fn send(client: &Client, reply: &Reply, payload: Vec<u8>) -> Result<(), async_nats::PublishError> {
    let mut headers = HeaderMap::new();
    headers.insert(
        HeaderName::from_static(SIGNATURE_HEADER),
        signature(&reply.key.outcome, &reply.subject, &payload),
    );
    headers.insert(HeaderName::from_static(FINGERPRINT_HEADER), hex(&reply.fingerprint));
    client.publish_with_headers(reply.subject.clone(), headers, payload.into()).await
}

/// One outcome as it is; those of a batch as lists, as few as fit.
fn payloads<'a>(outcomes: impl Iterator<Item = Told<'a>>, is_batch: bool) -> Vec<Vec<u8>> {
    if !is_batch {
        return outcomes.map(|outcome| outcome.to_bytes()).collect();
    }
    let mut lists: Vec<Vec<u8>> = Vec::new();
    for outcome in outcomes {
        let json = outcome.to_bytes();
        match lists.last_mut() {
            Some(list) if list.len() + json.len() + 2 <= MESSAGE_BYTES_MAX => list.push(b','),
            _ => lists.push(vec![b'[']),
        }
        lists.last_mut().expect("pushed above").extend_from_slice(&json);
    }
    for list in &mut lists {
        list.push(b']');
    }
    lists
}

impl Decided {
    fn outcome<'a>(&'a self, asked: &'a Asked, verdict: &'a Verdict) -> Option<Told<'a>> {
        let id = match asked {
            Asked::Silent(_) => return None,
            Asked::Refused { id, account, refusal } => return Some(Told::refused(*id, account, refusal)),
            Asked::Command { command, .. } => command.id,
        };
        let recorded = |index: usize| -> &'a Event { &self.batch.records[index].event };
        Some(match verdict {
            Verdict::Nothing => return None,
            Verdict::Refused(refusal) => {
                let Asked::Command { command, .. } = asked else { return None };
                Told::refused(id, command.account.as_str(), refusal)
            }
            Verdict::Recorded(index) => Told::of_event(id, recorded(*index), false),
            Verdict::RepeatOf(index) => Told::of_event(id, recorded(*index), true),
            Verdict::Replayed(event) => Told::of_event(id, event, true),
            Verdict::At(position) => Told::of_event(id, &self.rows.get(position)?.event, true),
        })
    }
}
