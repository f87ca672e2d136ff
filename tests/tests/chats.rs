//! Chats: what is charged, whatever the provider, the caller or the network do. Every row of the table
//! of docs/llm.md, through the example backend, over real HTTP, to the nano-dollar.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::future::join_all;
use holdfast_core::Verb;
use holdfast_examples::clients::{BackendClient, Chat, Event};
use holdfast_examples::provider::{Act, Script};
use holdfast_testkit::tenant::Tenant;
use holdfast_testkit::wait;
use holdfast_tests::shop::{MODEL, Shop};
use holdfast_tests::{Caller, SOON, Serve, TOKEN, client, database};
use secrecy::SecretString;
use serde_json::{Value, json};
use sqlx::PgConnection;

/// Forty bytes: ten tokens by the provider's count, and by the backend's estimate.
const MESSAGE: &str = "0123456789 0123456789 0123456789 0123456";
const MESSAGE_TOKENS: i64 = 10;
const MAX_TOKENS: i64 = 100;
/// Nano-dollars for a token.
const INPUT: i64 = 300;
const OUTPUT: i64 = 2_500;
const FUNDS: i64 = 1_000_000_000;
const TTL: Duration = Duration::from_secs(600);

struct World {
    tenant: Tenant,
    _serve: Serve,
    shop: Shop,
    caller: Caller,
}

async fn world() -> Result<World> {
    let tenant = Tenant::new().await?;
    let serve = Serve::start(&tenant).await?;
    let caller = client(&tenant, "backend").await?;
    Ok(World { shop: Shop::open().await?, tenant, _serve: serve, caller })
}

/// The ending of a hold, as the log has it.
struct Ending {
    kind: String,
    /// What the customer was charged, in nano-dollars.
    charged: i64,
    reason: Value,
    source: Value,
}

async fn ending(connection: &mut PgConnection, account: &str) -> Result<Option<Ending>> {
    let rows: Vec<(String, i64, Value)> = sqlx::query_as(
        "SELECT kind, amount, body FROM ledger_log WHERE account = $1 AND kind IN
             ('captured', 'captured_late', 'released', 'hold_expired') ORDER BY position",
    )
    .bind(account)
    .fetch_all(connection)
    .await?;
    ensure!(rows.len() <= 1, "{} ends of one hold", rows.len());
    Ok(rows.into_iter().next().map(|(kind, amount, body)| {
        let fact = &body["fact"][&kind];
        let charged = if kind.starts_with("captured") { amount } else { 0 };
        let source = fact["priced"]["usage"]["source"].clone();
        Ending { charged, reason: fact["reason"].clone(), source, kind }
    }))
}

async fn ended(tenant: &Tenant, account: &str) -> Result<Ending> {
    let mut connection = database(tenant).await?;
    let found =
        wait::until("the hold has ended", SOON, async || ending(&mut connection, account).await.transpose());
    found.await?
}

impl World {
    async fn fund(&self, account: &str) -> Result<()> {
        self.caller.fund(account, "1").await.map(drop)
    }

