//! A batch's tasks, read: what each message asks, or why it is passed over.

use holdfast_core::chain::Hash;
use holdfast_core::id::expiry_id;
use holdfast_core::{AccountId, Command, HoldId, Intent, Issuer, Refusal, Timestamp};
use holdfast_protocol::keys::MacKey;
use holdfast_protocol::verify::{Received, Rules, Silent, verify};
use uuid::Uuid;

use super::memory::HoldKey;
use crate::intake::Delivery;

/// One thing to be decided.
#[derive(Debug, Clone)]
pub(super) enum Task {
    /// A message of the stream.
    Message(Delivery),
    /// A hold's time has come.
    Expiry(HoldKey),
}

/// A task as read. What is not a [`Asked::Command`] yields no event.
pub(super) struct Entry<'a> {
    pub(super) asked: Asked,
    pub(super) reply: Option<Reply<'a>>,
    pub(super) delivery: Option<&'a Delivery>,
}

/// What a task asks.
pub(super) enum Asked {
    Silent(Silent),
    Refused { id: Uuid, account: String, fingerprint: Hash, refusal: Refusal },
    Command { command: Box<Command>, fingerprint: Hash },
}

impl Asked {
    /// The command's id, account and fingerprint, when the message is authentic.
    pub(super) fn names(&self) -> Option<(Uuid, &str, &Hash)> {
        match self {
            Asked::Silent(_) => None,
            Asked::Refused { id, account, fingerprint, .. } => Some((*id, account, fingerprint)),
            Asked::Command { command, fingerprint } => {
                Some((command.id, command.account.as_str(), fingerprint))
            }
        }
    }
}

/// Where an outcome goes, and the key that signs it.
pub(super) struct Reply<'a> {
    pub(super) subject: String,
    pub(super) key: &'a MacKey,
}

impl<'a> Entry<'a> {
    pub(super) fn read(rules: &'a Rules, task: &'a Task) -> Self {
        match task {
            Task::Message(delivery) => Entry::of_message(rules, delivery),
            Task::Expiry((account, hold)) => Entry::of_expiry(account, *hold),
        }
    }

    fn of_message(rules: &'a Rules, delivery: &'a Delivery) -> Self {
        let received = Received {
            subject: &delivery.subject,
            stored_at: delivery.stored_at,
            payload: &delivery.payload,
        };
        let authentic = match verify(rules, received) {
            Ok(authentic) => authentic,
            Err(reason) => {
                return Entry { asked: Asked::Silent(reason), reply: None, delivery: Some(delivery) };
            }
        };
        let reply = authentic.reply_subject().map(|subject| Reply { subject, key: &authentic.key.outcome });
        let asked = match authentic.command() {
            Ok(command) => {
                Asked::Command { command: Box::new(command), fingerprint: authentic.fingerprint() }
            }
            Err(refusal) => {
                let envelope = authentic.envelope();
                let fingerprint = authentic.fingerprint();
                Asked::Refused {
                    id: envelope.id,
                    account: envelope.account.to_string(),
                    fingerprint,
                    refusal,
                }
            }
        };
        Entry { asked, reply, delivery: Some(delivery) }
    }

    fn of_expiry(account: &AccountId, hold: HoldId) -> Self {
        let command = Command {
            issuer: Issuer::ledger(),
            id: expiry_id(account, hold),
            account: account.clone(),
            expires_at: Timestamp::from_micros(i64::MAX),
            intent: Intent::Expire { hold },
        };
        let fingerprint = holdfast_core::chain::fingerprint("expire", account.as_str(), hold.as_bytes());
        Entry {
            asked: Asked::Command { command: Box::new(command), fingerprint },
            reply: None,
            delivery: None,
        }
    }

    pub(super) fn command(&self) -> Option<&Command> {
        match &self.asked {
            Asked::Command { command, .. } => Some(command),
            _ => None,
        }
    }
}
