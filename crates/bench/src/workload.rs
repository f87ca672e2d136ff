//! What the generator asks for: the life of holds on many accounts, and the books it keeps itself.

use std::f64::consts::EULER_GAMMA;
use std::sync::atomic::{AtomicU32, Ordering};

use holdfast_core::Units;
use uuid::Uuid;

/// What each account is given at first, in units: a million USD at scale 9, so that no ordinary reserve
/// is ever refused, not even when all are on one account.
pub(crate) const FUNDS: Units = 1_000_000_000_000_000;
/// What no account has.
const TOO_MUCH: Units = 9_000 * FUNDS;

/// Which account a life is lived on.
pub(crate) enum Pick {
    /// Account `n` as often as 1/(n+1) says: Zipf's law with exponent 1.
    Zipf(Vec<f64>),
    /// Each as often as any other.
    Uniform(usize),
    /// Always this one.
    One(usize),
}

impl Pick {
    /// Zipf's law over `accounts`.
    pub(crate) fn zipf(accounts: usize) -> Self {
        let mut sum = 0.0;
        let cumulative = (1..=accounts).map(|rank| {
            sum += 1.0 / crate::processes::approximate(rank);
            sum
        });
        Pick::Zipf(cumulative.collect())
    }

    pub(crate) fn account(&self, random: &mut fastrand::Rng) -> usize {
        match self {
            Pick::Zipf(cumulative) => {
                let end = cumulative.last().copied().unwrap_or(0.0);
                let at = random.f64() * end;
                rank_of(cumulative, at).min(cumulative.len() - 1)
            }
            Pick::Uniform(accounts) => random.usize(..*accounts),
            Pick::One(account) => *account,
        }
    }
}

/// How many of the sums 1 + 1/2 + … + 1/n are below `at`. They are close to ln n + γ, so that the place is known but
/// for a step or two: to search all of them misses the processor's cache again and again.
fn rank_of(cumulative: &[f64], at: f64) -> usize {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "casts of floats saturate")]
    let near = (at - EULER_GAMMA).exp() as usize;
    let from = near.saturating_sub(2).min(cumulative.len());
    let before = &cumulative[..from];
    if before.last().is_some_and(|sum| *sum >= at) {
        return before.partition_point(|sum| *sum < at);
    }
    from + cumulative[from..].iter().take_while(|sum| **sum < at).count()
}

/// The name of an account.
pub(crate) fn name(account: usize) -> String {
    format!("user-{account}")
}

/// How many ids were made.
static MADE: AtomicU32 = AtomicU32::new(0);

/// An id of version 7, in their order within a millisecond too. The usual way asks the system for each one's
/// random bits, which would be a tenth of what the generator takes.
pub(crate) fn new_id(random: &mut fastrand::Rng) -> Uuid {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    let mut bits = [0; 10];
    random.fill(&mut bits[4..]);
    // The id's version and variant take the place of the highest bits of the first and of the third byte.
    let [high, middle, low, lowest] = MADE.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    bits[..4].copy_from_slice(&[(high << 2) | (middle >> 6), (middle << 2) | (low >> 6), low & 0x3f, lowest]);
    uuid::Builder::from_unix_timestamp_millis(millis, &bits).into_uuid()
}

/// A hold's life, as planned.
#[derive(Debug, Clone)]
pub(crate) struct Life {
    pub(crate) account: usize,
    pub(crate) hold: Uuid,
    amount: Units,
    plan: Plan,
    step: Step,
}

#[derive(Debug, Clone, Copy)]
enum Plan {
    /// Asks for more than there is.
    Refused,
    Released,
    Captured(Units),
    /// In two parts.
    InParts(Units, Units),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Step {
    Reserve,
    Part,
    End,
}

/// What is asked next.
pub(crate) struct Asked {
    pub(crate) verb: holdfast_core::Verb,
    pub(crate) body: String,
}

impl Life {
    /// A new life. Of 100, 3 are refused, 10 released, 10 captured in two parts, the rest at once.
    pub(crate) fn new(pick: &Pick, random: &mut fastrand::Rng) -> Self {
        let amount = random.i64(1_000_000..50_000_000);
        let used = random.i64(1..=amount);
        let plan = match random.u8(..100) {
            0..3 => Plan::Refused,
            3..13 => Plan::Released,
            13..23 => Plan::InParts(used / 2, used - used / 2),
            _ => Plan::Captured(used),
        };
        let account = pick.account(random);
        Life { account, hold: new_id(random), amount, plan, step: Step::Reserve }
    }

    /// A life that ends with its reserve: a hold that stays open.
    pub(crate) fn open(account: usize, amount: Units) -> Self {
        Life { account, hold: Uuid::now_v7(), amount, plan: Plan::Released, step: Step::Reserve }
    }

