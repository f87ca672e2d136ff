//! Deciding a batch in memory: from entries to records that can be committed and outcomes that
//! can be told once they are.
//!
//! **Correctness.** Entries are decided in their order, each on the state that the ones before
//! left. Nothing here is visible to anybody until the records are committed; when they are not,
//! the memory that was changed is dropped with them.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use holdfast_core::books::balances_after;
use holdfast_core::chain::Hash;
use holdfast_core::decide::rejected;
use holdfast_core::{
    Assets, Command, Context, Decision, Event, Fact, Intent, Position, Refusal, Rejection, Timestamp, decide,
};
use holdfast_protocol::Envelope;
use holdfast_store::lookup::CommandKey;
use holdfast_store::record::Link;
use holdfast_store::{Head, Record, StoreError};

use super::entries::{Asked, Entry};
use super::lookups::Lookups;
use super::memory::Memory;

/// What a batch came to.
#[derive(Default)]
pub(super) struct Batch {
    /// The events to commit.
    pub(super) records: Vec<Record>,
    /// One for each entry, in order.
    pub(super) verdicts: Vec<Verdict>,
}

/// What became of an entry.
pub(super) enum Verdict {
    /// Nobody is told anything.
    Nothing,
    /// The caller is told what is wrong.
    Refused(Refusal),
    /// It is this record of the batch.
    Recorded(usize),
    /// It was decided before, in this batch.
    RepeatOf(usize),
    /// It was decided before.
    Replayed(Box<Event>),
    /// The event at this position says it already.
    At(Position),
}

/// Stands where a SQLSTATE would when it was not the database that refused.
const ASSERTION: &str = "assertion";

/// How a batch is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// By the rules.
    Normal,
    /// Its one command failed alone, twice: it becomes a rejection.
    Quarantine,
}

pub(super) struct Decider<'a> {
    pub(super) head: &'a Head,
    pub(super) now: Timestamp,
    pub(super) assets: &'a Assets,
    pub(super) memory: &'a mut Memory,
    pub(super) lookups: Lookups,
    pub(super) mode: Mode,
    pub(super) in_batch: HashMap<CommandKey, usize>,
    pub(super) batch: Batch,
}

