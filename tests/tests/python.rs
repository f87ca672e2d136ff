//! The Python client: its own tests against a real ledger, its types and style, and its wheel.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_tests::{binary, tools};
use tokio::process::Command;
use tokio::sync::OnceCell;

/// How long each may take; the tests start servers of their own.
const WITHIN: Duration = Duration::from_secs(300);

static PACKAGES: OnceCell<PathBuf> = OnceCell::const_new();

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../clients/python")
}

/// Runs `python -m …` in the client's folder; answers what it said last. None without Python.
async fn module(arguments: &[&str]) -> Result<Option<String>> {
    let Some(python) = tools::python()? else { return Ok(None) };
    let requirements = folder().join("requirements-dev.txt");
    let install = || tools::python_packages(&python, &requirements);
    // Three tests want the same packages, and pip must not install them three times at once.
    let packages = PACKAGES.get_or_try_init(install).await?;
    let mut command = Command::new(&python);
    command.arg("-m").args(arguments).current_dir(folder());
    command.env("PYTHONPATH", packages).env("PYTHONDONTWRITEBYTECODE", "1").env("HOLDFAST_BIN", binary()?);
    for name in ["INTERNAL_SERVICE_TOKEN", "NATS_URL", "HOLDFAST_NATS_URL", "HOLDFAST_DATABASE_URL"] {
        command.env_remove(name);
    }
    let output = tokio::time::timeout(WITHIN, command.output()).await.context("it did not end")??;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{arguments:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
    let last = said.lines().last().unwrap_or_default().to_owned();
    eprintln!("{arguments:?}: {last}");
    Ok(Some(last))
}

#[tokio::test]
async fn the_client_passes_its_tests_against_a_real_ledger() -> Result<()> {
    let said = module(&["pytest", "-q", "-p", "no:cacheprovider", "--color=no"]).await?;
    ensure!(said.is_none_or(|said| said.contains(" passed") && !said.contains("skipped")));
    Ok(())
}

#[tokio::test]
async fn the_client_is_typed_and_in_form() -> Result<()> {
    let cache = binary()?.with_file_name("mypy-cache");
    let cache = cache.to_str().context("a path of text")?;
    module(&["mypy", "--cache-dir", cache]).await?;
    module(&["ruff", "check", "--no-cache"]).await?;
    module(&["ruff", "format", "--check", "--no-cache"]).await?;
    Ok(())
}

#[tokio::test]
async fn the_client_s_wheel_is_built() -> Result<()> {
    let wheels = binary()?.with_file_name("wheels");
    let out = wheels.to_str().context("a path of text")?;
    if module(&["build", "--wheel", "--no-isolation", "--outdir", out]).await?.is_none() {
        return Ok(());
    }
    let wheel = wheels.join("holdfast_client-0.1.0-py3-none-any.whl");
    ensure!(wheel.is_file(), "{} is missing", wheel.display());
    Ok(())
}
