//! The vector service: documents of a project, found by what they are about.
//!
//! **Shape.** `PUT` and `DELETE /projects/{project}/documents/{*id}`, `GET
//! /projects/{project}/documents?prefix=…` for their ids, `DELETE /projects/{project}`, and `POST
//! /projects/{project}/query`. The vectors are kept by a [`Store`]: SQLite in a file, or a
//! Chroma server. Both get the same vectors, from [`embedding`], so they find the same.

pub mod chroma;
pub mod embedding;
pub mod sqlite;
mod store;

use std::io;
use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query as UrlQuery, State};
use axum::http::StatusCode;
use axum::routing::{delete, get, post, put};
use holdfast_calls::layer::InternalToken;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use store::{Document, Metadata, Scope, Store};

use crate::extract::{Json, Route, User};
use crate::names;
use crate::problem::Problem;
use crate::serving;

/// The longest text of a document: some pages.
const TEXT_MAX_BYTES: usize = 256 * 1024;
/// The most documents that are found at once.
const K_MAX: u32 = 100;
/// How many are found unless the query says.
const K_DEFAULT: u32 = 5;

/// A document as it is sent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DocumentBody {
    /// What it is found by.
    pub text: String,
    /// Told with it when it is found: names with texts, numbers, true and false.
    #[serde(default)]
    pub metadata: Metadata,
}

/// A query.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Query {
    /// What to look for.
    pub text: String,
    /// How many documents.
    #[serde(default = "k_default")]
    pub k: u32,
}

fn k_default() -> u32 {
    K_DEFAULT
}

/// Which documents to list.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prefix {
    /// What their ids begin with.
    #[serde(default)]
    pub prefix: String,
}

/// Documents of a project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ids {
    /// Their ids, in order.
    pub ids: Vec<String>,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// The nearest first.
    pub matches: Vec<Match>,
}

/// A document that was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Match {
    /// Its id.
    pub id: String,
    /// Its text.
    pub text: String,
    /// Its metadata.
    #[serde(default)]
    pub metadata: Metadata,
    /// How near it is: the cosine of the angle, 1 for the same text.
    pub score: f64,
}

/// The service's routes.
pub fn router(store: Arc<dyn Store>, token: InternalToken) -> Router {
    let routes = Router::new()
        .route("/projects/{project}", delete(remove_project))
        .route("/projects/{project}/documents", get(list))
        .route("/projects/{project}/documents/{*id}", put(save).delete(remove))
        .route("/projects/{project}/query", post(query))
        .with_state(store);
    serving::guarded(routes, token)
}

/// Serves until told to stop.
///
/// # Errors
/// When the listener cannot accept.
pub async fn serve(
    listener: TcpListener,
    store: Arc<dyn Store>,
    token: InternalToken,
    stop: CancellationToken,
) -> io::Result<()> {
    serving::serve(listener, router(store, token), stop).await
}

async fn save(
    State(store): State<Arc<dyn Store>>,
    User(user): User,
    Route((project, id)): Route<(String, String)>,
    Json(body): Json<DocumentBody>,
) -> Result<StatusCode, Problem> {
    names::document(&id)?;
    check_text(&body.text)?;
    check_metadata(&body.metadata)?;
    let document = Document { id, text: body.text, metadata: body.metadata };
    store.save(scope(user, project)?, document).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn remove(
    State(store): State<Arc<dyn Store>>,
    User(user): User,
    Route((project, id)): Route<(String, String)>,
) -> Result<StatusCode, Problem> {
    names::document(&id)?;
    store.remove(scope(user, project)?, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn list(
    State(store): State<Arc<dyn Store>>,
    User(user): User,
    Route(project): Route<String>,
    asked: Result<UrlQuery<Prefix>, QueryRejection>,
) -> Result<axum::Json<Ids>, Problem> {
    let UrlQuery(asked) = asked.map_err(|rejection| Problem::invalid("query", rejection.body_text()))?;
    let ids = store.list(scope(user, project)?, asked.prefix).await?;
    Ok(axum::Json(Ids { ids }))
}

async fn remove_project(
    State(store): State<Arc<dyn Store>>,
    User(user): User,
    Route(project): Route<String>,
) -> Result<StatusCode, Problem> {
    store.remove_project(scope(user, project)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn query(
    State(store): State<Arc<dyn Store>>,
    User(user): User,
    Route(project): Route<String>,
    Json(query): Json<Query>,
) -> Result<axum::Json<Found>, Problem> {
    check_text(&query.text)?;
    if query.k == 0 || query.k > K_MAX {
        return Err(Problem::invalid("k", format!("it is 1 to {K_MAX}")));
    }
    let matches = store.query(scope(user, project)?, query.text, query.k).await?;
    Ok(axum::Json(Found { matches }))
}

fn scope(user: String, project: String) -> Result<Scope, Problem> {
    names::project(&project)?;
    Ok(Scope { user, project })
}

fn check_text(text: &str) -> Result<(), Problem> {
    if text.trim().is_empty() || text.len() > TEXT_MAX_BYTES {
        let detail = format!("it has 1 to {TEXT_MAX_BYTES} bytes, not all of them space");
        return Err(Problem::invalid("text", detail));
    }
    Ok(())
}

/// What every vector store can keep; Chroma takes nothing else.
fn check_metadata(metadata: &Metadata) -> Result<(), Problem> {
    let plain = |value: &serde_json::Value| value.is_string() || value.is_number() || value.is_boolean();
    match metadata.iter().find(|(_, value)| !plain(value)) {
        Some((name, _)) => {
            Err(Problem::invalid(&format!("metadata.{name}"), "it must be a text, a number, true or false"))
        }
        None => Ok(()),
    }
}
