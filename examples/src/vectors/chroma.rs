//! Vectors in a Chroma server, through its HTTP API v2.
//!
//! **Shape.** One collection for each project of a user, named by a digest, since Chroma's names
//! allow less than ours. It is made by the first save, and found by its name each time: an id that
//! was kept would go stale when another process removes the project.

use axum::http::{Method, Request, header};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body_util::Full;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::Match;
use super::embedding::embed;
use super::store::{Document, Metadata, Scope, Store};
use crate::http::{Answer, Http};
use crate::names::digest;
use crate::problem::Problem;

/// What every Chroma server has from the start.
const COLLECTIONS: &str = "/api/v2/tenants/default_tenant/databases/default_database/collections";
/// How many characters of the server's error are told.
const SHOWN_CHARS: usize = 200;

/// A Chroma server.
#[derive(Debug, Clone)]
pub struct Chroma {
    http: Http,
    url: String,
}

#[derive(Deserialize)]
struct Collection {
    id: String,
}

#[derive(Deserialize)]
struct Ids {
    ids: Vec<String>,
}

/// A list for each query; there is one.
#[derive(Deserialize)]
struct Nearest {
    ids: Vec<Vec<String>>,
    documents: Vec<Vec<Option<String>>>,
    metadatas: Vec<Vec<Option<Metadata>>>,
    distances: Vec<Vec<Option<f64>>>,
}

impl Chroma {
    /// The server at `url`, such as `http://127.0.0.1:8000`.
    #[must_use]
    pub fn new(http: Http, url: &str) -> Self {
        Chroma { http, url: url.trim_end_matches('/').to_owned() }
    }

    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Result<Answer, Problem> {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{COLLECTIONS}{path}", self.url))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body.map_or_else(Bytes::new, |body| body.to_string().into())))
            .map_err(|error| Problem::internal("the address of Chroma", error))?;
        let answer = self.http.send(request).await;
        answer.map_err(|error| Problem::unavailable(format!("Chroma: {error}")))
    }

    /// The project's collection, if there is one.
    async fn find(&self, name: &str) -> Result<Option<String>, Problem> {
        let answer = self.call(Method::GET, &format!("/{name}"), None).await?;
        if answer.status == 404 {
            return Ok(None);
        }
        read::<Collection>(&answer).map(|collection| Some(collection.id))
    }

    async fn make(&self, name: &str) -> Result<String, Problem> {
        let body = json!({
            "name": name,
            "get_or_create": true,
            "configuration": {"hnsw": {"space": "cosine"}},
        });
        let answer = self.call(Method::POST, "", Some(body)).await?;
        read::<Collection>(&answer).map(|collection| collection.id)
    }

    async fn upsert(&self, scope: Scope, document: Document) -> Result<(), Problem> {
        let collection = self.make(&name(&scope)).await?;
        // Chroma refuses metadata without members.
        let metadata = (!document.metadata.is_empty()).then_some(&document.metadata);
        let body = json!({
            "ids": [document.id],
            "embeddings": [embed(&document.text)],
            "documents": [document.text],
            "metadatas": [metadata],
        });
        let answer = self.call(Method::POST, &format!("/{collection}/upsert"), Some(body)).await?;
        check(&answer)
    }

    async fn delete(&self, scope: Scope, id: String) -> Result<(), Problem> {
        let Some(collection) = self.find(&name(&scope)).await? else { return Ok(()) };
        let path = format!("/{collection}/delete");
        check(&self.call(Method::POST, &path, Some(json!({"ids": [id]}))).await?)
    }

    async fn ids(&self, scope: Scope, prefix: String) -> Result<Vec<String>, Problem> {
        let Some(collection) = self.find(&name(&scope)).await? else { return Ok(Vec::new()) };
        let path = format!("/{collection}/get");
        let answer = self.call(Method::POST, &path, Some(json!({"include": []}))).await?;
        let mut ids = read::<Ids>(&answer)?.ids;
        ids.retain(|id| id.starts_with(&prefix));
        ids.sort();
        Ok(ids)
    }

    async fn delete_collection(&self, scope: Scope) -> Result<(), Problem> {
        let answer = self.call(Method::DELETE, &format!("/{}", name(&scope)), None).await?;
        if answer.status == 404 { Ok(()) } else { check(&answer) }
    }

