//! NATS subjects, made from authenticated fields only.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use holdfast_core::{CommandId, Kind};

use crate::bundle::BUNDLE;

/// What every command's subject begins with.
pub(crate) const COMMANDS: &str = "ledger.cmd.";
/// Which token of a command's subject is its verb.
const VERB_TOKEN: usize = 3;
/// The prefix of every question.
pub const QUERIES: &str = "ledger.svc.";

/// The longest account id that is carried in a subject as it is.
const PLAIN_TOKEN_MAX: usize = 64;

/// An account id as one subject token: itself when it is `[A-Za-z0-9_-]{1,64}`, otherwise `~` and
/// the base64url of its UTF-8, since `.`, `*`, `>` and spaces mean something in subjects.
#[must_use]
pub fn account_token(account: &str) -> Cow<'_, str> {
    let plain = (1..=PLAIN_TOKEN_MAX).contains(&account.len()) && is_token(account);
    if plain { account.into() } else { format!("~{}", URL_SAFE_NO_PAD.encode(account)).into() }
}

/// The account id that [`account_token`] carried.
#[must_use]
pub fn account_of_token(token: &str) -> Option<String> {
    match token.strip_prefix('~') {
        Some(encoded) => String::from_utf8(URL_SAFE_NO_PAD.decode(encoded).ok()?).ok(),
        None => Some(token.to_owned()),
    }
}

/// Whether every character is one of `A-Za-z0-9_-`.
#[must_use]
pub fn is_token(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// Where a command is published.
#[must_use]
pub fn command(issuer: &str, verb: &str, account: &str) -> String {
    [COMMANDS, issuer, ".", verb, ".", &account_token(account)].concat()
}

/// Where a bundle is published that begins with the envelope of the command subject `first`.
pub(crate) fn bundle_with(first: &str) -> String {
    let mut tokens: Vec<&str> = first.split('.').collect();
    if let Some(verb) = tokens.get_mut(VERB_TOKEN) {
        *verb = BUNDLE;
    }
    tokens.join(".")
}

/// Whether what is published on `subject` is a bundle.
pub(crate) fn carries_bundle(subject: &str) -> bool {
    verb_token(subject) == Some(BUNDLE)
}

/// What stands where a command's subject has its verb.
pub(crate) fn verb_token(subject: &str) -> Option<&str> {
    subject.split('.').nth(VERB_TOKEN)
}

/// Where its outcome is told.
#[must_use]
pub fn outcome(issuer: &str, reply: &str, id: CommandId) -> String {
    format!("ledger.rsp.{issuer}.{reply}.{id}")
}

/// What the token of an instance begins with that takes the outcomes of one commit together.
pub const GATHERING: &str = "gather-";

/// Whether the instance `reply` takes the outcomes of one commit together.
#[must_use]
pub fn gathers(reply: &str) -> bool {
    reply.starts_with(GATHERING)
}

/// Where such an instance is told its outcomes.
#[must_use]
pub fn gathered(issuer: &str, reply: &str) -> String {
    format!("ledger.rsp.{issuer}.{reply}.gathered")
}

/// What an instance of a service subscribes to for all its outcomes.
#[must_use]
pub fn outcomes(issuer: &str, reply: &str) -> String {
    format!("ledger.rsp.{issuer}.{reply}.*")
}

/// Where an event is published.
#[must_use]
pub fn event(kind: Kind, account: &str) -> String {
    ["ledger.evt.", kind.as_str(), ".", &account_token(account)].concat()
}

/// Where a refused message is recorded.
#[must_use]
pub fn refused(reason: &str) -> String {
    format!("ledger.dlq.{reason}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_account_id_is_one_token_and_reads_back() {
        for account in ["user-1", "ann@example.com", "a b", "naïve-ü", "*", ">", "a.b", "~x", &"x".repeat(65)]
        {
            let token = account_token(account);
            assert!(!token.contains(['.', '*', '>', ' ']), "{token}");
            assert_eq!(account_of_token(&token).as_deref(), Some(account));
        }
    }
}
