//! Tables of the state machine: given these entries, then this is to be done.

use serde_json::json;

use super::*;

const HOLD: HoldId = HoldId::nil();

fn limits() -> Limits {
    Limits { attempts_max: 2, interruptions_max: 3, ..Limits::default() }
}

fn started(origin: Origin) -> What {
    What::Started {
        account: "user-1".to_owned(),
        hold: HOLD,
        reserve: json!({"amount": "1"}),
        input: json!({}),
        origin,
    }
}

fn reserved() -> What {
    What::Reserved { amount: "1".to_owned() }
}

fn begun(step: &str) -> What {
    let charge = if step == "write" { Charge::Refund } else { Charge::Keep };
    What::StepBegun { step: step.to_owned(), attempt: 1, charge }
}

fn failed(step: &str, again: bool) -> What {
    What::StepFailed { step: step.to_owned(), again, error: "no".to_owned() }
}

fn done(step: &str, charged: Option<&str>) -> What {
    let charged = charged.map(str::to_owned);
    What::StepDone { step: step.to_owned(), output: json!(step), charged, late: false }
}

fn undoing() -> What {
    What::Undoing { because: "write: no".to_owned() }
}

fn undo_begun(step: &str) -> What {
    What::UndoBegun { step: step.to_owned(), attempt: 1 }
}

fn undo_failed(step: &str, again: bool) -> What {
    What::UndoFailed { step: step.to_owned(), again, error: "no".to_owned() }
}

fn undone(step: &str) -> What {
    What::StepUndone { step: step.to_owned(), refund: Vec::new() }
}

fn lost_hold() -> What {
    What::HoldLost { code: "hold_expired".to_owned() }
}

fn settled(how: &str) -> What {
    What::Settled { how: how.to_owned() }
}

fn stuck(step: &str) -> What {
    What::Stuck { step: step.to_owned(), error: "no".to_owned() }
}

fn log(entries: impl IntoIterator<Item = What>) -> Vec<Entry> {
    let numbered = (1..).zip(entries);
    numbered.map(|(n, what)| Entry { n, at: n, by: "test#1".to_owned(), what }).collect()
}

/// The saga of the tests: `plan`, then `write`, which is refunded when it is undone.
fn plan(done: &Outputs) -> Option<Planned> {
    let steps = [("plan", Charge::Keep), ("write", Charge::Refund)];
    steps.get(done.len()).map(|(name, charge)| Planned { name: (*name).to_owned(), charge: *charge })
}

fn given(entries: impl IntoIterator<Item = What>) -> State {
    fold(&log(entries)).expect("a whole log")
}

#[track_caller]
fn check(entries: impl IntoIterator<Item = What>, then: Todo) {
    assert_eq!(given(entries).decide(&limits(), plan), then);
}

fn act(step: &str, attempt: u32, pause_ms: u64) -> Todo {
    let charge = if step == "write" { Charge::Refund } else { Charge::Keep };
    Todo::Act { step: step.to_owned(), charge, attempt, pause: Duration::from_millis(pause_ms) }
}

fn undo(step: &str, attempt: u32, pause_ms: u64) -> Todo {
    Todo::Undo { step: step.to_owned(), attempt, pause: Duration::from_millis(pause_ms) }
}

fn turn(because: &str) -> Todo {
    Todo::Turn { because: because.to_owned() }
}

/// A new saga whose money is promised, and then `entries`.
fn running<const N: usize>(entries: [What; N]) -> impl Iterator<Item = What> {
    [started(Origin::New), reserved()].into_iter().chain(entries)
}

#[test]
fn a_saga_reserves_runs_its_steps_in_order_and_settles_once() {
    check([started(Origin::New)], Todo::Reserve);
    check(running([]), act("plan", 1, 0));
    check(running([begun("plan"), done("plan", None)]), act("write", 1, 0));
    let both = || running([begun("plan"), done("plan", None), begun("write"), done("write", Some("0.1"))]);
    check(both(), Todo::Settle(Settlement::Capture));
    check(both().chain([settled("captured")]), Todo::End { ending: Ending::Completed, because: None });
}

#[test]
fn a_step_that_fails_is_tried_again_after_a_pause_until_it_counts_as_failed() {
    check(running([begun("plan"), failed("plan", true)]), act("plan", 2, 500));
    check(
        running([begun("plan"), failed("plan", true), begun("plan"), failed("plan", true)]),
        turn("plan: no"),
    );
    check(running([begun("plan"), failed("plan", false)]), turn("plan: no"));
}

#[test]
fn a_try_that_was_interrupted_does_not_count_as_a_failure_but_not_for_ever() {
    check(running([begun("plan"), What::Taken]), act("plan", 2, 0));
    check(running([begun("plan"), begun("plan")]), act("plan", 3, 0));
    check(running([begun("plan"), begun("plan"), begun("plan")]), turn("plan: it was interrupted too often"));
}

#[test]
fn steps_are_undone_in_reverse_and_the_failed_one_too() {
    let turned = || {
        running([begun("plan"), done("plan", Some("0.2")), begun("write"), failed("write", false), undoing()])
    };
    check(turned(), undo("write", 1, 0));
    check(turned().chain([undo_begun("write"), undone("write")]), undo("plan", 1, 0));
    check(turned().chain([undo_begun("write"), undo_failed("write", true)]), undo("write", 2, 500));
    let undone = || turned().chain([undone("write"), undone("plan")]);
    check(undone(), Todo::Settle(Settlement::Release));
    check(
        undone().chain([settled("released")]),
        Todo::End { ending: Ending::Undone, because: Some("write: no".to_owned()) },
    );
}

