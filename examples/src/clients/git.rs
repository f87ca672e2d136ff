//! The git service's client.

use axum::http::Method;
use bytes::Bytes;
use secrecy::SecretString;

use super::{CallError, Service, json, project_path, url_path};
use crate::git::{Committed, Entry, Log, Snapshot};
use crate::http::Http;

/// Calls the git service.
#[derive(Debug, Clone)]
pub struct GitClient(Service);

impl GitClient {
    /// The service at `url`.
    #[must_use]
    pub fn new(http: Http, url: &str, token: SecretString) -> Self {
        GitClient(Service::new(http, "git", url, token))
    }

    /// Commits a snapshot; the same key again is answered with the same commit.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn commit(
        &self,
        user: &str,
        project: &str,
        snapshot: &Snapshot,
    ) -> Result<Committed, CallError> {
        self.0.ask(Method::POST, &project_path(project, "/snapshots"), user, json(snapshot)).await
    }

    /// Undoes a snapshot, if it is there.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn undo(&self, user: &str, project: &str, key: &str) -> Result<(), CallError> {
        let path = project_path(project, &format!("/snapshots/{}", url_path(key)));
        self.0.call(Method::DELETE, &path, user, Bytes::new()).await.map(drop)
    }

    /// The commits, the newest first.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn log(&self, user: &str, project: &str) -> Result<Vec<Entry>, CallError> {
        let path = project_path(project, "/snapshots");
        let log: Log = self.0.ask(Method::GET, &path, user, Bytes::new()).await?;
        Ok(log.commits)
    }
}