    /// Nothing is held, and what is gone is what was charged.
    async fn must_have_paid(&self, account: &str, charged: i64) -> Result<()> {
        let told = self.caller.send(Verb::TopUp, account, r#"{"amount":"1"}"#).await?;
        let posted: holdfast_core::Decimal = told.posted.context("a balance")?.parse()?;
        ensure!(
            posted.units(holdfast_core::Asset::USD)? == 2 * FUNDS - charged,
            "{account}: posted {posted:?}"
        );
        ensure!(told.held.as_deref() == Some("0"), "{account}: {:?} is held", told.held);
        Ok(())
    }

    async fn chat(&self, backend: &str, account: &str, more: Value) -> Result<Chat> {
        let mut body = json!({"message": MESSAGE, "max_tokens": MAX_TOKENS});
        if let (Some(body), Some(more)) = (body.as_object_mut(), more.as_object()) {
            body.extend(more.clone());
        }
        BackendClient::new(backend, SecretString::from(TOKEN)).chat(account, &body).await
    }
}

/// The bytes of text that came.
fn delivered(events: &[Event]) -> i64 {
    let texts = events.iter().filter(|(name, _)| name == "text");
    texts.map(|(_, data)| i64::try_from(data.as_str().unwrap_or_default().len()).unwrap_or(0)).sum()
}

/// Script, status, the kind of the ending event, its reason, the source of its counts, what is charged.
type Row = (Script, u16, &'static str, &'static str, Option<&'static str>, i64);

#[tokio::test]
async fn every_row_of_the_settlement_table() -> Result<()> {
    let world = world().await?;
    let backend = world.shop.backend(&world.tenant, TTL, None).await?;
    let script = |act: Act| Script { words: Some(7), ..Script::from(act) };
    let exact = MESSAGE_TOKENS * INPUT + 7 * OUTPUT;
    let estimate = MESSAGE_TOKENS * INPUT + MAX_TOKENS * OUTPUT;
    let rows: [Row; 6] = [
        (script(Act::TooManyRequests), 429, "released", "provider_error", None, 0),
        (script(Act::ServerError), 502, "released", "provider_error", None, 0),
        (script(Act::Success), 200, "captured", "completed", Some("reported"), exact),
        (script(Act::Slow), 200, "captured", "completed", Some("reported"), exact),
        (script(Act::NoUsage), 200, "captured", "usage_missing", Some("estimated"), estimate),
        (script(Act::ZeroUsage), 200, "captured", "completed", Some("reported"), 0),
    ];
    for (number, (script, status, kind, reason, source, charged)) in rows.into_iter().enumerate() {
        let account = format!("row-{number}");
        world.fund(&account).await?;
        let act = script.act;
        let script = Script { pause_ms: Some(5), ..script };
        world.shop.provider.queue(MODEL, [script]);
        let answer = world.chat(&backend, &account, json!({})).await?;
        assert_eq!(answer.status, status, "{act:?}");
        answer.all().await?;
        let ending = ended(&world.tenant, &account).await?;
        assert_eq!((ending.kind.as_str(), ending.charged), (kind, charged), "{act:?}");
        assert_eq!((&ending.reason, &ending.source), (&json!(reason), &json!(source)), "{act:?}");
        world.must_have_paid(&account, charged).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_call_that_was_never_sent_costs_nothing() -> Result<()> {
    let world = world().await?;
    let nobody = format!("http://127.0.0.1:{}", wait::free_port()?);
    let backend = world.shop.backend(&world.tenant, TTL, Some(&nobody)).await?;
    world.fund("ann").await?;
    assert_eq!(world.chat(&backend, "ann", json!({})).await?.status, 502);
    let ending = ended(&world.tenant, "ann").await?;
    assert_eq!((ending.kind.as_str(), ending.reason), ("released", json!("not_dispatched")));
    world.must_have_paid("ann", 0).await
}

#[tokio::test]
async fn a_stream_that_breaks_costs_what_came() -> Result<()> {
    let world = world().await?;
    let backend = world.shop.backend(&world.tenant, TTL, None).await?;
    for (account, act) in [("cut", Act::Cut), ("error", Act::ErrorAfterOutput)] {
        world.fund(account).await?;
        world
            .shop
            .provider
            .queue(MODEL, [Script { words: Some(50), after_pieces: Some(9), ..Script::from(act) }]);
        let events = world.chat(&backend, account, json!({})).await?.all().await?;
        let bytes = delivered(&events);
        ensure!(bytes > 0, "nothing came before the end");
        let charged = MESSAGE_TOKENS * INPUT + (bytes + 3) / 4 * OUTPUT;
        let ending = ended(&world.tenant, account).await?;
        assert_eq!((ending.kind.as_str(), ending.charged), ("captured", charged), "{act:?}");
        assert_eq!((ending.reason, ending.source), (json!("aborted"), json!("delivered")));
        world.must_have_paid(account, charged).await?;
    }
    Ok(())
}

#[tokio::test]
async fn who_leaves_pays_for_what_came_or_by_choice_for_all() -> Result<()> {
    let world = world().await?;
    let backend = world.shop.backend(&world.tenant, TTL, None).await?;
    for (account, drain) in [("leaves", false), ("drains", true)] {
        world.fund(account).await?;
        let script = Script { words: Some(60), pause_ms: Some(10), ..Script::from(Act::Slow) };
        world.shop.provider.queue(MODEL, [script]);
        let mut answer = world.chat(&backend, account, json!({"drain": drain})).await?;
        let mut read = Vec::new();
        for _ in 0..5 {
            read.push(answer.next().await?.context("a piece")?);
        }
        drop(answer);
        let ending = ended(&world.tenant, account).await?;
        assert_eq!((ending.kind.as_str(), ending.reason), ("captured", json!("aborted")), "{account}");
        let all = MESSAGE_TOKENS * INPUT + 60 * OUTPUT;
        if drain {
            assert_eq!((ending.charged, ending.source), (all, json!("reported")));
        } else {
            let least = MESSAGE_TOKENS * INPUT + (delivered(&read) + 3) / 4 * OUTPUT;
            ensure!(least <= ending.charged && ending.charged < MESSAGE_TOKENS * INPUT + MAX_TOKENS * OUTPUT);
            assert_eq!(ending.source, json!("delivered"));
        }
        world.must_have_paid(account, ending.charged).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_call_whose_fate_is_unknown_keeps_its_hold_until_that_expires() -> Result<()> {
    let world = world().await?;
    let backend = world.shop.backend(&world.tenant, Duration::from_secs(3), None).await?;
    world.fund("ann").await?;
    world.shop.provider.queue(MODEL, [Act::Timeout.into()]);
    assert_eq!(world.chat(&backend, "ann", json!({})).await?.status, 504);
    let mut connection = database(&world.tenant).await?;
    ensure!(ending(&mut connection, "ann").await?.is_none(), "the hold was not kept");
    let ending = ended(&world.tenant, "ann").await?;
    assert_eq!(ending.kind, "hold_expired");
    world.must_have_paid("ann", 0).await
}

/// A thousand chats at once that cost what they reserve, and money for half of them.
#[tokio::test]
async fn a_thousand_chats_at_once_spend_what_is_there_and_not_more() -> Result<()> {
    const CHATS: usize = 1_000;
    let world = world().await?;
    let backend = world.shop.backend(&world.tenant, TTL, None).await?;
    let price = MESSAGE_TOKENS * INPUT + MAX_TOKENS * OUTPUT;
    let half = i64::try_from(CHATS / 2)? * price;
    world.caller.fund("ann", &holdfast_core::Asset::USD.format(half)).await?;
    let script = Script { words: Some(200), ..Script::from(Act::Success) };
    world.shop.provider.queue(MODEL, vec![script; CHATS]);
    let chats = (0..CHATS).map(async |_| {
        let answer = world.chat(&backend, "ann", json!({})).await?;
        let status = answer.status;
        Ok::<_, anyhow::Error>((status, answer.all().await?))
    });
    let chats = join_all(chats).await.into_iter().collect::<Result<Vec<_>>>()?;
    let served = chats.iter().filter(|(status, _)| *status == 200).count();
    let refused: Vec<_> = chats.iter().filter(|(status, _)| *status == 402).collect();
    assert_eq!((served, refused.len()), (CHATS / 2, CHATS / 2));
    for (_, told) in refused {
        let tokens = &told[0].1["affordable_output_tokens"];
        ensure!(tokens.as_i64().is_some_and(|tokens| (0..MAX_TOKENS).contains(&tokens)), "{told:?}");
    }
    for (_, told) in chats.iter().filter(|(status, _)| *status == 200) {
        assert_eq!(told.last().map(|(name, _)| name.as_str()), Some("settled"), "{told:?}");
    }
    let told = world.caller.send(Verb::TopUp, "ann", r#"{"amount":"1"}"#).await?;
    assert_eq!((told.posted.as_deref(), told.held.as_deref()), (Some("1"), Some("0")));
    eprintln!("{CHATS} chats: {served} served, the others refused and told what they could afford");
    Ok(())
}

#[tokio::test]
async fn a_short_balance_is_told_or_fitted_to() -> Result<()> {
    let world = world().await?;
    let backend = world.shop.backend(&world.tenant, TTL, None).await?;
    // The message and 40 tokens of output.
    let funds = MESSAGE_TOKENS * INPUT + 40 * OUTPUT;
    world.caller.fund("ann", &holdfast_core::Asset::USD.format(funds)).await?;
    let refused = world.chat(&backend, "ann", json!({})).await?;
    assert_eq!(refused.status, 402);
    assert_eq!(refused.all().await?[0].1["affordable_output_tokens"], json!(40));
    world.shop.provider.queue(MODEL, [Script { words: Some(500), ..Script::from(Act::Success) }]);
    let answer = world.chat(&backend, "ann", json!({"min_tokens": 20})).await?;
    let told = answer.all().await?;
    let pieces = told.iter().filter(|(name, _)| name == "text").count();
    assert_eq!((pieces, told.last().map(|(name, _)| name.as_str())), (40, Some("settled")));
    let outcome = world.caller.send(Verb::Deduct, "ann", r#"{"amount":"0.000000001"}"#).await?;
    assert_eq!(
        (outcome.code.as_deref(), outcome.available.as_deref()),
        (Some("insufficient_funds"), Some("0"))
    );
    Ok(())
}
