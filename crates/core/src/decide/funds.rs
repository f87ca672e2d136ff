//! `top_up` and `reverse_top_up`: money that comes in, and is taken back by who paid it.

use super::undo::{Undo, Undoable, undo};
use super::{Moved, References, Ruling, must_not_be_closed, units};
use crate::account::Account;
use crate::event::Fact;
use crate::money::Decimal;
use crate::rejection::Rejection;
use crate::text::{ExternalRef, Note};

/// Books a payment; an `external_ref` is booked once, whatever id the command has.
pub(super) fn top_up(
    account: &Account,
    amount: Decimal,
    external_ref: Option<&ExternalRef>,
    note: Option<&Note>,
    references: &References,
) -> Ruling {
    must_not_be_closed(account)?;
    let amount = units("amount", amount, account)?;
    if let Some(position) = references.external_ref {
        return Err(Rejection::ExternalRefUsed { position }.into());
    }
    account.posted.checked_add(amount).ok_or(Rejection::BalanceOverflow)?;
    Ok(Fact::ToppedUp { amount, external_ref: external_ref.cloned(), note: note.cloned() })
}

/// Takes a top-up back. Never refused for lack of funds: the chargeback has happened.
pub(super) fn reverse(
    account: &Account,
    amount: Option<Decimal>,
    reason: &Note,
    references: &References,
) -> Ruling {
    let what = Undoable {
        moved: |moved| if let Moved::TopUp(units) = moved { Some(units) } else { None },
        missing: Rejection::TopUpNotFound,
        exceeds: |left| Rejection::ExceedsTopUp { left },
    };
    let Undo { of, amount, n, total } = undo(account, amount, references, what)?;
    // `available` is bounded as well as `posted`, so that it too always fits into 64 bits.
    account.available().checked_sub(amount).ok_or(Rejection::BalanceOverflow)?;
    Ok(Fact::TopUpReversed { of, amount, n, total, reason: reason.clone() })
}
