//! What one would write instead: a transaction per command that locks the account's row.

use std::time::Instant;

use anyhow::Result;
use holdfast_store::Role;
use holdfast_store::connect::connect;
use sqlx::{Executor, PgConnection};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::deployment::Deployment;
use crate::processes::{approximate, per_thousand};
use crate::report::Figures;
use crate::settings::Size;
use crate::workload::{FUNDS, Pick};

const CONNECTIONS: usize = 20;

const SCHEMA: &str = "
CREATE TABLE account (id bigint PRIMARY KEY, posted bigint NOT NULL, held bigint NOT NULL);
CREATE TABLE entry (command_id uuid PRIMARY KEY, account bigint NOT NULL, kind text NOT NULL, amount bigint NOT NULL,
                    hold uuid, body jsonb NOT NULL, at timestamptz NOT NULL DEFAULT now())";

/// Commands a second of it, on the same accounts.
pub(crate) async fn measure(deployment: &Deployment, size: Size) -> Result<Figures> {
    let url = deployment.create_database("naive").await?;
    let mut admin = connect(&url, Role::Login).await?;
    admin.execute(SCHEMA).await?;
    let accounts = i64::try_from(size.accounts())?;
    sqlx::query("INSERT INTO account SELECT n, $2, 0 FROM generate_series(0, $1 - 1) n")
        .bind(accounts)
        .bind(FUNDS)
        .execute(&mut admin)
        .await?;
    admin.execute("VACUUM ANALYZE account").await?;
    let (processes, each) = (deployment.processes(), size.naive_commands() / CONNECTIONS);
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push(connect(&url, Role::Login).await?);
    }
    let (before, begun) = (processes.cpu(), Instant::now());
    let mut workers = JoinSet::new();
    for (seed, connection) in connections.into_iter().enumerate() {
        workers.spawn(work(connection, each, seed, size.accounts()));
    }
    while let Some(ended) = workers.join_next().await {
        ended??;
    }
    let (seconds, commands) = (begun.elapsed().as_secs_f64(), each * CONNECTIONS);
    let cpu = per_thousand(&before, &processes.cpu(), commands);
    Ok(Figures::new()
        .with("commands_per_second", approximate(commands) / seconds)
        .with("seconds", seconds)
        .count("n", commands)
        .cpu(&cpu))
}

/// Reserves and captures in turn, each in a transaction of its own.
async fn work(mut connection: PgConnection, commands: usize, seed: usize, accounts: usize) -> Result<()> {
    let (mut random, pick) = (fastrand::Rng::with_seed(seed as u64), Pick::zipf(accounts));
    for _ in 0..commands / 2 {
        let (account, hold) = (i64::try_from(pick.account(&mut random))?, Uuid::now_v7());
        command(&mut connection, account, hold, hold, "reserve").await?;
        command(&mut connection, account, hold, Uuid::now_v7(), "capture").await?;
    }
    Ok(())
}

async fn command(
    connection: &mut PgConnection,
    account: i64,
    hold: Uuid,
    id: Uuid,
    kind: &'static str,
) -> Result<()> {
    const AMOUNT: i64 = 1_000_000;
    sqlx::query("BEGIN").execute(&mut *connection).await?;
    let (posted, held): (i64, i64) =
        sqlx::query_as("SELECT posted, held FROM account WHERE id = $1 FOR UPDATE")
            .bind(account)
            .fetch_one(&mut *connection)
            .await?;
    let (posted, held) =
        if kind == "reserve" { (posted, held + AMOUNT) } else { (posted - AMOUNT, held - AMOUNT) };
    sqlx::query("UPDATE account SET posted = $2, held = $3 WHERE id = $1")
        .bind(account)
        .bind(posted)
        .bind(held)
        .execute(&mut *connection)
        .await?;
    sqlx::query(
        "INSERT INTO entry (command_id, account, kind, amount, hold, body) VALUES ($1, $2, $3, $4, $5, '{}')",
    )
    .bind(id)
    .bind(account)
    .bind(kind)
    .bind(AMOUNT)
    .bind(hold)
    .execute(&mut *connection)
    .await?;
    sqlx::query("COMMIT").execute(connection).await?;
    Ok(())
}
