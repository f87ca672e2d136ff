//! What a crash left in the journal, taken to its end.
//!
//! **Shape.** [`recovery`] says, for one row, what the form of the journal demands; [`recover`]
//! does it for all of them before the first new call is made.
//!
//! **Correctness.** Doing it twice does no harm: a row that becomes `settling` is only sent again
//! from then on. A row that cannot be read by this program (another asset, another program's
//! fault) is left as it is: the hold expires in time, and the row tells people what it was.

use std::sync::Arc;

use holdfast_core::body::{Capture, Reserve};
use holdfast_core::{AccountId, Asset, HoldId, Tokens, UsageSource, Verb};
use uuid::Uuid;

use crate::desk::Desk;
use crate::driver::{Order, Part};
use crate::journal::{Ending, JournalError, Row, State, with_uncharged};
use crate::plan::{Charge, Plan, release};

/// What is to be done about a row.
#[derive(Debug, PartialEq, Eq)]
enum Recovery {
    /// Written as its ending, then sent.
    Settle(Ending),
    /// Sent again as it is.
    Resend(Ending),
    /// The same; it charges a part, and the call goes on after it.
    ResendPart(Ending, Box<Capture>),
    /// Left to expire.
    Keep,
}

/// What is to be done about `row`; or why nothing can be.
fn recovery(row: &Row, asset: Asset) -> Result<Recovery, String> {
    match row.state {
        // Whether or not the reserve arrived: an unknown hold becomes a tombstone, which the
        // reserve cannot revive when it comes late.
        State::Reserving | State::Reserved => {
            let trace = serde_json::from_str::<Reserve>(&row.reserve_body).ok().and_then(|body| body.trace);
            Ok(Recovery::Settle(release(row.hold, "not_dispatched", trace)))
        }
        State::Dispatched => match &row.observed {
            None => Ok(Recovery::Keep),
            Some(observed) => {
                let tokens = serde_json::from_str(observed).map_err(|error| error.to_string())?;
                let source = match row.observed_source.as_deref() {
                    Some("delivered") => UsageSource::Delivered,
                    _ => UsageSource::Reported,
                };
                let charge = Charge { tokens, source, reason: "aborted" };
                let plan = Plan::of_row(row, asset)?;
                Ok(Recovery::Settle(plan.capture(&charge, plan.estimate())))
            }
        },
        State::Settling => {
            let ending = written_ending(row)?;
            let part = Some(&ending).filter(|ending| ending.verb == Verb::Capture);
            let part = part.and_then(|ending| serde_json::from_str::<Capture>(&ending.body).ok());
            Ok(match part.filter(|capture| capture.is_final == Some(false)) {
                Some(part) => Recovery::ResendPart(ending, Box::new(part)),
                None => Recovery::Resend(ending),
            })
        }
        State::Ended => Err("it has ended".to_owned()),
    }
}

/// The ending as it was written, to the byte.
fn written_ending(row: &Row) -> Result<Ending, String> {
    let (Some(verb), Some(id), Some(body)) = (&row.settle_verb, &row.settle_id, &row.settle_body) else {
        return Err("its settlement is not written".to_owned());
    };
    let verb = verb.parse::<Verb>().map_err(|error| error.to_string())?;
    let id = Uuid::parse_str(id).map_err(|error| error.to_string())?;
    Ok(Ending { verb, id, body: body.clone() })
}

/// Hands everything that has not ended to the driver.
///
/// # Errors
/// [`JournalError`] when the journal cannot be read.
pub(crate) async fn recover(desk: &Arc<Desk>) -> Result<(), JournalError> {
    for row in desk.journal.unfinished_rows().await? {
        recover_or_tell(desk, row);
    }
    Ok(())
}

fn recover_or_tell(desk: &Arc<Desk>, row: Row) {
    let hold = row.hold;
    if let Err(problem) = recover_row(desk, row) {
        tracing::error!(%hold, problem, "a call that the journal left cannot be settled by this program");
    }
}

