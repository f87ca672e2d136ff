//! `demo`: real traffic through a real ledger, shown as it goes, then proved.
//!
//! **Shape.** The stack of `dev`; a scripted provider behind real HTTP ([`provider`]); chat calls
//! that reserve, call and settle ([`chat`]); then `replay`, `verify` and where to look next.

mod chat;
mod prices;
mod provider;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use futures_util::StreamExt;
use holdfast_audit::verify::{Options, verify};
use holdfast_audit::{Folded, compare, replay};
use holdfast_client::{Client, ClientOptions};
use holdfast_core::books::Book;
use holdfast_core::{Asset, Issuer};
use holdfast_projector::queries;
use holdfast_protocol::ClientKeys;
use holdfast_store::Role;
use holdfast_store::connect::connect;
use serde_json::json;

use super::dev::{AUDIENCE, Dev};
use super::{Exit, StopSignals, finance, serve};
use crate::cli::DevArgs;
use crate::output::{self, Output};
use crate::runtime::PARTITION;
use chat::{Chat, End};

/// How many chat calls are played, and how many at once.
const CALLS: usize = 240;
const AT_ONCE: usize = 8;
/// The accounts that chat, each with this much.
const USERS: [&str; 6] = ["ann", "bob", "cleo", "dan", "eve", "finn"];
const FUNDS: &str = "2.5";
/// How long the last holds may take to expire.
const EXPIRE_WITHIN: Duration = Duration::from_secs(30);

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// End after the demonstration instead of staying up.
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    dev: DevArgs,
}

pub(crate) async fn run(args: DemoArgs, output: Output) -> Result<Exit> {
    tracing::info!("starting Postgres and NATS; the first time they are downloaded");
    let (dev, client) = Dev::start_with_client(args.dev).await?;
    let ends = play(&client, output).await?;
    let proved = prove(&dev, &ends, output).await?;
    if output == Output::Table {
        output::text(&dev.look_around())?;
    }
    if args.once {
        dev.stop().await?;
        return Ok(proved);
    }
    let Dev { mut stack, ledger, .. } = dev;
    let exit = serve::run_until_stopped(ledger, StopSignals::listen()?).await;
    stack.stop()?;
    exit
}

impl Dev {
    /// The stack, and a client of it as the service `backend`.
    async fn start_with_client(args: DevArgs) -> Result<(Self, Client)> {
        // The demonstration must not fail because somebody uses the usual port.
        let http =
            if args.http == crate::cli::HTTP_DEFAULT { "127.0.0.1:0".to_owned() } else { args.http.clone() };
        let dev = Dev::start(DevArgs { http, ..args }).await?;
        let keys = ClientKeys::derive(&dev.roots()?[0], &Issuer::new("backend")?, 1);
        let nats_url = dev.stack.nats.url("backend");
        let client = Client::connect(ClientOptions { nats_url, keys, audience: AUDIENCE.to_owned() }).await?;
        Ok((dev, client))
    }

    /// Where to look next, with commands that can be pasted.
    fn look_around(&self) -> String {
        let operator = self.stack.nats.url("operator");
        format!(
            "\nLook around (the `nats` CLI knows these commands):\n\
             \x20 export NATS_URL='{operator}'\n\
             \x20 nats stream report\n\
             \x20 nats stream get LEDGER_EVENTS 1\n\
             \x20 nats sub 'ledger.evt.*.ann'\n\
             \x20 nats micro stats ledger\n\
             \x20 nats request ledger.svc.balance.ann ''\n\
             and the ledger itself:\n\
             \x20 export HOLDFAST_DATABASE_URL='{}'\n\
             \x20 holdfast statement ann\n\
             \x20 holdfast verify\n\
             HTTP, with X-INTERNAL-TOKEN: {}/docs",
            self.stack.postgres.url(super::dev::DATABASE),
            self.http_url(),
        )
    }
}

