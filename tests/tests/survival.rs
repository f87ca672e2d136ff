//! Crashes, outages, take-overs and streams that are not what they were.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_nats::jetstream;
use futures_util::future::join_all;
use holdfast_core::Verb;
use holdfast_testkit::tenant::Tenant;
use holdfast_testkit::wait;
use holdfast_tests::load::{CALLERS, Load};
use holdfast_tests::{SOON, Serve, client, count, database, jetstream};
use rustix::process::Signal;
use sqlx::Executor;
use uuid::Uuid;

#[tokio::test]
async fn killed_ten_times_under_load_it_loses_and_doubles_nothing() -> Result<()> {
    let tenant = Tenant::new().await?;
    let mut ledger = Serve::start(&tenant).await?;
    let backend = client(&tenant, "backend").await?;
    let load = Load::start(&backend, CALLERS).await?;
    for _ in 0..10 {
        load.served().await?;
        ledger.kill().await?;
        ledger = Serve::start(&tenant).await?;
    }
    let books = load.stop().await?;
    books.must_balance(&tenant, CALLERS).await?;
    let mut connection = database(&tenant).await?;
    assert_eq!(count(&mut connection, "SELECT epoch FROM ledger_head").await?, 11);
    eprintln!("10 kills, {} outcomes, each once in the log", books.len());
    Ok(())
}

