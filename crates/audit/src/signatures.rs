//! The stored envelopes: does each row say what its issuer signed?
//!
//! With a shared secret this proves integrity, not authorship: whoever has the token can sign.

use std::collections::HashMap;

use holdfast_core::Issuer;
use holdfast_core::chain::fingerprint;
use holdfast_protocol::{ClientKeys, Envelope, RootToken};
use holdfast_store::Row;

/// Generations of keys that are derived in search of a key id.
const GENERATIONS: std::ops::RangeInclusive<u32> = 1..=16;

/// Checks rows against every key that the given tokens lead to.
pub struct Signatures<'a> {
    roots: &'a [RootToken],
    keys: HashMap<String, Vec<ClientKeys>>,
    /// Rows whose signature holds.
    pub good: u64,
    /// Rows whose key id is of no known token: they prove nothing either way.
    pub unverifiable: u64,
}

impl<'a> Signatures<'a> {
    /// With these tokens, current and former.
    #[must_use]
    pub fn new(roots: &'a [RootToken]) -> Self {
        Signatures { roots, keys: HashMap::new(), good: 0, unverifiable: 0 }
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
        let envelope = Envelope::parse(&row.envelope).map_err(|error| format!("its envelope: {error}"))?;
        let said = fingerprint(&envelope.verb, &envelope.account, envelope.body());
        let names = (envelope.iss.as_ref(), envelope.id, envelope.account.as_ref(), &said);
        if names != (event.issuer.as_str(), event.command, event.account.as_str(), &row.fingerprint) {
            return Err("its envelope is of another command".to_owned());
        }
        let keys = self.keys_of(&event.issuer);
        let mut known = envelope.sig.iter().filter_map(|(kid, mac)| {
            let key = keys.iter().find(|key| key.command.id() == kid)?;
            Some(key.command.verify(&envelope.preimage(kid), mac))
        });
        match known.next() {
            None => self.unverifiable += 1,
            Some(first) if first || known.any(|good| good) => self.good += 1,
            Some(_) => return Err("its signature does not hold".to_owned()),
        }
        Ok(())
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
