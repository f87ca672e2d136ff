//! What the ledger is told: flags over environment variables, secrets also from files.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use holdfast_core::{Asset, Assets};
use holdfast_protocol::issuers::Issuers;
use holdfast_protocol::verify::Rules;
use holdfast_protocol::{Keyring, RootToken};
use secrecy::SecretString;

/// The rights that `dev` and `demo` use, and that `serve` uses when it is given no file.
pub(crate) const ISSUERS: &str = include_str!("../../../nats/issuers.toml");

/// The internal token: the root of every key.
#[derive(Debug, Clone, Args)]
pub(crate) struct TokenArgs {
    /// File with the internal token, instead of INTERNAL_SERVICE_TOKEN.
    #[arg(long, env = "INTERNAL_SERVICE_TOKEN_FILE", value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// File with the token before, accepted while rotating, instead of INTERNAL_SERVICE_TOKEN_PREVIOUS.
    #[arg(long, env = "INTERNAL_SERVICE_TOKEN_PREVIOUS_FILE", value_name = "FILE")]
    pub(crate) previous_token_file: Option<PathBuf>,
}

/// The tokens themselves are read from the environment only: a flag would show in `ps`.
const TOKEN_VARIABLE: &str = "INTERNAL_SERVICE_TOKEN";
const PREVIOUS_VARIABLE: &str = "INTERNAL_SERVICE_TOKEN_PREVIOUS";

impl TokenArgs {
    /// The current token, if one is given.
    pub(crate) fn current(&self) -> Result<Option<RootToken>> {
        root(TOKEN_VARIABLE, self.token_file.as_ref())
    }

    /// The current token and, while rotating, the one before.
    pub(crate) fn roots(&self) -> Result<Vec<RootToken>> {
        let current = self.current()?.with_context(|| {
            format!("{TOKEN_VARIABLE} is not set; make a token with `holdfast token new` and set it, or name its file in {TOKEN_VARIABLE}_FILE")
        })?;
        let previous = root(PREVIOUS_VARIABLE, self.previous_token_file.as_ref())?;
        Ok(std::iter::once(current).chain(previous).collect())
    }
}

fn root(variable: &str, file: Option<&PathBuf>) -> Result<Option<RootToken>> {
    let Some(text) = secret(variable, file)? else { return Ok(None) };
    Ok(Some(RootToken::new(&SecretString::from(text)).with_context(|| format!("{variable} is not usable"))?))
}

/// A secret from its variable or its file, but not from both.
fn secret(variable: &str, file: Option<&PathBuf>) -> Result<Option<String>> {
    let value = std::env::var(variable).ok().filter(|value| !value.is_empty());
    match (value, file) {
        (Some(_), Some(_)) => bail!("both {variable} and {variable}_FILE are set; set one"),
        (Some(value), None) => Ok(Some(value)),
        (None, Some(file)) => {
            let text = std::fs::read_to_string(file);
            text.map(Some).with_context(|| format!("reading {variable}_FILE, {}", file.display()))
        }
        (None, None) => Ok(None),
    }
}

/// Where the database is.
#[derive(Debug, Clone, Args)]
pub(crate) struct DatabaseArgs {
    /// The Postgres database, such as postgres://user:password@host:5432/holdfast.
    #[arg(long, env = "HOLDFAST_DATABASE_URL", hide_env_values = true, value_name = "URL")]
    database_url: Option<String>,
    /// File with the database's URL.
    #[arg(long, env = "HOLDFAST_DATABASE_URL_FILE", value_name = "FILE")]
    database_url_file: Option<PathBuf>,
}

impl DatabaseArgs {
    pub(crate) fn url(&self) -> Result<String> {
        one_of("HOLDFAST_DATABASE_URL", self.database_url.clone(), self.database_url_file.as_ref())
    }
}

