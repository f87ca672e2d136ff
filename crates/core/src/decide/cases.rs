//! given / when / then: every rule as a row of a table.
//!
//! A step is `verb {json}`, optionally after `@millis` (the lane time) and `!millis` (its `exp`).
//! In the JSON `H1`…`H9` stand for hold ids and `C1`…`C99` for the ids of the commands given
//! before, counted from one. The outcome is written `kind amount | posted held`, or
//! `code | posted held`, or `refused field`, or `repeat position`.

use std::fmt::Write as _;

use super::*;
use crate::books::balances_after;
use crate::event::Event;
use crate::evolve;
use crate::id::{CommandId, Issuer};
use crate::money::Asset;
use uuid::Uuid;

#[derive(Default)]
struct World {
    account: Option<Account>,
    log: Vec<Event>,
    steps: u128,
}

impl World {
    fn step(&mut self, step: &str) -> String {
        self.steps += 1;
        let id = Uuid::from_u128(self.steps);
        let (now, exp, rest) = times(step);
        let (verb, json) = rest.split_once(' ').unwrap_or((rest, "{}"));
        let issuer = Issuer::new("test").expect("legal");
        let json = with_ids(json);
        let intent = if verb == "expire" {
            Intent::Expire { hold: hold_id(json.trim()) }
        } else {
            match Intent::parse(verb.parse().expect("a verb"), json.as_bytes(), &issuer, id) {
                Ok(intent) => intent,
                Err(Refusal::InvalidCommand { field, .. }) => return format!("refused {field}"),
                Err(other) => return other.code().to_owned(),
            }
        };
        let account = AccountId::new("user-1").expect("legal");
        let command = Command { issuer, id, account, expires_at: Timestamp::from_millis(exp), intent };
        self.run(command, Timestamp::from_millis(now))
    }

    fn run(&mut self, command: Command, now: Timestamp) -> String {
        let references = self.references(&command.intent);
        let context = Context { now, assets: &Assets::default(), references: &references };
        let fact = match decide(self.account.as_ref(), &command, &context) {
            Ok(Decision::Record(fact)) => fact,
            Ok(Decision::Repeat(position)) => return format!("repeat {position}"),
            Err(Refusal::InvalidCommand { field, .. }) => return format!("refused {field}"),
            Err(other) => return other.code().to_owned(),
        };
        let (posted, held) = balances_after(self.account.as_ref(), &fact);
        let position = Position(i64::try_from(self.log.len()).expect("small") + 1);
        let asset = Some(self.account.as_ref().map_or(Asset::USD, |account| account.asset));
        let Command { issuer, id, account, .. } = command;
        let event = Event { position, time: now, issuer, command: id, account, asset, posted, held, fact };
        evolve(&mut self.account, &event).expect("what was decided can be folded");
        let told = describe(&event);
        self.log.push(event);
        told
    }

    fn references(&self, intent: &Intent) -> References {
        let mut found = References::default();
        match intent {
            Intent::TopUp { external_ref: Some(wanted), .. } => {
                let same = |event: &&Event| matches!(&event.fact, Fact::ToppedUp { external_ref: Some(r), .. } if r == wanted);
                found.external_ref = self.log.iter().find(same).map(|event| event.position);
            }
            Intent::ReverseTopUp { of, .. } | Intent::Refund { of, .. } => found.of = self.referenced(*of),
            _ => {}
        }
        found
    }

    fn referenced(&self, of: crate::body::Reference) -> Option<Referenced> {
        let named = |event: &&Event| match of {
            crate::body::Reference::Position(position) => event.position == position,
            crate::body::Reference::Command(id) => event.command == id,
        };
        let origin = self.log.iter().find(named)?;
        let mut undone = self.log.iter().filter_map(|event| match event.fact {
            Fact::Refunded { of, n, total, .. } | Fact::TopUpReversed { of, n, total, .. }
                if of == origin.position =>
            {
                Some((n, total))
            }
            _ => None,
        });
        let (n, undone) = undone.next_back().unwrap_or((0, 0));
        let moved = Moved::by(&origin.fact);
        Some(Referenced { position: origin.position, account: origin.account.clone(), moved, n, undone })
    }
}

fn times(step: &str) -> (u64, u64, &str) {
    let (mut now, mut exp, mut rest) = (1_000, u64::MAX, step);
    while let Some(marked) = rest.strip_prefix(['@', '!']) {
        let (number, tail) = marked.split_once(' ').expect("a verb after the time");
        let millis = number.parse().expect("milliseconds");
        if rest.starts_with('@') {
            now = millis
        } else {
            exp = millis
        }
        rest = tail;
    }
    (now, exp, rest)
}

