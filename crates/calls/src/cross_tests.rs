//! What the client in Python left is settled by this one; `test_cross.py` there is the other way
//! round. Both journals are of the same calls, left at the same points.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use holdfast_core::body::Capture;
use holdfast_core::usage::Quote;
use holdfast_core::{Asset, Issuer, UsageSource, Verb};
use rusqlite::Connection;
use rusqlite::types::Value;
use tokio::time::Instant;

use crate::call::{Ask, Call, OnAbort, Terms};
use crate::desk::{Desk, Waits};
use crate::driver::{self, Order};
use crate::hold::Hold;
use crate::journal::Journal;
use crate::journal::testing::Folder;
use crate::plan::testing::tokens;
use crate::recover::recover;
use crate::settlement::End;
use crate::sizing::{Samples, Sizing};

const SCHEMA: &str = include_str!("journal.sql");
/// Set to write the fixture anew.
const WRITE: &str = "HOLDFAST_WRITE_FIXTURES";
const FIRST_LINE: &str =
    "-- Written by `HOLDFAST_WRITE_FIXTURES=1 cargo test -p holdfast-calls journal_is_left`.\n";
const WAITS: Waits = Waits { settle: Duration::from_millis(20), drain: Duration::ZERO };

fn from_rust() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/journal-from-rust.sql")
}

fn from_python() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../clients/python/tests/journal-from-python.sql")
}

fn answer(journal: &Journal, order: Order) {
    let outcome = serde_json::json!({
        "id": order.id, "kind": "captured", "account": order.account, "replayed": false,
    });
    driver::finish(journal, order, Ok(serde_json::from_value(outcome).expect("an outcome")));
}

/// A hold of the call, reserved unless it is left before that.
async fn held(desk: &Arc<Desk>, account: &str) -> Hold {
    let quote: Quote = serde_json::from_value(serde_json::json!({
        "provider": "google", "model": "gemini-2.5-flash", "variant": null, "book": "0".repeat(64),
        "effective_from": null, "rates": {"input": [[0, 300_000]], "output": [[0, 2_500_000]]},
    }))
    .expect("a quote");
    let call = Call::new(account, "gemini-2.5-flash", 1200, 4000);
    let terms = Terms {
        quote: &quote,
        issuer: &Issuer::new("backend").expect("legal"),
        asset: Asset::USD,
        ttl: Duration::from_secs(600),
        samples: &desk.samples,
        max_output_tokens: call.max_output_tokens,
        sizing: Sizing::WorstCase,
    };
    let Ask { plan, body, ttl } = call.ask(&terms).expect("a reserve");
    let (hold, id) = (plan.hold, plan.reserve_id);
    desk.journal.reserving(hold, account.to_owned(), id, body.get().to_owned()).await.expect("written");
    let mut hold = Hold::new(Arc::clone(desk), plan, call.max_output_tokens, OnAbort::Delivered);
    hold.written();
    if account != "reserving" {
        let outcome = serde_json::json!({
            "id": id, "kind": "reserved", "account": account, "replayed": false,
        });
        hold.accepted(serde_json::from_value(outcome).expect("an outcome"), ttl, Instant::now());
    }
    hold
}

/// The text with ids and times left out, which differ from run to run.
fn shape(text: &str) -> String {
    let mut shape = String::with_capacity(text.len());
    let mut word = String::new();
    for character in text.chars().chain(['\n']) {
        if character.is_ascii_hexdigit() || character == '-' {
            word.push(character);
            continue;
        }
        let varies = word.len() >= 13 && word.bytes().any(|b| b.is_ascii_digit());
        shape.push_str(if varies { "#" } else { &word });
        shape.push(character);
        word.clear();
    }
    shape
}

