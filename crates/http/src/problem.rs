//! Errors as RFC 9457 problems, with the codes that the bus and the clients use too.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use holdfast_protocol::Outcome;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

/// A problem, on its way to becoming an answer.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    code: String,
    detail: String,
    outcome: serde_json::Map<String, Value>,
}

/// A problem document.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct Document<'a> {
    /// Names the kind of problem: `urn:holdfast:error:<code>`.
    #[serde(rename = "type")]
    kind: String,
    /// The code in words.
    title: String,
    /// The HTTP status.
    status: u16,
    /// The stable code; docs/errors.md says what to do about each.
    code: &'a str,
    /// What is wrong, and what would be right.
    detail: &'a str,
    /// The outcome that the ledger gave, where there is one, with its command id.
    #[serde(flatten)]
    #[schema(value_type = Object)]
    outcome: &'a serde_json::Map<String, Value>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, code: &str, detail: impl Into<String>) -> Self {
        Problem { status, code: code.to_owned(), detail: detail.into(), outcome: serde_json::Map::new() }
    }

    /// The body cannot be used; `detail` names the member.
    pub(crate) fn invalid(detail: impl Into<String>) -> Self {
        Problem::new(StatusCode::BAD_REQUEST, "invalid_request", detail)
    }

    /// Nothing of that name.
    pub(crate) fn not_found(what: &str) -> Self {
        Problem::new(StatusCode::NOT_FOUND, "not_found", format!("there is no such {what}"))
    }

    /// More than a command may have.
    pub(crate) fn too_large() -> Self {
        let detail = "a request has at most 64 KiB, signature included";
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail)
    }

    /// Something that is needed does not answer.
    pub(crate) fn unavailable(detail: impl Into<String>) -> Self {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail)
    }

    /// An outcome that is not an acceptance.
    pub(crate) fn of_outcome(outcome: &Outcome) -> Self {
        let code = outcome.code.as_deref().unwrap_or("unavailable");
        let mut problem = Problem::new(status_of(code), code, outcome.detail.clone().unwrap_or_default());
        if let Ok(Value::Object(members)) = serde_json::to_value(outcome) {
            let known = ["code", "detail", "type", "title", "status"];
            problem.outcome =
                members.into_iter().filter(|(name, _)| !known.contains(&name.as_str())).collect();
        }
        problem
    }

    /// Adds a member.
    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.outcome.insert(name.to_owned(), value.into());
        self
    }
}

/// The status of a rejection's code. Money that is missing is 402, names that lead nowhere 404,
/// and everything else that depended on the state 409.
fn status_of(code: &str) -> StatusCode {
    match code {
        "insufficient_funds" => StatusCode::PAYMENT_REQUIRED,
        "account_not_found" | "hold_not_found" | "charge_not_found" | "top_up_not_found" => {
            StatusCode::NOT_FOUND
        }
        "invalid_command" => StatusCode::BAD_REQUEST,
        _ => StatusCode::CONFLICT,
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let document = Document {
            kind: format!("urn:holdfast:error:{}", self.code),
            title: self.code.replace('_', " "),
            status: self.status.as_u16(),
            code: &self.code,
            detail: &self.detail,
            outcome: &self.outcome,
        };
        let body = serde_json::to_vec(&document).expect("a problem is plain values");
        let kind = HeaderValue::from_static("application/problem+json");
        (self.status, [(header::CONTENT_TYPE, kind)], body).into_response()
    }
}

impl From<Problem> for Response {
    fn from(problem: Problem) -> Response {
        problem.into_response()
    }
}