fn hold_id(text: &str) -> HoldId {
    text.trim_matches('"').parse().expect("a hold's id")
}

fn with_ids(json: &str) -> String {
    let mut json = json.to_owned();
    for n in (1..=20_u128).rev() {
        json = json.replace(&format!("C{n}"), &CommandId::from_u128(n).to_string());
        json = json.replace(&format!("H{n}"), &HoldId::from_u128(0x1000 + n).to_string());
    }
    json.replace("USAGE(", &format!("{USAGE},")).replace(")USAGE", "}")
}

/// The beginning of a usage, whose tokens and rates a case adds: `USAGE("tokens":…,"rates":…)USAGE`.
const USAGE: &str = r#"{"provider":"p","model":"m","source":"reported",
    "book":"0000000000000000000000000000000000000000000000000000000000000000""#;

fn describe(event: &Event) -> String {
    let money = |units: Units| Asset::USD.format(units);
    let mut told = match &event.fact {
        Fact::Rejected { rejection, .. } => rejection.code().to_owned(),
        Fact::Captured { held, drawn, absorbed, released, .. } => {
            let mut told = format!("captured {}", money(held + drawn));
            for (name, units) in [("drawn", drawn), ("absorbed", absorbed), ("released", released)] {
                if *units != 0 {
                    write!(told, " {name} {}", money(*units)).expect("a string");
                }
            }
            told
        }
        Fact::CapturedLate { charged, absorbed, .. } if *absorbed != 0 => {
            format!("captured_late {} absorbed {}", money(*charged), money(*absorbed))
        }
        Fact::Released { tombstone: true, .. } => "tombstone".to_owned(),
        fact => match fact.amount() {
            Some(amount) => format!("{} {}", fact.kind(), money(amount)),
            None => fact.kind().to_string(),
        },
    };
    write!(told, " | {} {}", money(event.posted), money(event.held)).expect("a string");
    told
}

/// Runs `given`, all of which must be accepted, then checks each step of `when` against its outcome.
fn check(given: &[&str], when: &[(&str, &str)]) {
    let mut world = World::default();
    for step in given {
        let told = world.step(step);
        let positions = world.log.len();
        assert_eq!(positions as u128, world.steps, "given `{step}`: {told}");
        assert!(!matches!(world.log[positions - 1].fact, Fact::Rejected { .. }), "given `{step}`: {told}");
    }
    for (step, expected) in when {
        assert_eq!(&world.step(step), expected, "given {given:?} when `{step}`");
    }
}