#[tokio::test]
async fn after_an_outage_an_in_time_capture_wins_and_a_stale_reserve_is_refused() -> Result<()> {
    let tenant = Tenant::new().await?;
    let ledger = Serve::start(&tenant).await?;
    let backend = client(&tenant, "backend").await?;
    backend.fund("user-1", "10").await?;
    let hold = Uuid::now_v7();
    let reserve = |hold: Uuid, ttl: u64| format!(r#"{{"amount":"4","hold":"{hold}","ttl_ms":{ttl}}}"#);
    backend.send(Verb::Reserve, "user-1", &reserve(hold, 6_000)).await?;
    let last = backend.send(Verb::Reserve, "user-1", &reserve(Uuid::now_v7(), 6_000)).await?;
    assert!(ledger.stop().await?);

    let publisher = Publisher::new(&tenant).await?;
    let capture = Uuid::now_v7();
    publisher.publish(capture, Verb::Capture, &format!(r#"{{"hold":"{hold}","amount":"3"}}"#)).await?;
    let stale = Uuid::now_v7();
    publisher.publish(stale, Verb::Reserve, r#"{"amount":"1"}"#).await?;
    let top_up = Uuid::now_v7();
    publisher.publish(top_up, Verb::TopUp, r#"{"amount":"1"}"#).await?;
    let over = last.expires_at.context("a hold's time")?;
    wait::until("the holds' time is over", SOON, async || {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).ok()?;
        (i64::try_from(now.as_millis()).ok()? > over).then_some(())
    })
    .await?;

    let _ledger = Serve::start(&tenant).await?;
    let mut connection = database(&tenant).await?;
    wait::until("the other hold expires", SOON, async || {
        count(&mut connection, "SELECT count(*) FROM ledger_event WHERE kind = 'hold_expired'")
            .await
            .ok()
            .filter(|n| *n == 1)
    })
    .await?;
    let kinds: Vec<(String, Uuid)> =
        sqlx::query_as("SELECT kind, command_id FROM ledger_event WHERE position > 4 ORDER BY position")
            .fetch_all(&mut connection)
            .await?;
    let first: Vec<(&str, Uuid)> = kinds.iter().map(|(kind, id)| (kind.as_str(), *id)).take(3).collect();
    assert_eq!(first, [("captured", capture), ("rejected", stale), ("topped_up", top_up)]);
    assert_eq!((kinds.len(), kinds[3].0.as_str()), (4, "hold_expired"));
    let code =
        "SELECT count(*) FROM ledger_log WHERE body #>> '{fact,rejected,rejection,code}' = 'command_expired'";
    assert_eq!(count(&mut connection, code).await?, 1);
    Ok(())
}

/// Publishes signed commands without waiting for outcomes, with the bus's acknowledgement only.
struct Publisher {
    jetstream: jetstream::Context,
    options: holdfast_client::ClientOptions,
}

impl Publisher {
    async fn new(tenant: &Tenant) -> Result<Self> {
        let options = holdfast_client::ClientOptions {
            nats_url: tenant.nats_url("backend").to_owned(),
            keys: holdfast_tests::keys("backend")?,
            audience: holdfast_tests::AUDIENCE.to_owned(),
        };
        Ok(Publisher { jetstream: jetstream(tenant, "backend").await?, options })
    }

    /// A command that is worth deciding for half a second.
    async fn publish(&self, id: Uuid, verb: Verb, body: &str) -> Result<u64> {
        let body = serde_json::value::RawValue::from_string(body.to_owned())?;
        let valid_for = Duration::from_millis(500);
        let request =
            holdfast_client::Request { id, verb, account: "user-1", body: &body, within: SOON, valid_for };
        let (subject, payload) = holdfast_client::signed(&self.options, &request);
        Ok(self.jetstream.publish(subject, payload).await?.await?.sequence)
    }
}

#[tokio::test]
async fn a_command_stream_deleted_or_set_back_does_nothing_twice() -> Result<()> {
    let tenant = Tenant::new().await?;
    let ledger = Serve::start(&tenant).await?;
    let backend = client(&tenant, "backend").await?;
    backend.fund("user-1", "10").await?;
    let id = Uuid::now_v7();
    let body = r#"{"amount":"1"}"#;
    backend.send_as(id, Verb::Deduct, "user-1", body).await?;
    let operator = jetstream(&tenant, "operator").await?;

    // Deleted while it runs: the ledger makes it anew and goes on.
    operator.delete_stream("LEDGER_COMMANDS").await?;
    let again = backend.send_as(id, Verb::Deduct, "user-1", body).await?;
    assert_eq!((again.position, again.replayed), (Some(3), true));
    assert_eq!(backend.send(Verb::Deduct, "user-1", body).await?.posted.as_deref(), Some("8"));

    // Set back: an older state is a stream with the same first messages and a lower end.
    assert!(ledger.stop().await?);
    let stream = operator.get_stream("LEDGER_COMMANDS").await?;
    let config = stream.cached_info().config.clone();
    let older = stream.get_raw_message(stream.cached_info().state.first_sequence).await?;
    operator.delete_stream("LEDGER_COMMANDS").await?;
    operator.create_stream(config).await?;
    let publisher = jetstream(&tenant, "ledger").await?;
    publisher.publish(older.subject.clone(), older.payload.clone()).await?.await?;
    let _ledger = Serve::start(&tenant).await?;
    assert_eq!(backend.send(Verb::Deduct, "user-1", body).await?.posted.as_deref(), Some("7"));
    let mut connection = database(&tenant).await?;
    assert_eq!(count(&mut connection, "SELECT count(*) FROM ledger_event WHERE kind = 'deducted'").await?, 3);
    Ok(())
}

#[tokio::test]
async fn a_take_over_folds_what_the_projections_lack() -> Result<()> {
    let tenant = Tenant::new().await?;
    let ledger = Serve::start(&tenant).await?;
    let backend = client(&tenant, "backend").await?;
    backend.fund("user-1", "10").await?;
    let send = async |verb, user: &str, body: &str| backend.send(verb, user, body).await;
    let reserve = |job: &str| format!(r#"{{"amount":2,"job_id":"{job}","late":"charge"}}"#);
    let capture = |job: &str, amount| format!(r#"{{"amount":{amount},"job_id":"{job}"}}"#);
    send(Verb::Reserve, "user-1", &reserve("ended before")).await?;
    send(Verb::Reserve, "user-1", &reserve("open before")).await?;
    let release = r#"{"job_id":"ended before"}"#;
    let projected = send(Verb::Release, "user-1", release).await?.position.context("a position")?;
    let mut connection = database(&tenant).await?;
    let checkpoint = "SELECT position FROM projection.checkpoint";
    wait::until("the projections have it", SOON, async || {
        (count(&mut connection, checkpoint).await.ok()? == projected).then_some(())
    })
    .await?;

    // From here on every step of the projector fails.
    let refuse = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
                      $$ BEGIN RAISE 'no step while this test runs'; END $$;
                  CREATE TRIGGER refuse BEFORE UPDATE ON projection.checkpoint
                      FOR EACH ROW EXECUTE FUNCTION refuse()";
    connection.execute(refuse).await?;
    backend.fund("user-2", "3").await?;
    send(Verb::Reserve, "user-2", &reserve("begun after")).await?;
    send(Verb::Reserve, "user-1", &reserve("begun and ended after")).await?;
    send(Verb::Capture, "user-1", &capture("begun and ended after", 2)).await?;
    send(Verb::Capture, "user-1", &capture("open before", 1)).await?;
    // The one kind of event that changes a hold which the projections say has ended.
    let late = send(Verb::Capture, "user-1", &capture("ended before", 2)).await?;
    assert_eq!(late.kind, "captured_late");
    ledger.kill().await?;
    assert_eq!(count(&mut connection, checkpoint).await?, projected);

    let ledger = Serve::start(&tenant).await?;
    assert_eq!(send(Verb::Deduct, "user-1", r#"{"amount":5}"#).await?.posted.as_deref(), Some("0"));
    let again = send(Verb::Capture, "user-1", &capture("ended before", 1)).await?;
    assert_eq!(again.code.as_deref(), Some("hold_settled"));
    let settled = send(Verb::Capture, "user-2", &capture("begun after", 1)).await?;
    assert_eq!((settled.posted.as_deref(), settled.held.as_deref()), (Some("2"), Some("0")));

    connection.execute("DROP TRIGGER refuse ON projection.checkpoint").await?;
    let end = count(&mut connection, "SELECT position FROM ledger_head").await?;
    wait::until("the projector goes on", SOON, async || {
        (count(&mut connection, checkpoint).await.ok()? == end).then_some(())
    })
    .await?;
    assert!(ledger.stop().await?);
    let verified = holdfast_tests::run(&tenant, &["verify"]).await?;
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    Ok(())
}

#[tokio::test]
async fn far_more_accounts_than_fit_into_memory_are_loaded_and_let_go() -> Result<()> {
    let tenant = Tenant::new().await?;
    let _ledger = Serve::start_with(&tenant, &["--accounts-max", "10"]).await?;
    let backend = client(&tenant, "backend").await?;
    let accounts: Vec<String> = (0..200).map(|n| format!("user-{n}")).collect();
    for account in &accounts {
        backend.fund(account, "1").await?;
    }
    // Holds of accounts that have left memory are found again, in whatever state they are.
    let jobs = ["open", "settled", "released"];
    for account in &accounts {
        for job in jobs {
            backend.send(Verb::Reserve, account, &format!(r#"{{"amount":"0.1","job_id":"{job}"}}"#)).await?;
        }
        backend.send(Verb::Capture, account, r#"{"job_id":"settled","amount":"0.05"}"#).await?;
        backend.send(Verb::Release, account, r#"{"job_id":"released"}"#).await?;
    }
    for account in &accounts {
        for job in jobs {
            let again = backend
                .send(Verb::Reserve, account, &format!(r#"{{"amount":"0.1","job_id":"{job}"}}"#))
                .await?;
            assert_eq!(again.code.as_deref(), Some("hold_exists"), "{account} {job}");
        }
        let late = backend.send(Verb::Capture, account, r#"{"job_id":"released"}"#).await?;
        assert_eq!(late.code.as_deref(), Some("hold_released"));
        let captured = backend.send(Verb::Capture, account, r#"{"job_id":"open","amount":"0.02"}"#).await?;
        assert_eq!((captured.posted.as_deref(), captured.held.as_deref()), (Some("0.93"), Some("0")));
    }
    Ok(())
}

#[tokio::test]
async fn what_is_applied_and_old_is_trimmed_but_for_the_last() -> Result<()> {
    let tenant = Tenant::new().await?;
    let ledger = Serve::start(&tenant).await?;
    let backend = client(&tenant, "backend").await?;
    backend.fund("user-1", "10").await?;
    let id = Uuid::now_v7();
    backend.send_as(id, Verb::Deduct, "user-1", r#"{"amount":"1"}"#).await?;
    assert!(ledger.stop().await?);
    let _ledger = Serve::start_with(&tenant, &["--keep-hours", "0"]).await?;
    let operator = jetstream(&tenant, "operator").await?;
    wait::until("the stream is trimmed", SOON, async || {
        let stream = operator.get_stream("LEDGER_COMMANDS").await.ok()?;
        let state = &stream.cached_info().state;
        (state.messages == 1 && state.first_sequence == 3).then_some(())
    })
    .await?;
    let again = backend.send_as(id, Verb::Deduct, "user-1", r#"{"amount":"1"}"#).await?;
    assert_eq!((again.position, again.replayed), (Some(3), true));
    Ok(())
}

#[tokio::test]
async fn a_command_stream_that_is_nearly_full_is_trimmed_before_its_time() -> Result<()> {
    let tenant = Tenant::new().await?;
    let ledger = Serve::start(&tenant).await?;
    let backend = client(&tenant, "backend").await?;
    backend.fund("user-1", "10").await?;
    let owner = jetstream(&tenant, "ledger").await?;
    let mut config = owner.get_stream("LEDGER_COMMANDS").await?.cached_info().config.clone();
    config.max_messages = 20;
    owner.update_stream(config).await?;
    for _ in 0..15 {
        backend.send(Verb::Deduct, "user-1", r#"{"amount":"0.1"}"#).await?;
    }
    assert!(ledger.stop().await?);
    let _ledger = Serve::start(&tenant).await?;
    wait::until("the older half is gone", SOON, async || {
        let stream = owner.get_stream("LEDGER_COMMANDS").await.ok()?;
        (stream.cached_info().state.first_sequence == 7).then_some(())
    })
    .await?;
    for _ in 0..9 {
        assert!(backend.send(Verb::Deduct, "user-1", r#"{"amount":"0.1"}"#).await?.accepted());
    }
    Ok(())
}

#[tokio::test]
async fn headers_that_the_nats_client_cannot_take_hold_nobody_up() -> Result<()> {
    let tenant = Tenant::new().await?;
    let ledger = Serve::start(&tenant).await?;
    let backend = client(&tenant, "backend").await?;
    backend.fund("user-1", "10").await?;
    // By hand: no client library would send these. One cannot be parsed, the other breaks a client.
    for header in [&b"A: \xff"[..], b"A: x\ry"] {
        publish_by_hand(tenant.nats_url("auth"), "ledger.cmd.auth.open_account.x", header, 300).await?;
        publish_by_hand(tenant.nats_url("auth"), "ledger.svc.health", header, 1).await?;
        assert!(backend.send(Verb::Deduct, "user-1", r#"{"amount":"1"}"#).await?.accepted());
    }
    assert!(ledger.stop().await?);
    let ledger = Serve::start(&tenant).await?;
    assert!(backend.send(Verb::Deduct, "user-1", r#"{"amount":"1"}"#).await?.accepted());
    let http = holdfast_tests::http::Http::new(ledger.http(), Some(holdfast_tests::TOKEN));
    wait::until("everything is well", SOON, async || {
        (http.get("/monitoring/health").await.ok()?.status == 200).then_some(())
    })
    .await?;
    wait::until("queries are answered", SOON, async || {
        let asked = backend.0.nats().request("ledger.svc.balance.user-1", "".into()).await.ok()?;
        String::from_utf8_lossy(&asked.payload).contains(r#""posted":"7""#).then_some(())
    })
    .await
}

/// Publishes with raw header bytes, so many times, and waits until the server has taken it all.
async fn publish_by_hand(url: &str, subject: &str, header: &[u8], times: usize) -> Result<()> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let address: async_nats::ServerAddr = url.parse()?;
    let login = (address.username().unwrap_or_default(), address.password().unwrap_or_default());
    let mut socket = tokio::net::TcpStream::connect((address.host(), address.port())).await?;
    let connect = serde_json::json!({
        "verbose": false, "headers": true, "no_responders": true, "user": login.0, "pass": login.1, "lang": "hand",
        "version": "1",
    });
    let headers = [b"NATS/1.0\r\n", header, b"\r\n\r\n"].concat();
    let line = format!("HPUB {subject} {0} {0}\r\n", headers.len());
    let messages = [line.as_bytes(), &headers, b"\r\n"].concat().repeat(times);
    let connect = format!("CONNECT {connect}\r\n");
    socket.write_all(&[connect.as_bytes(), &messages, b"PING\r\n"].concat()).await?;
    let (mut answer, mut bytes) = (String::new(), [0; 4096]);
    while !answer.contains("PONG") {
        let read = tokio::time::timeout(SOON, socket.read(&mut bytes)).await??;
        ensure!(read > 0, "the server hung up: {answer}");
        answer += &String::from_utf8_lossy(&bytes[..read]);
    }
    Ok(())
}

#[tokio::test]
async fn a_command_that_breaks_the_commit_is_set_aside_alone() -> Result<()> {
    let tenant = Tenant::new().await?;
    let _ledger = Serve::start(&tenant).await?;
    let backend = client(&tenant, "backend").await?;
    backend.fund("user-1", "10").await?;
    let mut connection = database(&tenant).await?;
    connection
        .execute("ALTER TABLE ledger_event ADD CONSTRAINT poison CHECK (kind <> 'deducted' OR amount <> 666000000)")
        .await?;
    let all = (1..=40).map(|n| {
        let body = if n == 17 { r#"{"amount":"0.666"}"# } else { r#"{"amount":"0.001"}"# };
        backend.send(Verb::Deduct, "user-1", body)
    });
    let outcomes = join_all(all).await.into_iter().collect::<Result<Vec<_>>>()?;
    let quarantined: Vec<_> = outcomes.iter().filter(|o| o.code.as_deref() == Some("quarantined")).collect();
    assert_eq!((quarantined.len(), outcomes.iter().filter(|outcome| outcome.accepted()).count()), (1, 39));
    assert!(
        backend.send(Verb::Deduct, "user-1", r#"{"amount":"0.001"}"#).await?.posted.as_deref()
            == Some("9.96")
    );
    let operator = jetstream(&tenant, "operator").await?;
    wait::until("the envelope is in LEDGER_REFUSED", SOON, async || {
        let stream = operator.get_stream("LEDGER_REFUSED").await.ok()?;
        let message = stream.get_last_raw_message_by_subject("ledger.dlq.quarantined").await.ok()?;
        String::from_utf8_lossy(&message.payload).contains("0.666").then_some(())
    })
    .await
}

#[tokio::test]
async fn a_writer_that_was_replaced_writes_nothing_and_stops() -> Result<()> {
    let tenant = Tenant::new().await?;
    let backend = client(&tenant, "backend").await?;
    let mut ledger = Serve::start(&tenant).await?;
    backend.fund("user-1", "1000").await?;
    for round in 0..5 {
        let load = (0..50).map(|_| {
            let backend = backend.clone();
            async move { backend.send(Verb::Deduct, "user-1", r#"{"amount":"0.01"}"#).await }
        });
        let load = tokio::spawn(join_all(load));
        ledger.signal(Signal::STOP)?;
        let successor = Serve::start(&tenant).await?;
        ledger.signal(Signal::CONT)?;
        for outcome in load.await? {
            ensure!(outcome?.accepted(), "round {round}");
        }
        assert!(!ledger.ended().await?, "a fenced ledger ends with an error");
        ledger = successor;
    }
    let mut connection = database(&tenant).await?;
    // Epochs never go back along the log: nothing of an old writer stands behind a new one's.
    let stale = "SELECT count(*) FROM ledger_event a JOIN ledger_event b ON b.position = a.position + 1 WHERE b.epoch < a.epoch";
    assert_eq!(count(&mut connection, stale).await?, 0);
    assert_eq!(
        count(&mut connection, "SELECT count(*) FROM ledger_event WHERE kind = 'deducted'").await?,
        250
    );
    Ok(())
}

#[tokio::test]
async fn a_lost_events_stream_is_filled_again_and_a_foreign_one_stops_the_relay() -> Result<()> {
    let tenant = Tenant::new().await?;
    let ledger = Serve::start(&tenant).await?;
    let backend = client(&tenant, "backend").await?;
    backend.fund("user-1", "10").await?;
    let operator = jetstream(&tenant, "operator").await?;
    let relayed = async |position: u64| {
        wait::until("the events are relayed", SOON, async || {
            let stream = operator.get_stream("LEDGER_EVENTS").await.ok()?;
            (stream.cached_info().state.last_sequence == position).then_some(())
        })
        .await
    };
    relayed(2).await?;
    operator.delete_stream("LEDGER_EVENTS").await?;
    backend.send(Verb::Deduct, "user-1", r#"{"amount":"1"}"#).await?;
    relayed(3).await?;

    let stranger = jetstream(&tenant, "ledger").await?;
    stranger.publish("ledger.evt.topped_up.user-1", "{}".into()).await?.await?;
    backend.send(Verb::Deduct, "user-1", r#"{"amount":"1"}"#).await?;
    let http = holdfast_tests::http::Http::new(ledger.http(), Some(holdfast_tests::TOKEN));
    wait::until("the relay has stopped and says what to do", SOON, async || {
        let health = http.get("/monitoring/health").await.ok()?;
        let told = health.body["parts"]["relay"].as_str()?.contains("holdfast relay rebuild");
        (health.status == 503 && told).then_some(())
    })
    .await?;
    let output = holdfast_tests::run(&tenant, &["relay", "rebuild"]).await?;
    ensure!(output.status.success(), "{output:?}");
    relayed(4).await?;
    wait::until("everything is well again", SOON, async || {
        (http.get("/monitoring/health").await.ok()?.status == 200).then_some(())
    })
    .await
}
