//! The internal token, before anything else.
//!
//! **Correctness.** Whoever has no token learns nothing: not which routes exist, not whether a
//! body was good. Every such answer is the same bytes. The comparison takes the same time
//! whatever the token's length and wherever it differs.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::facade::Facade;
use crate::problem::Problem;

/// The header that carries the token.
const TOKEN: &str = "x-internal-token";
/// The header that names the user a service acts for; believed only behind the token.
const USER: &str = "x-user-id";

/// The digests of the accepted tokens, which can be compared without telling their lengths.
pub(crate) struct Tokens(Vec<[u8; 32]>);

impl Tokens {
    pub(crate) fn new<'a>(tokens: impl Iterator<Item = &'a SecretString>) -> Self {
        Tokens(tokens.map(|token| Sha256::digest(token.expose_secret()).into()).collect())
    }

    /// Whether the request carries exactly one token, and an accepted one.
    fn accept(&self, headers: &HeaderMap) -> bool {
        let mut given = headers.get_all(TOKEN).iter();
        let (Some(token), None) = (given.next(), given.next()) else { return false };
        let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        self.0.iter().fold(false, |accepted, known| bool::from(known.ct_eq(&digest)) | accepted)
    }
}

/// Lets authorized requests through, and the few that need no token.
pub(crate) async fn authorize(State(facade): State<Arc<Facade>>, request: Request, next: Next) -> Response {
    let open = is_open(request.uri().path(), facade.docs_are_open());
    if !open && !facade.tokens().accept(request.headers()) {
        tracing::warn!("Unauthorized request: invalid/missing X-INTERNAL-TOKEN");
        let problem = Problem::new(StatusCode::FORBIDDEN, "forbidden", "a valid X-INTERNAL-TOKEN is needed");
        return never_stored(problem.into());
    }
    if !open {
        let user = request.headers().get(USER).and_then(|value| value.to_str().ok()).unwrap_or("unknown");
        tracing::info!("Authorized request for user {user} with valid internal token");
    }
    never_stored(next.run(request).await)
}

fn never_stored(mut response: Response) -> Response {
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn is_open(path: &str, docs: bool) -> bool {
    let is_docs = path == "/openapi.json" || path == "/docs" || path.starts_with("/docs/");
    path == "/healthz" || (docs && is_docs)
}
