//! Answers that were carried out: the ledger's outcome under the names that HTTP callers know.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use holdfast_protocol::Outcome;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

/// What became of a request.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Done {
    /// The account.
    user_id: String,
    /// The hold, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    hold_id: Option<Uuid>,
    /// The outcome, as on the bus.
    #[serde(flatten)]
    #[schema(value_type = Object)]
    outcome: Outcome,
}

/// `outcome` with `status`.
pub(crate) fn done(status: StatusCode, outcome: Outcome) -> Response {
    let done = Done { user_id: outcome.account.clone(), hold_id: outcome.hold, outcome };
    (status, Json(done)).into_response()
}
