//! What becomes of a hold, by what its journal and its driver are told.

use futures_util::FutureExt as _;
use holdfast_core::body::Capture;
use holdfast_core::{Asset, Verb};
use tokio::sync::mpsc::UnboundedReceiver;

use super::*;
use crate::desk::Waits;
use crate::driver::Order;
use crate::journal::testing::Folder;
use crate::journal::{Journal, Row, State};
use crate::plan::testing::{plan, reserve_body, tokens};
use crate::sizing::Samples;

struct Bench {
    _folder: Folder,
    desk: Arc<Desk>,
    orders: UnboundedReceiver<Order>,
}

async fn bench() -> Bench {
    let folder = Folder::new();
    let journal = Journal::open(&folder.file()).await.expect("opened");
    let waits = Waits { settle: Duration::from_millis(20), drain: Duration::from_secs(5) };
    let (desk, orders) = Desk::new(journal, Asset::USD, waits, Samples::default());
    Bench { _folder: folder, desk, orders }
}

impl Bench {
    /// A hold that was reserved.
    async fn hold(&self, on_abort: OnAbort) -> Hold {
        let plan = plan();
        let (account, body) = (plan.account.to_string(), reserve_body(&plan));
        self.desk.journal.reserving(plan.hold, account, plan.reserve_id, body).await.expect("written");
        let mut hold = Hold::new(Arc::clone(&self.desk), plan, 500, on_abort);
        hold.written();
        hold
    }

    async fn row(&self, hold: HoldId) -> Row {
        self.desk.journal.row(hold).await.expect("read").expect("there")
    }
}

#[tokio::test]
async fn dropped_before_it_was_sent_it_is_released() {
    let mut bench = bench().await;
    let hold = bench.hold(OnAbort::Delivered).await;
    let id = hold.id();
    drop(hold);
    let row = bench.row(id).await;
    assert_eq!((row.state, row.settle_verb.as_deref()), (State::Settling, Some("release")));
    assert!(row.settle_body.as_deref().is_some_and(|body| body.contains("not_dispatched")));
    let order = bench.orders.recv().await.expect("sent");
    assert_eq!((order.verb, Some(order.body)), (Verb::Release, row.settle_body), "the bytes of the journal");
}

