//! Health, queue and metrics.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::facade::{Facade, QueueStats};
use crate::problem::{Document, Problem};

/// How every part is doing.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Health {
    /// `ok` or `unavailable`.
    status: &'static str,
    /// Each part: `ok`, or what is wrong with it.
    parts: BTreeMap<String, String>,
}

/// Whether everything is well: the database, the bus, the lane and what follows it.
#[utoipa::path(get, path = "/monitoring/health", responses(
    (status = 200, description = "everything is well", body = Health),
    (status = 403, description = "no valid internal token", body = Document, content_type = "application/problem+json"),
    (status = 503, description = "something is not; the parts say what", body = Health),
))]
pub(super) async fn health(State(facade): State<Arc<Facade>>) -> (StatusCode, Json<Health>) {
    let parts = facade.monitor().parts().await;
    let well = parts.iter().all(|(_, problem)| problem.is_none());
    let parts =
        parts.into_iter().map(|(part, problem)| (part, problem.unwrap_or_else(|| "ok".to_owned()))).collect();
    let (code, status) =
        if well { (StatusCode::OK, "ok") } else { (StatusCode::SERVICE_UNAVAILABLE, "unavailable") };
    (code, Json(Health { status, parts }))
}

/// How many commands wait, and how far everything is.
#[utoipa::path(get, path = "/monitoring/queue/stats", responses(
    (status = 200, description = "the figures", body = QueueStats),
    (status = 403, description = "no valid internal token", body = Document, content_type = "application/problem+json"),
    (status = 503, description = "a server does not answer", body = Document, content_type = "application/problem+json"),
))]
pub(super) async fn queue_stats(State(facade): State<Arc<Facade>>) -> Result<Json<QueueStats>, Problem> {
    facade.monitor().queue().await.map(Json).map_err(Problem::unavailable)
}

/// Metrics for Prometheus.
#[utoipa::path(get, path = "/metrics", responses(
    (status = 200, description = "the metrics", body = String, content_type = "text/plain"),
    (status = 403, description = "no valid internal token", body = Document, content_type = "application/problem+json"),
))]
pub(super) async fn metrics(State(facade): State<Arc<Facade>>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], facade.metrics()).into_response()
}

/// Whether this process answers; needs no token.
#[utoipa::path(get, path = "/healthz", security(()), responses((status = 200, description = "it does", body = String)))]
pub(super) async fn healthz() -> &'static str {
    "ok"
}
