//! What a batch must know of the log before it is decided: one indexed query a question.

use std::collections::HashMap;

use holdfast_core::body::Reference;
use holdfast_core::chain::Hash;
use holdfast_core::decide::{Moved, Referenced, References};
use holdfast_core::{Command, Event, Fact, Intent, Position};
use holdfast_store::lookup::{self, CommandKey};
use holdfast_store::writer::Evidence;
use holdfast_store::{Row, StoreError};
use sqlx::PgConnection;

use super::seen::Seen;
use crate::message::Message;

/// The answers, to which the batch's own events are added as they are decided.
#[derive(Default)]
pub(super) struct Lookups {
    /// Commands that were decided before, with their rows.
    pub(super) decided: HashMap<CommandKey, Row>,
    /// The envelopes of batches that those rows refer to.
    pub(super) evidence: Evidence,
    externals: HashMap<String, Position>,
    origins: HashMap<Position, Event>,
    by_command: HashMap<CommandKey, Position>,
    undone: HashMap<Position, (u32, i64)>,
    /// Whether the batch refers to earlier events at all.
    refer: bool,
}

impl Lookups {
    pub(super) async fn fetch(
        connection: &mut PgConnection,
        partition: i16,
        messages: &[Message],
        seen: &Seen,
    ) -> Result<Self, StoreError> {
        let commands = || messages.iter().flat_map(Message::commands);
        let unsure = commands().filter(|command| !seen.is_new(&command.id));
        let mut keys: Vec<CommandKey> = unsure.map(|command| (command.issuer.clone(), command.id)).collect();
        keys.extend(commands().filter_map(origin_key));
        let decided = lookup::commands(connection, partition, &keys).await?;
        let mut found = Lookups { refer: refer(messages), ..Lookups::default() };
        let batches = decided.values().filter_map(|row| row.envelope.as_slice().try_into().ok());
        found.evidence = lookup::evidence(connection, partition, &batches.collect::<Vec<Hash>>()).await?;

        if !found.refer {
            found.decided = decided;
            return Ok(found);
        }
        let externals: Vec<&str> = commands().filter_map(external_ref).collect();
        found.externals = lookup::external_refs(connection, partition, &externals).await?;

        let positions: Vec<Position> = commands().filter_map(origin_position).collect();
        for (_, row) in lookup::positions(connection, partition, &positions).await? {
            found.add_origin(row.event);
        }
        for key in commands().filter_map(origin_key) {
            if let Some(row) = decided.get(&key) {
                found.add_origin(row.event.clone());
            }
        }
        let origins: Vec<Position> = found.origins.keys().copied().collect();
        found.undone = lookup::undone(connection, partition, &origins).await?;
        found.decided = decided;
        Ok(found)
    }

    /// What the log, and the batch so far, says of the references that `command` makes.
    pub(super) fn references(&self, command: &Command) -> References {
        if !self.refer {
            return References::default();
        }
        let external_ref = external_ref(command).and_then(|text| self.externals.get(text)).copied();
        let origin = origin_position(command)
            .or_else(|| origin_key(command).and_then(|key| self.by_command.get(&key)).copied())
            .and_then(|position| self.origins.get(&position));
        let of = origin.map(|origin| {
            let (n, undone) = self.undone.get(&origin.position).copied().unwrap_or((0, 0));
            let moved = Moved::by(&origin.fact);
            Referenced { position: origin.position, account: origin.account.clone(), moved, n, undone }
        });
        References { external_ref, of }
    }

    /// An event of this batch: later commands of it may refer to it.
    pub(super) fn add(&mut self, event: &Event) {
        if !self.refer {
            return;
        }
        match &event.fact {
            Fact::ToppedUp { external_ref: Some(text), .. } => {
                self.externals.insert(text.as_str().to_owned(), event.position);
            }
            Fact::Refunded { of, n, total, .. } | Fact::TopUpReversed { of, n, total, .. } => {
                self.undone.insert(*of, (*n, *total));
            }
            _ => {}
        }
        if Moved::by(&event.fact) != Moved::Nothing {
            self.add_origin(event.clone());
        }
    }

    fn add_origin(&mut self, event: Event) {
        self.by_command.insert((event.issuer.clone(), event.command), event.position);
        self.origins.insert(event.position, event);
    }
}

/// Whether deciding any of these needs to know of earlier events besides those of its account.
pub(super) fn refer(messages: &[Message]) -> bool {
    let refers = |command: &Command| external_ref(command).is_some() || origin(command).is_some();
    messages.iter().flat_map(Message::commands).any(refers)
}

fn external_ref(command: &Command) -> Option<&str> {
    match &command.intent {
        Intent::TopUp { external_ref: Some(text), .. } => Some(text.as_str()),
        _ => None,
    }
}

fn origin(command: &Command) -> Option<Reference> {
    match &command.intent {
        Intent::ReverseTopUp { of, .. } | Intent::Refund { of, .. } => Some(*of),
        _ => None,
    }
}

fn origin_position(command: &Command) -> Option<Position> {
    match origin(command)? {
        Reference::Position(position) => Some(position),
        Reference::Command(_) => None,
    }
}

/// A command id alone means one of the same issuer: ids of others are not its to know.
fn origin_key(command: &Command) -> Option<CommandKey> {
    match origin(command)? {
        Reference::Position(_) => None,
        Reference::Command(id) => Some((command.issuer.clone(), id)),
    }
}
