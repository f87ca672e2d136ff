//! `open_account` and `set_account`: the terms of an account.

use super::{Ruling, Stop, must_not_be_closed, units};
use crate::account::{Account, AccountStatus};
use crate::event::Fact;
use crate::money::{Assets, Decimal};
use crate::rejection::{Refusal, Rejection};
use crate::text::Tier;

/// Opens an account. The same terms again, under another command id, are the first outcome again.
pub(super) fn open(
    account: Option<&Account>,
    tier: &Tier,
    code: &str,
    limit: Decimal,
    assets: &Assets,
) -> Ruling {
    let asset = assets.find(code).ok_or_else(|| {
        let problem = format!("`{code}` is not configured here; one of {}", assets.codes());
        Stop::Refuse(Refusal::invalid("asset", problem))
    })?;
    let limit_units =
        limit.units(asset).map_err(|error| Stop::Refuse(Refusal::invalid("overdraft_limit", error)))?;
    let Some(account) = account else {
        return Ok(Fact::AccountOpened { tier: tier.clone(), overdraft_limit: limit_units });
    };
    let opening = &account.opening;
    let same = account.asset == asset && opening.tier == *tier && opening.overdraft_limit == limit_units;
    Err(if same {
        Stop::Repeat(opening.position)
    } else {
        Stop::Reject(Rejection::AccountExists { position: opening.position })
    })
}

/// Changes the terms that are given and keeps the others.
pub(super) fn set(
    account: &Account,
    tier: Option<&Tier>,
    limit: Option<Decimal>,
    status: Option<AccountStatus>,
) -> Ruling {
    must_not_be_closed(account)?;
    let overdraft_limit = match limit {
        Some(limit) => units("overdraft_limit", limit, account)?,
        None => account.overdraft_limit,
    };
    let in_use = account.available().saturating_neg().max(0);
    if overdraft_limit < account.overdraft_limit && overdraft_limit < in_use {
        return Err(Rejection::LimitInUse { in_use }.into());
    }
    let status = status.unwrap_or(account.status);
    if status == AccountStatus::Closed {
        must_be_empty(account)?;
    }
    Ok(Fact::AccountSet { tier: tier.unwrap_or(&account.tier).clone(), overdraft_limit, status })
}

/// Every open hold of the account is loaded whenever the account is, so counting them is sound.
fn must_be_empty(account: &Account) -> Result<(), Rejection> {
    let open_holds = account.open_holds() as u64;
    if account.posted == 0 && account.held == 0 && open_holds == 0 {
        return Ok(());
    }
    Err(Rejection::AccountNotEmpty { posted: account.posted, held: account.held, open_holds })
}
