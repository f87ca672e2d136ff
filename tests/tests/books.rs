//! The log as evidence: append-only, replayable, verifiable.

use anyhow::{Context, Result, ensure};
use holdfast_core::{AccountId, Position, Verb};
use holdfast_projector::queries;
use holdfast_store::connect::connect;
use holdfast_store::{Role, StoreError};
use holdfast_testkit::tenant::Tenant;
use holdfast_testkit::wait;
use holdfast_tests::{SOON, Serve, client, count, database, run};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Executor, PgConnection};

/// A ledger with a bit of everything in its log, stopped, its projections caught up.
async fn history(tenant: &Tenant) -> Result<i64> {
    let ledger = Serve::start(tenant).await?;
    let backend = client(tenant, "backend").await?;
    for user in ["ann", "bob"] {
        backend.fund(user, "100").await?;
        let paid = backend
            .send(Verb::TopUp, user, &format!(r#"{{"amount":5,"external_ref":"pay-{user}"}}"#))
            .await?;
        let send = async |verb, body: &str| backend.send(verb, user, body).await;
        for (job, overage) in [("a", "reject"), ("b", "cap"), ("c", "draw"), ("d", "reject"), ("e", "cap")] {
            send(Verb::Reserve, &format!(r#"{{"amount":2,"job_id":"{job}","overage":"{overage}"}}"#)).await?;
        }
        send(Verb::Capture, r#"{"job_id":"a","amount":"0.5","final":false}"#).await?;
        let charge = send(Verb::Capture, r#"{"job_id":"a","amount":"0.25"}"#).await?;
        send(Verb::Capture, r#"{"job_id":"b","amount":3}"#).await?;
        send(Verb::Capture, r#"{"job_id":"c","amount":3}"#).await?;
        send(Verb::Release, r#"{"job_id":"d"}"#).await?;
        send(Verb::Release, r#"{"job_id":"never"}"#).await?;
        send(Verb::Deduct, r#"{"amount":"0.001"}"#).await?;
        send(Verb::Deduct, r#"{"amount":"5000"}"#).await?;
        let of = charge.position.context("a position")?;
        send(Verb::Refund, &format!(r#"{{"of":{of},"amount":"0.1","reason":"quality"}}"#)).await?;
        let of = paid.position.context("a position")?;
        send(Verb::ReverseTopUp, &format!(r#"{{"of":{of},"reason":"chargeback"}}"#)).await?;
    }
    backend.send(Verb::Deduct, "nobody", r#"{"amount":1}"#).await?;
    // More than a row of `activity` has room for, twice.
    for n in 0..100 {
        let user = ["ann", "bob", "nobody"][n % 7 % 3];
        backend.send(Verb::Deduct, user, r#"{"amount":"0.01"}"#).await?;
    }
    let mut connection = database(tenant).await?;
    let end = count(&mut connection, "SELECT position FROM ledger_head").await?;
    wait::until("the projections have caught up", SOON, async || {
        let at = count(&mut connection, "SELECT position FROM projection.checkpoint").await.ok()?;
        (at == end).then_some(())
    })
    .await?;
    ensure!(ledger.stop().await?);
    Ok(end)
}

async fn json(tenant: &Tenant, arguments: &[&str]) -> Result<(bool, Value)> {
    let output = run(tenant, &[arguments, &["--output", "json"]].concat()).await?;
    let value = serde_json::from_slice(&output.stdout);
    let value = value.with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    Ok((output.status.success(), value))
}

#[tokio::test]
async fn a_replay_equals_the_projections_and_a_rebuild_changes_nothing() -> Result<()> {
    let tenant = Tenant::new().await?;
    let end = history(&tenant).await?;
    let (fine, replayed) = json(&tenant, &["replay"]).await?;
    assert!(fine, "{replayed}");
    assert_eq!(
        (&replayed["position"], &replayed["equal_to_projections"]),
        (&Value::from(end), &Value::Bool(true))
    );
    assert_eq!(replayed["trial_balance"]["USD"]["sum"], "0");
    let mut connection = database(&tenant).await?;
    let before = everything_projected(&mut connection).await?;
    ensure!(run(&tenant, &["projections", "rebuild"]).await?.status.success());
    assert_eq!(everything_projected(&mut connection).await?, before);
    // Twice, since the second rebuild uses the tables that the first one put away.
    ensure!(run(&tenant, &["projections", "rebuild"]).await?.status.success());
    assert_eq!(everything_projected(&mut connection).await?, before);
    let (fine, part) = json(&tenant, &["replay", "--to", "10"]).await?;
    assert!(fine && part["position"] == 10, "{part}");
    Ok(())
}

#[tokio::test]
async fn a_statement_has_every_event_of_its_account_wherever_it_is_entered() -> Result<()> {
    let tenant = Tenant::new().await?;
    let end = history(&tenant).await?;
    let mut connection = database(&tenant).await?;
    for user in ["ann", "bob"] {
        let sql = "SELECT position FROM ledger_event WHERE account = $1 ORDER BY position DESC";
        let logged: Vec<(i64,)> =
            sqlx::query_as(sql).bind(user.as_bytes()).fetch_all(&mut connection).await?;
        let account = AccountId::new(user)?;
        for before in (0..=end + 1).chain([i64::MIN, i64::MAX]) {
            let page = queries::statement(&mut connection, 0, &account, Some(Position(before)), 7).await?;
            let page: Vec<i64> = page.iter().map(|row| row.event.position.0).collect();
            let expected = logged.iter().map(|(position,)| *position).filter(|position| *position < before);
            assert_eq!(page, expected.take(7).collect::<Vec<_>>(), "{user} before {before}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn activity_of_an_earlier_version_is_carried_over() -> Result<()> {
    const BEFORE: [&str; 5] = [
        include_str!("../../migrations/0001_log.sql"),
        include_str!("../../migrations/0002_projections.sql"),
        include_str!("../../migrations/0003_lighter_projections.sql"),
        include_str!("../../migrations/0004_appending.sql"),
        include_str!("../../migrations/0005_prices.sql"),
    ];
    const MIGRATION: &str = include_str!("../../migrations/0006_activity_in_runs.sql");
    let tenant = Tenant::new().await?;
    for events in [0, 1, 63, 64, 65, 130] {
        database(&tenant).await?.execute(AssertSqlSafe(format!("CREATE DATABASE earlier_{events}"))).await?;
        let name = tenant.database_url.rsplit('/').next().context("a database")?;
        let url = tenant.database_url.replace(&format!("/{name}"), &format!("/earlier_{events}"));
        let mut connection = connect(&url, Role::Login).await?;
        for migration in BEFORE {
            sqlx::raw_sql(migration).execute(&mut connection).await?;
        }
        // Every tenth event is a rejection of an unknown account, which had no row.
        let filled = format!(
            "INSERT INTO projection.activity (partition, position, previous)
             SELECT 0, p, p * 1000 FROM generate_series(1, {events}) p WHERE p % 10 <> 0;
             UPDATE projection.checkpoint SET position = {events}"
        );
        sqlx::raw_sql(AssertSqlSafe(filled)).execute(&mut connection).await?;
        sqlx::raw_sql(MIGRATION).execute(&mut connection).await?;
        let sql = "SELECT run, previous FROM projection.activity ORDER BY run";
        let runs: Vec<(i64, Vec<i64>)> = sqlx::query_as(sql).fetch_all(&mut connection).await?;
        let expected = (1..=events).map(|p| if p % 10 == 0 { 0 } else { p * 1000 }).collect::<Vec<i64>>();
        let expected = expected.chunks(64).zip(0..).map(|(run, n)| (n, run.to_vec())).collect::<Vec<_>>();
        assert_eq!(runs, expected, "of {events}");
    }
    Ok(())
}

/// Every row of every projection, as text.
async fn everything_projected(connection: &mut PgConnection) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for table in ["checkpoint", "account", "hold", "activity", "book"] {
        let sql = format!("SELECT to_jsonb(t)::text FROM projection.{table} t ORDER BY 1");
        let rows: Vec<(String,)> = sqlx::query_as(AssertSqlSafe(sql)).fetch_all(&mut *connection).await?;
        ensure!(!rows.is_empty(), "{table} is empty");
        all.extend(rows.into_iter().map(|(row,)| format!("{table} {row}")));
    }
    Ok(all)
}

#[tokio::test]
async fn verify_is_clean_and_checks_every_signature() -> Result<()> {
    let tenant = Tenant::new().await?;
    let end = history(&tenant).await?;
    let (fine, report) = json(&tenant, &["verify", "--signatures"]).await?;
    assert!(fine, "{report}");
    assert_eq!((&report["position"], &report["signed"]), (&Value::from(end), &Value::from(end)));
    assert_eq!((&report["unverifiable"], &report["findings"]), (&Value::from(0), &Value::Array(Vec::new())));
    let (fine, again) = json(&tenant, &["verify"]).await?;
    assert!(fine);
    assert_eq!(again["hash"], report["hash"]);
    Ok(())
}

/// A way to falsify the log, and the first position that must be named for it.
const TAMPERINGS: [(&str, &str, i64); 14] = [
    ("an amount", "UPDATE ledger_event SET amount = amount + 1 WHERE position = 7", 7),
    ("a balance", "UPDATE ledger_event SET posted = posted + 1 WHERE position = 8", 8),
    ("an account", "UPDATE ledger_event SET account = 'eve'::bytea WHERE position = 9", 9),
    ("a body", "UPDATE ledger_event SET body = replace(convert_from(body, 'UTF8'), '2000000000', '1000000000')::bytea WHERE position = 4", 4),
    ("an envelope", "UPDATE ledger_event SET envelope = set_byte(envelope, 40, 65) WHERE position = 5", 5),
    ("an issuer", "UPDATE ledger_event SET issuer = 'auth' WHERE position = 6", 6),
    ("a time", "UPDATE ledger_event SET lane_time = lane_time + interval '1 us' WHERE position = 3", 3),
    ("an epoch", "UPDATE ledger_event SET epoch = 7 WHERE position = 11", 11),
    ("a hash", "UPDATE ledger_event SET hash = set_byte(hash, 0, (get_byte(hash, 0) + 1) % 256) WHERE position = 12", 12),
    ("a deleted row", "DELETE FROM ledger_event WHERE position = 13", 13),
    ("a cut tail", "DELETE FROM ledger_event WHERE position > 20", 21),
    ("a cut tail with its head", "DELETE FROM ledger_event WHERE position > 20; UPDATE ledger_head SET position = 20", 21),
    (
        "two swapped rows",
        "UPDATE ledger_event SET position = 1000 WHERE position = 14; UPDATE ledger_event SET position = 14 WHERE position = 15;
         UPDATE ledger_event SET position = 15 WHERE position = 1000",
        14,
    ),
    (
        "an inserted row",
        "INSERT INTO ledger_event SELECT (SELECT max(position) + 1 FROM ledger_event), epoch, amount, posted, held, lane_time,
         stored_time, gen_random_uuid(), hold, partition, kind, issuer, account, fingerprint, hash, body, envelope
         FROM ledger_event WHERE position = 2",
        -1,
    ),
];

#[tokio::test]
async fn verify_names_the_first_bad_position_of_every_tampering() -> Result<()> {
    let tenant = Tenant::new().await?;
    let end = history(&tenant).await?;
    let mut connection = database(&tenant).await?;
    for (what, sql, position) in TAMPERINGS {
        // The last resort of whoever owns the server; everybody else is stopped before.
        connection
            .execute("CREATE TABLE saved AS TABLE ledger_event; CREATE TABLE saved_head AS TABLE ledger_head")
            .await?;
        connection.execute("ALTER TABLE ledger_event DISABLE TRIGGER USER").await?;
        connection.execute(sql).await?;
        let (fine, report) = json(&tenant, &["verify"]).await?;
        let expected = if position == -1 { end + 1 } else { position };
        let first = &report["findings"][0];
        assert!(!fine && first["position"] == expected, "{what}: expected {expected}, {report}");
        connection
            .execute(
                "TRUNCATE ledger_event; INSERT INTO ledger_event SELECT * FROM saved; DROP TABLE saved;
                 UPDATE ledger_head SET position = s.position FROM saved_head s; DROP TABLE saved_head;
                 ALTER TABLE ledger_event ENABLE ALWAYS TRIGGER ledger_event_append_only",
            )
            .await?;
    }
    assert!(json(&tenant, &["verify"]).await?.0, "restored");
    for (what, sql) in [
        ("projections", "UPDATE projection.account SET posted = posted + 1 WHERE account = 'ann'::bytea"),
        ("projections", "UPDATE projection.book SET balance = balance + 1 WHERE book = 'revenue'"),
        (
            "references",
            "ALTER TABLE ledger_ref DISABLE TRIGGER USER; DELETE FROM ledger_ref WHERE kind = 'external_ref'",
        ),
    ] {
        connection.execute(sql).await?;
        let (fine, report) = json(&tenant, &["verify"]).await?;
        let found =
            report["findings"].as_array().is_some_and(|all| all.iter().any(|one| one["check"] == what));
        assert!(!fine && found, "{sql}: {report}");
    }
    eprintln!("{} tamperings, each found", TAMPERINGS.len() + 3);
    Ok(())
}

#[tokio::test]
async fn no_role_can_change_the_log() -> Result<()> {
    let tenant = Tenant::new().await?;
    let ledger = Serve::start(&tenant).await?;
    client(&tenant, "backend").await?.fund("user-1", "1").await?;
    ensure!(ledger.stop().await?);
    let attempts = [
        "UPDATE ledger_event SET posted = 0",
        "DELETE FROM ledger_event",
        "TRUNCATE ledger_event",
        "TRUNCATE ledger_event CASCADE",
        "DROP TABLE ledger_event",
        "ALTER TABLE ledger_event DISABLE TRIGGER USER",
        "ALTER TABLE ledger_event DISABLE TRIGGER ALL",
        "UPDATE ledger_ref SET total = 0",
        "DELETE FROM ledger_ref",
        "TRUNCATE ledger_ref",
        "SET session_replication_role = replica",
    ];
    let mut refused = 0;
    for role in [Role::Writer, Role::Projector, Role::Reader] {
        let mut connection = connect(&tenant.database_url, role).await?;
        for sql in attempts {
            let result = connection.execute(sql).await;
            ensure!(result.is_err(), "{role:?}: {sql}");
            refused += 1;
        }
        if role != Role::Writer {
            let insert = "INSERT INTO ledger_event SELECT * FROM ledger_event";
            ensure!(connection.execute(insert).await.is_err(), "{role:?}: {insert}");
        }
    }
    // The owner of the database is stopped by the triggers, even in replication mode.
    let mut owner = database(&tenant).await?;
    owner.execute("SET session_replication_role = replica").await?;
    for sql in &attempts[..4] {
        let error = StoreError::from(owner.execute(*sql).await.err().context("it was refused")?);
        ensure!(error.to_string().contains("append-only"), "{sql}: {error}");
    }
    assert_eq!(count(&mut owner, "SELECT count(*) FROM ledger_event").await?, 2);
    eprintln!("{refused} attempts refused");
    Ok(())
}

#[tokio::test]
async fn a_postgres_that_could_forget_is_refused() -> Result<()> {
    let tenant = Tenant::new().await?;
    let mut connection = database(&tenant).await?;
    let name: (String,) = sqlx::query_as("SELECT current_database()").fetch_one(&mut connection).await?;
    let sql = format!("ALTER DATABASE {} SET synchronous_commit = off", name.0);
    connection.execute(AssertSqlSafe(sql)).await?;
    let refused = Serve::start(&tenant).await;
    assert!(refused.is_err_and(|error| error.to_string().contains("before it was ready")));
    Ok(())
}
