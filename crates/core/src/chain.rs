//! Hashes over length-prefixed fields: the chain that makes an edited log show, and fingerprints.

use sha2::{Digest, Sha256};

use crate::event::Kind;
use crate::id::{CommandId, HoldId, Position};
use crate::money::Units;
use crate::time::Timestamp;

/// A SHA-256.
pub type Hash = [u8; 32];

/// The hash before the first event.
pub const GENESIS: Hash = [0; 32];

const TAG: &[u8] = b"holdfast/event/v1";

/// A sink for length-prefixed fields: `u32_be(len) ‖ bytes`, so that no two lists of fields are
/// the same bytes.
pub trait LengthPrefixed {
    /// Takes bytes as they are.
    fn raw(&mut self, bytes: &[u8]);

    /// Takes one field.
    fn length_prefixed(&mut self, field: &[u8]) {
        let len = u32::try_from(field.len()).expect("fields are far below 4 GiB");
        self.raw(&len.to_be_bytes());
        self.raw(field);
    }
}

impl LengthPrefixed for Sha256 {
    fn raw(&mut self, bytes: &[u8]) {
        self.update(bytes);
    }
}

/// A SHA-256 that is given many short fields: they are gathered, so that it takes several of its blocks at once.
struct GatheringSha {
    sha: Sha256,
    gathered: [u8; GATHERED_BYTES],
    length: usize,
}

/// More than the short fields of most rows have together, their lengths included.
const GATHERED_BYTES: usize = 512;

impl GatheringSha {
    fn new() -> Self {
        GatheringSha { sha: Sha256::new(), gathered: [0; GATHERED_BYTES], length: 0 }
    }

    fn pass_on(&mut self) {
        self.sha.update(&self.gathered[..self.length]);
        self.length = 0;
    }

    fn finalize(mut self) -> Hash {
        self.pass_on();
        self.sha.finalize().into()
    }
}

impl LengthPrefixed for GatheringSha {
    fn raw(&mut self, bytes: &[u8]) {
        if self.length + bytes.len() > GATHERED_BYTES {
            self.pass_on();
        }
        match self.gathered.get_mut(self.length..self.length + bytes.len()) {
            Some(room) => {
                room.copy_from_slice(bytes);
                self.length += bytes.len();
            }
            None => self.sha.update(bytes),
        }
    }
}

impl LengthPrefixed for Vec<u8> {
    fn raw(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// Every stored field of a row of the log, as hashed.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs, reason = "the columns of `ledger_event`")]
pub struct Stored<'a> {
    pub partition: i16,
    pub position: Position,
    pub epoch: i64,
    pub kind: Kind,
    pub account: &'a str,
    pub hold: Option<HoldId>,
    pub amount: Option<Units>,
    pub posted: Units,
    pub held: Units,
    pub issuer: &'a str,
    pub command: CommandId,
    pub fingerprint: &'a Hash,
    pub lane_time: Timestamp,
    pub stored_time: Timestamp,
    pub body: &'a [u8],
    pub envelope: &'a [u8],
}

/// The chain hash of a row, given that of the row before: an absent field is an empty one.
#[must_use]
pub fn chain_hash(previous: &Hash, row: &Stored<'_>) -> Hash {
    let mut sha = GatheringSha::new();
    let amount = row.amount.map(i64::to_be_bytes);
    let fields: [&[u8]; 18] = [
        TAG,
        previous,
        &row.partition.to_be_bytes(),
        &row.position.0.to_be_bytes(),
        &row.epoch.to_be_bytes(),
        row.kind.as_str().as_bytes(),
        row.account.as_bytes(),
        row.hold.as_ref().map_or(&[], |hold| hold.as_bytes().as_slice()),
        amount.as_ref().map_or(&[], |bytes| bytes.as_slice()),
        &row.posted.to_be_bytes(),
        &row.held.to_be_bytes(),
        row.issuer.as_bytes(),
        row.command.as_bytes(),
        row.fingerprint,
        &row.lane_time.micros().to_be_bytes(),
        &row.stored_time.micros().to_be_bytes(),
        row.body,
        row.envelope,
    ];
    for field in fields {
        sha.length_prefixed(field);
    }
    sha.finalize()
}

/// What a command says, without who says it and when: equal for a repeat to the byte.
#[must_use]
pub fn fingerprint(verb: &str, account: &str, body: &[u8]) -> Hash {
    fingerprint_of(verb, account, &Sha256::digest(body).into())
}

/// The [`fingerprint`] of a command whose body has the SHA-256 `body`.
#[must_use]
pub fn fingerprint_of(verb: &str, account: &str, body: &Hash) -> Hash {
    let mut sha = GatheringSha::new();
    sha.length_prefixed(verb.as_bytes());
    sha.length_prefixed(account.as_bytes());
    sha.length_prefixed(body);
    sha.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gathered_fields_hash_as_one_after_the_other() {
        let (full, prefix) = (GATHERED_BYTES, 4);
        // Lengths of fields around what is gathered at once, and many that fill it again and again.
        let cases: [&[usize]; 9] = [
            &[],
            &[0],
            &[0, 1, 63, 64, 65],
            &[full - prefix],
            &[full - prefix + 1, 3],
            &[full, full],
            &[3, 4 * full, 5],
            &[full - prefix - 1, 1, full - 2 * prefix - 1, 7],
            &[37; 100],
        ];
        for lengths in cases {
            let (mut gathering, mut plain) = (GatheringSha::new(), Sha256::new());
            for (n, length) in lengths.iter().enumerate() {
                let field = vec![u8::try_from(n).expect("few fields"); *length];
                gathering.length_prefixed(&field);
                plain.length_prefixed(&field);
            }
            assert_eq!(gathering.finalize(), <[u8; 32]>::from(plain.finalize()), "{lengths:?}");
        }
    }
}
