//! One reign: from a take-over to the next doubt.
//!
//! **Correctness.** The order within a batch is: look up, decide, commit, then answer and tell
//! the relay and the projector. `committed` is sent only after the commit. What the database
//! refuses for its content is found by halving: each half starts from memory read anew.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use holdfast_core::Timestamp;
use holdfast_protocol::Outcome;
use holdfast_store::error::within;
use holdfast_store::{StoreError, Writer, lookup};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::answers::{Answer, Answers};
use super::decisions::{Batch, Decider, Mode, Verdict};
use super::entries::{Asked, Entry, Task};
use super::expiry::{ASK_AGAIN, Horizons};
use super::lookups::Lookups;
use super::memory::Memory;
use super::{BEGIN_WITHIN, Lane};
use crate::intake::{Delivery, Intake};
use crate::refused::Refused;
use crate::trim::{TRIM_EVERY, trim};

/// The most commands of one commit: larger statements gain nothing and delay their first command.
const BATCH_COMMANDS_MAX: usize = 1_000;
/// The most bytes of envelopes of one commit.
const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Commands waiting between intake and lane; beyond it the stream holds the backlog.
const QUEUE_COMMANDS: usize = 4_096;
/// The most holds expired in one commit.
const EXPIRIES_MAX: usize = 500;
/// How long to wait for the projector when memory is full.
const FULL_PAUSE: Duration = Duration::from_millis(50);

/// How long a batch may take, its waiting for a slow disk or a synchronous standby included.
const BATCH_WITHIN: Duration = Duration::from_secs(30);
/// How long outcomes may take to leave at the end of a reign; their commands can be asked again.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

pub(super) struct Reign<'a> {
    lane: &'a mut Lane,
    writer: Writer,
    memory: Memory,
    queue: mpsc::Receiver<Delivery>,
    answers: Answers,
    refused: Refused,
    horizons: Horizons,
    trim_at: Instant,
    /// Whether the last thing done was to expire holds.
    expired_last: bool,
    /// Ends the intake task with the reign.
    _intake: DropGuard,
}

/// What the lane does next.
enum Step {
    Stop,
    Commands(Vec<Task>),
    Expire(Timestamp),
    Again,
}

impl<'a> Reign<'a> {
    /// Takes the partition over, reads what the log says, and lets commands come in.
    pub(super) async fn begin(lane: &'a mut Lane) -> Result<Self, StoreError> {
        let mut writer = Writer::take_over(&lane.config.database_url, lane.config.partition).await?;
        let memory = Memory::take_over(&mut writer, lane.config.accounts_max).await?;
        let head = writer.head().clone();
        tracing::info!(
            epoch = head.epoch,
            position = head.position.0,
            applied = head.applied.sequence,
            "leading"
        );
        lane.committed.send_replace(head.position);
        let (sender, queue) = mpsc::channel(QUEUE_COMMANDS);
        let stop = CancellationToken::new();
        let intake = Intake {
            url: lane.config.nats_url.clone(),
            queue: sender,
            from: head.applied,
            last: None,
            in_vain: 0,
            health: Arc::clone(&lane.health),
        };
        tokio::spawn(intake.run(stop.clone()));
        lane.health.well("lane");
        Ok(Reign {
            answers: Answers::start(lane.answers.clone()),
            refused: Refused::start(lane.streams.clone()),
            horizons: Horizons::new(lane.streams.clone(), Arc::clone(&lane.clock)),
            trim_at: Instant::now(),
            expired_last: false,
            _intake: stop.drop_guard(),
            lane,
            writer,
            memory,
            queue,
        })
    }

    /// Rules until told to stop, which is [`Ok`], or until something is in doubt.
    pub(super) async fn run(mut self, stop: CancellationToken) -> Result<(), StoreError> {
        let result = self.rule(&stop).await;
        let _ = tokio::time::timeout(ANSWERS_WITHIN, self.answers.finish()).await;
        result
    }

    async fn rule(&mut self, stop: &CancellationToken) -> Result<(), StoreError> {
        loop {
            self.memory.evict();
            match self.next(stop).await {
                Step::Stop => return Ok(()),
                Step::Commands(tasks) => self.settle(tasks).await?,
                Step::Expire(horizon) => self.expire(horizon).await?,
                Step::Again => {}
            }
            if self.memory.is_full() {
                within(BATCH_WITHIN, self.memory.refresh(&mut self.writer)).await?;
            }
        }
    }

