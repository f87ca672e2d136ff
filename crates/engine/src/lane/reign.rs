//! One reign: from a take-over to the next doubt.
//!
//! **Shape.** A batch is decided in memory and handed to the committer; while it commits, the next is
//! decided on top of it, up to [`AHEAD_MAX`] of them. When a commit has ended its batch has landed:
//! followers and callers are told.
//!
//! **Correctness.** Nobody is told anything before the commit. What is decided ahead stands on what
//! is not committed yet, so after a commit that failed all of it is dropped, with the memory that
//! it changed, and decided again. What the database refuses for its content is found by halving.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use holdfast_core::{Position, Timestamp};
use holdfast_store::connect::connect;
use holdfast_store::error::within;
use holdfast_store::{Applied, Head, Map, Record, Role, StoreError, lookup};
use sqlx::PgConnection;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::answers::{Answers, Decided};
use super::committer::{Append, Committer, Ended};
use super::decisions::{Batch, Decider, Mode, Verdict};
use super::expiry::{ASK_AGAIN, Horizons};
use super::lookups::{self, Lookups};
use super::memory::Memory;
use super::seen::Seen;
use super::{AHEAD_MAX, BEGIN_WITHIN, Lane};
use crate::intake::{Intake, Room};
use crate::message::{Asked, Message, Run, Source};
use crate::refused::Refused;
use crate::trim::{TRIM_EVERY, trim};

/// A batch is closed when it has so many commands: larger commits gain little, and their first
/// command waits for their last.
const BATCH_COMMANDS_MAX: usize = 8_000;
/// The most bytes of envelopes of one commit.
const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;
/// So many commands in one batch say that they come in a burst.
const PRESSED_COMMANDS: usize = BATCH_COMMANDS_MAX / 4;
/// And fewer than so many that the burst is over.
const EASY_COMMANDS: usize = PRESSED_COMMANDS / 4;
/// Runs of messages waiting between intake and lane; beyond it the stream holds the backlog.
const QUEUE_RUNS: usize = 64;
/// The most holds expired in one commit.
const EXPIRIES_MAX: usize = 500;
/// How long to wait for the projector when memory is full.
const FULL_PAUSE: Duration = Duration::from_millis(50);

/// How long what a batch must know of the log may take to read.
const READ_WITHIN: Duration = Duration::from_secs(30);
/// How long outcomes may take to leave at the end of a reign; their commands can be asked again.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

pub(super) struct Reign<'a> {
    lane: &'a mut Lane,
    committer: Committer,
    /// What decisions must know of the log is read beside the commits.
    reader: PgConnection,
    /// Where the log ends once everything that was decided is committed.
    head: Head,
    /// Where in the stream is what is committed.
    applied: Applied,
    memory: Memory,
    commands_seen: Seen,
    holds_seen: Seen,
    /// What was decided and is on its way to the log, the oldest first.
    flights: VecDeque<Flight>,
    queue: mpsc::Receiver<Run>,
    answers: Answers,
    refused: Refused,
    horizons: Horizons,
    trim_at: Instant,
    /// Whether the last thing done was to expire holds.
    expired_last: bool,
    /// Ends the intake task with the reign.
    _intake: DropGuard,
}

/// A batch on its way to the log.
struct Flight {
    messages: Vec<Message>,
    batch: Batch,
    applied: Applied,
}

/// What the lane does next.
enum Step {
    Stop,
    Commands(Vec<Message>),
    Expire(Timestamp),
    Ended(Result<Ended, StoreError>),
    Again,
}

impl<'a> Reign<'a> {
    /// Takes the partition over, reads what the log says, and lets commands come in.
    pub(super) async fn begin(lane: &'a mut Lane, thread: &Handle) -> Result<Self, StoreError> {
        let config = &lane.config;
        let taken = Committer::take_over(thread, config.database_url.clone(), config.partition).await?;
        let (committer, head) = taken;
        let mut reader = connect(&config.database_url, Role::Writer).await?;
        let memory = Memory::take_over(&mut reader, config.partition, config.accounts_max).await?;
        tracing::info!(
            epoch = head.epoch,
            position = head.position.0,
            applied = head.applied.sequence,
            "leading"
        );
        lane.recent.clear();
        lane.committed.send_replace(head.position);
        let (sender, queue) = mpsc::channel(QUEUE_RUNS);
        let stop = CancellationToken::new();
        let intake = Intake {
            url: lane.config.nats_url.clone(),
            queue: sender,
            rules: lane.rules.clone(),
            room: Room::new(),
            from: head.applied.clone(),
            last: None,
            in_vain: 0,
            health: Arc::clone(&lane.health),
        };
        tokio::spawn(intake.run(stop.clone()));
        lane.health.well("lane");
        Ok(Reign {
            committer,
            reader,
            commands_seen: Seen::after(head.latest_id_ms),
            holds_seen: Seen::after(head.latest_id_ms),
            applied: head.applied.clone(),
            head,
            answers: Answers::start(lane.answers.clone()),
            refused: Refused::start(lane.streams.clone()),
            horizons: Horizons::new(lane.streams.clone(), Arc::clone(&lane.clock)),
            trim_at: Instant::now(),
            expired_last: false,
            flights: VecDeque::with_capacity(AHEAD_MAX),
            _intake: stop.drop_guard(),
            lane,
            memory,
            queue,
        })
    }

