//! The git service: snapshots of a project, each a commit.
//!
//! **Shape.** `POST /projects/{project}/snapshots` commits files on top of those that are there,
//! `DELETE /projects/{project}/snapshots/{*key}` undoes that, and `GET /projects/{project}/snapshots`
//! is the log. A project is one bare repository of a user, with one branch.

mod repository;
mod trailer;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, post};
use holdfast_calls::layer::InternalToken;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use repository::Project;

use crate::extract::{Json, Route, User};
use crate::names;
use crate::problem::Problem;
use crate::serving::{self, blocking};

/// The longest message.
const MESSAGE_MAX_BYTES: usize = 4_096;
/// The most files of one snapshot.
const FILES_MAX: usize = 1_000;

/// What is to be committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// What it is about.
    pub message: String,
    /// Files by path; null removes a file. Files that are not named stay as they are.
    pub files: BTreeMap<String, Option<String>>,
    /// The same key is the same snapshot.
    pub key: String,
}

/// What was committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    /// The commit's id.
    pub commit: String,
    /// Whether it was committed before, and is told again.
    pub replayed: bool,
}

/// The branch's commits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log {
    /// The newest first.
    pub commits: Vec<Entry>,
}

/// One commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its id.
    pub commit: String,
    /// Its first line.
    pub summary: String,
    /// When it was made, in Unix seconds.
    pub time: i64,
    /// The snapshot that it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The snapshot that it undoes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undoes: Option<String>,
}

/// The repositories of all users.
#[derive(Debug)]
pub struct Repositories {
    root: PathBuf,
    /// Looking for a key and committing must be one step. One lock for all projects is enough for
    /// an example; a root belongs to one process.
    one_at_a_time: Mutex<()>,
}

impl Repositories {
    /// The repositories under `root`, which is made if it is not there.
    ///
    /// # Errors
    /// When the disk does not let it.
    pub fn open(root: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(root)?;
        Ok(Repositories { root: root.to_owned(), one_at_a_time: Mutex::new(()) })
    }

    /// Commits a snapshot, unless its key was committed before and not undone.
    ///
    /// # Errors
    /// What is wrong with the snapshot, a key that stands for another one, or the disk.
    pub fn commit(&self, user: &str, project: &str, snapshot: &Snapshot) -> Result<Committed, Problem> {
        check(snapshot)?;
        self.with(user, project, |project| project.commit(snapshot))
    }

    /// Undoes a snapshot, if it is there.
    ///
    /// # Errors
    /// When later snapshots changed the same files, or the disk.
    pub fn undo(&self, user: &str, project: &str, key: &str) -> Result<(), Problem> {
        names::key(key)?;
        self.with(user, project, |project| project.undo(key))
    }

    /// The log; empty when nothing was ever committed.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn log(&self, user: &str, project: &str) -> Result<Log, Problem> {
        self.with(user, project, |project| Ok(Log { commits: project.log()? }))
    }

    fn with<T>(
        &self,
        user: &str,
        project: &str,
        work: impl FnOnce(&Project) -> Result<T, Problem>,
    ) -> Result<T, Problem> {
        names::user("X-User-ID", user)?;
        names::project(project)?;
        let project = Project::at(self.root.join(names::folder(user)).join(format!("{project}.git")));
        let _guard = self.one_at_a_time.lock().unwrap_or_else(PoisonError::into_inner);
        work(&project)
    }
}

fn check(snapshot: &Snapshot) -> Result<(), Problem> {
    names::key(&snapshot.key)?;
    let message = snapshot.message.trim();
    if message.is_empty() || message.len() > MESSAGE_MAX_BYTES || message.contains('\0') {
        let detail = format!("a message has 1 to {MESSAGE_MAX_BYTES} bytes, none of them zero");
        return Err(Problem::invalid("message", detail));
    }
    if snapshot.files.is_empty() || snapshot.files.len() > FILES_MAX {
        return Err(Problem::invalid("files", format!("a snapshot has 1 to {FILES_MAX} files")));
    }
    snapshot.files.keys().try_for_each(|path| names::path("files", path))
}

/// The service's routes.
pub fn router(repositories: Arc<Repositories>, token: InternalToken) -> Router {
    let routes = Router::new()
        .route("/projects/{project}/snapshots", post(commit).get(log))
        .route("/projects/{project}/snapshots/{*key}", delete(undo))
        .with_state(repositories);
    serving::guarded(routes, token)
}

/// Serves until told to stop.
///
/// # Errors
/// When the listener cannot accept.
pub async fn serve(
    listener: TcpListener,
    repositories: Arc<Repositories>,
    token: InternalToken,
    stop: CancellationToken,
) -> io::Result<()> {
    serving::serve(listener, router(repositories, token), stop).await
}

async fn commit(
    State(repositories): State<Arc<Repositories>>,
    User(user): User,
    Route(project): Route<String>,
    Json(snapshot): Json<Snapshot>,
) -> Result<Response, Problem> {
    let committed = blocking(move || repositories.commit(&user, &project, &snapshot)).await?;
    let status = if committed.replayed { StatusCode::OK } else { StatusCode::CREATED };
    Ok((status, axum::Json(committed)).into_response())
}

async fn undo(
    State(repositories): State<Arc<Repositories>>,
    User(user): User,
    Route((project, key)): Route<(String, String)>,
) -> Result<StatusCode, Problem> {
    blocking(move || repositories.undo(&user, &project, &key)).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn log(
    State(repositories): State<Arc<Repositories>>,
    User(user): User,
    Route(project): Route<String>,
) -> Result<axum::Json<Log>, Problem> {
    blocking(move || repositories.log(&user, &project)).await.map(axum::Json)
}
