//! A layer for services behind a gateway: who carries the internal token may say for whom it acts.
//!
//! **Correctness.** `X-User-ID` is believed only behind a valid `X-INTERNAL-TOKEN`; every handler
//! below finds either an identity that was checked, as a [`UserId`] in the request's extensions, or
//! none. Every refusal is the same bytes, and comparing takes the same time however much of a token
//! is right, so that nobody learns anything by trying. Without any token configured everything is
//! refused.

use std::task::{Context, Poll};

use futures_util::future::{Either, Ready, ready};
use holdfast_core::AccountId;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tower::{Layer, Service};

/// The header that carries the token.
const TOKEN: &str = "x-internal-token";
/// The header that names the user.
const USER: &str = "x-user-id";
/// What whoever has no token is told, whatever it asked for: the problem of the same name that the
/// ledger's own HTTP interface answers with.
const REFUSAL: &str = r#"{"type":"urn:holdfast:error:forbidden","title":"forbidden","status":403,"code":"forbidden","detail":"a valid X-INTERNAL-TOKEN is needed"}"#;

/// The user that a request is made for, checked: 1 to 128 printable characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UserId(pub AccountId);

impl UserId {
    /// The id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

/// The layer. Requests without a valid token are refused with 403. So are those that name no legal
/// user, or more than one. Requests with a token and without `X-User-ID` pass, without a [`UserId`].
#[derive(Clone)]
pub struct InternalToken {
    /// The digests of the accepted tokens, which are compared without telling their lengths.
    digests: Vec<[u8; 32]>,
}

impl InternalToken {
    /// Accepts `current`, and `previous` during a rotation. An empty token is never accepted.
    #[must_use]
    pub fn new(current: &str, previous: Option<&str>) -> Self {
        let tokens = [Some(current), previous].into_iter().flatten().filter(|token| !token.is_empty());
        let digests: Vec<[u8; 32]> = tokens.map(|token| Sha256::digest(token.as_bytes()).into()).collect();
        if digests.is_empty() {
            tracing::error!("no internal token is configured: every request will be refused");
        }
        InternalToken { digests }
    }

    /// The user of an authorized request, if it names one; an error for any that is not authorized.
    fn authorize(&self, headers: &HeaderMap) -> Result<Option<UserId>, Refused> {
        let token = single(headers, TOKEN)?.ok_or(Refused)?;
        let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let accepted =
            self.digests.iter().fold(false, |accepted, known| bool::from(known.ct_eq(&digest)) | accepted);
        if !accepted {
            return Err(Refused);
        }
        let Some(user) = single(headers, USER)? else { return Ok(None) };
        let user = user.to_str().ok().and_then(|user| AccountId::new(user).ok());
        user.map(UserId).map(Some).ok_or(Refused)
    }
}

/// The request is not authorized.
#[derive(Debug, PartialEq, Eq)]
struct Refused;

/// The header's value; none when it is not there. Two of one name may be read differently by the
/// next program, so they are not read at all.
fn single<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a HeaderValue>, Refused> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (value, None) => Ok(value),
        _ => Err(Refused),
    }
}

impl<S> Layer<S> for InternalToken {
    type Service = Checked<S>;

    fn layer(&self, inner: S) -> Checked<S> {
        Checked { token: self.clone(), inner }
    }
}

/// A service behind [`InternalToken`].
#[derive(Clone)]
pub struct Checked<S> {
    token: InternalToken,
    inner: S,
}

impl<S, B, R> Service<Request<B>> for Checked<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: From<&'static str>,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Either<Ready<Result<Response<R>, S::Error>>, S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        // Only this layer may say who the user is.
        request.extensions_mut().remove::<UserId>();
        match self.token.authorize(request.headers()) {
            Ok(user) => {
                if let Some(user) = user {
                    request.extensions_mut().insert(user);
                }
                Either::Right(self.inner.call(request))
            }
            Err(Refused) => {
                tracing::warn!("a request without a valid X-INTERNAL-TOKEN was refused");
                Either::Left(ready(Ok(refusal())))
            }
        }
    }
}

fn refusal<R: From<&'static str>>() -> Response<R> {
    let mut response = Response::new(R::from(REFUSAL));
    *response.status_mut() = StatusCode::FORBIDDEN;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    /// Answers with the user it was given.
    #[derive(Clone)]
    struct Echo;

    impl Service<Request<()>> for Echo {
        type Response = Response<String>;
        type Error = Infallible;
        type Future = Ready<Result<Response<String>, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: Request<()>) -> Self::Future {
            let user = request.extensions().get::<UserId>();
            ready(Ok(Response::new(user.map_or("nobody", UserId::as_str).to_owned())))
        }
    }

    async fn answer(layer: &InternalToken, headers: &[(&str, &str)]) -> (StatusCode, String) {
        let mut request = Request::builder().uri("/anything");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(()).expect("a request");
        let response = match layer.layer(Echo).call(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        (response.status(), response.into_body())
    }

    #[tokio::test]
    async fn only_with_the_token_is_anybody_believed() {
        let layer = InternalToken::new("new", Some("old"));
        let refused = (StatusCode::FORBIDDEN, REFUSAL.to_owned());
        let ok = |user: &str| (StatusCode::OK, user.to_owned());
        let (token, old, wrong) =
            (("x-internal-token", "new"), ("x-internal-token", "old"), ("x-internal-token", "ne"));
        let user = ("X-User-ID", "user-1");
        let long = "x".repeat(129);
        let cases: Vec<(Vec<(&str, &str)>, _)> = vec![
            (vec![token, user], ok("user-1")),
            (vec![old, user], ok("user-1")),
            (vec![token], ok("nobody")),
            (vec![user], refused.clone()),
            (vec![], refused.clone()),
            (vec![wrong, user], refused.clone()),
            (vec![token, token, user], refused.clone()),
            (vec![token, user, ("x-user-id", "user-2")], refused.clone()),
            (vec![token, ("x-user-id", "")], refused.clone()),
            (vec![token, ("x-user-id", long.as_str())], refused.clone()),
        ];
        for (headers, expected) in cases {
            assert_eq!(answer(&layer, &headers).await, expected, "{headers:?}");
        }
        let nobody = InternalToken::new("", None);
        assert_eq!(answer(&nobody, &[("x-internal-token", "")]).await, refused, "an empty token");
    }
}
