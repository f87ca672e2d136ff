//! Invites, in a JSON file: the code of each, and who has claimed it.
//!
//! **Correctness.** The file is written as a whole and renamed, so it is never half of one state
//! and half of another. What is in memory is changed only after the file was. One process uses it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::durable::Staged;
use crate::problem::Problem;

const FILE: &str = "invites.json";
/// Where the next version of the file is written: beside it, so on the same file system.
const STAGED: &str = "staged";

/// An invite.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Invite {
    /// For whom it is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<Claim>,
    /// Whether that user's account is known to be open.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub registered: bool,
}

/// For whom an invite is used. With the tier, since a user who came back with another one would
/// send another command, whose refusal says nothing of the first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// The user.
    pub user_id: String,
    /// The tier of the user's account.
    pub tier: String,
}

/// All invites, by code.
#[derive(Debug)]
pub struct Invites {
    folder: PathBuf,
    invites: Mutex<BTreeMap<String, Invite>>,
}

impl Invites {
    /// The invites in `folder`, which is made if it is not there.
    ///
    /// # Errors
    /// A disk that fails, or a file that is no list of invites.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let staged = folder.join(STAGED);
        match fs::remove_dir_all(&staged) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => fs::create_dir_all(&staged)?,
        }
        let invites = match fs::read(folder.join(FILE)) {
            Ok(text) => serde_json::from_slice(&text).map_err(|error| {
                io::Error::new(ErrorKind::InvalidData, format!("{FILE} cannot be read: {error}"))
            })?,
            Err(error) if error.kind() == ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error),
        };
        Ok(Invites { folder: folder.to_owned(), invites: Mutex::new(invites) })
    }

    /// Adds codes that are not there yet; those that are keep their claims.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn add<'a>(&self, codes: impl IntoIterator<Item = &'a str>) -> io::Result<()> {
        self.change(|invites| {
            for code in codes {
                invites.entry(code.to_owned()).or_default();
            }
        })
    }

    /// The invite of this code.
    ///
    /// # Errors
    /// When there is none.
    pub fn find(&self, code: &str) -> Result<Invite, Problem> {
        let invite = self.lock().get(code).cloned();
        invite.ok_or_else(|| Problem::not_found("code: there is no such invite"))
    }

    /// Says what has become of an invite.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn put(&self, code: &str, invite: Invite) -> Result<(), Problem> {
        let changed = self.change(|invites| {
            invites.insert(code.to_owned(), invite);
        });
        changed.map_err(|error| Problem::internal("keeping an invite", error))
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<String, Invite>)) -> io::Result<()> {
        let mut invites = self.lock();
        let mut changed = invites.clone();
        change(&mut changed);
        if changed == *invites {
            return Ok(());
        }
        let text = serde_json::to_vec_pretty(&changed)?;
        Staged::write(&self.folder.join(STAGED), &text)?.publish(&self.folder.join(FILE))?;
        *invites = changed;
        Ok(())
    }

    /// What is in it is replaced as a whole, so a panic leaves it as it was.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Invite>> {
        self.invites.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn claims_survive_a_restart() {
        let folder = std::env::temp_dir().join(format!("holdfast-auth-{}", Uuid::new_v4().simple()));
        let invites = Invites::open(&folder).expect("a folder");
        invites.add(["a", "b"]).expect("added");
        let claim = Claim { user_id: "u".to_owned(), tier: "pro".to_owned() };
        let claimed = Invite { claim: Some(claim), registered: false };
        invites.put("a", claimed.clone()).expect("kept");
        drop(invites);
        let invites = Invites::open(&folder).expect("the same folder");
        invites.add(["a", "c"]).expect("added");
        assert_eq!(invites.find("a").expect("there"), claimed);
        assert_eq!(invites.find("c").expect("there"), Invite::default());
        assert_eq!(invites.find("d").expect_err("unknown").code(), "not_found");
        fs::write(folder.join(FILE), b"[]").expect("written");
        assert!(Invites::open(&folder).expect_err("no map").to_string().contains("invites.json"));
        fs::remove_dir_all(folder).expect("removed");
    }
}