    /// Rules until told to stop, which is [`Ok`], or until something is in doubt.
    pub(super) async fn run(mut self, stop: CancellationToken) -> Result<(), StoreError> {
        let result = self.rule(&stop).await;
        self.lane.recent.press(false);
        let _ = tokio::time::timeout(ANSWERS_WITHIN, self.answers.finish()).await;
        result
    }

    async fn rule(&mut self, stop: &CancellationToken) -> Result<(), StoreError> {
        loop {
            self.memory.evict();
            match self.next(stop).await {
                Step::Stop => return self.land_all().await,
                Step::Commands(messages) => self.launch(messages).await?,
                Step::Expire(horizon) => self.expire(horizon).await?,
                Step::Ended(ended) => self.land(ended?).await?,
                Step::Again => {}
            }
            if self.memory.is_full() || self.memory.is_stale() {
                within(READ_WITHIN, self.memory.refresh(&mut self.reader)).await?;
            }
        }
    }

    /// Waits for something to do. Holds whose time has come and commands take turns, so that many of
    /// the one kind never keep the other waiting.
    async fn next(&mut self, stop: &CancellationToken) -> Step {
        if self.flights.len() == AHEAD_MAX {
            return Step::Ended(self.committer.ended().await);
        }
        if self.memory.is_full() {
            // The lane waits for the projector, which must not wait for the lane.
            self.lane.recent.press(false);
            tokio::select! {
                () = stop.cancelled() => return Step::Stop,
                ended = self.committer.ended(), if !self.flights.is_empty() => return Step::Ended(ended),
                () = tokio::time::sleep(FULL_PAUSE) => return Step::Again,
            }
        }
        // Looked at here and not only below: a queue that is never empty must not put them off.
        self.horizons.look();
        if Instant::now() >= self.trim_at {
            self.trim();
        }
        let due_in = self.due_in();
        if due_in.is_zero() && (!self.expired_last || self.queue.is_empty()) {
            match self.horizons.reached(&self.head.applied) {
                Some(horizon) if self.memory.next_due() <= Some(horizon) => {
                    self.expired_last = true;
                    return Step::Expire(horizon);
                }
                _ => self.horizons.ask(&self.head.applied),
            }
        }
        self.expired_last = false;
        if self.flights.is_empty() && self.queue.is_empty() {
            self.lane.recent.press(false);
        }
        let wake = tokio::time::sleep(if due_in.is_zero() { ASK_AGAIN } else { due_in });
        tokio::select! {
            biased;
            () = stop.cancelled() => Step::Stop,
            ended = self.committer.ended(), if !self.flights.is_empty() => Step::Ended(ended),
            first = self.queue.recv() => match first {
                Some(first) => Step::Commands(self.gather(first)),
                None => Step::Stop,
            },
            () = self.horizons.answered() => Step::Again,
            () = wake => Step::Again,
            () = tokio::time::sleep_until(self.trim_at) => Step::Again,
        }
    }

    /// How long until the next hold's time; zero when it has come.
    fn due_in(&self) -> Duration {
        let Some(due) = self.memory.next_due() else { return TRIM_EVERY };
        let micros = due.micros().saturating_sub(self.lane.clock.now().micros());
        Duration::from_micros(u64::try_from(micros).unwrap_or(0))
    }

    /// What has arrived by now, up to the bounds.
    fn gather(&mut self, first: Run) -> Vec<Message> {
        let (mut messages, mut commands, mut bytes, mut next) = (Vec::new(), 0, 0, Some(first));
        let rules = Arc::clone(&self.lane.rules.borrow());
        while let Some(run) = next {
            commands += run.commands();
            bytes += run.bytes();
            messages.extend(run.messages(&rules));
            let room = commands < BATCH_COMMANDS_MAX && bytes < BATCH_BYTES_MAX;
            next = if room { self.queue.try_recv().ok() } else { None };
        }
        messages
    }

    async fn expire(&mut self, horizon: Timestamp) -> Result<(), StoreError> {
        let due = self.memory.take_due(horizon, EXPIRIES_MAX);
        self.launch(due.into_iter().map(Message::of_expiry).collect()).await
    }

