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
