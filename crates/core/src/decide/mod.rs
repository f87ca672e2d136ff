//! What a command does: a pure function of one account, one command and the moment.
//!
//! **Shape.** The lane calls [`decide`] once per command that it has not seen before and turns
//! the answer into an event. One file a command, each with its own table of cases.
//!
//! **Correctness.** Nothing is changed here. Every accepted fact leaves the books balanced and
//! keeps `available` at or above minus the overdraft limit, but for facts whose name says
//! otherwise (`top_up_reversed`).

mod capture;
mod charge;
mod expire;
mod funds;
mod holds;
mod pricing;
mod release;
mod reserve;
mod terms;
mod undo;

#[cfg(test)]
mod cases;

use crate::account::{Account, AccountStatus};
use crate::command::{Capture, Command, Intent};
use crate::event::Fact;
use crate::hold::{End, Hold, HoldStatus};
use crate::id::{AccountId, HoldId, Position};
use crate::money::{Assets, Decimal, Units};
use crate::rejection::{Refusal, Rejection};
use crate::time::Timestamp;

/// What a decision may look at besides the account and the command.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// Lane time.
    pub now: Timestamp,
    /// The assets that accounts may be opened in.
    pub assets: &'a Assets,
    /// What the log says of the outside references that the command makes.
    pub references: &'a References,
}

/// What was looked up in the log for a command.
#[derive(Debug, Clone, Default)]
pub struct References {
    /// The event that booked the command's `external_ref` before.
    pub external_ref: Option<Position>,
    /// The event that the command's `of` names.
    pub of: Option<Referenced>,
}

/// An earlier event that money is to be given back or taken back for.
#[derive(Debug, Clone, PartialEq)]
pub struct Referenced {
    /// Its position.
    pub position: Position,
    /// Its account.
    pub account: AccountId,
    /// What it moved.
    pub moved: Moved,
    /// How often something of it was undone before.
    pub n: u32,
    /// How much of it was undone before.
    pub undone: Units,
}

/// What an earlier event moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    /// It brought money in.
    TopUp(Units),
    /// It charged money.
    Charge(Units),
    /// Neither.
    Nothing,
}

impl Moved {
    /// What `fact` moved.
    #[must_use]
    pub fn by(fact: &Fact) -> Self {
        match (fact, fact.charged()) {
            (Fact::ToppedUp { amount, .. }, _) => Moved::TopUp(*amount),
            (_, Some(charged)) => Moved::Charge(charged),
            (_, None) => Moved::Nothing,
        }
    }
}

/// What is to happen.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// This fact, or this rejection, becomes an event.
    Record(Fact),
    /// Nothing: the event at this position said it already.
    Repeat(Position),
}

/// What a command's own rules answer before rejections are turned into facts.
type Ruling = Result<Fact, Stop>;

/// Why a rule stopped.
enum Stop {
    Reject(Rejection),
    Refuse(Refusal),
    Repeat(Position),
}

impl From<Rejection> for Stop {
    fn from(rejection: Rejection) -> Self {
        Stop::Reject(rejection)
    }
}

/// Decides `command` on its account, which is none when it was never opened.
///
/// # Errors
/// A [`Refusal`] when the command cannot be understood for this account, such as an amount with
/// more decimals than its asset has. It leaves no row.
pub fn decide(
    account: Option<&Account>,
    command: &Command,
    context: &Context<'_>,
) -> Result<Decision, Refusal> {
    match rule(account, command, context) {
        Ok(fact) => Ok(Decision::Record(fact)),
        Err(Stop::Repeat(position)) => Ok(Decision::Repeat(position)),
        Err(Stop::Refuse(refusal)) => Err(refusal),
        Err(Stop::Reject(rejection)) => Ok(Decision::Record(rejected(account, command, rejection))),
    }
}

