//! A scripted model provider behind real HTTP.
//!
//! What it does is chosen by the number of the call, so every run shows the same mix: answers,
//! errors, silence, streams, and answers longer than anybody estimated.

use std::time::Duration;

use anyhow::Result;
use axum::extract::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Router, body::Body};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::task::JoinHandle;

/// Far longer than any caller waits.
const SILENCE: Duration = Duration::from_secs(60);
/// How many tokens come in each piece of a stream, and how fast pieces come.
pub(super) const PIECE_TOKENS: i64 = 40;
const PIECE_EVERY: Duration = Duration::from_millis(5);

/// What the provider does with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Act {
    Answer,
    Fail,
    Hang,
    Stream,
    Ramble,
}

impl Act {
    /// Of twenty calls fourteen are answered, two fail, one hangs, two stream, one rambles on.
    pub(super) fn of(number: usize) -> Self {
        match number % 20 {
            3 | 13 => Act::Fail,
            7 => Act::Hang,
            9 | 17 => Act::Stream,
            11 => Act::Ramble,
            _ => Act::Answer,
        }
    }
}

/// A call of the model.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Prompt {
    pub(super) act: Act,
    pub(super) input_tokens: i64,
    pub(super) max_output_tokens: i64,
}

/// The running provider; it ends when this is dropped.
pub(super) struct Provider {
    pub(super) url: String,
    server: JoinHandle<()>,
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.server.abort();
    }
}

pub(super) async fn start() -> Result<Provider> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/v1/chat", listener.local_addr()?);
    let router = Router::new().route("/v1/chat", post(chat));
    let server = tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "the scripted provider ended");
        }
    });
    Ok(Provider { url, server })
}

async fn chat(Json(prompt): Json<Prompt>) -> Response {
    let usage = |output: i64| {
        Json(json!({ "usage": { "input_tokens": prompt.input_tokens, "output_tokens": output } }))
            .into_response()
    };
    match prompt.act {
        Act::Answer => usage(prompt.max_output_tokens * 3 / 5),
        // Some models do not keep to their limit when tools and reasoning are billed.
        Act::Ramble => usage(prompt.max_output_tokens * 2),
        Act::Fail => (StatusCode::INTERNAL_SERVER_ERROR, "the model is overloaded").into_response(),
        Act::Hang => {
            tokio::time::sleep(SILENCE).await;
            StatusCode::GATEWAY_TIMEOUT.into_response()
        }
        Act::Stream => stream(prompt.max_output_tokens / PIECE_TOKENS),
    }
}

/// Pieces of text, one after the other.
fn stream(pieces: i64) -> Response {
    let pieces = futures_util::stream::unfold(0, move |sent| async move {
        tokio::time::sleep(PIECE_EVERY).await;
        (sent < pieces).then(|| (Ok::<_, std::io::Error>(Bytes::from_static(b"piece\n")), sent + 1))
    });
    Body::from_stream(pieces).into_response()
}
