//! Intake: the commands of the stream, in order and without a gap.
//!
//! **Shape.** A task of its own feeds the lane's bounded queue from an ephemeral pull consumer
//! that acknowledges nothing. It reads and verifies each message, and hands over in runs whatever has
//! come. When the queue is full it stops pulling, and the stream holds the backlog.
//!
//! **Correctness.** The consumer's own sequence must count up by one; on a gap, an error or
//! silence the consumer is made anew from the message after the last that was handed over. Before
//! that the stream is looked at: was it created when ours was, does it still reach our place, is
//! the message there the one we know? If not, it is another stream of the same name, or an older
//! state of it, and intake starts at the first message kept. Idempotency makes that safe, and
//! nothing less would be. A message that breaks the connection on its way is fetched by itself and
//! handed over like any other: the lane passes it over, as it does with every forgery.

use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::stream::Stream;
use async_nats::{Client, Subject};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use holdfast_core::Timestamp;
use holdfast_core::chain::LengthPrefixed;
use holdfast_protocol::verify::Rules;
use holdfast_store::Applied;
use sha2::{Digest, Sha256};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::bus::{BusError, COMMANDS, connect, ensure_stream};
use crate::health::Health;
use crate::message::Run;
use crate::raw;

/// How many messages one pull asks for: enough that batches grow with the load.
const PULL_MESSAGES: usize = 1_000;
/// The most bytes of one pull: far below what the server lets a slow connection fall behind.
const PULL_BYTES: usize = 16 * 1024 * 1024;
/// How often to look whether the connection was lost. What the server had sent then is lost too,
/// and no gap would show before the next message.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a pull waits, and how often the server says in between that it is still there.
const PULL_EXPIRES: Duration = Duration::from_secs(30);
const HEARTBEAT: Duration = Duration::from_secs(5);
/// The server forgets a consumer that nobody pulls from.
const CONSUMER_INACTIVE: Duration = Duration::from_secs(30);
/// After so many times in vain, the next message is fetched by itself.
const IN_VAIN_MAX: u32 = 2;
/// How long to wait before the next try after an error.
const BACKOFF: Duration = Duration::from_millis(250);

/// The most messages of one run: a run shares the cost of handing it over.
const RUN_MESSAGES: usize = 256;
/// A run with so many bytes is handed over: the lane decides one batch envelope while the next is read.
const RUN_BYTES: usize = 128 * 1024;
/// How many bytes messages may take in the process at once, from here until their outcomes have left.
const ROOM_BYTES: usize = 48 * 1024 * 1024;
/// What a message takes once it is read and decided, in times of its bytes.
const READ_TIMES: usize = 4;

/// The room for messages in the process.
pub(crate) struct Room(Arc<Semaphore>);

impl Room {
    pub(crate) fn new() -> Self {
        Room(Arc::new(Semaphore::new(ROOM_BYTES)))
    }

    fn place(bytes: usize) -> u32 {
        u32::try_from((bytes * READ_TIMES).clamp(1, ROOM_BYTES / 4)).expect("far below 4 GiB")
    }

    /// Room for a message, if there is any now.
    fn try_take(&self, bytes: usize) -> Option<Arc<OwnedSemaphorePermit>> {
        let permit = Arc::clone(&self.0).try_acquire_many_owned(Self::place(bytes));
        permit.ok().map(Arc::new)
    }

    /// Waits for room.
    async fn take(&self, bytes: usize) -> Arc<OwnedSemaphorePermit> {
        let permit = Arc::clone(&self.0).acquire_many_owned(Self::place(bytes)).await;
        Arc::new(permit.expect("the semaphore is never closed"))
    }
}

/// One message of the stream.
#[derive(Debug, Clone)]
pub(crate) struct Delivery {
    pub(crate) subject: Subject,
    pub(crate) payload: Bytes,
    pub(crate) sequence: u64,
    pub(crate) stored_at: Timestamp,
    stored_nanos: i64,
    /// When the stream was created that it comes from, in Unix nanoseconds.
    pub(crate) stream_created: i64,
    /// Its place in the process, free again when the last copy is gone.
    _room: Arc<OwnedSemaphorePermit>,
}

