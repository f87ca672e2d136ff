//! Outcomes: what the caller is told, signed so that nobody can be told a false "reserved".

use holdfast_core::chain::LengthPrefixed;
use holdfast_core::{CommandId, Event, Fact, HoldId, Refusal, Units};
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The command.
    pub id: CommandId,
    /// Its event's position; none when it left no row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<i64>,
    /// The event's kind, `rejected` (remembered) or `refused` (not remembered).
    pub kind: String,
    /// The account.
    pub account: String,
    /// The asset's code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asset: Option<String>,
    /// The hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<HoldId>,
    /// What was moved, promised or asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amount: Option<String>,
    /// `posted` after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub posted: Option<String>,
    /// `held` after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<String>,
    /// `available` after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub available: Option<String>,
    /// Whether this was decided before, and is told again.
    pub replayed: bool,
    /// The stable code of a rejection or refusal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The same for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Of a capture: what the house absorbed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub absorbed: Option<String>,
    /// Of a final capture or an expiry: what was freed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub released: Option<String>,
    /// Of a hold: when its time comes, in Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<i64>,
    /// Of a release: that the hold never was, and never will be.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tombstone: bool,
    /// Of a refund or reversal: the position of what it undoes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<i64>,
    /// Who ended the hold, for those who came too late.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub winner: Option<Winner>,
}

/// The event that ended a hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Winner {
    /// Its kind.
    pub kind: String,
    /// Its position.
    pub position: i64,
}

/// The kind of an outcome that left no row.
pub const REFUSED: &str = "refused";

impl Outcome {
    fn bare(id: CommandId, kind: &str, account: &str) -> Self {
        Outcome {
            id,
            position: None,
            kind: kind.to_owned(),
            account: account.to_owned(),
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
            winner: None,
        }
    }

    /// What an event says, the first time or again. `id` is the command's that asks, which may be
    /// another than the event's when an account is opened twice on the same terms.
    #[must_use]
    pub fn of_event(id: CommandId, event: &Event, replayed: bool) -> Self {
        let mut outcome = Outcome::bare(id, event.fact.kind().as_str(), event.account.as_str());
        outcome.position = Some(event.position.0);
        outcome.hold = event.fact.hold();
        outcome.replayed = replayed;
        if let Some(asset) = event.asset {
            let money = |units: Units| Some(asset.format(units));
            outcome.asset = Some(asset.code().to_owned());
            outcome.amount = event.fact.amount().and_then(money);
            outcome.posted = money(event.posted);
            outcome.held = money(event.held);
            outcome.available = money(event.available());
        }
        outcome.add_particulars(event);
        outcome
    }

    fn add_particulars(&mut self, event: &Event) {
        let money = |units: Units| event.asset.map(|asset| asset.format(units));
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
                self.code = Some(rejection.code().to_owned());
                self.detail = Some(rejection.detail(event.asset));
                self.winner = rejection
                    .winner()
                    .map(|end| Winner { kind: end.kind.as_str().to_owned(), position: end.position.0 });
            }
            _ => {}
        }
    }

    /// That a command leaves no row, and why.
    #[must_use]
    pub fn refused(id: CommandId, account: &str, refusal: &Refusal) -> Self {
        let mut outcome = Outcome::bare(id, REFUSED, account);
        outcome.code = Some(refusal.code().to_owned());
        outcome.detail = Some(refusal.detail());
        outcome
    }

    /// Whether the command was carried out.
    #[must_use]
    pub fn accepted(&self) -> bool {
        self.code.is_none()
    }

    /// The JSON that is published.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("an outcome is plain values")
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
