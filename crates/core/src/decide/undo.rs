//! What a refund and a reversed top-up have in common: an earlier event is undone, in parts or in
//! full, but never beyond what it moved.

use super::{Moved, References, Stop, must_not_be_closed, units};
use crate::account::Account;
use crate::id::Position;
use crate::money::{Decimal, Units};
use crate::rejection::Rejection;

/// A part of an earlier event to be undone.
pub(super) struct Undo {
    /// The event.
    pub(super) of: Position,
    /// How much of it now.
    pub(super) amount: Units,
    /// Which time this is.
    pub(super) n: u32,
    /// How much of it will be undone then.
    pub(super) total: Units,
}

/// What may be undone, and what is said when it may not.
pub(super) struct Undoable {
    /// What the event moved, if it is one of the right kind.
    pub(super) moved: fn(Moved) -> Option<Units>,
    /// There is no such event.
    pub(super) missing: Rejection,
    /// Less is left of it.
    pub(super) exceeds: fn(Units) -> Rejection,
}

/// Undoes `amount` of the event that the command names; all that is left of it unless given.
pub(super) fn undo(
    account: &Account,
    amount: Option<Decimal>,
    references: &References,
    what: Undoable,
) -> Result<Undo, Stop> {
    must_not_be_closed(account)?;
    let given = amount.map(|amount| units("amount", amount, account)).transpose()?;
    let of = references.of.as_ref().filter(|of| of.account == account.id);
    let Some((of, moved)) = of.and_then(|of| Some((of, (what.moved)(of.moved)?))) else {
        return Err(what.missing.into());
    };
    let left = moved - of.undone;
    let amount = given.unwrap_or(left);
    if amount > left || amount == 0 {
        return Err((what.exceeds)(left).into());
    }
    Ok(Undo { of: of.position, amount, n: of.n + 1, total: of.undone + amount })
}
