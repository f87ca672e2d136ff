//! `serve` and `migrate`: the ledger against servers that somebody else runs.

use anyhow::Result;
use serde_json::json;

use super::{Exit, StopSignals};
use crate::output::{self, Output};
use crate::runtime::{IssuersSource, Ledger, LedgerConfig};
use crate::settings::{DatabaseArgs, ServeArgs, one_of};

pub(crate) async fn run(args: ServeArgs, output: Output) -> Result<Exit> {
    let config = LedgerConfig {
        database_url: args.database.url()?,
        nats_url: one_of("HOLDFAST_NATS_URL", args.nats_url, args.nats_url_file.as_ref())?,
        http_nats_url: one_of(
            "HOLDFAST_HTTP_NATS_URL",
            args.http_nats_url,
            args.http_nats_url_file.as_ref(),
        )?,
        http: args.http,
        audience: args.audience,
        roots: args.token.roots()?,
        issuers: args.issuers.map_or(IssuersSource::Shipped, IssuersSource::File),
        tuning: args.tuning,
    };
    let ledger = Ledger::start(config).await?;
    let signals = StopSignals::listen()?;
    if output == Output::Json {
        output::json(&json!({ "ready": true, "http": format!("http://{}", ledger.http) }))?;
    }
    run_until_stopped(ledger, signals).await
}

/// Runs until a signal comes, which is fine, or a part gives up.
pub(crate) async fn run_until_stopped(mut ledger: Ledger, mut signals: StopSignals) -> Result<Exit> {
    tokio::select! {
        () = signals.asked() => {}
        error = ledger.failed() => return Err(error),
    }
    tracing::info!("stopping");
    ledger.stop().await?;
    Ok(Exit::Fine)
}

pub(crate) async fn migrate(args: &DatabaseArgs) -> Result<Exit> {
    holdfast_store::connect::migrate(&args.url()?).await?;
    tracing::info!("the database has this version's schema");
    Ok(Exit::Fine)
}
