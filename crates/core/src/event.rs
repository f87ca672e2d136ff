//! Events: what happened, in the past tense, with everything it depended on.
//!
//! **Shape.** [`crate::decide()`] makes a [`Fact`]; the lane numbers and stamps it as an [`Event`];
//! the log keeps [`Event::body`] as its canonical bytes beside the columns it is found by.
//!
//! **Correctness.** `body` and [`Event::from_log`] are inverse to each other. Bodies are written
//! once and hashed as written, never re-encoded, so a later version may only add members.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::account::AccountStatus;
use crate::body::JobId;
use crate::hold::Policies;
use crate::id::{AccountId, CommandId, HoldId, Issuer, Position};
use crate::money::{Asset, Units};
use crate::rejection::Rejection;
use crate::text::{ExternalRef, Note, Tier};
use crate::time::Timestamp;
use crate::trace::Trace;
use crate::usage::Priced;

/// The kinds of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "each kind is documented at its fact")]
pub enum Kind {
    AccountOpened,
    AccountSet,
    ToppedUp,
    TopUpReversed,
    Deducted,
    Reserved,
    Captured,
    CapturedLate,
    Released,
    Extended,
    Increased,
    HoldExpired,
    Refunded,
    Rejected,
}

impl Kind {
    /// Every kind, in the order of the documentation.
    pub const ALL: [Kind; 14] = [
        Kind::AccountOpened,
        Kind::AccountSet,
        Kind::ToppedUp,
        Kind::TopUpReversed,
        Kind::Deducted,
        Kind::Reserved,
        Kind::Captured,
        Kind::CapturedLate,
        Kind::Released,
        Kind::Extended,
        Kind::Increased,
        Kind::HoldExpired,
        Kind::Refunded,
        Kind::Rejected,
    ];

