//! Verification: from bytes that anybody may have published to a command that is believed.
//!
//! **Shape.** The lane calls [`verify`], which answers [`Silent`] for whatever is not authentic
//! (nobody is told, since a forger learns from answers), then [`Authentic::command`], or
//! [`Authentic::members`] of a batch, whose errors the caller is told.
//!
//! **Correctness.** The checks run in this order: size, strict parse, key known and not revoked,
//! MAC, verb allowed, subject and audience, `iat` against the stored time. Nothing before the MAC
//! is trusted to be more than bytes. `exp` is no check: it is decided, after the look-up of
//! duplicates.

use std::sync::Arc;

use holdfast_core::chain::{Hash, fingerprint, fingerprint_of};
use holdfast_core::{AccountId, Command, CommandId, Intent, Issuer, Refusal, Timestamp, Verb};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::bundle::BUNDLE;
use crate::envelope::{
    BATCH, BATCH_COMMANDS_MAX, BATCH_MAX_BYTES, ENVELOPE_MAX_BYTES, Envelope, WrittenMember,
};
use crate::issuers::Issuers;
use crate::keys::{Accepted, Keyring};
use crate::subject;

/// How far `iat` may be from the stored time, either way. The stored time is JetStream's, not the
/// wall clock: a backlog must survive an outage of the ledger.
pub const IAT_WINDOW_MS: u64 = 300_000;

/// Why a message is passed over without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names say it; docs/envelope.md has a sentence for each")]
pub enum Silent {
    TooLarge,
    Malformed,
    UnknownKey,
    RevokedKey,
    BadSignature,
    VerbNotAllowed,
    WrongSubject,
    WrongAudience,
    StaleIat,
}

impl Silent {
    /// The reason in metrics and in `ledger.dlq.<reason>`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Silent::TooLarge => "too_large",
            Silent::Malformed => "malformed",
            Silent::UnknownKey => "unknown_key",
            Silent::RevokedKey => "revoked_key",
            Silent::BadSignature => "bad_signature",
            Silent::VerbNotAllowed => "verb_not_allowed",
            Silent::WrongSubject => "wrong_subject",
            Silent::WrongAudience => "wrong_audience",
            Silent::StaleIat => "stale_iat",
        }
    }
}

/// What commands are checked against.
#[derive(Debug)]
pub struct Rules {
    /// The keys.
    pub keyring: Keyring,
    /// The rights.
    pub issuers: Issuers,
    /// This deployment.
    pub audience: String,
}

/// A message as JetStream delivered it, or an envelope of a bundle.
#[derive(Debug, Clone, Copy)]
pub struct Received<'a> {
    /// The subject it was published on.
    pub subject: &'a str,
    /// When JetStream stored it.
    pub stored_at: Timestamp,
    /// What was published.
    pub payload: &'a [u8],
}

/// An envelope whose signature holds; its body may still make no sense.
#[derive(Debug)]
pub struct Authentic<'a> {
    envelope: Envelope<'a>,
    body_digest: Hash,
    /// None for a batch.
    verb: Option<Verb>,
    issuers: &'a Issuers,
    /// The key that it was signed with.
    pub key: &'a Arc<Accepted>,
}

/// A member of a batch, or why it is refused.
#[derive(Debug)]
pub struct Member {
    /// Its id; nil when even that cannot be read.
    pub id: CommandId,
    /// Its account, as written.
    pub account: String,
    /// What it says, without who says it and when.
    pub fingerprint: Hash,
    /// The command, or what is wrong with it.
    pub command: Result<Command, Refusal>,
}

/// What can still be told of a member that is not well formed.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Named {
    id: CommandId,
    account: String,
}

/// Checks a message up to, not including, its body.
pub fn verify<'a>(rules: &'a Rules, received: Received<'a>) -> Result<Authentic<'a>, Silent> {
    // The subject says which limit applies; below it is compared with the verb that was signed.
    let is_batch = subject::verb_token(received.subject) == Some(BATCH);
    if received.payload.len() > if is_batch { BATCH_MAX_BYTES } else { ENVELOPE_MAX_BYTES } {
        return Err(Silent::TooLarge);
    }
    let envelope = Envelope::parse(received.payload).map_err(|_| Silent::Malformed)?;
    let (key, body_digest) = authenticate(&rules.keyring, &envelope)?;
    let verb = match envelope.verb.as_ref() {
        BATCH => None,
        verb => Some(verb.parse::<Verb>().map_err(|_| Silent::VerbNotAllowed)?),
    };
    if verb.is_some_and(|verb| !rules.issuers.may_use(&key.issuer, verb)) {
        return Err(Silent::VerbNotAllowed);
    }
    if !is_subject_of(&envelope, received.subject) {
        return Err(Silent::WrongSubject);
    }
    if envelope.aud != rules.audience {
        return Err(Silent::WrongAudience);
    }
    let stored_ms = u64::try_from(received.stored_at.millis()).unwrap_or(0);
    if envelope.iat.abs_diff(stored_ms) > IAT_WINDOW_MS {
        return Err(Silent::StaleIat);
    }
    Ok(Authentic { envelope, body_digest, verb, issuers: &rules.issuers, key })
}

/// Whether the message was published where its fields say, or in a bundle of its issuer. The stream may have
/// added a partition's number behind it.
fn is_subject_of(envelope: &Envelope<'_>, received: &str) -> bool {
    let rest =
        received.strip_prefix(subject::COMMANDS).and_then(|rest| rest.strip_prefix(envelope.iss.as_ref()));
    let rest = rest.and_then(|rest| rest.strip_prefix('.'));
    if rest.and_then(|rest| rest.strip_prefix(BUNDLE)).is_some_and(|rest| rest.starts_with('.')) {
        // A bundle names one account of many. A batch has limits of its own and comes alone.
        return envelope.verb != BATCH;
    }
    let rest = rest.and_then(|rest| rest.strip_prefix(envelope.verb.as_ref())?.strip_prefix('.'));
    match rest.and_then(|rest| rest.strip_prefix(subject::account_token(&envelope.account).as_ref())) {
        Some("") => true,
        Some(rest) => {
            rest.strip_prefix('.').is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
        }
        None => false,
    }
}

