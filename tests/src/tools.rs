//! Tools that some tests need and that not every machine has.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// Set where the absence of a tool must be a failure, as in continuous integration.
const SWITCH: &str = "HOLDFAST_TEST_REQUIRE_TOOLS";

/// What to do about a tool that is missing: fail when the switch is set, otherwise say what was
/// not run, and answer nothing.
pub fn missing<T>(tool: &str, not_run: &str) -> Result<Option<T>> {
    if std::env::var_os(SWITCH).is_some() {
        bail!("{tool} is missing, and {SWITCH} is set");
    }
    eprintln!("NOT RUN, since {tool} is missing: {not_run}");
    Ok(None)
}

/// The `nats` CLI: the one that `HOLDFAST_NATS_CLI` names, or one on the `PATH`.
pub fn nats_cli(not_run: &str) -> Result<Option<PathBuf>> {
    let named = std::env::var_os("HOLDFAST_NATS_CLI").map(PathBuf::from);
    let candidate = named.unwrap_or_else(|| PathBuf::from("nats"));
    match Command::new(&candidate).arg("--version").output() {
        Ok(output) if output.status.success() => Ok(Some(candidate)),
        _ => missing("the nats CLI", not_run),
    }
}

/// Installs what a file of pinned and hashed requirements names, and answers the folder.
pub async fn python_packages(python: &Path, requirements: &Path) -> Result<PathBuf> {
    let name = requirements.file_stem().context("a file")?;
    let folder = crate::binary()?.parent().context("a folder")?.join("python").join(name);
    let mut install = tokio::process::Command::new(python);
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes"]);
    install.arg("--upgrade").arg("--target").arg(&folder).arg("-r").arg(requirements);
    ensure!(install.status().await?.success(), "pip could not install {}", requirements.display());
    Ok(folder)
}

/// A Python 3 with pip.
pub fn python() -> Result<Option<PathBuf>> {
    let works = Command::new("python3").args(["-m", "pip", "--version"]).output();
    match works {
        Ok(output) if output.status.success() => Ok(Some("python3".into())),
        _ => missing("python3 with pip", "the programs of tests/python"),
    }
}

/// Valgrind, which counts instructions.
pub fn valgrind() -> Result<Option<PathBuf>> {
    match Command::new("valgrind").arg("--version").output() {
        Ok(output) if output.status.success() => Ok(Some("valgrind".into())),
        _ => missing("valgrind", "the instructions of a command are not counted"),
    }
}