impl Delivery {
    /// Where the log is once this message is applied.
    pub(crate) fn applied(&self) -> Applied {
        let digest = digest(&self.subject, &self.payload, self.stored_nanos);
        Applied { sequence: self.sequence, digest, stream_created: self.stream_created }
    }
}

/// What makes a message that one and no other: the time tells it from a repeat of its bytes.
fn digest(subject: &str, payload: &[u8], stored_nanos: i64) -> Vec<u8> {
    let mut sha = Sha256::new();
    sha.length_prefixed(subject.as_bytes());
    sha.length_prefixed(payload);
    sha.length_prefixed(&stored_nanos.to_be_bytes());
    sha.finalize().to_vec()
}

/// Feeds `queue` from the place `from` until told to stop.
pub(crate) struct Intake {
    pub(crate) url: String,
    pub(crate) queue: mpsc::Sender<Run>,
    /// Keys and rights; changes are taken up between runs.
    pub(crate) rules: watch::Receiver<Arc<Rules>>,
    pub(crate) room: Room,
    pub(crate) from: Applied,
    /// The last message handed over, of which `from` is made when it is needed.
    pub(crate) last: Option<Delivery>,
    /// How often in a row following the stream brought nothing.
    pub(crate) in_vain: u32,
    pub(crate) health: Arc<Health>,
}

impl Intake {
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        loop {
            let result = tokio::select! {
                () = stop.cancelled() => return,
                result = self.follow() => result,
            };
            let Err(error) = result else { return };
            self.in_vain += 1;
            self.health.ill("intake", error.to_string());
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(BACKOFF) => {}
            }
        }
    }

    /// Delivers until something is not as it should be.
    async fn follow(&mut self) -> Result<(), BusError> {
        if let Some(last) = self.last.take() {
            self.from = last.applied();
        }
        // A connection of its own, made anew each time: what broke the last one may have broken the
        // client for good.
        let client = connect(&self.url, "holdfast intake").await?;
        let stream = ensure_stream(&client, COMMANDS).await?;
        let created = nanos(stream.cached_info().created)?;
        let mut start = self.start(&client, &stream, created).await?;
        if self.in_vain >= IN_VAIN_MAX {
            start = self.step_over(&client, start, created).await?;
        }
        let connects = connects(&client);
        let consumer = stream.create_consumer(consumer_config(start)).await.map_err(BusError::of)?;
        let pull = consumer
            .stream()
            .max_messages_per_batch(PULL_MESSAGES)
            .max_bytes_per_batch(PULL_BYTES)
            .expires(PULL_EXPIRES)
            .heartbeat(HEARTBEAT);
        let mut messages = pull.messages().await.map_err(BusError::of)?;
        let (mut expected, mut look) = (1, tokio::time::interval(LOOK_EVERY));
        // The first tick comes at once and says nothing.
        look.tick().await;
        loop {
            let message = tokio::select! {
                message = messages.next() => message,
                _ = look.tick() => {
                    must_be_unbroken(&client, connects)?;
                    self.health.well("intake");
                    continue;
                }
            };
            // What has come already is handed over with it.
            let (mut run, mut bytes, mut next) = (Vec::with_capacity(RUN_MESSAGES), 0, Some(message));
            while let Some(message) = next {
                let message = message.ok_or_else(|| BusError("the deliveries ended".to_owned()));
                let message = message.and_then(|message| message.map_err(BusError::of));
                let delivery = match message {
                    Ok(message) => self.delivery(&message, created, &mut expected, &mut run).await?,
                    Err(error) => {
                        self.hand_over(run).await;
                        return Err(error);
                    }
                };
                let Some(delivery) = delivery else { return Ok(()) };
                bytes += delivery.payload.len();
                run.push(delivery);
                let room = run.len() < RUN_MESSAGES && bytes < RUN_BYTES;
                next = if room { messages.next().now_or_never() } else { None };
            }
            if !self.hand_over(run).await {
                return Ok(());
            }
        }
    }

    /// The delivery of a message, which must be the one that is due. When there is no room for it, what
    /// was read before is handed over first; none when the lane takes no more.
    async fn delivery(
        &mut self,
        message: &async_nats::jetstream::Message,
        stream_created: i64,
        expected: &mut u64,
        run: &mut Vec<Delivery>,
    ) -> Result<Option<Delivery>, BusError> {
        let info = message.info().map_err(BusError::of)?;
        if info.consumer_sequence != *expected {
            let problem = format!("delivery {} came where {expected} was due", info.consumer_sequence);
            return Err(BusError(problem));
        }
        *expected += 1;
        let room = match self.room.try_take(message.payload.len()) {
            Some(room) => room,
            None => {
                if !self.hand_over(std::mem::take(run)).await {
                    return Ok(None);
                }
                self.room.take(message.payload.len()).await
            }
        };
        Ok(Some(Delivery {
            sequence: info.stream_sequence,
            stored_at: Timestamp::from_micros(info.published.timestamp_micros()),
            stored_nanos: nanos(info.published)?,
            stream_created,
            subject: message.subject.clone(),
            payload: message.payload.clone(),
            _room: room,
        }))
    }

    /// Reads a run of messages and gives it to the lane; answers whether the lane still takes any.
    async fn hand_over(&mut self, run: Vec<Delivery>) -> bool {
        let Some(last) = run.last() else { return true };
        if std::mem::take(&mut self.in_vain) > 0 || self.last.is_none() {
            self.health.well("intake");
        }
        self.last = Some(last.clone());
        let rules = Arc::clone(&self.rules.borrow());
        self.queue.send(Run::read(rules, run)).await.is_ok()
    }

    /// Hands over what comes from `start` on by another way than deliveries, which have failed again
    /// and again: one message, and all that follow it with headers, since those may be such that the
    /// client cannot take them. Answers where to go on.
    async fn step_over(&mut self, client: &Client, start: u64, created: i64) -> Result<u64, BusError> {
        let mut next = start;
        loop {
            let Some(message) = raw::from(client, next).await? else { return Ok(next) };
            if next > start && !message.has_headers {
                return Ok(next);
            }
            let sequence = message.sequence;
            tracing::warn!(sequence, "a message could not be delivered and was fetched instead");
            let delivery = Delivery {
                sequence,
                stored_at: Timestamp::from_micros(message.stored.timestamp_micros()),
                stored_nanos: nanos(message.stored)?,
                stream_created: created,
                subject: message.subject.into(),
                _room: self.room.take(message.payload.len()).await,
                payload: message.payload,
            };
            next = sequence + 1;
            if !self.hand_over(vec![delivery]).await {
                return Ok(next);
            }
        }
    }

    /// The sequence to begin at.
    async fn start(&self, client: &Client, stream: &Stream, created: i64) -> Result<u64, BusError> {
        let state = &stream.cached_info().state;
        if self.from.sequence == 0 {
            return Ok(state.first_sequence.max(1));
        }
        let known = created == self.from.stream_created
            && state.last_sequence >= self.from.sequence
            && is_applied(client, &self.from).await?;
        if known {
            return Ok(self.from.sequence + 1);
        }
        let (applied, first) = (self.from.sequence, state.first_sequence);
        tracing::warn!(
            applied,
            first,
            "the command stream is not the one that was applied; starting at its first message"
        );
        Ok(first.max(1))
    }
}