/// Opens accounts, tops them up, and plays every chat call; answers how each ended.
async fn play(client: &Client, output: Output) -> Result<Vec<End>> {
    let provider = provider::start().await?;
    output::narrate(output, &format!("a scripted provider answers at {}", provider.url))?;
    let chat = Chat::new(client.clone(), provider.url.clone());
    for user in USERS {
        let balance = chat.open(user, FUNDS).await?;
        output::narrate(
            output,
            &format!("{user:<5} account open, topped up with {FUNDS}, available {balance}"),
        )?;
    }
    let calls = futures_util::stream::iter(0..CALLS).map(|number| {
        let chat = &chat;
        async move { chat.call(number, USERS[number % USERS.len()]).await }
    });
    let mut calls = calls.buffered(AT_ONCE);
    let mut ends = Vec::with_capacity(CALLS);
    while let Some(end) = calls.next().await {
        let end = end?;
        output::narrate(output, &end.line)?;
        ends.push(end);
    }
    Ok(ends)
}

/// Waits until every hold has ended, then shows balances and proves the log.
async fn prove(dev: &Dev, ends: &[End], output: Output) -> Result<Exit> {
    let mut connection = connect(&dev.database_url(), Role::Reader).await?;
    output::narrate(output, "waiting for the holds whose calls never answered to expire…")?;
    let settled = tokio::time::timeout(EXPIRE_WITHIN, async {
        while queries::open_holds(&mut connection, PARTITION).await? > 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        anyhow::Ok(())
    });
    settled.await.context("holds are open after their time")??;
    show_ends(ends, output)?;
    let expired = queries::expired_holds(&mut connection, PARTITION).await?;
    output::narrate(
        output,
        &format!("{expired} holds expired and were freed: nobody knew what their calls had cost"),
    )?;
    show_balances(&mut connection, output).await?;
    let (mut connection, folded) = replay::replay(connection, PARTITION, None, |_, _| {}).await?;
    let differences = compare::projections(&mut connection, PARTITION, &folded).await?;
    let equal = if differences.is_empty() { "equal to" } else { "NOT equal to" };
    output::narrate(
        output,
        &format!("\nreplay of {} events: {equal} the live projections", folded.position),
    )?;
    show_books(&folded, output)?;
    let roots = dev.roots()?;
    let report =
        verify(connection, PARTITION, Options { signatures: Some(&roots), prices: None }, |_, _| {}).await?;
    output::narrate(output, "\nverify:")?;
    output::narrate(output, &finance::describe(&report))?;
    let clean = differences.is_empty() && report.findings.is_empty();
    if output == Output::Json {
        output::json(&json!({
            "calls": ends.len(), "events": report.position, "replay_equal": differences.is_empty(),
            "verify": if report.findings.is_empty() { "ok" } else { "not ok" },
        }))?;
    }
    Ok(if clean { Exit::Fine } else { Exit::Failed })
}

fn show_ends(ends: &[End], output: Output) -> Result<()> {
    let mut by_kind: BTreeMap<&str, (usize, i64, i64)> = BTreeMap::new();
    for end in ends {
        let row = by_kind.entry(end.what).or_default();
        *row = (row.0 + 1, row.1 + end.reserved, row.2 + end.charged);
    }
    ensure!(by_kind.len() >= 5, "the script has five ways to end, {} were seen", by_kind.len());
    let mut table = output::table(&["how the call went", "calls", "reserved", "charged"]);
    for (what, (calls, reserved, charged)) in by_kind {
        let money = |units| Asset::USD.format(units);
        table.add_row([what.to_owned(), calls.to_string(), money(reserved), money(charged)]);
    }
    output::narrate(output, &format!("\n{} chat calls\n{table}", ends.len()))
}

async fn show_balances(connection: &mut sqlx::PgConnection, output: Output) -> Result<()> {
    let mut table = output::table(&["account", "posted", "held", "available"]);
    for user in USERS {
        let id = holdfast_core::AccountId::new(user)?;
        let account = queries::account(connection, PARTITION, &id).await?.context("it was opened")?;
        let money = |units| account.asset.format(units);
        table.add_row([
            user.to_owned(),
            money(account.posted),
            money(account.held),
            money(account.available()),
        ]);
    }
    output::narrate(output, &format!("\nbalances\n{table}"))
}

fn show_books(folded: &Folded, output: Output) -> Result<()> {
    let mut table = output::table(&["book", "balance"]);
    for book in Book::ALL {
        table.add_row([book.as_str().to_owned(), finance::whole(Asset::USD, folded.book(Asset::USD, book))]);
    }
    table.add_row(["sum", &finance::whole(Asset::USD, folded.trial_balance(Asset::USD))]);
    output::narrate(output, &format!("trial balance\n{table}"))
}
