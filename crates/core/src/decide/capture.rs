//! `capture`: charges what a call really cost, in time or late.

use super::pricing::{must_keep_rates, priced};
use super::{Ruling, lost_to, units};
use crate::account::{Account, AccountStatus};
use crate::command::Capture;
use crate::event::Fact;
use crate::hold::{Hold, HoldStatus, Late, Overage};
use crate::money::Units;
use crate::rejection::Rejection;
use crate::usage::Priced;

pub(super) fn capture(account: &Account, asked: &Capture) -> Ruling {
    let given = asked.amount.map(|amount| units("amount", amount, account)).transpose()?;
    let hold = account.holds.get(&asked.hold).ok_or(Rejection::HoldNotFound)?;
    let wanted = given.unwrap_or(hold.amount);
    let usage = asked.usage.as_deref();
    let priced = priced(account, wanted, usage)?;
    match hold.status {
        HoldStatus::Open => {
            must_keep_rates(hold, usage)?;
            in_time(account, hold, asked, wanted, priced)
        }
        HoldStatus::Released | HoldStatus::Expired if hold.late() == Late::Charge => {
            must_keep_rates(hold, usage)?;
            late(account, hold, asked, wanted, priced)
        }
        _ => Err(lost_to(hold).into()),
    }
}

fn in_time(
    account: &Account,
    hold: &Hold,
    asked: &Capture,
    wanted: Units,
    priced: Option<Box<Priced>>,
) -> Ruling {
    let held = wanted.min(hold.amount);
    let excess = wanted - held;
    let (drawn, absorbed) = match overage(account, hold) {
        _ if excess == 0 => (0, 0),
        Overage::Reject => return Err(Rejection::ExceedsHold { held: hold.amount }.into()),
        Overage::Cap => (0, excess),
        Overage::Draw => split(account, excess),
    };
    let released = if asked.is_final { hold.amount - held } else { 0 };
    must_fit(hold, held + drawn, absorbed, hold.amount - held - released)?;
    Ok(Fact::Captured {
        hold: asked.hold,
        held,
        drawn,
        absorbed,
        released,
        is_final: asked.is_final,
        reason: asked.reason.clone(),
        priced,
        trace: asked.trace.0.clone(),
    })
}

/// The hold's policy, but a frozen account lets nothing be drawn.
fn overage(account: &Account, hold: &Hold) -> Overage {
    match hold.policies.overage {
        Overage::Draw if account.status == AccountStatus::Frozen => Overage::Cap,
        overage => overage,
    }
}

/// A late capture is first bounded by `overage` against what was left when the hold ended; what
/// may then be charged is taken as far as the balance allows, and the house absorbs the rest.
fn late(
    account: &Account,
    hold: &Hold,
    asked: &Capture,
    wanted: Units,
    priced: Option<Box<Priced>>,
) -> Ruling {
    let bounded = match overage(account, hold) {
        Overage::Reject if wanted > hold.amount => {
            return Err(Rejection::ExceedsHold { held: hold.amount }.into());
        }
        Overage::Cap => wanted.min(hold.amount),
        Overage::Reject | Overage::Draw => wanted,
    };
    let charged = match account.status {
        AccountStatus::Closed => 0,
        AccountStatus::Active | AccountStatus::Frozen => bounded.min(account.takeable()),
    };
    must_fit(hold, charged, wanted - charged, 0)?;
    Ok(Fact::CapturedLate {
        hold: asked.hold,
        charged,
        absorbed: wanted - charged,
        reason: asked.reason.clone(),
        priced,
        trace: asked.trace.0.clone(),
    })
}

/// What a hold has seen in total must stay countable, however often it is captured in part, and
/// even if all that is left is charged when its time comes.
fn must_fit(hold: &Hold, charged: Units, absorbed: Units, left: Units) -> Result<(), Rejection> {
    let captured = hold.captured.checked_add(charged).and_then(|captured| captured.checked_add(left));
    let fits = captured.is_some() && hold.absorbed.checked_add(absorbed).is_some();
    if fits { Ok(()) } else { Err(Rejection::BalanceOverflow) }
}

/// `excess` as what may be taken and what the house absorbs.
fn split(account: &Account, excess: Units) -> (Units, Units) {
    let drawn = excess.min(account.takeable());
    (drawn, excess - drawn)
}