    /// Waits for something to do. Holds whose time has come and commands take turns, so that many of
    /// the one kind never keep the other waiting.
    async fn next(&mut self, stop: &CancellationToken) -> Step {
        if self.memory.is_full() {
            tokio::select! {
                () = stop.cancelled() => return Step::Stop,
                () = tokio::time::sleep(FULL_PAUSE) => return Step::Again,
            }
        }
        // Looked at here and not only below: a queue that is never empty must not put them off.
        self.horizons.look();
        if Instant::now() >= self.trim_at {
            self.trim();
        }
        let applied = &self.writer.head().applied;
        let due_in = self.due_in();
        if due_in.is_zero() && (!self.expired_last || self.queue.is_empty()) {
            match self.horizons.reached(applied) {
                Some(horizon) if self.memory.next_due() <= Some(horizon) => {
                    self.expired_last = true;
                    return Step::Expire(horizon);
                }
                _ => self.horizons.ask(applied),
            }
        }
        self.expired_last = false;
        let wake = tokio::time::sleep(if due_in.is_zero() { ASK_AGAIN } else { due_in });
        tokio::select! {
            biased;
            () = stop.cancelled() => Step::Stop,
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
    fn gather(&mut self, first: Delivery) -> Vec<Task> {
        let mut bytes = first.payload.len();
        let mut tasks = vec![Task::Message(first)];
        while tasks.len() < BATCH_COMMANDS_MAX && bytes < BATCH_BYTES_MAX {
            let Ok(delivery) = self.queue.try_recv() else { break };
            bytes += delivery.payload.len();
            tasks.push(Task::Message(delivery));
        }
        tasks
    }

    async fn expire(&mut self, horizon: Timestamp) -> Result<(), StoreError> {
        let due = self.memory.take_due(horizon, EXPIRIES_MAX);
        self.settle(due.into_iter().map(Task::Expiry).collect()).await
    }

    /// Processes `tasks`; when the content of the commit is refused, finds the task at fault.
    async fn settle(&mut self, tasks: Vec<Task>) -> Result<(), StoreError> {
        let mut parts = vec![tasks];
        while let Some(mut part) = parts.pop() {
            let Err(error) = self.process_in_time(&part, Mode::Normal).await else { continue };
            let StoreError::Content { .. } = error else { return Err(error) };
            tracing::warn!(%error, commands = part.len(), "a batch was refused; looking for the command at fault");
            self.read_anew().await?;
            if part.len() > 1 {
                let rest = part.split_off(part.len() / 2);
                parts.extend([rest, part]);
            } else {
                self.retry_alone(&part).await?;
            }
        }
        Ok(())
    }

    /// Drops the memory that a refused batch has changed, and reads what the log says.
    async fn read_anew(&mut self) -> Result<(), StoreError> {
        let read = Memory::take_over(&mut self.writer, self.lane.config.accounts_max);
        self.memory = within(BEGIN_WITHIN, read).await?;
        Ok(())
    }

    /// The second try of a command alone; failing again, it is set aside.
    async fn retry_alone(&mut self, part: &[Task]) -> Result<(), StoreError> {
        let Err(error) = self.process_in_time(part, Mode::Normal).await else { return Ok(()) };
        let StoreError::Content { .. } = error else { return Err(error) };
        self.read_anew().await?;
        self.process_in_time(part, Mode::Quarantine).await?;
        match part {
            [Task::Message(delivery)] => self.refused.quarantined(&error.to_string(), delivery),
            [Task::Expiry((account, hold))] => self.refused.stuck(&error.to_string(), account, *hold),
            _ => unreachable!("a command that is alone"),
        }
        Ok(())
    }

    /// A database that has vanished without a word would be waited for without end; after this long
    /// nobody knows what became of the commit, and taking over again finds out.
    async fn process_in_time(&mut self, tasks: &[Task], mode: Mode) -> Result<(), StoreError> {
        within(BATCH_WITHIN, self.process(tasks, mode)).await
    }

    async fn process(&mut self, tasks: &[Task], mode: Mode) -> Result<(), StoreError> {
        let rules = Arc::clone(&self.lane.rules.borrow());
        let entries: Vec<Entry<'_>> = tasks.iter().map(|task| Entry::read(&rules, task)).collect();
        let batch = self.decide(&entries, mode).await?;
        self.commit(&batch, &entries).await?;
        self.report(&batch, &entries);
        let answers = self.answers(&batch, &entries).await?;
        self.answers.tell(answers).await;
        Ok(())
    }

    async fn decide(&mut self, entries: &[Entry<'_>], mode: Mode) -> Result<Batch, StoreError> {
        let lookups = Lookups::fetch(&mut self.writer, entries).await?;
        let commands = || entries.iter().filter_map(Entry::command);
        let accounts = commands().map(|command| &command.account);
        let holds = commands().filter_map(|command| Some((&command.account, command.intent.hold()?)));
        self.memory.prepare(&mut self.writer, accounts, holds).await?;
        let head = self.writer.head();
        let decider = Decider {
            now: self.lane.clock.now().max(head.lane_time),
            head,
            assets: &self.lane.config.assets,
            memory: &mut self.memory,
            lookups,
            mode,
            in_batch: HashMap::new(),
            batch: Batch::default(),
        };
        decider.run(entries)
    }

    async fn commit(&mut self, batch: &Batch, entries: &[Entry<'_>]) -> Result<(), StoreError> {
        let last = entries.iter().rev().find_map(|entry| entry.delivery);
        let applied = last.map_or_else(|| self.writer.head().applied.clone(), Delivery::applied);
        if !batch.records.is_empty() {
            self.writer.append(&batch.records, applied).await?;
            self.lane.committed.send_replace(self.writer.head().position);
        } else if applied != self.writer.head().applied {
            self.writer.advance(applied).await?;
        }
        Ok(())
    }

    fn report(&mut self, batch: &Batch, entries: &[Entry<'_>]) {
        for entry in entries {
            if let (Asked::Silent(reason), Some(delivery)) = (&entry.asked, entry.delivery) {
                self.refused.silent(*reason, delivery);
            }
        }
        if !batch.records.is_empty() {
            metrics::counter!("holdfast_events_total").increment(batch.records.len() as u64);
            metrics::counter!("holdfast_commits_total").increment(1);
        }
    }

    /// The outcomes of a batch that is committed.
    async fn answers(&mut self, batch: &Batch, entries: &[Entry<'_>]) -> Result<Vec<Answer>, StoreError> {
        let waited = |verdict: &Verdict| match verdict {
            Verdict::At(position) => Some(*position),
            _ => None,
        };
        let positions: Vec<_> = batch.verdicts.iter().filter_map(waited).collect();
        let partition = self.writer.head().partition;
        let rows = lookup::positions(self.writer.connection(), partition, &positions).await?;
        let mut answers = Vec::with_capacity(entries.len());
        for (entry, verdict) in entries.iter().zip(&batch.verdicts) {
            let (Some(reply), Some((id, account, fingerprint))) = (&entry.reply, entry.asked.names()) else {
                continue;
            };
            let outcome = match verdict {
                Verdict::Nothing => continue,
                Verdict::Refused(refusal) => Outcome::refused(id, account, refusal),
                Verdict::Recorded(index) => Outcome::of_event(id, &batch.records[*index].event, false),
                Verdict::RepeatOf(index) => Outcome::of_event(id, &batch.records[*index].event, true),
                Verdict::Replayed(event) => Outcome::of_event(id, event, true),
                Verdict::At(position) => match rows.get(position) {
                    Some(row) => Outcome::of_event(id, &row.event, true),
                    None => return Err(StoreError::Inconsistent(format!("there is no event at {position}"))),
                },
            };
            answers.push(Answer::new(reply, fingerprint, &outcome));
        }
        Ok(answers)
    }

    fn trim(&mut self) {
        self.trim_at = Instant::now() + TRIM_EVERY;
        let applied = self.writer.head().applied.clone();
        tokio::spawn(trim(self.lane.streams.clone(), applied, self.lane.config.keep, self.lane.clock.now()));
    }
}
