//! Outcomes: what the caller is told, signed so that nobody can be told a false "reserved".

use std::borrow::Cow;

use holdfast_core::chain::LengthPrefixed;
use holdfast_core::money::Amount;
use holdfast_core::{CommandId, Event, Fact, HoldId, Refusal, Rejection, Units};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::keys::MacKey;

/// The header that carries an outcome's signature: `<kid>:<mac>`.
pub const SIGNATURE_HEADER: &str = "Holdfast-Signature";
/// The header that says which command an outcome answers: its fingerprint, in hexadecimal. Two
/// commands may share an id, and then only one of them is told that it was carried out.
pub const FINGERPRINT_HEADER: &str = "Holdfast-Fingerprint";
const TAG: &[u8] = b"holdfast/outcome/v1";

/// What became of a command. Amounts are decimal strings in whole units of the account's asset.
///
/// Whoever receives one owns its texts `T` and amounts `M`; the ledger, which writes one for every
/// command, borrows them from the event ([`Told`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome<T = String, M = String> {
    /// The command.
    pub id: CommandId,
    /// Its event's position; none when it left no row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<i64>,
    /// The event's kind, `rejected` (remembered) or `refused` (not remembered).
    pub kind: T,
    /// The account.
    pub account: T,
    /// The asset's code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asset: Option<T>,
    /// The hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<HoldId>,
    /// What was moved, promised or asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amount: Option<M>,
    /// `posted` after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub posted: Option<M>,
    /// `held` after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<M>,
    /// `available` after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub available: Option<M>,
    /// Whether this was decided before, and is told again.
    pub replayed: bool,
    /// The stable code of a rejection or refusal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<T>,
    /// The same for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<T>,
    /// Of a capture: what the house absorbed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub absorbed: Option<M>,
    /// Of a final capture or an expiry: what was freed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub released: Option<M>,
    /// Of a hold: when its time comes, in Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<i64>,
    /// Of a release: that the hold never was, and never will be.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tombstone: bool,
    /// Of a refund or reversal: the position of what it undoes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<i64>,
    /// Of a priced command that was refused for lack of funds: how many tokens of `output` there is
    /// money for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affordable_output_tokens: Option<u64>,
    /// Who ended the hold, for those who came too late.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub winner: Option<Winner<T>>,
}

/// The event that ended a hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Winner<T = String> {
    /// Its kind.
    pub kind: T,
    /// Its position.
    pub position: i64,
}

/// An outcome that is told together with others, as a list of these ([`crate::subject::GATHERING`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer<O = Outcome> {
    /// What [`FINGERPRINT_HEADER`] says of an outcome that is told alone.
    pub fingerprint: String,
    /// The outcome.
    pub outcome: O,
}

/// The kind of an outcome that left no row.
pub const REFUSED: &str = "refused";

/// An outcome as the ledger writes it.
pub type Told<'a> = Outcome<Cow<'a, str>, Amount>;

/// Room for most outcomes.
const OUTCOME_BYTES: usize = 384;

impl<'a> Told<'a> {
    fn bare(id: CommandId, kind: &'static str, account: &'a str) -> Self {
        Outcome {
            id,
            position: None,
            kind: kind.into(),
            account: account.into(),
            asset: None,
            hold: None,
            amount: None,
            posted: None,
            held: None,
            available: None,
            replayed: false,
            code: None,
            detail: None,
            absorbed: None,
            released: None,
            expires_at: None,
            tombstone: false,
            of: None,
            affordable_output_tokens: None,
            winner: None,
        }
    }

    /// What an event says, the first time or again. `id` is the command's that asks, which may be
    /// another than the event's when an account is opened twice on the same terms.
    #[must_use]
    pub fn of_event(id: CommandId, event: &'a Event, replayed: bool) -> Self {
        let mut told = Told::bare(id, event.fact.kind().as_str(), event.account.as_str());
        told.position = Some(event.position.0);
        told.hold = event.fact.hold();
        told.replayed = replayed;
        if let Some(asset) = &event.asset {
            let money = |units: Units| Some(asset.amount(units));
            told.asset = Some(asset.code().into());
            told.amount = event.fact.amount().and_then(money);
            told.posted = money(event.posted);
            told.held = money(event.held);
            told.available = money(event.available());
        }
        told.add_particulars(event);
        told
    }

