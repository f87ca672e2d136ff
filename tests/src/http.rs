//! A plain HTTP client for the façade.

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

/// What was answered.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The media type.
    pub content_type: String,
    /// The names of the headers that are the same for every answer of a kind.
    pub headers: Vec<String>,
    /// The body; null when it is not JSON.
    pub body: Value,
    text: String,
}

/// Requests to one façade, with one set of headers.
#[derive(Clone)]
pub struct Http {
    client: Client<HttpConnector, Full<Bytes>>,
    base: String,
    headers: Vec<(&'static str, String)>,
}

impl Http {
    /// Requests to `base`, with this token if any.
    #[must_use]
    pub fn new(base: &str, token: Option<&str>) -> Self {
        let headers = token.map(|token| ("X-INTERNAL-TOKEN", token.to_owned())).into_iter().collect();
        Http { client: Client::builder(TokioExecutor::new()).build_http(), base: base.to_owned(), headers }
    }

    /// The same with an `Idempotency-Key`.
    #[must_use]
    pub fn with_key(mut self, key: &str) -> Self {
        self.headers.push(("Idempotency-Key", key.to_owned()));
        self
    }

    /// The same with the token header once more.
    #[must_use]
    pub fn with_second_token(mut self, token: &str) -> Self {
        self.headers.push(("X-INTERNAL-TOKEN", token.to_owned()));
        self
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Result<Answer> {
        self.send(Method::GET, path, String::new()).await
    }

    /// GET, as text.
    pub async fn get_text(&self, path: &str) -> Result<String> {
        Ok(self.get(path).await?.text)
    }

    /// POST of JSON.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Answer> {
        self.send(Method::POST, path, body.to_string()).await
    }

    /// POST of these bytes.
    pub async fn post_text(&self, path: &str, body: &str) -> Result<Answer> {
        self.send(Method::POST, path, body.to_owned()).await
    }

    async fn send(&self, method: Method, path: &str, body: String) -> Result<Answer> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        request = request.header("content-type", "application/json");
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        let response = self.client.request(request.body(Full::from(body))?).await?;
        let status = response.status().as_u16();
        let content_type =
            response.headers().get("content-type").map(|value| value.to_str().map(str::to_owned));
        let content_type = content_type.transpose()?.unwrap_or_default();
        let headers = response.headers().keys().map(ToString::to_string).collect();
        let text = String::from_utf8(response.into_body().collect().await?.to_bytes().to_vec());
        let text = text.context("a body that is not UTF-8")?;
        Ok(Answer {
            status,
            content_type,
            headers,
            body: serde_json::from_str(&text).unwrap_or_default(),
            text,
        })
    }
}

/// An answer of server-sent events, as they come.
pub struct Events {
    /// The status.
    pub status: u16,
    body: hyper::body::Incoming,
    buffer: Vec<u8>,
}

impl Events {
    /// POST of JSON on a connection of its own, which is cut when this is dropped.
    pub async fn post(url: &str, headers: &[(&'static str, &str)], body: &Value) -> Result<Self> {
        let mut request = Request::post(url).header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build_http();
        let response = client.request(request.body(Full::<Bytes>::from(body.to_string()))?).await?;
        Ok(Events { status: response.status().as_u16(), body: response.into_body(), buffer: Vec::new() })
    }

    /// The next event: its name and its data. None at the end.
    pub async fn next(&mut self) -> Result<Option<(String, Value)>> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\n\n") {
                let event: Vec<u8> = self.buffer.drain(..end + 2).collect();
                let text = String::from_utf8(event)?;
                let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name).map(str::trim));
                let data = serde_json::from_str(field("data:").context("data")?)?;
                return Ok(Some((field("event:").unwrap_or_default().to_owned(), data)));
            }
            match self.body.frame().await.transpose()? {
                Some(frame) => self.buffer.extend(frame.data_ref().into_iter().flatten()),
                None => return Ok(None),
            }
        }
    }

    /// Every event that is still to come; of an answer that is a problem, that alone.
    pub async fn all(mut self) -> Result<Vec<(String, Value)>> {
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