    /// Decides a batch and sends it on its way.
    async fn launch(&mut self, messages: Vec<Message>) -> Result<(), StoreError> {
        // What these refer to may be on its way, and is looked for in the log alone.
        if lookups::refer(&messages) {
            self.land_all().await?;
        }
        let commands: usize = messages.iter().map(|message| message.asks.len()).sum();
        if commands >= PRESSED_COMMANDS {
            self.lane.recent.press(true);
        } else if commands < EASY_COMMANDS {
            self.lane.recent.press(false);
        }
        match self.decide(&messages, Mode::Normal).await {
            Ok(batch) => self.commit(messages, batch).await,
            Err(StoreError::Content { sqlstate, message }) => {
                // What was decided before is none of its fault.
                self.land_all().await?;
                tracing::warn!(%sqlstate, %message, "a batch could not be decided");
                self.read_anew().await?;
                self.settle(messages).await
            }
            Err(error) => Err(error),
        }
    }

    async fn decide(&mut self, messages: &[Message], mode: Mode) -> Result<Batch, StoreError> {
        let partition = self.head.partition;
        let lookups =
            within(READ_WITHIN, Lookups::fetch(&mut self.reader, partition, messages, &self.commands_seen))
                .await?;
        let commands = || messages.iter().flat_map(Message::commands);
        let accounts = commands().map(|command| &command.account);
        let holds = commands().filter_map(|command| Some((&command.account, command.intent.hold()?)));
        let holds = holds.filter(|(_, hold)| !self.holds_seen.is_new(hold));
        within(READ_WITHIN, self.memory.prepare(&mut self.reader, accounts, holds)).await?;
        let asked = messages.iter().map(|message| message.asks.len()).sum();
        let decider = Decider {
            now: self.lane.clock.now().max(self.head.lane_time),
            head: &self.head,
            assets: &self.lane.config.assets,
            memory: &mut self.memory,
            lookups,
            seen: &self.commands_seen,
            mode,
            ahead: self.flights.iter().map(|flight| &flight.batch).collect(),
            records: Vec::with_capacity(asked),
            verdicts: Vec::with_capacity(asked),
            keys: Map::with_capacity_and_hasher(asked, Default::default()),
            evidence: messages.iter().filter_map(Message::evidence).collect(),
            batches: Map::default(),
        };
        let batch = decider.run(messages)?;
        for Record { event, .. } in batch.records.iter() {
            self.commands_seen.add(event.command);
            if let Some(hold) = event.fact.hold() {
                self.holds_seen.add(hold);
            }
        }
        Ok(batch)
    }

    async fn commit(&mut self, messages: Vec<Message>, batch: Batch) -> Result<(), StoreError> {
        let applied = messages.iter().rev().find_map(Message::applied);
        let applied = applied.unwrap_or_else(|| self.head.applied.clone());
        if let Some(last) = batch.records.last() {
            let (position, hash, lane_time) = (last.event.position, last.hash, last.event.time);
            self.head = Head { position, hash, lane_time, ..self.head.clone() };
        }
        self.head.applied = applied.clone();
        let (records, evidence) = (Arc::clone(&batch.records), batch.evidence.clone());
        self.committer.append(Append { records, evidence, applied: applied.clone() }).await?;
        self.flights.push_back(Flight { messages, batch, applied });
        Ok(())
    }

    /// Waits until nothing is on its way.
    async fn land_all(&mut self) -> Result<(), StoreError> {
        while !self.flights.is_empty() {
            let ended = self.committer.ended().await?;
            self.land(ended).await?;
        }
        Ok(())
    }

    /// The commit of the oldest batch on its way has ended.
    async fn land(&mut self, ended: Ended) -> Result<(), StoreError> {
        let flight = self.flights.pop_front().expect("what ended was on its way");
        match ended {
            Ended::Committed => self.landed(flight).await,
            Ended::Failed(error @ StoreError::Content { .. }) => {
                let commands = flight.messages.len();
                tracing::warn!(%error, commands, "a batch was refused; looking for the command at fault");
                let dropped = self.drop_flights().await?;
                self.settle(flight.messages).await?;
                for messages in dropped {
                    self.settle(messages).await?;
                }
                Ok(())
            }
            Ended::Failed(error) => Err(error),
            Ended::Skipped | Ended::GoesOn(_) => {
                Err(StoreError::Inconsistent("commits ended out of order".to_owned()))
            }
        }
    }

    /// Drops what was decided on top of a commit that failed; answers what it was decided from.
    async fn drop_flights(&mut self) -> Result<Vec<Vec<Message>>, StoreError> {
        let mut dropped = Vec::new();
        while let Some(flight) = self.flights.pop_front() {
            let Ended::Skipped = self.committer.ended().await? else {
                return Err(StoreError::Inconsistent("a commit followed one that failed".to_owned()));
            };
            dropped.push(flight.messages);
        }
        self.read_anew().await?;
        Ok(dropped)
    }