impl Decider<'_> {
    /// Decides every entry. A broken assertion is an error of the content, as a database that
    /// refuses a row is: the lane finds the command at fault and sets it aside.
    pub(super) fn run(mut self, entries: &[Entry<'_>]) -> Result<Batch, StoreError> {
        let decided = catch_unwind(AssertUnwindSafe(|| {
            for entry in entries {
                let verdict = self.verdict(entry)?;
                self.batch.verdicts.push(verdict);
            }
            Ok(())
        }));
        match decided {
            Ok(Ok(())) => Ok(self.batch),
            Ok(Err(error)) => Err(error),
            Err(panic) => Err(StoreError::Content { sqlstate: ASSERTION.to_owned(), message: said(&*panic) }),
        }
    }

    fn verdict(&mut self, entry: &Entry<'_>) -> Result<Verdict, StoreError> {
        let (command, fingerprint) = match &entry.asked {
            Asked::Silent(_) => return Ok(Verdict::Nothing),
            Asked::Refused { refusal, .. } => return Ok(Verdict::Refused(refusal.clone())),
            Asked::Command { command, fingerprint } => (command, fingerprint),
        };
        if let Some(verdict) = self.decided_before(command, fingerprint) {
            return Ok(verdict);
        }
        let references = self.lookups.references(command);
        let account = self.memory.account(&command.account);
        let context = Context { now: self.now, assets: self.assets, references: &references };
        let decision = match self.mode {
            Mode::Normal => decide(account, command, &context),
            Mode::Quarantine => Ok(Decision::Record(rejected(account, command, Rejection::Quarantined))),
        };
        match decision {
            Ok(Decision::Record(fact)) => self.record(entry, command, *fingerprint, fact),
            Ok(Decision::Repeat(position)) => Ok(self.earlier(position)),
            Err(refusal) => Ok(Verdict::Refused(refusal)),
        }
    }

    /// What is answered when the command's id was used before.
    fn decided_before(&self, command: &Command, fingerprint: &Hash) -> Option<Verdict> {
        let key = (command.issuer.clone(), command.id);
        if let Some(&index) = self.in_batch.get(&key) {
            let first = &self.batch.records[index];
            let earlier = Earlier {
                position: first.event.position,
                fingerprint: &first.fingerprint,
                envelope: &first.envelope,
            };
            return Some(match earlier.conflict(command, fingerprint) {
                Some(refusal) => Verdict::Refused(refusal),
                None => Verdict::RepeatOf(index),
            });
        }
        let row = self.lookups.decided.get(&key)?;
        let earlier =
            Earlier { position: row.event.position, fingerprint: &row.fingerprint, envelope: &row.envelope };
        Some(match earlier.conflict(command, fingerprint) {
            Some(refusal) => Verdict::Refused(refusal),
            None => Verdict::Replayed(Box::new(row.event.clone())),
        })
    }

    fn earlier(&self, position: Position) -> Verdict {
        match usize::try_from(position.0 - self.head.position.0) {
            Ok(n) if n >= 1 => Verdict::RepeatOf(n - 1),
            _ => Verdict::At(position),
        }
    }

    fn record(
        &mut self,
        entry: &Entry<'_>,
        command: &Command,
        fingerprint: Hash,
        fact: Fact,
    ) -> Result<Verdict, StoreError> {
        let account = self.memory.account(&command.account);
        let (posted, held) = balances_after(account, &fact);
        let asset = match &command.intent {
            _ if account.is_some() => account.map(|account| account.asset),
            Intent::OpenAccount { asset, .. } => self.assets.find(asset.as_str()),
            _ => None,
        };
        let last = self.batch.records.last();
        let event = Event {
            position: last.map_or(self.head.position, |record| record.event.position).next(),
            time: self.now,
            issuer: command.issuer.clone(),
            command: command.id,
            account: command.account.clone(),
            asset,
            posted,
            held,
            fact,
        };
        // A rule that decides what cannot be folded is a fault of its command, not of the log.
        let apply = self.memory.apply(&event);
        apply.map_err(|error| StoreError::Content {
            sqlstate: ASSERTION.to_owned(),
            message: error.to_string(),
        })?;
        self.lookups.add(&event);
        let previous = last.map_or(&self.head.hash, |record| &record.hash);
        let link = Link { partition: self.head.partition, epoch: self.head.epoch, previous };
        let stored_time = entry.delivery.map_or(self.now, |delivery| delivery.stored_at);
        let envelope = entry.delivery.map_or_else(Vec::new, |delivery| delivery.payload.to_vec());
        let record = Record::chained(link, event, fingerprint, stored_time, envelope);
        let index = self.batch.records.len();
        self.in_batch.insert((command.issuer.clone(), command.id), index);
        self.batch.records.push(record);
        Ok(Verdict::Recorded(index))
    }
}

/// The first command of an id.
struct Earlier<'a> {
    position: Position,
    fingerprint: &'a Hash,
    envelope: &'a [u8],
}

impl Earlier<'_> {
    /// None when `command` means the same as the first command of its id did.
    fn conflict(&self, command: &Command, fingerprint: &Hash) -> Option<Refusal> {
        if self.fingerprint == fingerprint {
            return None;
        }
        let differs = self.differences(command);
        if differs.is_empty() {
            None
        } else {
            Some(Refusal::IdempotencyConflict { position: self.position, differs })
        }
    }

    /// The names of what differs in meaning: other bytes may mean the same.
    fn differences(&self, command: &Command) -> Vec<String> {
        let whole = || vec!["the whole command".to_owned()];
        let Ok(envelope) = Envelope::parse(self.envelope) else { return whole() };
        let Ok(verb) = envelope.verb.parse() else { return whole() };
        let mut differs = Vec::new();
        if envelope.account != command.account.as_str() {
            differs.push("account".to_owned());
        }
        if Some(verb) != command.intent.verb() {
            differs.push("verb".to_owned());
            return differs;
        }
        match Intent::parse(verb, envelope.body(), &command.issuer, command.id) {
            Ok(intent) => differs.extend(intent.differences(&command.intent)),
            Err(_) => return whole(),
        }
        differs
    }
}

fn said(panic: &(dyn std::any::Any + Send)) -> String {
    let text =
        panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("an assertion failed").to_owned()
}
