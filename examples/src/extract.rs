//! Reading requests: bounded and strict, with problems that name what is at fault.

use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use bytes::Bytes;
use holdfast_calls::layer::UserId;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;

use crate::problem::Problem;

/// The largest body: a snapshot with the files of a whole wiki.
pub const BODY_MAX_BYTES: usize = 8 * 1024 * 1024;

/// A JSON body. Unknown members are refused where the type says so, and errors name the member.
#[derive(Debug)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Problem> {
        parse(&collect(request).await?).map(Json)
    }
}

/// A body as it came.
#[derive(Debug)]
pub struct Raw(pub Bytes);

impl<S: Sync> FromRequest<S> for Raw {
    type Rejection = Problem;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Problem> {
        collect(request).await.map(Raw)
    }
}

/// The names in the route.
#[derive(Debug)]
pub struct Route<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Route<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Path::<T>::from_request_parts(parts, state).await {
            Ok(Path(names)) => Ok(Route(names)),
            Err(rejection) => Err(Problem::invalid("path", rejection.body_text())),
        }
    }
}

/// The user for whom a service acts; believed since the request passed the token layer, which puts
/// it into the extensions.
#[derive(Debug, Clone)]
pub struct User(pub String);

impl<S: Send + Sync> FromRequestParts<S> for User {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        let Some(UserId(user)) = parts.extensions.get::<UserId>() else {
            return Err(Problem::invalid("X-User-ID", "this header must name the user"));
        };
        Ok(User(user.to_string()))
    }
}

async fn collect(request: Request) -> Result<Bytes, Problem> {
    let limited = Limited::new(request.into_body(), BODY_MAX_BYTES);
    match limited.collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too_large",
            format!("a body has at most {BODY_MAX_BYTES} bytes"),
        )),
        Err(_) => Err(Problem::invalid("body", "it could not be read to its end")),
    }
}

/// Reads JSON; the problem names the member at fault.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let field = if path == "." { "body" } else { path.as_str() };
        Problem::invalid(field, error.inner())
    })?;
    reader.end().map_err(|_| Problem::invalid("body", "there is something after its end"))?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Body {
        #[allow(dead_code, reason = "only its reading is looked at")]
        k: u32,
    }

    #[test]
    fn a_problem_names_the_member_at_fault() {
        let cases = [
            (r#"{"k":"many"}"#, "k: "),
            (r#"{"n":1}"#, "unknown field `n`"),
            (r"{}", "missing field `k`"),
            (r#"{"k":1} {}"#, "after its end"),
        ];
        for (text, part) in cases {
            let problem = parse::<Body>(text.as_bytes()).expect_err("refused");
            assert!(problem.detail().contains(part), "{text}: {}", problem.detail());
        }
    }
}
