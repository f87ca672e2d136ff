//! HTTP to other services: bounded in time and size.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::Request;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

/// How long an answer may take to come as a whole. The services answer from their own disk.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// The largest answer: somewhat more than the largest body that a service takes.
const ANSWER_MAX_BYTES: usize = 16 * 1024 * 1024;

/// A client with its pool of connections. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Http(Client<HttpConnector, Full<Bytes>>);

/// What came back.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The body, as a whole.
    pub body: Bytes,
}

impl Answer {
    /// Whether the status says that it was carried out.
    #[must_use]
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// Why nothing came back. The request may have been carried out all the same.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HttpError {
    /// There was no connection, or it broke.
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    /// No answer in time.
    #[error("it did not answer within {} seconds", ANSWER_WITHIN.as_secs())]
    TooSlow,
    /// The answer broke off, or is larger than anybody expects.
    #[error("its answer could not be read: {0}")]
    Broken(String),
}

impl Default for Http {
    fn default() -> Self {
        Http(Client::builder(TokioExecutor::new()).build_http())
    }
}

impl Http {
    /// Sends a request and waits for all of its answer.
    ///
    /// # Errors
    /// See [`HttpError`].
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Result<Answer, HttpError> {
        let answered = tokio::time::timeout(ANSWER_WITHIN, self.exchange(request)).await;
        answered.map_err(|_| HttpError::TooSlow)?
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Answer, HttpError> {
        let response = self.0.request(request).await;
        let response = response.map_err(|error| HttpError::Unreachable(causes(&error)))?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), ANSWER_MAX_BYTES).collect().await;
        let body = body.map_err(|error| HttpError::Broken(error.to_string()))?.to_bytes();
        Ok(Answer { status, body })
    }
}

/// The error with its causes: the client's own words leave out the one that matters.
fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let chain = std::iter::successors(Some(error), |error| error.source());
    chain.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
