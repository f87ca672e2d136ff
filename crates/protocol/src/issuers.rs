//! `issuers.toml`: who may ask for what, and which generations of keys are accepted.

use std::collections::BTreeMap;

use holdfast_core::{Issuer, Verb};
use serde::Deserialize;

/// What one issuer may do.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rights {
    /// The verbs that it may use.
    pub verbs: Vec<Verb>,
    /// The generations of its keys that are accepted.
    #[serde(default = "first_generation")]
    pub generations: Vec<u32>,
    /// Ids of its command keys that are accepted no more.
    #[serde(default)]
    pub revoked: Vec<String>,
}

fn first_generation() -> Vec<u32> {
    vec![1]
}

/// All issuers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Issuers(BTreeMap<Issuer, Rights>);

/// Why the file is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum IssuersError {
    /// Not the TOML that is expected.
    #[error("issuers.toml: {0}")]
    Form(#[from] toml::de::Error),
    /// A table's name is no issuer.
    #[error("issuers.toml: {0}")]
    Name(#[from] holdfast_core::id::IssuerError),
    /// Nobody could ever be believed.
    #[error("issuers.toml: issuer `{0}` accepts no generation; list at least one")]
    NoGeneration(Issuer),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    issuer: BTreeMap<String, Rights>,
}

impl Issuers {
    /// Reads the file's text.
    pub fn parse(text: &str) -> Result<Self, IssuersError> {
        let file: File = toml::from_str(text)?;
        let mut issuers = BTreeMap::new();
        for (name, rights) in file.issuer {
            let issuer = Issuer::new(&name)?;
            if rights.generations.is_empty() {
                return Err(IssuersError::NoGeneration(issuer));
            }
            issuers.insert(issuer, rights);
        }
        Ok(Issuers(issuers))
    }

    /// Whether `issuer` may use `verb`.
    #[must_use]
    pub fn may_use(&self, issuer: &Issuer, verb: Verb) -> bool {
        self.0.get(issuer).is_some_and(|rights| rights.verbs.contains(&verb))
    }

    /// Every issuer with its rights, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&Issuer, &Rights)> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_says_who_may_do_what() {
        let text = "[issuer.chat]\nverbs = [\"reserve\", \"capture\"]\n";
        let issuers = Issuers::parse(text).expect("valid");
        let chat = Issuer::new("chat").expect("legal");
        assert!(issuers.may_use(&chat, Verb::Reserve));
        assert!(!issuers.may_use(&chat, Verb::TopUp));
        for bad in [
            "[issuer.chat]\nverbs = [\"steal\"]\n",
            "[issuer._ledger]\nverbs = []\n",
            "[issuer.chat]\nverbs = []\ngenerations = []\n",
            "[issuers.chat]\nverbs = []\n",
            "[issuer.chat]\nverbs = []\nrevokd = []\n",
        ] {
            assert!(Issuers::parse(bad).is_err(), "{bad}");
        }
    }
}
