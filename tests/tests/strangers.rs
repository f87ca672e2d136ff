//! The ledger as strangers see it: a client written from the documentation alone, and an operator
//! with the stock `nats` CLI.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_core::Verb;
use holdfast_testkit::tenant::Tenant;
use holdfast_testkit::wait;
use holdfast_tests::{AUDIENCE, SOON, Serve, TOKEN, binary, client, count, database, jetstream, tools};
use serde_json::json;
use tokio::process::Command;

/// How long one command of the runbook may take, and how long the Python test.
const COMMAND_WITHIN: Duration = Duration::from_secs(30);
const PYTHON_WITHIN: Duration = Duration::from_secs(120);

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[tokio::test]
async fn a_client_in_python_that_knows_only_the_protocol_is_served_and_forgers_are_not() -> Result<()> {
    let Some(python) = tools::python()? else { return Ok(()) };
    let folder = project().join("tests/python");
    let packages = tools::python_packages(&python, &folder.join("requirements.txt")).await?;
    let tenant = Tenant::new().await?;
    let ledger = Serve::start(&tenant).await?;
    let services = json!({"backend": tenant.nats_url("backend"), "auth": tenant.nats_url("auth")});
    let stack = json!({
        "ready": true,
        "http": ledger.http(),
        "postgres": tenant.database_url,
        "nats": {"operator": tenant.nats_url("operator"), "ledger": tenant.nats_url("ledger"), "services": services},
        "audience": AUDIENCE,
    });
    let mut test = Command::new(&python);
    test.arg(folder.join("wire.py")).env("PYTHONPATH", &packages).env("PYTHONDONTWRITEBYTECODE", "1");
    test.env("HOLDFAST_STACK", stack.to_string()).env("INTERNAL_SERVICE_TOKEN", TOKEN);
    test.env("HOLDFAST_VECTORS", project().join("crates/protocol/vectors/envelope-v1.json"));
    let output =
        tokio::time::timeout(PYTHON_WITHIN, test.output()).await.context("wire.py did not end")??;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    eprintln!("wire.py: {}", said.lines().last().unwrap_or_default());
    Ok(())
}

/// The commands of the runbook: lines after `$ ` in blocks fenced as `console`.
fn runbook() -> Result<Vec<String>> {
    let text = std::fs::read_to_string(project().join("docs/operators.md"))?;
    let mut commands = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        match line.trim() {
            "```console" => inside = true,
            "```" => inside = false,
            _ => commands.extend(line.strip_prefix("$ ").filter(|_| inside).map(str::to_owned)),
        }
    }
    ensure!(commands.len() >= 30, "the runbook has {} commands", commands.len());
    Ok(commands)
}

#[tokio::test]
async fn every_command_of_the_runbook_works() -> Result<()> {
    let Some(nats) = tools::nats_cli("the commands of docs/operators.md")? else { return Ok(()) };
    let tenant = Tenant::new().await?;
    let _ledger = Serve::start(&tenant).await?;
    let operator = client(&tenant, "operator").await?;
    let seed = [
        (Verb::OpenAccount, "{}"),
        (Verb::TopUp, r#"{"amount":"25","external_ref":"pay-1"}"#),
        (Verb::Reserve, r#"{"amount":"1.5","job_id":"job-1"}"#),
        (Verb::Capture, r#"{"job_id":"job-1","amount":"0.4"}"#),
        (Verb::Reserve, r#"{"amount":"2","job_id":"job-2"}"#),
        (Verb::Deduct, r#"{"amount":"0.05"}"#),
    ];
    for (verb, body) in seed {
        ensure!(operator.send(verb, "user-1", body).await?.accepted(), "{verb}");
    }
    let events = jetstream(&tenant, "operator").await?;
    wait::until("the events are relayed", SOON, async || {
        (events.get_stream("LEDGER_EVENTS").await.ok()?.cached_info().state.messages == 6).then_some(())
    })
    .await?;
    let folders =
        [nats.parent(), binary()?.parent()].map(|folder| folder.map(Path::to_path_buf).unwrap_or_default());
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(folders.into_iter().chain(std::env::split_paths(&path)))?;
    let home = home(&tenant)?;
    let commands = runbook()?;
    for text in &commands {
        let mut command = Command::new("sh");
        command.args(["-c", text]).stdin(Stdio::null()).kill_on_drop(true);
        command.env("PATH", &path).env("HOME", &home).env("NATS_URL", tenant.nats_url("operator"));
        command.env("HOLDFAST_NATS_URL", tenant.nats_url("ledger"));
        command.env("HOLDFAST_DATABASE_URL", &tenant.database_url);
        command.env("HOLDFAST_AUDIENCE", AUDIENCE).env("INTERNAL_SERVICE_TOKEN", TOKEN);
        let output = tokio::time::timeout(COMMAND_WITHIN, command.output()).await;
        let output = output.with_context(|| format!("`{text}` did not end"))??;
        let said =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "`{text}` failed: {said}");
        let unanswered = said.to_lowercase().contains("no responders") || said.contains("Nats-Service-Error");
        ensure!(!unanswered, "`{text}` was not answered: {said}");
    }
    std::fs::remove_dir_all(home)?;
    eprintln!("{} commands of docs/operators.md, each exits 0", commands.len());
    Ok(())
}

#[tokio::test]
async fn a_command_stream_restored_from_a_backup_does_nothing_twice() -> Result<()> {
    let Some(nats) = tools::nats_cli("restoring a stream from a backup")? else { return Ok(()) };
    let tenant = Tenant::new().await?;
    let ledger = Serve::start(&tenant).await?;
    let backend = client(&tenant, "backend").await?;
    backend.fund("user-1", "10").await?;
    let home = home(&tenant)?;
    let backup = home.join("backup");
    let cli = async |arguments: &[&str]| -> Result<()> {
        let mut command = Command::new(&nats);
        command.args(arguments).arg(&backup).env("NATS_URL", tenant.nats_url("ledger")).stdin(Stdio::null());
        command.env("HOME", &home).kill_on_drop(true);
        let output = tokio::time::timeout(COMMAND_WITHIN, command.output()).await??;
        ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    };
    let deduct = async || backend.send(Verb::Deduct, "user-1", r#"{"amount":"1"}"#).await;
    deduct().await?;
    cli(&["stream", "backup", "LEDGER_COMMANDS", "--no-progress"]).await?;
    for _ in 0..5 {
        deduct().await?;
    }
    // An older state: the stream ends below what was applied, and grows again from there.
    ensure!(ledger.stop().await?);
    let streams = jetstream(&tenant, "operator").await?;
    streams.delete_stream("LEDGER_COMMANDS").await?;
    cli(&["stream", "restore", "--no-progress"]).await?;
    let _ledger = Serve::start(&tenant).await?;
    assert_eq!(deduct().await?.posted.as_deref(), Some("3"));
    let mut connection = database(&tenant).await?;
    let deducted = "SELECT count(*) FROM ledger_event WHERE kind = 'deducted'";
    assert_eq!(count(&mut connection, deducted).await?, 7);
    std::fs::remove_dir_all(home)?;
    Ok(())
}

/// A folder that the CLI may keep its own settings in.
fn home(tenant: &Tenant) -> Result<PathBuf> {
    let folder = std::env::temp_dir().join(format!("holdfast-home-{}-{}", std::process::id(), tenant.number));
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}
