//! What one command costs, counted and never timed: a change that makes commands dearer shows here.
//!
//! The bounds are what was counted when they were set, and a little room. Who raises one says why in the
//! commit, and docs/performance.md has the figures.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use holdfast_testkit::tenant::{self, Tenant};
use holdfast_testkit::wait;
use holdfast_tests::batch::{Publisher, member};
use holdfast_tests::tools;
use holdfast_tests::work::Work;
use holdfast_tests::{SOON, Serve, client, database};
use serde_json::{Value, json};
use sqlx::{Executor, PgConnection};
use uuid::Uuid;

/// Allocations from a command's bytes to its record; 6 when this was set.
const ALLOCATIONS_MAX: u64 = 8;
/// Instructions for the same, in an unoptimised build and without the processor's SHA instructions, which
/// valgrind does not know; 233,000 when this was set.
const INSTRUCTIONS_MAX: u64 = 270_000;
/// Statements of the lane for a batch envelope, and for a command alone; 2 and 1 when this was set.
const STATEMENTS_A_BATCH_MAX: i64 = 4;
const STATEMENTS_A_COMMAND_MAX: i64 = 1;
/// Bytes of write-ahead log for a command in a batch, its projections included; 909 when this was set.
const WAL_BYTES_MAX: i64 = 1_100;
/// Bytes of `ledger_event` with its indexes for a command in a batch; 518 when this was set.
const LOG_BYTES_MAX: i64 = 600;

#[test]
fn a_command_is_verified_decided_and_chained_with_few_allocations() -> Result<()> {
    let allocations = |holds: usize| -> Result<u64> {
        let mut work = Work::new(holds)?;
        let mut done = Ok(0);
        let counted = allocation_counter::measure(|| done = work.run());
        done?;
        Ok(counted.count_total)
    };
    let each = (allocations(600)? - allocations(100)?) / 1_000;
    eprintln!("{each} allocations a command");
    ensure!(each <= ALLOCATIONS_MAX, "{each} allocations a command, at most {ALLOCATIONS_MAX} before");
    Ok(())
}

#[test]
fn a_command_is_verified_decided_and_chained_with_few_instructions() -> Result<()> {
    let Some(valgrind) = tools::valgrind()? else { return Ok(()) };
    let instructions = |what: &str| -> Result<u64> {
        let program = env!("CARGO_BIN_EXE_verify-and-decide");
        let mut command = Command::new(&valgrind);
        command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null", program, "500", what]);
        let output = command.output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let line = said.lines().find_map(|line| line.split("Collected :").nth(1));
        line.with_context(|| said.clone())?.trim().parse().context("a count")
    };
    let each = (instructions("run")? - instructions("prepare")?) / 1_002;
    eprintln!("{each} instructions a command");
    ensure!(each <= INSTRUCTIONS_MAX, "{each} instructions a command, at most {INSTRUCTIONS_MAX} before");
    Ok(())
}

#[tokio::test]
async fn a_command_costs_few_statements_and_bytes() -> Result<()> {
    let tenant = Tenant::new().await?;
    let mut connection = count_statements(&tenant).await?;
    let _ledger = Serve::start(&tenant).await?;
    let backend = client(&tenant, "backend").await?;
    backend.fund("user-1", "1000").await?;
    let mut batches = Publisher::new(&tenant).await?;

    let (envelopes, holds) = (4_i64, 500_i64);
    let commands = envelopes * holds * 2;
    let before = Counted::now(&mut connection).await?;
    for _ in 0..envelopes {
        let lives: Vec<Value> = (0..holds).flat_map(|_| life()).collect();
        batches.send(&json!(lives), lives.len()).await?;
    }
    let after = Counted::projected(&mut connection).await?;
    let statements = (after.statements - before.statements) / envelopes;
    let wal = (after.wal - before.wal) / commands;
    let log = (after.log - before.log) / commands;
    eprintln!("{statements} statements a batch; {wal} bytes of WAL and {log} of log a command");
    ensure!(statements <= STATEMENTS_A_BATCH_MAX, "{statements} statements a batch");
    ensure!(wal <= WAL_BYTES_MAX, "{wal} bytes of WAL a command");
    ensure!(log <= LOG_BYTES_MAX, "{log} bytes of log a command");

    let before = Counted::now(&mut connection).await?;
    for _ in 0..50 {
        backend.send(holdfast_core::Verb::Deduct, "user-1", r#"{"amount":"0.01"}"#).await?;
    }
    let alone = (Counted::now(&mut connection).await?.statements - before.statements) / 50;
    eprintln!("{alone} statements a command alone");
    ensure!(alone <= STATEMENTS_A_COMMAND_MAX, "{alone} statements a command alone");
    Ok(())
}

fn life() -> [Value; 2] {
    let (reserve, capture) = (Uuid::now_v7(), Uuid::now_v7());
    [
        member(reserve, "reserve", "user-1", json!({"amount": "0.015"})),
        member(capture, "capture", "user-1", json!({"hold": reserve, "amount": "0.0123"})),
    ]
}

/// Lets this binary's own server count statements.
async fn count_statements(tenant: &Tenant) -> Result<PgConnection> {
    let mut connection = database(tenant).await?;
    connection.execute("ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'").await?;
    let mut stack = tenant::servers().await?;
    stack.postgres.stop()?;
    stack.postgres.restart().await?;
    drop(stack);
    let mut connection = database(tenant).await?;
    connection.execute("CREATE EXTENSION pg_stat_statements").await?;
    Ok(connection)
}

/// What was used so far.
struct Counted {
    statements: i64,
    wal: i64,
    log: i64,
}

impl Counted {
    async fn now(connection: &mut PgConnection) -> Result<Self> {
        let (statements, wal, log): (i64, i64, i64) = sqlx::query_as(
            "SELECT (SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements
                     WHERE userid = 'holdfast_writer'::regrole
                       AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())),
                    pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint,
                    pg_total_relation_size('ledger_event')",
        )
        .fetch_one(connection)
        .await?;
        Ok(Counted { statements, wal, log })
    }

    /// The same once the projections are where the log ends.
    async fn projected(connection: &mut PgConnection) -> Result<Self> {
        wait::until("the projector has caught up", SOON, async || {
            let row: (bool,) = sqlx::query_as(
                "SELECT h.position = c.position FROM ledger_head h JOIN projection.checkpoint c USING (partition)",
            )
            .fetch_one(&mut *connection)
            .await
            .ok()?;
            row.0.then_some(())
        })
        .await?;
        Counted::now(connection).await
    }
}
