//! Text from callers: bounded and printable, so that it can be shown, stored and cast anywhere.

use std::fmt;

use serde::{Deserialize, Serialize};

/// 1 to `MAX` characters without control characters.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Text<const MAX: usize>(Box<str>);

/// A subscription tier, such as `free`.
pub type Tier = Text<64>;
/// A reference into another system, such as a payment's id.
pub type ExternalRef = Text<255>;
/// Why something was done, for people.
pub type Note = Text<1024>;

/// Why a text was not accepted; the caller prefixes the field's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// Nothing in it.
    #[error("must not be empty")]
    Empty,
    /// More characters than the field takes.
    #[error("has {len} characters, at most {max} are allowed")]
    TooLong {
        /// How many characters were given.
        len: usize,
        /// How many are allowed.
        max: usize,
    },
    /// A character that cannot be printed.
    #[error("must be printable: the character U+{0:04X} is not")]
    Unprintable(u32),
}

/// Checks that `text` has 1 to `max` characters, all of them printable.
pub fn check_printable(text: &str, max: usize) -> Result<(), TextError> {
    if text.is_empty() {
        return Err(TextError::Empty);
    }
    let len = text.chars().count();
    if len > max {
        return Err(TextError::TooLong { len, max });
    }
    // The line and paragraph separators break a line in a terminal as a control character does.
    let unprintable = |c: &char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}');
    match text.chars().find(unprintable) {
        Some(c) => Err(TextError::Unprintable(u32::from(c))),
        None => Ok(()),
    }
}

impl<const MAX: usize> Text<MAX> {
    /// A text written in the program; panics when it breaks the rules.
    #[must_use]
    pub fn literal(text: &str) -> Self {
        Self::try_from(text.to_owned()).expect("a literal within its bounds")
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<const MAX: usize> TryFrom<String> for Text<MAX> {
    type Error = TextError;

    fn try_from(text: String) -> Result<Self, TextError> {
        check_printable(&text, MAX)?;
        Ok(Text(text.into_boxed_str()))
    }
}

impl<const MAX: usize> From<Text<MAX>> for String {
    fn from(text: Text<MAX>) -> String {
        text.0.into_string()
    }
}

impl<const MAX: usize> fmt::Display for Text<MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<const MAX: usize> fmt::Debug for Text<MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_counted_in_characters_and_must_be_printable() {
        assert!(check_printable(&"ü".repeat(128), 128).is_ok());
        assert!(check_printable("a b", 128).is_ok());
        assert_eq!(check_printable("", 8), Err(TextError::Empty));
        assert_eq!(check_printable("abc", 2), Err(TextError::TooLong { len: 3, max: 2 }));
        assert_eq!(check_printable("a\0", 8), Err(TextError::Unprintable(0)));
        assert_eq!(check_printable("a\u{2028}", 8), Err(TextError::Unprintable(0x2028)));
    }
}
