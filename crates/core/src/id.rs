//! Names of things: accounts, issuers, commands, holds, positions.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::chain::LengthPrefixed;
use crate::text::{TextError, check_printable};

/// A command's id: any UUID, unique per issuer for ever, and the key of idempotency.
pub type CommandId = Uuid;
/// A hold's id, unique within its account: the reserve's command id unless given.
pub type HoldId = Uuid;

/// An event's number in its partition: 1 for the first, without gaps. 0 is "before the first".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Position(pub i64);

impl Position {
    /// The position after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Position(self.0.checked_add(1).expect("a log shorter than 2^63 events"))
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A billing account's id: 1 to 128 printable characters, spaces included.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AccountId(Arc<str>);

impl AccountId {
    /// The most characters an id may have.
    pub const MAX_CHARS: usize = 128;

    /// The id, checked.
    pub fn new(id: &str) -> Result<Self, TextError> {
        check_printable(id, Self::MAX_CHARS)?;
        Ok(AccountId(id.into()))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for AccountId {
    type Error = TextError;

    fn try_from(id: String) -> Result<Self, TextError> {
        AccountId::new(&id)
    }
}

impl From<AccountId> for String {
    fn from(id: AccountId) -> String {
        id.0.as_ref().to_owned()
    }
}

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Who issued a command: a publishing service's name, or the ledger itself.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Issuer(Arc<str>);

/// Why a text is not an issuer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an issuer: 1 to 63 of a-z, 0-9 and -")]
pub struct IssuerError(String);

impl Issuer {
    /// The reserved issuer of what the ledger decides by itself. Its underscore is illegal on the
    /// wire, so no message can claim it.
    pub const LEDGER: &'static str = "_ledger";

    /// A service's name, checked.
    pub fn new(name: &str) -> Result<Self, IssuerError> {
        let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if name.is_empty() || name.len() > 63 || !name.bytes().all(legal) {
            return Err(IssuerError(name.to_owned()));
        }
        Ok(Issuer(name.into()))
    }

    /// The ledger itself.
    #[must_use]
    pub fn ledger() -> Self {
        Issuer(Self::LEDGER.into())
    }

    /// An issuer as the log stores it: a service or the ledger itself.
    pub fn from_log(name: &str) -> Result<Self, IssuerError> {
        if name == Self::LEDGER { Ok(Self::ledger()) } else { Self::new(name) }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// The namespace of every UUID that Holdfast derives.
const NAMESPACE: Uuid = Uuid::from_u128(0x6f1d_6b3e_8f0a_5c55_9d1f_0c6a_4b7e_2a10);

/// The UUIDv5 of length-prefixed parts; the prefixes keep ("a","bc") apart from ("ab","c").
fn derive(parts: &[&[u8]]) -> Uuid {
    let mut name = Vec::with_capacity(96);
    for part in parts {
        name.length_prefixed(part);
    }
    Uuid::new_v5(&NAMESPACE, &name)
}

/// The id that `key` (a job id or an idempotency key) stands for when `issuer` uses it with `verb`.
///
/// With verb `reserve` this is the hold of a `job_id`.
#[must_use]
pub fn derived_id(issuer: &Issuer, verb: &str, key: &str) -> Uuid {
    derive(&[issuer.as_str().as_bytes(), verb.as_bytes(), key.as_bytes()])
}

/// The command id of a hold's expiry: the same whenever and by whomever it is decided.
#[must_use]
pub fn expiry_id(account: &AccountId, hold: HoldId) -> CommandId {
    derive(&[Issuer::LEDGER.as_bytes(), b"expire", account.as_str().as_bytes(), hold.as_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_issuer_on_the_wire_can_never_be_the_ledger() {
        assert!(Issuer::new(Issuer::LEDGER).is_err());
        assert!(Issuer::new("chat-api").is_ok());
        for bad in ["", "Chat", "a.b", "a b", &"x".repeat(64)] {
            assert!(Issuer::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn derived_ids_keep_their_parts_apart() {
        let (ab, a) = (Issuer::new("ab").expect("legal"), Issuer::new("a").expect("legal"));
        assert_ne!(derived_id(&ab, "c", "k"), derived_id(&a, "bc", "k"));
        assert_eq!(derived_id(&a, "reserve", "job"), derived_id(&a, "reserve", "job"));
    }
}
