//! The answer in pieces, as server-sent events.
//!
//! **Correctness.** A piece is counted as served when the server takes it to send it, so a caller
//! who leaves early was served what was taken until then: at least what it has read.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use axum::body::Body;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::Stream;
use serde_json::{Value, json};

use super::answer::{Answer, CREATED, FLUSHED_AFTER, error};
use super::script::Act;

/// How fast pieces come, so that each is sent on its own.
const PIECE_EVERY: Duration = Duration::from_millis(1);
/// After how many pieces a stream breaks unless the script says otherwise.
const AFTER_PIECES: usize = 5;

/// What is still to be sent.
enum Step {
    Role,
    Piece(String),
    Finish,
    Usage,
    Done,
    Error,
    Abort,
}

/// The whole stream.
pub(super) fn respond(answer: Answer) -> Response {
    answer.count_prompt();
    let steps = steps(&answer);
    let head = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")];
    (head, Body::from_stream(events(answer, steps))).into_response()
}

/// What will be sent, in order.
fn steps(answer: &Answer) -> VecDeque<Step> {
    let broken = matches!(answer.script.act, Act::Cut | Act::ErrorAfterOutput);
    let after = if broken { answer.script.after_pieces.unwrap_or(AFTER_PIECES) } else { usize::MAX };
    let pieces = answer.pieces.iter().take(after).cloned().map(Step::Piece);
    let mut steps: VecDeque<Step> = std::iter::once(Step::Role).chain(pieces).collect();
    match answer.script.act {
        Act::Cut => steps.push_back(Step::Abort),
        Act::ErrorAfterOutput => steps.push_back(Step::Error),
        _ => {
            steps.push_back(Step::Finish);
            if answer.includes_usage && answer.script.act != Act::NoUsage {
                steps.push_back(Step::Usage);
            }
            steps.push_back(Step::Done);
        }
    }
    steps
}

fn events(answer: Answer, steps: VecDeque<Step>) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    futures_util::stream::unfold((answer, steps), |(answer, mut steps)| async move {
        let step = steps.pop_front()?;
        tokio::time::sleep(wait_before(&answer, &step)).await;
        if matches!(step, Step::Piece(_)) {
            answer.count_output(1);
        }
        let event = event(&answer, step);
        if event.is_err() {
            steps.clear();
        }
        Some((event, (answer, steps)))
    })
}

fn wait_before(answer: &Answer, step: &Step) -> Duration {
    match step {
        Step::Abort => FLUSHED_AFTER,
        Step::Piece(_) => answer.pause().unwrap_or(PIECE_EVERY),
        _ => Duration::ZERO,
    }
}

fn event(answer: &Answer, step: Step) -> io::Result<Bytes> {
    let document = match step {
        // An error in the body makes the server abort the connection.
        Step::Abort => return Err(io::Error::other("cut, as the script says")),
        Step::Done => return Ok(Bytes::from_static(b"data: [DONE]\n\n")),
        Step::Error => error("server_error", Some("overloaded"), "the model failed amid its answer"),
        Step::Role => chunk(answer, json!({"role": "assistant", "content": ""}), None),
        Step::Piece(piece) => chunk(answer, json!({"content": piece}), None),
        Step::Finish => chunk(answer, json!({}), Some(answer.finish_reason())),
        Step::Usage => {
            let mut document = envelope(answer);
            document["choices"] = json!([]);
            document["usage"] = answer.usage().unwrap_or(Value::Null);
            document
        }
    };
    Ok(format!("data: {document}\n\n").into())
}

fn chunk(answer: &Answer, delta: Value, finish_reason: Option<&str>) -> Value {
    let mut document = envelope(answer);
    document["choices"] = json!([{"index": 0, "delta": delta, "finish_reason": finish_reason}]);
    if answer.includes_usage {
        // As the API does: each chunk says that usage is not known yet.
        document["usage"] = Value::Null;
    }
    document
}

fn envelope(answer: &Answer) -> Value {
    json!({
        "id": "chatcmpl-scripted",
        "object": "chat.completion.chunk",
        "created": CREATED,
        "model": answer.model,
    })
}
