//! From a request to a command: its id, its body, and its account.

use axum::http::HeaderMap;
use holdfast_core::id::derived_id;
use holdfast_core::{AccountId, CommandId, Trace, Verb};
use holdfast_protocol::Outcome;
use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::facade::{Facade, Sending};
use crate::problem::Problem;

/// The header that makes a POST repeatable.
const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// The longest key, in bytes.
const KEY_MAX_BYTES: usize = 255;

/// Sends `verb` with `body` on `account`.
///
/// The command id is made of the `Idempotency-Key`, else of `job_id` where that stands for one
/// command, else it is new; the caller is told which it was.
pub(super) async fn send(
    facade: &Facade,
    headers: &HeaderMap,
    verb: Verb,
    account: &str,
    job_id: Option<&str>,
    body: &impl Serialize,
) -> Result<Outcome, Problem> {
    // Checked before it becomes part of a subject, whose length the bus limits.
    AccountId::new(account).map_err(|error| Problem::invalid(format!("user_id: {error}")))?;
    let repeatable = repeatable_id(facade, headers, verb, job_id)?;
    let id = repeatable.unwrap_or_else(Uuid::now_v7);
    let json = serde_json::to_string(body).and_then(RawValue::from_string);
    let json = json.map_err(|error| Problem::invalid(error.to_string()))?;
    facade.send(Sending { id, verb, account, body: &json, repeatable: repeatable.is_some() }).await
}

/// The trace that a request is part of. A header that is no `traceparent` is none: who forwards one
/// has not made it.
pub(super) fn trace<'a>(headers: &'a HeaderMap, given: Option<&'a str>) -> Option<&'a str> {
    let header = || headers.get("traceparent")?.to_str().ok().filter(|text| Trace::new(text).is_ok());
    given.or_else(header)
}

/// The command id that the same request has every time; none when it cannot be repeated.
pub(super) fn repeatable_id(
    facade: &Facade,
    headers: &HeaderMap,
    verb: Verb,
    job_id: Option<&str>,
) -> Result<Option<CommandId>, Problem> {
    let key = match idempotency_key(headers)? {
        Some(key) => Some(key),
        None => job_id,
    };
    Ok(key.map(|key| derived_id(facade.issuer(), verb.as_str(), key)))
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let fits = |key: &&str| !key.is_empty() && key.len() <= KEY_MAX_BYTES;
    let key = value.to_str().ok().filter(fits).filter(|_| values.next().is_none());
    let problem = || Problem::invalid("Idempotency-Key: once, 1 to 255 printable ASCII characters");
    key.map(Some).ok_or_else(problem)
}
