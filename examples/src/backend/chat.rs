//! `POST /chat`: a call to a model under a hold, streamed to the caller as it comes.
//!
//! **Correctness.** The hold decides what is charged, by how the call went; this file only says how it
//! went. Who leaves in the middle has what came charged, or the whole answer where the call's policy is
//! to read on. From when the call is announced it is a task of its own, which nobody's leaving ends:
//! who leaves before the first byte pays for it.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use holdfast_calls::{Call, End, Hold, HoldError, OnAbort, SettleError, Settled};
use holdfast_core::Trace;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use super::model::{ModelError, Piece, Pieces};
use super::{Backend, Halt};
use crate::extract::{Json, User};
use crate::problem::Problem;
use crate::provider::{ChatRequest, Content, Message, StreamOptions, prompt_tokens};

/// Pieces that may wait for a slow reader before the provider is left waiting.
const PIECES_MAX: usize = 64;
/// How much output a chat may have unless it says.
const OUTPUT_DEFAULT: u64 = 1_000;

/// What is asked.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ask {
    /// What the user says.
    message: String,
    /// The model; the backend's own unless given.
    model: Option<String>,
    /// The most tokens of the answer.
    max_tokens: Option<u64>,
    /// Accept less output, as much as the balance affords, but at least so many tokens.
    min_tokens: Option<u64>,
    /// The caller's name of this call, used once.
    job_id: Option<String>,
    /// Whether the rest of the answer is read, and charged, when the caller leaves.
    #[serde(default)]
    drain: bool,
}

/// Answers with server-sent events: `text` as it comes, and at the end `settled` or `failed`.
pub(super) async fn chat(
    State(backend): State<Arc<Backend>>,
    User(user): User,
    headers: HeaderMap,
    Json(ask): Json<Ask>,
) -> Result<Response, Problem> {
    let messages = vec![Message { role: "user".to_owned(), content: Some(Content::Text(ask.message)) }];
    let model = ask.model.unwrap_or_else(|| backend.default_model.clone());
    let call = Call {
        job_id: ask.job_id,
        fit: ask.min_tokens,
        on_abort: if ask.drain { OnAbort::Drain } else { OnAbort::Delivered },
        trace: trace(&headers),
        ..Call::new(user, &model, prompt_tokens(&messages), ask.max_tokens.unwrap_or(OUTPUT_DEFAULT))
    };
    let hold = backend.calls.hold(call).await.map_err(refused)?;
    backend.halted_at(Halt::Held).await;
    let request = ChatRequest {
        model,
        messages,
        stream: true,
        stream_options: Some(StreamOptions { include_usage: true }),
        max_tokens: Some(hold.max_output_tokens()),
        max_completion_tokens: None,
    };
    let (head, begun) = oneshot::channel();
    tokio::spawn(call_model(backend, hold, request, head));
    begun.await.unwrap_or_else(|_| Err(Problem::internal("the call", "its task has ended")))
}

/// Makes the call, and settles its hold, whoever still listens. `head` is told how the answer begins.
async fn call_model(
    backend: Arc<Backend>,
    mut hold: Hold,
    request: ChatRequest,
    head: oneshot::Sender<Result<Response, Problem>>,
) {
    // Whether anybody hears of it makes no difference to what is charged.
    if let Err(error) = hold.dispatched().await {
        let _ = head.send(Err(Problem::internal("the journal", error)));
        return;
    }
    backend.halted_at(Halt::Dispatched).await;
    match backend.model.stream(&request).await {
        Ok(pieces) => {
            let (events, told) = mpsc::channel::<Bytes>(PIECES_MAX);
            let _ = head.send(Ok(streamed(told)));
            forward(backend, hold, pieces, events).await;
        }
        Err(error) => {
            let _ = head.send(Err(failed(hold, error).await));
        }
    }
}

/// The trace that the request is part of, if its header can be read.
fn trace(headers: &HeaderMap) -> Option<String> {
    let trace = headers.get("traceparent")?.to_str().ok()?;
    Trace::new(trace).ok().map(|trace| trace.as_str().to_owned())
}

