//! `demo`: real traffic through a real ledger, shown as it goes, then proved.
//!
//! **Shape.** The stack of `dev` with the example services around it, which call each other over real
//! HTTP; chats through the example backend ([`chat`]) and wikis, which are sagas ([`wiki`]); then what
//! models have cost, `replay`, `verify` and where to look next.

mod chat;
mod wiki;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use futures_util::StreamExt;
use holdfast_audit::verify::{Options, verify};
use holdfast_audit::{Folded, compare, replay};
use holdfast_client::{Client, ClientOptions, Request};
use holdfast_core::books::Book;
use holdfast_core::{Asset, Issuer, Verb};
use holdfast_examples::clients::BackendClient;
use holdfast_examples::town::{BackendSettings, Town};
use holdfast_prices::Book as PriceBook;
use holdfast_projector::queries::{self, CostGroup};
use holdfast_protocol::ClientKeys;
use holdfast_store::Role;
use holdfast_store::connect::connect;
use secrecy::ExposeSecret;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::dev::{AUDIENCE, Dev};
use super::{Exit, StopSignals, finance, serve};
use crate::cli::DevArgs;
use crate::output::{self, Output};
use crate::runtime::PARTITION;
use chat::{End, HOLD_TTL, PROVIDER_WITHIN};

/// How many chats are played, and how many at once.
const CALLS: usize = 240;
const AT_ONCE: usize = 8;
/// The accounts that chat, each with this much.
const USERS: [&str; 6] = ["ann", "bob", "cleo", "dan", "eve", "finn"];
const FUNDS: &str = "1.5";
/// How long a wiki may be silent before it counts as left.
const SAGA_LEASE: Duration = Duration::from_secs(60);
/// How long to wait for the ledger.
const LEDGER_WITHIN: Duration = Duration::from_secs(10);
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
    let data = dev.data.join(format!("demo-{}", Uuid::now_v7().simple()));
    let stop = CancellationToken::new();
    let token = secrecy::SecretString::from(dev.roots()?[0].text().expose_secret());
    let town = Town::open(&data, token.clone(), stop.clone()).await?;
    let ends = play(&town, token, &client, output).await?;
    let proved = prove(&dev, &ends, output).await?;
    // The services' folder is the demonstration's own.
    stop.cancel();
    std::fs::remove_dir_all(&data)?;
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
             \x20 nats request ledger.svc.prices.gpt-4o ''\n\
             and the ledger itself:\n\
             \x20 export HOLDFAST_DATABASE_URL='{}'\n\
             \x20 holdfast statement ann\n\
             \x20 holdfast costs --by user\n\
             \x20 holdfast verify --prices\n\
             and the sagas, which are in the backend's own NATS account:\n\
             \x20 NATS_URL='{}' holdfast saga list\n\
             HTTP, with X-INTERNAL-TOKEN: {}/docs",
            self.stack.postgres.url(super::dev::DATABASE),
            self.stack.nats.url("backend"),
            self.http_url(),
        )
    }
}

/// Opens accounts, tops them up, and plays every chat and wiki; answers how each chat ended.
async fn play(
    town: &Town,
    token: secrecy::SecretString,
    client: &Client,
    output: Output,
) -> Result<Vec<End>> {
    let settings = BackendSettings {
        model: "gemini-2.5-flash".to_owned(),
        provider_within: PROVIDER_WITHIN,
        hold_ttl: HOLD_TTL,
        tries: 2,
        saga_lease: SAGA_LEASE,
        provider: None,
        journal: "calls.sqlite".to_owned(),
    };
    let url = town.backend(client.clone(), settings).await?;
    let backend = BackendClient::new(&url, token);
    output::narrate(
        output,
        &format!("a scripted provider answers at {}, the backend at {url}", town.provider_url),
    )?;
    for user in USERS {
        let balance = open(client, user).await?;
        output::narrate(
            output,
            &format!("{user:<5} account open, topped up with {FUNDS}, available {balance}"),
        )?;
    }
    chat::script(&town.provider, CALLS);
    let calls = futures_util::stream::iter(0..CALLS).map(|number| {
        let backend = &backend;
        async move { chat::call(backend, number, USERS[number % USERS.len()]).await }
    });
    let mut calls = calls.buffered(AT_ONCE);
    let mut ends = Vec::with_capacity(CALLS);
    while let Some(end) = calls.next().await {
        let end = end?;
        output::narrate(output, &end.line)?;
        ends.push(end);
    }
    wiki::play(town, &backend, USERS[0], output).await?;
    wiki::show_timeline(client, output).await?;
    Ok(ends)
}

/// Opens an account, if it is not open, and tops it up; answers what is available.
async fn open(client: &Client, user: &str) -> Result<String> {
    send(client, Verb::OpenAccount, user, json!({"tier": "pro"})).await?;
    let reference = format!("demo-{}", Uuid::now_v7());
    let topped_up =
        send(client, Verb::TopUp, user, json!({"amount": FUNDS, "external_ref": reference})).await?;
    topped_up.available.context("a balance")
}

async fn send(client: &Client, verb: Verb, account: &str, body: Value) -> Result<holdfast_protocol::Outcome> {
    let body = RawValue::from_string(body.to_string())?;
    let (id, within) = (Uuid::now_v7(), LEDGER_WITHIN);
    Ok(client.send(Request { id, verb, account, body: &body, within, valid_for: within }).await?)
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
    show_costs(&mut connection, output).await?;
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
    let report = verify(
        connection,
        PARTITION,
        Options { signatures: Some(&roots), prices: Some(&[PriceBook::vendored()]) },
        |_, _| {},
    )
    .await?;
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
    let mut by_kind: BTreeMap<&str, usize> = BTreeMap::new();
    for end in ends {
        *by_kind.entry(end.what).or_default() += 1;
    }
    ensure!(by_kind.len() == 6, "the script has six ways to go, {} were seen", by_kind.len());
    let mut table = output::table(&["how the chat went", "chats"]);
    for (what, calls) in by_kind {
        table.add_row([what.to_owned(), calls.to_string()]);
    }
    output::narrate(output, &format!("\n{} chats\n{table}", ends.len()))
}

async fn show_costs(connection: &mut sqlx::PgConnection, output: Output) -> Result<()> {
    let mut table = output::table(&["model", "charges", "input tokens", "output tokens", "charged"]);
    for line in queries::costs(connection, PARTITION, CostGroup::Model, None, None).await? {
        let cost = line.cost;
        table.add_row([
            line.group,
            cost.charges.to_string(),
            cost.input_tokens.to_string(),
            cost.output_tokens.to_string(),
            finance::whole(line.asset, cost.charged),
        ]);
    }
    output::narrate(output, &format!("\ncosts by model\n{table}"))
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
