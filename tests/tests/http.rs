//! The HTTP façade: the old calls as they were, and what they promise.

use anyhow::{Context, Result};
use futures_util::future::join_all;
use holdfast_core::Verb;
use holdfast_testkit::tenant::Tenant;
use holdfast_tests::http::{Answer, Http};
use holdfast_tests::{Serve, TOKEN, client, count, database};
use rustix::process::Signal;
use serde_json::{Value, json};

async fn ledger() -> Result<(Tenant, Serve, Http)> {
    let tenant = Tenant::new().await?;
    let serve = Serve::start(&tenant).await?;
    let http = Http::new(serve.http(), Some(TOKEN));
    Ok((tenant, serve, http))
}

fn text<'a>(answer: &'a Answer, member: &str) -> Option<&'a str> {
    answer.body[member].as_str()
}

#[tokio::test]
async fn the_old_calls_work_unchanged() -> Result<()> {
    let (_tenant, serve, http) = ledger().await?;
    let account = json!({"user_id": "test", "tier": "pro"});
    for token in [None, Some("wrong"), Some("")] {
        let stranger = Http::new(serve.http(), token);
        assert_eq!(stranger.post("/account", &account).await?.status, 403);
    }
    assert_eq!(http.post("/account", &account).await?.status, 201);
    assert_eq!(http.post("/account", &account).await?.status, 200);
    let other = http.post("/account", &json!({"user_id": "test", "tier": "free"})).await?;
    assert_eq!((other.status, text(&other, "code")), (409, Some("account_exists")));

    assert_eq!(http.post("/top_up", &json!({"user_id": "test", "amount": 10})).await?.status, 200);
    let balance = http.get("/balance/test").await?;
    let expected = json!({"user_id": "test", "tier": "pro", "asset": "USD", "posted": "10", "held": "0",
                          "available": "10", "position": 3});
    assert_eq!((balance.status, balance.body), (200, expected));

    let exact = http.post_text("/deduct", r#"{"user_id":"test","amount":0.05,"reason":"a page"}"#).await?;
    assert_eq!((exact.status, text(&exact, "posted")), (200, Some("9.95")));
    let reserved =
        http.post("/reserve", &json!({"user_id": "test", "amount": "2", "ttl_seconds": 60})).await?;
    assert_eq!(reserved.status, 201);
    let hold = text(&reserved, "hold_id").context("a hold id")?.to_owned();
    let captured = http.post("/capture", &json!({"hold_id": hold, "amount": 0.5})).await?;
    assert_eq!(
        (captured.status, text(&captured, "posted"), text(&captured, "held")),
        (200, Some("9.45"), Some("0"))
    );
    let job = json!({"user_id": "test", "amount": 1, "job_id": "job-1"});
    assert_eq!(http.post("/reserve", &job).await?.status, 201);
    assert_eq!(http.post("/release", &json!({"job_id": "job-1", "reason": "gave up"})).await?.status, 200);
    let late = http.post("/capture", &json!({"job_id": "job-1"})).await?;
    assert_eq!((late.status, text(&late, "code")), (409, Some("hold_released")));
    let held = http.get(&format!("/holds/{hold}")).await?;
    assert_eq!(
        (held.status, text(&held, "status"), text(&held, "captured")),
        (200, Some("settled"), Some("0.5"))
    );

    let poor = http.post("/deduct", &json!({"user_id": "test", "amount": 100})).await?;
    assert_eq!((poor.status, text(&poor, "code")), (402, Some("insufficient_funds")));
    assert_eq!(poor.content_type, "application/problem+json");
    assert_eq!(http.post("/deduct", &json!({"user_id": "nobody", "amount": 1})).await?.status, 404);
    assert_eq!(http.get("/balance/nobody").await?.status, 404);
    let counts = http.get("/stats/subscription_count").await?;
    assert_eq!(counts.body, json!({"total": 1, "by_tier": {"pro": 1}}));
    let health = http.get("/monitoring/health").await?;
    assert_eq!((health.status, text(&health, "status")), (200, Some("ok")), "{}", health.body);
    let queue = http.get("/monitoring/queue/stats").await?;
    assert_eq!((queue.status, &queue.body["queued"]), (200, &json!(0)));
    assert!(http.get_text("/metrics").await?.contains("holdfast_events_total"));
    let statement = http.get("/accounts/test/statement?limit=2").await?;
    assert_eq!(statement.body["events"].as_array().map(Vec::len), Some(2));
    let rest = format!("/accounts/test/statement?before={}", statement.body["next_before"]);
    assert!(http.get(&rest).await?.body["events"].as_array().is_some_and(|events| !events.is_empty()));
    Ok(())
}

#[tokio::test]
async fn bad_input_is_told_by_member_and_leaves_no_row() -> Result<()> {
    let (tenant, _serve, http) = ledger().await?;
    http.post("/account", &json!({"user_id": "u"})).await?;
    let cases: [(&str, &str, u16, &str); 9] = [
        ("/deduct", r#"{"user_id":"u","amount":1,"colour":"red"}"#, 400, "colour"),
        ("/deduct", r#"{"user_id":"u","amount":1e3}"#, 400, "amount"),
        ("/deduct", r#"{"user_id":"u","amount":"-1"}"#, 400, "amount"),
        ("/deduct", r#"{"user_id":"u"}"#, 400, "amount"),
        ("/deduct", r#"{"user_id":7,"amount":1}"#, 400, "user_id"),
        ("/deduct", r"[]", 400, "object"),
        ("/deduct", "not json", 400, "object"),
        ("/capture", r#"{"user_id":"u","amount":1}"#, 400, "hold_id"),
        ("/account", r#"{"user_id":"a\u0000b"}"#, 400, "user_id"),
    ];
    for (route, body, status, word) in cases {
        let answer = http.post_text(route, body).await?;
        assert_eq!(answer.status, status, "{route} {body}: {}", answer.body);
        assert!(
            text(&answer, "detail").is_some_and(|detail| detail.contains(word)),
            "{body}: {}",
            answer.body
        );
    }
    let huge = format!(r#"{{"user_id":"u","amount":1,"reason":"{}"}}"#, "x".repeat(65 * 1024));
    assert_eq!(http.post_text("/deduct", &huge).await?.status, 413);
    assert_eq!(http.get("/holds/not-a-uuid").await?.status, 400);
    assert_eq!(http.get("/nowhere").await?.status, 404);
    assert_eq!(http.get("/account").await?.status, 405);
    let mut connection = database(&tenant).await?;
    assert_eq!(count(&mut connection, "SELECT count(*) FROM ledger_event").await?, 1);
    Ok(())
}

#[tokio::test]
async fn without_the_token_every_route_answers_the_same_bytes() -> Result<()> {
    let (tenant, serve, http) = ledger().await?;
    let api = http.get("/openapi.json").await?;
    let paths = api.body["paths"].as_object().context("paths")?;
    let long = "x".repeat(10 * 1024);
    let prefix = &TOKEN[..TOKEN.len() - 1];
    let mut routes: Vec<String> = paths.keys().filter(|path| *path != "/healthz").cloned().collect();
    assert!(routes.len() >= 13, "{routes:?}");
    routes.extend(["/docs", "/openapi.json", "/nowhere", "/account/../balance/x"].map(str::to_owned));
    let mut answers = std::collections::BTreeSet::new();
    let mut tried = 0;
    for route in &routes {
        for token in [None, Some(""), Some("wrong"), Some(prefix), Some(long.as_str())] {
            let stranger = Http::new(serve.http(), token);
            for answer in [stranger.get(route).await?, stranger.post_text(route, "{").await?] {
                assert_eq!(answer.status, 403, "{route} {token:?}");
                answers.insert(format!("{:?} {}", answer.headers, answer.body));
                tried += 1;
            }
        }
        let doubled = Http::new(serve.http(), Some(TOKEN)).with_second_token(TOKEN);
        assert_eq!(doubled.get(route).await?.status, 403, "{route} doubled");
    }
    assert_eq!(answers.len(), 1, "{answers:?}");
    eprintln!("{tried} requests without a valid token: 403, one body");
    assert_eq!(Http::new(serve.http(), None).get_text("/healthz").await?, "ok");
    let mut connection = database(&tenant).await?;
    assert_eq!(count(&mut connection, "SELECT count(*) FROM ledger_event").await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_repeated_post_is_carried_out_once() -> Result<()> {
    let (tenant, _serve, http) = ledger().await?;
    http.post("/account", &json!({"user_id": "u"})).await?;
    http.post("/top_up", &json!({"user_id": "u", "amount": 10})).await?;
    let keyed = http.clone().with_key("order-7");
    let body = json!({"user_id": "u", "amount": 1});
    let all = join_all((0..10).map(|_| keyed.post("/deduct", &body))).await;
    let positions: std::collections::BTreeSet<String> =
        all.into_iter().map(|answer| Ok(answer?.body["position"].to_string())).collect::<Result<_>>()?;
    assert_eq!(positions.len(), 1);
    let other = keyed.post("/deduct", &json!({"user_id": "u", "amount": 2})).await?;
    assert_eq!((other.status, text(&other, "code")), (409, Some("idempotency_conflict")));
    let job = json!({"user_id": "u", "amount": 2, "job_id": "job"});
    let (first, again) = (http.post("/reserve", &job).await?, http.post("/reserve", &job).await?);
    assert_eq!((first.status, again.status, &first.body["position"]), (201, 201, &again.body["position"]));
    for _ in 0..2 {
        let captured = http.post("/capture", &json!({"job_id": "job", "amount": 1})).await?;
        assert_eq!((captured.status, text(&captured, "posted")), (200, Some("8")));
    }
    let mut connection = database(&tenant).await?;
    assert_eq!(count(&mut connection, "SELECT count(*) FROM ledger_event").await?, 5);
    Ok(())
}

#[tokio::test]
async fn what_would_not_fit_through_the_bus_is_refused_before_it() -> Result<()> {
    let (_tenant, _serve, http) = ledger().await?;
    let long = "u".repeat(6_000);
    let refused = http.post("/account", &json!({"user_id": long})).await?;
    assert_eq!(refused.status, 400, "{}", refused.body);
    http.post("/account", &json!({"user_id": "u"})).await?;
    let reason = "x".repeat(65_400 - 40);
    let body = format!(r#"{{"user_id":"u","amount":1,"reason":"{reason}"}}"#);
    assert_eq!(http.post_text("/deduct", &body).await?.status, 413);
    let job = http.post("/release", &json!({"user_id": "u", "job_id": ""})).await?;
    assert_eq!((job.status, text(&job, "code")), (400, Some("invalid_request")));
    let doubled = http.clone().with_key("a").with_key("b");
    assert_eq!(doubled.post("/deduct", &json!({"user_id": "u", "amount": 1})).await?.status, 400);
    Ok(())
}

#[tokio::test]
async fn a_thousand_reserves_over_http_are_fifty() -> Result<()> {
    let (_tenant, _serve, http) = ledger().await?;
    http.post("/account", &json!({"user_id": "u"})).await?;
    http.post("/top_up", &json!({"user_id": "u", "amount": 5})).await?;
    let body = json!({"user_id": "u", "amount": 0.10});
    let all = join_all((0..1_000).map(|_| http.post("/reserve", &body))).await;
    let statuses: Vec<u16> = all.into_iter().map(|answer| Ok(answer?.status)).collect::<Result<_>>()?;
    let of = |status| statuses.iter().filter(|found| **found == status).count();
    assert_eq!((of(201), of(402)), (50, 950));
    let balance = http.get("/balance/u").await?;
    assert_eq!((text(&balance, "held"), text(&balance, "available")), (Some("5"), Some("0")));
    Ok(())
}

#[tokio::test]
async fn a_read_after_a_write_shows_it() -> Result<()> {
    let (_tenant, _serve, http) = ledger().await?;
    http.post("/account", &json!({"user_id": "u"})).await?;
    for cents in 1..=50 {
        assert_eq!(http.post("/top_up", &json!({"user_id": "u", "amount": "0.01"})).await?.status, 200);
        let balance = http.get("/balance/u").await?;
        let expected = format!("0.{cents:02}");
        assert_eq!(text(&balance, "posted"), Some(expected.trim_end_matches('0')));
    }
    Ok(())
}

#[tokio::test]
async fn a_hold_in_two_accounts_must_be_told_apart() -> Result<()> {
    let (tenant, _serve, http) = ledger().await?;
    let backend = client(&tenant, "backend").await?;
    let hold = uuid::Uuid::now_v7();
    for user in ["a", "b"] {
        backend.fund(user, "5").await?;
        backend.send(Verb::Reserve, user, &format!(r#"{{"amount":1,"hold":"{hold}"}}"#)).await?;
    }
    let ambiguous = http.post("/capture", &json!({"hold_id": hold})).await?;
    assert_eq!((ambiguous.status, text(&ambiguous, "code")), (409, Some("hold_ambiguous")));
    assert_eq!(http.post("/capture", &json!({"hold_id": hold, "user_id": "a"})).await?.status, 200);
    let unknown = http.post("/capture", &json!({"hold_id": uuid::Uuid::now_v7()})).await?;
    assert_eq!((unknown.status, text(&unknown, "code")), (404, Some("hold_not_found")));
    let tombstone = http.post("/release", &json!({"hold_id": uuid::Uuid::now_v7(), "user_id": "a"})).await?;
    assert_eq!((tombstone.status, &tombstone.body["tombstone"]), (200, &Value::Bool(true)));
    Ok(())
}

#[tokio::test]
async fn without_an_outcome_the_caller_gets_503_with_the_id_to_retry_with() -> Result<()> {
    let (tenant, serve, http) = ledger().await?;
    http.post("/account", &json!({"user_id": "u"})).await?;
    http.post("/top_up", &json!({"user_id": "u", "amount": 10})).await?;
    // A writer elsewhere fences this one: its façade stays up only until the lane notices.
    let other = Serve::start(&tenant).await?;
    other.signal(Signal::STOP)?;
    let keyed = http.clone().with_key("k");
    let unanswered = keyed.post("/deduct", &json!({"user_id": "u", "amount": 1})).await;
    // The fenced process may be gone by then; both are an absence of an outcome.
    if let Ok(answer) = unanswered {
        assert_eq!((answer.status, text(&answer, "code")), (503, Some("unavailable")));
        assert!(text(&answer, "id").is_some());
    }
    other.signal(Signal::CONT)?;
    drop(serve);
    let http = Http::new(other.http(), Some(TOKEN)).with_key("k");
    let answered = http.post("/deduct", &json!({"user_id": "u", "amount": 1})).await?;
    assert_eq!((answered.status, text(&answered, "posted")), (200, Some("9")));
    let mut connection = database(&tenant).await?;
    assert_eq!(count(&mut connection, "SELECT count(*) FROM ledger_event WHERE kind = 'deducted'").await?, 1);
    Ok(())
}
