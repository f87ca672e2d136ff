//! `POST /reserve`, `/capture` and `/release`: the life of a hold.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use holdfast_core::body::JobId;
use holdfast_core::command::hold_of_job;
use holdfast_core::usage::{Usage, UsageSource};
use holdfast_core::{HoldId, Verb};
use holdfast_projector::queries;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;
use uuid::Uuid;

use super::pricing::{Asked, Charge, Priced, priced};
use super::sending::{send, trace};
use crate::body::Json;
use crate::facade::{Facade, store};
use crate::problem::{Document, Problem};
use crate::respond::{Done, done};

/// A promise for a call about to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Reserve {
    /// The user.
    user_id: String,
    /// The estimated cost, as a decimal string or number, read exactly; not beside `usage` without rates.
    #[schema(value_type = Option<String>)]
    amount: Option<Box<RawValue>>,
    /// The caller's job: stands for the hold, and makes the request repeatable.
    job_id: Option<String>,
    /// How long the hold lives; 600 unless given, at most 86400.
    ttl_seconds: Option<u32>,
    /// What a capture beyond the hold does: `reject` (default), `cap` or `draw`.
    overage: Option<String>,
    /// What happens when its time comes: `release` (default) or `capture`.
    on_expiry: Option<String>,
    /// What a capture after its end does: `charge` or `reject`.
    late: Option<String>,
    /// What it is the price of.
    usage: Option<Asked>,
    /// The trace that the caller is part of; the header `traceparent` unless given.
    trace: Option<String>,
}

#[derive(Serialize)]
struct ReserveBody<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    amount: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    overage: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    on_expiry: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    late: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    job_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace: Option<&'a str>,
}

/// Reserves money for a call.
#[utoipa::path(post, path = "/reserve", request_body = Reserve, responses(
    (status = 201, description = "reserved", body = Done),
    (status = 400, description = "a member is wrong; the detail names it", body = Document, content_type = "application/problem+json"),
    (status = 402, description = "insufficient funds", body = Document, content_type = "application/problem+json"),
    (status = 403, description = "no valid internal token", body = Document, content_type = "application/problem+json"),
    (status = 404, description = "no such account", body = Document, content_type = "application/problem+json"),
    (status = 409, description = "the hold exists, or the account is frozen or closed", body = Document, content_type = "application/problem+json"),
    (status = 413, description = "more than 64 KiB", body = Document, content_type = "application/problem+json"),
    (status = 503, description = "no outcome in time", body = Document, content_type = "application/problem+json"),
))]
pub(super) async fn reserve(
    State(facade): State<Arc<Facade>>,
    headers: HeaderMap,
    Json(request): Json<Reserve>,
) -> Result<Response, Problem> {
    let job_id = request.job_id.as_deref();
    let charge = Charge {
        verb: Verb::Reserve,
        account: &request.user_id,
        hold: None,
        job_id,
        amount: request.amount,
        asked: request.usage,
        source: UsageSource::Estimated,
    };
    let Priced { amount, usage } = priced(&facade, &headers, charge).await?;
    let body = ReserveBody {
        amount: amount.as_deref(),
        ttl_ms: request.ttl_seconds.map(|seconds| u64::from(seconds) * 1000),
        overage: request.overage.as_deref(),
        on_expiry: request.on_expiry.as_deref(),
        late: request.late.as_deref(),
        job_id,
        usage,
        trace: trace(&headers, request.trace.as_deref()),
    };
    let outcome = send(&facade, &headers, Verb::Reserve, &request.user_id, job_id, &body).await?;
    Ok(done(StatusCode::CREATED, outcome))
}

/// What a call really cost.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Capture {
    /// The user; found by the hold unless given.
    user_id: Option<String>,
    /// The hold, or instead `job_id`.
    hold_id: Option<Uuid>,
    /// The job that the hold was reserved for.
    job_id: Option<String>,
    /// How much, as a decimal string or number; all that is held unless given.
    #[schema(value_type = Option<String>)]
    amount: Option<Box<RawValue>>,
    /// Whether this settles the hold; true unless given.
    #[serde(rename = "final")]
    is_final: Option<bool>,
    /// Why this much.
    reason: Option<String>,
    /// What it is the price of.
    usage: Option<Asked>,
    /// The trace that the caller is part of; the header `traceparent` unless given.
    trace: Option<String>,
}

#[derive(Serialize)]
struct CaptureBody<'a> {
    hold: HoldId,
    #[serde(skip_serializing_if = "Option::is_none")]
    amount: Option<&'a RawValue>,
    #[serde(rename = "final", skip_serializing_if = "Option::is_none")]
    is_final: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace: Option<&'a str>,
}

