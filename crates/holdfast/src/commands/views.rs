//! Accounts, holds and events as JSON, the same for the command line and the NATS services.

use holdfast_core::Account;
use holdfast_projector::queries::{CostLine, HoldView};
use holdfast_protocol::event::EventView;
use holdfast_store::Row;
use holdfast_store::record::rfc3339;
use serde_json::{Value, json};

/// An account with its balances in whole units.
pub(crate) fn account(account: &Account) -> Value {
    let money = |units| account.asset.format(units);
    json!({
        "account": account.id.as_str(),
        "asset": account.asset.code(),
        "tier": account.tier.as_str(),
        "status": account.status.as_str(),
        "posted": money(account.posted),
        "held": money(account.held),
        "available": money(account.available()),
        "overdraft_limit": money(account.overdraft_limit),
        "position": account.last_position,
    })
}

/// A hold with its amounts in whole units.
pub(crate) fn hold(view: &HoldView) -> Value {
    let money = |units| view.asset.format(units);
    json!({
        "hold": view.id,
        "account": view.account.as_str(),
        "status": view.hold.status.as_str(),
        "amount": money(view.hold.amount),
        "captured": money(view.hold.captured),
        "absorbed": money(view.hold.absorbed),
        "policies": view.hold.policies,
        "reserved_at": rfc3339(view.hold.reserved_at),
        "expires_at": rfc3339(view.hold.expires_at),
        "ended": view.hold.ended,
        "job_id": view.job_id,
        "saga": view.saga,
        "usage": view.usage,
        "position": view.hold.last_position,
    })
}

/// A line of the cost report with its amounts in whole units.
pub(crate) fn cost(line: &CostLine) -> Value {
    let money = |units| super::finance::whole(line.asset, units);
    json!({
        "group": line.group,
        "asset": line.asset.code(),
        "charges": line.cost.charges,
        "input_tokens": line.cost.input_tokens.to_string(),
        "output_tokens": line.cost.output_tokens.to_string(),
        "charged": money(line.cost.charged),
        "absorbed": money(line.cost.absorbed),
    })
}

/// An event as `LEDGER_EVENTS` carries it.
pub(crate) fn event(row: &Row) -> Value {
    let time = rfc3339(row.event.time);
    let view = EventView::new(&row.event, &time);
    serde_json::to_value(view).expect("an event is plain values")
}
