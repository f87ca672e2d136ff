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
    What::Reserved { amount: "1".to_owned(), replayed: false }
}

/// The reserve of an earlier run.
fn reserved_before() -> What {
    What::Reserved { amount: "1".to_owned(), replayed: true }
}

fn cost(amount: &str) -> Cost {
    Cost::of(amount.parse().expect("an amount"))
}

fn begun(step: &str) -> What {
    let charge = if step == "write" { Charge::Refund } else { Charge::Keep };
    What::StepBegun { step: step.to_owned(), attempt: 1, charge }
}

fn failed(step: &str, again: bool) -> What {
    What::StepFailed { step: step.to_owned(), again, error: "no".to_owned(), cost: None }
}

fn failed_at(step: &str, again: bool, amount: &str) -> What {
    What::StepFailed { step: step.to_owned(), again, error: "no".to_owned(), cost: Some(cost(amount)) }
}

fn attempt_charged(step: &str, attempt: u32) -> What {
    let charged = "0.1".to_owned();
    What::AttemptCharged { step: step.to_owned(), attempt, charged, late: false, problem: None }
}

fn worked(step: &str, amount: &str) -> What {
    What::StepWorked { step: step.to_owned(), output: json!(step), cost: cost(amount) }
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

fn abandoned(refund: &[&str]) -> What {
    let refund = refund.iter().map(|step| (*step).to_owned()).collect();
    What::StepUndone { step: EVERYTHING.to_owned(), refund }
}

fn known(step: &str, charged: &str, attempts: &[(u32, &str)]) -> What {
    let attempts = attempts.iter().map(|(attempt, charged)| (*attempt, (*charged).to_owned())).collect();
    What::ChargeKnown { step: step.to_owned(), charged: charged.to_owned(), attempts }
}

fn lost_hold() -> What {
    What::HoldLost { code: "hold_expired".to_owned() }
}

fn settled(how: &str) -> What {
    What::Settled { how: how.to_owned(), charged: None }
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

fn look_up(step: &str) -> Todo {
    Todo::LookUp { step: step.to_owned() }
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
    check(undone(), Todo::Refund { step: "write".to_owned(), attempt: None });
    let refunded =
        What::Refunded { step: "write".to_owned(), attempt: None, amount: "0.1".to_owned(), code: None };
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
    let known = |charged: &str| What::ChargeKnown {
        step: "write".to_owned(),
        charged: charged.to_owned(),
        attempts: Vec::new(),
    };
    check(undone().chain([known("0.1")]), Todo::Refund { step: "write".to_owned(), attempt: None });
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
fn a_saga_that_was_completed_before_its_log_was_cut_is_complete() {
    let ended = |because: &str| Todo::End { ending: Ending::Completed, because: Some(because.to_owned()) };
    let end_gone = "it was completed before; the end of its log is gone";
    for how in ["captured", "captured_late"] {
        check(running([begun("plan"), done("plan", None), settled(how)]), ended(end_gone));
        // Nothing is left of its log, and the caller has started it again.
        let gone = [started(Origin::New), reserved_before(), settled(how)];
        check(gone, ended("it was completed before; its log is gone"));
    }
    // What the missing run was charged for the step under way is asked for, and the whole is known.
    let charged = What::Settled { how: "captured".to_owned(), charged: Some("0.4".to_owned()) };
    let amid = || running([begun("plan"), failed("plan", true), charged.clone()]);
    check(amid(), look_up("plan"));
    check(amid().chain([known("plan", "0.3", &[(1, "0.1")])]), ended(end_gone));
    let state = given(amid().chain([known("plan", "0.3", &[(1, "0.1")])]));
    assert_eq!((state.charged(), state.steps[0].charged_sum()), (Sum::of("0.4"), Sum::of("0.4")));
    // Here all steps were done; that the hold was gone by then changes nothing.
    let all = || running([begun("plan"), done("plan", None), begun("write"), done("write", None)]);
    for how in ["hold_expired", "captured"] {
        check(all().chain([settled(how)]), Todo::End { ending: Ending::Completed, because: None });
    }
}

#[test]
fn a_saga_that_was_undone_before_its_log_was_cut_is_undone_again() {
    let cut = || running([begun("plan"), done("plan", None), settled("released")]);
    check(cut(), turn("it had been undone when its log was cut"));
    check(cut().chain([undoing(), undone("plan")]), undo(EVERYTHING, 1, 0));
    // Any step may have been charged by the run that is missing.
    let undone = || cut().chain([undoing(), undone("plan"), abandoned(&["write"])]);
    check(undone(), look_up("plan"));
    check(undone().chain([known("plan", "0.2", &[])]), look_up("write"));
}

#[test]
fn a_capture_without_an_outcome_is_asked_for_again_and_the_work_is_not_done_again() {
    let charge = Todo::Charge { step: "write".to_owned(), attempt: None, cost: Box::new(cost("0.1")) };
    let worked = || running([begun("write"), worked("write", "0.1")]);
    check(worked(), charge.clone());
    // However often the process goes away meanwhile, and whatever became of the hold.
    check(worked().chain((0..9).map(|_| What::Taken)), charge.clone());
    check(worked().chain([lost_hold()]), charge);
    let captured = What::StepDone {
        step: "write".to_owned(),
        output: serde_json::Value::Null,
        charged: Some("0.1".to_owned()),
        late: false,
    };
    let state = given(worked().chain([captured]));
    assert_eq!(state.outputs().get("write"), Some(&json!("write")));
    // Work that the ledger does not let be charged is undone.
    check(worked().chain([failed("write", false)]), turn("write: no"));
}

#[test]
fn what_a_failed_try_cost_is_captured_before_anything_else() {
    let failed = |step: &str, again| failed_at(step, again, "0.1");
    let charge = |step: &str, attempt| Todo::Charge {
        step: step.to_owned(),
        attempt: Some(attempt),
        cost: Box::new(cost("0.1")),
    };
    let first = || running([begun("plan"), failed("plan", true)]);
    check(first(), charge("plan", 1));
    check(first().chain([lost_hold()]), charge("plan", 1));
    check(first().chain([attempt_charged("plan", 1)]), act("plan", 2, 500));
    let second = || first().chain([attempt_charged("plan", 1), begun("plan"), failed("plan", true)]);
    check(second(), charge("plan", 2));
    check(second().chain([attempt_charged("plan", 2)]), turn("plan: no"));
    // A late charge has settled the hold.
    let late = What::AttemptCharged {
        step: "plan".to_owned(),
        attempt: 1,
        charged: "0.1".to_owned(),
        late: true,
        problem: None,
    };
    check(first().chain([late]), turn("its hold has ended: captured_late"));
    let done = first().chain([attempt_charged("plan", 1), begun("plan"), done("plan", Some("0.3"))]);
    assert_eq!(given(done).charged(), Sum::of("0.4"));
}

#[test]
fn the_rule_of_a_step_holds_for_its_failed_tries_too() {
    let failed = |step| [begun(step), failed_at(step, false, "0.1"), attempt_charged(step, 1), undoing()];
    let kept = running(failed("plan")).chain([undone("plan"), settled("released")]);
    check(kept, Todo::End { ending: Ending::Undone, because: Some("write: no".to_owned()) });

    let twice = [begun("write"), failed_at("write", true, "0.1"), attempt_charged("write", 1)];
    let done = [begun("write"), done("write", Some("0.2")), undoing(), undone("write"), settled("released")];
    let undone = || running(twice.clone()).chain(done.clone());
    let refund = |attempt| Todo::Refund { step: "write".to_owned(), attempt };
    let refunded = |attempt, amount: &str| What::Refunded {
        step: "write".to_owned(),
        attempt,
        amount: amount.to_owned(),
        code: None,
    };
    check(undone(), refund(Some(1)));
    check(undone().chain([refunded(Some(1), "0.1")]), refund(None));
    let state = given(undone().chain([refunded(Some(1), "0.1"), refunded(None, "0.2")]));
    assert_eq!((state.charged(), state.refunded()), (Sum::of("0.3"), Sum::of("0.3")));
    assert!(matches!(state.decide(&limits(), plan), Todo::End { .. }));
}

#[test]
fn a_step_that_was_free_after_a_lost_try_may_have_been_charged_before() {
    let free = || running([begun("plan"), begun("plan"), done("plan", None)]);
    check(free().chain([undoing(), undone("plan"), settled("released")]), look_up("plan"));
    let all = || free().chain([begun("write"), done("write", Some("0.1")), settled("captured")]);
    check(all(), look_up("plan"));
    let state = given(all().chain([known("plan", "0.2", &[])]));
    assert_eq!(state.decide(&limits(), plan), Todo::End { ending: Ending::Completed, because: None });
    assert_eq!(state.charged(), Sum::of("0.3"));
}

#[test]
fn after_a_lost_log_every_step_is_looked_up_whatever_became_of_it() {
    // One that failed, one that was free, and one that is named although it is known.
    let steps = [begun("plan"), done("plan", None), begun("write"), failed("write", false), undoing()];
    let ends = [undone("write"), undone("plan"), abandoned(&["write"]), settled("released")];
    for origin in [Origin::Recovered, Origin::New] {
        let started = [started(origin), reserved_before()].into_iter();
        let undone = || started.clone().chain(steps.clone()).chain(ends.clone());
        check(undone(), look_up("plan"));
        check(undone().chain([known("plan", "0.2", &[])]), look_up("write"));
        let known = || undone().chain([known("plan", "0.2", &[]), known("write", "0.1", &[(2, "0.1")])]);
        let refund = |attempt| Todo::Refund { step: "write".to_owned(), attempt };
        check(known(), refund(Some(2)));
        let state = given(known());
        assert_eq!(state.charged(), Sum::of("0.4"));
    }
    // Completed, too, it tells what the lost run was charged.
    let completed = [begun("plan"), done("plan", None), begun("write"), done("write", None)];
    let completed = || [started(Origin::Recovered)].into_iter().chain(completed.clone());
    check(completed(), Todo::Settle(Settlement::Capture));
    check(completed().chain([settled("captured")]), look_up("plan"));
}

#[test]
fn a_saga_that_was_begun_before_without_a_log_is_not_just_refused() {
    // Money was promised to an earlier run, which may have come far; the hold has expired since.
    let lost = || [started(Origin::New), reserved_before(), lost_hold()];
    check(lost(), turn("its hold has ended: hold_expired"));
    check(lost().into_iter().chain([undoing()]), undo(EVERYTHING, 1, 0));
}

#[test]
fn a_saga_whose_log_was_lost_is_run_again_or_undone() {
    check([started(Origin::Recovered)], act("plan", 1, 0));
    let lost = "its log and its input are lost";
    check([started(Origin::Lost)], turn(lost));
    check([started(Origin::Lost), undoing()], undo(EVERYTHING, 1, 0));
    check(
        [started(Origin::Lost), undoing(), abandoned(&["write"]), settled("released")],
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
