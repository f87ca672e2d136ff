//! The services around the ledger: registration, and the token that they are all behind.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::StreamExt;
use holdfast_examples::auth::{self, Auth, Invites, Subscriptions};
use holdfast_examples::clients::BackendClient;
use holdfast_examples::http::Http as Plain;
use holdfast_examples::provider::Act;
use holdfast_testkit::tenant::Tenant;
use holdfast_testkit::wait;
use holdfast_tests::http::Http;
use holdfast_tests::shop::{MODEL, Shop};
use holdfast_tests::{SOON, Serve, TOKEN, client, database};
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

const TTL: Duration = Duration::from_secs(600);

/// The auth service of a ledger that may have two accounts; answers its URL.
async fn registration(
    tenant: &Tenant,
    serve: &Serve,
    shop: &Shop,
    stop: &CancellationToken,
) -> Result<String> {
    let invites = Invites::open(&shop.data.join("auth"))?;
    invites.add(["one", "two", "three"])?;
    let ledger = client(tenant, "auth").await?.0.as_ref().clone();
    let issuer = ledger.issuer().clone();
    let subscriptions = Subscriptions::new(Plain::default(), serve.http(), SecretString::from(TOKEN), 2);
    let service = Arc::new(Auth::new(ledger, issuer, subscriptions, invites));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let layer = holdfast_calls::layer::InternalToken::new(TOKEN, None);
    tokio::spawn(auth::serve(listener, service, layer, stop.clone()));
    Ok(url)
}

#[tokio::test]
async fn an_invite_opens_one_account_as_long_as_there_is_a_place() -> Result<()> {
    let tenant = Tenant::new().await?;
    let serve = Serve::start(&tenant).await?;
    let shop = Shop::open().await?;
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    let url = registration(&tenant, &serve, &shop, &stop).await?;
    let http = Http::new(&url, Some(TOKEN));
    let register = |code: &str, user: &str| json!({"code": code, "user_id": user, "tier": "pro"});

    let unknown = http.post("/validate_invite", &json!({"code": "nonsense"})).await?;
    assert_eq!((unknown.status, &unknown.body["code"]), (404, &json!("not_found")), "{}", unknown.body);
    let valid = http.post("/validate_invite", &json!({"code": "one"})).await?;
    assert_eq!((valid.status, &valid.body["valid"], &valid.body["places"]), (200, &json!(true), &json!(2)));
    assert_eq!(http.post("/register_user", &register("one", "ann")).await?.status, 201);
    // The same again is the same; for somebody else the invite is used up.
    assert_eq!(http.post("/register_user", &register("one", "ann")).await?.status, 200);
    let other = http.post("/register_user", &register("one", "bob")).await?;
    assert_eq!((other.status, &other.body["code"]), (409, &json!("invite_used")));
    assert_eq!(http.post("/register_user", &register("two", "bob")).await?.status, 201);

    // Two accounts are all that there may be.
    let full = wait::until("the façade counts two", SOON, async || {
        let full = http.post("/validate_invite", &json!({"code": "three"})).await.ok()?;
        (full.body["code"] == "subscriptions_full").then_some(full.status)
    });
    assert_eq!(full.await?, 409);
    let facade = Http::new(serve.http(), Some(TOKEN));
    let balance = facade.get("/balance/ann").await?;
    assert_eq!((balance.status, &balance.body["tier"]), (200, &json!("pro")));
    assert_eq!(facade.get("/balance/carl").await?.status, 404);
    Ok(())
}

/// Whoever has no token is told the same bytes everywhere, and nobody is believed to be anybody.
#[tokio::test]
async fn every_service_checks_the_token_before_it_believes_a_user() -> Result<()> {
    let tenant = Tenant::new().await?;
    let serve = Serve::start(&tenant).await?;
    let shop = Shop::open().await?;
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    let mut urls = shop.urls.to_vec();
    urls.push(registration(&tenant, &serve, &shop, &stop).await?);
    urls.push(shop.backend(&tenant, TTL, None).await?);
    let paths = ["/projects/p/files", "/projects/p/snapshots", "/chat", "/register_user", "/nowhere", "/"];
    let mut refused = Vec::new();
    for url in &urls {
        assert_eq!(Http::new(url, None).get_text("/health").await?, "ok", "{url}");
        for token in [None, Some("wrong"), Some("")] {
            let stranger = Http::new(url, token);
            for path in paths {
                for answer in [stranger.get(path).await?, stranger.post(path, &json!({})).await?] {
                    refused.push((answer.status, answer.content_type, answer.body));
                }
            }
        }
    }
    assert_eq!(refused.len(), urls.len() * 3 * paths.len() * 2);
    ensure!(refused.iter().all(|answer| *answer == refused[0] && answer.0 == 403), "{:?}", refused[0]);
    // With the token and without a user, what needs one says so.
    let nobody = Http::new(&shop.urls[0], Some(TOKEN)).get("/projects/p/files").await?;
    assert_eq!((nobody.status, &nobody.body["field"]), (400, &json!("X-User-ID")));
    eprintln!("{} requests without a token were refused with the same bytes", refused.len());
    Ok(())
}

/// A caller's trace goes with its call through the bus into the events, and out of it as a header.
#[tokio::test]
async fn a_trace_goes_from_the_request_into_the_events() -> Result<()> {
    const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let tenant = Tenant::new().await?;
    let _serve = Serve::start(&tenant).await?;
    let shop = Shop::open().await?;
    client(&tenant, "backend").await?.fund("ann", "1").await?;
    let url = shop.backend(&tenant, TTL, None).await?;
    shop.provider.queue(MODEL, [Act::Success.into()]);
    let backend = BackendClient::new(&url, SecretString::from(TOKEN)).with_trace(TRACE);
    backend.chat("ann", &json!({"message": "Hello"})).await?.all().await?;
    let mut connection = database(&tenant).await?;
    let traced: Vec<(String, Option<Value>)> = sqlx::query_as(
        "SELECT kind, body->'fact'->kind->'trace' FROM ledger_log WHERE kind IN ('reserved', 'captured') ORDER BY position",
    )
    .fetch_all(&mut connection)
    .await?;
    let expected = ["reserved", "captured"].map(|kind| (kind.to_owned(), Some(json!(TRACE))));
    assert_eq!(traced, expected);

    let nats = holdfast_client::nats::connect(
        tenant.nats_url("operator"),
        "test",
        async_nats::ConnectOptions::new(),
    );
    let nats = nats.await.map_err(anyhow::Error::msg)?;
    let stream = async_nats::jetstream::new(nats).get_stream("LEDGER_EVENTS").await?;
    let config = async_nats::jetstream::consumer::pull::OrderedConfig {
        filter_subject: "ledger.evt.captured.>".to_owned(),
        ..Default::default()
    };
    let mut events = stream.create_consumer(config).await?.messages().await?;
    let event = tokio::time::timeout(SOON, events.next()).await?.context("an event")??;
    let header = event.headers.as_ref().and_then(|headers| headers.get("ce-traceparent"));
    assert_eq!(header.map(|value| value.as_str()), Some(TRACE));
    Ok(())
}
