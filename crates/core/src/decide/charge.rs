//! `deduct` and `refund`: a charge without a hold, and charged money that is given back.

use super::{Moved, References, Ruling, must_be_active, must_be_takeable, must_not_be_closed, units};
use crate::account::Account;
use crate::event::Fact;
use crate::money::{Decimal, Units};
use crate::rejection::Rejection;
use crate::text::Note;

/// Charges at once.
pub(super) fn deduct(account: &Account, amount: Decimal, reason: Option<&Note>) -> Ruling {
    must_be_active(account)?;
    let amount = units("amount", amount, account)?;
    must_be_takeable(account, amount)?;
    Ok(Fact::Deducted { amount, reason: reason.cloned() })
}

/// Gives back at most what the charge took in total; absorbed money was never charged.
pub(super) fn refund(
    account: &Account,
    amount: Option<Decimal>,
    reason: &Note,
    references: &References,
) -> Ruling {
    must_not_be_closed(account)?;
    let given = amount.map(|amount| units("amount", amount, account)).transpose()?;
    let of = references.of.as_ref().filter(|of| of.account == account.id);
    let (of, charged) = match of.map(|of| (of, of.moved)) {
        Some((of, Moved::Charge(units))) => (of, units),
        _ => return Err(Rejection::ChargeNotFound.into()),
    };
    let left: Units = charged - of.undone;
    let amount = given.unwrap_or(left);
    if amount > left || amount == 0 {
        return Err(Rejection::ExceedsCharge { left }.into());
    }
    account.posted.checked_add(amount).ok_or(Rejection::BalanceOverflow)?;
    Ok(Fact::Refunded {
        of: of.position,
        amount,
        n: of.n + 1,
        total: of.undone + amount,
        reason: reason.clone(),
    })
}
