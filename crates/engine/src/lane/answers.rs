//! Telling outcomes, after their commit and in order, on a connection of their own.
//!
//! **Shape.** A task of its own writes and signs them, while the lane decides what comes next.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, HeaderMap, HeaderName};
use holdfast_core::chain::Hash;
use holdfast_core::{Event, Position};
use holdfast_protocol::outcome::{Answer, FINGERPRINT_HEADER, SIGNATURE_HEADER, Told, signature};
use holdfast_protocol::token::hex;
use holdfast_store::{Logged, Map, Row};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::decisions::Verdict;
use crate::message::{Asked, Message, Reply, Telling};

/// So many batches of outcomes may wait for the network before the lane waits with them.
const QUEUE_BATCHES: usize = 4;

/// How long the lane waits for room in that queue.
const TELL_WITHIN: Duration = Duration::from_secs(5);

/// The most bytes of one message: below the server's default maximum of 1 MiB, headers included.
const MESSAGE_BYTES_MAX: usize = 900 * 1024;

/// A batch that is committed, and what its repeats refer to.
pub(super) struct Decided {
    pub(super) messages: Vec<Message>,
    /// One for each thing asked, in order.
    pub(super) verdicts: Vec<Verdict>,
    /// The events of the batch.
    pub(super) events: Arc<Vec<Logged>>,
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
        let mut gathered = Gathered::default();
        let mut verdicts = decided.verdicts.iter();
        for message in &decided.messages {
            let verdicts = verdicts.by_ref().take(message.asks.len());
            let told = message.asks.iter().zip(verdicts);
            let outcomes = told.filter_map(|(asked, verdict)| decided.outcome(asked, verdict));
            match &message.reply {
                None => outcomes.for_each(drop),
                Some(reply) if reply.telling == Telling::Gathered => {
                    outcomes.for_each(|outcome| gathered.add(reply, outcome));
                }
                Some(reply) => {
                    for payload in payloads(outcomes, reply.telling) {
                        send(&client, reply, payload, Some(&reply.fingerprint)).await;
                    }
                }
            }
        }
        for (reply, lists) in gathered.0.into_values() {
            for payload in lists.end() {
                send(&client, reply, payload, None).await;
            }
        }
    }
    let _ = client.flush().await;
}

async fn send(client: &Client, reply: &Reply, payload: Vec<u8>, fingerprint: Option<&Hash>) {
    let mut headers = HeaderMap::new();
    headers.insert(
        HeaderName::from_static(SIGNATURE_HEADER),
        signature(&reply.key.outcome, &reply.subject, &payload),
    );
    if let Some(fingerprint) = fingerprint {
        headers.insert(HeaderName::from_static(FINGERPRINT_HEADER), hex(fingerprint));
    }
    let sent = client.publish_with_headers(reply.subject.clone(), headers, payload.into()).await;
    // An outcome that does not arrive is asked for again by the command's retry.
    if let Err(error) = sent {
        tracing::warn!(%error, "an outcome was not sent");
    }
}

/// One outcome as it is; those of a batch as lists.
fn payloads<'a>(outcomes: impl Iterator<Item = Told<'a>>, telling: Telling) -> Vec<Vec<u8>> {
    if telling == Telling::Alone {
        return outcomes.map(|outcome| outcome.to_bytes()).collect();
    }
    let mut lists = Lists::default();
    outcomes.for_each(|outcome| lists.add(&outcome));
    lists.end()
}

/// Outcomes of one commit for instances that take them together, by subject and key: each message has
/// one signature.
#[derive(Default)]
struct Gathered<'a>(Map<(&'a str, &'a str), (&'a Reply, Lists)>);

impl<'a> Gathered<'a> {
    fn add(&mut self, reply: &'a Reply, outcome: Told<'_>) {
        let key = (reply.subject.as_str(), reply.key.outcome.id());
        let (_, lists) = self.0.entry(key).or_insert_with(|| (reply, Lists::default()));
        lists.add(&Answer { fingerprint: hex(&reply.fingerprint), outcome });
    }
}

/// JSON lists, as few as fit into messages.
#[derive(Default)]
struct Lists {
    full: Vec<Vec<u8>>,
    last: Vec<u8>,
}

impl Lists {
    fn add(&mut self, element: &impl Serialize) {
        let before = self.last.len();
        self.last.push(if before == 0 { b'[' } else { b',' });
        serde_json::to_writer(&mut self.last, element).expect("outcomes are plain values");
        if before > 0 && self.last.len() >= MESSAGE_BYTES_MAX {
            let mut next = self.last.split_off(before);
            next[0] = b'[';
            self.full.push(std::mem::replace(&mut self.last, next));
        }
    }

    fn end(mut self) -> Vec<Vec<u8>> {
        if !self.last.is_empty() {
            self.full.push(self.last);
        }
        self.full.iter_mut().for_each(|list| list.push(b']'));
        self.full
    }
}

impl Decided {
    fn outcome<'a>(&'a self, asked: &'a Asked, verdict: &'a Verdict) -> Option<Told<'a>> {
        let id = match asked {
            Asked::Silent(_) => return None,
            Asked::Refused { id, account, refusal } => return Some(Told::refused(*id, account, refusal)),
            Asked::Command { command, .. } => command.id,
        };
        let recorded = |index: usize| -> &'a Event { &self.events[index].event };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_as_few_as_fit_and_lose_nothing() {
        let kib = |n: usize| "x".repeat(n * 1024);
        // Sizes of elements, and how many end up in each list.
        let cases: [(&[usize], &[usize]); 5] = [
            (&[], &[]),
            (&[1, 1, 1], &[3]),
            (&[400, 400, 400, 400, 400], &[2, 2, 1]),
            (&[1_000, 1], &[1, 1]),
            (&[1, 1_000, 1], &[1, 1, 1]),
        ];
        for (sizes, expected) in cases {
            let mut lists = Lists::default();
            sizes.iter().for_each(|size| lists.add(&kib(*size)));
            let lists = lists.end();
            let read = lists.iter().map(|list| serde_json::from_slice::<Vec<String>>(list).expect("a list"));
            let read: Vec<Vec<String>> = read.collect();
            assert_eq!(read.iter().map(Vec::len).collect::<Vec<_>>(), expected, "{sizes:?}");
            assert_eq!(read.concat(), sizes.iter().map(|size| kib(*size)).collect::<Vec<_>>());
            let small = lists.iter().zip(&read).filter(|(_, read)| read.len() > 1);
            small.for_each(|(list, _)| assert!(list.len() <= MESSAGE_BYTES_MAX + 1));
        }
    }
}
