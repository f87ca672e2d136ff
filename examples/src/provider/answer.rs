//! Answering a chat completion, as the script says.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::{Value, json};

use super::chat::{ChatRequest, prompt_tokens};
use super::script::{Act, Script};
use super::{Provider, stream, text};
use crate::extract::{Raw, parse};
use crate::problem::Problem;

/// What `Retry-After` says unless the script says otherwise.
const RETRY_AFTER_SECONDS: u64 = 1;
/// How long a slow answer takes unless the script says otherwise.
const PAUSE_MS: u64 = 200;
/// Long enough for what was sent before to leave: what is still in the server's buffer when a
/// connection is aborted is lost.
pub(super) const FLUSHED_AFTER: Duration = Duration::from_millis(20);
/// The time of all answers, so that the same call has the same answer.
pub(super) const CREATED: u64 = 1_760_000_000;

/// An answer that is about to be given.
pub(super) struct Answer {
    pub(super) provider: Arc<Provider>,
    pub(super) script: Script,
    pub(super) model: String,
    pub(super) prompt_tokens: u64,
    pub(super) cached_tokens: u64,
    /// The tokens.
    pub(super) pieces: Vec<String>,
    /// Whether the limit cut it off.
    pub(super) limited: bool,
    pub(super) includes_usage: bool,
}

/// `POST /v1/chat/completions`.
pub(super) async fn completions(
    State(provider): State<Arc<Provider>>,
    headers: HeaderMap,
    Raw(body): Raw,
) -> Response {
    let request: ChatRequest = match parse(&body) {
        Ok(request) => request,
        Err(problem) => return refused(&problem),
    };
    let script = match Script::of_header(&headers) {
        Ok(script) => script.or_else(|| provider.next_of_queue(&request.model)).unwrap_or_default(),
        Err(problem) => return refused(&problem),
    };
    provider.count(&request.model, script.act, |counts| counts.calls += 1);
    match script.act {
        Act::TooManyRequests => too_many(&script),
        Act::ServerError => server_error(),
        Act::Timeout => std::future::pending().await,
        Act::ErrorAfterOutput if !request.stream => server_error(),
        _ if request.stream => stream::respond(Answer::new(provider, script, &request)),
        _ => whole(Answer::new(provider, script, &request)).await,
    }
}

impl Answer {
    fn new(provider: Arc<Provider>, script: Script, request: &ChatRequest) -> Self {
        let text = script.text.clone().unwrap_or_else(|| text::answer(&request.text(), script.words));
        let mut pieces = text::pieces(&text);
        let limit = request.limit().and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
        let limited = pieces.len() > limit;
        pieces.truncate(limit);
        let prompt_tokens = prompt_tokens(&request.messages);
        Answer {
            cached_tokens: script.cached_tokens.unwrap_or(0).min(prompt_tokens),
            model: request.model.clone(),
            includes_usage: request.includes_usage(),
            provider,
            script,
            prompt_tokens,
            pieces,
            limited,
        }
    }

    /// Counts the prompt, once work on it begins.
    pub(super) fn count_prompt(&self) {
        self.provider.count(&self.model, self.script.act, |counts| {
            counts.prompt_tokens += self.prompt_tokens;
            counts.cached_tokens += self.cached_tokens;
        });
    }

    /// Counts tokens that were produced.
    pub(super) fn count_output(&self, tokens: usize) {
        let tokens = u64::try_from(tokens).unwrap_or(u64::MAX);
        self.provider.count(&self.model, self.script.act, |counts| counts.completion_tokens += tokens);
    }

    /// What is reported as used; nothing when it is not.
    pub(super) fn usage(&self) -> Option<Value> {
        let completion = u64::try_from(self.pieces.len()).unwrap_or(u64::MAX);
        let (prompt, cached, completion) = match self.script.act {
            Act::NoUsage => return None,
            Act::ZeroUsage => (0, 0, 0),
            _ => (self.prompt_tokens, self.cached_tokens, completion),
        };
        self.provider.count(&self.model, self.script.act, |counts| counts.reported += 1);
        Some(json!({
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": cached},
        }))
    }

    pub(super) fn finish_reason(&self) -> &'static str {
        if self.limited { "length" } else { "stop" }
    }

    /// How long to wait before each piece.
    pub(super) fn pause(&self) -> Option<Duration> {
        let slow = self.script.act == Act::Slow;
        slow.then(|| Duration::from_millis(self.script.pause_ms.unwrap_or(PAUSE_MS)))
    }
}

/// The answer in one piece.
async fn whole(answer: Answer) -> Response {
    if let Some(pause) = answer.pause() {
        tokio::time::sleep(pause).await;
    }
    answer.count_prompt();
    answer.count_output(answer.pieces.len());
    if answer.script.act == Act::Cut {
        return broken_off();
    }
    let message = json!({"role": "assistant", "content": answer.pieces.concat()});
    let mut document = json!({
        "id": "chatcmpl-scripted",
        "object": "chat.completion",
        "created": CREATED,
        "model": answer.model,
        "choices": [{"index": 0, "message": message, "finish_reason": answer.finish_reason()}],
    });
    if let Some(usage) = answer.usage() {
        document["usage"] = usage;
    }
    axum::Json(document).into_response()
}

/// The beginning of an answer, and then a connection that breaks.
fn broken_off() -> Response {
    let parts = futures_util::stream::unfold(0, |part| async move {
        match part {
            0 => Some((Ok(Bytes::from_static(br#"{"id":"chatcmpl-scripted","#)), 1)),
            1 => {
                tokio::time::sleep(FLUSHED_AFTER).await;
                Some((Err(std::io::Error::other("cut, as the script says")), 2))
            }
            _ => None,
        }
    });
    ([(header::CONTENT_TYPE, "application/json")], Body::from_stream(parts)).into_response()
}

fn too_many(script: &Script) -> Response {
    let seconds = script.retry_after_seconds.unwrap_or(RETRY_AFTER_SECONDS);
    let error = error("rate_limit_error", Some("rate_limit_exceeded"), "too many requests; try again later");
    let retry_after = [(header::RETRY_AFTER, seconds.to_string())];
    (StatusCode::TOO_MANY_REQUESTS, retry_after, axum::Json(error)).into_response()
}

fn server_error() -> Response {
    let error = error("server_error", None, "the model is overloaded");
    (StatusCode::INTERNAL_SERVER_ERROR, axum::Json(error)).into_response()
}

/// What the caller sent cannot be used; in the form of the API, since its clients read it.
fn refused(problem: &Problem) -> Response {
    let error = error("invalid_request_error", Some(problem.code()), problem.detail());
    (StatusCode::BAD_REQUEST, axum::Json(error)).into_response()
}

/// An error in the API's form.
pub(super) fn error(kind: &str, code: Option<&str>, message: &str) -> Value {
    json!({"error": {"message": message, "type": kind, "param": null, "code": code}})
}
