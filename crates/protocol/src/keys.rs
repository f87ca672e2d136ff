//! Keys at work: the ledger's keyring of every accepted key, and one client's own keys.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use holdfast_core::Issuer;
use sha2::Sha256;

use crate::issuers::Issuers;
use crate::token::{Purpose, RootToken};

/// One MAC key with its id. The key schedule is computed once; it cannot be printed.
#[derive(Clone)]
pub struct MacKey {
    id: String,
    state: Hmac<Sha256>,
}

impl MacKey {
    fn new(id: String, key: &[u8]) -> Self {
        let state = Hmac::new_from_slice(key).expect("HMAC takes keys of any length");
        MacKey { id, state }
    }

    /// The key's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The MAC over `preimage`, as base64url without padding.
    #[must_use]
    pub fn sign(&self, preimage: &[u8]) -> String {
        URL_SAFE_NO_PAD.encode(self.state.clone().chain_update(preimage).finalize().into_bytes())
    }

    /// Whether `mac` is the MAC over `preimage`, in constant time.
    #[must_use]
    pub fn verify(&self, preimage: &[u8], mac: &str) -> bool {
        let mut bytes = [0; 32];
        let decoded = URL_SAFE_NO_PAD.decode_slice(mac, &mut bytes);
        decoded == Ok(32) && self.state.clone().chain_update(preimage).verify_slice(&bytes).is_ok()
    }
}

impl fmt::Debug for MacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MacKey({})", self.id)
    }
}

/// What the ledger holds for one command key id.
#[derive(Debug)]
pub struct Accepted {
    /// Whose key it is.
    pub issuer: Issuer,
    /// Checks that issuer's commands.
    pub command: MacKey,
    /// Signs the outcomes of commands that were checked with `command`: of the same root and
    /// generation, so that rotation never makes a true outcome look forged.
    pub outcome: MacKey,
    /// Whether the key was taken out of use.
    pub revoked: bool,
}

/// Every command key that the ledger knows, by id.
#[derive(Debug, Default)]
pub struct Keyring {
    keys: HashMap<String, Arc<Accepted>>,
}

impl Keyring {
    /// The keys of every issuer, root and accepted generation.
    #[must_use]
    pub fn new(roots: &[&RootToken], issuers: &Issuers) -> Self {
        let mut keys = HashMap::new();
        for (issuer, rights) in issuers.iter() {
            for root in roots {
                for &generation in &rights.generations {
                    let pair = ClientKeys::derive(root, issuer, generation);
                    let id = pair.command.id.clone();
                    let revoked = rights.revoked.contains(&id);
                    let key = Accepted {
                        issuer: issuer.clone(),
                        command: pair.command,
                        outcome: pair.outcome,
                        revoked,
                    };
                    keys.insert(id, Arc::new(key));
                }
            }
        }
        Keyring { keys }
    }

    /// The key of this id.
    #[must_use]
    pub fn find(&self, id: &str) -> Option<&Arc<Accepted>> {
        self.keys.get(id)
    }
}

/// What one publishing service needs: it signs its commands and checks their outcomes.
#[derive(Debug, Clone)]
pub struct ClientKeys {
    /// Whose keys they are.
    pub issuer: Issuer,
    /// Signs commands.
    pub command: MacKey,
    /// Checks outcomes.
    pub outcome: MacKey,
}

impl ClientKeys {
    /// Derives them from the root, where a service is given that.
    #[must_use]
    pub fn derive(root: &RootToken, issuer: &Issuer, generation: u32) -> Self {
        let mac_key = |purpose| {
            let id = root.key_id(purpose, issuer.as_str(), generation);
            MacKey::new(id, &root.key(purpose, issuer.as_str(), generation))
        };
        let (command, outcome) = (mac_key(Purpose::CommandMac), mac_key(Purpose::OutcomeMac));
        ClientKeys { issuer: issuer.clone(), command, outcome }
    }

    /// The keys as one line to hand to a service in strict mode: a secret.
    #[must_use]
    pub fn export(root: &RootToken, issuer: &Issuer, generation: u32) -> String {
        let part = |purpose| {
            let id = root.key_id(purpose, issuer.as_str(), generation);
            let key = URL_SAFE_NO_PAD.encode(root.key(purpose, issuer.as_str(), generation));
            format!("{id}.{key}")
        };
        format!("{EXPORT_TAG}.{issuer}.{}.{}", part(Purpose::CommandMac), part(Purpose::OutcomeMac))
    }
}

const EXPORT_TAG: &str = "hfk1";

/// The text is not what `holdfast token derive` prints. Never contains the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("these are not a service's keys; they are one line made by `holdfast token derive --issuer NAME`")]
pub struct NotKeys;

impl FromStr for ClientKeys {
    type Err = NotKeys;

    fn from_str(line: &str) -> Result<Self, NotKeys> {
        let parts: Vec<&str> = line.trim().split('.').collect();
        let [EXPORT_TAG, issuer, command_id, command, outcome_id, outcome] = parts[..] else {
            return Err(NotKeys);
        };
        let mac_key = |id: &str, key: &str| {
            let key = URL_SAFE_NO_PAD.decode(key).ok().filter(|key| key.len() == 32).ok_or(NotKeys)?;
            Ok(MacKey::new(id.to_owned(), &key))
        };
        let issuer = Issuer::new(issuer).map_err(|_| NotKeys)?;
        Ok(ClientKeys {
            issuer,
            command: mac_key(command_id, command)?,
            outcome: mac_key(outcome_id, outcome)?,
        })
    }
}