    fn add_particulars(&mut self, event: &'a Event) {
        let money = |units: Units| event.asset.map(|asset| asset.amount(units));
        match &event.fact {
            Fact::Captured { absorbed, released, .. } => {
                self.absorbed = money(*absorbed);
                self.released = money(*released);
            }
            Fact::CapturedLate { absorbed, .. } => self.absorbed = money(*absorbed),
            Fact::HoldExpired { released, .. } => self.released = money(*released),
            Fact::Reserved { expires_at, .. } | Fact::Extended { expires_at, .. } => {
                self.expires_at = Some(expires_at.millis());
            }
            Fact::Released { tombstone, .. } => self.tombstone = *tombstone,
            Fact::Refunded { of, .. } | Fact::TopUpReversed { of, .. } => self.of = Some(of.0),
            Fact::Rejected { rejection, .. } => {
                self.code = Some(rejection.code().into());
                self.detail = Some(rejection.detail(event.asset).into());
                if let Rejection::InsufficientFunds { affordable_output_tokens, .. } = rejection {
                    self.affordable_output_tokens = *affordable_output_tokens;
                }
                self.winner = rejection
                    .winner()
                    .map(|end| Winner { kind: end.kind.as_str().into(), position: end.position.0 });
            }
            _ => {}
        }
    }

    /// That a command leaves no row, and why.
    #[must_use]
    pub fn refused(id: CommandId, account: &'a str, refusal: &Refusal) -> Self {
        let mut told = Told::bare(id, REFUSED, account);
        told.code = Some(refusal.code().into());
        told.detail = Some(refusal.detail().into());
        told
    }

    /// The same, on its own.
    #[must_use]
    pub fn into_owned(self) -> Outcome {
        let text = |text: Option<Cow<'_, str>>| text.map(Cow::into_owned);
        let money = |amount: Option<Amount>| amount.map(|amount| amount.as_str().to_owned());
        Outcome {
            id: self.id,
            position: self.position,
            kind: self.kind.into_owned(),
            account: self.account.into_owned(),
            asset: text(self.asset),
            hold: self.hold,
            amount: money(self.amount),
            posted: money(self.posted),
            held: money(self.held),
            available: money(self.available),
            replayed: self.replayed,
            code: text(self.code),
            detail: text(self.detail),
            absorbed: money(self.absorbed),
            released: money(self.released),
            expires_at: self.expires_at,
            tombstone: self.tombstone,
            of: self.of,
            affordable_output_tokens: self.affordable_output_tokens,
            winner: self
                .winner
                .map(|winner| Winner { kind: winner.kind.into_owned(), position: winner.position }),
        }
    }

    /// The JSON that is published.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut json = Vec::with_capacity(OUTCOME_BYTES);
        serde_json::to_writer(&mut json, self).expect("an outcome is plain values");
        json
    }
}

impl Outcome {
    /// Whether the command was carried out.
    #[must_use]
    pub fn accepted(&self) -> bool {
        self.code.is_none()
    }
}

/// The header's value for `payload` published on `subject`.
#[must_use]
pub fn signature(key: &MacKey, subject: &str, payload: &[u8]) -> String {
    format!("{}:{}", key.id(), key.sign(&preimage(key.id(), subject, payload)))
}

/// Whether the header's value is right for `payload` received on `subject`.
#[must_use]
pub fn signature_holds(key: &MacKey, subject: &str, payload: &[u8], header: &str) -> bool {
    match header.split_once(':') {
        Some((kid, mac)) => kid == key.id() && key.verify(&preimage(kid, subject, payload), mac),
        None => false,
    }
}

fn preimage(kid: &str, subject: &str, payload: &[u8]) -> Vec<u8> {
    let mut preimage = Vec::with_capacity(192);
    preimage.length_prefixed(TAG);
    preimage.length_prefixed(kid.as_bytes());
    preimage.length_prefixed(subject.as_bytes());
    preimage.length_prefixed(&Sha256::digest(payload));
    preimage
}
