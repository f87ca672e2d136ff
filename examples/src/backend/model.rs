//! A model behind an OpenAI-compatible endpoint, as a stream of pieces.
//!
//! **Correctness.** Who pays for a call must know whether the provider may have worked, so every
//! failure says how far the request had come ([`ModelError`]).

use std::time::Duration;

use axum::http::{HeaderValue, Request, header};
use bytes::{Buf, Bytes, BytesMut};
use holdfast_calls::usage;
use holdfast_core::Tokens;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tokio::time::timeout;

use crate::provider::ChatRequest;

/// The longest line of a stream.
const LINE_MAX_BYTES: usize = 1024 * 1024;
/// How much of an error's body is looked at.
const ERROR_MAX_BYTES: usize = 64 * 1024;
/// How many characters of it are told.
const SHOWN_CHARS: usize = 200;

/// A model's endpoint.
#[derive(Debug, Clone)]
pub struct Model {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    url: String,
    key: Option<SecretString>,
    /// How long the provider may take until it begins to answer, and between two pieces.
    within: Duration,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// The request never reached the provider.
    #[error("the provider cannot be reached: {0}")]
    NotSent(String),
    /// The provider turned the request away; it is not billed. Statuses of gateways are not among
    /// these: they say only that somebody waited too long.
    #[error("the provider answered {status}: {detail}")]
    Refused {
        /// The status.
        status: u16,
        /// The beginning of what it said.
        detail: String,
        /// When to come back, as it said.
        retry_after: Option<Duration>,
    },
    /// No answer came. The provider may have worked all the same.
    #[error("the provider did not answer: {0}")]
    NoAnswer(String),
}

/// Whether a status only says that somebody in between gave up waiting: the provider may have worked.
/// 499 is nginx's for a caller who left, 522 and 524 are Cloudflare's.
#[must_use]
pub fn is_unsure(status: u16) -> bool {
    matches!(status, 408 | 499 | 504 | 522 | 524)
}

/// A piece of an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    /// Text, as it comes.
    Text(String),
    /// What was used, as the provider reports it.
    Usage(Tokens),
}

/// The answer broke off; what came before did come.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the stream broke: {0}")]
pub struct Broken(String);

impl Model {
    /// The endpoint whose base is `url`, such as `https://api.openai.com`.
    #[must_use]
    pub fn new(url: &str, key: Option<SecretString>, within: Duration) -> Self {
        let https = hyper_rustls::HttpsConnectorBuilder::new()
            .with_webpki_roots()
            .https_or_http()
            .enable_http1()
            .build();
        let client = Client::builder(TokioExecutor::new()).build(https);
        Model { client, url: format!("{}/v1/chat/completions", url.trim_end_matches('/')), key, within }
    }

    /// Sends a request whose answer comes as a stream.
    ///
    /// # Errors
    /// [`ModelError`].
    pub async fn stream(&self, request: &ChatRequest) -> Result<Pieces, ModelError> {
        let request = self.request(request).map_err(ModelError::NotSent)?;
        let asked = timeout(self.within, self.client.request(request)).await;
        let answer = match asked {
            Err(_) => return Err(ModelError::NoAnswer("no answer in time".to_owned())),
            Ok(Err(error)) if error.is_connect() => return Err(ModelError::NotSent(error.to_string())),
            Ok(Err(error)) => return Err(ModelError::NoAnswer(error.to_string())),
            Ok(Ok(answer)) => answer,
        };
        if answer.status().is_success() {
            return Ok(Pieces { body: answer.into_body(), buffer: BytesMut::new(), within: self.within });
        }
        let status = answer.status().as_u16();
        let retry_after = answer.headers().get(header::RETRY_AFTER);
        let retry_after =
            retry_after.and_then(|value| value.to_str().ok()?.parse().ok()).map(Duration::from_secs);
        let body = timeout(self.within, Limited::new(answer.into_body(), ERROR_MAX_BYTES).collect()).await;
        let body = body.ok().and_then(Result::ok).map(|body| body.to_bytes()).unwrap_or_default();
        let detail = String::from_utf8_lossy(&body).chars().take(SHOWN_CHARS).collect();
        Err(not_answered(status, detail, retry_after))
    }

