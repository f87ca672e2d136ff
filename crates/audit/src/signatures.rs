//! The stored envelopes: does each row say what its issuer signed?
//!
//! With a shared secret this proves integrity, not authorship: whoever has the token can sign.

use std::collections::{HashMap, HashSet};

use futures_util::StreamExt;
use holdfast_core::chain::{Hash, LengthPrefixed, fingerprint};
use holdfast_core::{CommandId, Issuer};
use holdfast_protocol::{ClientKeys, Envelope, RootToken};
use holdfast_store::{Row, StoreError};
use sha2::{Digest, Sha256};
use sqlx::{PgConnection, Row as _};

/// Generations of keys that are derived in search of a key id.
const GENERATIONS: std::ops::RangeInclusive<u32> = 1..=16;

/// What a signature came to.
#[derive(Debug, Clone, Copy)]
enum Verdict {
    Good,
    UnknownKey,
    Forged,
}

/// The envelope of a batch, read.
struct Batch {
    issuer: String,
    members: HashSet<Hash>,
    verdict: Verdict,
}

/// What identifies a member of a batch, and what it says.
fn member(id: CommandId, account: &str, said: &Hash) -> Hash {
    let mut sha = Sha256::new();
    sha.length_prefixed(id.as_bytes());
    sha.length_prefixed(account.as_bytes());
    sha.length_prefixed(said);
    sha.finalize().into()
}

/// Checks rows against every key that the given tokens lead to.
pub struct Signatures<'a> {
    roots: &'a [RootToken],
    keys: HashMap<String, Vec<ClientKeys>>,
    /// What is known of batches, by the digests of their envelopes.
    batches: HashMap<Hash, Batch>,
    /// Rows whose signature holds.
    pub good: u64,
    /// Rows whose key id is of no known token: they prove nothing either way.
    pub unverifiable: u64,
}

impl<'a> Signatures<'a> {
    /// With these tokens, current and former.
    #[must_use]
    pub fn new(roots: &'a [RootToken]) -> Self {
        Signatures { roots, keys: HashMap::new(), batches: HashMap::new(), good: 0, unverifiable: 0 }
    }

    /// Checks one row; an error says what is wrong with it.
    pub fn check(&mut self, row: &Row) -> Result<(), String> {
        let event = &row.event;
        if event.issuer.as_str() == Issuer::LEDGER {
            return if row.envelope.is_empty() {
                Ok(())
            } else {
                Err("the ledger itself signs nothing".to_owned())
            };
        }
        // No envelope is as short as a digest.
        let verdict = if let Ok(digest) = Hash::try_from(row.envelope.as_slice()) {
            let batch = self.batches.get(&digest).ok_or("its batch is not in ledger_evidence")?;
            if !batch.members.contains(&member(event.command, event.account.as_str(), &row.fingerprint)) {
                return Err("its batch does not say so".to_owned());
            }
            if batch.issuer != event.issuer.as_str() {
                return Err("its batch is of another issuer".to_owned());
            }
            batch.verdict
        } else {
            let envelope =
                Envelope::parse(&row.envelope).map_err(|error| format!("its envelope: {error}"))?;
            let said = fingerprint(&envelope.verb, &envelope.account, envelope.body());
            let names = (envelope.iss.as_ref(), envelope.id, envelope.account.as_ref(), &said);
            if names != (event.issuer.as_str(), event.command, event.account.as_str(), &row.fingerprint) {
                return Err("its envelope is of another command".to_owned());
            }
            self.verdict(&event.issuer, &envelope)
        };
        match verdict {
            Verdict::Good => self.good += 1,
            Verdict::UnknownKey => self.unverifiable += 1,
            Verdict::Forged => return Err("its signature does not hold".to_owned()),
        }
        Ok(())
    }

    /// Reads the envelopes of batches, which their rows only name. Takes some 50 bytes of memory for
    /// each command that came in one.
    pub async fn read_batches(
        &mut self,
        connection: &mut PgConnection,
        partition: i16,
    ) -> Result<(), StoreError> {
        let query = sqlx::query("SELECT digest, envelope FROM ledger_evidence WHERE partition = $1");
        let mut rows = query.bind(partition).fetch(connection);
        while let Some(row) = rows.next().await.transpose()? {
            let (digest, bytes): (Vec<u8>, Vec<u8>) = (row.try_get("digest")?, row.try_get("envelope")?);
            // What is not as it should be is missed by the rows that name it.
            let (Ok(digest), Ok(envelope)) = (Hash::try_from(digest), Envelope::parse(&bytes)) else {
                continue;
            };
            let Ok(issuer) = Issuer::new(&envelope.iss) else { continue };
            if Sha256::digest(&bytes).as_slice() == digest {
                let said = envelope
                    .batch()
                    .into_iter()
                    .map(|(id, said)| member(id, &said.account, &said.fingerprint()));
                let (members, verdict) = (said.collect(), self.verdict(&issuer, &envelope));
                self.batches.insert(digest, Batch { issuer: issuer.to_string(), members, verdict });
            }
        }
        Ok(())
    }

    fn verdict(&mut self, issuer: &Issuer, envelope: &Envelope<'_>) -> Verdict {
        let keys = self.keys_of(issuer);
        let mut known = envelope.sig.iter().filter_map(|(kid, mac)| {
            let key = keys.iter().find(|key| key.command.id() == kid)?;
            Some(key.command.verify(&envelope.preimage(kid, &envelope.body_digest()), mac))
        });
        match known.next() {
            None => Verdict::UnknownKey,
            Some(first) if first || known.any(|good| good) => Verdict::Good,
            Some(_) => Verdict::Forged,
        }
    }

    fn keys_of(&mut self, issuer: &Issuer) -> Vec<ClientKeys> {
        let derive = || {
            let roots = self.roots.iter();
            roots
                .flat_map(|root| GENERATIONS.map(|generation| ClientKeys::derive(root, issuer, generation)))
                .collect()
        };
        self.keys.entry(issuer.as_str().to_owned()).or_insert_with(derive).clone()
    }
}
