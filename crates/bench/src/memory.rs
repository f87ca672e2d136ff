//! What the ledger process takes with many accounts in memory.

use anyhow::{Context, Result};

use crate::deployment::Deployment;
use crate::processes::{approximate, resident_bytes};
use crate::report::Figures;

/// The resident set, after every one of `accounts` was looked at.
pub(crate) fn measure(deployment: &Deployment, accounts: usize) -> Result<Figures> {
    let pid = deployment.processes().ledger.context("the ledger is not running")?;
    let bytes = resident_bytes(pid).context("this system does not tell a process's resident set")?;
    let bytes = usize::try_from(bytes)?;
    Ok(Figures::new()
        .count("bytes", bytes)
        .count("accounts", accounts)
        .with("bytes_per_account", approximate(bytes) / approximate(accounts)))
}
