//! The log of sagas: the stream `SAGAS` in the service's own NATS account.
//!
//! **Shape.** One subject a saga. A [`Writer`] appends to one of them; [`SagaLog`] reads one or all,
//! and lets an operator resume a saga that is stuck.
//!
//! **Correctness.** Each entry is published with the sequence that its subject must end with before it.
//! So of two instances that drive one saga only one can append, and the other is told that it is
//! fenced. A publish whose acknowledgement was lost is not repeated blindly: the writer looks whether
//! the last entry is its own, to the byte. JetStream may lose in a power failure what it has
//! acknowledged; then a saga goes on from an earlier entry, which at-least-once steps allow for, or
//! from its hold in the ledger.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{Config, DiscardPolicy, RawMessageErrorKind, StorageType, Stream};
use async_nats::jetstream::{self, Context, ErrorCode};
use bytes::Bytes;
use futures_util::StreamExt;
use uuid::Uuid;

use crate::entry::{Entry, What};
use crate::error::SagaError;
use crate::key::SagaKey;
use crate::state::fold;

/// The stream.
pub const STREAM: &str = "SAGAS";
/// The header that makes two writers of one saga impossible.
const EXPECTED: &str = "Nats-Expected-Last-Subject-Sequence";
/// How long any single request to the server may take.
const REQUEST_WITHIN: Duration = Duration::from_secs(5);
/// How long entries are kept: longer than any saga takes, since a hold lives for 24 hours at most, and
/// long enough for people to look at what was.
const KEEP: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// How large the stream may become. When it is full no saga can go on, which is seen at once; dropping
/// the oldest entries would take the beginnings of sagas that still run.
const STREAM_MAX_BYTES: i64 = 256 * 1024 * 1024;
/// The largest message of the server.
const MESSAGE_MAX_BYTES: i32 = 1024 * 1024;
/// The largest entry; the rest of a message is its subject and headers.
const ENTRY_MAX_BYTES: usize = 960 * 1024;
/// How often to publish an entry whose fate is unknown.
const APPENDS_MAX: u32 = 5;
/// How long to wait in between.
const APPEND_AGAIN_AFTER: Duration = Duration::from_millis(200);
/// How many messages and bytes one pull asks for: far below what the server lets a connection fall
/// behind.
const PULL_MESSAGES: usize = 500;
const PULL_BYTES: usize = 8 * 1024 * 1024;
/// How long a pull waits, and how often the server says in between that it is still there.
const PULL_EXPIRES: Duration = Duration::from_secs(30);
const HEARTBEAT: Duration = Duration::from_secs(5);
/// The server forgets a consumer that nobody pulls from.
const CONSUMER_INACTIVE: Duration = Duration::from_secs(30);
/// How long to wait for the next of the entries that are known to be there.
const READ_WITHIN: Duration = Duration::from_secs(10);

/// An entry as the stream has it.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// The saga.
    pub saga: SagaKey,
    /// Its sequence in the stream.
    pub sequence: u64,
    /// When the server stored it, in Unix milliseconds.
    pub stored_ms: u64,
    /// The entry.
    pub entry: Entry,
}

/// The log of all sagas of a service. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SagaLog {
    jetstream: Context,
}

impl SagaLog {
    /// The log on this connection, which must be of the service's NATS account. The stream is made if
    /// it is missing, and left as its operator has it if not.
    ///
    /// # Errors
    /// [`SagaError::Log`] when the server does not let us, or JetStream is not enabled in the account.
    pub async fn open(nats: async_nats::Client) -> Result<Self, SagaError> {
        let mut jetstream = jetstream::new(nats);
        jetstream.set_timeout(REQUEST_WITHIN);
        let log = SagaLog { jetstream };
        log.ensure().await?;
        Ok(log)
    }

    /// The same for who only looks: a stream that is missing is an error, and is not made.
    ///
    /// # Errors
    /// [`SagaError::Log`] when there is no such stream in the account of this connection.
    pub async fn existing(nats: async_nats::Client) -> Result<Self, SagaError> {
        let mut jetstream = jetstream::new(nats);
        jetstream.set_timeout(REQUEST_WITHIN);
        jetstream.get_stream(STREAM).await.map_err(SagaError::log)?;
        Ok(SagaLog { jetstream })
    }

