//! The file service: files of a project, for one user.
//!
//! **Shape.** `PUT`, `GET` and `DELETE /projects/{project}/files/{*path}`, `GET
//! /projects/{project}/files` for a list, and `DELETE /projects/{project}`. The user is `X-User-ID`,
//! and has a folder of their own; nobody reaches another's.

mod store;

use std::io;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get};
use holdfast_calls::layer::InternalToken;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use store::Files;

use crate::extract::{Raw, Route, User};
use crate::problem::Problem;
use crate::serving::{self, blocking};

/// A project's files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// By path.
    pub files: Vec<Listed>,
}

/// A file in a list.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Listed {
    /// Its path in the project.
    pub path: String,
    /// Its size.
    pub bytes: u64,
}

/// The service's routes.
pub fn router(files: Arc<Files>, token: InternalToken) -> Router {
    let routes = Router::new()
        .route("/projects/{project}", delete(remove_project))
        .route("/projects/{project}/files", get(list))
        .route("/projects/{project}/files/{*path}", get(read).put(save).delete(remove))
        .with_state(files);
    serving::guarded(routes, token)
}

/// Serves until told to stop.
///
/// # Errors
/// When the listener cannot accept.
pub async fn serve(
    listener: TcpListener,
    files: Arc<Files>,
    token: InternalToken,
    stop: CancellationToken,
) -> io::Result<()> {
    serving::serve(listener, router(files, token), stop).await
}

async fn save(
    State(files): State<Arc<Files>>,
    User(user): User,
    Route((project, path)): Route<(String, String)>,
    Raw(content): Raw,
) -> Result<StatusCode, Problem> {
    blocking(move || files.save(&user, &project, &path, &content)).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn read(
    State(files): State<Arc<Files>>,
    User(user): User,
    Route((project, path)): Route<(String, String)>,
) -> Result<Response, Problem> {
    let content = blocking(move || files.read(&user, &project, &path)).await?;
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], content).into_response())
}

async fn remove(
    State(files): State<Arc<Files>>,
    User(user): User,
    Route((project, path)): Route<(String, String)>,
) -> Result<StatusCode, Problem> {
    blocking(move || files.remove(&user, &project, &path)).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn list(
    State(files): State<Arc<Files>>,
    User(user): User,
    Route(project): Route<String>,
) -> Result<axum::Json<Listing>, Problem> {
    let files = blocking(move || files.list(&user, &project)).await?;
    Ok(axum::Json(Listing { files }))
}

async fn remove_project(
    State(files): State<Arc<Files>>,
    User(user): User,
    Route(project): Route<String>,
) -> Result<StatusCode, Problem> {
    blocking(move || files.remove_project(&user, &project)).await?;
    Ok(StatusCode::NO_CONTENT)
}
