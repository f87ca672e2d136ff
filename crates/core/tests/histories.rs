//! Properties of random histories: whatever is asked in whatever order, the books hold.

use holdfast_core::books::{balances_after, postings};
use holdfast_core::event::Columns;
use holdfast_core::{
    Account, AccountId, Asset, Assets, Command, Context, Decision, Event, Fact, HoldId, Intent, Issuer,
    Position, References, Timestamp, Units, Verb, decide, evolve,
};
use proptest::prelude::*;
use uuid::Uuid;

/// A verb with a body that is often sensible and sometimes not.
fn step() -> impl Strategy<Value = (Option<Verb>, String, HoldId)> {
    let hold = (1..6_u128).prop_map(HoldId::from_u128);
    let policy = (0..3_usize, 0..2_usize, 0..3_usize);
    (0..12_usize, hold, 0..400_u32, any::<bool>(), policy).prop_map(|(verb, hold, cents, flag, policy)| {
        let amount = format!("{}.{:02}", cents / 100, cents % 100);
        let overage = ["reject", "cap", "draw"][policy.0];
        let on_expiry = ["release", "capture"][policy.1];
        let late = [r#","late":"charge""#, r#","late":"reject""#, ""][policy.2];
        let status = ["active", "frozen"][policy.1];
        let step = match verb {
            0 => (Some(Verb::TopUp), format!(r#"{{"amount":"{amount}"}}"#)),
            1 => (Some(Verb::Deduct), format!(r#"{{"amount":"{amount}"}}"#)),
            2 | 3 => (
                Some(Verb::Reserve),
                format!(r#"{{"amount":"{amount}","hold":"{hold}","overage":"{overage}","on_expiry":"{on_expiry}"{late}}}"#),
            ),
            4 => (Some(Verb::Capture), format!(r#"{{"hold":"{hold}","amount":"{amount}","final":{flag}}}"#)),
            5 => (Some(Verb::Capture), format!(r#"{{"hold":"{hold}"}}"#)),
            6 => (Some(Verb::Release), format!(r#"{{"hold":"{hold}"}}"#)),
            7 => (Some(Verb::Increase), format!(r#"{{"hold":"{hold}","amount":"{amount}"}}"#)),
            8 => (Some(Verb::Extend), format!(r#"{{"hold":"{hold}","ttl_ms":{}}}"#, cents + 1)),
            9 => (Some(Verb::SetAccount), format!(r#"{{"status":"{status}","overdraft_limit":"{amount}"}}"#)),
            10 => (Some(Verb::OpenAccount), r#"{"overdraft_limit":"1"}"#.to_owned()),
            _ => (None, String::new()),
        };
        (step.0, step.1, hold)
    })
}

fn command(n: u128, verb: Option<Verb>, json: &str, hold: HoldId) -> Option<Command> {
    let issuer = Issuer::new("test").expect("legal");
    let id = Uuid::from_u128(0x1_0000 + n);
    let intent = match verb {
        Some(verb) => Intent::parse(verb, json.as_bytes(), &issuer, id).ok()?,
        None => Intent::Expire { hold },
    };
    let account = AccountId::new("user-1").expect("legal");
    Some(Command { issuer, id, account, expires_at: Timestamp::from_micros(i64::MAX), intent })
}

/// What must hold after every event, whatever it was.
fn check(before: Option<&Account>, after: Option<&Account>, event: &Event) {
    assert!(postings(&event.fact).balance());
    let columns = Columns {
        position: event.position,
        time: event.time,
        issuer: event.issuer.clone(),
        command: event.command,
        account: event.account.clone(),
        posted: event.posted,
        held: event.held,
    };
    assert_eq!(&Event::from_log(columns, &event.body()).expect("readable"), event);
    let Some(account) = after else { return };
    let promised: Units =
        account.holds.iter().filter(|(_, hold)| hold.is_open()).map(|(_, hold)| hold.amount).sum();
    assert_eq!(account.held, promised, "held is what open holds were promised");
    assert!(account.held >= 0);
    let was = before.map_or(0, |account| account.available().saturating_add(account.overdraft_limit));
    let is = account.available().saturating_add(account.overdraft_limit);
    assert!(
        is >= was.min(0) || matches!(event.fact, Fact::AccountSet { .. }),
        "nothing overspends: {event:?}"
    );
    for (id, hold) in account.holds.iter() {
        let ended_before = before.and_then(|account| account.holds.get(id)).and_then(|hold| hold.ended);
        if let (Some(first), Some(now)) = (ended_before, hold.ended) {
            let late = matches!(event.fact, Fact::CapturedLate { .. });
            assert!(first == now || late, "a hold ends once: {event:?}");
        }
        assert_eq!(hold.is_open(), hold.ended.is_none());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn every_history_keeps_the_books(steps in prop::collection::vec(step(), 1..200)) {
        let (mut account, mut log) = (None::<Account>, Vec::new());
        for (n, (verb, json, hold)) in steps.into_iter().enumerate() {
            let Some(command) = command(n as u128, verb, &json, hold) else { continue };
            let now = Timestamp::from_millis(n as u64);
            let context = Context { now, assets: &Assets::default(), references: &References::default() };
            let Ok(Decision::Record(fact)) = decide(account.as_ref(), &command, &context) else { continue };
            let (posted, held) = balances_after(account.as_ref(), &fact);
            let event = Event {
                position: Position(i64::try_from(log.len()).expect("small") + 1),
                time: now,
                issuer: command.issuer,
                command: command.id,
                account: command.account,
                asset: Some(Asset::USD),
                posted,
                held,
                fact,
            };
            let before = account.clone();
            evolve(&mut account, &event).expect("what was decided can be folded");
            check(before.as_ref(), account.as_ref(), &event);
            log.push(event);
        }
        let mut again = None;
        for event in &log {
            evolve(&mut again, event).expect("the log folds again");
        }
        prop_assert_eq!(again, account);
    }
}
