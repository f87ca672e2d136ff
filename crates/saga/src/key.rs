//! What a saga is called, and everything that is derived from its name.
//!
//! **Correctness.** Neither a definition nor an id nor a step has a `/` in it, so the texts that ids are
//! derived from cannot be read in two ways.

use std::fmt;
use std::str::FromStr;

use holdfast_core::text::check_printable;
use holdfast_core::{CommandId, HoldId, Issuer, Verb, derived_id};
use holdfast_protocol::subject;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What the subject of every entry begins with.
const SUBJECTS: &str = "saga";
/// The longest key, in bytes: it is the hold's job id, which has this bound.
const KEY_MAX_BYTES: usize = 128;
/// The longest name of a definition or of a step, in bytes.
const NAME_MAX_BYTES: usize = 64;

/// A saga's name: its definition and its id, written `<definition>/<id>`. The ledger knows the saga by it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SagaKey {
    definition: String,
    id: String,
}

/// Why something is not a saga's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// There is no `/` between definition and id.
    #[error("`{0}` is no saga; write <definition>/<id>")]
    Form(String),
    /// The definition's name would not be one token of a subject.
    #[error("`{0}` is no name of a definition: 1 to 64 of a-z, 0-9 and -")]
    Definition(String),
    /// The id is empty, or has a `/` or something unprintable in it.
    #[error("`{0}` is no id of a saga: printable, not empty, without a /")]
    Id(String),
    /// The ledger takes no longer job id.
    #[error("`{0}` has more than {KEY_MAX_BYTES} bytes")]
    TooLong(String),
}

impl SagaKey {
    /// The name of the saga `id` of `definition`.
    ///
    /// # Errors
    /// [`KeyError`] when it could not be a job id and a subject.
    pub fn new(definition: &str, id: &str) -> Result<Self, KeyError> {
        let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if definition.is_empty() || definition.len() > NAME_MAX_BYTES || !definition.bytes().all(legal) {
            return Err(KeyError::Definition(definition.to_owned()));
        }
        if id.contains('/') || check_printable(id, KEY_MAX_BYTES).is_err() {
            return Err(KeyError::Id(id.to_owned()));
        }
        let key = SagaKey { definition: definition.to_owned(), id: id.to_owned() };
        let text = key.to_string();
        if text.len() > KEY_MAX_BYTES { Err(KeyError::TooLong(text)) } else { Ok(key) }
    }

    /// The definition's name.
    #[must_use]
    pub fn definition(&self) -> &str {
        &self.definition
    }

    /// The id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where the saga's entries are published.
    #[must_use]
    pub fn subject(&self) -> String {
        format!("{SUBJECTS}.{}.{}", self.definition, subject::account_token(&self.id))
    }

    /// The saga whose entries are published on `subject`.
    #[must_use]
    pub fn of_subject(subject: &str) -> Option<Self> {
        let (definition, token) = subject.strip_prefix(SUBJECTS)?.strip_prefix('.')?.split_once('.')?;
        SagaKey::new(definition, &subject::account_of_token(token)?).ok()
    }

    /// What all sagas of `definition` are published below.
    pub(crate) fn subjects_of(definition: &str) -> String {
        format!("{SUBJECTS}.{definition}.*")
    }

    /// What all sagas are published below.
    pub(crate) fn all_subjects() -> String {
        format!("{SUBJECTS}.*.*")
    }

    /// The saga's hold, which is also the command id of its reserve: what its job id stands for.
    #[must_use]
    pub fn hold(&self, issuer: &Issuer) -> HoldId {
        derived_id(issuer, Verb::Reserve.as_str(), &self.to_string())
    }

    /// The command id of the capture for `step`. There is one per step, whoever runs it how often.
    #[must_use]
    pub fn capture_id(&self, issuer: &Issuer, step: &str) -> CommandId {
        derived_id(issuer, "saga.capture", &format!("{self}/{step}"))
    }

    /// The command id of the capture for what the try number `attempt` at `step` cost although it
    /// failed.
    #[must_use]
    pub fn attempt_capture_id(&self, issuer: &Issuer, step: &str, attempt: u32) -> CommandId {
        derived_id(issuer, "saga.capture", &format!("{self}/{step}/{attempt}"))
    }

