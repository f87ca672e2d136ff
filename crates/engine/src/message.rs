//! What the lane decides, read: messages of the stream, verified, and holds whose time has come.
//!
//! **Shape.** Intake reads each message as it comes, while the lane is busy with those before it.
//! A message asks one thing, or, as a batch, many in order. A message of the stream that is a bundle becomes
//! one message here for each of its envelopes, of which the last finishes it.

use bytes::Bytes;
use holdfast_core::chain::{Hash, fingerprint};
use holdfast_core::id::expiry_id;
use holdfast_core::{AccountId, Command, HoldId, Intent, Issuer, Refusal, Timestamp};
use holdfast_protocol::bundle::envelopes;
use holdfast_protocol::keys::Accepted;
use holdfast_protocol::verify::{Authentic, Received, Rules, Silent, verify};
use holdfast_store::Applied;
use sha2::{Digest, Sha256};
use std::sync::Arc;
use uuid::Uuid;

use crate::intake::Delivery;

/// A hold's key.
pub(crate) type HoldKey = (AccountId, HoldId);

/// Messages that came together, read by the rules that were in force then.
pub(crate) struct Run {
    rules: Arc<Rules>,
    messages: Vec<Message>,
}

impl Run {
    pub(crate) fn read(rules: Arc<Rules>, deliveries: Vec<Delivery>) -> Self {
        let mut messages = Vec::with_capacity(deliveries.len());
        for delivery in deliveries {
            Message::of_delivery(&rules, delivery, &mut messages);
        }
        Run { messages, rules }
    }

    pub(crate) fn commands(&self) -> usize {
        self.messages.iter().map(|message| message.asks.len()).sum()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.messages.iter().map(|message| message.carried.len()).sum()
    }

    /// The messages by the rules that are in force now: a key that was revoked meanwhile must not be
    /// believed because its messages were quick.
    pub(crate) fn messages(self, rules: &Arc<Rules>) -> Vec<Message> {
        if Arc::ptr_eq(&self.rules, rules) {
            return self.messages;
        }
        self.messages.into_iter().map(|message| message.read_again(rules)).collect()
    }
}

/// One message, or one hold's time, as read.
pub(crate) struct Message {
    pub(crate) source: Source,
    pub(crate) asks: Vec<Asked>,
    pub(crate) reply: Option<Reply>,
    /// The envelope as it came: all of a delivery, or a line of a bundle.
    pub(crate) carried: Bytes,
    /// What its events keep as their envelope: the envelope, or of a batch its digest.
    pub(crate) envelope: Bytes,
    /// Whether these are the last of what the delivery asks: then it is applied.
    finishes: bool,
}

/// Where it comes from.
pub(crate) enum Source {
    /// The stream.
    Stream(Delivery),
    /// A hold's time has come.
    Expiry(HoldKey),
}

/// One thing that is asked. What is not a [`Asked::Command`] yields no event.
pub(crate) enum Asked {
    Silent(Silent),
    Refused { id: Uuid, account: String, refusal: Refusal },
    Command { command: Command, fingerprint: Hash },
}

/// Where outcomes go, and how they are signed.
pub(crate) struct Reply {
    pub(crate) subject: String,
    pub(crate) key: Arc<Accepted>,
    /// Of the whole message: it says which one is answered.
    pub(crate) fingerprint: Hash,
    pub(crate) telling: Telling,
}

/// How outcomes are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Telling {
    /// Each by itself.
    Alone,
    /// Those of a batch as lists.
    Listed,
    /// Together with those of other messages, as lists of answers.
    Gathered,
}

impl Message {
    /// Reads a message of the stream into `messages`: one, or one for each envelope of a bundle.
    fn of_delivery(rules: &Rules, delivery: Delivery, messages: &mut Vec<Message>) {
        let first = messages.len();
        for envelope in envelopes(&delivery.subject, &delivery.payload) {
            let carried = delivery.payload.slice_ref(envelope);
            messages.push(Message::read(rules, delivery.clone(), carried, false));
        }
        if let Some(last) = messages[first..].last_mut() {
            last.finishes = true;
        }
    }

    /// Reads an envelope that was `carried` by a message of the stream.
    fn read(rules: &Rules, delivery: Delivery, carried: Bytes, finishes: bool) -> Self {
        let received =
            Received { subject: &delivery.subject, stored_at: delivery.stored_at, payload: &carried };
        let (asks, reply, envelope) = match verify(rules, received) {
            Err(reason) => (vec![Asked::Silent(reason)], None, Bytes::new()),
            Ok(authentic) => {
                let reply = reply(&authentic);
                if authentic.is_batch() {
                    let digest = Sha256::digest(&carried);
                    (of_batch(&authentic), reply, Bytes::copy_from_slice(&digest))
                } else {
                    (vec![of_command(&authentic)], reply, carried.clone())
                }
            }
        };
        Message { source: Source::Stream(delivery), asks, reply, carried, envelope, finishes }
    }

