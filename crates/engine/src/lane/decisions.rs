//! Deciding a batch in memory: from messages to records that can be committed and outcomes that
//! can be told once they are.
//!
//! **Correctness.** Commands are decided in their order, each on the state that the ones before
//! left. Nothing here is visible to anybody until the records are committed; when they are not,
//! the memory that was changed is dropped with them.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use holdfast_core::books::balances_after;
use holdfast_core::chain::Hash;
use holdfast_core::decide::rejected;
use holdfast_core::{
    Account, Assets, Command, CommandId, Context, Decision, Event, Fact, Intent, Position, Refusal,
    Rejection, Timestamp, decide,
};
use holdfast_protocol::Envelope;
use holdfast_protocol::envelope::Said;
use holdfast_store::lookup::CommandKey;
use holdfast_store::record::Link;
use holdfast_store::writer::Evidence;
use holdfast_store::{Head, Map, Record, StoreError};

use super::lookups::Lookups;
use super::memory::Memory;
use super::seen::Seen;
use crate::message::{Asked, Message};

/// What a batch came to.
#[derive(Default)]
pub(super) struct Batch {
    /// The events to commit.
    pub(super) records: Arc<Vec<Record>>,
    /// One for each thing asked, in order.
    pub(super) verdicts: Vec<Verdict>,
    /// Which record each command became.
    pub(super) keys: Map<CommandKey, usize>,
    /// The envelopes of batches that the records refer to.
    pub(super) evidence: Evidence,
}

/// What became of a thing asked.
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
    /// The ids of commands that were decided before this batch.
    pub(super) seen: &'a Seen,
    pub(super) mode: Mode,
    /// Batches that were decided and are not known to be committed.
    pub(super) ahead: Vec<&'a Batch>,
    pub(super) records: Vec<Record>,
    pub(super) verdicts: Vec<Verdict>,
    pub(super) keys: Map<CommandKey, usize>,
    pub(super) evidence: Evidence,
    /// Batches that were read again, to compare with what they said.
    pub(super) batches: Map<Hash, Map<(CommandId, Hash), Wording>>,
}

