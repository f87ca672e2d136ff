//! Events as others see them: the body and headers of a message in `LEDGER_EVENTS`.

use holdfast_core::chain::Hash;
use holdfast_core::money::Amount;
use holdfast_core::{Asset, CommandId, Event, Fact, HoldId};
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
    time: String,
    fact: &'a Fact,
}

impl<'a> EventView<'a> {
    /// `event`, with its lane time as RFC 3339: dates are not this crate's.
    #[must_use]
    pub fn new(event: &'a Event, time: String) -> Self {
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

/// The headers of an event's message: the CloudEvents 1.0 attributes in binary mode, and the
/// ledger's own.
#[must_use]
pub fn headers(
    event: &Event,
    partition: i16,
    audience: &str,
    time: &str,
    hash: &Hash,
) -> Vec<(&'static str, String)> {
    let mut headers = vec![
        ("ce-specversion", "1.0".to_owned()),
        ("ce-id", format!("{partition}-{}", event.position)),
        ("ce-source", format!("holdfast/{audience}")),
        ("ce-type", format!("holdfast.{}", event.fact.kind())),
        ("ce-time", time.to_owned()),
        ("content-type", "application/json".to_owned()),
        (POSITION_HEADER, event.position.to_string()),
        (CHAIN_HEADER, hex(hash)),
    ];
    // CloudEvents, extension "Distributed Tracing" 1.0.
    headers.extend(event.fact.trace().map(|trace| ("ce-traceparent", trace.as_str().to_owned())));
    headers
}
