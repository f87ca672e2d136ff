//! Many commands in one signed envelope, over real servers.

use anyhow::{Result, ensure};
use holdfast_protocol::Outcome;
use holdfast_testkit::tenant::Tenant;
use holdfast_tests::batch::{Publisher, member};
use holdfast_tests::{Serve, count, database, run};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Executor};
use uuid::Uuid;

fn ids<const N: usize>() -> [Uuid; N] {
    std::array::from_fn(|_| Uuid::now_v7())
}

fn kinds(outcomes: &[Outcome]) -> Vec<&str> {
    outcomes.iter().map(|outcome| outcome.kind.as_str()).collect()
}

#[tokio::test]
async fn the_members_of_a_batch_are_decided_in_order_and_each_on_its_own() -> Result<()> {
    let tenant = Tenant::new().await?;
    let _ledger = Serve::start(&tenant).await?;
    let mut backend = Publisher::new(&tenant).await?;
    let [open, fund, reserve, capture, poor, wrong, foreign] = ids();
    let life = json!([
        member(open, "open_account", "user-1", json!({})),
        member(fund, "top_up", "user-1", json!({"amount": "5"})),
        member(reserve, "reserve", "user-1", json!({"amount": "2"})),
        member(capture, "capture", "user-1", json!({"hold": reserve, "amount": "1.5"})),
        member(poor, "deduct", "user-1", json!({"amount": "100"})),
        member(wrong, "deduct", "user-1", json!({"amount": "1e3"})),
        member(foreign, "batch", "user-1", json!([])),
        "no command",
    ]);
    let told = backend.send(&life, 8).await?;
    let expected =
        ["account_opened", "topped_up", "reserved", "captured", "rejected", "refused", "refused", "refused"];
    assert_eq!(kinds(&told), expected);
    assert_eq!(told[3].posted.as_deref(), Some("3.5"));
    assert_eq!(told[4].code.as_deref(), Some("insufficient_funds"));
    assert_eq!((told[5].id, told[5].code.as_deref()), (wrong, Some("invalid_command")));
    assert_eq!(told[7].id, Uuid::nil());

    let mut connection = database(&tenant).await?;
    assert_eq!(count(&mut connection, "SELECT count(*) FROM ledger_event").await?, 5);
    assert_eq!(count(&mut connection, "SELECT count(DISTINCT envelope) FROM ledger_event").await?, 1);
    let named = "SELECT count(*) FROM ledger_event e JOIN ledger_evidence v ON v.digest = e.envelope";
    assert_eq!(count(&mut connection, named).await?, 5);

    // The whole again under another batch, then other bytes of the same meaning, then another meaning.
    let again = backend.send(&life, 8).await?;
    assert!(again[..5].iter().all(|outcome| outcome.replayed));
    let respelled = json!([member(fund, "top_up", "user-1", json!({"amount": 5.0}))]);
    assert!(backend.send(&respelled, 1).await?[0].replayed);
    let changed = json!([member(fund, "top_up", "user-1", json!({"amount": "6"}))]);
    assert_eq!(backend.send(&changed, 1).await?[0].code.as_deref(), Some("idempotency_conflict"));
    assert_eq!(count(&mut connection, "SELECT count(*) FROM ledger_event").await?, 5);
    assert_eq!(count(&mut connection, "SELECT count(*) FROM ledger_evidence").await?, 1);

    let verified = run(&tenant, &["verify", "--signatures", "--output", "json"]).await?;
    ensure!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    let report: Value = serde_json::from_slice(&verified.stdout)?;
    assert_eq!(report["signed"].as_u64(), Some(5), "{report}");

    // Evidence that somebody edited is evidence of nothing.
    connection.execute("ALTER TABLE ledger_evidence DISABLE TRIGGER ALL").await?;
    connection.execute("UPDATE ledger_evidence SET envelope = envelope || ' '::bytea").await?;
    for arguments in [&["verify", "--signatures"][..], &["verify"]] {
        let verified = run(&tenant, &[arguments, &["--output", "json"]].concat()).await?;
        ensure!(!verified.status.success(), "an edited envelope was believed by {arguments:?}");
    }
    Ok(())
}

/// How many top-ups one commit has, and how many of them name a payment. Each way of appending is among
/// them: one row, a few and many, with references and without.
const COMMITS: [(usize, usize); 8] = [(1, 0), (1, 1), (2, 0), (7, 0), (7, 7), (8, 0), (8, 1), (40, 20)];

