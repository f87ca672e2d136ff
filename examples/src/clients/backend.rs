//! The backend's client.

use axum::http::{Method, Request, header};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use super::user_header;

/// Calls the backend. Each request has a connection of its own, which ends with it: who leaves a chat
/// in the middle is seen to leave.
#[derive(Debug, Clone)]
pub struct BackendClient {
    client: Client<HttpConnector, Full<Bytes>>,
    url: String,
    token: SecretString,
    trace: Option<String>,
}

/// What was answered to a chat.
pub struct Chat {
    /// The status; 200 when the answer comes as events.
    pub status: u16,
    body: Incoming,
    buffer: Vec<u8>,
}

/// An event of a chat: its name (`text`, `settled` or `failed`) and its data.
pub type Event = (String, Value);

impl BackendClient {
    /// The backend at `url`.
    #[must_use]
    pub fn new(url: &str, token: SecretString) -> Self {
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build_http();
        BackendClient { client, url: url.to_owned(), token, trace: None }
    }

    /// The same, as part of a trace: a `traceparent` of W3C Trace Context.
    #[must_use]
    pub fn with_trace(self, trace: &str) -> Self {
        BackendClient { trace: Some(trace.to_owned()), ..self }
    }

    /// Begins a chat.
    ///
    /// # Errors
    /// When the backend cannot be reached.
    pub async fn chat(&self, user: &str, ask: &Value) -> anyhow::Result<Chat> {
        let response = self.post("/chat", user, ask).await?;
        Ok(Chat { status: response.status().as_u16(), body: response.into_body(), buffer: Vec::new() })
    }

    /// Has a wiki written; answers the status and what became of it.
    ///
    /// # Errors
    /// When the backend cannot be reached.
    pub async fn wiki(&self, user: &str, ask: &Value) -> anyhow::Result<(u16, Value)> {
        let response = self.post("/wiki", user, ask).await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await?.to_bytes();
        Ok((status, serde_json::from_slice(&body)?))
    }

    async fn post(&self, path: &str, user: &str, body: &Value) -> anyhow::Result<hyper::Response<Incoming>> {
        let mut request = Request::builder();
        if let Some(trace) = &self.trace {
            request = request.header("traceparent", trace);
        }
        let request = request
            .method(Method::POST)
            .uri(format!("{}{path}", self.url))
            .header(header::CONTENT_TYPE, "application/json")
            .header("x-internal-token", self.token.expose_secret())
            .header("x-user-id", user_header(user).map_err(anyhow::Error::msg)?)
            .body(Full::from(body.to_string()))?;
        Ok(self.client.request(request).await?)
    }
}

impl Chat {
    /// The next event; none at the end.
    ///
    /// # Errors
    /// When the connection breaks, or something else than events comes.
    pub async fn next(&mut self) -> anyhow::Result<Option<Event>> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\n\n") {
                let event: Vec<u8> = self.buffer.drain(..end + 2).collect();
                return read(std::str::from_utf8(&event)?).map(Some);
            }
            match self.body.frame().await.transpose()? {
                Some(frame) => self.buffer.extend(frame.data_ref().into_iter().flatten()),
                None => return Ok(None),
            }
        }
    }

    /// Everything that is still to come; of an answer that is a problem, that alone, as `problem`.
    ///
    /// # Errors
    /// As [`Chat::next`].
    pub async fn all(mut self) -> anyhow::Result<Vec<Event>> {
        if self.status != 200 {
            let body = self.body.collect().await?.to_bytes();
            return Ok(vec![("problem".to_owned(), serde_json::from_slice(&body)?)]);
        }
        let mut events = Vec::new();
        while let Some(event) = self.next().await? {
            events.push(event);
        }
        Ok(events)
    }
}

fn read(text: &str) -> anyhow::Result<Event> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let data = serde_json::from_str(field("data:").unwrap_or("null"))?;
    Ok((field("event:").unwrap_or_default().to_owned(), data))
}
