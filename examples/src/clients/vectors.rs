//! The vector service's client.

use axum::http::Method;
use bytes::Bytes;
use secrecy::SecretString;

use super::{CallError, Service, json, project_path, url_path};
use crate::http::Http;
use crate::names::url_segment;
use crate::vectors::{DocumentBody, Found, Ids, Match, Query};

/// Calls the vector service.
#[derive(Debug, Clone)]
pub struct VectorsClient(Service);

impl VectorsClient {
    /// The service at `url`.
    #[must_use]
    pub fn new(http: Http, url: &str, token: SecretString) -> Self {
        VectorsClient(Service::new(http, "vector", url, token))
    }

    /// Saves a document, in place of what had its id.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn save(
        &self,
        user: &str,
        project: &str,
        id: &str,
        document: &DocumentBody,
    ) -> Result<(), CallError> {
        self.0.call(Method::PUT, &path(project, id), user, json(document)).await.map(drop)
    }

    /// Removes a document, if it is there.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn remove(&self, user: &str, project: &str, id: &str) -> Result<(), CallError> {
        self.0.call(Method::DELETE, &path(project, id), user, Bytes::new()).await.map(drop)
    }

    /// The ids of a project's documents that begin with `prefix`, in order.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn list(&self, user: &str, project: &str, prefix: &str) -> Result<Vec<String>, CallError> {
        let path = project_path(project, &format!("/documents?prefix={}", url_segment(prefix)));
        let ids: Ids = self.0.ask(Method::GET, &path, user, Bytes::new()).await?;
        Ok(ids.ids)
    }

    /// Removes all documents of a project.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn remove_project(&self, user: &str, project: &str) -> Result<(), CallError> {
        self.0.call(Method::DELETE, &project_path(project, ""), user, Bytes::new()).await.map(drop)
    }

    /// The `k` documents that are nearest to `text`, the nearest first.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn query(
        &self,
        user: &str,
        project: &str,
        text: &str,
        k: u32,
    ) -> Result<Vec<Match>, CallError> {
        let query = Query { text: text.to_owned(), k };
        let path = project_path(project, "/query");
        let found: Found = self.0.ask(Method::POST, &path, user, json(&query)).await?;
        Ok(found.matches)
    }
}

fn path(project: &str, id: &str) -> String {
    project_path(project, &format!("/documents/{}", url_path(id)))
}
