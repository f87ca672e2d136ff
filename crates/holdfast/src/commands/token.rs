//! `token`: the root secret, and what is derived from it.

use anyhow::{Context, Result};
use clap::Subcommand;
use holdfast_core::Issuer;
use holdfast_protocol::{ClientKeys, Issuers};
use serde_json::json;

use super::Exit;
use crate::output::{self, Output};
use crate::settings::{self, TokenArgs};

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Print a new internal token.
    New,
    /// Print the keys of one issuer, to give to its service instead of the token (a secret).
    Derive {
        /// The issuer.
        #[arg(long)]
        issuer: String,
        /// The generation of its keys.
        #[arg(long, default_value_t = 1)]
        generation: u32,
        #[command(flatten)]
        token: TokenArgs,
    },
    /// Check the token and print the key ids of every issuer; nothing secret.
    Check {
        /// File that lists the issuers; the shipped one unless given.
        #[arg(long, env = "HOLDFAST_ISSUERS", value_name = "FILE")]
        issuers: Option<std::path::PathBuf>,
        #[command(flatten)]
        token: TokenArgs,
    },
}

pub(crate) fn run(command: &TokenCommand, output: Output) -> Result<Exit> {
    match command {
        TokenCommand::New => output::text(&new()?)?,
        TokenCommand::Derive { issuer, generation, token } => {
            let roots = token.roots()?;
            output::text(&ClientKeys::export(&roots[0], &Issuer::new(issuer)?, *generation))?;
        }
        TokenCommand::Check { issuers, token } => check(issuers.as_ref(), token, output)?,
    }
    Ok(Exit::Fine)
}

/// 32 random bytes behind a tag that secret scanners can look for.
pub(crate) fn new() -> Result<String> {
    use base64::Engine as _;
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes).context("the system's random numbers")?;
    Ok(format!("hf1_{}", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)))
}

fn check(file: Option<&std::path::PathBuf>, token: &TokenArgs, output: Output) -> Result<()> {
    let text = match file {
        Some(file) => std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?,
        None => settings::ISSUERS.to_owned(),
    };
    let (issuers, roots) = (Issuers::parse(&text)?, token.roots()?);
    let mut rows = Vec::new();
    for (issuer, rights) in issuers.iter() {
        for (root, which) in roots.iter().zip(["current", "previous"]) {
            for &generation in &rights.generations {
                let keys = ClientKeys::derive(root, issuer, generation);
                let id = keys.command.id().to_owned();
                let state = if rights.revoked.contains(&id) { "revoked" } else { "accepted" };
                rows.push((issuer.to_string(), which, generation, id, state));
            }
        }
    }
    if output == Output::Json {
        let keys: Vec<_> = rows
            .iter()
            .map(|(issuer, token, generation, kid, state)| {
                json!({"issuer": issuer, "token": token, "generation": generation, "kid": kid, "state": state})
            })
            .collect();
        return output::json(&json!({ "keys": keys }));
    }
    let mut table = output::table(&["issuer", "token", "generation", "key id", "state"]);
    for (issuer, token, generation, kid, state) in rows {
        table.add_row([issuer, token.to_owned(), generation.to_string(), kid, state.to_owned()]);
    }
    output::text(&table.to_string())
}
