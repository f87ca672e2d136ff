//! `deduct` and `refund`: a charge without a hold, and charged money that is given back.

use super::pricing::{affordable, priced};
use super::undo::{Undo, Undoable, undo};
use super::{Moved, References, Ruling, must_be_active, must_be_takeable, units};
use crate::account::Account;
use crate::event::Fact;
use crate::money::Decimal;
use crate::rejection::Rejection;
use crate::text::Note;
use crate::trace::Traced;
use crate::usage::Usage;

/// Charges at once.
pub(super) fn deduct(
    account: &Account,
    amount: Decimal,
    reason: Option<&Note>,
    usage: Option<&Usage>,
    trace: &Traced,
) -> Ruling {
    must_be_active(account)?;
    let amount = units("amount", amount, account)?;
    let priced = priced(account, amount, usage)?;
    must_be_takeable(account, amount).map_err(|rejection| affordable(rejection, account, usage))?;
    Ok(Fact::Deducted { amount, reason: reason.cloned(), priced, trace: trace.0.clone() })
}

/// Gives back at most what the charge took in total; absorbed money was never charged.
pub(super) fn refund(
    account: &Account,
    amount: Option<Decimal>,
    reason: &Note,
    references: &References,
) -> Ruling {
    let what = Undoable {
        moved: |moved| if let Moved::Charge(units) = moved { Some(units) } else { None },
        missing: Rejection::ChargeNotFound,
        exceeds: |left| Rejection::ExceedsCharge { left },
    };
    let Undo { of, amount, n, total } = undo(account, amount, references, what)?;
    account.posted.checked_add(amount).ok_or(Rejection::BalanceOverflow)?;
    Ok(Fact::Refunded { of, amount, n, total, reason: reason.clone() })
}
