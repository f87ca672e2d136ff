//! What a hold was reserved for, and the bodies of the commands about it.
//!
//! **Shape.** A [`Plan`] is made when a hold is reserved, or again from the journal after a crash.
//! Everything that a capture needs is in the body of the reserve, so nothing else is stored.

use holdfast_core::body::{Capture, Release, Reserve};
use holdfast_core::text::{Note, Text};
use holdfast_core::{AccountId, Asset, CommandId, HoldId, Tokens, Trace, Units, Usage, UsageSource, Verb};
use uuid::Uuid;

use crate::journal::{Ending, Row};
use crate::price;

/// The longest note, in characters.
const NOTE_MAX_CHARS: usize = 1024;

/// What a hold was reserved for.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) hold: HoldId,
    pub(crate) account: AccountId,
    pub(crate) reserve_id: CommandId,
    /// With the counts that were reserved for, and the rates that hold to the end.
    pub(crate) usage: Box<Usage>,
    pub(crate) trace: Option<Trace>,
    pub(crate) asset: Asset,
}

/// Tokens to be charged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Charge {
    pub(crate) tokens: Tokens,
    pub(crate) source: UsageSource,
    pub(crate) reason: &'static str,
}

impl Plan {
    /// The plan of a row; what is missing or wrong otherwise.
    pub(crate) fn of_row(row: &Row, asset: Asset) -> Result<Self, String> {
        let body: Reserve = serde_json::from_str(&row.reserve_body).map_err(|error| error.to_string())?;
        let account = AccountId::new(&row.account).map_err(|error| format!("the account {error}"))?;
        let usage = body.usage.ok_or("the reserve has no usage")?;
        // The journal may have been left by a program for another asset, whose prices this one
        // would compute to another number of decimals.
        let price = usage.check().and_then(|()| usage.price(asset)).map_err(|error| error.to_string())?;
        if price::amount(price, asset) != body.amount {
            return Err(format!("its price is not {} in {asset}", body.amount));
        }
        let (hold, reserve_id) = (row.hold, row.reserve_id);
        Ok(Plan { hold, account, reserve_id, usage, trace: body.trace, asset })
    }

    /// The tokens that were reserved for.
    pub(crate) fn estimate(&self) -> &Tokens {
        &self.usage.tokens
    }

    /// `tokens` with what only this side knows: that it is one call, where calls have a price, and
    /// the estimated input where the provider said nothing of input (a part of a stream's report).
    pub(crate) fn completed(&self, mut tokens: Tokens) -> Tokens {
        if !tokens.0.keys().any(|dimension| dimension.is_input()) {
            let inputs = self.estimate().0.iter().filter(|(dimension, _)| dimension.is_input());
            tokens.0.extend(inputs.map(|(dimension, count)| (dimension.clone(), *count)));
        }
        self.one_call(tokens)
    }

    /// `tokens` and the call itself, where calls have a price.
    pub(crate) fn one_call(&self, mut tokens: Tokens) -> Tokens {
        let calls = self.estimate().get(price::REQUEST);
        if calls > 0 && tokens.get(price::REQUEST) == 0 {
            price::set(&mut tokens, price::REQUEST, calls);
        }
        tokens
    }

    /// The final capture of `charge`. One that cannot be priced (a dimension without any rate, a
    /// count beyond 2^53) is the provider's or a caller's mistake, and must not let a call that was
    /// made go uncharged: then `otherwise` is captured, what was reserved for and not charged yet.
    pub(crate) fn capture(&self, charge: &Charge, otherwise: &Tokens) -> Ending {
        let body = self.capture_body(charge, true).or_else(|error| {
            let (hold, tokens) = (self.hold, &charge.tokens);
            tracing::error!(%hold, error, ?tokens, "usage cannot be priced; the estimate is captured");
            let (tokens, source) = (otherwise.clone(), UsageSource::Estimated);
            self.capture_body(&Charge { tokens, source, reason: "usage_missing" }, true)
        });
        // The estimate was priced once already, when it was reserved for.
        let body = body.expect("an estimate that was reserved for has a price").1;
        Ending { verb: Verb::Capture, id: Uuid::now_v7(), body }
    }

    /// A capture in part; none when it would cost nothing. Why it cannot be priced, otherwise.
    pub(crate) fn part(&self, charge: &Charge) -> Result<Option<Ending>, String> {
        let (units, body) = self.capture_body(charge, false)?;
        Ok((units > 0).then(|| Ending { verb: Verb::Capture, id: Uuid::now_v7(), body }))
    }

    fn capture_body(&self, charge: &Charge, is_final: bool) -> Result<(Units, String), String> {
        let priced = price::priced(&self.usage, &charge.tokens, charge.source, self.asset);
        let (usage, units) = priced.map_err(|error| error.to_string())?;
        let body = Capture {
            hold: Some(self.hold),
            job_id: None,
            amount: Some(price::amount(units, self.asset)),
            is_final: (!is_final).then_some(false),
            reason: Some(Text::literal(charge.reason)),
            usage: Some(usage),
            trace: self.trace.clone(),
        };
        Ok((units, serde_json::to_string(&body).expect("a body is plain values")))
    }

