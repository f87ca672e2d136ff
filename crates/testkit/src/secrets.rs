//! Passwords made up on the spot and kept beside the data that they open.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};

/// A password of letters and digits that begins with a letter: NATS reads values from the
/// environment as if they stood in its configuration, where `12` would be a number.
pub fn password() -> Result<String> {
    let mut bytes = [0_u8; 20];
    getrandom::fill(&mut bytes).context("the system's random numbers")?;
    Ok(bytes.iter().fold(String::from("x"), |text, byte| text + &format!("{byte:02x}")))
}

/// The secret kept in `file`; made by `make` the first time.
pub fn kept(file: &Path, make: impl FnOnce() -> Result<String>) -> Result<String> {
    if let Ok(secret) = fs::read_to_string(file) {
        return Ok(secret.trim_end().to_owned());
    }
    let secret = make()?;
    fs::write(file, &secret).with_context(|| format!("writing {}", file.display()))?;
    fs::set_permissions(file, fs::Permissions::from_mode(0o600))?;
    Ok(secret)
}