#[tokio::test]
async fn commits_of_every_size_are_in_the_log_with_what_they_bring() -> Result<()> {
    let tenant = Tenant::new().await?;
    let _ledger = Serve::start(&tenant).await?;
    let mut backend = Publisher::new(&tenant).await?;
    backend.send(&json!([member(Uuid::now_v7(), "open_account", "user-1", json!({}))]), 1).await?;
    for (commands, named) in COMMITS {
        let top_ups = (0..commands).map(|n| {
            let body = if n < named {
                json!({"amount": "1", "external_ref": Uuid::now_v7()})
            } else {
                json!({"amount": "1"})
            };
            member(Uuid::now_v7(), "top_up", "user-1", body)
        });
        let told = backend.send(&top_ups.collect::<Vec<Value>>().into(), commands).await?;
        assert_eq!(kinds(&told), vec!["topped_up"; commands], "{commands} commands, {named} of them named");
        // The same without evidence: a command that is none of a batch.
        let (alone, body) = (Uuid::now_v7(), json!({"amount": "1", "external_ref": Uuid::now_v7()}));
        backend.publish(alone, "top_up", "user-1", &body).await?;
        assert_eq!(serde_json::from_slice::<Outcome>(&backend.told().await?.payload)?.kind, "topped_up");
    }

    let mut connection = database(&tenant).await?;
    let (alone, batches) = (COMMITS.len(), COMMITS.len() + 1);
    let (commands, named) =
        COMMITS.iter().fold((1 + alone, alone), |sum, commit| (sum.0 + commit.0, sum.1 + commit.1));
    let counts = [
        ("SELECT count(*) FROM ledger_event", commands),
        ("SELECT count(*) FROM ledger_ref", named),
        ("SELECT count(*) FROM ledger_evidence", batches),
    ];
    for (sql, rows) in counts {
        assert_eq!(count(&mut connection, sql).await?, i64::try_from(rows)?, "{sql}");
    }
    let verified = run(&tenant, &["verify", "--signatures"]).await?;
    ensure!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    Ok(())
}

#[tokio::test]
async fn what_is_no_batch_is_refused_once() -> Result<()> {
    let tenant = Tenant::new().await?;
    let _ledger = Serve::start(&tenant).await?;
    let mut backend = Publisher::new(&tenant).await?;
    let crowd: Vec<u8> = vec![0; 5_000];
    for body in [json!([]), json!({"amount": "1"}), json!(crowd)] {
        let told = backend.send(&body, 1).await?;
        assert_eq!((kinds(&told), told[0].code.as_deref()), (vec!["refused"], Some("invalid_command")));
    }
    Ok(())
}

#[tokio::test]
async fn a_member_that_the_database_refuses_is_set_aside_alone() -> Result<()> {
    let tenant = Tenant::new().await?;
    let _ledger = Serve::start(&tenant).await?;
    let mut backend = Publisher::new(&tenant).await?;
    let [open, fund] = ids();
    let opening = json!([
        member(open, "open_account", "user-1", json!({})),
        member(fund, "top_up", "user-1", json!({"amount": "100"})),
    ]);
    backend.send(&opening, 2).await?;
    let mut connection = database(&tenant).await?;
    // The thirteenth is one that a commit fails for.
    let constraint = "ALTER TABLE ledger_event ADD CONSTRAINT unlucky
                      CHECK (kind <> 'deducted' OR amount <> 13000000000)";
    connection.execute(AssertSqlSafe(constraint)).await?;
    let deducts: Vec<Value> = (1..=30)
        .map(|n| {
            member(Uuid::now_v7(), "deduct", "user-1", json!({"amount": if n == 13 { "13" } else { "0.1" }}))
        })
        .collect();
    let told = backend.send(&json!(deducts), 30).await?;
    let rejected: Vec<usize> =
        told.iter().enumerate().filter(|(_, told)| told.kind == "rejected").map(|(n, _)| n).collect();
    assert_eq!((rejected, told[12].code.as_deref()), (vec![12], Some("quarantined")));
    assert_eq!(told[29].posted.as_deref(), Some("97.1"));
    assert_eq!(
        count(&mut connection, "SELECT count(*) FROM ledger_event WHERE kind = 'deducted'").await?,
        29
    );
    Ok(())
}

#[tokio::test]
async fn a_writer_that_stopped_in_the_middle_of_a_copy_keeps_no_successor_waiting() -> Result<()> {
    let tenant = Tenant::new().await?;
    let mut stopped =
        holdfast_store::connect::connect(&tenant.database_url, holdfast_store::Role::Writer).await?;
    stopped.execute("BEGIN").await?;
    stopped.execute("UPDATE ledger_head SET position = position + 1").await?;
    let copy = stopped.copy_in_raw("COPY ledger_event FROM STDIN (FORMAT binary)").await?;
    // Ready within the time that every start has.
    let ledger = Serve::start(&tenant).await?;
    assert!(copy.finish().await.is_err(), "its session was ended");
    assert!(ledger.stop().await?);
    Ok(())
}