    /// Makes the stream if it is missing; answers when it was made, in Unix microseconds, which tells it
    /// from another of the same name.
    pub(crate) async fn ensure(&self) -> Result<i64, SagaError> {
        let stream = self.jetstream.get_or_create_stream(config()).await.map_err(SagaError::log)?;
        Ok(stream.cached_info().created.timestamp_micros())
    }

    /// A handle on the stream, without asking the server.
    async fn stream(&self) -> Result<Stream<()>, SagaError> {
        self.jetstream.get_stream_no_info(STREAM).await.map_err(SagaError::log)
    }

    /// The entries of one saga, in their order; none when there is no such saga.
    ///
    /// # Errors
    /// [`SagaError::Log`] when the server does not answer.
    pub async fn read(&self, saga: &SagaKey) -> Result<Vec<Stored>, SagaError> {
        let (stream, subject) = (self.stream().await?, saga.subject());
        let (mut entries, mut next) = (Vec::new(), 1);
        loop {
            let found = stream.get_first_raw_message_by_subject(&subject, next).await;
            let Some(message) = found_or_none(found)? else { return Ok(entries) };
            next = message.sequence + 1;
            if let Some(stored) = stored(&message) {
                entries.push(stored);
            }
        }
    }

    /// The last message on a saga's subject.
    async fn last(&self, saga: &SagaKey) -> Result<Option<StreamMessage>, SagaError> {
        let found = self.stream().await?.get_last_raw_message_by_subject(&saga.subject()).await;
        found_or_none(found)
    }

    /// The entries of all sagas, or of those of one definition, in the order in which they were stored.
    ///
    /// # Errors
    /// [`SagaError::Log`] when the server does not answer.
    pub async fn read_all(&self, definition: Option<&str>) -> Result<Vec<Stored>, SagaError> {
        let filter = definition.map_or_else(SagaKey::all_subjects, SagaKey::subjects_of);
        let mut deliveries = self.deliveries(&filter, 1).await?;
        let mut entries = Vec::new();
        while deliveries.pending > 0 {
            let next = tokio::time::timeout(READ_WITHIN, deliveries.next()).await;
            let next = next.map_err(|_| SagaError::Log("the entries do not come".to_owned()))?;
            entries.extend(next?);
        }
        Ok(entries)
    }

    /// Follows the entries on subjects of `filter`, beginning at sequence `from`.
    pub(crate) async fn deliveries(&self, filter: &str, from: u64) -> Result<Deliveries, SagaError> {
        let config = pull::Config {
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: from.max(1) },
            ack_policy: AckPolicy::None,
            filter_subject: filter.to_owned(),
            inactive_threshold: CONSUMER_INACTIVE,
            memory_storage: true,
            num_replicas: 1,
            ..pull::Config::default()
        };
        let consumer = self.stream().await?.create_consumer(config).await.map_err(SagaError::log)?;
        let pending = consumer.cached_info().num_pending;
        let pull = consumer
            .stream()
            .max_messages_per_batch(PULL_MESSAGES)
            .max_bytes_per_batch(PULL_BYTES)
            .expires(PULL_EXPIRES)
            .heartbeat(HEARTBEAT);
        let messages = pull.messages().await.map_err(SagaError::log)?;
        Ok(Deliveries { messages, expected: 1, pending, last: from.saturating_sub(1) })
    }

    /// Lets a saga that is stuck go on. Running instances notice it. With `by_hand` the undo that is
    /// stuck counts as done, because somebody did it by hand; without, it is tried again.
    ///
    /// # Errors
    /// [`SagaError::Unknown`], [`SagaError::NotStuck`], or [`SagaError::Fenced`] when somebody else wrote
    /// to its log at the same moment.
    pub async fn resume(&self, saga: &SagaKey, by: &str, by_hand: bool) -> Result<(), SagaError> {
        let entries = self.read(saga).await?;
        let last = entries.last().ok_or_else(|| SagaError::Unknown(saga.clone()))?;
        let state = fold(entries.iter().map(|stored| &stored.entry));
        let state = state.map_err(|broken| SagaError::Broken { saga: saga.clone(), broken })?;
        if state.stuck.is_none() || state.ended.is_some() {
            return Err(SagaError::NotStuck(saga.clone()));
        }
        let mut writer = Writer::after(self.clone(), saga.clone(), by, last.sequence, last.entry.n);
        writer.append(What::Resumed { by_hand }).await.map(|_| ())
    }

    /// Publishes `payload` where the subject ends at `expected`, and answers its sequence.
    async fn publish(&self, subject: String, expected: u64, payload: Bytes) -> Result<u64, Unpublished> {
        let mut headers = HeaderMap::new();
        headers.insert(EXPECTED, expected.to_string().as_str());
        let sent = self.jetstream.publish_with_headers(subject, headers, payload).await;
        let acknowledged = match sent {
            Ok(acknowledgement) => acknowledgement.await,
            Err(error) => Err(error),
        };
        acknowledged.map(|ack| ack.sequence).map_err(|error| match error.kind() {
            PublishErrorKind::WrongLastSequence => Unpublished::NotLast,
            PublishErrorKind::TimedOut | PublishErrorKind::BrokenPipe => Unpublished::Unknown,
            _ => Unpublished::Refused(error.to_string()),
        })
    }
}