    /// The kind in SQL, subjects and JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::AccountOpened => "account_opened",
            Kind::AccountSet => "account_set",
            Kind::ToppedUp => "topped_up",
            Kind::TopUpReversed => "top_up_reversed",
            Kind::Deducted => "deducted",
            Kind::Reserved => "reserved",
            Kind::Captured => "captured",
            Kind::CapturedLate => "captured_late",
            Kind::Released => "released",
            Kind::Extended => "extended",
            Kind::Increased => "increased",
            Kind::HoldExpired => "hold_expired",
            Kind::Refunded => "refunded",
            Kind::Rejected => "rejected",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Kind {
    type Err = LogError;

    fn from_str(text: &str) -> Result<Self, LogError> {
        let found = Kind::ALL.into_iter().find(|kind| kind.as_str() == text);
        found.ok_or_else(|| LogError::Kind(text.to_owned()))
    }
}

/// What happened. Amounts are units of the account's asset.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "members are documented at the bodies and at `Hold`")]
pub enum Fact {
    /// The account exists from here on.
    AccountOpened { tier: Tier, overdraft_limit: Units },
    /// Its terms are these from here on.
    AccountSet { tier: Tier, overdraft_limit: Units, status: AccountStatus },
    /// Money came in.
    ToppedUp {
        amount: Units,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        external_ref: Option<ExternalRef>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        note: Option<Note>,
    },
    /// Money that had come in was taken back by who paid it; the `n`th time for that top-up,
    /// `total` of it by now.
    TopUpReversed { of: Position, amount: Units, n: u32, total: Units, reason: Note },
    /// Money was charged without a hold.
    Deducted {
        amount: Units,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<Note>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        priced: Option<Box<Priced>>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        trace: Option<Trace>,
    },
    /// Money was promised.
    Reserved {
        hold: HoldId,
        amount: Units,
        expires_at: Timestamp,
        policies: Policies,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        job_id: Option<JobId>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        saga: Option<JobId>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        priced: Option<Box<Priced>>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        trace: Option<Trace>,
    },
    /// A hold was charged: `held` of what it promised and `drawn` beyond it; the house absorbed
    /// `absorbed`; `released` was freed, which a final capture does with all that is left.
    Captured {
        hold: HoldId,
        held: Units,
        drawn: Units,
        absorbed: Units,
        released: Units,
        #[serde(rename = "final")]
        is_final: bool,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<Note>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        priced: Option<Box<Priced>>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        trace: Option<Trace>,
    },
    /// A hold that had ended was charged after all, and is settled now.
    CapturedLate {
        hold: HoldId,
        charged: Units,
        absorbed: Units,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<Note>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        priced: Option<Box<Priced>>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        trace: Option<Trace>,
    },
    /// A hold was freed, or (a tombstone) can never be reserved.
    Released {
        hold: HoldId,
        amount: Units,
        tombstone: bool,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<Note>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        trace: Option<Trace>,
    },
    /// A hold has more time.
    Extended { hold: HoldId, expires_at: Timestamp },
    /// More money was promised to a hold.
    Increased { hold: HoldId, amount: Units },
    /// A hold's time came: what was left was freed or, by its policy, charged.
    HoldExpired { hold: HoldId, released: Units, captured: Units },
    /// Charged money was given back; the `n`th time for that charge, `total` of it by now.
    Refunded { of: Position, amount: Units, n: u32, total: Units, reason: Note },
    /// Nothing happened, and never will for this command.
    Rejected {
        verb: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hold: Option<HoldId>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        amount: Option<Units>,
        rejection: Rejection,
    },
}

impl Fact {
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Fact::AccountOpened { .. } => Kind::AccountOpened,
            Fact::AccountSet { .. } => Kind::AccountSet,
            Fact::ToppedUp { .. } => Kind::ToppedUp,
            Fact::TopUpReversed { .. } => Kind::TopUpReversed,
            Fact::Deducted { .. } => Kind::Deducted,
            Fact::Reserved { .. } => Kind::Reserved,
            Fact::Captured { .. } => Kind::Captured,
            Fact::CapturedLate { .. } => Kind::CapturedLate,
            Fact::Released { .. } => Kind::Released,
            Fact::Extended { .. } => Kind::Extended,
            Fact::Increased { .. } => Kind::Increased,
            Fact::HoldExpired { .. } => Kind::HoldExpired,
            Fact::Refunded { .. } => Kind::Refunded,
            Fact::Rejected { .. } => Kind::Rejected,
        }
    }

    /// The hold it is about.
    #[must_use]
    pub fn hold(&self) -> Option<HoldId> {
        match self {
            Fact::Reserved { hold, .. }
            | Fact::Captured { hold, .. }
            | Fact::CapturedLate { hold, .. }
            | Fact::Released { hold, .. }
            | Fact::Extended { hold, .. }
            | Fact::Increased { hold, .. }
            | Fact::HoldExpired { hold, .. } => Some(*hold),
            Fact::Rejected { hold, .. } => *hold,
            _ => None,
        }
    }

    /// The hold that it changes although it has ended. Whoever keeps open holds alone has to look for it
    /// before this can be folded; every other event begins its hold or finds it open.
    #[must_use]
    pub fn ended_hold(&self) -> Option<HoldId> {
        match self {
            Fact::CapturedLate { hold, .. } => Some(*hold),
            _ => None,
        }
    }

    /// The amount that people mean by it: what came in, was charged, promised or freed.
    #[must_use]
    pub fn amount(&self) -> Option<Units> {
        match self {
            Fact::ToppedUp { amount, .. }
            | Fact::TopUpReversed { amount, .. }
            | Fact::Deducted { amount, .. }
            | Fact::Reserved { amount, .. }
            | Fact::Released { amount, .. }
            | Fact::Increased { amount, .. }
            | Fact::Refunded { amount, .. } => Some(*amount),
            Fact::Captured { .. } | Fact::CapturedLate { .. } => self.charged(),
            Fact::HoldExpired { released, captured, .. } => Some((*released).max(*captured)),
            Fact::Rejected { amount, .. } => *amount,
            Fact::AccountOpened { .. } | Fact::AccountSet { .. } | Fact::Extended { .. } => None,
        }
    }

    /// What it is the price of, with the rates.
    #[must_use]
    pub fn priced(&self) -> Option<&Priced> {
        match self {
            Fact::Deducted { priced, .. }
            | Fact::Reserved { priced, .. }
            | Fact::Captured { priced, .. }
            | Fact::CapturedLate { priced, .. } => priced.as_deref(),
            _ => None,
        }
    }

    /// The trace of the command that made it.
    #[must_use]
    pub fn trace(&self) -> Option<&Trace> {
        match self {
            Fact::Deducted { trace, .. }
            | Fact::Reserved { trace, .. }
            | Fact::Captured { trace, .. }
            | Fact::CapturedLate { trace, .. }
            | Fact::Released { trace, .. } => trace.as_ref(),
            _ => None,
        }
    }

    /// What the customer was charged by it, if it is a charge: what a refund may give back.
    #[must_use]
    pub fn charged(&self) -> Option<Units> {
        match self {
            Fact::Deducted { amount, .. } => Some(*amount),
            Fact::Captured { held, drawn, .. } => {
                Some(held.checked_add(*drawn).expect("a charge fits into 64 bits"))
            }
            Fact::CapturedLate { charged, .. } => Some(*charged),
            Fact::HoldExpired { captured, .. } if *captured > 0 => Some(*captured),
            _ => None,
        }
    }
}

