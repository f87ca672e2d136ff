//! Why a command was not carried out: remembered rejections and forgotten refusals.
//!
//! **Shape.** A [`Rejection`] depended on the state, is an event of the log and is repeated for
//! ever. A [`Refusal`] says that the command itself cannot be read or contradicts an earlier one
//! of its id; it leaves no row. Both carry data and one stable code.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::hold::{End, HoldStatus};
use crate::id::Position;
use crate::money::{Asset, Units};

/// An amount or rates that are not those of the call, whether or not the state had to be asked.
const PRICE_MISMATCH: &str = "price_mismatch";

/// A rejection that depended on the state of the account; remembered in the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "code", rename_all = "snake_case")]
#[allow(missing_docs, reason = "members say what they are; units are those of the account's asset")]
pub enum Rejection {
    /// No account of this id was opened.
    AccountNotFound,
    /// The account was opened before on other terms.
    AccountExists { position: Position },
    /// The account is frozen.
    AccountFrozen,
    /// The account is closed.
    AccountClosed,
    /// An account can be closed only with zero balance and no open hold.
    AccountNotEmpty { posted: Units, held: Units, open_holds: u64 },
    /// The limit would fall below what is in use.
    LimitInUse { in_use: Units },
    /// The balance would no longer fit into 64 bits.
    BalanceOverflow,
    /// This outside reference was booked before.
    ExternalRefUsed { position: Position },
    /// What `of` names is no top-up of this account.
    TopUpNotFound,
    /// More than is left of the top-up.
    ExceedsTopUp { left: Units },
    /// What `of` names is no charge of this account.
    ChargeNotFound,
    /// More than is left of the charge.
    ExceedsCharge { left: Units },
    /// More than may be taken.
    InsufficientFunds {
        needed: Units,
        takeable: Units,
        held: Units,
        /// Of a priced command: how much output there is money for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        affordable_output_tokens: Option<u64>,
    },
    /// A hold of this id was reserved before.
    HoldExists { status: HoldStatus },
    /// No hold of this id.
    HoldNotFound,
    /// More than is held, and the hold's `overage` is `reject`.
    ExceedsHold { held: Units },
    /// The hold was charged before.
    HoldSettled { by: End },
    /// The hold was released before.
    HoldReleased { by: End },
    /// The hold's time came before.
    HoldExpired { by: End },
    /// The rates are not those that the hold was reserved under.
    PriceMismatch,
    /// A hold may not live that long.
    TtlTooLong { max_ms: u64 },
    /// Nobody waits for this any more.
    CommandExpired { expired_at_ms: i64 },
    /// The command cannot be carried out for a fault of the ledger; operators were alerted.
    Quarantined,
}