    fn read_again(self, rules: &Rules) -> Self {
        match self.source {
            Source::Stream(delivery) => Message::read(rules, delivery, self.carried, self.finishes),
            Source::Expiry(key) => Message::of_expiry(key),
        }
    }

    /// A hold whose time has come.
    pub(crate) fn of_expiry((account, hold): HoldKey) -> Self {
        let command = Command {
            issuer: Issuer::ledger(),
            id: expiry_id(&account, hold),
            account: account.clone(),
            expires_at: Timestamp::from_micros(i64::MAX),
            intent: Intent::Expire { hold },
        };
        let fingerprint = fingerprint("expire", account.as_str(), hold.as_bytes());
        Message {
            source: Source::Expiry((account, hold)),
            asks: vec![Asked::Command { command, fingerprint }],
            reply: None,
            carried: Bytes::new(),
            envelope: Bytes::new(),
            finishes: true,
        }
    }

    pub(crate) fn commands(&self) -> impl Iterator<Item = &Command> {
        self.asks.iter().filter_map(|asked| match asked {
            Asked::Command { command, .. } => Some(command),
            _ => None,
        })
    }

    /// The message of the stream, if it is one.
    pub(crate) fn delivery(&self) -> Option<&Delivery> {
        match &self.source {
            Source::Stream(delivery) => Some(delivery),
            Source::Expiry(_) => None,
        }
    }

    /// Where the log is in the stream once this is applied, if this is the end of a message.
    pub(crate) fn applied(&self) -> Option<Applied> {
        self.delivery().filter(|_| self.finishes).map(Delivery::applied)
    }

    /// The envelope that several events refer to by its digest.
    pub(crate) fn evidence(&self) -> Option<(Hash, Bytes)> {
        // No envelope is as short as a digest.
        let digest = self.envelope.as_ref().try_into().ok()?;
        Some((digest, self.carried.clone()))
    }

    /// The second half of what a batch asks, which leaves this with the first.
    pub(crate) fn split(&mut self) -> Option<Message> {
        if self.asks.len() < 2 {
            return None;
        }
        let asks = self.asks.split_off(self.asks.len() / 2);
        let source = match &self.source {
            Source::Stream(delivery) => Source::Stream(delivery.clone()),
            Source::Expiry(key) => Source::Expiry(key.clone()),
        };
        let finishes = std::mem::replace(&mut self.finishes, false);
        let reply = self.reply.as_ref().map(Reply::again);
        let (carried, envelope) = (self.carried.clone(), self.envelope.clone());
        Some(Message { source, asks, reply, carried, envelope, finishes })
    }
}

impl Reply {
    fn again(&self) -> Self {
        Reply { subject: self.subject.clone(), key: Arc::clone(&self.key), ..*self }
    }
}

fn reply(authentic: &Authentic<'_>) -> Option<Reply> {
    let telling = match (authentic.is_batch(), authentic.is_gathered()) {
        (true, _) => Telling::Listed,
        (_, true) => Telling::Gathered,
        _ => Telling::Alone,
    };
    Some(Reply {
        subject: authentic.reply_subject()?,
        key: Arc::clone(authentic.key),
        fingerprint: authentic.fingerprint(),
        telling,
    })
}

fn of_command(authentic: &Authentic<'_>) -> Asked {
    match authentic.command() {
        Ok(command) => Asked::Command { command, fingerprint: authentic.fingerprint() },
        Err(refusal) => refused(authentic, refusal),
    }
}

fn of_batch(authentic: &Authentic<'_>) -> Vec<Asked> {
    let members = match authentic.members() {
        Ok(members) => members,
        Err(refusal) => return vec![refused(authentic, refusal)],
    };
    members
        .into_iter()
        .map(|member| match member.command {
            Ok(command) => Asked::Command { command, fingerprint: member.fingerprint },
            Err(refusal) => Asked::Refused { id: member.id, account: member.account, refusal },
        })
        .collect()
}

fn refused(authentic: &Authentic<'_>, refusal: Refusal) -> Asked {
    let envelope = authentic.envelope();
    Asked::Refused { id: envelope.id, account: envelope.account.to_string(), refusal }
}