    /// The command id of the refund for `step`.
    #[must_use]
    pub fn refund_id(&self, issuer: &Issuer, step: &str) -> CommandId {
        derived_id(issuer, "saga.refund", &format!("{self}/{step}"))
    }

    /// The command id of the refund for a try at `step` that failed.
    #[must_use]
    pub fn attempt_refund_id(&self, issuer: &Issuer, step: &str, attempt: u32) -> CommandId {
        derived_id(issuer, "saga.refund", &format!("{self}/{step}/{attempt}"))
    }

    /// The command id of whatever settles the hold. A capture and a release share it, so the ledger
    /// itself refuses the second settlement of a saga, even when the saga's log was lost in between.
    #[must_use]
    pub fn settle_id(&self, issuer: &Issuer) -> CommandId {
        derived_id(issuer, "saga.settle", &self.to_string())
    }

    /// The command id of the capture of nothing that settles a hold which had expired: what it was
    /// needed for is over, and no late capture may follow.
    #[must_use]
    pub fn close_id(&self, issuer: &Issuer) -> CommandId {
        derived_id(issuer, "saga.close", &self.to_string())
    }

    /// A key for other services that `step` calls: the same on every attempt.
    #[must_use]
    pub fn idempotency_key(&self, issuer: &Issuer, step: &str) -> Uuid {
        derived_id(issuer, "saga.step", &format!("{self}/{step}"))
    }
}

/// Whether `name` can be a step's: 1 to 64 of letters, digits, `-`, `_` and `.`.
#[must_use]
pub fn is_step_name(name: &str) -> bool {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    (1..=NAME_MAX_BYTES).contains(&name.len()) && name.bytes().all(legal)
}

impl fmt::Display for SagaKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.definition, self.id)
    }
}

impl FromStr for SagaKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let (definition, id) = text.split_once('/').ok_or_else(|| KeyError::Form(text.to_owned()))?;
        SagaKey::new(definition, id)
    }
}

impl TryFrom<String> for SagaKey {
    type Error = KeyError;

    fn try_from(text: String) -> Result<Self, KeyError> {
        text.parse()
    }
}

impl From<SagaKey> for String {
    fn from(key: SagaKey) -> String {
        key.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_back_from_its_text_and_from_its_subject() {
        for id in ["7", "job 7", "a.b", "ü", "x@example.com"] {
            let key = SagaKey::new("write-book", id).expect("legal");
            assert_eq!(key.to_string().parse(), Ok(key.clone()));
            assert_eq!(SagaKey::of_subject(&key.subject()), Some(key));
        }
        assert_eq!(SagaKey::of_subject("saga.write-book"), None);
        assert_eq!(SagaKey::of_subject("sagas.write-book.7"), None);
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_no_key() {
        for (definition, id) in [("", "7"), ("Book", "7"), ("a.b", "7"), ("book", ""), ("book", "a/b")] {
            assert!(SagaKey::new(definition, id).is_err(), "{definition:?} {id:?}");
        }
        assert!(SagaKey::new("book", &"x".repeat(124)).is_err());
        assert!("book".parse::<SagaKey>().is_err());
        assert!(is_step_name("write-page-2") && !is_step_name("a/b") && !is_step_name(""));
    }

    #[test]
    fn every_purpose_has_an_id_of_its_own() {
        let issuer = Issuer::new("backend").expect("legal");
        let key = SagaKey::new("book", "7").expect("legal");
        let ids = [
            key.hold(&issuer),
            key.capture_id(&issuer, "plan"),
            key.capture_id(&issuer, "write"),
            key.attempt_capture_id(&issuer, "plan", 1),
            key.attempt_capture_id(&issuer, "plan", 2),
            key.refund_id(&issuer, "plan"),
            key.attempt_refund_id(&issuer, "plan", 1),
            key.settle_id(&issuer),
            key.close_id(&issuer),
            key.idempotency_key(&issuer, "plan"),
        ];
        let distinct: std::collections::BTreeSet<_> = ids.iter().collect();
        assert_eq!(distinct.len(), ids.len());
    }
}
