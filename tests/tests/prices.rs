//! Prices: against the calculator of the package that they are imported from, and through the ledger.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use holdfast_core::Verb;
use holdfast_testkit::tenant::Tenant;
use holdfast_testkit::wait;
use holdfast_tests::http::Http;
use holdfast_tests::{SOON, Serve, TOKEN, client, run, tools};
use serde_json::{Value, json};
use tokio::process::Command;

/// Days on which different price lists hold, past and future, and hours at which some are higher.
const DAYS: [&str; 4] =
    ["2025-06-01T12:00:00Z", "2026-11-22T02:30:00Z", "2026-11-22T12:00:00Z", "2027-02-01T08:00:00Z"];

/// For every model of every provider, and tokens on both sides of every tier.
#[tokio::test]
async fn every_price_is_the_one_that_the_package_computes() -> Result<()> {
    let Some(python) = tools::python()? else { return Ok(()) };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("python");
    let packages = tools::python_packages(&python, &folder.join("prices-requirements.txt")).await?;
    for day in DAYS {
        let script = "python3 prices.py cases \"$0\" | \"$1\" | python3 prices.py check";
        let mut pipeline = Command::new("bash");
        pipeline.args(["-o", "pipefail", "-c", script, day, env!("CARGO_BIN_EXE_price-cases")]);
        pipeline.current_dir(&folder).env("PYTHONPATH", &packages).env("PYTHONDONTWRITEBYTECODE", "1");
        let output = pipeline.stdin(Stdio::null()).output().await?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "{day}: {said}{}", String::from_utf8_lossy(&output.stderr));
        eprintln!("{day}: {said}");
    }
    Ok(())
}

/// What `verify --prices` found.
async fn verified(tenant: &Tenant) -> Result<Value> {
    let output = run(tenant, &["--output", "json", "verify", "--prices"]).await?;
    let report: Value = serde_json::from_slice(&output.stdout)?;
    ensure!(output.status.success(), "{report}");
    Ok(report)
}

#[tokio::test]
async fn the_facade_prices_tokens_and_the_ledger_computes_the_same() -> Result<()> {
    let tenant = Tenant::new().await?;
    let serve = Serve::start(&tenant).await?;
    let http = Http::new(serve.http(), Some(TOKEN));
    http.post("/account", &json!({"user_id": "ann"})).await?;
    http.post("/top_up", &json!({"user_id": "ann", "amount": "1"})).await?;

    let model = json!({"model": "gemini-2.5-flash", "tokens": {"input": 1200, "output": 4000}});
    let reserved =
        http.post("/reserve", &json!({"user_id": "ann", "usage": model, "job_id": "chat-1"})).await?;
    assert_eq!((reserved.status, &reserved.body["amount"]), (201, &json!("0.01036")), "{}", reserved.body);
    let used = json!({"tokens": {"input": 1000, "cache_read": 200, "output": 17}});
    let captured =
        http.post("/capture", &json!({"user_id": "ann", "job_id": "chat-1", "usage": used})).await?;
    // 1,000 × 0.30 + 200 × 0.03 + 17 × 2.50, in dollars for a million.
    assert_eq!((captured.status, &captured.body["amount"]), (200, &json!("0.0003485")), "{}", captured.body);

    let dear = json!({"model": "gemini-2.5-flash", "tokens": {"input": 1000, "output": 1_000_000}});
    let poor = http.post("/reserve", &json!({"user_id": "ann", "usage": dear})).await?;
    // (1 − 0.0003485 − 0.0003) / 0.0000025
    assert_eq!(
        (poor.status, &poor.body["affordable_output_tokens"]),
        (402, &json!(399_740)),
        "{}",
        poor.body
    );

    let cases = [
        (json!({"model": "no-such-model", "tokens": {"input": 1}}), None, 404, "unpriced_model"),
        (json!({"tokens": {"input": 1}}), None, 400, "invalid_request"),
        (json!({"model": "gpt-4o", "tokens": {"parsec": 1}}), None, 400, "invalid_request"),
        (json!({"model": "gpt-4o", "tokens": {"input": 1}}), Some("1"), 400, "invalid_request"),
        (json!({"model": "gpt-4o", "tokens": {"input": -1}}), None, 400, "invalid_request"),
        (json!(["gpt-4o"]), None, 400, "invalid_request"),
    ];
    for (usage, amount, status, code) in cases {
        let answer =
            http.post("/deduct", &json!({"user_id": "ann", "usage": usage, "amount": amount})).await?;
        assert_eq!((answer.status, &answer.body["code"]), (status, &json!(code)), "{usage}: {}", answer.body);
    }

    // Prices are in dollars; what a credit is worth nobody has said.
    http.post("/account", &json!({"user_id": "cred", "asset": "CREDIT"})).await?;
    let usage = json!({"model": "gpt-4o", "tokens": {"input": 1}});
    let other = http.post("/deduct", &json!({"user_id": "cred", "usage": usage})).await?;
    assert_eq!((other.status, &other.body["code"]), (400, &json!("invalid_request")), "{}", other.body);

    let priced = http.get("/prices/gemini-2.5-flash?provider=google").await?;
    assert_eq!(priced.body["rates"]["output"], json!([[0, 2_500_000]]), "{}", priced.body);
    let costs = http.get("/stats/costs?group_by=model").await?;
    let expected = json!([{"group": "google/gemini-2.5-flash", "asset": "USD", "charges": 1,
                           "input_tokens": "1200", "output_tokens": "17", "charged": "0.0003485", "absorbed": "0"}]);
    assert_eq!(costs.body, expected);
    assert_eq!(http.get("/stats/costs?group_by=user").await?.body[0]["group"], json!("ann"));
    assert_eq!(http.get("/stats/costs?group_by=planet").await?.status, 400);
    let report = verified(&tenant).await?;
    assert_eq!((&report["priced"], &report["unknown_books"]), (&json!(2), &json!(0)));
    let replayed = run(&tenant, &["replay"]).await?;
    ensure!(replayed.status.success(), "{}", String::from_utf8_lossy(&replayed.stdout));
    Ok(())
}

