//! `POST /account`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use holdfast_core::Verb;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::sending::send;
use crate::body::Json;
use crate::facade::Facade;
use crate::problem::{Document, Problem};
use crate::respond::{Done, done};

/// A new account.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct OpenAccount {
    /// The user: 1 to 128 printable characters.
    user_id: String,
    /// The subscription tier; `free` unless given.
    tier: Option<String>,
    /// The asset; `USD` unless given.
    asset: Option<String>,
    /// How far below zero the balance may be taken, as a decimal string or number; 0 unless given.
    #[schema(value_type = Option<String>)]
    overdraft_limit: Option<Box<RawValue>>,
}

#[derive(Serialize)]
struct Body<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    tier: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    asset: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    overdraft_limit: Option<&'a RawValue>,
}

/// Opens an account.
#[utoipa::path(post, path = "/account", request_body = OpenAccount, responses(
    (status = 201, description = "opened", body = Done),
    (status = 200, description = "it was opened on the same terms before", body = Done),
    (status = 400, description = "a member is wrong; the detail names it", body = Document, content_type = "application/problem+json"),
    (status = 403, description = "no valid internal token", body = Document, content_type = "application/problem+json"),
    (status = 409, description = "it was opened on other terms before", body = Document, content_type = "application/problem+json"),
    (status = 413, description = "more than 64 KiB", body = Document, content_type = "application/problem+json"),
    (status = 503, description = "no outcome in time", body = Document, content_type = "application/problem+json"),
))]
pub(super) async fn open(
    State(facade): State<Arc<Facade>>,
    headers: HeaderMap,
    Json(request): Json<OpenAccount>,
) -> Result<Response, Problem> {
    let body = Body {
        tier: request.tier.as_deref(),
        asset: request.asset.as_deref(),
        overdraft_limit: request.overdraft_limit.as_deref(),
    };
    let outcome = send(&facade, &headers, Verb::OpenAccount, &request.user_id, None, &body).await?;
    let status = if outcome.replayed { StatusCode::OK } else { StatusCode::CREATED };
    Ok(done(status, outcome))
}
