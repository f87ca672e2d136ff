//! Typed clients of the services.
//!
//! **Shape.** Each client has one method for each route, and sends `X-INTERNAL-TOKEN` and
//! `X-User-ID`. Every call may be repeated; a caller that is told [`CallError::Unanswered`] does not
//! know whether it was carried out, and repeats it.

mod backend;
mod files;
mod git;
mod vectors;

use axum::http::{HeaderValue, Method, Request, header};
use bytes::Bytes;
use http_body_util::Full;
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use serde_json::Value;

pub use backend::{BackendClient, Chat, Event};
pub use files::FilesClient;
pub use git::GitClient;
pub use vectors::VectorsClient;

use crate::http::{Answer, Http, HttpError};
use crate::names::url_segment;

/// How many characters of an answer that is no problem document are told.
const SHOWN_CHARS: usize = 200;

/// Why a call brought nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The request cannot be written: a user's id that is no header, or a wrong address.
    #[error("the {service} service cannot be asked: {detail}")]
    Unsendable {
        /// The service.
        service: &'static str,
        /// What is wrong.
        detail: String,
    },
    /// No answer came. It may have been carried out; repeat it.
    #[error("the {service} service: {error}")]
    Unanswered {
        /// The service.
        service: &'static str,
        /// What happened.
        error: HttpError,
    },
    /// The service refused, or failed.
    #[error("the {service} service answered {status} {code}: {detail}")]
    Refused {
        /// The service.
        service: &'static str,
        /// The status.
        status: u16,
        /// The problem's code; empty when the answer was no problem document.
        code: String,
        /// What is wrong, for people.
        detail: String,
    },
    /// The answer has another form than this version knows.
    #[error("the {service} service's answer cannot be read: {detail}")]
    Unreadable {
        /// The service.
        service: &'static str,
        /// What is wrong with it.
        detail: String,
    },
}

impl CallError {
    /// Whether the same call may succeed later: nothing came, or the service says so.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match self {
            CallError::Unanswered { .. } => true,
            CallError::Refused { status, .. } => *status >= 500 || *status == 429,
            CallError::Unsendable { .. } | CallError::Unreadable { .. } => false,
        }
    }

    /// The problem's code, where the service gave one.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        match self {
            CallError::Refused { code, .. } if !code.is_empty() => Some(code),
            _ => None,
        }
    }
}

/// One service at one address, with the token.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    http: Http,
    name: &'static str,
    url: String,
    token: SecretString,
}

impl Service {
    pub(crate) fn new(http: Http, name: &'static str, url: &str, token: SecretString) -> Self {
        Service { http, name, url: url.trim_end_matches('/').to_owned(), token }
    }

    /// Sends a request for a user; an answer that is no success is an error.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        user: &str,
        body: Bytes,
    ) -> Result<Answer, CallError> {
        let request = self.request(method, path, user, body);
        let request = request.map_err(|detail| CallError::Unsendable { service: self.name, detail })?;
        let answer = self.http.send(request).await;
        let answer = answer.map_err(|error| CallError::Unanswered { service: self.name, error })?;
        if answer.is_success() { Ok(answer) } else { Err(self.refused(&answer)) }
    }

    /// The same, for an answer that is JSON.
    pub(crate) async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        user: &str,
        body: Bytes,
    ) -> Result<T, CallError> {
        let answer = self.call(method, path, user, body).await?;
        let read = serde_json::from_slice(&answer.body);
        read.map_err(|error| CallError::Unreadable { service: self.name, detail: error.to_string() })
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        user: &str,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, String> {
        let token = HeaderValue::from_str(self.token.expose_secret());
        let mut token = token.map_err(|_| "the internal token cannot be a header".to_owned())?;
        token.set_sensitive(true);
        let user = user_header(user)?;
        Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url))
            .header(header::CONTENT_TYPE, "application/json")
            .header("x-internal-token", token)
            .header("x-user-id", user)
            .body(Full::new(body))
            .map_err(|error| error.to_string())
    }

    fn refused(&self, answer: &Answer) -> CallError {
        let document: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let member = |name: &str| document[name].as_str().map(str::to_owned);
        let text = || String::from_utf8_lossy(&answer.body).chars().take(SHOWN_CHARS).collect();
        CallError::Refused {
            service: self.name,
            status: answer.status,
            code: member("code").unwrap_or_default(),
            detail: member("detail").unwrap_or_else(text),
        }
    }
}

/// A user as a header. The receiving side reads printable ASCII only, and HTTP takes space around a
/// value away, which would make one user of two.
fn user_header(user: &str) -> Result<HeaderValue, String> {
    let printable = user.bytes().all(|b| (b' '..=b'~').contains(&b));
    if !printable || user.trim() != user || user.is_empty() {
        return Err(format!("user {user:?} cannot be X-User-ID: printable ASCII, no space around it"));
    }
    HeaderValue::from_str(user).map_err(|error| error.to_string())
}

/// A value as a body. None of ours has a map whose keys are no texts, which is all that could fail.
pub(crate) fn json<T: serde::Serialize>(value: &T) -> Bytes {
    serde_json::to_vec(value).expect("plain values").into()
}

/// A project's path, and what is below it.
pub(crate) fn project_path(project: &str, rest: &str) -> String {
    format!("/projects/{}{rest}", url_segment(project))
}

/// A path of several segments, each encoded on its own.
pub(crate) fn url_path(path: &str) -> String {
    path.split('/').map(url_segment).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service() -> Service {
        Service::new(Http::default(), "file", "http://127.0.0.1:1/", SecretString::from("token"))
    }

    #[tokio::test]
    async fn a_refusal_says_what_the_service_said() {
        let cases: [(&[u8], &str); 2] = [
            (br#"{"code":"path_conflict","detail":"a folder"}"#, "answered 409 path_conflict: a folder"),
            (b"<html>", "answered 409 : <html>"),
        ];
        for (body, part) in cases {
            let answer = Answer { status: 409, body: Bytes::from_static(body) };
            let error = service().refused(&answer);
            assert!(error.to_string().contains(part), "{error}");
            assert!(!error.is_temporary());
        }
    }

    #[tokio::test]
    async fn a_request_has_both_headers_and_an_encoded_path() {
        let path = project_path("p", &format!("/files/{}", url_path("a b/ü?#.md")));
        let request = service().request(Method::GET, &path, "user 1", Bytes::new()).expect("a request");
        assert_eq!(request.uri().path(), "/projects/p/files/a%20b/%c3%bc%3f%23.md");
        assert_eq!(request.headers()["x-internal-token"], "token");
        assert_eq!(request.headers()["x-user-id"], "user 1");
        for user in ["ü", "a\n", " a", ""] {
            assert!(service().request(Method::GET, "/", user, Bytes::new()).is_err(), "{user:?}");
        }
    }
}
