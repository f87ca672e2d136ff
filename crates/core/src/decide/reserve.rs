//! `reserve`: promises money to a call.

use super::pricing::{affordable, priced};
use super::{Ruling, lost_to, must_be_active, must_be_takeable, units};
use crate::account::Account;
use crate::command::Reserve;
use crate::event::Fact;
use crate::hold::{Hold, HoldStatus, LIFE_MAX_MS, Policies};
use crate::rejection::Rejection;
use crate::time::Timestamp;

pub(super) fn reserve(account: &Account, wanted: &Reserve, now: Timestamp) -> Ruling {
    must_be_active(account)?;
    let amount = units("amount", wanted.amount, account)?;
    let priced = priced(account, amount, wanted.usage.as_deref())?;
    if let Some(hold) = account.holds.get(&wanted.hold) {
        return Err(taken(hold).into());
    }
    if wanted.ttl_ms > LIFE_MAX_MS {
        return Err(Rejection::TtlTooLong { max_ms: LIFE_MAX_MS }.into());
    }
    let usage = wanted.usage.as_deref();
    must_be_takeable(account, amount).map_err(|rejection| affordable(rejection, account, usage))?;
    Ok(Fact::Reserved {
        hold: wanted.hold,
        amount,
        expires_at: now.plus_millis(wanted.ttl_ms),
        policies: Policies { overage: wanted.overage, on_expiry: wanted.on_expiry, late: wanted.late },
        job_id: wanted.job_id.clone(),
        saga: wanted.saga.clone(),
        priced,
        trace: wanted.trace.0.clone(),
    })
}

/// A hold's id is used once. After a tombstone the reserve learns that it was released already.
fn taken(hold: &Hold) -> Rejection {
    match hold.status {
        HoldStatus::Tombstone => lost_to(hold),
        status => Rejection::HoldExists { status },
    }
}
