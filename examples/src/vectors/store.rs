//! What keeps vectors.

use std::collections::BTreeMap;

use futures_util::future::BoxFuture;
use serde_json::Value;

use super::Match;
use crate::problem::Problem;

/// What is told with a document.
pub type Metadata = BTreeMap<String, Value>;

/// Whose documents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// The user.
    pub user: String,
    /// The user's project.
    pub project: String,
}

/// A document.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// Its id in its project.
    pub id: String,
    /// What it is found by.
    pub text: String,
    /// What is told with it.
    pub metadata: Metadata,
}

/// Keeps documents and finds them by their vectors. Everything may be done twice; a scope that was
/// never written to is empty.
pub trait Store: Send + Sync + 'static {
    /// Saves a document, in place of what had its id.
    fn save(&self, scope: Scope, document: Document) -> BoxFuture<'_, Result<(), Problem>>;
    /// Removes a document, if it is there.
    fn remove(&self, scope: Scope, id: String) -> BoxFuture<'_, Result<(), Problem>>;
    /// The ids of the documents whose ids begin with `prefix`, in their order.
    fn list(&self, scope: Scope, prefix: String) -> BoxFuture<'_, Result<Vec<String>, Problem>>;
    /// Removes all documents of a scope.
    fn remove_project(&self, scope: Scope) -> BoxFuture<'_, Result<(), Problem>>;
    /// The `k` documents that are nearest to `text`, the nearest first.
    fn query(&self, scope: Scope, text: String, k: u32) -> BoxFuture<'_, Result<Vec<Match>, Problem>>;
}