/// One row of the log, as the rules see it.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its number.
    pub position: Position,
    /// Lane time: the lane's clock when it was decided; never runs backwards.
    pub time: Timestamp,
    /// Who asked.
    pub issuer: Issuer,
    /// The command that made it.
    pub command: CommandId,
    /// The account it is about.
    pub account: AccountId,
    /// The account's asset; none for a rejection that found no account.
    pub asset: Option<Asset>,
    /// `posted` after it.
    pub posted: Units,
    /// `held` after it.
    pub held: Units,
    /// What happened.
    pub fact: Fact,
}

/// Room for the canonical bytes of most events.
const BODY_BYTES: usize = 256;

/// What the canonical bytes hold: everything that is not a column already.
#[derive(Serialize, Deserialize)]
struct Body<F> {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    asset: Option<Asset>,
    fact: F,
}

/// The columns of a row that the body does not repeat.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "the members of `Event`")]
pub struct Columns {
    pub position: Position,
    pub time: Timestamp,
    pub issuer: Issuer,
    pub command: CommandId,
    pub account: AccountId,
    pub posted: Units,
    pub held: Units,
}

/// A stored row that this version cannot read, or that contradicts itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// A kind that this version does not know.
    #[error("`{0}` is no kind of event that this version knows")]
    Kind(String),
    /// A body that does not parse.
    #[error("the event at position {position} cannot be read: {problem}")]
    Body {
        /// Where.
        position: Position,
        /// What the reader said.
        problem: String,
    },
}

impl Event {
    /// `posted − held` after it.
    #[must_use]
    pub fn available(&self) -> Units {
        self.posted.saturating_sub(self.held)
    }

    /// The canonical bytes: JSON, since people read logs.
    #[must_use]
    pub fn body(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(BODY_BYTES);
        serde_json::to_writer(&mut body, &Body { asset: self.asset, fact: &self.fact })
            .expect("facts are plain values");
        body
    }

    /// The event of a stored row.
    pub fn from_log(columns: Columns, body: &[u8]) -> Result<Self, LogError> {
        let position = columns.position;
        let body: Body<Fact> = serde_json::from_slice(body)
            .map_err(|error| LogError::Body { position, problem: error.to_string() })?;
        Ok(Event {
            position,
            time: columns.time,
            issuer: columns.issuer,
            command: columns.command,
            account: columns.account,
            asset: body.asset,
            posted: columns.posted,
            held: columns.held,
            fact: body.fact,
        })
    }
}
