//! The commands that people look at a ledger with.

use anyhow::{Context, Result, ensure};
use holdfast_core::Verb;
use holdfast_testkit::tenant::Tenant;
use holdfast_testkit::wait;
use holdfast_tests::{SOON, Serve, client, count, database, run};
use serde_json::Value;
use sqlx::Executor;

async fn json(tenant: &Tenant, arguments: &[&str]) -> Result<Vec<Value>> {
    let output = run(tenant, &[arguments, &["--output", "json"]].concat()).await?;
    ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

#[tokio::test]
async fn accounts_holds_statements_and_the_log_can_be_looked_at() -> Result<()> {
    let tenant = Tenant::new().await?;
    let _ledger = Serve::start(&tenant).await?;
    let backend = client(&tenant, "backend").await?;
    backend.fund("user 1", "10").await?;
    let reserved = backend.send(Verb::Reserve, "user 1", r#"{"amount":"2","job_id":"job"}"#).await?;
    let hold = reserved.hold.context("a hold")?.to_string();
    let mut connection = database(&tenant).await?;
    wait::until("the projections have caught up", SOON, async || {
        count(&mut connection, "SELECT position FROM projection.checkpoint").await.ok().filter(|at| *at == 3)
    })
    .await?;

    let balance = json(&tenant, &["balance", "user 1"]).await?.remove(0);
    assert_eq!(
        (&balance["posted"], &balance["held"], &balance["available"]),
        (&"10".into(), &"2".into(), &"8".into())
    );
    let found = json(&tenant, &["hold", &hold]).await?.remove(0);
    assert_eq!((&found["status"], &found["job_id"]), (&"open".into(), &"job".into()));
    let statement = json(&tenant, &["statement", "user 1", "--limit", "2"]).await?.remove(0);
    let kinds: Vec<&Value> =
        statement.as_array().context("a list")?.iter().map(|event| &event["kind"]).collect();
    assert_eq!(kinds, [&Value::from("reserved"), &Value::from("topped_up")]);
    let tail = json(&tenant, &["tail", "--from", "0", "--count", "3"]).await?;
    let positions: Vec<&Value> = tail.iter().map(|event| &event["position"]).collect();
    assert_eq!(positions, [&Value::from(1), &Value::from(2), &Value::from(3)]);

    for (arguments, code) in
        [(&["balance", "nobody"][..], 1), (&["hold", "not-a-uuid"], 2), (&["statement", "x"], 1)]
    {
        assert_eq!(run(&tenant, arguments).await?.status.code(), Some(code), "{arguments:?}");
    }
    Ok(())
}

#[tokio::test]
async fn doctor_says_what_is_wrong_and_what_to_do() -> Result<()> {
    let tenant = Tenant::new().await?;
    let http = tenant.nats_url("http").to_owned();
    let doctor = ["doctor", "--http-nats-url", &http];
    let output = run(&tenant, &doctor).await?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success() && said.matches("fine").count() == 4, "{said}");
    ensure!(!said.contains(holdfast_tests::TOKEN) && !said.contains("password"), "{said}");

    let mut connection = database(&tenant).await?;
    connection.execute("ALTER TABLE ledger_head RENAME TO elsewhere").await?;
    let output = run(&tenant, &doctor).await?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.code() == Some(1) && said.contains("holdfast migrate"), "{said}");
    let refused = Serve::start(&tenant).await;
    ensure!(refused.is_err_and(|error| error.to_string().contains("before it was ready")));
    Ok(())
}
