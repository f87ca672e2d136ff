//! `extend` and `increase`: more time and more money for an open hold.

use super::{Ruling, must_be_active, must_be_takeable, open_hold, units};
use crate::account::Account;
use crate::event::Fact;
use crate::hold::LIFE_MAX_MS;
use crate::id::HoldId;
use crate::money::Decimal;
use crate::rejection::Rejection;
use crate::time::Timestamp;

/// Puts the hold's time off to `ttl_ms` from now; it is never brought forward.
pub(super) fn extend(account: &Account, id: HoldId, ttl_ms: u64, now: Timestamp) -> Ruling {
    let hold = open_hold(account, id)?;
    let expires_at = now.plus_millis(ttl_ms).max(hold.expires_at);
    if expires_at > hold.life_end() {
        return Err(Rejection::TtlTooLong { max_ms: LIFE_MAX_MS }.into());
    }
    Ok(Fact::Extended { hold: id, expires_at })
}

/// Promises more money.
pub(super) fn increase(account: &Account, id: HoldId, amount: Decimal) -> Ruling {
    must_be_active(account)?;
    let amount = units("amount", amount, account)?;
    let hold = open_hold(account, id)?;
    must_be_takeable(account, amount)?;
    // Its expiry may have to charge all of it on top of what was captured.
    let most = hold.captured.checked_add(hold.amount).and_then(|most| most.checked_add(amount));
    most.ok_or(Rejection::BalanceOverflow)?;
    Ok(Fact::Increased { hold: id, amount })
}