/// The key whose signature holds, and the digest of the body that it signed. Every signature is tried; the
/// issuer must be the key's own.
fn authenticate<'a>(
    keyring: &'a Keyring,
    envelope: &Envelope<'_>,
) -> Result<(&'a Arc<Accepted>, Hash), Silent> {
    let mut failure = Silent::UnknownKey;
    let (mut believed, mut digest) = (None, None);
    for (kid, mac) in envelope.sig.iter() {
        let Some(key) = keyring.find(kid).filter(|key| key.issuer.as_str() == envelope.iss) else { continue };
        if key.revoked {
            failure = Silent::RevokedKey;
            continue;
        }
        let body = digest.get_or_insert_with(|| envelope.body_digest());
        if key.command.verify(&envelope.preimage(kid, body), mac) {
            believed = believed.or(Some(key));
        } else {
            failure = Silent::BadSignature;
        }
    }
    believed.zip(digest).ok_or(failure)
}

/// How many commands a batch may have.
fn must_be_a_batch(members: usize) -> Result<(), Refusal> {
    if (1..=BATCH_COMMANDS_MAX).contains(&members) {
        return Ok(());
    }
    Err(Refusal::invalid("body", format!("{members} commands; a batch has 1 to {BATCH_COMMANDS_MAX}")))
}

impl Authentic<'_> {
    /// Whether it carries many commands.
    #[must_use]
    pub fn is_batch(&self) -> bool {
        self.verb.is_none()
    }

    /// The command, its body read.
    ///
    /// # Errors
    /// [`Refusal::InvalidCommand`] for the caller, naming the field.
    pub fn command(&self) -> Result<Command, Refusal> {
        let verb = self.verb.ok_or_else(|| Refusal::invalid("verb", "a batch is not one command"))?;
        self.read(self.envelope.id, verb, &self.envelope.account, self.envelope.body())
    }

    /// The commands of a batch, each read by itself.
    ///
    /// # Errors
    /// [`Refusal::InvalidCommand`] when the body is no list of commands at all.
    pub fn members(&self) -> Result<Vec<Member>, Refusal> {
        let json = self.envelope.body_text();
        // Most batches can be read in one go. Of the others each member is told what is wrong with it.
        if let Ok(members) = serde_json::from_str::<Vec<WrittenMember<'_>>>(json) {
            must_be_a_batch(members.len())?;
            return Ok(members.into_iter().map(|written| self.well_formed(written)).collect());
        }
        let members: Vec<&RawValue> =
            serde_json::from_str(json).map_err(|error| Refusal::invalid("body", error))?;
        must_be_a_batch(members.len())?;
        Ok(members.into_iter().map(|member| self.member(member.get())).collect())
    }

    fn member(&self, json: &str) -> Member {
        match serde_json::from_str(json) {
            Ok(written) => self.well_formed(written),
            Err(error) => {
                let Named { id, account } = serde_json::from_str(json).unwrap_or_default();
                let command = Err(Refusal::invalid("body", error));
                Member { id, account, fingerprint: [0; 32], command }
            }
        }
    }

    fn well_formed(&self, written: WrittenMember<'_>) -> Member {
        let body = written.body.get().as_bytes();
        let command = match written.verb.parse::<Verb>() {
            Ok(verb) if self.issuers.may_use(&self.key.issuer, verb) => {
                self.read(written.id, verb, &written.account, body)
            }
            Ok(verb) => Err(Refusal::invalid("verb", format!("{} may not use {verb}", self.key.issuer))),
            Err(error) => Err(Refusal::invalid("verb", error)),
        };
        let fingerprint = fingerprint(&written.verb, &written.account, body);
        Member { id: written.id, account: written.account.into_owned(), fingerprint, command }
    }

    fn read(&self, id: CommandId, verb: Verb, account: &str, body: &[u8]) -> Result<Command, Refusal> {
        let account = AccountId::new(account).map_err(|error| Refusal::invalid("account", error))?;
        let issuer = self.key.issuer.clone();
        let intent = Intent::parse(verb, body, &issuer, id)?;
        let expires_at = Timestamp::from_millis(self.envelope.exp);
        Ok(Command { issuer, id, account, expires_at, intent })
    }

    /// The envelope.
    #[must_use]
    pub fn envelope(&self) -> &Envelope<'_> {
        &self.envelope
    }

    /// Who signed it.
    #[must_use]
    pub fn issuer(&self) -> &Issuer {
        &self.key.issuer
    }

    /// Where its outcome goes; nowhere when nobody waits.
    #[must_use]
    pub fn reply_subject(&self) -> Option<String> {
        let (issuer, reply) = (&self.envelope.iss, &self.envelope.reply);
        (!reply.is_empty()).then(|| {
            if self.is_gathered() {
                subject::gathered(issuer, reply)
            } else {
                subject::outcome(issuer, reply, self.envelope.id)
            }
        })
    }

    /// Whether its outcome is told together with others of its commit. Those of a batch are together
    /// already.
    #[must_use]
    pub fn is_gathered(&self) -> bool {
        subject::gathers(&self.envelope.reply) && !self.is_batch()
    }

    /// What it says, without who says it and when.
    #[must_use]
    pub fn fingerprint(&self) -> Hash {
        fingerprint_of(&self.envelope.verb, &self.envelope.account, &self.body_digest)
    }
}
