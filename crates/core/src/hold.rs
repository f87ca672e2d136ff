//! A hold: money promised to one call, and the states it goes through.
//!
//! ```text
//!              ┌─ capture (final) ──────────▶ settled ◀─┐
//! reserve ▶ open ─ release ─▶ released ─ late capture ──┤
//!              └─ its time ─▶ expired  ─ late capture ──┘
//! release of an unknown hold ▶ tombstone
//! ```
//!
//! **Correctness.** A hold ends exactly once; [`Hold::ended`] names the event that did it, and
//! everybody who comes later is told. A late capture settles an ended hold, once.

use serde::{Deserialize, Serialize};

use crate::chain::Hash;
use crate::event::Kind;
use crate::id::Position;
use crate::money::Units;
use crate::time::Timestamp;

/// The longest life of a hold, from its reserve: 24 hours.
pub const LIFE_MAX_MS: u64 = 24 * 60 * 60 * 1000;

/// What a capture beyond the hold does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overage {
    /// It is refused.
    #[default]
    Reject,
    /// What is held is captured; the house absorbs the rest.
    Cap,
    /// The excess is taken from what may be taken; the house absorbs what then remains.
    Draw,
}

/// What happens when a hold's time comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnExpiry {
    /// What is held is freed.
    #[default]
    Release,
    /// What is held is charged in full, and the hold is settled.
    Capture,
}

/// What a capture of an ended hold does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Late {
    /// It is charged from what may be taken, the rest absorbed.
    Charge,
    /// It is refused.
    Reject,
}

/// Where a hold stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HoldStatus {
    /// Money is promised.
    Open,
    /// Charged, for good.
    Settled,
    /// Given back by a release; a late capture may be allowed.
    Released,
    /// Its time came; a late capture may be allowed.
    Expired,
    /// Released before it was ever reserved, so that a late reserve cannot revive it.
    Tombstone,
}

impl HoldStatus {
    /// The status in SQL and JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            HoldStatus::Open => "open",
            HoldStatus::Settled => "settled",
            HoldStatus::Released => "released",
            HoldStatus::Expired => "expired",
            HoldStatus::Tombstone => "tombstone",
        }
    }
}

/// The policies of a hold, fixed at its reserve: a capture days later still obeys them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Policies {
    /// For a capture beyond it.
    pub overage: Overage,
    /// For when its time comes.
    pub on_expiry: OnExpiry,
    /// For a capture after its end; by how it ended when not chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late: Option<Late>,
}

/// The event that ended a hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Its kind.
    pub kind: Kind,
    /// Its position.
    pub position: Position,
}

/// A hold as the log has made it.
#[derive(Debug, Clone, PartialEq)]
pub struct Hold {
    /// Where it stands.
    pub status: HoldStatus,
    /// What is still promised; after the end, what was left then.
    pub amount: Units,
    /// What has been charged through it so far.
    pub captured: Units,
    /// What the house has absorbed so far.
    pub absorbed: Units,
    /// How it treats overage, expiry and late captures.
    pub policies: Policies,
    /// When it was reserved.
    pub reserved_at: Timestamp,
    /// When its time comes.
    pub expires_at: Timestamp,
    /// What ended it.
    pub ended: Option<End>,
    /// Its last event.
    pub last_position: Position,
    /// The digest of the rates that it was reserved under; none when it was reserved without.
    pub rates: Option<Hash>,
}

impl Hold {
    /// Whether money is promised to it.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.status == HoldStatus::Open
    }

    /// What a capture of this ended hold does: as chosen, else charged after an expiry and
    /// refused after an explicit release.
    #[must_use]
    pub fn late(&self) -> Late {
        match (self.status, self.policies.late) {
            (HoldStatus::Released | HoldStatus::Expired, Some(chosen)) => chosen,
            (HoldStatus::Expired, None) => Late::Charge,
            _ => Late::Reject,
        }
    }

    /// The latest that its time may be put off to.
    #[must_use]
    pub fn life_end(&self) -> Timestamp {
        self.reserved_at.plus_millis(LIFE_MAX_MS)
    }
}