/// Leaves a journal as a process does that dies; it is what tests/journal-from-rust.sql has, which
/// Python recovers.
#[tokio::test]
async fn the_journal_is_left_as_the_fixture_has_it() {
    let folder = Folder::new();
    let journal = Journal::open(&folder.file()).await.expect("opened");
    let (desk, _orders) = Desk::new(journal.clone(), Asset::USD, WAITS, Samples::default());
    for account in
        ["reserving", "reserved", "kept", "reported", "delivered", "settling", "part", "part and rest"]
    {
        let mut hold = held(&desk, account).await;
        if !matches!(account, "reserving" | "reserved") {
            hold.dispatched().await.expect("written");
        }
        match account {
            "reported" => hold.observe(tokens(r#"{"input":2000,"output":9000}"#)),
            "delivered" => hold.observe_text(&"x".repeat(42)),
            "settling" => {
                let end = End::Completed(Some(tokens(r#"{"input":1000,"output":250}"#)));
                hold.settle(end).await.expect_err("nobody answers here");
                continue;
            }
            "part" | "part and rest" => {
                hold.capture_part(tokens(r#"{"input":1000}"#)).await.expect_err("nobody answers here");
                if account == "part and rest" {
                    hold.observe(tokens(r#"{"input":1000,"output":250}"#));
                }
            }
            _ => {}
        }
        desk.live.write_delivered(&journal);
        // A process that dies drops nothing.
        std::mem::forget(hold);
    }
    journal.close().await;
    let connection = Connection::open(folder.file()).expect("opened");
    let mut select = connection.prepare("SELECT * FROM hold ORDER BY created_ms, hold").expect("SQL");
    let columns = select.column_count();
    let mut rows = select.query([]).expect("rows");
    let mut text = format!("{FIRST_LINE}{SCHEMA}");
    while let Some(row) = rows.next().expect("a row") {
        let values = (0..columns).map(|column| match row.get(column).expect("a value") {
            Value::Null => "NULL".to_owned(),
            Value::Integer(number) => number.to_string(),
            Value::Text(text) => format!("'{}'", text.replace('\'', "''")),
            other => panic!("{other:?} is in no column"),
        });
        text.push_str(&format!("INSERT INTO hold VALUES ({});\n", values.collect::<Vec<_>>().join(", ")));
    }
    if std::env::var_os(WRITE).is_some() {
        fs::write(from_rust(), text).expect("written");
        return;
    }
    assert_eq!(shape(&fs::read_to_string(from_rust()).expect("the fixture")), shape(&text));
}

#[tokio::test]
async fn what_another_client_left_is_settled() {
    for path in [from_python(), from_rust()] {
        let text = fs::read_to_string(&path).expect("a journal as SQL");
        assert!(text.contains(SCHEMA), "{path:?} is stale: write it anew, as its first line says");
        let folder = Folder::new();
        let connection = Connection::open(folder.file()).expect("opened");
        connection.execute_batch(&text).expect("SQL");
        drop(connection);

        let journal = Journal::open(&folder.file()).await.expect("a journal");
        let left = journal.unfinished_rows().await.expect("read");
        let (desk, mut orders) = Desk::new(journal, Asset::USD, WAITS, Samples::default());
        recover(&desk).await.expect("read");
        let mut sent = Vec::new();
        // The journal hands an order on once it is written.
        while let Ok(Some(order)) = tokio::time::timeout(Duration::from_millis(200), orders.recv()).await {
            sent.push(told(&order));
            let row = left.iter().find(|row| row.hold == order.hold).expect("a row");
            let is_again = row.settle_id.as_ref() == Some(&order.id.to_string());
            assert!(!is_again || row.settle_body.as_ref() == Some(&order.body), "the same bytes");
            answer(&desk.journal, order);
        }
        let expected = [
            "delivered: capture 0.0003875 aborted Delivered",
            "part and rest: capture 0.0003 part Reported",
            "part and rest: capture 0.000625 aborted Reported",
            "part: capture 0.0003 part Reported",
            "reported: capture 0.0231 aborted Reported",
            "reserved: release",
            "reserving: release",
            "settling: capture 0.000925 completed Reported",
        ];
        sent.sort();
        assert_eq!(sent, expected, "{path:?}");
        for row in left {
            let ended = desk.journal.row(row.hold).await.expect("read").expect("there").ending;
            let is_kept = matches!(row.account.as_str(), "kept" | "part");
            assert_eq!(ended.as_deref() == Some("kept"), is_kept, "{}: {ended:?}", row.account);
        }
    }
}

fn told(order: &Order) -> String {
    let (account, verb) = (order.account.as_str(), order.verb.as_str());
    if order.verb == Verb::Release {
        return format!("{account}: {verb}");
    }
    let body: Capture = serde_json::from_str(&order.body).expect("a capture");
    let source: UsageSource = body.usage.expect("usage").source;
    let (amount, reason) = (body.amount.expect("an amount"), body.reason.expect("a reason"));
    format!("{account}: {verb} {amount} {} {source:?}", reason.as_str())
}
