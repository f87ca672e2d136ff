//! What an event does to its account: the one fold.
//!
//! **Correctness.** The balances that an event states are those its postings lead to; a
//! difference means that the log and the rules disagree, and folding stops rather than go on
//! from a wrong balance.

use crate::account::{Account, AccountStatus, Opening};
use crate::chain::Hash;
use crate::event::{Event, Fact, Kind};
use crate::hold::{End, Hold, HoldStatus, OnExpiry, Policies};
use crate::holds::Holds;
use crate::id::{HoldId, Position};
use crate::money::Units;
use crate::time::Timestamp;

/// The log cannot be folded: it contradicts the rules.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the event at position {position} does not follow from what was before it: {problem}")]
pub struct FoldError {
    /// The event.
    pub position: Position,
    /// What does not fit.
    pub problem: String,
}

/// Applies `event` to its account; `account` is none before it was opened.
///
/// # Errors
/// [`FoldError`] when the event cannot have followed. The account is then half changed and must
/// be thrown away.
pub fn evolve(account: &mut Option<Account>, event: &Event) -> Result<(), FoldError> {
    let fail = |problem: &str| FoldError { position: event.position, problem: problem.to_owned() };
    if let Fact::AccountOpened { .. } = event.fact {
        if account.is_some() {
            return Err(fail("the account is opened twice"));
        }
        if (event.posted, event.held) != (0, 0) {
            return Err(fail("an account opens with nothing in it"));
        }
        *account = Some(opened(event).ok_or_else(|| fail("an account without an asset"))?);
        return Ok(());
    }
    let Some(account) = account else {
        return match event.fact {
            Fact::Rejected { .. } => Ok(()),
            _ => Err(fail("the account was never opened")),
        };
    };
    apply(account, event).ok_or_else(|| fail("its amounts or its hold do not fit"))?;
    account.last_position = event.position;
    if (account.posted, account.held) != (event.posted, event.held) {
        let problem = format!(
            "posted {} and held {} follow, it states {} and {}",
            account.posted, account.held, event.posted, event.held
        );
        return Err(fail(&problem));
    }
    Ok(())
}

fn opened(event: &Event) -> Option<Account> {
    let Fact::AccountOpened { tier, overdraft_limit } = &event.fact else { return None };
    Some(Account {
        id: event.account.clone(),
        asset: event.asset?,
        tier: tier.clone(),
        overdraft_limit: *overdraft_limit,
        status: AccountStatus::Active,
        posted: 0,
        held: 0,
        opening: Opening { position: event.position, tier: tier.clone(), overdraft_limit: *overdraft_limit },
        last_position: event.position,
        holds: Holds::default(),
    })
}