    /// Gives its hold an id of version 4.
    pub(crate) fn with_random_id(mut self) -> Self {
        self.hold = Uuid::new_v4();
        self
    }

    /// The command that is due.
    pub(crate) fn asks(&self) -> Asked {
        use holdfast_core::Verb;
        let hold = self.hold;
        let (verb, body) = match (self.step, self.plan) {
            (Step::Reserve, Plan::Refused) => {
                (Verb::Reserve, format!(r#"{{"amount":"{}"}}"#, decimal(TOO_MUCH)))
            }
            (Step::Reserve, _) => (Verb::Reserve, format!(r#"{{"amount":"{}"}}"#, decimal(self.amount))),
            (Step::Part, Plan::InParts(first, _)) => {
                (Verb::Capture, format!(r#"{{"hold":"{hold}","amount":"{}","final":false}}"#, decimal(first)))
            }
            (_, Plan::InParts(_, amount) | Plan::Captured(amount)) => {
                (Verb::Capture, format!(r#"{{"hold":"{hold}","amount":"{}"}}"#, decimal(amount)))
            }
            (_, Plan::Released | Plan::Refused) => (Verb::Release, format!(r#"{{"hold":"{hold}"}}"#)),
        };
        Asked { verb, body }
    }

    /// What the ledger must have answered: the kind of the event.
    pub(crate) fn expects(&self) -> &'static str {
        match (self.step, self.plan) {
            (Step::Reserve, Plan::Refused) => "rejected",
            (Step::Reserve, _) => "reserved",
            (_, Plan::Released | Plan::Refused) => "released",
            _ => "captured",
        }
    }

    /// The step was carried out: it is booked, and the next is due; false when life is over.
    pub(crate) fn advance(&mut self, books: &mut Books) -> bool {
        let balance = books.balance(self.account);
        match (self.step, self.plan) {
            (Step::Reserve, Plan::Refused) => return false,
            (Step::Reserve, Plan::InParts(first, _)) => {
                balance.held += self.amount;
                self.step = if first > 0 { Step::Part } else { Step::End };
            }
            (Step::Reserve, _) => {
                balance.held += self.amount;
                self.step = Step::End;
            }
            (Step::Part, Plan::InParts(first, _)) => {
                balance.posted -= first;
                balance.held -= first;
                self.amount -= first;
                self.step = Step::End;
            }
            (_, Plan::InParts(_, amount) | Plan::Captured(amount)) => {
                balance.posted -= amount;
                balance.held -= self.amount;
                return false;
            }
            (_, Plan::Released | Plan::Refused) => {
                balance.held -= self.amount;
                return false;
            }
        }
        true
    }
}

/// Units as the decimal text of a body: all accounts are kept in USD, of scale 9.
pub(crate) fn decimal(units: Units) -> String {
    format!("{}.{:09}", units / 1_000_000_000, units % 1_000_000_000)
}

/// What one account has, by what the ledger has acknowledged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Balance {
    pub(crate) posted: Units,
    pub(crate) held: Units,
}

/// The generator's own books, by account.
#[derive(Debug, Default)]
pub(crate) struct Books(Vec<Balance>);

impl Books {
    pub(crate) fn balance(&mut self, account: usize) -> &mut Balance {
        if self.0.len() <= account {
            self.0.resize(account + 1, Balance::default());
        }
        &mut self.0[account]
    }

    /// How many accounts there are.
    pub(crate) fn accounts(&self) -> usize {
        self.0.len()
    }

    /// Every account with what it has.
    pub(crate) fn all(&self) -> impl Iterator<Item = (String, Balance)> {
        self.0.iter().enumerate().map(|(account, balance)| (name(account), *balance))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rank_is_where_a_search_of_all_sums_finds_it() {
        let Pick::Zipf(cumulative) = Pick::zipf(10_000) else { unreachable!("made above") };
        let end = cumulative.last().copied().unwrap_or(0.0);
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        let drawn = (0..20_000).map(|_| random.f64() * end * 1.01);
        for at in cumulative.iter().copied().chain([0.0, 1e-9]).chain(drawn) {
            let expected = cumulative.partition_point(|sum| *sum < at);
            assert_eq!(rank_of(&cumulative, at), expected, "at {at}, seed {seed}");
        }
    }

    #[test]
    fn ids_are_of_version_7_and_in_the_order_in_which_they_were_made() {
        let mut random = fastrand::Rng::with_seed(1);
        // Over every carry from one byte of the counter to the next but the last.
        MADE.store(0x3f_f000, Ordering::Relaxed);
        let ids: Vec<Uuid> = (0..100_000).map(|_| new_id(&mut random)).collect();
        assert!(ids.is_sorted_by(|a, b| a < b));
        assert!(ids.iter().all(|id| id.get_version_num() == 7 && id.get_variant() == uuid::Variant::RFC4122));
    }
}
