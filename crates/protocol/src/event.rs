//! Events as others see them: the body and headers of a message in `LEDGER_EVENTS`.

use holdfast_core::chain::Hash;
use holdfast_core::money::Amount;
use holdfast_core::{Asset, CommandId, Event, Fact, HoldId, Kind};
use serde::Serialize;

use crate::token::hex;

/// The header with the event's position, which is also the stream's sequence.
pub const POSITION_HEADER: &str = "Holdfast-Position";
/// The header with the event's chain hash, in hexadecimal.
pub const CHAIN_HEADER: &str = "Holdfast-Chain";

/// The body: amounts are decimal strings in whole units, `fact` is what the log keeps, in units.
#[derive(Debug, Serialize)]
pub struct EventView<'a> {
    position: i64,
    kind: &'static str,
    account: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    asset: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hold: Option<HoldId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    amount: Option<Amount>,
    #[serde(skip_serializing_if = "Option::is_none")]
    posted: Option<Amount>,
    #[serde(skip_serializing_if = "Option::is_none")]
    held: Option<Amount>,
    #[serde(skip_serializing_if = "Option::is_none")]
    available: Option<Amount>,
    issuer: &'a str,
    command: CommandId,
    /// RFC 3339, as the caller formats it.
    time: &'a str,
    fact: &'a Fact,
}

impl<'a> EventView<'a> {
    /// `event`, with its lane time as RFC 3339: dates are not this crate's.
    #[must_use]
    pub fn new(event: &'a Event, time: &'a str) -> Self {
        let money = |units| event.asset.map(|asset| asset.amount(units));
        EventView {
            position: event.position.0,
            kind: event.fact.kind().as_str(),
            account: event.account.as_str(),
            asset: event.asset.as_ref().map(Asset::code),
            hold: event.fact.hold(),
            amount: event.fact.amount().and_then(money),
            posted: money(event.posted),
            held: money(event.held),
            available: money(event.available()),
            issuer: event.issuer.as_str(),
            command: event.command,
            time,
            fact: &event.fact,
        }
    }
}

/// The headers that all events of `kind` have: attributes of CloudEvents 1.0 in binary mode.
#[must_use]
pub fn common_headers(kind: Kind, audience: &str) -> [(&'static str, String); 4] {
    [
        ("ce-specversion", "1.0".to_owned()),
        ("ce-source", format!("holdfast/{audience}")),
        ("ce-type", format!("holdfast.{kind}")),
        ("content-type", "application/json".to_owned()),
    ]
}

/// The headers that differ from event to event, its [`trace`](trace_header) aside.
#[must_use]
pub fn own_headers(partition: i16, logged: (&Event, &Hash), time: &str) -> [(&'static str, String); 4] {
    let (event, hash) = logged;
    let position = event.position.to_string();
    [
        ("ce-id", format!("{partition}-{position}")),
        ("ce-time", time.to_owned()),
        (POSITION_HEADER, position),
        (CHAIN_HEADER, hex(hash)),
    ]
}

/// The header of the trace that the command was part of, by the extension "Distributed Tracing" 1.0 of
/// CloudEvents.
#[must_use]
pub fn trace_header(fact: &Fact) -> Option<(&'static str, String)> {
    fact.trace().map(|trace| ("ce-traceparent", trace.as_str().to_owned()))
}
