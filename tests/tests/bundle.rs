//! Many signed envelopes in one message, over real servers.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures_util::future::join_all;
use holdfast_client::{ClientError, Request};
use holdfast_core::Verb;
use holdfast_protocol::Outcome;
use holdfast_protocol::bundle::{Outgoing, bundle};
use holdfast_testkit::{tenant::Tenant, wait};
use holdfast_tests::batch::{Publisher, member};
use holdfast_tests::{SOON, Serve, client, count, database, jetstream, run};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Executor};
use uuid::Uuid;

const INSTANCE: &str = "bundle-test";

/// One message of `envelopes`.
fn together(envelopes: Vec<Outgoing>) -> Result<Outgoing> {
    let mut messages = bundle(envelopes);
    let message = messages.pop().context("a message")?;
    ensure!(messages.is_empty(), "more than one message");
    Ok(message)
}

/// The outcomes of commands that are told alone, as they come.
async fn told(backend: &mut Publisher, expected: usize) -> Result<Vec<Outcome>> {
    let mut told = Vec::new();
    while told.len() < expected {
        told.push(serde_json::from_slice(&backend.told().await?.payload)?);
    }
    Ok(told)
}

#[tokio::test]
async fn the_envelopes_of_a_bundle_are_verified_and_decided_in_order_and_each_on_its_own() -> Result<()> {
    let tenant = Tenant::new().await?;
    let _ledger = Serve::start(&tenant).await?;
    let mut backend = Publisher::named(&tenant, INSTANCE).await?;
    let [open, fund, reserve, capture, poor, wrong, forged, within] = [(); 8].map(|()| Uuid::now_v7());
    let sign = |id, verb, body: Value| backend.signed(id, verb, "user-1", &body);
    let garbage =
        Outgoing { payload: Bytes::from_static(b"no envelope"), ..sign(open, "deduct", json!({}))? };
    let honest = sign(forged, "top_up", json!({"amount": "1"}))?;
    let edited = String::from_utf8(honest.payload.to_vec())?.replace(r#""amount":"1""#, r#""amount":"9""#);
    let batch = json!([member(Uuid::now_v7(), "top_up", "user-1", json!({"amount": "1"}))]);
    let life = together(vec![
        sign(open, "open_account", json!({}))?,
        garbage,
        sign(fund, "top_up", json!({"amount": "5"}))?,
        Outgoing { payload: edited.into(), ..honest },
        sign(reserve, "reserve", json!({"amount": "2"}))?,
        sign(within, "batch", batch)?,
        sign(capture, "capture", json!({"hold": reserve, "amount": "1.5"}))?,
        sign(poor, "deduct", json!({"amount": "100"}))?,
        sign(wrong, "deduct", json!({"amount": "1e3"}))?,
    ])?;
    assert_eq!(life.subject, "ledger.cmd.backend.bundle.user-1");
    backend.publish_message(life.clone()).await?;
    let outcomes = told(&mut backend, 6).await?;
    let kinds: Vec<&str> = outcomes.iter().map(|outcome| outcome.kind.as_str()).collect();
    assert_eq!(kinds, ["account_opened", "topped_up", "reserved", "captured", "rejected", "refused"]);
    let ids: Vec<Uuid> = outcomes.iter().map(|outcome| outcome.id).collect();
    assert_eq!(ids, [open, fund, reserve, capture, poor, wrong]);
    assert_eq!(outcomes[3].posted.as_deref(), Some("3.5"));

    // Each row has its own envelope, and none refers to another.
    let mut connection = database(&tenant).await?;
    let distinct = "SELECT count(DISTINCT envelope) FROM ledger_event WHERE octet_length(envelope) > 32";
    assert_eq!(count(&mut connection, distinct).await?, 5);
    assert_eq!(count(&mut connection, "SELECT count(*) FROM ledger_evidence").await?, 0);
    let verified = run(&tenant, &["verify", "--signatures", "--output", "json"]).await?;
    ensure!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    let report: Value = serde_json::from_slice(&verified.stdout)?;
    assert_eq!(report["signed"].as_u64(), Some(5), "{report}");

    // Who is not believed is recorded by the envelope, not by the bundle.
    let operator = jetstream(&tenant, "operator").await?;
    for (reason, bytes) in [("malformed", Some(11)), ("bad_signature", None), ("wrong_subject", None)] {
        wait::until("a record of what was passed over", SOON, async || {
            let stream = operator.get_stream("LEDGER_REFUSED").await.ok()?;
            let subject = format!("ledger.dlq.{reason}");
            let message = stream.get_last_raw_message_by_subject(&subject).await.ok()?;
            let record: Value = serde_json::from_slice(&message.payload).ok()?;
            let said = record["bytes"].as_u64()?;
            (bytes.unwrap_or(said) == said && said < life.payload.len() as u64 / 2).then_some(())
        })
        .await?;
    }

    // The whole again, and then one of it alone.
    backend.publish_message(life).await?;
    let again = told(&mut backend, 6).await?;
    assert!(again[..5].iter().all(|outcome| outcome.replayed));
    backend.publish(fund, "top_up", "user-1", &json!({"amount": "5"})).await?;
    assert!(told(&mut backend, 1).await?[0].replayed);
    assert_eq!(count(&mut connection, "SELECT count(*) FROM ledger_event").await?, 5);
    assert_eq!(count(&mut connection, "SELECT applied FROM ledger_head").await?, 3);
    Ok(())
}

#[tokio::test]
async fn an_envelope_of_a_bundle_that_the_database_refuses_is_set_aside_alone() -> Result<()> {
    let tenant = Tenant::new().await?;
    let _ledger = Serve::start(&tenant).await?;
    let mut backend = Publisher::named(&tenant, INSTANCE).await?;
    backend.publish(Uuid::now_v7(), "open_account", "user-1", &json!({})).await?;
    backend.publish(Uuid::now_v7(), "top_up", "user-1", &json!({"amount": "100"})).await?;
    told(&mut backend, 2).await?;
    let mut connection = database(&tenant).await?;
    // The thirteenth is one that a commit fails for.
    let constraint = "ALTER TABLE ledger_event ADD CONSTRAINT unlucky
                      CHECK (kind <> 'deducted' OR amount <> 13000000000)";
    connection.execute(AssertSqlSafe(constraint)).await?;
    let deduct = |n| {
        let amount = if n == 13 { "13" } else { "0.1" };
        backend.signed(Uuid::now_v7(), "deduct", "user-1", &json!({"amount": amount}))
    };
    let deducts = (1..=30).map(deduct).collect::<Result<Vec<_>>>()?;
    let unlucky = deducts[12].payload.clone();
    backend.publish_message(together(deducts)?).await?;
    let outcomes = told(&mut backend, 30).await?;
    let rejected: Vec<usize> =
        outcomes.iter().enumerate().filter(|(_, told)| told.kind == "rejected").map(|(n, _)| n).collect();
    assert_eq!((rejected, outcomes[12].code.as_deref()), (vec![12], Some("quarantined")));
    assert_eq!(outcomes[29].posted.as_deref(), Some("97.1"));
    assert_eq!(count(&mut connection, "SELECT applied FROM ledger_head").await?, 3);
    let operator = jetstream(&tenant, "operator").await?;
    wait::until("its envelope alone is in LEDGER_REFUSED", SOON, async || {
        let stream = operator.get_stream("LEDGER_REFUSED").await.ok()?;
        let message = stream.get_last_raw_message_by_subject("ledger.dlq.quarantined").await.ok()?;
        (message.payload == unlucky).then_some(())
    })
    .await
}

#[tokio::test]
async fn what_callers_send_at_once_leaves_together_and_what_nobody_answered_again_alone() -> Result<()> {
    const CALLERS: i64 = 50;
    /// Longer than the client waits before it publishes again, and too short for a third time.
    const WITHIN: Duration = Duration::from_secs(3);
    let tenant = Tenant::new().await?;
    let ledger = Serve::start(&tenant).await?;
    let backend = client(&tenant, "backend").await?;
    backend.fund("user-1", "10").await?;
    ledger.stop().await?;
    let operator = jetstream(&tenant, "operator").await?;
    let messages = async || -> Result<i64> {
        let stream = operator.get_stream("LEDGER_COMMANDS").await?;
        Ok(stream.cached_info().state.messages.try_into()?)
    };
    let before = messages().await?;

    // Nobody answers: all leave at once, and later each by itself.
    let body = RawValue::from_string(r#"{"amount":"0.1"}"#.to_owned())?;
    let ids: Vec<Uuid> = (0..CALLERS).map(|_| Uuid::now_v7()).collect();
    let ask = |id: Uuid| {
        let (backend, body) = (&backend, &body);
        let (verb, account, within) = (Verb::Deduct, "user-1", WITHIN);
        async move { backend.0.send(Request { id, verb, account, body, within, valid_for: SOON }).await }
    };
    for answer in join_all(ids.iter().copied().map(ask)).await {
        assert!(matches!(answer, Err(ClientError::Unavailable { .. })), "{answer:?}");
    }
    let sent = messages().await? - before;
    assert!((CALLERS + 1..CALLERS + 10).contains(&sent), "{CALLERS} commands twice in {sent} messages");

    // All of it is decided once.
    let _ledger = Serve::start(&tenant).await?;
    for answer in join_all(ids.iter().copied().map(ask)).await {
        assert!(answer?.accepted());
    }
    let mut connection = database(&tenant).await?;
    let deducted = "SELECT count(*) FROM ledger_event WHERE kind = 'deducted'";
    assert_eq!(count(&mut connection, deducted).await?, CALLERS);
    Ok(())
}
