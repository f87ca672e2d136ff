//! `POST /top_up` and `POST /deduct`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use holdfast_core::Verb;
use holdfast_core::usage::{Usage, UsageSource};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::pricing::{Asked, Charge, Priced, priced};
use super::sending::{send, trace};
use crate::body::Json;
use crate::facade::Facade;
use crate::problem::{Document, Problem};
use crate::respond::{Done, done};

/// Money that came in.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TopUp {
    /// The user.
    user_id: String,
    /// How much, as a decimal string or number, read exactly.
    #[schema(value_type = String)]
    amount: Box<RawValue>,
    /// The payment's id elsewhere; booked once.
    external_ref: Option<String>,
    /// For people.
    note: Option<String>,
}

#[derive(Serialize)]
struct TopUpBody<'a> {
    amount: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    external_ref: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<&'a str>,
}

/// Adds money to an account.
#[utoipa::path(post, path = "/top_up", request_body = TopUp, responses(
    (status = 200, description = "booked", body = Done),
    (status = 400, description = "a member is wrong; the detail names it", body = Document, content_type = "application/problem+json"),
    (status = 403, description = "no valid internal token", body = Document, content_type = "application/problem+json"),
    (status = 404, description = "no such account", body = Document, content_type = "application/problem+json"),
    (status = 409, description = "the external_ref was booked before, or the account is closed", body = Document, content_type = "application/problem+json"),
    (status = 413, description = "more than 64 KiB", body = Document, content_type = "application/problem+json"),
    (status = 503, description = "no outcome in time", body = Document, content_type = "application/problem+json"),
))]
pub(super) async fn top_up(
    State(facade): State<Arc<Facade>>,
    headers: HeaderMap,
    Json(request): Json<TopUp>,
) -> Result<Response, Problem> {
    let body = TopUpBody {
        amount: &request.amount,
        external_ref: request.external_ref.as_deref(),
        note: request.note.as_deref(),
    };
    let outcome = send(&facade, &headers, Verb::TopUp, &request.user_id, None, &body).await?;
    Ok(done(StatusCode::OK, outcome))
}

/// A charge without a hold.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Deduct {
    /// The user.
    user_id: String,
    /// How much, as a decimal string or number, read exactly; not beside `usage` without rates.
    #[schema(value_type = Option<String>)]
    amount: Option<Box<RawValue>>,
    /// What for.
    reason: Option<String>,
    /// What it is the price of.
    usage: Option<Asked>,
    /// The trace that the caller is part of; the header `traceparent` unless given.
    trace: Option<String>,
}

#[derive(Serialize)]
struct DeductBody<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    amount: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace: Option<&'a str>,
}

/// Charges an account at once.
#[utoipa::path(post, path = "/deduct", request_body = Deduct, responses(
    (status = 200, description = "charged", body = Done),
    (status = 400, description = "a member is wrong; the detail names it", body = Document, content_type = "application/problem+json"),
    (status = 402, description = "insufficient funds", body = Document, content_type = "application/problem+json"),
    (status = 403, description = "no valid internal token", body = Document, content_type = "application/problem+json"),
    (status = 404, description = "no such account", body = Document, content_type = "application/problem+json"),
    (status = 409, description = "the account is frozen or closed", body = Document, content_type = "application/problem+json"),
    (status = 413, description = "more than 64 KiB", body = Document, content_type = "application/problem+json"),
    (status = 503, description = "no outcome in time", body = Document, content_type = "application/problem+json"),
))]
pub(super) async fn deduct(
    State(facade): State<Arc<Facade>>,
    headers: HeaderMap,
    Json(request): Json<Deduct>,
) -> Result<Response, Problem> {
    let charge = Charge {
        verb: Verb::Deduct,
        account: &request.user_id,
        hold: None,
        job_id: None,
        amount: request.amount,
        asked: request.usage,
        source: UsageSource::Reported,
    };
    let Priced { amount, usage } = priced(&facade, &headers, charge).await?;
    let body = DeductBody {
        amount: amount.as_deref(),
        reason: request.reason.as_deref(),
        usage,
        trace: trace(&headers, request.trace.as_deref()),
    };
    let outcome = send(&facade, &headers, Verb::Deduct, &request.user_id, None, &body).await?;
    Ok(done(StatusCode::OK, outcome))
}
