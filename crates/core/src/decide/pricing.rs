//! Prices: the amount of a priced command is computed again, from nothing but the command.

use super::Stop;
use crate::account::Account;
use crate::hold::Hold;
use crate::money::Units;
use crate::rejection::{Refusal, Rejection};
use crate::usage::{Priced, Usage};

/// The usage as the event keeps it, when `amount` is its price.
pub(super) fn priced(
    account: &Account,
    amount: Units,
    usage: Option<&Usage>,
) -> Result<Option<Box<Priced>>, Stop> {
    let Some(usage) = usage else { return Ok(None) };
    let invalid = |error| Stop::Refuse(Refusal::invalid("usage", error));
    let price = usage.price(account.asset).map_err(invalid)?;
    if price != amount {
        let (stated, computed) = (account.asset.format(amount), account.asset.format(price));
        return Err(Stop::Refuse(Refusal::PriceMismatch { stated, computed }));
    }
    let numerator = usage.numerator().map_err(invalid)?.to_string().into();
    Ok(Some(Box::new(Priced { numerator, usage: usage.clone() })))
}

/// A call is charged under the rates that it was reserved under, whatever the price is by now.
pub(super) fn must_keep_rates(hold: &Hold, usage: Option<&Usage>) -> Result<(), Rejection> {
    match (hold.rates, usage) {
        (Some(reserved), Some(usage)) if usage.rates.digest() != reserved => Err(Rejection::PriceMismatch),
        _ => Ok(()),
    }
}

/// Adds to a refusal for lack of funds how much output there is money for.
pub(super) fn affordable(rejection: Rejection, account: &Account, usage: Option<&Usage>) -> Rejection {
    match (rejection, usage) {
        (Rejection::InsufficientFunds { needed, takeable, held, .. }, Some(usage)) => {
            let affordable_output_tokens = usage.affordable_output(takeable, account.asset);
            Rejection::InsufficientFunds { needed, takeable, held, affordable_output_tokens }
        }
        (rejection, _) => rejection,
    }
}
