//! The bodies of commands as callers write them: one struct a verb, unknown members refused.
//!
//! **Shape.** [`crate::Intent::parse`] reads one of these from the signed bytes and resolves what
//! was left out. Amounts stay [`Decimal`] here, since only the account knows its asset.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::account::AccountStatus;
use crate::hold::{Late, OnExpiry, Overage};
use crate::id::{HoldId, Position};
use crate::money::Decimal;
use crate::text::{ExternalRef, Note, Text, Tier};
use crate::trace::Trace;
use crate::usage::{Usage, object};

/// A job of the caller's, at most 128 bytes, which stands for a hold.
pub type JobId = Text<128>;

/// Opens a billing account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenAccount {
    /// The subscription tier; `free` unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<Tier>,
    /// The code of the asset it is kept in; `USD` unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asset: Option<Text<8>>,
    /// How far below zero `available` may be taken; 0 unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overdraft_limit: Option<Decimal>,
}

/// Changes an account's terms; at least one member is needed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetAccount {
    /// The new tier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<Tier>,
    /// The new overdraft limit; not below what is in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overdraft_limit: Option<Decimal>,
    /// The new status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<AccountStatus>,
}

/// Adds money that was received.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopUp {
    /// How much.
    pub amount: Decimal,
    /// The payment's id elsewhere; accepted once, so that a payment is never booked twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_ref: Option<ExternalRef>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<Note>,
}

/// An earlier event: its position, or the id of the issuer's own command that made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "a position (a number) or a command id (a UUID)")]
pub enum Reference {
    /// A position in the log.
    Position(Position),
    /// The id of a command of the same issuer.
    Command(Uuid),
}

/// Takes a top-up back, for example after a chargeback.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReverseTopUp {
    /// The top-up.
    pub of: Reference,
    /// How much of it; all that is left of it unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amount: Option<Decimal>,
    /// Why.
    pub reason: Note,
}

/// Charges at once, without a hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deduct {
    /// How much.
    pub amount: Decimal,
    /// What for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Note>,
    /// What the amount is the price of.
    #[serde(default, deserialize_with = "object", skip_serializing_if = "Option::is_none")]
    pub usage: Option<Box<Usage>>,
    /// The trace that the caller is part of, in the form of W3C Trace Context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<Trace>,
}

/// Promises money to a call that is about to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reserve {
    /// The estimated cost.
    pub amount: Decimal,
    /// The hold's id; the command's id, or what `job_id` stands for, unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<HoldId>,
    /// How long the hold lives, in milliseconds; ten minutes unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
    /// What a capture beyond the hold does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overage: Option<Overage>,
    /// What happens when its time comes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_expiry: Option<OnExpiry>,
    /// What a capture after the end does; by how the hold ended unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late: Option<Late>,
    /// The caller's job, usable instead of the hold's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_id: Option<JobId>,
    /// The saga that this reserve starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saga: Option<JobId>,
    /// What the amount is the price of.
    #[serde(default, deserialize_with = "object", skip_serializing_if = "Option::is_none")]
    pub usage: Option<Box<Usage>>,
    /// The trace that the caller is part of, in the form of W3C Trace Context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<Trace>,
}

/// Charges what a call really cost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capture {
    /// The hold, or instead `job_id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<HoldId>,
    /// The job that stands for the hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_id: Option<JobId>,
    /// How much; all that is held unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amount: Option<Decimal>,
    /// Whether this settles the hold and frees the rest; true unless given.
    #[serde(default, rename = "final", skip_serializing_if = "Option::is_none")]
    pub is_final: Option<bool>,
    /// Why this much.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Note>,
    /// What the amount is the price of.
    #[serde(default, deserialize_with = "object", skip_serializing_if = "Option::is_none")]
    pub usage: Option<Box<Usage>>,
    /// The trace that the caller is part of, in the form of W3C Trace Context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<Trace>,
}

/// Frees a hold that is not needed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// The hold, or instead `job_id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<HoldId>,
    /// The job that stands for the hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_id: Option<JobId>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Note>,
    /// The trace that the caller is part of, in the form of W3C Trace Context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<Trace>,
}

/// Gives a hold more time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Extend {
    /// The hold.
    pub hold: HoldId,
    /// From now, in milliseconds; the whole life is at most 24 hours from the reserve.
    pub ttl_ms: u64,
}

/// Promises more money to a hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Increase {
    /// The hold.
    pub hold: HoldId,
    /// How much more.
    pub amount: Decimal,
}

/// Gives charged money back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refund {
    /// The charge.
    pub of: Reference,
    /// How much; all that is left of the charge unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amount: Option<Decimal>,
    /// Why.
    pub reason: Note,
}
