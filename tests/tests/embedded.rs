//! `dev` and `demo` as a newcomer runs them: their own servers, found or fetched.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use holdfast_tests::http::Http;
use holdfast_tests::{SOON, TOKEN, binary};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// The servers' download included.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// What a clean stop may take.
const STOP_WITHIN: Duration = Duration::from_secs(10);
const DEMO_WITHIN: Duration = Duration::from_secs(120);

fn data(name: &str) -> PathBuf {
    // Reachable for the user that Postgres runs as when the tests run as root.
    PathBuf::from(format!("/var/tmp/holdfast-{name}-{}", std::process::id()))
}

async fn dev(data: &PathBuf) -> Result<(Child, String)> {
    let mut command = Command::new(binary()?);
    command.args(["dev", "--http", "127.0.0.1:0", "--output", "json", "--data"]).arg(data);
    command.env("INTERNAL_SERVICE_TOKEN", TOKEN).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("no standard output")?).lines();
    let line = tokio::time::timeout(READY_WITHIN, lines.next_line()).await.context("not ready in time")??;
    Ok((child, line.context("dev ended before it was ready")?))
}

async fn stop(mut child: Child) -> Result<()> {
    let pid = child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?)).context("it has ended")?;
    let asked = Instant::now();
    kill_process(pid, Signal::TERM)?;
    let status = tokio::time::timeout(SOON, child.wait()).await.context("it did not stop")??;
    ensure!(status.success() && asked.elapsed() < STOP_WITHIN, "{status} after {:?}", asked.elapsed());
    Ok(())
}

#[tokio::test]
async fn dev_says_when_it_is_ready_stops_cleanly_and_keeps_what_it_had() -> Result<()> {
    let data = data("dev");
    let (child, line) = dev(&data).await?;
    ensure!(line.starts_with(r#"{"ready":true,"http":"http://127.0.0.1:"#) && !line.contains(' '), "{line}");
    let ready: Value = serde_json::from_str(&line)?;
    assert_eq!(ready["audience"], "ledger.dev");
    for url in ["/nats/operator", "/nats/ledger", "/nats/services/backend", "/nats/services/auth"] {
        let url = ready.pointer(url).and_then(Value::as_str).context("a URL")?;
        let client = holdfast_client::nats::connect(url, "test", async_nats::ConnectOptions::new()).await;
        client.map_err(anyhow::Error::msg)?;
    }
    let postgres = ready["postgres"].as_str().context("a URL")?;
    holdfast_store::connect::connect(postgres, holdfast_store::Role::Login).await?;
    let address = ready["http"].as_str().context("an address")?;
    let http = Http::new(address, Some(TOKEN));
    assert_eq!(Http::new(address, None).get("/docs/").await?.status, 200, "dev shows its docs");
    assert_eq!(http.post("/account", &json!({"user_id": "test", "tier": "pro"})).await?.status, 201);
    assert_eq!(http.post("/top_up", &json!({"user_id": "test", "amount": 5})).await?.status, 200);
    stop(child).await?;

    let (child, line) = dev(&data).await?;
    let ready: Value = serde_json::from_str(&line)?;
    let http = Http::new(ready["http"].as_str().context("an address")?, Some(TOKEN));
    assert_eq!(http.get("/balance/test").await?.body["posted"], "5");
    stop(child).await?;
    std::fs::remove_dir_all(data)?;
    Ok(())
}

#[tokio::test]
async fn the_demonstration_plays_its_calls_and_proves_them() -> Result<()> {
    let data = data("demo");
    let mut command = Command::new(binary()?);
    command.args(["demo", "--once", "--http", "127.0.0.1:0", "--output", "json", "--data"]).arg(&data);
    command.env_remove("INTERNAL_SERVICE_TOKEN").kill_on_drop(true);
    let output = tokio::time::timeout(DEMO_WITHIN, command.output()).await.context("it did not end")??;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{told}");
    let summary: Value = serde_json::from_slice(&output.stdout).with_context(|| told.clone().into_owned())?;
    assert_eq!(
        (&summary["calls"], &summary["verify"], &summary["replay_equal"]),
        (&json!(240), &json!("ok"), &json!(true))
    );
    for words in [
        "provider error: released",
        "no answer: kept until it expires",
        "caller left: what came is charged",
        "stream broke: what came is charged",
        "wiki bees   completed: 3 files, 3 documents, 1 snapshots",
        "wiki ants   undone",
        "wiki whales refused (insufficient_funds",
        "undoing",
        "google/gemini-2.5-flash",
    ] {
        ensure!(told.contains(words), "{words}");
    }
    std::fs::remove_dir_all(data)?;
    Ok(())
}
