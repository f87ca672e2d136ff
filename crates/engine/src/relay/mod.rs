//! The relay: publishes what was committed, so that the stream's sequence is the log's position.
//!
//! **Shape.** It wakes when the lane commits, takes what comes after the stream's last sequence, and
//! publishes it in runs, of which the last message is acknowledged.
//!
//! **Correctness.** The stream itself says where to go on, so nothing is remembered elsewhere. Each
//! message names the sequence that it expects the stream to end with: a second relay, a message that
//! was lost on the way or a stranger's makes it and all that follow it fail, and the acknowledgement of
//! the last with them. Before it publishes, the relay compares the chain hash of the stream's last
//! message with the log's: another log (a restored backup) or a message that is not the ledger's stops
//! it, until `holdfast relay rebuild` has made the stream anew. A lost or short stream is simply filled.

mod messages;

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::stream::Stream;
use async_nats::{Client, HeaderMap, HeaderName};
use bytes::Bytes;
use holdfast_core::Position;
use holdfast_protocol::event::CHAIN_HEADER;
use holdfast_protocol::token::hex;
use holdfast_store::connect::connect;
use holdfast_store::error::within;
use holdfast_store::recent::{Recent, Run};
use holdfast_store::{Role, StoreError, head, lookup};
use sqlx::PgConnection;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::messages::Messages;
use crate::bus::{BusError, EVENTS, ensure_stream};
use crate::health::Health;
use crate::intake::{connects, must_be_unbroken};

/// How many messages may be on their way before one is acknowledged.
const BATCH_EVENTS_MAX: usize = 1_000;
/// What the stream must end with for a message to be stored.
const EXPECTED: HeaderName = HeaderName::from_static("Nats-Expected-Last-Sequence");
/// How far it may fall behind in a burst, in events: it costs as much as deciding and committing does, and no
/// take-over waits for it.
const LAG_MAX: i64 = 2_000_000;
/// And for how long: on a slow machine those would be too old otherwise.
const BEHIND_MAX: Duration = Duration::from_secs(60);
/// How often to look when nobody says that the log grew.
const POLL: Duration = Duration::from_millis(500);
/// How long reading a batch may take.
const READ_WITHIN: Duration = Duration::from_secs(30);
/// How long to wait before the next try after an error.
const BACKOFF: Duration = Duration::from_secs(1);

/// Publishes the events of one partition.
pub struct Relay {
    /// The database.
    pub database_url: String,
    /// The partition.
    pub partition: i16,
    /// The deployment, for the events' source.
    pub audience: String,
    /// A connection of its own.
    pub client: Client,
    /// What the lane of this process has committed last.
    pub recent: Arc<Recent>,
    /// The lane's last committed position, to wake by.
    pub committed: watch::Receiver<Position>,
    /// How it is doing.
    pub health: Arc<Health>,
}

#[derive(Debug, thiserror::Error)]
enum RelayError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Bus(#[from] BusError),
    #[error("{0}; after looking into it run `holdfast relay rebuild`")]
    Foreign(String),
}

/// Metrics are floats; positions stay exact far beyond any log that exists.
#[allow(clippy::cast_precision_loss)]
fn approximate(position: Position) -> f64 {
    position.0 as f64
}

impl Relay {
    /// Runs until told to stop. It goes on by itself when what stopped it was mended.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let result = tokio::select! {
                () = stop.cancelled() => return,
                result = self.follow() => result,
            };
            let Err(error) = result;
            self.health.ill("relay", error.to_string());
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(BACKOFF) => {}
            }
        }
    }

    async fn follow(&mut self) -> Result<std::convert::Infallible, RelayError> {
        let mut connection = connect(&self.database_url, Role::Reader).await?;
        let stream = ensure_stream(&self.client, EVENTS).await?;
        let connects = connects(&self.client);
        let mut at = self.check(&mut connection, &stream).await?;
        let mut caught_up = Instant::now();
        let (follower, mut messages) = (self.recent.follow(), Messages::new(self.partition, &self.audience));
        loop {
            // A server that was killed may have lost what it had acknowledged; the stream says what.
            must_be_unbroken(&self.client, connects)?;
            self.health.well("relay");
            metrics::gauge!("holdfast_relay_position").set(approximate(at));
            let standing_back = self.recent.yield_to_lane(at, LAG_MAX, &self.committed);
            let _ = tokio::time::timeout_at(caught_up + BEHIND_MAX, standing_back).await;
            let read = follower.after(&mut connection, self.partition, at, BATCH_EVENTS_MAX);
            let run = within(READ_WITHIN, read).await?;
            if let Some(last) = run.last() {
                self.publish(&mut messages, &run, at, last).await?;
                at = last;
            }
            // What this process commits it says, so there is nothing to read; what another has committed
            // is found by looking.
            if run.is_empty() || *self.committed.borrow_and_update() == at {
                caught_up = Instant::now();
                let _ = tokio::time::timeout(POLL, self.committed.changed()).await;
            }
        }
    }

    /// The position to go on after: the stream's last sequence, when its last message is ours.
    async fn check(&self, connection: &mut PgConnection, stream: &Stream) -> Result<Position, RelayError> {
        let state = &stream.cached_info().state;
        let last = i64::try_from(state.last_sequence).map_err(BusError::of)?;
        let head = within(READ_WITHIN, head::read(connection, self.partition)).await?.position;
        if last > head.0 {
            let problem = format!("{EVENTS} ends at {last}, beyond the log's end at {head}");
            return Err(RelayError::Foreign(problem));
        }
        if state.messages > 0 {
            self.compare(connection, stream, last).await?;
        }
        Ok(Position(last))
    }

    async fn compare(
        &self,
        connection: &mut PgConnection,
        stream: &Stream,
        last: i64,
    ) -> Result<(), RelayError> {
        let message = stream.get_raw_message(last.unsigned_abs()).await.map_err(BusError::of)?;
        let chained = message.headers.get(CHAIN_HEADER).map(|value| value.as_str().to_owned());
        let wanted = [Position(last)];
        let found = lookup::positions(connection, self.partition, &wanted);
        let row = within(READ_WITHIN, found).await?.remove(&Position(last));
        let expected = row.map(|row| hex(&row.hash));
        if expected.is_none() || chained != expected {
            let problem = format!("the message at {last} of {EVENTS} is not the event at that position");
            return Err(RelayError::Foreign(problem));
        }
        Ok(())
    }

    /// Publishes `run`, which lies between `after` and `last`.
    async fn publish(
        &self,
        messages: &mut Messages,
        run: &Run,
        after: Position,
        last: Position,
    ) -> Result<(), BusError> {
        let mut expected = after;
        for logged in run.iter() {
            let (subject, mut headers, payload) = messages.of(logged);
            headers.insert(EXPECTED, expected.to_string());
            expected = logged.event.position;
            if expected == last {
                return self.commit(subject, headers, payload, last).await;
            }
            self.client.publish_with_headers(subject, headers, payload).await.map_err(BusError::of)?;
        }
        Ok(())
    }

    async fn commit(
        &self,
        subject: String,
        headers: HeaderMap,
        payload: Bytes,
        position: Position,
    ) -> Result<(), BusError> {
        let answer =
            self.client.request_with_headers(subject, headers, payload).await.map_err(BusError::of)?;
        let ack: serde_json::Value = serde_json::from_slice(&answer.payload).map_err(BusError::of)?;
        if ack["seq"].as_i64() == Some(position.0) {
            return Ok(());
        }
        Err(BusError(format!("a batch of events was not stored: {ack}")))
    }
}
