//! Signed commands over a real NATS into a real Postgres, and their signed outcomes back.

use anyhow::Result;
use futures_util::future::join_all;
use holdfast_core::Verb;
use holdfast_core::chain::fingerprint;
use holdfast_protocol::Outcome;
use holdfast_protocol::outcome::Answer;
use holdfast_protocol::token::hex;
use holdfast_testkit::tenant::Tenant;
use holdfast_testkit::wait;
use holdfast_tests::batch::{Publisher, member};
use holdfast_tests::{SOON, Serve, client, count, database, jetstream};
use serde_json::json;
use uuid::Uuid;

#[tokio::test]
async fn a_signed_command_gets_its_signed_outcome_and_its_row() -> Result<()> {
    let tenant = Tenant::new().await?;
    let _ledger = Serve::start(&tenant).await?;
    let backend = client(&tenant, "backend").await?;
    let opened = backend.send(Verb::OpenAccount, "ann@example.com", r#"{"tier":"pro"}"#).await?;
    assert_eq!((opened.position, opened.kind.as_str()), (Some(1), "account_opened"));
    let topped_up =
        backend.send(Verb::TopUp, "ann@example.com", r#"{"amount":25,"external_ref":"p1"}"#).await?;
    assert_eq!(topped_up.available.as_deref(), Some("25"));
    let deducted = backend.send(Verb::Deduct, "ann@example.com", r#"{"amount":"0.05"}"#).await?;
    assert_eq!((deducted.position, deducted.posted.as_deref()), (Some(3), Some("24.95")));

    let again = backend.send(Verb::TopUp, "ann@example.com", r#"{"amount":25,"external_ref":"p1"}"#).await?;
    assert_eq!(again.code.as_deref(), Some("external_ref_used"));
    let reopened = backend.send(Verb::OpenAccount, "ann@example.com", r#"{"tier":"pro"}"#).await?;
    assert_eq!((reopened.position, reopened.replayed), (Some(1), true));
    let refused = backend.send(Verb::Deduct, "ann@example.com", r#"{"amount":"1e3"}"#).await?;
    assert_eq!((refused.kind.as_str(), refused.position), ("refused", None));
    assert!(refused.detail.is_some_and(|detail| detail.starts_with("amount: ")));

    let mut connection = database(&tenant).await?;
    assert_eq!(count(&mut connection, "SELECT count(*) FROM ledger_event").await?, 4);
    let gaps = "SELECT count(*) FROM ledger_event WHERE position NOT BETWEEN 1 AND 4";
    assert_eq!(count(&mut connection, gaps).await?, 0);
    Ok(())
}

#[tokio::test]
async fn one_command_is_one_event_however_often_it_is_sent() -> Result<()> {
    let tenant = Tenant::new().await?;
    let ledger = Serve::start(&tenant).await?;
    let backend = client(&tenant, "backend").await?;
    backend.fund("user-1", "5").await?;
    let id = Uuid::now_v7();
    let body = r#"{"amount":"1.5","reason":"a call"}"#;
    let storm = join_all((0..10).map(|_| backend.send_as(id, Verb::Deduct, "user-1", body))).await;
    let first = storm.into_iter().collect::<Result<Vec<_>>>()?;
    for outcome in &first {
        assert_eq!((outcome.position, outcome.posted.as_deref()), (Some(3), Some("3.5")));
    }
    assert!(ledger.stop().await?);
    let _ledger = Serve::start(&tenant).await?;
    let storm = join_all((0..10).map(|_| backend.send_as(id, Verb::Deduct, "user-1", body))).await;
    for outcome in storm {
        let outcome = outcome?;
        assert!(outcome.replayed);
        assert_eq!((outcome.position, outcome.posted.as_deref()), (Some(3), Some("3.5")));
    }
    let respelled = r#"{ "reason" : "a call", "amount" : 1.50 }"#;
    let same = backend.send_as(id, Verb::Deduct, "user-1", respelled).await?;
    assert_eq!((same.position, same.replayed), (Some(3), true));
    let changed =
        backend.send_as(id, Verb::Deduct, "user-1", r#"{"amount":"1.6","reason":"a call"}"#).await?;
    assert_eq!(changed.code.as_deref(), Some("idempotency_conflict"));
    assert!(changed.detail.is_some_and(|detail| detail.contains("amount") && !detail.contains("reason")));
    let moved = backend.send_as(id, Verb::TopUp, "user-1", r#"{"amount":"1.5"}"#).await?;
    assert!(moved.detail.is_some_and(|detail| detail.contains("verb")));
    let mut connection = database(&tenant).await?;
    assert_eq!(count(&mut connection, "SELECT count(*) FROM ledger_event").await?, 3);
    Ok(())
}

#[tokio::test]
async fn an_instance_that_gathers_is_told_the_outcomes_of_a_commit_together() -> Result<()> {
    const COMMANDS: usize = 400;
    let tenant = Tenant::new().await?;
    Serve::start(&tenant).await?.stop().await?;
    let mut together = Publisher::named(&tenant, "gather-1").await?;
    let mut alone = Publisher::named(&tenant, "gathers-not").await?;
    // What waits for the ledger is decided in few commits.
    let ids: Vec<Uuid> = (0..COMMANDS).map(|_| Uuid::now_v7()).collect();
    let body = |n: usize| if n % 50 == 7 { json!({"tier": ""}) } else { json!({"tier": "free"}) };
    for (n, id) in ids.iter().enumerate() {
        together.publish(*id, "open_account", &format!("user-{n}"), &body(n)).await?;
    }
    let (single, terms) = (Uuid::now_v7(), json!({"tier": "pro"}));
    alone.publish(single, "open_account", "user-pro", &terms).await?;
    let _ledger = Serve::start(&tenant).await?;

    let (mut answers, mut messages): (Vec<Answer>, usize) = (Vec::new(), 0);
    while answers.len() < COMMANDS {
        let message = together.told().await?;
        assert_eq!(message.subject.as_str(), "ledger.rsp.backend.gather-1.gathered");
        answers.extend(serde_json::from_slice::<Vec<Answer>>(&message.payload)?);
        messages += 1;
    }
    eprintln!("{COMMANDS} outcomes in {messages} messages");
    assert!(messages < COMMANDS / 4, "{messages}");
    for (n, (answer, id)) in answers.iter().zip(&ids).enumerate() {
        let said = fingerprint("open_account", &format!("user-{n}"), body(n).to_string().as_bytes());
        let kind = if n % 50 == 7 { "refused" } else { "account_opened" };
        assert_eq!((answer.outcome.id, answer.outcome.kind.as_str()), (*id, kind));
        assert_eq!(answer.fingerprint, hex(&said));
    }
    let message = alone.told().await?;
    assert_eq!(message.subject.as_str(), format!("ledger.rsp.backend.gathers-not.{single}"));
    assert_eq!(serde_json::from_slice::<Outcome>(&message.payload)?.id, single);

    // A batch's outcomes are together already, under its own id.
    let batch = json!([member(Uuid::now_v7(), "top_up", "user-1", json!({"amount": "1"}))]);
    assert_eq!(together.send(&batch, 1).await?[0].kind, "topped_up");
    Ok(())
}

#[tokio::test]
async fn a_refused_deduct_stays_refused_after_a_top_up() -> Result<()> {
    let tenant = Tenant::new().await?;
    let _ledger = Serve::start(&tenant).await?;
    let backend = client(&tenant, "backend").await?;
    backend.fund("user-1", "1").await?;
    let id = Uuid::now_v7();
    let refused = backend.send_as(id, Verb::Deduct, "user-1", r#"{"amount":"2"}"#).await?;
    assert_eq!(refused.code.as_deref(), Some("insufficient_funds"));
    backend.send(Verb::TopUp, "user-1", r#"{"amount":"9"}"#).await?;
    let again = backend.send_as(id, Verb::Deduct, "user-1", r#"{"amount":"2"}"#).await?;
    assert_eq!((again.code, again.position, again.replayed), (refused.code, refused.position, true));
    let new = backend.send(Verb::Deduct, "user-1", r#"{"amount":"2"}"#).await?;
    assert_eq!(new.posted.as_deref(), Some("8"));
    Ok(())
}

#[tokio::test]
async fn a_thousand_reserves_of_a_tenth_on_five_are_fifty() -> Result<()> {
    let tenant = Tenant::new().await?;
    let _ledger = Serve::start(&tenant).await?;
    let backend = client(&tenant, "backend").await?;
    backend.fund("user-1", "5").await?;
    let all = (0..1_000).map(|_| backend.send(Verb::Reserve, "user-1", r#"{"amount":"0.10"}"#));
    let outcomes = join_all(all).await.into_iter().collect::<Result<Vec<_>>>()?;
    let accepted = outcomes.iter().filter(|outcome| outcome.accepted()).count();
    let refused =
        outcomes.iter().filter(|outcome| outcome.code.as_deref() == Some("insufficient_funds")).count();
    assert_eq!((accepted, refused), (50, 950));
    Ok(())
}

#[tokio::test]
async fn a_hold_lives_and_expires_and_its_late_capture_is_charged() -> Result<()> {
    let tenant = Tenant::new().await?;
    let _ledger = Serve::start(&tenant).await?;
    let backend = client(&tenant, "backend").await?;
    backend.fund("user-1", "10").await?;
    backend.send(Verb::Reserve, "user-1", r#"{"amount":"4","job_id":"job-1","ttl_ms":300}"#).await?;
    let kept =
        backend.send(Verb::Reserve, "user-1", r#"{"amount":"1","job_id":"job-2","ttl_ms":300}"#).await?;
    let hold = kept.hold.expect("a reserve has a hold");
    backend.send(Verb::Extend, "user-1", &format!(r#"{{"hold":"{hold}","ttl_ms":3600000}}"#)).await?;
    let mut connection = database(&tenant).await?;
    wait::until("the hold expires", SOON, async || {
        let sql = "SELECT count(*) FROM ledger_event WHERE kind = 'hold_expired'";
        count(&mut connection, sql).await.ok().filter(|expired| *expired == 1)
    })
    .await?;
    let late = backend.send(Verb::Capture, "user-1", r#"{"job_id":"job-1","amount":"3"}"#).await?;
    assert_eq!(
        (late.kind.as_str(), late.posted.as_deref(), late.held.as_deref()),
        ("captured_late", Some("7"), Some("1"))
    );
    let in_time = backend.send(Verb::Capture, "user-1", r#"{"job_id":"job-2","amount":"0.25"}"#).await?;
    assert_eq!((in_time.kind.as_str(), in_time.posted.as_deref()), ("captured", Some("6.75")));
    let lost = backend.send(Verb::Release, "user-1", r#"{"job_id":"job-2"}"#).await?;
    assert_eq!(lost.winner.map(|winner| Some(winner.position)), Some(in_time.position));
    Ok(())
}

#[tokio::test]
async fn poison_is_refused_by_field_and_hurts_nobody() -> Result<()> {
    let tenant = Tenant::new().await?;
    let _ledger = Serve::start(&tenant).await?;
    let backend = client(&tenant, "backend").await?;
    backend.fund("user-1", "10").await?;
    let deep = format!(r#"{{"amount":{}1{}}}"#, "[".repeat(20_000), "]".repeat(20_000));
    let bodies = [
        r#"{"amount":"1","reason":"a\u0000b"}"#,
        r#"{"amount":"1","reason":"\ud800"}"#,
        r#"{"amount":123456789012345678901234567890}"#,
        r#"{"amount":"1","amount":"2"}"#,
        r#"["1"]"#,
        deep.as_str(),
    ];
    for body in bodies {
        let outcome = backend.send(Verb::Deduct, "user-1", body).await?;
        assert_eq!(outcome.code.as_deref(), Some("invalid_command"), "{:.80}", body);
    }
    let odd = backend.send(Verb::Deduct, "no such\u{7} account", r#"{"amount":"1"}"#).await?;
    assert!(odd.detail.is_some_and(|detail| detail.starts_with("account: ")));
    assert!(backend.send(Verb::Deduct, "user-1", r#"{"amount":"1"}"#).await?.accepted());
    Ok(())
}

#[tokio::test]
async fn events_are_relayed_so_that_sequence_is_position() -> Result<()> {
    let tenant = Tenant::new().await?;
    let _ledger = Serve::start(&tenant).await?;
    let backend = client(&tenant, "backend").await?;
    backend.fund("user 1", "10").await?;
    let last = join_all((0..200).map(|_| backend.send(Verb::Deduct, "user 1", r#"{"amount":"0.01"}"#))).await;
    let position = last.into_iter().filter_map(|outcome| outcome.ok()?.position).max().expect("200 outcomes");
    let events = jetstream(&tenant, "operator").await?;
    let stream = wait::until("every event is relayed", SOON, async || {
        let stream = events.get_stream("LEDGER_EVENTS").await.ok()?;
        (stream.cached_info().state.last_sequence == position.unsigned_abs()).then_some(stream)
    })
    .await?;
    assert_eq!(position, 202);
    for sequence in [1, 2, 100, 202] {
        let message = stream.get_raw_message(sequence).await?;
        let body: serde_json::Value = serde_json::from_slice(&message.payload)?;
        assert_eq!(body["position"], sequence);
        assert_eq!(
            message.headers.get("Holdfast-Position").map(|value| value.as_str()),
            Some(&*sequence.to_string())
        );
        assert!(message.subject.starts_with("ledger.evt.") && message.subject.ends_with(".~dXNlciAx"));
    }
    Ok(())
}