#[tokio::test]
async fn dropped_after_it_was_sent_it_captures_what_was_observed() {
    type Case = (&'static str, fn(&mut Hold), Option<(&'static str, UsageSource)>);
    let cases: [Case; 7] = [
        ("nothing is known", |_| {}, None),
        ("a report without a price", |hold| hold.observe(tokens(r#"{"pages":1,"output":2}"#)), None),
        ("only the start of a stream", |hold| hold.observe(tokens(r#"{"input":5}"#)), None),
        ("text", |hold| hold.observe_text("12345"), Some(("0.00102", UsageSource::Delivered))),
        ("much text", |hold| hold.observe_text(&"x".repeat(9000)), Some(("0.006", UsageSource::Delivered))),
        (
            "a report in parts",
            |hold| {
                hold.observe_text("123456789");
                hold.observe(tokens(r#"{"input":2000,"output":1}"#));
                hold.observe(tokens(r#"{"output":7}"#));
                hold.observe_text("text does not count beside a report");
            },
            Some(("0.00207", UsageSource::Reported)),
        ),
        (
            "a report of zeros",
            |hold| hold.observe(tokens(r#"{"input":0,"output":0}"#)),
            Some(("0", UsageSource::Reported)),
        ),
    ];
    for (what, observe, expected) in cases {
        let mut bench = bench().await;
        let mut hold = bench.hold(OnAbort::Delivered).await;
        let id = hold.id();
        hold.dispatched().await.expect("written");
        observe(&mut hold);
        drop(hold);
        let row = bench.row(id).await;
        let Some((amount, source)) = expected else {
            assert_eq!((row.state, row.ending.as_deref()), (State::Ended, Some("kept")), "{what}");
            continue;
        };
        assert_eq!(row.state, State::Settling, "{what}");
        let body: Capture = serde_json::from_str(&row.settle_body.expect("a body")).expect("a capture");
        assert_eq!(body.amount, amount.parse().ok(), "{what}");
        assert_eq!(body.usage.map(|usage| usage.source), Some(source), "{what}");
        assert_eq!(body.reason.expect("a reason").as_str(), "aborted", "{what}");
        assert_eq!(bench.orders.recv().await.expect("sent").hold, id, "{what}");
    }
}

#[tokio::test]
async fn a_report_is_in_the_journal_before_the_end() {
    let bench = bench().await;
    let mut hold = bench.hold(OnAbort::Delivered).await;
    hold.dispatched().await.expect("written");
    hold.observe(tokens(r#"{"output":7}"#));
    let row = bench.row(hold.id()).await;
    assert_eq!(row.observed.as_deref(), Some(r#"{"input":1000,"output":7}"#));
    assert_eq!(row.observed_source.as_deref(), Some("reported"));
    hold.keep();
}

#[tokio::test]
async fn a_settlement_without_an_outcome_is_pending_and_written() {
    let mut bench = bench().await;
    let mut hold = bench.hold(OnAbort::Delivered).await;
    let id = hold.id();
    hold.dispatched().await.expect("written");
    let settled = hold.capture(tokens(r#"{"input":1,"output":2}"#)).await;
    assert!(matches!(settled, Err(SettleError::Pending(hold)) if hold == id), "{settled:?}");
    assert_eq!(bench.row(id).await.state, State::Settling);
    assert_eq!(bench.orders.recv().await.expect("sent").hold, id);
    assert!(bench.orders.try_recv().is_err(), "once");
}

#[tokio::test]
async fn an_abandoned_stream_is_read_on_by_policy() {
    for (policy, amount) in [(OnAbort::Drain, "0.00109"), (OnAbort::Delivered, "0.00101")] {
        let mut bench = bench().await;
        let mut hold = bench.hold(policy).await;
        hold.dispatched().await.expect("written");
        hold.observe_text("1");
        hold.abandon(async { Some(tokens(r#"{"input":1000,"output":9}"#)) });
        let order = bench.orders.recv().await.expect("sent");
        let body: Capture = serde_json::from_str(&order.body).expect("a capture");
        assert_eq!(body.amount, amount.parse().ok(), "{policy:?}");
    }
}

/// What the driver does when the ledger has answered.
fn answer(bench: &Bench, order: Order, code: Option<&str>) {
    let mut outcome = serde_json::json!({
        "id": order.id, "kind": "captured", "account": "user-1", "replayed": false,
    });
    if let Some(code) = code {
        outcome["code"] = code.into();
    }
    driver::finish(&bench.desk.journal, order, Ok(serde_json::from_value(outcome).expect("an outcome")));
}

fn captured(order: &Order) -> Capture {
    serde_json::from_str(&order.body).expect("a capture")
}

#[tokio::test]
async fn a_part_is_written_before_it_is_sent_and_the_call_goes_on() {
    let mut bench = bench().await;
    let mut hold = bench.hold(OnAbort::Delivered).await;
    let id = hold.id();
    hold.dispatched().await.expect("written");
    hold.observe(tokens(r#"{"input":10,"output":7}"#));
    let part = hold.capture_part(tokens(r#"{"input":10,"output":7}"#)).await;
    assert!(matches!(part, Err(SettleError::Pending(_))), "nobody answers here: {part:?}");
    let (row, order) = (bench.row(id).await, bench.orders.recv().await.expect("sent"));
    assert_eq!((row.state, row.observed), (State::Settling, None));
    assert_eq!((row.settle_id, row.settle_body), (Some(order.id.to_string()), Some(order.body.clone())));
    assert_eq!((captured(&order).is_final, captured(&order).amount), (Some(false), "0.00008".parse().ok()));
    hold.observe(tokens(r#"{"output":8}"#));
    let beside = Some(r#"{"input":0,"output":1}"#);
    assert_eq!(bench.row(id).await.observed.as_deref(), beside, "beside the part");
    answer(&bench, order, None);
    let row = bench.row(id).await;
    assert_eq!((row.state, row.settle_id, row.settle_body), (State::Dispatched, None, None));
    assert_eq!(row.observed.as_deref(), beside);
    drop(hold);
    let last = captured(&bench.orders.recv().await.expect("sent"));
    assert_eq!((last.is_final, last.amount), (None, "0.00001".parse().ok()), "no input twice");
}

#[tokio::test]
async fn the_end_waits_for_a_part_and_charges_what_that_did_not() {
    let cases = [(None, "0.00001"), (Some("exceeds_hold"), "0.00009")];
    for (code, amount) in cases {
        let mut bench = bench().await;
        let mut hold = bench.hold(OnAbort::Delivered).await;
        let id = hold.id();
        hold.dispatched().await.expect("written");
        let part = hold.capture_part(tokens(r#"{"input":10,"output":7}"#)).await;
        assert!(matches!(part, Err(SettleError::Pending(_))), "{part:?}");
        let again = hold.capture_part(tokens(r#"{"input":1}"#)).await;
        assert!(matches!(again, Err(SettleError::Pending(_))), "one at a time: {again:?}");
        let report = tokens(r#"{"input":10,"output":8}"#);
        hold.settle(End::Completed(Some(report))).await.expect_err("nobody answers here");
        let part = bench.orders.recv().await.expect("sent");
        assert!(bench.orders.try_recv().is_err(), "the end comes after it");
        let row = bench.row(id).await;
        let beside = Some(r#"{"input":0,"output":1}"#);
        assert_eq!((row.state, row.observed.as_deref()), (State::Settling, beside));
        answer(&bench, part, code);
        let end = bench.orders.recv().await.expect("sent");
        assert_eq!((captured(&end).is_final, captured(&end).amount), (None, amount.parse().ok()), "{code:?}");
        assert_eq!(bench.row(id).await.settle_id, Some(end.id.to_string()));
        answer(&bench, end, None);
        assert_eq!(bench.row(id).await.state, State::Ended);
    }
}

#[tokio::test]
async fn what_a_rejected_part_did_not_charge_is_charged_at_the_end() {
    let mut bench = bench().await;
    let mut hold = bench.hold(OnAbort::Delivered).await;
    let id = hold.id();
    hold.dispatched().await.expect("written");
    hold.observe(tokens(r#"{"input":10,"output":7}"#));
    hold.capture_part(tokens(r#"{"input":10,"output":7}"#)).await.expect_err("nobody answers here");
    let order = bench_order(&mut bench).await;
    answer(&bench, order, Some("exceeds_hold"));
    let observed = Some(r#"{"input":10,"output":7}"#);
    assert_eq!(bench.row(id).await.observed.as_deref(), observed, "should the process die now");
    let part = hold.capture_part(tokens(r#"{"input":10,"output":7}"#)).await;
    assert!(matches!(part, Err(SettleError::Rejected(_))), "{part:?}");
    assert_eq!(bench.row(id).await.observed.as_deref(), observed);
    drop(hold);
    assert_eq!(captured(&bench_order(&mut bench).await).amount, "0.00008".parse().ok());
}

#[tokio::test]
async fn a_call_with_a_price_of_its_own_is_in_the_first_part() {
    let mut bench = bench().await;
    let mut hold = bench.hold(OnAbort::Delivered).await;
    hold.plan.usage.rates =
        serde_json::from_str(r#"{"input":[[0,1000000]],"output":[[0,10000000]],"request":[[0,5000000000]]}"#)
            .expect("rates");
    price::set(&mut hold.plan.usage.tokens, price::REQUEST, 1);
    hold.dispatched().await.expect("written");
    for amount in ["0.00501", "0.00001"] {
        hold.capture_part(tokens(r#"{"output":1}"#)).await.expect_err("nobody answers here");
        let order = bench_order(&mut bench).await;
        assert_eq!(captured(&order).amount, amount.parse().ok());
        answer(&bench, order, None);
    }
    let nothing = hold.capture_part(tokens(r#"{"output":0}"#)).await;
    assert!(matches!(nothing, Ok(None)), "{nothing:?}");
    hold.keep();
}

async fn bench_order(bench: &mut Bench) -> Order {
    bench.orders.recv().await.expect("sent")
}

#[tokio::test]
async fn a_hold_that_was_never_written_settles_nobody_elses() {
    let mut bench = bench().await;
    let other = bench.hold(OnAbort::Delivered).await;
    let mut same = plan();
    same.hold = other.id();
    drop(Hold::new(Arc::clone(&bench.desk), same, 500, OnAbort::Delivered));
    assert_eq!(bench.row(other.id()).await.state, State::Reserving);
    assert!(bench.orders.try_recv().is_err());
    drop(other);
    assert!(bench.orders.recv().await.is_some());
}

#[tokio::test]
async fn a_part_that_nobody_waits_for_any_more_is_charged_once() {
    for (code, amount) in [(None, "0.00002"), (Some("exceeds_hold"), "0.0001")] {
        let mut bench = bench().await;
        let mut hold = bench.hold(OnAbort::Delivered).await;
        let id = hold.id();
        hold.dispatched().await.expect("written");
        hold.observe(tokens(r#"{"input":10,"output":9}"#));
        // Dropped while the journal writes.
        assert!(hold.capture_part(tokens(r#"{"input":10,"output":7}"#)).now_or_never().is_none());
        let order = bench_order(&mut bench).await;
        let row = bench.row(id).await;
        assert_eq!((row.state, row.settle_id), (State::Settling, Some(order.id.to_string())), "{code:?}");
        assert_eq!(
            row.observed.as_deref(),
            Some(r#"{"input":0,"output":2}"#),
            "only what it charges is taken out"
        );
        let again = hold.capture_part(tokens(r#"{"output":1}"#)).await;
        assert!(matches!(again, Err(SettleError::Pending(_))), "{again:?}");
        drop(hold);
        assert!(bench.orders.try_recv().is_err(), "the end waits for it");
        answer(&bench, order, code);
        let end = bench_order(&mut bench).await;
        assert_eq!((captured(&end).is_final, captured(&end).amount), (None, amount.parse().ok()), "{code:?}");
        assert_eq!(bench.row(id).await.settle_id, Some(end.id.to_string()));
    }
}

#[tokio::test]
async fn a_part_that_the_journal_does_not_take_is_not_sent() {
    let mut bench = bench().await;
    let mut hold = bench.hold(OnAbort::Delivered).await;
    hold.dispatched().await.expect("written");
    bench.desk.journal.close().await;
    let part = hold.capture_part(tokens(r#"{"input":10,"output":7}"#)).await;
    assert!(matches!(part, Err(SettleError::Journal(JournalError::Closed))), "{part:?}");
    assert!(bench.orders.try_recv().is_err());
    drop(hold);
    let end = bench_order(&mut bench).await;
    assert_eq!((captured(&end).is_final, captured(&end).amount), (None, "0.00008".parse().ok()));
}

#[tokio::test]
async fn dispatched_again_begins_another_provider_call() {
    let mut bench = bench().await;
    let mut hold = bench.hold(OnAbort::Delivered).await;
    let id = hold.id();
    hold.dispatched().await.expect("written");
    hold.observe(tokens(r#"{"input":10,"output":7}"#));
    hold.capture_part(tokens(r#"{"input":10,"output":5}"#)).await.expect_err("nobody answers here");
    let order = bench_order(&mut bench).await;
    let early = hold.dispatched().await;
    assert!(matches!(early, Err(JournalError::State(_))), "a part is on its way: {early:?}");
    answer(&bench, order, None);
    bench.row(id).await;
    hold.dispatched().await.expect("written");
    hold.observe(tokens(r#"{"input":20,"output":1}"#));
    let observed = bench.row(id).await.observed;
    assert_eq!(observed.as_deref(), Some(r#"{"input":20,"output":3}"#), "with what the first left");
    let report = tokens(r#"{"input":20,"output":4}"#);
    hold.settle(End::Completed(Some(report))).await.expect_err("nobody answers here");
    assert_eq!(captured(&bench_order(&mut bench).await).amount, "0.00008".parse().ok());
}
