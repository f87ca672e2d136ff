//! Bundles: envelopes that travel in one message, one a line.
//!
//! **Shape.** A client that has several commands waiting to be published makes few messages of them
//! with [`bundle`]; the ledger takes each message apart with [`envelopes`] and verifies every envelope by
//! itself.
//!
//! **Correctness.** A bundle is only a way to carry: it has no signature, no id and no outcome of its own,
//! and nothing depends on what else is in it. JSON strings have no raw line feed, so an envelope without
//! one between its members is one line; any other is sent alone.

use bytes::{BufMut, Bytes, BytesMut};

use crate::envelope::{BATCH_MAX_BYTES, ENVELOPE_MAX_BYTES};
use crate::subject;

/// What stands in the subject of a bundle where a verb does.
pub const BUNDLE: &str = "bundle";
/// The largest bundle that is read, in bytes, as of a batch.
pub const BUNDLE_MAX_BYTES: usize = BATCH_MAX_BYTES;
/// No envelope is as short: its names, its id and one signature take more. A bundle of shorter lines, on
/// average, is not taken apart, since each line costs its reader several hundred bytes of memory before it
/// is known to be signed by anybody.
const LINE_MIN_BYTES: usize = 160;
/// A bundle is full with the envelope that makes it so long, line feeds counted: the ledger verifies one
/// while the next is made, and it is as much as one envelope may have anyway.
pub const BUNDLE_FULL_BYTES: usize = ENVELOPE_MAX_BYTES;

/// A message to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// Where.
    pub subject: String,
    /// A signed envelope, or a bundle of them.
    pub payload: Bytes,
}

/// Puts `waiting` envelopes of one issuer into as few messages as fit, in their order. One that comes
/// alone is published as it is.
#[must_use]
pub fn bundle(waiting: impl IntoIterator<Item = Outgoing>) -> Vec<Outgoing> {
    let (mut messages, mut open) = (Vec::new(), Open::default());
    for envelope in waiting {
        if memchr::memchr(b'\n', &envelope.payload).is_some() {
            messages.extend(open.close());
            messages.push(envelope);
            continue;
        }
        open.add(envelope);
        if open.bytes >= BUNDLE_FULL_BYTES {
            messages.extend(open.close());
        }
    }
    messages.extend(open.close());
    messages
}

/// Envelopes that will be one message.
#[derive(Default)]
struct Open {
    envelopes: Vec<Outgoing>,
    bytes: usize,
}

impl Open {
    fn add(&mut self, envelope: Outgoing) {
        self.bytes += envelope.payload.len() + 1;
        self.envelopes.push(envelope);
    }

    fn close(&mut self) -> Option<Outgoing> {
        let bytes = std::mem::take(&mut self.bytes);
        if self.envelopes.len() < 2 {
            return self.envelopes.pop();
        }
        let subject = subject::bundle_with(&self.envelopes[0].subject);
        let mut lines = BytesMut::with_capacity(bytes);
        for Outgoing { payload, .. } in self.envelopes.drain(..) {
            lines.put(payload);
            lines.put_u8(b'\n');
        }
        Some(Outgoing { subject, payload: lines.freeze() })
    }
}

/// The envelopes that a message on `subject` carries: its payload, or of a bundle each line. A bundle
/// beyond its bounds is not taken apart, so that it is passed over whole.
pub fn envelopes<'a>(subject: &str, payload: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let lines = payload.strip_suffix(b"\n").unwrap_or(payload);
    let apart = subject::carries_bundle(subject) && payload.len() <= BUNDLE_MAX_BYTES;
    let apart = apart && memchr::memchr_iter(b'\n', lines).count() <= lines.len() / LINE_MIN_BYTES;
    let mut rest = Some(if apart { lines } else { payload });
    std::iter::from_fn(move || {
        let whole = rest?;
        let (envelope, after) = match memchr::memchr(b'\n', whole).filter(|_| apart) {
            Some(end) => (&whole[..end], Some(&whole[end + 1..])),
            None => (whole, None),
        };
        rest = after;
        Some(envelope)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope(account: &str, payload: &str) -> Outgoing {
        let subject = subject::command("chat-api", "reserve", account);
        Outgoing { subject, payload: Bytes::copy_from_slice(payload.as_bytes()) }
    }

    /// A payload as long as an envelope.
    fn line(name: &str) -> String {
        format!("{name}{}", "x".repeat(LINE_MIN_BYTES))
    }

    #[test]
    fn envelopes_that_wait_together_are_few_messages_and_come_out_as_they_went_in() {
        let long = "x".repeat(BUNDLE_FULL_BYTES - 1);
        let [a, b, c, d] = ["a", "b", "c", "d"].map(line);
        let split = format!("{b}\n");
        // What waits, and how many envelopes each message has.
        let cases: [(&[&str], &[usize]); 7] = [
            (&[], &[]),
            (&[&a], &[1]),
            (&[&a, &b, &c], &[3]),
            (&[&a, &split, &c, &d], &[1, 1, 2]),
            (&[&split], &[1]),
            (&[&a, &long, &b], &[2, 1]),
            (&[&long, &a, &b], &[1, 2]),
        ];
        for (waiting, expected) in cases {
            let messages = bundle(waiting.iter().map(|payload| envelope("user-1", payload)));
            let mut out = Vec::new();
            for (message, expected) in messages.iter().zip(expected) {
                let before = out.len();
                out.extend(envelopes(&message.subject, &message.payload));
                assert_eq!(out.len() - before, *expected, "{waiting:?}");
                assert_eq!(*expected > 1, subject::carries_bundle(&message.subject));
            }
            assert_eq!(messages.len(), expected.len());
            assert_eq!(out, waiting.iter().map(|payload| payload.as_bytes()).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_bundle_is_published_where_its_first_envelope_would_be_but_for_the_verb() {
        let messages = bundle([envelope("a b", "1"), envelope("user-2", "2")]);
        assert_eq!(messages[0].subject, "ledger.cmd.chat-api.bundle.~YSBi");
    }

    #[test]
    fn only_a_bundle_within_its_bounds_is_taken_apart() {
        const ALONE: &str = "ledger.cmd.chat-api.reserve.user-1";
        const BUNDLE: &str = "ledger.cmd.chat-api.bundle.user-1";
        let [a, b] = ["a", "b"].map(line);
        let cases = [
            (ALONE, format!("{a}\n{b}"), 1),
            (BUNDLE, format!("{a}\n{b}"), 2),
            (BUNDLE, format!("{a}\n\n{b}\n"), 3),
            (BUNDLE, String::new(), 1),
            (BUNDLE, "short\n".repeat(100), 1),
            (BUNDLE, format!("{a}\n{}", "b".repeat(BUNDLE_MAX_BYTES)), 1),
        ];
        for (subject, payload, expected) in cases {
            let found = envelopes(subject, payload.as_bytes()).count();
            assert_eq!(found, expected, "{} bytes on {subject}", payload.len());
        }
    }
}