/// The value or the contents of the file; exactly one must be given.
pub(crate) fn one_of(variable: &str, value: Option<String>, file: Option<&PathBuf>) -> Result<String> {
    match (value, file) {
        (Some(_), Some(_)) => bail!("both {variable} and {variable}_FILE are set; set one"),
        (Some(value), None) => Ok(value),
        (None, Some(file)) => {
            let text = std::fs::read_to_string(file);
            let text = text.with_context(|| format!("reading {variable}_FILE, {}", file.display()))?;
            Ok(text.trim_end().to_owned())
        }
        (None, None) => bail!("{variable} is not set; give it, or name a file with it in {variable}_FILE"),
    }
}

/// What `serve` is told besides.
#[derive(Debug, Clone, Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) database: DatabaseArgs,
    #[command(flatten)]
    pub(crate) token: TokenArgs,
    /// The bus, as the user `ledger`: nats://ledger:password@host:4222.
    #[arg(long, env = "HOLDFAST_NATS_URL", hide_env_values = true, value_name = "URL")]
    pub(crate) nats_url: Option<String>,
    /// File with the bus's URL.
    #[arg(long, env = "HOLDFAST_NATS_URL_FILE", value_name = "FILE")]
    pub(crate) nats_url_file: Option<PathBuf>,
    /// The bus, as the user `http`, for the HTTP façade.
    #[arg(long, env = "HOLDFAST_HTTP_NATS_URL", hide_env_values = true, value_name = "URL")]
    pub(crate) http_nats_url: Option<String>,
    /// File with that URL.
    #[arg(long, env = "HOLDFAST_HTTP_NATS_URL_FILE", value_name = "FILE")]
    pub(crate) http_nats_url_file: Option<PathBuf>,
    /// Address of the HTTP façade.
    #[arg(long, env = "HOLDFAST_HTTP", default_value = "127.0.0.1:6004", value_name = "ADDRESS")]
    pub(crate) http: String,
    /// Name of the deployment; envelopes made for another are not accepted.
    #[arg(long, env = "HOLDFAST_AUDIENCE", value_name = "NAME")]
    pub(crate) audience: String,
    /// File that lists the issuers and their rights; re-read when it changes.
    #[arg(long, env = "HOLDFAST_ISSUERS", value_name = "FILE")]
    pub(crate) issuers: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) tuning: TuningArgs,
}

/// What has a good default.
#[derive(Debug, Clone, Args)]
pub(crate) struct TuningArgs {
    /// Further assets that accounts may be opened in, as CODE:SCALE.
    #[arg(long, env = "HOLDFAST_ASSETS", value_delimiter = ',', value_name = "CODE:SCALE")]
    pub(crate) assets: Vec<Asset>,
    /// How long applied commands stay in the stream; longer than backups may go back.
    #[arg(long, env = "HOLDFAST_KEEP_HOURS", default_value_t = 72, value_name = "HOURS")]
    pub(crate) keep_hours: u64,
    /// How many accounts may be in memory at once.
    #[arg(long, env = "HOLDFAST_ACCOUNTS_MAX", default_value_t = 1_000_000, value_name = "COUNT")]
    pub(crate) accounts_max: usize,
    /// Serve /docs and /openapi.json without a token.
    #[arg(long, env = "HOLDFAST_DOCS")]
    pub(crate) docs: bool,
}

impl TuningArgs {
    pub(crate) fn assets(&self) -> Result<Assets> {
        Ok(Assets::with(self.assets.iter().copied())?)
    }

    pub(crate) fn keep(&self) -> Duration {
        Duration::from_secs(self.keep_hours * 3600)
    }
}

/// Keys and rights as the lane checks them.
pub(crate) fn rules(roots: &[RootToken], issuers: &str, audience: &str) -> Result<Rules> {
    let issuers = Issuers::parse(issuers)?;
    let roots: Vec<&RootToken> = roots.iter().collect();
    Ok(Rules { keyring: Keyring::new(&roots, &issuers), issuers, audience: audience.to_owned() })
}
