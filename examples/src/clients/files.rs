//! The file service's client.

use axum::http::Method;
use bytes::Bytes;
use secrecy::SecretString;

use super::{CallError, Service, project_path, url_path};
use crate::files::{Listed, Listing};
use crate::http::Http;

/// Calls the file service.
#[derive(Debug, Clone)]
pub struct FilesClient(Service);

impl FilesClient {
    /// The service at `url`.
    #[must_use]
    pub fn new(http: Http, url: &str, token: SecretString) -> Self {
        FilesClient(Service::new(http, "file", url, token))
    }

    /// Saves a file, in place of what was there.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn save(
        &self,
        user: &str,
        project: &str,
        path: &str,
        content: impl Into<Bytes>,
    ) -> Result<(), CallError> {
        self.0.call(Method::PUT, &file(project, path), user, content.into()).await.map(drop)
    }

    /// A file's content; none when there is no such file.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn read(&self, user: &str, project: &str, path: &str) -> Result<Option<Bytes>, CallError> {
        match self.0.call(Method::GET, &file(project, path), user, Bytes::new()).await {
            Ok(answer) => Ok(Some(answer.body)),
            Err(error) if error.code() == Some("not_found") => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes a file, if it is there.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn remove(&self, user: &str, project: &str, path: &str) -> Result<(), CallError> {
        self.0.call(Method::DELETE, &file(project, path), user, Bytes::new()).await.map(drop)
    }

    /// A project's files, by path.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn list(&self, user: &str, project: &str) -> Result<Vec<Listed>, CallError> {
        let path = project_path(project, "/files");
        let listing: Listing = self.0.ask(Method::GET, &path, user, Bytes::new()).await?;
        Ok(listing.files)
    }

    /// Removes a project with all its files, if it is there.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn remove_project(&self, user: &str, project: &str) -> Result<(), CallError> {
        self.0.call(Method::DELETE, &project_path(project, ""), user, Bytes::new()).await.map(drop)
    }
}

fn file(project: &str, path: &str) -> String {
    project_path(project, &format!("/files/{}", url_path(path)))
}