impl Decider<'_> {
    /// Decides everything that `messages` ask. A broken assertion is an error of the content, as a
    /// database that refuses a row is: the lane finds the command at fault and sets it aside.
    pub(super) fn run(mut self, messages: &[Message]) -> Result<Batch, StoreError> {
        let decided = catch_unwind(AssertUnwindSafe(|| {
            for message in messages {
                for asked in &message.asks {
                    let verdict = self.verdict(message, asked)?;
                    self.verdicts.push(verdict);
                }
            }
            Ok(())
        }));
        match decided {
            Ok(Ok(())) => {
                if !self.evidence.is_empty() {
                    self.drop_idle_evidence();
                }
                let (records, verdicts) = (Arc::new(self.records), self.verdicts);
                Ok(Batch { records, verdicts, keys: self.keys, evidence: self.evidence })
            }
            Ok(Err(error)) => Err(error),
            Err(panic) => Err(StoreError::Content { sqlstate: ASSERTION.to_owned(), message: said(&*panic) }),
        }
    }

    /// A batch that became no event is evidence of nothing.
    fn drop_idle_evidence(&mut self) {
        let named = self.records.iter().map(|record| record.envelope.as_ref());
        // Whole envelopes, of which there may be many beside, are no digests.
        let mut named: Vec<&[u8]> = named.filter(|envelope| envelope.len() == size_of::<Hash>()).collect();
        // The events of a batch stand together.
        named.dedup();
        let named: HashSet<&[u8]> = named.into_iter().collect();
        self.evidence.retain(|(digest, _)| named.contains(digest.as_slice()));
    }

    fn verdict(&mut self, message: &Message, asked: &Asked) -> Result<Verdict, StoreError> {
        let (command, fingerprint) = match asked {
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
            Ok(Decision::Record(fact)) => {
                let event = self.event(account, command, fact);
                self.record(message, event, *fingerprint)
            }
            Ok(Decision::Repeat(position)) => Ok(self.earlier(position)),
            Err(refusal) => Ok(Verdict::Refused(refusal)),
        }
    }

    /// What is answered when the command's id was used before.
    fn decided_before(&mut self, command: &Command, fingerprint: &Hash) -> Option<Verdict> {
        let (earlier, repeat) = self.earlier_of(&(command.issuer.clone(), command.id))?;
        if earlier.fingerprint == *fingerprint {
            return Some(repeat);
        }
        let said = self.said(&earlier, command.id);
        let differs = differences(said, command);
        if differs.is_empty() {
            return Some(repeat);
        }
        Some(Verdict::Refused(Refusal::IdempotencyConflict { position: earlier.position, differs }))
    }

    /// The first command of this key, and what its repeat is answered.
    fn earlier_of(&self, key: &CommandKey) -> Option<(Earlier, Verdict)> {
        if let Some(&index) = self.keys.get(key) {
            return Some((Earlier::of_record(&self.records[index]), Verdict::RepeatOf(index)));
        }
        // Spares looking for it in each batch that is ahead.
        if self.seen.is_new(&key.1) {
            return None;
        }
        for batch in &self.ahead {
            if let Some(&index) = batch.keys.get(key) {
                let record = &batch.records[index];
                let replayed = Verdict::Replayed(Box::new(record.event.clone()));
                return Some((Earlier::of_record(record), replayed));
            }
        }
        let row = self.lookups.decided.get(key)?;
        let (position, fingerprint) = (row.event.position, row.fingerprint);
        let earlier = Earlier { position, fingerprint, envelope: row.envelope.clone().into() };
        Some((earlier, Verdict::Replayed(Box::new(row.event.clone()))))
    }

    /// What the first command said. The envelope of a batch is read once, however many of its
    /// commands are compared.
    fn said(&mut self, earlier: &Earlier, id: CommandId) -> Option<Wording> {
        let wanted = (id, earlier.fingerprint);
        let Ok(digest) = Hash::try_from(earlier.envelope.as_ref()) else {
            let envelope = Envelope::parse(&earlier.envelope).ok()?;
            return envelope.said(id, &earlier.fingerprint).as_ref().map(Wording::of);
        };
        if let Some(members) = self.batches.get(&digest) {
            return members.get(&wanted).cloned();
        }
        let ahead = self.ahead.iter().flat_map(|batch| &batch.evidence);
        let evidence = self.evidence.iter().chain(ahead).chain(&self.lookups.evidence);
        let (_, envelope) = evidence.into_iter().find(|(known, _)| *known == digest)?;
        let members = Envelope::parse(envelope).ok()?.batch().into_iter();
        let members = members.map(|(id, said)| ((id, said.fingerprint()), Wording::of(&said)));
        let members: Map<_, _> = members.collect();
        let said = members.get(&wanted).cloned();
        self.batches.insert(digest, members);
        said
    }

    fn earlier(&self, position: Position) -> Verdict {
        match usize::try_from(position.0 - self.head.position.0) {
            Ok(n) if n >= 1 => Verdict::RepeatOf(n - 1),
            _ => Verdict::At(position),
        }
    }

    /// What `fact` makes of `account`.
    fn event(&self, account: Option<&Account>, command: &Command, fact: Fact) -> Event {
        let (posted, held) = balances_after(account, &fact);
        let asset = match (account, &command.intent) {
            (Some(account), _) => Some(account.asset),
            (None, Intent::OpenAccount { asset, .. }) => self.assets.find(asset.as_str()),
            _ => None,
        };
        let last = self.records.last().map_or(self.head.position, |record| record.event.position);
        // The account's own copy of its id: the events that are kept for followers need none each then.
        let id = account.map_or(&command.account, |account| &account.id).clone();
        Event {
            position: last.next(),
            time: self.now,
            issuer: command.issuer.clone(),
            command: command.id,
            account: id,
            asset,
            posted,
            held,
            fact,
        }
    }

    fn record(&mut self, message: &Message, event: Event, fingerprint: Hash) -> Result<Verdict, StoreError> {
        // A rule that decides what cannot be folded is a fault of its command, not of the log.
        let apply = self.memory.apply(&event);
        apply.map_err(|error| StoreError::Content {
            sqlstate: ASSERTION.to_owned(),
            message: error.to_string(),
        })?;
        self.lookups.add(&event);
        let previous = self.records.last().map_or(&self.head.hash, |record| &record.hash);
        let link = Link { partition: self.head.partition, epoch: self.head.epoch, previous };
        let stored_time = message.delivery().map_or(self.now, |delivery| delivery.stored_at);
        let index = self.records.len();
        self.keys.insert((event.issuer.clone(), event.command), index);
        self.records.push(Record::chained(link, event, fingerprint, stored_time, message.envelope.clone()));
        Ok(Verdict::Recorded(index))
    }
}

/// The first command of an id.
struct Earlier {
    position: Position,
    fingerprint: Hash,
    /// Its envelope, of a batch the digest.
    envelope: Bytes,
}

impl Earlier {
    fn of_record(record: &Record) -> Self {
        let (position, fingerprint) = (record.event.position, record.fingerprint);
        Earlier { position, fingerprint, envelope: record.envelope.clone() }
    }
}

/// What a command said.
#[derive(Clone)]
pub(super) struct Wording {
    verb: String,
    account: String,
    body: Vec<u8>,
}

impl Wording {
    fn of(said: &Said<'_>) -> Self {
        let (verb, account) = (said.verb.to_string(), said.account.to_string());
        Wording { verb, account, body: said.body.to_vec() }
    }
}

/// The names of what differs in meaning: other bytes may mean the same.
fn differences(said: Option<Wording>, command: &Command) -> Vec<String> {
    let whole = || vec!["the whole command".to_owned()];
    let Some(said) = said else { return whole() };
    let Ok(verb) = said.verb.parse() else { return whole() };
    let mut differs = Vec::new();
    if said.account != command.account.as_str() {
        differs.push("account".to_owned());
    }
    if Some(verb) != command.intent.verb() {
        differs.push("verb".to_owned());
        return differs;
    }
    match Intent::parse(verb, &said.body, &command.issuer, command.id) {
        Ok(intent) => differs.extend(intent.differences(&command.intent)),
        Err(_) => return whole(),
    }
    differs
}

fn said(panic: &(dyn std::any::Any + Send)) -> String {
    let text =
        panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("an assertion failed").to_owned()
}