/// Why an entry was not stored.
enum Unpublished {
    /// The subject does not end where it should.
    NotLast,
    /// There was no answer.
    Unknown,
    /// The server said no.
    Refused(String),
}

fn config() -> Config {
    Config {
        name: STREAM.to_owned(),
        description: Some("What the sagas of this service did. Only the runner writes here.".to_owned()),
        subjects: vec![SagaKey::all_subjects()],
        storage: StorageType::File,
        num_replicas: 1,
        discard: DiscardPolicy::New,
        max_age: KEEP,
        max_bytes: STREAM_MAX_BYTES,
        max_messages: -1,
        max_messages_per_subject: -1,
        max_consumers: -1,
        max_message_size: MESSAGE_MAX_BYTES,
        deny_delete: true,
        allow_direct: true,
        ..Config::default()
    }
}

/// That there is no message, or no stream to have one, is an answer and not an error.
fn found_or_none(
    found: Result<StreamMessage, async_nats::jetstream::stream::RawMessageError>,
) -> Result<Option<StreamMessage>, SagaError> {
    match found {
        Ok(message) => Ok(Some(message)),
        Err(error) => match error.kind() {
            RawMessageErrorKind::NoMessageFound => Ok(None),
            RawMessageErrorKind::JetStream(inner) if inner.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                Ok(None)
            }
            _ => Err(SagaError::log(error)),
        },
    }
}

fn stored(message: &StreamMessage) -> Option<Stored> {
    let at = message.time.timestamp_millis();
    read_entry(&message.subject, &message.payload, message.sequence, at)
}

/// An entry as it was published; none of a message that is no entry, which is told and passed over.
fn read_entry(subject: &str, payload: &[u8], sequence: u64, stored_ms: i64) -> Option<Stored> {
    match (SagaKey::of_subject(subject), serde_json::from_slice::<Entry>(payload)) {
        (Some(saga), Ok(entry)) => {
            let stored_ms = u64::try_from(stored_ms).unwrap_or(0);
            Some(Stored { saga, sequence, stored_ms, entry })
        }
        (_, entry) => {
            let problem = entry.err().map(|error| error.to_string());
            tracing::warn!(subject, sequence, problem, "a message in the log of sagas is no entry");
            None
        }
    }
}

/// Entries as they are stored.
pub(crate) struct Deliveries {
    messages: pull::Stream,
    /// The consumer's own sequence of the next message: a gap means that one was lost on its way.
    expected: u64,
    /// How many entries are still to come of those that are stored now.
    pub(crate) pending: u64,
    /// The sequence of the last message that was looked at.
    pub(crate) last: u64,
}

