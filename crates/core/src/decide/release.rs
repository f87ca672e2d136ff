//! `release`: frees a hold, or makes sure that it never comes to be.

use super::{Ruling, lost_to, must_not_be_closed};
use crate::account::Account;
use crate::event::Fact;
use crate::id::HoldId;
use crate::text::Note;
use crate::trace::Traced;

/// An unknown hold is released too, as a tombstone: its reserve may still be on the way.
pub(super) fn release(account: &Account, id: HoldId, reason: Option<&Note>, trace: &Traced) -> Ruling {
    let (reason, trace) = (reason.cloned(), trace.0.clone());
    match account.holds.get(&id) {
        Some(hold) if hold.is_open() => {
            Ok(Fact::Released { hold: id, amount: hold.amount, tombstone: false, reason, trace })
        }
        Some(hold) => Err(lost_to(hold).into()),
        None => {
            must_not_be_closed(account)?;
            Ok(Fact::Released { hold: id, amount: 0, tombstone: true, reason, trace })
        }
    }
}
