//! The ledger's own command: a hold's time has come.

use super::{Ruling, open_hold};
use crate::account::Account;
use crate::event::Fact;
use crate::hold::OnExpiry;
use crate::id::HoldId;

/// Whether the time has come is the lane's to know, since it depends on what JetStream still
/// holds; what then happens is decided here.
pub(super) fn expire(account: &Account, id: HoldId) -> Ruling {
    let hold = open_hold(account, id)?;
    let (released, captured) = match hold.policies.on_expiry {
        OnExpiry::Release => (hold.amount, 0),
        OnExpiry::Capture => (0, hold.amount),
    };
    Ok(Fact::HoldExpired { hold: id, released, captured })
}
