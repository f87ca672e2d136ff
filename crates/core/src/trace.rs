//! The caller's trace, carried from a command into its event.
//!
//! The form is the header `traceparent` of [W3C Trace Context](https://www.w3.org/TR/trace-context/),
//! section 3.2, version 00.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A `traceparent`: `00-<trace id>-<parent id>-<flags>`, lower-case hexadecimal.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Trace(Box<str>);

/// The text is no `traceparent`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no traceparent: 00-<32 hexadecimal digits>-<16>-<2>, lower case, ids not all zero")]
pub struct TraceError(String);

impl Trace {
    /// The trace, checked.
    ///
    /// # Errors
    /// [`TraceError`] when it is not in the form of version 00, or an id is all zeros.
    pub fn new(text: &str) -> Result<Self, TraceError> {
        let hexadecimal = |part: &str, len: usize| {
            part.len() == len && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        };
        let id = |part: &str, len: usize| hexadecimal(part, len) && part.bytes().any(|b| b != b'0');
        let mut parts = text.split('-');
        let legal = parts.next() == Some("00")
            && parts.next().is_some_and(|part| id(part, 32))
            && parts.next().is_some_and(|part| id(part, 16))
            && parts.next().is_some_and(|part| hexadecimal(part, 2))
            && parts.next().is_none();
        if legal { Ok(Trace(text.into())) } else { Err(TraceError(text.to_owned())) }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Trace {
    type Error = TraceError;

    fn try_from(text: String) -> Result<Self, TraceError> {
        Trace::new(&text)
    }
}

impl From<Trace> for String {
    fn from(trace: Trace) -> String {
        trace.0.into_string()
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The trace of a command, if it has one. All are equal: a command that is sent again from another
/// trace asks for the same.
#[derive(Debug, Clone, Default)]
pub struct Traced(pub Option<Trace>);

impl PartialEq for Traced {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traceparents() {
        let (trace, span) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
        assert!(Trace::new(&format!("00-{trace}-{span}-01")).is_ok());
        let zeros = format!("00-{}-{span}-01", "0".repeat(32));
        let other = [
            format!("01-{trace}-{span}-01"),
            format!("00-{trace}-{span}"),
            format!("00-{trace}-{span}-01-x"),
            format!("00-{}-{span}-01", trace.to_uppercase()),
            zeros,
            String::new(),
        ];
        for text in other {
            assert!(Trace::new(&text).is_err(), "{text}");
        }
    }
}
