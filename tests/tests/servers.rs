//! Postgres and NATS crash under load, and connections are cut in the middle of a commit.
//!
//! The servers are shared by this binary, so its tests take turns.

use anyhow::{Context, Result, ensure};
use holdfast_core::Verb;
use holdfast_testkit::proxy::{Cut, Proxy};
use holdfast_testkit::tenant::{self, Tenant};
use holdfast_testkit::wait;
use holdfast_tests::http::Http;
use holdfast_tests::load::{CALLERS, Load};
use holdfast_tests::{SOON, Serve, TOKEN, client, count, database};
use tokio::sync::Mutex;

static TURN: Mutex<()> = Mutex::const_new(());

const CRASHES: usize = 5;

#[tokio::test]
async fn postgres_killed_under_load_loses_and_doubles_nothing() -> Result<()> {
    survives("Postgres", async || tenant::servers().await?.postgres.crash().await).await
}

#[tokio::test]
async fn nats_killed_under_load_loses_and_doubles_nothing() -> Result<()> {
    survives("NATS", async || tenant::servers().await?.nats.crash().await).await
}

/// Lets `crash` happen several times under load; then everything must balance.
async fn survives(what: &str, crash: impl AsyncFn() -> Result<()>) -> Result<()> {
    let _turn = TURN.lock().await;
    let tenant = Tenant::new().await?;
    let _ledger = Serve::start(&tenant).await?;
    let load = Load::start(&client(&tenant, "backend").await?, CALLERS).await?;
    for _ in 0..CRASHES {
        load.served().await?;
        crash().await?;
    }
    load.served().await?;
    let books = load.stop().await?;
    books.must_balance(&tenant, CALLERS).await?;
    eprintln!("{CRASHES} kills of {what}, {} outcomes, each once in the log", books.len());
    Ok(())
}

#[tokio::test]
async fn health_is_503_with_a_reason_while_a_server_is_away() -> Result<()> {
    let _turn = TURN.lock().await;
    let tenant = Tenant::new().await?;
    let ledger = Serve::start(&tenant).await?;
    let http = Http::new(ledger.http(), Some(TOKEN));
    let told = async |part: &str, status: u16| {
        wait::until(&format!("health says {status} for {part}"), SOON, async || {
            let health = http.get("/monitoring/health").await.ok()?;
            let well = health.body["parts"][part] == "ok";
            (health.status == status && well == (status == 200)).then_some(())
        })
        .await
    };
    told("postgres", 200).await?;
    tenant::servers().await?.postgres.stop()?;
    told("postgres", 503).await?;
    tenant::servers().await?.postgres.restart().await?;
    told("postgres", 200).await?;
    tenant::servers().await?.nats.stop()?;
    told("nats", 503).await?;
    assert_eq!(Http::new(ledger.http(), None).get_text("/healthz").await?, "ok");
    tenant::servers().await?.nats.restart().await?;
    told("nats", 200).await
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_neither_lost_nor_doubled() -> Result<()> {
    let _turn = TURN.lock().await;
    let tenant = Tenant::new().await?;
    let (before, after) = tenant.database_tcp_url.rsplit_once('@').context("a URL with a user")?;
    let (address, database_name) = after.split_once('/').context("a URL with a database")?;
    let proxy = Proxy::start(address.parse()?).await?;
    let through = format!("{before}@{}/{database_name}", proxy.address());
    let _ledger = Serve::start_on(&tenant, &through, &[]).await?;
    let backend = client(&tenant, "backend").await?;
    backend.fund("user-1", "100").await?;
    let mut connection = database(&tenant).await?;
    for round in 0..20 {
        let marker = format!("cut number {round}.");
        proxy.cut_at(&marker, if round % 2 == 0 { Cut::Before } else { Cut::After });
        let body = format!(r#"{{"amount":"1","reason":"{marker}"}}"#);
        let outcome = backend.send(Verb::Deduct, "user-1", &body).await?;
        ensure!(outcome.accepted() && !proxy.is_armed(), "round {round}: {outcome:?}");
        let expected = (99 - round).to_string();
        assert_eq!(outcome.posted.as_deref(), Some(&*expected), "round {round}");
        // Where the commit had happened, the take-over found it, and the answer comes from the log.
        assert_eq!(outcome.replayed, round % 2 == 1, "round {round}");
    }
    assert_eq!(
        count(&mut connection, "SELECT count(*) FROM ledger_event WHERE kind = 'deducted'").await?,
        20
    );
    assert_eq!(count(&mut connection, "SELECT epoch FROM ledger_head").await?, 21);
    Ok(())
}
