//! Accounts and holds as rows of projection tables, and back.

use holdfast_core::account::Opening;
use holdfast_core::chain::Hash;
use holdfast_core::hold::{End, Policies};
use holdfast_core::text::Tier;
use holdfast_core::{Account, AccountId, AccountStatus, Hold, HoldStatus, Holds, Kind, Position};
use holdfast_store::StoreError;
use holdfast_store::record::moment;
use sqlx::Row as _;
use sqlx::postgres::PgRow;

/// The columns that [`account`] reads, of a table called `a`.
pub(crate) const ACCOUNT: &str = "a.account, a.asset, a.tier, a.status, a.overdraft_limit, a.posted, a.held, \
     a.opened_position, a.opened_tier, a.opened_limit, a.last_position";

/// The columns that [`hold`] reads, of a table called `h`.
pub(crate) const HOLD: &str = "h.account, h.hold, h.status, h.amount, h.captured, h.absorbed, h.policies, \
     h.reserved_at, h.expires_at, h.ended_kind, h.ended_position, h.last_position, h.rates";

pub(crate) fn account_id(bytes: Vec<u8>) -> Result<AccountId, StoreError> {
    let text = String::from_utf8(bytes).map_err(|_| unreadable("account"))?;
    AccountId::new(&text).map_err(|_| unreadable("account"))
}

/// An account without its holds.
pub(crate) fn account(row: &PgRow) -> Result<Account, StoreError> {
    let tier = |name: &str| -> Result<Tier, StoreError> {
        Tier::try_from(row.try_get::<String, _>(name)?).map_err(|_| unreadable("tier"))
    };
    Ok(Account {
        id: account_id(row.try_get("account")?)?,
        asset: row.try_get::<&str, _>("asset")?.parse().map_err(|_| unreadable("asset"))?,
        tier: tier("tier")?,
        overdraft_limit: row.try_get("overdraft_limit")?,
        status: word(row.try_get("status")?, "status")?,
        posted: row.try_get("posted")?,
        held: row.try_get("held")?,
        opening: Opening {
            position: Position(row.try_get("opened_position")?),
            tier: tier("opened_tier")?,
            overdraft_limit: row.try_get("opened_limit")?,
        },
        last_position: Position(row.try_get("last_position")?),
        holds: Holds::default(),
    })
}

pub(crate) fn hold(row: &PgRow) -> Result<Hold, StoreError> {
    let kind: Option<&str> = row.try_get("ended_kind")?;
    let position: Option<i64> = row.try_get("ended_position")?;
    let ended = match (kind, position) {
        (Some(kind), Some(position)) => Some(End { kind: kind.parse()?, position: Position(position) }),
        _ => None,
    };
    Ok(Hold {
        status: word::<HoldStatus>(row.try_get("status")?, "status")?,
        amount: row.try_get("amount")?,
        captured: row.try_get("captured")?,
        absorbed: row.try_get("absorbed")?,
        policies: serde_json::from_str::<Policies>(row.try_get("policies")?)
            .map_err(|_| unreadable("policies"))?,
        reserved_at: moment(row.try_get("reserved_at")?),
        expires_at: moment(row.try_get("expires_at")?),
        ended,
        last_position: Position(row.try_get("last_position")?),
        rates: rates(row)?,
    })
}

/// The digest of the rates that a hold was reserved under.
pub(crate) fn rates(row: &PgRow) -> Result<Option<Hash>, StoreError> {
    let digest: Option<&[u8]> = row.try_get("rates")?;
    digest.map(|digest| digest.try_into().map_err(|_| unreadable("rates"))).transpose()
}

/// One of the words that a status or kind is stored as.
fn word<T: serde::de::DeserializeOwned>(text: &str, column: &str) -> Result<T, StoreError> {
    serde_json::from_value(serde_json::Value::from(text)).map_err(|_| unreadable(column))
}

fn unreadable(column: &str) -> StoreError {
    StoreError::Inconsistent(format!(
        "the column {column} of a projection cannot be read; rebuild the projections"
    ))
}

/// The text that `ended_kind` keeps.
pub(crate) fn ended_kind(hold: &Hold) -> Option<&'static str> {
    hold.ended.map(|end| Kind::as_str(end.kind))
}

/// The text that `status` keeps.
pub(crate) fn status(account: &Account) -> &'static str {
    AccountStatus::as_str(account.status)
}