    async fn nearest(&self, scope: Scope, text: String, k: u32) -> Result<Vec<Match>, Problem> {
        let Some(collection) = self.find(&name(&scope)).await? else { return Ok(Vec::new()) };
        let body = json!({
            "query_embeddings": [embed(&text)],
            "n_results": k,
            "include": ["documents", "metadatas", "distances"],
        });
        let answer = self.call(Method::POST, &format!("/{collection}/query"), Some(body)).await?;
        Ok(matches(read(&answer)?))
    }
}

impl Store for Chroma {
    fn save(&self, scope: Scope, document: Document) -> BoxFuture<'_, Result<(), Problem>> {
        Box::pin(self.upsert(scope, document))
    }

    fn remove(&self, scope: Scope, id: String) -> BoxFuture<'_, Result<(), Problem>> {
        Box::pin(self.delete(scope, id))
    }

    fn list(&self, scope: Scope, prefix: String) -> BoxFuture<'_, Result<Vec<String>, Problem>> {
        Box::pin(self.ids(scope, prefix))
    }

    fn remove_project(&self, scope: Scope) -> BoxFuture<'_, Result<(), Problem>> {
        Box::pin(self.delete_collection(scope))
    }

    fn query(&self, scope: Scope, text: String, k: u32) -> BoxFuture<'_, Result<Vec<Match>, Problem>> {
        Box::pin(self.nearest(scope, text, k))
    }
}

/// 41 characters, which begins with a letter: within what Chroma allows.
fn name(scope: &Scope) -> String {
    let digest = digest(&[scope.user.as_bytes(), scope.project.as_bytes()]);
    format!("p{}", &digest[..40])
}

fn matches(nearest: Nearest) -> Vec<Match> {
    let first = |lists: Vec<Vec<String>>| lists.into_iter().next().unwrap_or_default();
    let texts = nearest.documents.into_iter().next().unwrap_or_default();
    let metadatas = nearest.metadatas.into_iter().next().unwrap_or_default();
    let distances = nearest.distances.into_iter().next().unwrap_or_default();
    let rows = first(nearest.ids).into_iter().zip(texts).zip(metadatas).zip(distances);
    rows.map(|(((id, text), metadata), distance)| Match {
        id,
        text: text.unwrap_or_default(),
        metadata: metadata.unwrap_or_default(),
        score: 1.0 - distance.unwrap_or(1.0),
    })
    .collect()
}

fn check(answer: &Answer) -> Result<(), Problem> {
    if answer.is_success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&answer.body);
    let shown: String = text.chars().take(SHOWN_CHARS).collect();
    Err(Problem::unavailable(format!("Chroma answered {}: {shown}", answer.status)))
}

fn read<T: DeserializeOwned>(answer: &Answer) -> Result<T, Problem> {
    check(answer)?;
    let read = serde_json::from_slice(&answer.body);
    read.map_err(|error| Problem::unavailable(format!("Chroma's answer cannot be read: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_row_by_row() {
        let answer = br#"{"ids":[["a","b"]],"documents":[["one",null]],"metadatas":[[{"page":1},null]],
            "distances":[[0.25,0.5]],"embeddings":null,"include":["documents"]}"#;
        let answer = Answer { status: 200, body: Bytes::from_static(answer) };
        let found = matches(read(&answer).expect("an answer"));
        assert_eq!((found[0].id.as_str(), found[0].text.as_str(), found[0].score), ("a", "one", 0.75));
        assert_eq!((found[1].text.as_str(), found[1].metadata.len()), ("", 0));
        let refused = Answer { status: 500, body: Bytes::from_static(b"no disk") };
        assert_eq!(check(&refused).expect_err("refused").detail(), "Chroma answered 500: no disk");
    }

    #[test]
    fn a_collection_is_of_one_project() {
        let scope = |user: &str, project: &str| Scope { user: user.to_owned(), project: project.to_owned() };
        assert_ne!(name(&scope("a", "bc")), name(&scope("ab", "c")));
        assert_eq!(name(&scope("a", "b")).len(), 41);
    }
}