/// The call was not made, or came to nothing.
async fn failed(hold: Hold, error: ModelError) -> Problem {
    let (end, status) = match &error {
        ModelError::NotSent(_) => (End::NotDispatched, StatusCode::BAD_GATEWAY),
        ModelError::Refused { status: 429, .. } => (End::ProviderError, StatusCode::TOO_MANY_REQUESTS),
        ModelError::Refused { .. } => (End::ProviderError, StatusCode::BAD_GATEWAY),
        ModelError::NoAnswer(_) => (End::Unknown, StatusCode::GATEWAY_TIMEOUT),
    };
    let detail = match hold.settle(end).await {
        Ok(Settled::Kept) => format!("{error}; the money is held until it is known what that cost"),
        Ok(_) => format!("{error}; nothing was charged"),
        Err(settling) => format!("{error}; {settling}"),
    };
    Problem::new(status, "provider_error", detail)
}

fn streamed(told: mpsc::Receiver<Bytes>) -> Response {
    let stream = futures_util::stream::unfold(told, |mut told| async move {
        Some((Ok::<_, std::io::Error>(told.recv().await?), told))
    });
    let head = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")];
    (head, Body::from_stream(stream)).into_response()
}

/// Passes the answer on, and settles the hold by how it ended.
async fn forward(backend: Arc<Backend>, mut hold: Hold, mut pieces: Pieces, events: mpsc::Sender<Bytes>) {
    let mut reported = None;
    let end = loop {
        match pieces.next().await {
            Ok(Some(Piece::Text(text))) => {
                hold.observe_text(&text);
                if events.send(event("text", &Value::from(text))).await.is_err() {
                    hold.abandon(pieces.drained());
                    return;
                }
            }
            Ok(Some(Piece::Usage(tokens))) => {
                hold.observe(tokens.clone());
                reported = Some(tokens);
            }
            Ok(None) => break End::Completed(reported),
            Err(error) => {
                tracing::warn!(%error, hold = %hold.id(), "a model's answer broke off");
                break End::Aborted;
            }
        }
    };
    backend.halted_at(Halt::Answered).await;
    let completed = matches!(end, End::Completed(_));
    let (name, told) = settled(completed, hold.settle(end).await);
    // Whoever has left by now was charged all the same.
    let _ = events.send(event(name, &told)).await;
}

fn settled(completed: bool, settled: Result<Settled, SettleError>) -> (&'static str, Value) {
    let name = if completed { "settled" } else { "failed" };
    match settled {
        Ok(settled) => {
            let charged = match &settled {
                Settled::Captured(outcome) => outcome.amount.clone(),
                Settled::Released(_) | Settled::Kept => None,
            };
            let available = settled.outcome().and_then(|outcome| outcome.available.clone());
            (name, json!({"charged": charged.unwrap_or_else(|| "0".to_owned()), "available": available}))
        }
        Err(error) => ("failed", json!({"detail": error.to_string()})),
    }
}

fn event(name: &str, data: &Value) -> Bytes {
    format!("event: {name}\ndata: {data}\n\n").into()
}

/// Why there is no hold, for the caller.
pub(super) fn refused(error: HoldError) -> Problem {
    let detail = error.to_string();
    match error {
        HoldError::InsufficientFunds { affordable_output_tokens, .. } => {
            let tokens = affordable_output_tokens.unwrap_or(0);
            let problem = Problem::new(StatusCode::PAYMENT_REQUIRED, "insufficient_funds", detail);
            problem.with("affordable_output_tokens", tokens)
        }
        HoldError::UnpricedModel(_) => Problem::new(StatusCode::NOT_FOUND, "unpriced_model", detail),
        HoldError::Invalid(_) => Problem::new(StatusCode::BAD_REQUEST, "invalid_request", detail),
        HoldError::Rejected(outcome) => {
            Problem::conflict(outcome.code.as_deref().unwrap_or("rejected"), detail)
        }
        HoldError::CostsNothing => Problem::new(StatusCode::BAD_REQUEST, "costs_nothing", detail),
        HoldError::Unavailable(_) | HoldError::BreakerOpen(_) => Problem::unavailable(detail),
        HoldError::Journal(error) => Problem::internal("the journal", error),
    }
}
