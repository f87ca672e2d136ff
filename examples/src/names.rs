//! Names that callers choose: what is allowed, and how they become names of folders.
//!
//! **Correctness.** No name ever leads out of its folder. A path is refused rather than repaired,
//! for the caller would not find again what was stored under another name.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

use crate::problem::Problem;

/// The ledger's own limit for account ids.
const USER_MAX_CHARS: usize = 128;
const PROJECT_MAX_BYTES: usize = 64;
/// A common limit of file systems is 255 for one segment; a temporary suffix shall fit as well.
const SEGMENT_MAX_BYTES: usize = 200;
const PATH_MAX_BYTES: usize = 1_000;
const SEGMENTS_MAX: usize = 16;
const DOCUMENT_MAX_BYTES: usize = 200;
const KEY_MAX_BYTES: usize = 200;

/// Checks a user's id; `field` is what it is called where it came from.
///
/// # Errors
/// A problem that names `field`.
pub fn user(field: &str, user: &str) -> Result<(), Problem> {
    let length = user.chars().count();
    if length == 0 || length > USER_MAX_CHARS || user.chars().any(char::is_control) {
        let detail = format!("a user's id has 1 to {USER_MAX_CHARS} printable characters");
        return Err(Problem::invalid(field, detail));
    }
    Ok(())
}

/// Checks a project's name.
///
/// # Errors
/// A problem that names `project`.
pub fn project(name: &str) -> Result<(), Problem> {
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    if name.is_empty() || name.len() > PROJECT_MAX_BYTES || !name.bytes().all(legal) {
        let detail = format!("a project has 1 to {PROJECT_MAX_BYTES} of a-z, 0-9, - and _");
        return Err(Problem::invalid("project", detail));
    }
    Ok(())
}

/// Checks a file's path: segments with `/` between them, none of which leads anywhere else.
///
/// # Errors
/// A problem that names `field`.
pub fn path(field: &str, path: &str) -> Result<(), Problem> {
    let refuse = |detail: &str| Err(Problem::invalid(field, format!("{path:?} is refused: {detail}")));
    if path.is_empty() || path.len() > PATH_MAX_BYTES {
        return refuse("a path has 1 to 1,000 bytes");
    }
    if path.split('/').count() > SEGMENTS_MAX {
        return refuse("a path has at most 16 segments");
    }
    path.split('/').try_for_each(|segment| segment_is_legal(segment).or_else(refuse))
}

fn segment_is_legal(segment: &str) -> Result<(), &'static str> {
    match segment {
        "" => Err("it has an empty segment, or begins or ends with /"),
        "." | ".." => Err("it must not leave its folder"),
        // `.git` would become part of a repository's inside.
        _ if segment.starts_with('.') => Err("no segment begins with a dot"),
        _ if segment.len() > SEGMENT_MAX_BYTES => Err("a segment has at most 200 bytes"),
        _ if segment.contains('\\') => Err("it has a backslash"),
        _ if segment.chars().any(char::is_control) => Err("it has a control character"),
        _ => Ok(()),
    }
}

/// Checks a document's id.
///
/// # Errors
/// A problem that names `id`.
pub fn document(id: &str) -> Result<(), Problem> {
    if id.is_empty() || id.len() > DOCUMENT_MAX_BYTES || id.chars().any(char::is_control) {
        let detail =
            format!("a document's id has 1 to {DOCUMENT_MAX_BYTES} bytes, none of them control characters");
        return Err(Problem::invalid("id", detail));
    }
    Ok(())
}

/// Checks a key of idempotency, which becomes one line of a commit's message.
///
/// # Errors
/// A problem that names `key`.
pub fn key(key: &str) -> Result<(), Problem> {
    if key.is_empty() || key.len() > KEY_MAX_BYTES || !key.bytes().all(|b| b.is_ascii_graphic()) {
        let detail = format!("a key has 1 to {KEY_MAX_BYTES} printable ASCII characters without spaces");
        return Err(Problem::invalid("key", detail));
    }
    Ok(())
}

/// The name of a user's folder. Two users never share one, also where a file system takes `A` for
/// `a`; a name that would be too long becomes its digest, and `~` keeps digests apart from names.
#[must_use]
pub fn folder(user: &str) -> String {
    let name = escape(user, |b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_');
    if name.len() <= SEGMENT_MAX_BYTES { name } else { format!("~{}", digest(&[user.as_bytes()])) }
}

/// Percent-encodes every byte that is not to be kept.
pub(crate) fn escape(text: &str, keep: impl Fn(u8) -> bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if keep(byte) {
            escaped.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(escaped, "%{byte:02x}");
        }
    }
    escaped
}

/// One segment of a URL's path.
pub(crate) fn url_segment(text: &str) -> String {
    escape(text, |b| b.is_ascii_alphanumeric() || b"-._~".contains(&b))
}

/// SHA-256 of parts, in hexadecimal. Lengths keep ("a", "bc") apart from ("ab", "c").
pub(crate) fn digest(parts: &[&[u8]]) -> String {
    let mut sha = Sha256::new();
    for part in parts {
        sha.update(part.len().to_string().as_bytes());
        sha.update(b":");
        sha.update(part);
    }
    sha.finalize().iter().fold(String::with_capacity(64), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_stays_in_its_folder() {
        for good in ["a", "wiki/index.md", "a/b/c.d.txt", "grün/ß"] {
            assert!(path("path", good).is_ok(), "{good}");
        }
        let deep = ["a"; 17].join("/");
        for bad in ["", "/a", "a/", "a//b", "..", "a/../b", "./a", ".git/config", "a\\b", "a\nb", &deep] {
            let problem = path("path", bad).expect_err(bad);
            assert!(problem.detail().starts_with("path: "), "{}", problem.detail());
        }
    }

    #[test]
    fn two_users_never_share_a_folder() {
        let long = "ü".repeat(128);
        let users = ["a", "A", "%41", "a/b", "..", "a b", "~a", &long];
        let mut folders: Vec<String> = users.iter().map(|user| folder(user)).collect();
        assert!(folders.iter().all(|name| path("path", name).is_ok() && !name.contains('/')), "{folders:?}");
        folders.sort();
        folders.dedup();
        assert_eq!(folders.len(), users.len());
    }

    #[test]
    fn a_digest_keeps_its_parts_apart() {
        assert_ne!(digest(&[b"a", b"bc"]), digest(&[b"ab", b"c"]));
        assert_eq!(digest(&[b""]).len(), 64);
    }

    #[test]
    fn projects_and_keys_are_plain() {
        assert!(project("my-wiki_2").is_ok());
        assert!(key("saga-7/step-3").is_ok());
        for bad in ["", "My", "a/b", "..", "a b"] {
            assert!(project(bad).is_err(), "{bad}");
        }
        for bad in ["", "a b", "a\nSnapshot-Key: b", "ü"] {
            assert!(key(bad).is_err(), "{bad}");
        }
    }
}