fn rule(account: Option<&Account>, command: &Command, context: &Context<'_>) -> Ruling {
    expired(command, context.now)?;
    if let Intent::OpenAccount { tier, asset, overdraft_limit } = &command.intent {
        return terms::open(account, tier, asset.as_str(), *overdraft_limit, context.assets);
    }
    let account = account.ok_or(Rejection::AccountNotFound)?;
    match &command.intent {
        Intent::OpenAccount { .. } => unreachable!("answered above"),
        Intent::SetAccount { tier, overdraft_limit, status } => {
            terms::set(account, tier.as_ref(), *overdraft_limit, *status)
        }
        Intent::TopUp { amount, external_ref, note } => {
            funds::top_up(account, *amount, external_ref.as_ref(), note.as_ref(), context.references)
        }
        Intent::ReverseTopUp { amount, reason, .. } => {
            funds::reverse(account, *amount, reason, context.references)
        }
        Intent::Deduct { amount, reason, usage, trace } => {
            charge::deduct(account, *amount, reason.as_ref(), usage.as_deref(), trace)
        }
        Intent::Refund { amount, reason, .. } => charge::refund(account, *amount, reason, context.references),
        Intent::Reserve(reserve) => reserve::reserve(account, reserve, context.now),
        Intent::Capture(capture) => capture::capture(account, capture),
        Intent::Release { hold, reason, trace } => release::release(account, *hold, reason.as_ref(), trace),
        Intent::Extend { hold, ttl_ms } => holds::extend(account, *hold, *ttl_ms, context.now),
        Intent::Increase { hold, amount } => holds::increase(account, *hold, *amount),
        Intent::Expire { hold } => expire::expire(account, *hold),
    }
}

/// The fact that `command` was rejected; also how the lane sets a command aside.
#[must_use]
pub fn rejected(account: Option<&Account>, command: &Command, rejection: Rejection) -> Fact {
    let amount = amount_of(&command.intent);
    Fact::Rejected {
        verb: command.intent.verb().map_or("expire", |verb| verb.as_str()).to_owned(),
        hold: command.intent.hold(),
        amount: account.and_then(|account| amount?.units(account.asset).ok()),
        rejection,
    }
}

fn amount_of(intent: &Intent) -> Option<Decimal> {
    match intent {
        Intent::TopUp { amount, .. } | Intent::Deduct { amount, .. } | Intent::Increase { amount, .. } => {
            Some(*amount)
        }
        Intent::Reserve(reserve) => Some(reserve.amount),
        Intent::ReverseTopUp { amount, .. }
        | Intent::Refund { amount, .. }
        | Intent::Capture(Capture { amount, .. }) => *amount,
        _ => None,
    }
}

fn expired(command: &Command, now: Timestamp) -> Result<(), Rejection> {
    let waits = command.intent.verb().is_some_and(|verb| verb.expires());
    if waits && command.expires_at < now {
        return Err(Rejection::CommandExpired { expired_at_ms: command.expires_at.millis() });
    }
    Ok(())
}

/// `amount` in the account's units.
fn units(field: &str, amount: Decimal, account: &Account) -> Result<Units, Stop> {
    amount.units(account.asset).map_err(|error| Stop::Refuse(Refusal::invalid(field, error)))
}

/// Refuses what a frozen or closed account does not take.
fn must_be_active(account: &Account) -> Result<(), Rejection> {
    match account.status {
        AccountStatus::Active => Ok(()),
        AccountStatus::Frozen => Err(Rejection::AccountFrozen),
        AccountStatus::Closed => Err(Rejection::AccountClosed),
    }
}

fn must_not_be_closed(account: &Account) -> Result<(), Rejection> {
    if account.status == AccountStatus::Closed { Err(Rejection::AccountClosed) } else { Ok(()) }
}

fn must_be_takeable(account: &Account, needed: Units) -> Result<(), Rejection> {
    let takeable = account.takeable();
    if needed > takeable {
        return Err(Rejection::InsufficientFunds {
            needed,
            takeable,
            held: account.held,
            affordable_output_tokens: None,
        });
    }
    // With a large overdraft limit more may be takeable than `held` has room for.
    let fits = account.held.checked_add(needed).is_some() && account.posted.checked_sub(needed).is_some();
    if fits { Ok(()) } else { Err(Rejection::BalanceOverflow) }
}

/// The open hold of this id, or who ended it.
fn open_hold(account: &Account, id: HoldId) -> Result<&Hold, Rejection> {
    let hold = account.holds.get(&id).ok_or(Rejection::HoldNotFound)?;
    if hold.is_open() { Ok(hold) } else { Err(lost_to(hold)) }
}

/// What somebody is told who comes after the end of `hold`.
fn lost_to(hold: &Hold) -> Rejection {
    let by: End = hold.ended.expect("a hold that is not open was ended by an event");
    match hold.status {
        HoldStatus::Open => unreachable!("an open hold was not lost to anybody"),
        HoldStatus::Settled => Rejection::HoldSettled { by },
        HoldStatus::Expired => Rejection::HoldExpired { by },
        HoldStatus::Released | HoldStatus::Tombstone => Rejection::HoldReleased { by },
    }
}