    fn request(&self, request: &ChatRequest) -> Result<Request<Full<Bytes>>, String> {
        let body = serde_json::to_vec(request).map_err(|error| error.to_string())?;
        let mut sent = Request::post(&self.url).header(header::CONTENT_TYPE, "application/json");
        if let Some(key) = &self.key {
            let value = HeaderValue::from_str(&format!("Bearer {}", key.expose_secret()));
            let mut value = value.map_err(|_| "the provider's key cannot be a header".to_owned())?;
            value.set_sensitive(true);
            sent = sent.header(header::AUTHORIZATION, value);
        }
        sent.body(Full::from(body)).map_err(|error| error.to_string())
    }
}

/// What a status that is no success says of the provider's work.
fn not_answered(status: u16, detail: String, retry_after: Option<Duration>) -> ModelError {
    match status {
        status if is_unsure(status) => ModelError::NoAnswer(format!("{status}: {detail}")),
        _ => ModelError::Refused { status, detail, retry_after },
    }
}

/// An answer as it comes: server-sent events, of which `data` lines are read.
#[derive(Debug)]
pub struct Pieces {
    body: Incoming,
    buffer: BytesMut,
    within: Duration,
}

impl Pieces {
    /// The next piece; none when the provider has said that it is done.
    ///
    /// # Errors
    /// [`Broken`] when the stream ends before that, is silent for too long, or tells of an error.
    pub async fn next(&mut self) -> Result<Option<Piece>, Broken> {
        loop {
            let line = self.line().await?;
            let Some(data) = line.strip_prefix("data:").map(str::trim) else { continue };
            if data == "[DONE]" {
                return Ok(None);
            }
            if let Some(piece) = piece(data)? {
                return Ok(Some(piece));
            }
        }
    }

    /// Reads on for the usage at the end.
    pub async fn drained(mut self) -> Option<Tokens> {
        let mut reported = None;
        while let Ok(Some(piece)) = self.next().await {
            if let Piece::Usage(tokens) = piece {
                reported = Some(tokens);
            }
        }
        reported
    }

    async fn line(&mut self) -> Result<String, Broken> {
        loop {
            if let Some(end) = self.buffer.iter().position(|&b| b == b'\n') {
                let line = String::from_utf8_lossy(&self.buffer[..end]).trim_end().to_owned();
                self.buffer.advance(end + 1);
                return Ok(line);
            }
            if self.buffer.len() > LINE_MAX_BYTES {
                return Err(Broken(format!("a line has more than {LINE_MAX_BYTES} bytes")));
            }
            let frame = timeout(self.within, self.body.frame()).await;
            let frame = frame.map_err(|_| Broken("it is silent".to_owned()))?;
            let frame = frame.ok_or_else(|| Broken("it ended before it was done".to_owned()))?;
            let frame = frame.map_err(|error| Broken(error.to_string()))?;
            if let Some(data) = frame.data_ref() {
                self.buffer.extend_from_slice(data);
            }
        }
    }
}

fn piece(data: &str) -> Result<Option<Piece>, Broken> {
    let chunk: Value = serde_json::from_str(data).map_err(|error| Broken(error.to_string()))?;
    if let Some(error) = chunk.get("error").filter(|error| !error.is_null()) {
        return Err(Broken(error["message"].as_str().unwrap_or("the provider told of an error").to_owned()));
    }
    if let Some(tokens) = usage::openai(&chunk) {
        return Ok(Some(Piece::Usage(tokens)));
    }
    let text = chunk["choices"][0]["delta"]["content"].as_str().filter(|text| !text.is_empty());
    Ok(text.map(|text| Piece::Text(text.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_that_says_that_somebody_waited_too_long_leaves_open_whether_the_provider_worked() {
        for (status, unknown) in [
            (408, true),
            (499, true),
            (504, true),
            (522, true),
            (524, true),
            (429, false),
            (500, false),
            (502, false),
        ] {
            let error = not_answered(status, "late".to_owned(), None);
            assert_eq!(matches!(error, ModelError::NoAnswer(_)), unknown, "{status}");
        }
    }

    #[test]
    fn chunks_become_pieces() {
        let text = |text: &str| Ok(Some(Piece::Text(text.to_owned())));
        assert_eq!(piece(r#"{"choices":[{"delta":{"content":"a b"}}],"usage":null}"#), text("a b"));
        assert_eq!(piece(r#"{"choices":[{"delta":{"role":"assistant","content":""}}]}"#), Ok(None));
        assert_eq!(piece(r#"{"error":{"message":"overloaded"}}"#), Err(Broken("overloaded".to_owned())));
        assert!(piece("{").is_err());
        let counted = piece(r#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":0}}"#);
        assert!(matches!(counted, Ok(Some(Piece::Usage(tokens))) if tokens.get("input") == 3));
    }
}