fn recover_row(desk: &Arc<Desk>, row: Row) -> Result<(), String> {
    let account = AccountId::new(&row.account).map_err(|error| format!("the account {error}"))?;
    let hold: HoldId = row.hold;
    let recovery = recovery(&row, desk.asset)?;
    tracing::info!(%hold, state = ?row.state, ?recovery, "a call that the journal left is settled");
    match recovery {
        Recovery::Settle(ending) => desk.settle(hold, &account, row.reserve_id, ending, true, None),
        Recovery::Resend(Ending { verb, id, body }) => {
            desk.order(Order { hold, account, verb, id, body, part: None, reply: None });
        }
        Recovery::ResendPart(Ending { verb, id, body }, capture) => {
            let part = resent_part(desk, row, *capture);
            desk.order(Order { hold, account, verb, id, body, part: Some(part), reply: None });
        }
        Recovery::Keep => desk.keep(hold),
    }
    Ok(())
}

/// The part of a row that is sent again. After it the row is one of a call that was sent.
fn resent_part(desk: &Arc<Desk>, row: Row, capture: Capture) -> Arc<Part> {
    let usage = capture.usage.map(|usage| (usage.tokens, usage.source));
    let (tokens, source) = usage.unwrap_or_else(|| (Tokens::default(), UsageSource::Reported));
    let part = Part::new(tokens.clone(), source);
    let desk = Arc::clone(desk);
    part.then(move |charged| {
        let uncharged = (!charged).then_some((tokens, source));
        let (observed, observed_source) = with_uncharged((row.observed, row.observed_source), uncharged);
        recover_or_tell(&desk, Row { state: State::Dispatched, observed, observed_source, ..row });
    });
    part
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::desk::Waits;
    use crate::driver;
    use crate::journal::Journal;
    use crate::journal::testing::Folder;
    use crate::plan::testing::{plan, reserve_body};
    use crate::sizing::Samples;

    const OBSERVED: &str = r#"{"input":1000,"output":3}"#;

    /// Brings a row into a state by the journal itself, as a process does that is then killed.
    async fn left_by_a_crash(journal: &Journal, plan: &Plan, state: State, observed: Option<&'static str>) {
        let (hold, account) = (plan.hold, plan.account.to_string());
        journal.reserving(hold, account, plan.reserve_id, reserve_body(plan)).await.expect("written");
        if state != State::Reserving {
            journal.reserved(hold);
        }
        if matches!(state, State::Dispatched | State::Settling) {
            journal.dispatched(hold).await.expect("written");
            journal.observed(hold, observed.map(|tokens| (tokens.to_owned(), "reported")));
        }
        if state == State::Settling {
            let ending =
                Ending { verb: Verb::Release, id: plan.reserve_id, body: r#"{ "to":"the byte"}"#.to_owned() };
            journal.settling(hold, plan.reserve_id, &ending, |_| {});
        }
    }

    #[tokio::test]
    async fn every_state_is_taken_on_from_where_it_was_left() {
        let released = Some((Verb::Release, None));
        let cases = [
            (State::Reserving, None, State::Settling, released),
            (State::Reserved, None, State::Settling, released),
            (State::Dispatched, None, State::Ended, None),
            (State::Dispatched, Some(OBSERVED), State::Settling, Some((Verb::Capture, Some("0.00103")))),
            (State::Settling, Some(OBSERVED), State::Settling, released),
        ];
        for (state, observed, expected_state, expected) in cases {
            let (folder, plan) = (Folder::new(), plan());
            let journal = Journal::open(&folder.file()).await.expect("opened");
            left_by_a_crash(&journal, &plan, state, observed).await;
            journal.close().await;

            let journal = Journal::open(&folder.file()).await.expect("opened again");
            let waits = Waits { settle: Duration::ZERO, drain: Duration::ZERO };
            let (desk, mut orders) = Desk::new(journal, Asset::USD, waits, Samples::default());
            recover(&desk).await.expect("read");
            let row = desk.journal.row(plan.hold).await.expect("read").expect("there");
            assert_eq!(row.state, expected_state, "{state:?}");
            let order = orders.try_recv().ok();
            assert_eq!(order.as_ref().map(|order| order.verb), expected.map(|(verb, _)| verb), "{state:?}");
            let Some(order) = order else { continue };
            assert_eq!(Some(order.body.as_str()), row.settle_body.as_deref(), "{state:?}");
            assert_eq!(Some(order.id.to_string()), row.settle_id, "{state:?}");
            if let Some((_, Some(amount))) = expected {
                let body: Capture = serde_json::from_str(&order.body).expect("a capture");
                assert_eq!(body.amount, amount.parse().ok());
                assert_eq!(body.reason.expect("a reason").as_str(), "aborted");
            }
            if state == State::Settling {
                assert_eq!((order.id, order.body.as_str()), (plan.reserve_id, r#"{ "to":"the byte"}"#));
            }
        }
    }

    #[tokio::test]
    async fn a_part_is_sent_again_and_then_the_rest_is_charged() {
        type Case = (&'static str, Option<&'static str>, Option<&'static str>, Option<&'static str>);
        let cases: [Case; 4] = [
            ("charged, with a rest", None, Some(r#"{"output":2}"#), Some("0.00002")),
            ("charged, without", None, None, None),
            ("rejected, with a rest", Some("exceeds_hold"), Some(r#"{"output":2}"#), Some("0.00105")),
            ("rejected, without", Some("exceeds_hold"), None, Some("0.00103")),
        ];
        for (what, code, rest, amount) in cases {
            let (folder, plan) = (Folder::new(), plan());
            let journal = Journal::open(&folder.file()).await.expect("opened");
            left_by_a_crash(&journal, &plan, State::Dispatched, Some(OBSERVED)).await;
            let tokens = serde_json::from_str(OBSERVED).expect("tokens");
            let charge = Charge { tokens, source: UsageSource::Reported, reason: "part" };
            let part = plan.part(&charge).expect("priced").expect("a command");
            journal.parting(plan.hold, plan.reserve_id, &part, None, |written| written.expect("written"));
            journal.observed(plan.hold, rest.map(|tokens| (tokens.to_owned(), "reported")));
            let waits = Waits { settle: Duration::ZERO, drain: Duration::ZERO };
            let (desk, mut orders) = Desk::new(journal, Asset::USD, waits, Samples::default());
            recover(&desk).await.expect("read");
            let order = orders.try_recv().expect("sent again");
            assert_eq!((order.id, order.body.as_str()), (part.id, part.body.as_str()), "{what}");
            assert!(orders.try_recv().is_err(), "{what}: the rest comes after it");
            let mut outcome = serde_json::json!({
                "id": order.id, "kind": "captured", "account": "user-1", "replayed": false,
            });
            if let Some(code) = code {
                outcome["code"] = code.into();
            }
            let outcome = serde_json::from_value(outcome).expect("an outcome");
            driver::finish(&desk.journal, order, Ok(outcome));
            let row = desk.journal.row(plan.hold).await.expect("read").expect("there");
            let last = orders.try_recv().ok().map(|order| order.body);
            assert_eq!(last, row.settle_body, "{what}");
            let last = last.map(|body| serde_json::from_str::<Capture>(&body).expect("a capture"));
            assert_eq!(
                last.and_then(|last| last.amount),
                amount.and_then(|text| text.parse().ok()),
                "{what}"
            );
            let state = if amount.is_some() { State::Settling } else { State::Ended };
            assert_eq!(row.state, state, "{what}");
        }
    }

    #[tokio::test]
    async fn a_row_of_another_asset_is_left_alone() {
        let (folder, plan) = (Folder::new(), plan());
        let journal = Journal::open(&folder.file()).await.expect("opened");
        left_by_a_crash(&journal, &plan, State::Dispatched, Some(OBSERVED)).await;
        let asset = Asset::new("EUR", 2).expect("an asset");
        let waits = Waits { settle: Duration::ZERO, drain: Duration::ZERO };
        let (desk, mut orders) = Desk::new(journal, asset, waits, Samples::default());
        recover(&desk).await.expect("read");
        let row = desk.journal.row(plan.hold).await.expect("read").expect("there");
        assert_eq!(row.state, State::Dispatched);
        assert!(orders.try_recv().is_err());
    }
}
