//! `top_up` and `reverse_top_up`: money that comes in, and is taken back by who paid it.

use super::{Moved, References, Ruling, must_not_be_closed, units};
use crate::account::Account;
use crate::event::Fact;
use crate::money::{Decimal, Units};
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
    must_not_be_closed(account)?;
    let given = amount.map(|amount| units("amount", amount, account)).transpose()?;
    let of = references.of.as_ref().filter(|of| of.account == account.id);
    let (of, topped_up) = match of.map(|of| (of, of.moved)) {
        Some((of, Moved::TopUp(units))) => (of, units),
        _ => return Err(Rejection::TopUpNotFound.into()),
    };
    let left: Units = topped_up - of.undone;
    let amount = given.unwrap_or(left);
    if amount > left || amount == 0 {
        return Err(Rejection::ExceedsTopUp { left }.into());
    }
    // `available` is bounded as well as `posted`, so that it too always fits into 64 bits.
    account.available().checked_sub(amount).ok_or(Rejection::BalanceOverflow)?;
    Ok(Fact::TopUpReversed {
        of: of.position,
        amount,
        n: of.n + 1,
        total: of.undone + amount,
        reason: reason.clone(),
    })
}