impl Rejection {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Rejection::AccountNotFound => "account_not_found",
            Rejection::AccountExists { .. } => "account_exists",
            Rejection::AccountFrozen => "account_frozen",
            Rejection::AccountClosed => "account_closed",
            Rejection::AccountNotEmpty { .. } => "account_not_empty",
            Rejection::LimitInUse { .. } => "limit_in_use",
            Rejection::BalanceOverflow => "balance_overflow",
            Rejection::ExternalRefUsed { .. } => "external_ref_used",
            Rejection::TopUpNotFound => "top_up_not_found",
            Rejection::ExceedsTopUp { .. } => "exceeds_top_up",
            Rejection::ChargeNotFound => "charge_not_found",
            Rejection::ExceedsCharge { .. } => "exceeds_charge",
            Rejection::InsufficientFunds { .. } => "insufficient_funds",
            Rejection::HoldExists { .. } => "hold_exists",
            Rejection::HoldNotFound => "hold_not_found",
            Rejection::ExceedsHold { .. } => "exceeds_hold",
            Rejection::HoldSettled { .. } => "hold_settled",
            Rejection::HoldReleased { .. } => "hold_released",
            Rejection::HoldExpired { .. } => "hold_expired",
            Rejection::PriceMismatch => PRICE_MISMATCH,
            Rejection::TtlTooLong { .. } => "ttl_too_long",
            Rejection::CommandExpired { .. } => "command_expired",
            Rejection::Quarantined => "quarantined",
        }
    }

    /// The sentence for people, with amounts in whole units of `asset`.
    #[must_use]
    pub fn detail(&self, asset: Option<Asset>) -> String {
        let money = |units: Units| asset.map_or_else(|| units.to_string(), |asset| asset.format(units));
        match self {
            Rejection::AccountNotFound => "there is no such account; open it first".to_owned(),
            Rejection::AccountExists { position } => {
                format!("the account was opened on other terms at position {position}")
            }
            Rejection::AccountFrozen => "the account is frozen; it takes no new charges".to_owned(),
            Rejection::AccountClosed => "the account is closed".to_owned(),
            Rejection::AccountNotEmpty { posted, held, open_holds } => format!(
                "an account is closed empty: {} is posted, {} is held by {open_holds} open holds",
                money(*posted),
                money(*held)
            ),
            Rejection::LimitInUse { in_use } => {
                format!("{} of the overdraft is in use; the limit cannot be lower", money(*in_use))
            }
            Rejection::BalanceOverflow => "the balance would be too large to keep".to_owned(),
            Rejection::ExternalRefUsed { position } => {
                format!("this external_ref was booked at position {position}")
            }
            Rejection::TopUpNotFound => "`of` names no top-up of this account".to_owned(),
            Rejection::ExceedsTopUp { left } => format!("{} is left of the top-up", money(*left)),
            Rejection::ChargeNotFound => "`of` names no charge of this account".to_owned(),
            Rejection::ExceedsCharge { left } => format!("{} is left of the charge", money(*left)),
            Rejection::InsufficientFunds { needed, takeable, held, affordable_output_tokens } => {
                let affordable = affordable_output_tokens.map_or_else(String::new, |tokens| {
                    format!("; that is enough for {tokens} output tokens")
                });
                format!(
                    "{} is needed, {} may be taken, {} is held by calls in flight{affordable}",
                    money(*needed),
                    money(*takeable),
                    money(*held)
                )
            }
            Rejection::HoldExists { status } => {
                format!("a hold of this id exists and is {}; use a new id", status.as_str())
            }
            Rejection::HoldNotFound => "there is no such hold in this account".to_owned(),
            Rejection::ExceedsHold { held } => {
                format!("{} is held; the hold was reserved without overage", money(*held))
            }
            Rejection::HoldSettled { by } => ended("settled", by),
            Rejection::HoldReleased { by } => ended("released", by),
            Rejection::HoldExpired { by } => ended("expired", by),
            Rejection::PriceMismatch => {
                "the rates differ from those that the hold was reserved under; capture with those".to_owned()
            }
            Rejection::TtlTooLong { max_ms } => format!("a hold lives at most {max_ms} ms from its reserve"),
            Rejection::CommandExpired { expired_at_ms } => {
                format!("`exp` ({expired_at_ms}) had passed when the command was decided; nothing was taken")
            }
            Rejection::Quarantined => {
                "the ledger could not carry this out; it was set aside and operators were alerted".to_owned()
            }
        }
    }

    /// What ended the hold, for those who came too late.
    #[must_use]
    pub fn winner(&self) -> Option<End> {
        match self {
            Rejection::HoldSettled { by }
            | Rejection::HoldReleased { by }
            | Rejection::HoldExpired { by } => Some(*by),
            _ => None,
        }
    }
}

fn ended(how: &str, by: &End) -> String {
    format!("the hold was {how} by `{}` at position {}", by.kind, by.position)
}

/// A signed command that leaves no row; told to the caller, not remembered.
#[derive(Debug, Clone, PartialEq)]
pub enum Refusal {
    /// The command cannot be read.
    InvalidCommand {
        /// The member at fault, or `body`.
        field: String,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// The id was used before for something else.
    IdempotencyConflict {
        /// The position of the first command's event.
        position: Position,
        /// The members that differ.
        differs: Vec<String>,
    },
    /// The amount is not the price of the usage.
    PriceMismatch {
        /// What the command says, in whole units.
        stated: String,
        /// What its tokens and rates come to.
        computed: String,
    },
}

impl Refusal {
    /// An [`Refusal::InvalidCommand`].
    pub fn invalid(field: impl Into<String>, problem: impl fmt::Display) -> Self {
        Refusal::InvalidCommand { field: field.into(), problem: problem.to_string() }
    }

    /// The stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Refusal::InvalidCommand { .. } => "invalid_command",
            Refusal::IdempotencyConflict { .. } => "idempotency_conflict",
            Refusal::PriceMismatch { .. } => PRICE_MISMATCH,
        }
    }

    /// The sentence for people.
    #[must_use]
    pub fn detail(&self) -> String {
        match self {
            Refusal::InvalidCommand { field, problem } => format!("{field}: {problem}"),
            Refusal::PriceMismatch { stated, computed } => {
                format!("amount: {stated} was stated, the tokens at these rates cost {computed}")
            }
            Refusal::IdempotencyConflict { position, differs } => format!(
                "this id was used at position {position} for another command; it differs in {}; a new try needs a new id",
                differs.join(", ")
            ),
        }
    }
}