impl Deliveries {
    /// The next entry; none in place of a message that is no entry. Nothing is lost when this is
    /// dropped before it is ready.
    pub(crate) async fn next(&mut self) -> Result<Option<Stored>, SagaError> {
        let message = self.messages.next().await;
        let message = message.ok_or_else(|| SagaError::Log("the deliveries ended".to_owned()))?;
        let message = message.map_err(SagaError::log)?;
        let info = message.info().map_err(SagaError::log)?;
        if info.consumer_sequence != self.expected {
            return Err(SagaError::Log(format!(
                "an entry was lost before delivery {}",
                info.consumer_sequence
            )));
        }
        self.expected += 1;
        self.pending = info.pending;
        self.last = info.stream_sequence;
        let at = info.published.timestamp_millis();
        Ok(read_entry(&message.subject, &message.payload, info.stream_sequence, at))
    }
}

/// Appends to one saga's log, and notices when somebody else does.
pub(crate) struct Writer {
    log: SagaLog,
    saga: SagaKey,
    by: String,
    sequence: u64,
    n: u64,
}

impl Writer {
    /// A writer that goes on after the entry number `n`, which has this sequence. Both are 0 when there
    /// is none.
    pub(crate) fn after(log: SagaLog, saga: SagaKey, instance: &str, sequence: u64, n: u64) -> Self {
        let run = Uuid::new_v4().simple().to_string();
        Writer { log, saga, by: format!("{instance}#{}", &run[..12]), sequence, n }
    }

    /// The number of the next entry.
    pub(crate) fn next_n(&self) -> u64 {
        self.n + 1
    }

    /// Appends an entry; answers it as everybody will read it.
    ///
    /// # Errors
    /// [`SagaError::Fenced`] when another writer was here since.
    pub(crate) async fn append(&mut self, what: What) -> Result<Entry, SagaError> {
        let mut entry = Entry { n: self.next_n(), at: now_ms(), by: self.by.clone(), what };
        for _ in 0..APPENDS_MAX {
            let payload: Bytes = serde_json::to_vec(&entry)?.into();
            if payload.len() > ENTRY_MAX_BYTES {
                return Err(SagaError::TooLarge { saga: self.saga.clone(), bytes: payload.len() });
            }
            match self.log.publish(self.saga.subject(), self.sequence, payload.clone()).await {
                Ok(sequence) => return self.stored(sequence, entry.n, &payload),
                Err(Unpublished::Refused(problem)) => return Err(SagaError::Log(problem)),
                Err(Unpublished::NotLast) => {}
                Err(Unpublished::Unknown) => tokio::time::sleep(APPEND_AGAIN_AFTER).await,
            }
            if let Some(sequence) = self.look(&payload).await? {
                return self.stored(sequence, entry.n, &payload);
            }
            entry.n = self.next_n();
        }
        Err(SagaError::Log(format!("an entry of {} was not acknowledged", self.saga)))
    }

    /// What is read from the bytes is what every later reader will have, floats included.
    fn stored(&mut self, sequence: u64, n: u64, payload: &[u8]) -> Result<Entry, SagaError> {
        (self.sequence, self.n) = (sequence, n);
        Ok(serde_json::from_slice(payload)?)
    }

    /// Looks how the log ends: with `payload`, whose sequence it answers; with an earlier entry of this
    /// writer whose acknowledgement was lost, which it goes on after; or with somebody else's.
    async fn look(&mut self, payload: &[u8]) -> Result<Option<u64>, SagaError> {
        let Some(last) = self.log.last(&self.saga).await? else {
            return if self.sequence == 0 { Ok(None) } else { Err(self.fenced()) };
        };
        if *last.payload == *payload {
            return Ok(Some(last.sequence));
        }
        if last.sequence == self.sequence {
            return Ok(None);
        }
        match stored(&last) {
            Some(own) if own.entry.by == self.by && own.sequence > self.sequence => {
                (self.sequence, self.n) = (own.sequence, own.entry.n);
                Ok(None)
            }
            _ => Err(self.fenced()),
        }
    }

    fn fenced(&self) -> SagaError {
        SagaError::Fenced(self.saga.clone())
    }
}

/// Unix milliseconds.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
