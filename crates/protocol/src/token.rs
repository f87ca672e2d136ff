//! The internal token: the root secret that every key is derived from.

use std::fmt;

use hkdf::Hkdf;
use holdfast_core::chain::LengthPrefixed;
use secrecy::{ExposeSecret, SecretBox, SecretString};
use sha2::Sha256;

/// Fewer bytes could be guessed.
const TOKEN_MIN_BYTES: usize = 32;
/// Fewer distinct characters were typed by a hand that did not care.
const TOKEN_MIN_DISTINCT: usize = 16;
/// What examples and tutorials put where a secret belongs.
const PLACEHOLDERS: [&str; 6] =
    ["changeme", "change-me", "placeholder", "example", "your-token", "secret-token"];

const SALT: &[u8] = b"holdfast/hkdf-sha256/v1";

/// What a derived key is for. One key never serves two purposes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Signs commands.
    CommandMac,
    /// Signs outcomes.
    OutcomeMac,
}

impl Purpose {
    fn label(self) -> &'static str {
        match self {
            Purpose::CommandMac => "command-mac",
            Purpose::OutcomeMac => "outcome-mac",
        }
    }
}

/// Why a token is not accepted. Never contains the token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Too short.
    #[error(
        "the internal token has {0} bytes, at least {TOKEN_MIN_BYTES} are needed; make one with `holdfast token new`"
    )]
    Short(usize),
    /// Too regular.
    #[error(
        "the internal token has {0} distinct characters, at least {TOKEN_MIN_DISTINCT} are needed; make one with `holdfast token new`"
    )]
    Regular(usize),
    /// Copied from an example.
    #[error("the internal token is a placeholder; make one with `holdfast token new`")]
    Placeholder,
}

/// The root token, ready to derive from. It cannot be printed.
pub struct RootToken {
    text: SecretString,
    derivation: SecretBox<Derivation>,
}

struct Derivation(Hkdf<Sha256>);

impl secrecy::zeroize::Zeroize for Derivation {
    fn zeroize(&mut self) {
        // The state behind `Hkdf` is private; replacing it drops the only copy we hold.
        self.0 = Hkdf::new(None, &[]);
    }
}

impl RootToken {
    /// Takes the token, without one trailing newline, as files have it.
    pub fn new(text: &SecretString) -> Result<Self, TokenError> {
        let token = text.expose_secret();
        let token = token.strip_suffix('\n').map_or(token, |token| token.strip_suffix('\r').unwrap_or(token));
        check(token)?;
        let derivation = Box::new(Derivation(Hkdf::new(Some(SALT), token.as_bytes())));
        Ok(RootToken { text: SecretString::from(token.to_owned()), derivation: SecretBox::new(derivation) })
    }

    /// The token itself, for comparing `X-INTERNAL-TOKEN`.
    #[must_use]
    pub fn text(&self) -> &SecretString {
        &self.text
    }

    /// The key of `issuer` for `purpose` in `generation`.
    #[must_use]
    pub fn key(&self, purpose: Purpose, issuer: &str, generation: u32) -> [u8; 32] {
        let mut key = [0; 32];
        self.expand(purpose.label(), issuer, generation, &mut key);
        key
    }

    /// The id of that key: eight bytes, in hexadecimal.
    #[must_use]
    pub fn key_id(&self, purpose: Purpose, issuer: &str, generation: u32) -> String {
        let mut id = [0; 8];
        self.expand(&format!("{}/kid", purpose.label()), issuer, generation, &mut id);
        hex(&id)
    }

    fn expand(&self, label: &str, issuer: &str, generation: u32, out: &mut [u8]) {
        let mut info = Vec::with_capacity(64);
        info.length_prefixed(b"holdfast/v1");
        info.length_prefixed(label.as_bytes());
        info.length_prefixed(issuer.as_bytes());
        info.raw(&generation.to_be_bytes());
        let derivation = &self.derivation.expose_secret().0;
        derivation.expand(&info, out).expect("HKDF-SHA256 gives up to 8,160 bytes");
    }
}

impl fmt::Debug for RootToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RootToken(…)")
    }
}

fn check(token: &str) -> Result<(), TokenError> {
    if token.len() < TOKEN_MIN_BYTES {
        return Err(TokenError::Short(token.len()));
    }
    let distinct = token.chars().collect::<std::collections::BTreeSet<_>>().len();
    if distinct < TOKEN_MIN_DISTINCT {
        return Err(TokenError::Regular(distinct));
    }
    let lower = token.to_ascii_lowercase();
    if PLACEHOLDERS.iter().any(|placeholder| lower.contains(placeholder)) {
        return Err(TokenError::Placeholder);
    }
    Ok(())
}

/// Lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = |byte: &u8| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]];
    bytes.iter().flat_map(digits).map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weak_tokens_are_refused_without_being_repeated() {
        let cases = [
            ("short", TokenError::Short(5)),
            (&"ab".repeat(32), TokenError::Regular(2)),
            ("hf1_changeme_ABCDEFGHIJKLMNOPQRSTUVWXYZ", TokenError::Placeholder),
        ];
        for (text, expected) in cases {
            let error = RootToken::new(&SecretString::from(text)).expect_err("weak");
            assert_eq!(error, expected);
            assert!(!error.to_string().contains(text));
        }
    }

    #[test]
    fn one_trailing_newline_is_no_part_of_the_token() {
        let text = "hf1_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";
        let plain = RootToken::new(&SecretString::from(text)).expect("strong");
        let from_file = RootToken::new(&SecretString::from(format!("{text}\n"))).expect("strong");
        let id = |root: &RootToken| root.key_id(Purpose::CommandMac, "chat-api", 1);
        assert_eq!(id(&plain), id(&from_file));
        assert_eq!(format!("{plain:?}"), "RootToken(…)");
    }
}