    /// The release.
    pub(crate) fn release(&self, reason: &str) -> Ending {
        release(self.hold, reason, self.trace.clone())
    }
}

/// The release of a hold of which nothing else need be known.
pub(crate) fn release(hold: HoldId, reason: &str, trace: Option<Trace>) -> Ending {
    let body = Release { hold: Some(hold), job_id: None, reason: note(reason), trace };
    let body = serde_json::to_string(&body).expect("a body is plain values");
    Ending { verb: Verb::Release, id: Uuid::now_v7(), body }
}

/// As much of `text` as a note may be; none when nothing of it can be printed. An error message
/// with a line break in it must not keep a release from being understood.
fn note(text: &str) -> Option<Note> {
    let unprintable = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}');
    let printable = text.chars().map(|c| if unprintable(c) { ' ' } else { c });
    let text: String = printable.take(NOTE_MAX_CHARS).collect();
    Note::try_from(text.trim().to_owned()).ok()
}

#[cfg(test)]
pub(crate) mod testing {
    //! A plan to test with: input costs 10⁻⁶, output 10⁻⁵ of a dollar.

    use holdfast_core::usage::BookId;

    use super::*;

    pub(crate) fn usage(tokens: &str) -> Usage {
        Usage {
            provider: Text::literal("google"),
            model: Text::literal("m"),
            book: BookId::new(&"0".repeat(64)).expect("a digest"),
            variant: None,
            source: UsageSource::Estimated,
            tokens: serde_json::from_str(tokens).expect("tokens"),
            rates: serde_json::from_str(r#"{"input":[[0,1000000]],"output":[[0,10000000]]}"#).expect("rates"),
        }
    }

    pub(crate) fn plan() -> Plan {
        Plan {
            hold: Uuid::now_v7(),
            account: AccountId::new("user-1").expect("an account"),
            reserve_id: Uuid::now_v7(),
            usage: Box::new(usage(r#"{"input":1000,"output":500}"#)),
            trace: None,
            asset: Asset::USD,
        }
    }

    /// The body of the reserve of [`plan`].
    pub(crate) fn reserve_body(plan: &Plan) -> String {
        let usage = serde_json::to_string(&plan.usage).expect("JSON");
        format!(r#"{{"amount":"0.006","hold":"{}","usage":{usage}}}"#, plan.hold)
    }

    pub(crate) fn tokens(json: &str) -> Tokens {
        serde_json::from_str(json).expect("tokens")
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{plan, tokens};
    use super::*;

    fn captured(ending: &Ending) -> Capture {
        assert_eq!(ending.verb, Verb::Capture);
        serde_json::from_str(&ending.body).expect("a capture")
    }

    #[test]
    fn a_capture_has_the_price_of_its_tokens() {
        let cases = [
            (r#"{"input":1000,"output":3}"#, "0.00103", UsageSource::Reported),
            (r#"{"input":0,"output":0}"#, "0", UsageSource::Reported),
            (r#"{"input":400,"cache_read":600,"output":3}"#, "0.00103", UsageSource::Reported),
            // Without a word of input, the estimate of it.
            (r#"{"output":3}"#, "0.00103", UsageSource::Reported),
            // Not to be priced: what was reserved for.
            (r#"{"input":1,"pages":3}"#, "0.006", UsageSource::Estimated),
            (r#"{"input":9007199254740992}"#, "0.006", UsageSource::Estimated),
        ];
        for (given, amount, source) in cases {
            let plan = plan();
            let tokens = plan.completed(tokens(given));
            let charge = Charge { tokens, source: UsageSource::Reported, reason: "completed" };
            let body = captured(&plan.capture(&charge, plan.estimate()));
            assert_eq!(body.amount.map(|amount| amount.to_string()).as_deref(), Some(amount), "{given}");
            let usage = body.usage.expect("usage");
            assert_eq!((usage.source, &usage.rates), (source, &plan.usage.rates), "{given}");
            assert_eq!(body.is_final, None, "final unless said otherwise");
        }
    }

    #[test]
    fn a_part_that_costs_nothing_is_no_command() {
        let charge = |json| Charge { tokens: tokens(json), source: UsageSource::Reported, reason: "part" };
        assert_eq!(plan().part(&charge(r#"{"output":0}"#)), Ok(None));
        let part = plan().part(&charge(r#"{"output":1}"#)).expect("priced").expect("a command");
        assert_eq!(captured(&part).is_final, Some(false));
        assert!(plan().part(&charge(r#"{"pages":1}"#)).is_err());
    }

    #[test]
    fn a_note_is_made_of_any_text() {
        let reason = |text: &str| note(text).map(|note| note.as_str().to_owned());
        assert_eq!(reason("line\nbreak").as_deref(), Some("line break"));
        assert_eq!(reason("\n"), None);
        assert_eq!(reason(&"x".repeat(2000)).map(|note| note.len()), Some(1024));
    }
}