const FUNDED: [&str; 2] = ["open_account {}", r#"top_up {"amount":"10","external_ref":"p1"}"#];

fn funded(more: &[&'static str]) -> Vec<&'static str> {
    FUNDED.iter().chain(more).copied().collect()
}

#[test]
fn accounts_are_opened_once_on_their_terms() {
    check(
        &[],
        &[
            (r#"deduct {"amount":"1"}"#, "account_not_found | 0 0"),
            (r#"open_account {"asset":"XYZ"}"#, "refused asset"),
            (r#"open_account {"asset":"USD","overdraft_limit":"0.0000000001"}"#, "refused overdraft_limit"),
            (r#"open_account {"tier":"pro","overdraft_limit":"2"}"#, "account_opened | 0 0"),
            (r#"open_account {"overdraft_limit":2.0,"tier":"pro"}"#, "repeat 2"),
            ("open_account {}", "account_exists | 0 0"),
            (r#"deduct {"amount":"2"}"#, "deducted 2 | -2 0"),
            (r#"deduct {"amount":"0.000000001"}"#, "insufficient_funds | -2 0"),
            (r#"set_account {"overdraft_limit":"1.9"}"#, "limit_in_use | -2 0"),
            (r#"set_account {"overdraft_limit":"2.5","tier":"max"}"#, "account_set | -2 0"),
            (r#"open_account {"overdraft_limit":"2","tier":"pro"}"#, "repeat 2"),
            (r#"set_account {"status":"closed"}"#, "account_not_empty | -2 0"),
            (r#"top_up {"amount":"2"}"#, "topped_up 2 | 0 0"),
            (r#"set_account {"status":"closed"}"#, "account_set | 0 0"),
            (r#"top_up {"amount":"2"}"#, "account_closed | 0 0"),
            (r#"set_account {"status":"active"}"#, "account_closed | 0 0"),
            (r#"release {"hold":"H1"}"#, "account_closed | 0 0"),
        ],
    );
}

#[test]
fn a_frozen_account_takes_no_new_charges() {
    check(
        &funded(&[
            r#"reserve {"amount":"4","hold":"H1","overage":"draw"}"#,
            r#"set_account {"status":"frozen"}"#,
        ]),
        &[
            (r#"deduct {"amount":"1"}"#, "account_frozen | 10 4"),
            (r#"reserve {"amount":"1"}"#, "account_frozen | 10 4"),
            (r#"increase {"hold":"H1","amount":"1"}"#, "account_frozen | 10 4"),
            (r#"top_up {"amount":"1"}"#, "topped_up 1 | 11 4"),
            (r#"capture {"hold":"H1","amount":"5"}"#, "captured 4 absorbed 1 | 7 0"),
        ],
    );
}

#[test]
fn a_payment_is_booked_once_and_taken_back_at_most_once() {
    check(
        &FUNDED,
        &[
            (r#"top_up {"amount":"10","external_ref":"p1"}"#, "external_ref_used | 10 0"),
            (r#"deduct {"amount":"9"}"#, "deducted 9 | 1 0"),
            (r#"reverse_top_up {"of":2,"amount":"4","reason":"chargeback"}"#, "top_up_reversed 4 | -3 0"),
            (r#"reverse_top_up {"of":"C2","amount":"7","reason":"chargeback"}"#, "exceeds_top_up | -3 0"),
            (r#"reverse_top_up {"of":"C2","reason":"chargeback"}"#, "top_up_reversed 6 | -9 0"),
            (r#"reverse_top_up {"of":2,"reason":"chargeback"}"#, "exceeds_top_up | -9 0"),
            (r#"reverse_top_up {"of":4,"reason":"chargeback"}"#, "top_up_not_found | -9 0"),
            (r#"reverse_top_up {"of":99,"reason":"chargeback"}"#, "top_up_not_found | -9 0"),
            (
                r#"top_up {"amount":"9223372036.854775807"}"#,
                "topped_up 9223372036.854775807 | 9223372027.854775807 0",
            ),
            (r#"top_up {"amount":"9.000000001"}"#, "balance_overflow | 9223372027.854775807 0"),
        ],
    );
}

#[test]
fn a_charge_is_refunded_at_most_in_full() {
    let given =
        funded(&[r#"deduct {"amount":"3"}"#, r#"reserve {"amount":"2","hold":"H1","overage":"cap"}"#]);
    check(
        &given,
        &[
            (r#"capture {"hold":"H1","amount":"5"}"#, "captured 2 absorbed 3 | 5 0"),
            (r#"refund {"of":5,"amount":"2.1","reason":"quality"}"#, "exceeds_charge | 5 0"),
            (r#"refund {"of":5,"amount":"1.5","reason":"quality"}"#, "refunded 1.5 | 6.5 0"),
            (r#"refund {"of":"C5","reason":"quality"}"#, "refunded 0.5 | 7 0"),
            (r#"refund {"of":"C3","reason":"quality"}"#, "refunded 3 | 10 0"),
            (r#"refund {"of":2,"reason":"quality"}"#, "charge_not_found | 10 0"),
        ],
    );
}

#[test]
fn money_that_is_promised_cannot_be_spent_again() {
    check(
        &FUNDED,
        &[
            (r#"reserve {"amount":"6","hold":"H1"}"#, "reserved 6 | 10 6"),
            (r#"reserve {"amount":"4.000000001","hold":"H2"}"#, "insufficient_funds | 10 6"),
            (r#"deduct {"amount":"4.1"}"#, "insufficient_funds | 10 6"),
            (r#"reserve {"amount":"1","hold":"H1"}"#, "hold_exists | 10 6"),
            (r#"increase {"hold":"H1","amount":"4"}"#, "increased 4 | 10 10"),
            (r#"increase {"hold":"H1","amount":"0.1"}"#, "insufficient_funds | 10 10"),
            (r#"increase {"hold":"H9","amount":"0.1"}"#, "hold_not_found | 10 10"),
            (r#"capture {"hold":"H1","amount":"2.5"}"#, "captured 2.5 released 7.5 | 7.5 0"),
            (r#"reserve {"amount":"0.00000000001"}"#, "refused amount"),
        ],
    );
}

#[test]
fn a_hold_is_captured_in_parts_and_ends_once() {
    check(
        &funded(&[r#"reserve {"amount":"6","hold":"H1"}"#]),
        &[
            (r#"capture {"hold":"H1","amount":"2","final":false}"#, "captured 2 | 8 4"),
            (r#"capture {"hold":"H1","amount":"4.1","final":false}"#, "exceeds_hold | 8 4"),
            (r#"capture {"hold":"H1","amount":"4","final":false}"#, "captured 4 | 4 0"),
            (r#"capture {"hold":"H1","amount":"0"}"#, "captured 0 | 4 0"),
            (r#"capture {"hold":"H1","amount":"0"}"#, "hold_settled | 4 0"),
            (r#"release {"hold":"H1"}"#, "hold_settled | 4 0"),
            (r#"extend {"hold":"H1","ttl_ms":1}"#, "hold_settled | 4 0"),
            (r#"increase {"hold":"H1","amount":"1"}"#, "hold_settled | 4 0"),
            (r#"expire "H1""#, "hold_settled | 4 0"),
        ],
    );
}

#[test]
fn a_zero_capture_settles_and_differs_from_a_release() {
    check(
        &funded(&[r#"reserve {"amount":"6","hold":"H1"}"#, r#"reserve {"amount":"2","hold":"H2"}"#]),
        &[
            (r#"capture {"hold":"H1","amount":0}"#, "captured 0 released 6 | 10 2"),
            (r#"release {"hold":"H2"}"#, "released 2 | 10 0"),
            (r#"capture {"hold":"H2"}"#, "hold_released | 10 0"),
            (r#"capture {"hold":"H3"}"#, "hold_not_found | 10 0"),
        ],
    );
}

#[test]
fn overage_follows_the_policy_of_the_reserve() {
    let given = funded(&[
        r#"reserve {"amount":"2","hold":"H1"}"#,
        r#"reserve {"amount":"2","hold":"H2","overage":"cap"}"#,
        r#"reserve {"amount":"2","hold":"H3","overage":"draw"}"#,
        r#"reserve {"amount":"2","hold":"H4","overage":"draw"}"#,
    ]);
    check(
        &given,
        &[
            (r#"capture {"hold":"H1","amount":"3"}"#, "exceeds_hold | 10 8"),
            (r#"capture {"hold":"H2","amount":"3"}"#, "captured 2 absorbed 1 | 8 6"),
            (r#"capture {"hold":"H3","amount":"3"}"#, "captured 3 drawn 1 | 5 4"),
            (r#"capture {"hold":"H4","amount":"9"}"#, "captured 3 drawn 1 absorbed 6 | 2 2"),
        ],
    );
}

#[test]
fn a_tombstone_keeps_a_late_reserve_from_reviving_the_hold() {
    check(
        &FUNDED,
        &[
            (r#"release {"hold":"H1","reason":"gave up"}"#, "tombstone | 10 0"),
            (r#"reserve {"amount":"1","hold":"H1"}"#, "hold_released | 10 0"),
            (r#"capture {"hold":"H1"}"#, "hold_released | 10 0"),
            (r#"release {"hold":"H1"}"#, "hold_released | 10 0"),
            (r#"extend {"hold":"H1","ttl_ms":1}"#, "hold_released | 10 0"),
        ],
    );
}

#[test]
fn a_job_id_stands_for_its_hold() {
    check(
        &funded(&[r#"reserve {"amount":"1","job_id":"job-7"}"#]),
        &[
            (r#"reserve {"amount":"1","job_id":"job-7"}"#, "hold_exists | 10 1"),
            (r#"capture {"job_id":"job-7","amount":"0.25"}"#, "captured 0.25 released 0.75 | 9.75 0"),
            (r#"release {"job_id":"job-8"}"#, "tombstone | 9.75 0"),
        ],
    );
}

#[test]
fn a_late_capture_is_charged_once_by_the_hold_s_policy() {
    let given = funded(&[
        r#"reserve {"amount":"2","hold":"H1"}"#,
        r#"reserve {"amount":"2","hold":"H2","late":"reject"}"#,
        r#"reserve {"amount":"2","hold":"H3","late":"charge","overage":"cap"}"#,
        r#"reserve {"amount":"2","hold":"H4","overage":"draw"}"#,
        r#"expire "H1""#,
        r#"expire "H2""#,
        r#"release {"hold":"H3"}"#,
        r#"expire "H4""#,
    ]);
    check(
        &given,
        &[
            (r#"release {"hold":"H1"}"#, "hold_expired | 10 0"),
            (r#"capture {"hold":"H1","amount":"2.1"}"#, "exceeds_hold | 10 0"),
            (r#"capture {"hold":"H1","amount":"1.5"}"#, "captured_late 1.5 | 8.5 0"),
            (r#"capture {"hold":"H1","amount":"1.5"}"#, "hold_settled | 8.5 0"),
            (r#"capture {"hold":"H2"}"#, "hold_expired | 8.5 0"),
            (r#"capture {"hold":"H3","amount":"3"}"#, "captured_late 2 absorbed 1 | 6.5 0"),
            (r#"release {"hold":"H3"}"#, "hold_settled | 6.5 0"),
            (r#"capture {"hold":"H4","amount":"9"}"#, "captured_late 6.5 absorbed 2.5 | 0 0"),
            (r#"set_account {"status":"closed"}"#, "account_set | 0 0"),
        ],
    );
}

#[test]
fn a_closed_account_absorbs_a_late_capture() {
    let given = [
        r#"open_account {"overdraft_limit":"5"}"#,
        r#"reserve {"amount":"2","hold":"H1"}"#,
        r#"expire "H1""#,
        r#"set_account {"status":"closed"}"#,
    ];
    check(&given, &[(r#"capture {"hold":"H1"}"#, "captured_late 0 absorbed 2 | 0 0")]);
}

#[test]
fn expiry_releases_or_captures_what_is_left() {
    let given = funded(&[
        r#"reserve {"amount":"2","hold":"H1"}"#,
        r#"reserve {"amount":"3","hold":"H2","on_expiry":"capture"}"#,
        r#"capture {"hold":"H2","amount":"1","final":false}"#,
    ]);
    check(
        &given,
        &[
            (r#"expire "H1""#, "hold_expired 2 | 9 2"),
            (r#"expire "H2""#, "hold_expired 2 | 7 0"),
            (r#"capture {"hold":"H2"}"#, "hold_settled | 7 0"),
            (r#"refund {"of":7,"reason":"kind"}"#, "refunded 2 | 9 0"),
            (r#"refund {"of":6,"reason":"kind"}"#, "charge_not_found | 9 0"),
        ],
    );
}

#[test]
fn no_sum_leaves_64_bits() {
    const MOST: &str = "9223372036.854775807";
    let open = format!(r#"open_account {{"overdraft_limit":"{MOST}"}}"#);
    let top_up = format!(r#"top_up {{"amount":"{MOST}"}}"#);
    let reserve = format!(r#"reserve {{"amount":"{MOST}","hold":"H1","overage":"cap"}}"#);
    check(
        &[&open, &top_up, &reserve],
        &[
            (r#"reserve {"amount":"1"}"#, "balance_overflow | 9223372036.854775807 9223372036.854775807"),
            (
                r#"increase {"hold":"H1","amount":"1"}"#,
                "balance_overflow | 9223372036.854775807 9223372036.854775807",
            ),
            (r#"release {"hold":"H1"}"#, "released 9223372036.854775807 | 9223372036.854775807 0"),
        ],
    );
    check(
        &funded(&[r#"reserve {"amount":"1","hold":"H1","overage":"cap"}"#]),
        &[
            (
                r#"capture {"hold":"H1","amount":"9223372036","final":false}"#,
                "captured 1 absorbed 9223372035 | 9 0",
            ),
            (r#"capture {"hold":"H1","amount":"9223372036","final":false}"#, "balance_overflow | 9 0"),
            (r#"capture {"hold":"H1","amount":"1"}"#, "captured 0 absorbed 1 | 9 0"),
        ],
    );
}

#[test]
fn a_hold_can_always_expire() {
    let given = [
        r#"open_account {"overdraft_limit":"9000000000"}"#,
        r#"top_up {"amount":"9000000000"}"#,
        r#"reserve {"amount":"1","hold":"H1","overage":"draw","on_expiry":"capture"}"#,
        r#"capture {"hold":"H1","amount":"9000000000","final":false}"#,
        r#"top_up {"amount":"9000000000"}"#,
        r#"increase {"hold":"H1","amount":"100000000"}"#,
    ];
    check(
        &given,
        &[
            (r#"increase {"hold":"H1","amount":"200000000"}"#, "balance_overflow | 9000000000 100000000"),
            (r#"expire "H1""#, "hold_expired 100000000 | 8900000000 0"),
        ],
    );
}

#[test]
fn a_hold_lives_at_most_a_day() {
    check(
        &FUNDED,
        &[
            (r#"reserve {"amount":"1","ttl_ms":86400001}"#, "ttl_too_long | 10 0"),
            (r#"@0 reserve {"amount":"1","hold":"H1","ttl_ms":1000}"#, "reserved 1 | 10 1"),
            (r#"@500 extend {"hold":"H1","ttl_ms":86399501}"#, "ttl_too_long | 10 1"),
            (r#"@500 extend {"hold":"H1","ttl_ms":86399500}"#, "extended | 10 1"),
            (r#"@500 extend {"hold":"H1","ttl_ms":1}"#, "extended | 10 1"),
            (r#"extend {"hold":"H2","ttl_ms":1}"#, "hold_not_found | 10 1"),
        ],
    );
}

#[test]
fn only_what_somebody_waits_for_expires() {
    check(
        &funded(&[r#"reserve {"amount":"1","hold":"H1"}"#]),
        &[
            (r#"@2000 !1999 reserve {"amount":"1"}"#, "command_expired | 10 1"),
            (r#"@2000 !1999 deduct {"amount":"1"}"#, "command_expired | 10 1"),
            (r#"@2000 !1999 increase {"hold":"H1","amount":"1"}"#, "command_expired | 10 1"),
            (r#"@2000 !2000 deduct {"amount":"1"}"#, "deducted 1 | 9 1"),
            (r#"@2000 !1999 top_up {"amount":"1"}"#, "topped_up 1 | 10 1"),
            (r#"@2000 !1999 capture {"hold":"H1"}"#, "captured 1 | 9 0"),
        ],
    );
}

#[test]
fn an_amount_with_usage_is_its_price() {
    let given = funded(&[r#"reserve {"amount":"2.5","hold":"H1","overage":"draw",
            "usage":USAGE("tokens":{"output":1000000},"rates":{"output":[[0,2500000]]})USAGE}"#]);
    check(
        &given,
        &[
            (
                r#"deduct {"amount":"0.0000025","usage":USAGE("tokens":{"output":1},"rates":{"output":[[0,2500000]]})USAGE}"#,
                "deducted 0.0000025 | 9.9999975 2.5",
            ),
            (
                r#"deduct {"amount":"0.0000026","usage":USAGE("tokens":{"output":1},"rates":{"output":[[0,2500000]]})USAGE}"#,
                "price_mismatch",
            ),
            (
                r#"deduct {"amount":"1","usage":USAGE("tokens":{"input":1},"rates":{"output":[[0,2500000]]})USAGE}"#,
                "refused usage",
            ),
            (
                r#"deduct {"amount":"1","usage":USAGE("tokens":{"input":1,"input":2},"rates":{"input":[[0,1]]})USAGE}"#,
                "refused usage.tokens",
            ),
            (r#"deduct {"amount":"1","usage":["p","m"]}"#, "refused usage"),
            (
                r#"capture {"hold":"H1","usage":USAGE("tokens":{"output":1},"rates":{"output":[[0,2500000]]})USAGE}"#,
                "refused amount",
            ),
            // Another price, though the amount is right for it.
            (
                r#"capture {"hold":"H1","amount":"0.000003","usage":USAGE("tokens":{"output":1},"rates":{"output":[[0,3000000]]})USAGE}"#,
                "price_mismatch | 9.9999975 2.5",
            ),
            (
                r#"capture {"hold":"H1","amount":"0","final":false,"usage":USAGE("tokens":{"output":1},"rates":{"output":[[0,1]]})USAGE}"#,
                "refused amount",
            ),
            (
                r#"capture {"hold":"H1","amount":"3","usage":USAGE("tokens":{"output":1200000},"rates":{"output":[[0,2500000]]})USAGE}"#,
                "captured 3 drawn 0.5 | 6.9999975 0",
            ),
        ],
    );
}

#[test]
fn a_priced_refusal_says_what_is_affordable() {
    let mut world = World::default();
    for step in FUNDED {
        world.step(step);
    }
    let step = r#"reserve {"amount":"14","usage":USAGE("tokens":{"input":2000000,"output":1000000},
        "rates":{"input":[[0,2000000]],"output":[[0,10000000]]})USAGE}"#;
    assert_eq!(world.step(step), "insufficient_funds | 10 0");
    let Fact::Rejected { rejection, .. } = &world.log[2].fact else { panic!("rejected") };
    assert_eq!(
        rejection.detail(Some(Asset::USD)),
        "14 is needed, 10 may be taken, 0 is held by calls in flight; that is enough for 600000 output tokens"
    );
}
