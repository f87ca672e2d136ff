//! What all services share: the way in, the way to stop, and work that blocks.

use std::io;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use holdfast_calls::layer::InternalToken;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::problem::Problem;

/// How long requests under way may take once the service is told to stop. A provider that was told
/// never to answer would keep its process for ever.
const DRAIN_WITHIN: Duration = Duration::from_secs(3);

/// `routes` behind the token, and `/health` before it.
///
/// The layer is around the answers to unknown routes too: whoever has no token does not learn which
/// routes exist.
pub fn guarded(routes: Router, token: InternalToken) -> Router {
    let guarded = routes.fallback(unknown).method_not_allowed_fallback(wrong_method).layer(token);
    guarded.merge(Router::new().route("/health", get(health)))
}

/// `routes` and `/health`, without a token.
pub fn open(routes: Router) -> Router {
    routes.fallback(unknown).method_not_allowed_fallback(wrong_method).route("/health", get(health))
}

/// Serves until told to stop.
///
/// # Errors
/// When the listener cannot accept.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) -> io::Result<()> {
    let server = axum::serve(listener, router).with_graceful_shutdown(stop.clone().cancelled_owned());
    let late = async {
        stop.cancelled().await;
        tokio::time::sleep(DRAIN_WITHIN).await;
    };
    tokio::select! {
        served = server.into_future() => served,
        () = late => Ok(()),
    }
}

/// Runs work that waits for a disk where it keeps nobody else from running.
pub(crate) async fn blocking<T, W>(work: W) -> Result<T, Problem>
where
    T: Send + 'static,
    W: FnOnce() -> Result<T, Problem> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(Problem::internal("the request", error)),
    }
}

async fn health() -> &'static str {
    "ok"
}

async fn unknown() -> Problem {
    Problem::not_found("there is no such route")
}

async fn wrong_method() -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "this route has other methods")
}