/// Charges what a call really cost.
#[utoipa::path(post, path = "/capture", request_body = Capture, responses(
    (status = 200, description = "charged", body = Done),
    (status = 400, description = "a member is wrong; the detail names it", body = Document, content_type = "application/problem+json"),
    (status = 403, description = "no valid internal token", body = Document, content_type = "application/problem+json"),
    (status = 404, description = "no such hold or account", body = Document, content_type = "application/problem+json"),
    (status = 409, description = "the hold has ended, holds less, or is in two accounts", body = Document, content_type = "application/problem+json"),
    (status = 413, description = "more than 64 KiB", body = Document, content_type = "application/problem+json"),
    (status = 503, description = "no outcome in time", body = Document, content_type = "application/problem+json"),
))]
pub(super) async fn capture(
    State(facade): State<Arc<Facade>>,
    headers: HeaderMap,
    Json(request): Json<Capture>,
) -> Result<Response, Problem> {
    let hold = hold_of(&facade, request.hold_id, request.job_id.as_deref())?;
    let account = account_of(&facade, request.user_id, hold).await?;
    // A job has one final capture, so it can stand for it; of partial ones there may be many.
    let job_id = request.job_id.as_deref().filter(|_| request.is_final != Some(false));
    let charge = Charge {
        verb: Verb::Capture,
        account: &account,
        hold: Some(hold),
        job_id,
        amount: request.amount,
        asked: request.usage,
        source: UsageSource::Reported,
    };
    let Priced { amount, usage } = priced(&facade, &headers, charge).await?;
    let body = CaptureBody {
        hold,
        amount: amount.as_deref(),
        is_final: request.is_final,
        reason: request.reason.as_deref(),
        usage,
        trace: trace(&headers, request.trace.as_deref()),
    };
    let outcome = send(&facade, &headers, Verb::Capture, &account, job_id, &body).await?;
    Ok(done(StatusCode::OK, outcome))
}

/// A hold that is not needed.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Release {
    /// The user; found by the hold unless given.
    user_id: Option<String>,
    /// The hold, or instead `job_id`.
    hold_id: Option<Uuid>,
    /// The job that the hold was reserved for.
    job_id: Option<String>,
    /// Why.
    reason: Option<String>,
}

#[derive(Serialize)]
struct ReleaseBody<'a> {
    hold: HoldId,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

/// Frees a hold; with `user_id`, also one that was never reserved, which then never can be.
#[utoipa::path(post, path = "/release", request_body = Release, responses(
    (status = 200, description = "freed", body = Done),
    (status = 400, description = "a member is wrong; the detail names it", body = Document, content_type = "application/problem+json"),
    (status = 403, description = "no valid internal token", body = Document, content_type = "application/problem+json"),
    (status = 404, description = "no such hold or account", body = Document, content_type = "application/problem+json"),
    (status = 409, description = "the hold has ended, or is in two accounts", body = Document, content_type = "application/problem+json"),
    (status = 413, description = "more than 64 KiB", body = Document, content_type = "application/problem+json"),
    (status = 503, description = "no outcome in time", body = Document, content_type = "application/problem+json"),
))]
pub(super) async fn release(
    State(facade): State<Arc<Facade>>,
    headers: HeaderMap,
    Json(request): Json<Release>,
) -> Result<Response, Problem> {
    let hold = hold_of(&facade, request.hold_id, request.job_id.as_deref())?;
    let account = account_of(&facade, request.user_id, hold).await?;
    let body = ReleaseBody { hold, reason: request.reason.as_deref() };
    let job_id = request.job_id.as_deref();
    let outcome = send(&facade, &headers, Verb::Release, &account, job_id, &body).await?;
    Ok(done(StatusCode::OK, outcome))
}

/// The hold that a request names.
fn hold_of(facade: &Facade, hold_id: Option<Uuid>, job_id: Option<&str>) -> Result<HoldId, Problem> {
    match (hold_id, job_id) {
        (Some(hold), None) => Ok(hold),
        (None, Some(job)) => {
            let job = JobId::try_from(job.to_owned());
            let job = job.map_err(|error| Problem::invalid(format!("job_id: {error}")))?;
            hold_of_job(facade.issuer(), &job).map_err(|refusal| Problem::invalid(refusal.detail()))
        }
        (None, None) => Err(Problem::invalid("hold_id: is missing; give hold_id or job_id")),
        (Some(_), Some(_)) => Err(Problem::invalid("job_id: must not be given beside hold_id")),
    }
}

/// The account that is given, or the one that has the hold.
async fn account_of(facade: &Facade, user_id: Option<String>, hold: HoldId) -> Result<String, Problem> {
    if let Some(user_id) = user_id {
        return Ok(user_id);
    }
    let mut connection = facade.read_up_to_head().await?;
    let found = queries::holds(&mut connection, facade.partition(), hold, None).await;
    match found.map_err(|error| store(&error))?.as_slice() {
        [only] => Ok(only.account.to_string()),
        [] => Err(Problem::new(StatusCode::NOT_FOUND, "hold_not_found", "there is no such hold")),
        _ => {
            let detail = "this hold is in more than one account; give user_id";
            Err(Problem::new(StatusCode::CONFLICT, "hold_ambiguous", detail))
        }
    }
}