/// Changes the account; none when the event names a hold that is not there or has ended.
fn apply(account: &mut Account, event: &Event) -> Option<()> {
    match &event.fact {
        Fact::AccountOpened { .. } => return None,
        Fact::Rejected { .. } => {}
        Fact::AccountSet { tier, overdraft_limit, status } => {
            account.tier = tier.clone();
            account.overdraft_limit = *overdraft_limit;
            account.status = *status;
        }
        Fact::ToppedUp { amount, .. } | Fact::Refunded { amount, .. } => {
            account.posted = account.posted.checked_add(*amount)?;
        }
        Fact::TopUpReversed { amount, .. } | Fact::Deducted { amount, .. } => {
            account.posted = account.posted.checked_sub(*amount)?;
        }
        Fact::Reserved { hold, amount, expires_at, policies, priced, .. } => {
            let rates = priced.as_ref().map(|priced| priced.usage.rates.digest());
            reserve(account, event, *hold, *amount, *expires_at, *policies, rates)?;
        }
        Fact::Captured { hold, held, drawn, absorbed, released, is_final, .. } => {
            let freed = held.checked_add(*released)?;
            account.posted = account.posted.checked_sub(held.checked_add(*drawn)?)?;
            account.held = account.held.checked_sub(freed)?;
            let hold = open_hold(account, *hold, event)?;
            hold.amount = hold.amount.checked_sub(freed).filter(|left| *left >= 0)?;
            hold.captured = hold.captured.checked_add(held.checked_add(*drawn)?)?;
            hold.absorbed = hold.absorbed.checked_add(*absorbed)?;
            if *is_final {
                end(hold, HoldStatus::Settled, event);
            }
        }
        Fact::CapturedLate { hold, charged, absorbed, .. } => {
            account.posted = account.posted.checked_sub(*charged)?;
            let hold = account.holds.get_mut(hold)?;
            if !matches!(hold.status, HoldStatus::Released | HoldStatus::Expired) {
                return None;
            }
            hold.captured = hold.captured.checked_add(*charged)?;
            hold.absorbed = hold.absorbed.checked_add(*absorbed)?;
            hold.last_position = event.position;
            end(hold, HoldStatus::Settled, event);
        }
        Fact::Released { hold, tombstone: true, .. } => entomb(account, event, *hold)?,
        Fact::Released { hold, amount, tombstone: false, .. } => {
            account.held = account.held.checked_sub(*amount)?;
            let hold = open_hold(account, *hold, event)?;
            (hold.amount == *amount).then_some(())?;
            end(hold, HoldStatus::Released, event);
        }
        Fact::Extended { hold, expires_at } => {
            open_hold(account, *hold, event)?.expires_at = *expires_at;
        }
        Fact::Increased { hold, amount } => {
            account.held = account.held.checked_add(*amount)?;
            let hold = open_hold(account, *hold, event)?;
            hold.amount = hold.amount.checked_add(*amount)?;
        }
        Fact::HoldExpired { hold, released, captured } => {
            account.posted = account.posted.checked_sub(*captured)?;
            account.held = account.held.checked_sub(captured.checked_add(*released)?)?;
            let hold = open_hold(account, *hold, event)?;
            (hold.amount == captured.checked_add(*released)?).then_some(())?;
            hold.captured = hold.captured.checked_add(*captured)?;
            let settled = hold.policies.on_expiry == OnExpiry::Capture;
            end(hold, if settled { HoldStatus::Settled } else { HoldStatus::Expired }, event);
            if settled {
                hold.amount = 0;
            }
        }
    }
    (account.held >= 0).then_some(())
}

fn reserve(
    account: &mut Account,
    event: &Event,
    id: HoldId,
    amount: Units,
    expires_at: Timestamp,
    policies: Policies,
    rates: Option<Hash>,
) -> Option<()> {
    account.held = account.held.checked_add(amount)?;
    let hold = Hold {
        status: HoldStatus::Open,
        amount,
        captured: 0,
        absorbed: 0,
        policies,
        reserved_at: event.time,
        expires_at,
        ended: None,
        last_position: event.position,
        rates,
    };
    account.holds.insert(id, hold).is_none().then_some(())
}

fn entomb(account: &mut Account, event: &Event, id: HoldId) -> Option<()> {
    let hold = Hold {
        status: HoldStatus::Tombstone,
        amount: 0,
        captured: 0,
        absorbed: 0,
        policies: Policies::default(),
        reserved_at: event.time,
        expires_at: event.time,
        ended: Some(End { kind: Kind::Released, position: event.position }),
        last_position: event.position,
        rates: None,
    };
    account.holds.insert(id, hold).is_none().then_some(())
}

fn open_hold<'a>(account: &'a mut Account, id: HoldId, event: &Event) -> Option<&'a mut Hold> {
    let hold = account.holds.get_mut(&id).filter(|hold| hold.is_open())?;
    hold.last_position = event.position;
    Some(hold)
}

fn end(hold: &mut Hold, status: HoldStatus, event: &Event) {
    hold.status = status;
    hold.ended = Some(End { kind: event.fact.kind(), position: event.position });
}
