//! What the figures were measured on.

use std::fs;
use std::process::Command;

use holdfast_testkit::Stack;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgConnection};

/// The machine, as it describes itself.
pub(crate) fn machine() -> Value {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':').map(|(_, m)| m.trim()));
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = memory.lines().find_map(|line| line.strip_prefix("MemTotal:").map(str::trim));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    json!({
        "cpu": model.unwrap_or("unknown"),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "memory": memory.unwrap_or("unknown"),
        "kernel": kernel.trim(),
        "shared": "load generator, ledger and servers share this machine",
    })
}

/// The settings that durability and speed depend on, as the servers state them.
pub(crate) async fn settings(stack: &Stack, connection: &mut PgConnection) -> anyhow::Result<Value> {
    let mut settings = serde_json::Map::new();
    for name in [
        "server_version",
        "fsync",
        "synchronous_commit",
        "full_page_writes",
        "wal_sync_method",
        "shared_buffers",
        "max_wal_size",
    ] {
        let row: (String,) =
            sqlx::query_as(AssertSqlSafe(format!("SHOW {name}"))).fetch_one(&mut *connection).await?;
        settings.insert(name.to_owned(), Value::from(row.0));
    }
    settings.insert("fsync_microseconds".to_owned(), fsync_micros(stack).map_or(Value::Null, Value::from));
    Ok(Value::Object(settings))
}

/// What `pg_test_fsync` says of one 8 kB write with fdatasync, where that program is at hand.
fn fsync_micros(stack: &Stack) -> Option<u64> {
    let file = stack.postgres.scratch_file("fsync-test");
    let output = Command::new(stack.postgres.program("pg_test_fsync"))
        .args(["-s", "1", "-f"])
        .arg(&file)
        .output()
        .ok()?;
    let _ = fs::remove_file(&file);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find(|line| line.trim_start().starts_with("fdatasync "))?;
    line.split_whitespace().rev().nth(1)?.parse().ok()
}
