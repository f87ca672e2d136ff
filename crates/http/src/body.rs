//! Reading a request's body: bounded, in time, and strictly.

use std::time::Duration;

use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;

use crate::problem::Problem;

/// The largest body.
const BODY_MAX_BYTES: usize = 64 * 1024;
/// How long a body may take to arrive; whoever is slower is cut off.
const BODY_WITHIN: Duration = Duration::from_secs(10);

/// A JSON body. Unknown members are refused by name, and errors name the member at fault.
pub(crate) struct Json<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Problem> {
        let limited = Limited::new(request.into_body(), BODY_MAX_BYTES);
        let collected = tokio::time::timeout(BODY_WITHIN, limited.collect()).await;
        let late =
            |_| Problem::new(StatusCode::REQUEST_TIMEOUT, "too_slow", "the body did not arrive in time");
        let bytes = collected.map_err(late)?.map_err(|error| broken(&*error))?.to_bytes();
        read(&bytes).map(Json)
    }
}

fn broken(error: &(dyn std::error::Error + 'static)) -> Problem {
    if error.is::<LengthLimitError>() {
        return Problem::too_large();
    }
    Problem::invalid("the body could not be read")
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(Problem::invalid("the body must be a JSON object"));
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let field = if path == "." { String::new() } else { format!("{path}: ") };
        Problem::invalid(format!("{field}{}", error.into_inner()))
    })?;
    reader.end().map_err(|_| Problem::invalid("the body has something after its end"))?;
    Ok(value)
}