    /// Decides and commits `messages` by themselves; when the content is refused, finds the command at
    /// fault.
    async fn settle(&mut self, messages: Vec<Message>) -> Result<(), StoreError> {
        let mut parts = vec![messages];
        while let Some(part) = parts.pop() {
            let Some((mut part, _)) = self.try_alone(part, Mode::Normal).await? else { continue };
            match halve(&mut part) {
                Some(second) => parts.extend([second, part]),
                None => self.retry(part).await?,
            }
        }
        Ok(())
    }

    /// The second try of a command alone; failing again, it is set aside.
    async fn retry(&mut self, single: Vec<Message>) -> Result<(), StoreError> {
        let Some((part, error)) = self.try_alone(single, Mode::Normal).await? else { return Ok(()) };
        for message in &part {
            match &message.source {
                Source::Stream(delivery) => {
                    self.refused.quarantined(&error.to_string(), delivery, &message.carried);
                }
                Source::Expiry((account, hold)) => self.refused.stuck(&error.to_string(), account, *hold),
            }
        }
        match self.try_alone(part, Mode::Quarantine).await? {
            None => Ok(()),
            Some((_, error)) => Err(error),
        }
    }

    /// Decides and commits a batch while nothing else is on its way. When its content is refused it
    /// is given back, with memory as if it had never been.
    async fn try_alone(
        &mut self,
        messages: Vec<Message>,
        mode: Mode,
    ) -> Result<Option<(Vec<Message>, StoreError)>, StoreError> {
        let batch = match self.decide(&messages, mode).await {
            Ok(batch) => batch,
            Err(error @ StoreError::Content { .. }) => {
                self.read_anew().await?;
                return Ok(Some((messages, error)));
            }
            Err(error) => return Err(error),
        };
        self.commit(messages, batch).await?;
        let ended = self.committer.ended().await?;
        let flight = self.flights.pop_front().expect("just sent on its way");
        match ended {
            Ended::Committed => self.landed(flight).await.map(|()| None),
            Ended::Failed(error @ StoreError::Content { .. }) => {
                self.read_anew().await?;
                Ok(Some((flight.messages, error)))
            }
            Ended::Failed(error) => Err(error),
            Ended::Skipped | Ended::GoesOn(_) => {
                Err(StoreError::Inconsistent("commits ended out of order".to_owned()))
            }
        }
    }

    /// Drops the memory that a refused batch has changed, and reads what the log says.
    async fn read_anew(&mut self) -> Result<(), StoreError> {
        self.head = self.committer.go_on().await?;
        let (partition, accounts_max) = (self.head.partition, self.lane.config.accounts_max);
        let read = Memory::take_over(&mut self.reader, partition, accounts_max);
        self.memory = within(BEGIN_WITHIN, read).await?;
        Ok(())
    }

    /// A batch is committed: those who wait for it are told.
    async fn landed(&mut self, flight: Flight) -> Result<(), StoreError> {
        let Flight { messages, batch: Batch { records, verdicts, .. }, applied } = flight;
        self.applied = applied;
        let events = self.lane.recent.push(Arc::unwrap_or_clone(records));
        if let Some(last) = events.last() {
            self.lane.committed.send_replace(last.event.position);
            metrics::counter!("holdfast_events_total").increment(events.len() as u64);
            metrics::counter!("holdfast_commits_total").increment(1);
        }
        for message in &messages {
            if let ([Asked::Silent(reason)], Some(delivery)) = (message.asks.as_slice(), message.delivery()) {
                self.refused.silent(*reason, delivery, &message.carried);
            }
        }
        let waited = |verdict: &Verdict| match verdict {
            Verdict::At(position) => Some(*position),
            _ => None,
        };
        let positions: Vec<Position> = verdicts.iter().filter_map(waited).collect();
        let rows = lookup::positions(&mut self.reader, self.head.partition, &positions);
        let rows = within(READ_WITHIN, rows).await?;
        self.answers.tell(Decided { messages, verdicts, events, rows }).await;
        Ok(())
    }

    fn trim(&mut self) {
        self.trim_at = Instant::now() + TRIM_EVERY;
        let applied = self.applied.clone();
        tokio::spawn(trim(self.lane.streams.clone(), applied, self.lane.config.keep, self.lane.clock.now()));
    }
}

/// The second half of a batch, which leaves `part` with the first; none when it is one command.
fn halve(part: &mut Vec<Message>) -> Option<Vec<Message>> {
    match part.as_mut_slice() {
        [single] => single.split().map(|second| vec![second]),
        _ => Some(part.split_off(part.len() / 2)),
    }
}
