//! What the provider is told to do with a call.

use axum::http::HeaderMap;
use serde::{Deserialize, Serialize};

use crate::extract::parse;
use crate::problem::Problem;

/// The header that says what to do with this one call.
pub const SCRIPT_HEADER: &str = "x-script";

/// What is done with a call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    /// It is answered, and usage reported.
    #[default]
    Success,
    /// It is refused for its rate, with `Retry-After`.
    #[serde(rename = "429")]
    TooManyRequests,
    /// It fails before anything was produced.
    #[serde(rename = "500")]
    ServerError,
    /// It is never answered.
    Timeout,
    /// The connection breaks amid the answer.
    Cut,
    /// It is answered, and usage is not reported.
    NoUsage,
    /// It is answered, and reported as free.
    ZeroUsage,
    /// The stream tells of an error after output has come. Without `stream` there is nothing
    /// before the error, so this is `500` there.
    ErrorAfterOutput,
    /// It is answered slowly.
    Slow,
}

/// What is done with a call, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Script {
    /// What is done.
    pub act: Act,
    /// Of `cut` and `error_after_output`: how many pieces come before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_pieces: Option<usize>,
    /// How many words the answer has, in place of a number that the prompt decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub words: Option<usize>,
    /// The answer itself, in place of one that the prompt decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// How many of the prompt's tokens are reported as read from the cache; never more than it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached_tokens: Option<u64>,
    /// Of `slow`: how long it waits before each piece, or before an answer that is not streamed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause_ms: Option<u64>,
    /// Of `429`: what `Retry-After` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_seconds: Option<u64>,
}

impl From<Act> for Script {
    fn from(act: Act) -> Self {
        Script { act, ..Script::default() }
    }
}

impl Script {
    /// What the request's header says, if it has one.
    pub(super) fn of_header(headers: &HeaderMap) -> Result<Option<Self>, Problem> {
        let Some(value) = headers.get(SCRIPT_HEADER) else { return Ok(None) };
        let text = value.to_str().map_err(|_| Problem::invalid("X-Script", "it must be ASCII"))?;
        read(text).map(Some).map_err(|problem| Problem::invalid("X-Script", problem.detail()))
    }
}

/// An act's name, or a script as JSON.
fn read(text: &str) -> Result<Script, Problem> {
    if text.trim_start().starts_with('{') {
        return parse(text.as_bytes());
    }
    let name = serde_json::Value::from(text.trim()).to_string();
    parse::<Act>(name.as_bytes()).map(Script::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_a_name_or_an_object() {
        assert_eq!(read("429").expect("an act").act, Act::TooManyRequests);
        assert_eq!(read(" error_after_output ").expect("an act").act, Act::ErrorAfterOutput);
        let cut = read(r#"{"act":"cut","after_pieces":3}"#).expect("a script");
        assert_eq!((cut.act, cut.after_pieces), (Act::Cut, Some(3)));
        for (bad, part) in [("sucess", "unknown variant `sucess`"), (r#"{"act":"cut","after":3}"#, "`after`")]
        {
            let problem = read(bad).expect_err(bad);
            assert!(problem.detail().contains(part), "{}", problem.detail());
        }
    }
}