/// Whether the message at the place `applied` is the one that was applied.
pub(crate) async fn is_applied(client: &Client, applied: &Applied) -> Result<bool, BusError> {
    let Some(message) = raw::at(client, applied.sequence).await? else { return Ok(false) };
    Ok(digest(&message.subject, &message.payload, nanos(message.stored)?) == applied.digest)
}

/// How often the connection was made.
pub(crate) fn connects(client: &Client) -> u64 {
    client.statistics().connects.load(Ordering::Relaxed)
}

pub(crate) fn must_be_unbroken(client: &Client, before: u64) -> Result<(), BusError> {
    if connects(client) == before {
        return Ok(());
    }
    Err(BusError("the connection was lost and is back; what was on its way is asked for again".to_owned()))
}

fn consumer_config(start_sequence: u64) -> pull::Config {
    pull::Config {
        deliver_policy: DeliverPolicy::ByStartSequence { start_sequence },
        ack_policy: AckPolicy::None,
        inactive_threshold: CONSUMER_INACTIVE,
        memory_storage: true,
        num_replicas: 1,
        ..pull::Config::default()
    }
}

fn nanos(at: chrono::DateTime<chrono::Utc>) -> Result<i64, BusError> {
    at.timestamp_nanos_opt().ok_or_else(|| BusError("the server's clock is beyond the year 2262".to_owned()))
}
