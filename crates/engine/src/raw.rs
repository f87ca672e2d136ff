//! Messages of the command stream as the server's JSON has them, headers unread.
//!
//! Anybody who may publish may publish headers that the NATS client cannot parse; it then drops the
//! connection, or worse. What must be read whatever it carries is read this way, in which headers
//! are no more than a string that nobody looks at.

use async_nats::Client;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::Deserialize;

use crate::bus::{BusError, COMMANDS};

/// The server's code for "no message found".
const NOT_FOUND: u64 = 10037;

/// A message as stored.
pub(crate) struct RawMessage {
    pub(crate) sequence: u64,
    pub(crate) subject: String,
    pub(crate) payload: Bytes,
    pub(crate) stored: DateTime<Utc>,
    /// Whether it carries headers, of which no honest command has any.
    pub(crate) has_headers: bool,
}

#[derive(Deserialize)]
struct Answer {
    message: Option<Stored>,
    error: Option<ApiError>,
}

#[derive(Deserialize)]
struct Stored {
    seq: u64,
    subject: String,
    #[serde(default)]
    data: String,
    #[serde(default)]
    hdrs: String,
    time: DateTime<Utc>,
}

#[derive(Deserialize)]
struct ApiError {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

/// The message at `sequence`, if it is kept.
pub(crate) async fn at(client: &Client, sequence: u64) -> Result<Option<RawMessage>, BusError> {
    ask(client, serde_json::json!({ "seq": sequence })).await
}

/// The first message from `sequence` on.
pub(crate) async fn from(client: &Client, sequence: u64) -> Result<Option<RawMessage>, BusError> {
    ask(client, serde_json::json!({ "seq": sequence, "next_by_subj": "ledger.cmd.>" })).await
}

async fn ask(client: &Client, question: serde_json::Value) -> Result<Option<RawMessage>, BusError> {
    let subject = format!("$JS.API.STREAM.MSG.GET.{COMMANDS}");
    let answer = client.request(subject, question.to_string().into()).await.map_err(BusError::of)?;
    let answer: Answer = serde_json::from_slice(&answer.payload).map_err(BusError::of)?;
    match (answer.message, answer.error) {
        (Some(stored), _) => {
            let payload = STANDARD.decode(stored.data).map_err(BusError::of)?.into();
            let (sequence, subject) = (stored.seq, stored.subject);
            let has_headers = !stored.hdrs.is_empty();
            Ok(Some(RawMessage { sequence, subject, payload, stored: stored.time, has_headers }))
        }
        (None, Some(error)) if error.err_code == NOT_FOUND => Ok(None),
        (None, Some(error)) => Err(BusError(error.description)),
        (None, None) => Err(BusError("an answer without a message".to_owned())),
    }
}