#[test]
fn an_undone_step_is_refunded_when_its_rule_says_so() {
    let steps = [begun("plan"), done("plan", Some("0.2")), begun("write"), done("write", Some("0.1"))];
    let undone =
        || running(steps.clone()).chain([undoing(), undone("write"), undone("plan"), settled("released")]);
    check(undone(), Todo::Refund { step: "write".to_owned() });
    let refunded = What::Refunded { step: "write".to_owned(), amount: "0.1".to_owned(), code: None };
    let state = given(undone().chain([refunded]));
    let ended = Todo::End { ending: Ending::Undone, because: Some("write: no".to_owned()) };
    assert_eq!(state.decide(&limits(), plan), ended);
    assert_eq!((state.charged(), state.refunded()), (Sum::of("0.3"), Sum::of("0.1")));
}

#[test]
fn a_step_whose_try_was_lost_may_have_been_charged_and_is_looked_up() {
    let undone = || {
        running([begun("write"), begun("write"), failed("write", false), undoing(), undone("write")])
            .chain([settled("released")])
    };
    check(undone(), Todo::LookUp { step: "write".to_owned() });
    let known = |charged: &str| What::ChargeKnown { step: "write".to_owned(), charged: charged.to_owned() };
    check(undone().chain([known("0.1")]), Todo::Refund { step: "write".to_owned() });
    let ended = Todo::End { ending: Ending::Undone, because: Some("write: no".to_owned()) };
    check(undone().chain([known("0")]), ended);
}

#[test]
fn an_undo_that_keeps_failing_parks_the_saga_until_an_operator_says_so() {
    let failing = || running([begun("plan"), done("plan", None), undoing(), undo_failed("plan", false)]);
    check(failing(), Todo::Park { step: "plan".to_owned(), error: "no".to_owned() });
    let parked = || failing().chain([stuck("plan")]);
    check(parked(), Todo::Wait);
    check(parked().chain([What::Resumed { by_hand: false }]), undo("plan", 1, 0));
    check(parked().chain([What::Resumed { by_hand: true }]), Todo::Settle(Settlement::Release));
}

#[test]
fn nothing_is_run_without_a_hold() {
    let refused = Todo::End { ending: Ending::Refused, because: Some("hold_expired".to_owned()) };
    check(running([lost_hold()]), refused);
    let because = "its hold has ended: hold_expired";
    check(running([begun("plan"), done("plan", None), lost_hold()]), turn(because));
    check(running([begun("plan"), lost_hold()]), turn(because));
    let all = [begun("plan"), done("plan", None), begun("write"), done("write", None), lost_hold()];
    check(running(all), Todo::Settle(Settlement::Capture));
}

#[test]
fn a_saga_that_was_settled_before_its_log_was_cut_goes_the_same_way_again() {
    let cut = |how| running([begun("plan"), done("plan", None), settled(how)]);
    check(cut("captured"), act("write", 1, 0));
    check(
        cut("captured").chain([begun("write"), done("write", None)]),
        Todo::End { ending: Ending::Completed, because: None },
    );
    check(cut("released"), turn("it had been undone when its log was cut"));
    // Here all steps were done; that the hold was gone by then changes nothing.
    let all = [begun("plan"), done("plan", None), begun("write"), done("write", None)];
    check(
        running(all).chain([settled("hold_expired")]),
        Todo::End { ending: Ending::Completed, because: None },
    );
}

#[test]
fn a_saga_whose_log_was_lost_is_run_again_or_undone() {
    check([started(Origin::Recovered)], act("plan", 1, 0));
    let lost = "its log and its input are lost";
    check([started(Origin::Lost)], turn(lost));
    let abandoned = What::StepUndone { step: EVERYTHING.to_owned(), refund: vec!["write".to_owned()] };
    check([started(Origin::Lost), undoing()], undo(EVERYTHING, 1, 0));
    check(
        [started(Origin::Lost), undoing(), abandoned, settled("released")],
        Todo::LookUp { step: "write".to_owned() },
    );
    // The run that was lost may have come further, so everything is undone at last.
    check(
        [started(Origin::Recovered), begun("plan"), done("plan", None), undoing(), undone("plan")],
        undo(EVERYTHING, 1, 0),
    );
}

#[test]
fn a_definition_that_names_a_step_twice_does_not_run_for_ever() {
    let state = given(running([begun("plan"), done("plan", None)]));
    let again = |_: &Outputs| Some(Planned { name: "plan".to_owned(), charge: Charge::Keep });
    let turned = turn("the definition is wrong: `plan` comes twice");
    assert_eq!(state.decide(&limits(), again), turned);
}

#[test]
fn a_log_with_entries_missing_is_not_driven_by_guess() {
    let mut entries = log(running([begun("plan"), done("plan", None)]));
    assert_eq!(fold(&entries[1..]), Err(Broken::NoStart));
    entries.remove(2);
    assert_eq!(fold(&entries), Err(Broken::Gap(2)));
    // A saga that was found by its hold begins anew behind what is left.
    let again = Entry { n: 9, at: 9, by: "test#2".to_owned(), what: started(Origin::Recovered) };
    assert!(fold(entries[2..].iter().chain([&again])).is_ok());
}

#[test]
fn whatever_was_written_last_there_is_one_thing_to_do_and_the_end_is_the_end() {
    let ended = What::Ended {
        ended: Ending::Completed,
        because: None,
        charged: "0".to_owned(),
        refunded: "0".to_owned(),
    };
    check(running([settled("captured"), ended]), Todo::Nothing);
}
