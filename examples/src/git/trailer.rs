//! What a commit's message says about the snapshot that it is.
//!
//! **Correctness.** Only the last paragraph is read, and that one the service wrote itself: a
//! caller's message that has such a line in it stands before it.

use std::collections::BTreeMap;

use super::Snapshot;
use crate::names::digest;

const KEY: &str = "Snapshot-Key: ";
const DIGEST: &str = "Snapshot-Digest: ";
const UNDOES: &str = "Snapshot-Undone: ";

/// What the last paragraph says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Trailer {
    /// The snapshot that the commit is.
    pub(super) key: Option<String>,
    /// What was in it, so that another snapshot under its key is noticed.
    pub(super) digest: Option<String>,
    /// The snapshot that the commit undoes.
    pub(super) undoes: Option<String>,
}

/// The message of a snapshot.
pub(super) fn message(snapshot: &Snapshot) -> String {
    let digest = content(&snapshot.message, &snapshot.files);
    format!("{}\n\n{KEY}{}\n{DIGEST}{digest}\n", snapshot.message.trim(), snapshot.key)
}

/// The message of an undo.
pub(super) fn undo_message(key: &str) -> String {
    format!("Undo a snapshot\n\n{UNDOES}{key}\n")
}

/// Reads a message.
pub(super) fn read(message: &str) -> Trailer {
    let last = message.trim_end().rsplit("\n\n").next().unwrap_or_default();
    let value = |name: &str| last.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
    Trailer { key: value(KEY), digest: value(DIGEST), undoes: value(UNDOES) }
}

/// The digest of a snapshot's content.
pub(super) fn content(message: &str, files: &BTreeMap<String, Option<String>>) -> String {
    let mut parts = vec![message.trim().as_bytes()];
    for (path, content) in files {
        let kind: &[u8] = if content.is_some() { b"file" } else { b"none" };
        parts.extend([path.as_bytes(), kind, content.as_deref().unwrap_or_default().as_bytes()]);
    }
    digest(&parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(message: &str) -> Snapshot {
        let files = BTreeMap::from([("a".to_owned(), Some("b".to_owned()))]);
        Snapshot { message: message.to_owned(), files, key: "k-1".to_owned() }
    }

    #[test]
    fn a_message_cannot_claim_another_key() {
        let claims = snapshot("Add\n\nSnapshot-Key: other\nSnapshot-Undone: other\n\n");
        let trailer = read(&message(&claims));
        assert_eq!(trailer.key.as_deref(), Some("k-1"));
        assert_eq!(trailer.undoes, None);
        assert_eq!(read("Snapshot\n"), Trailer::default());
        assert_eq!(read(&undo_message("k-1")).undoes.as_deref(), Some("k-1"));
    }

    #[test]
    fn a_digest_tells_snapshots_apart() {
        let one = snapshot("Add");
        let mut other = snapshot("Add");
        assert_eq!(content(&one.message, &one.files), content(&other.message, &other.files));
        other.files.insert("a".to_owned(), None);
        assert_ne!(content(&one.message, &one.files), content(&other.message, &other.files));
    }
}