#[tokio::test]
async fn a_price_change_never_reaches_into_a_call_that_is_under_way() -> Result<()> {
    let tenant = Tenant::new().await?;
    let serve = Serve::start(&tenant).await?;
    let http = Http::new(serve.http(), Some(TOKEN));
    let backend = client(&tenant, "backend").await?;
    backend.fund("ann", "1").await?;
    let before = backend.0.quote("gpt-4o", Some("openai"), None).await?;
    let usage = json!({"model": "gpt-4o", "tokens": {"input": 1000, "output": 1000}});
    let reserve = json!({"user_id": "ann", "usage": usage, "job_id": "chat-1"});
    assert_eq!(http.post("/reserve", &reserve).await?.body["amount"], json!("0.0125"));

    let book = tempfile(
        &tenant,
        r#"{"provider":"openai","model":"gpt-4o","names":{"starts_with":"gpt-4o"},"prices":[{"rates":{"input":[[0,5000000]],"output":[[0,20000000]]}}]}"#,
    )?;
    let published = run(&tenant, &["prices", "publish", "vendored", "--override", &book]).await?;
    ensure!(published.status.success(), "{}", String::from_utf8_lossy(&published.stderr));
    let changed = wait::until("the new prices are in force", SOON, async || {
        let now = backend.0.quote("gpt-4o", Some("openai"), None).await.ok()?;
        (now.book != before.book).then_some(now)
    });
    let after = changed.await?;
    assert_eq!(after.rates.of("output", 0), Some(20_000_000));

    // The call that is under way is charged by the old rates, a new one by the new.
    let used = json!({"tokens": {"input": 1000, "output": 10}});
    let captured =
        http.post("/capture", &json!({"user_id": "ann", "job_id": "chat-1", "usage": used})).await?;
    assert_eq!((captured.status, &captured.body["amount"]), (200, &json!("0.0026")), "{}", captured.body);
    let reserve_two = json!({"user_id": "ann", "usage": usage, "job_id": "chat-2"});
    assert_eq!(http.post("/reserve", &reserve_two).await?.body["amount"], json!("0.025"));
    // The first request again is a repeat, though the price is another by now.
    let again = http.post("/reserve", &reserve).await?;
    assert_eq!(
        (again.status, &again.body["replayed"], &again.body["amount"]),
        (201, &json!(true), &json!("0.0125"))
    );
    let other = json!({"user_id": "ann", "job_id": "chat-2", "usage": {"model": "gpt-4o-mini", "tokens": {"output": 1}}});
    let refused = http.post("/capture", &other).await?;
    assert_eq!((refused.status, &refused.body["code"]), (400, &json!("invalid_request")), "{}", refused.body);

    // Who mixes the two is refused by the ledger itself.
    let mixed =
        before.usage(holdfast_core::UsageSource::Reported, &serde_json::from_str(r#"{"output":100}"#)?);
    let body = json!({"job_id": "chat-2", "amount": "0.001", "usage": mixed}).to_string();
    let hold = http.post("/reserve", &reserve_two).await?.body["hold_id"].clone();
    let body = body.replace(r#""job_id":"chat-2""#, &format!(r#""hold":{hold}"#));
    let refused = backend.send(Verb::Capture, "ann", &body).await?;
    assert_eq!((refused.kind.as_str(), refused.code.as_deref()), ("rejected", Some("price_mismatch")));
    let wrong = body.replace("0.001", "0.0011");
    let refused = backend.send(Verb::Capture, "ann", &wrong).await?;
    assert_eq!((refused.kind.as_str(), refused.code.as_deref()), ("refused", Some("price_mismatch")));
    let report = verified(&tenant).await?;
    assert_eq!((&report["priced"], &report["unknown_books"]), (&json!(3), &json!(0)));
    Ok(())
}

/// A price book with this line, in a file of the tenant's own.
fn tempfile(tenant: &Tenant, line: &str) -> Result<String> {
    let header = r#"{"holdfast_price_book":1,"source":"test","date":"2026-01-01","notice":"none"}"#;
    let database = tenant.database_url.rsplit('/').next().context("a database")?;
    let name: String = database.chars().filter(char::is_ascii_alphanumeric).collect();
    let file = std::env::temp_dir().join(format!("holdfast-book-{name}.jsonl"));
    std::fs::write(&file, format!("{header}\n{line}\n"))?;
    Ok(file.to_str().context("a path of text")?.to_owned())
}
