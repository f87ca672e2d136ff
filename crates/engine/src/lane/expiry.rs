//! When a hold's time has really come.
//!
//! **Correctness.** A hold may be expired once lane time has passed its time *and* everything was
//! applied that JetStream had stored up to then: a capture that was published in time must win,
//! however long the ledger was away. So the lane asks the stream for its last sequence at a moment
//! of its own clock, and expires what was due at that moment when it has applied that sequence.
//! While NATS cannot be asked, nothing expires.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, jetstream};
use holdfast_core::Timestamp;
use holdfast_store::Applied;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::bus::COMMANDS;
use crate::clock::Clock;
use crate::intake::is_applied;

/// How long after an answer, or a failure, the stream is asked again.
const PAUSE: Duration = Duration::from_millis(20);
/// How long an answer may wait to be reached before a newer one is asked for: the stream may have
/// been replaced, and its old sequence would never come.
pub(super) const ASK_AGAIN: Duration = Duration::from_secs(1);

/// What the stream held at a moment.
#[derive(Debug, Clone, Copy)]
struct Horizon {
    /// The moment.
    at: Timestamp,
    /// Everything stored by then has at most this sequence; 0 when nothing is kept.
    sequence: u64,
    /// When the stream was created that was asked.
    stream_created: i64,
}

impl Horizon {
    /// Whether this is the same stream as `before`, further on.
    fn continues(&self, before: &Horizon) -> bool {
        before.sequence > 0
            && self.stream_created == before.stream_created
            && self.sequence >= before.sequence
    }

    /// Whether everything stored by then was applied.
    fn reached(&self, applied: &Applied) -> bool {
        self.sequence == 0
            || (applied.stream_created == self.stream_created && applied.sequence >= self.sequence)
    }
}

/// Asks the stream, one question at a time.
pub(super) struct Horizons {
    client: Client,
    clock: Arc<dyn Clock>,
    answers: (mpsc::Sender<Option<Horizon>>, mpsc::Receiver<Option<Horizon>>),
    asking: bool,
    latest: Option<(Horizon, Instant)>,
    /// Whether the latest was reached.
    acted_on: bool,
}

impl Horizons {
    pub(super) fn new(client: Client, clock: Arc<dyn Clock>) -> Self {
        Horizons { client, clock, answers: mpsc::channel(1), asking: false, latest: None, acted_on: false }
    }

    /// Asks, unless a question is under way or its answer still waits to be reached.
    pub(super) fn ask(&mut self, applied: &Applied) {
        let waiting =
            |(horizon, since): &(Horizon, Instant)| !horizon.reached(applied) && since.elapsed() < ASK_AGAIN;
        if self.asking || self.latest.as_ref().is_some_and(waiting) {
            return;
        }
        self.asking = true;
        let (client, clock, answer) = (self.client.clone(), Arc::clone(&self.clock), self.answers.0.clone());
        let applied = applied.clone();
        tokio::spawn(async move {
            let horizon = observe(client, clock.now(), &applied).await;
            tokio::time::sleep(PAUSE).await;
            let _ = answer.send(horizon).await;
        });
    }

    /// Takes the answer if it is there.
    pub(super) fn look(&mut self) {
        if let Ok(answer) = self.answers.1.try_recv() {
            self.take(answer);
        }
    }

    /// Waits for the answer; for ever when nothing was asked. Safe to drop.
    pub(super) async fn answered(&mut self) {
        let answer = self.answers.1.recv().await.flatten();
        self.take(answer);
    }

    fn take(&mut self, answer: Option<Horizon>) {
        self.asking = false;
        let Some(horizon) = answer else { return };
        match &mut self.latest {
            // Under a lasting backlog each answer lies further ahead; the first is kept until the
            // lane has come to it, or nothing would ever expire.
            Some((before, since)) if !self.acted_on && horizon.continues(before) => *since = Instant::now(),
            _ => (self.latest, self.acted_on) = (Some((horizon, Instant::now())), false),
        }
    }

    /// The moment up to which holds may be expired, if everything stored by then was applied.
    pub(super) fn reached(&mut self, applied: &Applied) -> Option<Timestamp> {
        let (horizon, _) = self.latest?;
        self.acted_on = horizon.reached(applied);
        self.acted_on.then_some(horizon.at)
    }
}

/// What the stream holds. `at` was read before asking, so the answer covers it.
///
/// None while the stream is not the one that was applied: it may have been set back, and then has
/// commands to come that a higher sequence applied before says nothing about.
async fn observe(client: Client, at: Timestamp, applied: &Applied) -> Option<Horizon> {
    let stream = jetstream::new(client.clone()).get_stream(COMMANDS).await.ok()?;
    let info = stream.cached_info();
    let stream_created = info.created.timestamp_nanos_opt()?;
    if info.state.messages == 0 {
        return Some(Horizon { at, sequence: 0, stream_created });
    }
    if stream_created == applied.stream_created && !is_applied(&client, applied).await.ok()? {
        return None;
    }
    Some(Horizon { at, sequence: info.state.last_sequence, stream_created })
}
