//! Which user the servers run as, and which folders that user can reach.
//!
//! Postgres refuses to run as root. When this process is root, its servers run as an ordinary user
//! instead, and everything they read must be reachable for that user: no folder on the way may be
//! closed to others, as a home of root or a private temporary folder is.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// An ordinary user to run a server as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    /// The user's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
}

/// The accounts that are tried, in this order. `initdb` needs one that has a name.
const USERS: [&str; 2] = ["postgres", "nobody"];

/// Whether this process is root.
#[must_use]
pub fn is_root() -> bool {
    rustix::process::getuid().is_root()
}

/// The user that servers run as: none when this process is not root and may keep its own.
pub fn server_user() -> Result<Option<User>> {
    if !is_root() {
        return Ok(None);
    }
    let passwd = fs::read_to_string("/etc/passwd").context("reading /etc/passwd to find an ordinary user")?;
    for name in USERS {
        if let Some(user) = passwd.lines().find_map(|line| user_of(line, name)) {
            return Ok(Some(user));
        }
    }
    bail!(
        "Postgres refuses to run as root, and there is no user `postgres` or `nobody` to run it as: create one"
    )
}

fn user_of(line: &str, name: &str) -> Option<User> {
    let fields: Vec<&str> = line.split(':').collect();
    let [found, _, uid, gid, ..] = fields[..] else { return None };
    (found == name).then_some(User { uid: uid.parse().ok()?, gid: gid.parse().ok()? })
}

/// The first folder on the way to `path` that `user` may not enter.
#[must_use]
pub fn closed_parent(path: &Path, user: User) -> Option<PathBuf> {
    let mut parents: Vec<&Path> = path.ancestors().skip(1).collect();
    parents.reverse();
    parents.into_iter().find(|parent| !may_enter(parent, user)).map(Path::to_path_buf)
}

fn may_enter(folder: &Path, user: User) -> bool {
    let Ok(metadata) = fs::metadata(folder) else { return true };
    let mode = metadata.permissions().mode();
    let bit = match () {
        () if metadata.uid() == user.uid => 0o100,
        () if metadata.gid() == user.gid => 0o010,
        () => 0o001,
    };
    mode & bit != 0
}

/// Creates `folder` for `user` alone, or for ourselves when that is none.
pub fn create_private(folder: &Path, user: Option<User>) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
    if let Some(user) = user {
        chown(folder, Some(user.uid), Some(user.gid))
            .with_context(|| format!("giving {} to the servers' user", folder.display()))?;
    }
    Ok(())
}

/// A folder for data that the servers' user can reach: `wanted`, or, when it was not asked for by
/// name and lies behind a closed folder, one below `/var/tmp`.
pub fn reachable_data(wanted: &Path, asked_for: bool) -> Result<PathBuf> {
    fs::create_dir_all(wanted).with_context(|| format!("creating {}", wanted.display()))?;
    let wanted = wanted.canonicalize()?;
    let Some(user) = server_user()? else { return Ok(wanted) };
    let Some(closed) = closed_parent(&wanted.join("postgres"), user) else { return Ok(wanted) };
    if asked_for {
        bail!(
            "{} cannot be entered by the user that Postgres runs as (it refuses to run as root); \
             give a folder outside with --data, for example --data /var/tmp/holdfast",
            closed.display()
        );
    }
    let name: String =
        wanted.to_string_lossy().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let outside = Path::new("/var/tmp").join(format!("holdfast{name}"));
    fs::create_dir_all(&outside)?;
    tracing::info!(closed = %closed.display(), data = %outside.display(), "Postgres cannot enter the usual data folder as an ordinary user; using another");
    Ok(outside)
}
