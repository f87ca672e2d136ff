//! A command: who asks what of which account, with everything that was left out resolved.
//!
//! **Shape.** The protocol crate checks an envelope and hands the body's bytes to
//! [`Intent::parse`]; the lane hands the [`Command`] to [`crate::decide()`]. Two intents are equal
//! exactly when they mean the same, whatever their spelling: that is the test for a repeat.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::account::AccountStatus;
use crate::body::{self, JobId, Reference};
use crate::hold::{Late, OnExpiry, Overage};
use crate::id::{AccountId, CommandId, HoldId, Issuer, derived_id};
use crate::money::{AmountError, Asset, Decimal};
use crate::rejection::Refusal;
use crate::text::{ExternalRef, Note, Text, Tier};
use crate::time::Timestamp;
use crate::trace::Traced;
use crate::usage::Usage;

/// How long a hold lives when the reserve does not say: ten minutes.
pub const TTL_DEFAULT_MS: u64 = 10 * 60 * 1000;

/// What can be asked of the ledger on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "each variant is documented at its body")]
pub enum Verb {
    OpenAccount,
    SetAccount,
    TopUp,
    ReverseTopUp,
    Deduct,
    Reserve,
    Capture,
    Release,
    Extend,
    Increase,
    Refund,
}

impl Verb {
    /// Every verb, in the order of the documentation.
    pub const ALL: [Verb; 11] = [
        Verb::OpenAccount,
        Verb::SetAccount,
        Verb::TopUp,
        Verb::ReverseTopUp,
        Verb::Deduct,
        Verb::Reserve,
        Verb::Capture,
        Verb::Release,
        Verb::Extend,
        Verb::Increase,
        Verb::Refund,
    ];

    /// The verb on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Verb::OpenAccount => "open_account",
            Verb::SetAccount => "set_account",
            Verb::TopUp => "top_up",
            Verb::ReverseTopUp => "reverse_top_up",
            Verb::Deduct => "deduct",
            Verb::Reserve => "reserve",
            Verb::Capture => "capture",
            Verb::Release => "release",
            Verb::Extend => "extend",
            Verb::Increase => "increase",
            Verb::Refund => "refund",
        }
    }

    /// Whether somebody waits for this, so that it is refused once its `exp` has passed. Every
    /// other verb must land however late it arrives.
    #[must_use]
    pub fn expires(self) -> bool {
        matches!(self, Verb::Reserve | Verb::Increase | Verb::Deduct)
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text is no verb.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no verb of the ledger")]
pub struct UnknownVerb(pub String);

impl FromStr for Verb {
    type Err = UnknownVerb;

    fn from_str(text: &str) -> Result<Self, UnknownVerb> {
        let found = Verb::ALL.into_iter().find(|verb| verb.as_str() == text);
        found.ok_or_else(|| UnknownVerb(text.to_owned()))
    }
}

/// One command, authentic and well formed.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    /// Who asks.
    pub issuer: Issuer,
    /// The key of idempotency, together with the issuer.
    pub id: CommandId,
    /// The account it is about.
    pub account: AccountId,
    /// When nobody waits any more; see [`Verb::expires`].
    pub expires_at: Timestamp,
    /// What is asked.
    pub intent: Intent,
}

/// What is asked, every default written out. See [`crate::body`] for the meaning of members.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
#[allow(missing_docs, reason = "members are documented at the bodies of the same names")]
pub enum Intent {
    OpenAccount {
        tier: Tier,
        asset: Text<8>,
        overdraft_limit: Decimal,
    },
    SetAccount {
        tier: Option<Tier>,
        overdraft_limit: Option<Decimal>,
        status: Option<AccountStatus>,
    },
    TopUp {
        amount: Decimal,
        external_ref: Option<ExternalRef>,
        note: Option<Note>,
    },
    ReverseTopUp {
        of: Reference,
        amount: Option<Decimal>,
        reason: Note,
    },
    Deduct {
        amount: Decimal,
        reason: Option<Note>,
        usage: Option<Box<Usage>>,
        #[serde(skip)]
        trace: Traced,
    },
    Reserve(Reserve),
    Capture(Capture),
    Release {
        hold: HoldId,
        reason: Option<Note>,
        #[serde(skip)]
        trace: Traced,
    },
    Extend {
        hold: HoldId,
        ttl_ms: u64,
    },
    Increase {
        hold: HoldId,
        amount: Decimal,
    },
    Refund {
        of: Reference,
        amount: Option<Decimal>,
        reason: Note,
    },
    /// The ledger's own: the hold's time has come. No body parses to this.
    Expire {
        hold: HoldId,
    },
}

/// A reserve with its policies resolved.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(missing_docs, reason = "members are documented at the body of the same name")]
pub struct Reserve {
    pub amount: Decimal,
    pub hold: HoldId,
    pub ttl_ms: u64,
    pub overage: Overage,
    pub on_expiry: OnExpiry,
    pub late: Option<Late>,
    pub job_id: Option<JobId>,
    pub saga: Option<JobId>,
    pub usage: Option<Box<Usage>>,
    #[serde(skip)]
    pub trace: Traced,
}

/// A capture with its hold resolved.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(missing_docs, reason = "members are documented at the body of the same name")]
pub struct Capture {
    pub hold: HoldId,
    pub amount: Option<Decimal>,
    #[serde(rename = "final")]
    pub is_final: bool,
    pub reason: Option<Note>,
    pub usage: Option<Box<Usage>>,
    #[serde(skip)]
    pub trace: Traced,
}

impl Intent {
    /// Reads the body of `verb` and writes out its defaults.
    ///
    /// # Errors
    /// [`Refusal::InvalidCommand`], naming the field and what would be right.
    pub fn parse(verb: Verb, json: &[u8], issuer: &Issuer, id: CommandId) -> Result<Self, Refusal> {
        let keys = Keys { issuer, id };
        Ok(match verb {
            Verb::OpenAccount => open_account(read(json)?),
            Verb::SetAccount => set_account(read(json)?)?,
            Verb::TopUp => {
                let body::TopUp { amount, external_ref, note } = read(json)?;
                Intent::TopUp { amount: positive(amount)?, external_ref, note }
            }
            Verb::ReverseTopUp => {
                let body::ReverseTopUp { of, amount, reason } = read(json)?;
                Intent::ReverseTopUp { of, amount: positive_if_given(amount)?, reason }
            }
            Verb::Deduct => {
                let body::Deduct { amount, reason, usage, trace } = read(json)?;
                let (amount, usage) = (positive(amount)?, priceable(usage)?);
                Intent::Deduct { amount, reason, usage, trace: Traced(trace) }
            }
            Verb::Reserve => Intent::Reserve(reserve(read(json)?, &keys)?),
            Verb::Capture => capture(read(json)?, &keys)?,
            Verb::Release => {
                let body::Release { hold, job_id, reason, trace } = read(json)?;
                let hold = keys.hold(hold, job_id.as_ref())?;
                Intent::Release { hold, reason, trace: Traced(trace) }
            }
            Verb::Extend => {
                let body::Extend { hold, ttl_ms } = read(json)?;
                Intent::Extend { hold, ttl_ms: lasting(ttl_ms)? }
            }
            Verb::Increase => {
                let body::Increase { hold, amount } = read(json)?;
                Intent::Increase { hold, amount: positive(amount)? }
            }
            Verb::Refund => {
                let body::Refund { of, amount, reason } = read(json)?;
                Intent::Refund { of, amount: positive_if_given(amount)?, reason }
            }
        })
    }

    /// The verb, or none for what the ledger does by itself.
    #[must_use]
    pub fn verb(&self) -> Option<Verb> {
        Some(match self {
            Intent::OpenAccount { .. } => Verb::OpenAccount,
            Intent::SetAccount { .. } => Verb::SetAccount,
            Intent::TopUp { .. } => Verb::TopUp,
            Intent::ReverseTopUp { .. } => Verb::ReverseTopUp,
            Intent::Deduct { .. } => Verb::Deduct,
            Intent::Reserve(_) => Verb::Reserve,
            Intent::Capture(_) => Verb::Capture,
            Intent::Release { .. } => Verb::Release,
            Intent::Extend { .. } => Verb::Extend,
            Intent::Increase { .. } => Verb::Increase,
            Intent::Refund { .. } => Verb::Refund,
            Intent::Expire { .. } => return None,
        })
    }

    /// The hold it is about.
    #[must_use]
    pub fn hold(&self) -> Option<HoldId> {
        match self {
            Intent::Reserve(reserve) => Some(reserve.hold),
            Intent::Capture(Capture { hold, .. })
            | Intent::Release { hold, .. }
            | Intent::Extend { hold, .. }
            | Intent::Increase { hold, .. }
            | Intent::Expire { hold } => Some(*hold),
            _ => None,
        }
    }

    /// The names of the members in which two intents of one verb differ.
    #[must_use]
    pub fn differences(&self, other: &Intent) -> Vec<String> {
        let members = |intent: &Intent| match serde_json::to_value(intent) {
            Ok(serde_json::Value::Object(members)) => members,
            _ => unreachable!("an intent is a struct of plain values"),
        };
        let (ours, theirs) = (members(self), members(other));
        ours.into_iter()
            .filter(|(name, value)| theirs.get(name) != Some(value))
            .map(|(name, _)| name)
            .collect()
    }
}

/// What stands in for a hold's id when a body does not give it.
struct Keys<'a> {
    issuer: &'a Issuer,
    id: CommandId,
}

impl Keys<'_> {
    fn hold(&self, hold: Option<HoldId>, job_id: Option<&JobId>) -> Result<HoldId, Refusal> {
        match (hold, job_id) {
            (Some(hold), None) => Ok(hold),
            (None, Some(job)) => Ok(self.of_job(job)?),
            (None, None) => Err(Refusal::invalid("hold", "is missing: give `hold` or `job_id`")),
            (Some(_), Some(_)) => Err(Refusal::invalid("job_id", "must not be given beside `hold`")),
        }
    }

    fn of_job(&self, job: &JobId) -> Result<HoldId, Refusal> {
        hold_of_job(self.issuer, job)
    }
}

/// The hold that `job` stands for when `issuer` reserves for it.
///
/// # Errors
/// [`Refusal::InvalidCommand`] when it has more than 128 bytes.
pub fn hold_of_job(issuer: &Issuer, job: &JobId) -> Result<HoldId, Refusal> {
    if job.as_str().len() > JOB_ID_MAX_BYTES {
        return Err(Refusal::invalid("job_id", format!("has more than {JOB_ID_MAX_BYTES} bytes")));
    }
    Ok(derived_id(issuer, Verb::Reserve.as_str(), job.as_str()))
}

/// A job id is hashed as bytes, so it is bounded in bytes.
const JOB_ID_MAX_BYTES: usize = 128;

fn open_account(body: body::OpenAccount) -> Intent {
    Intent::OpenAccount {
        tier: body.tier.unwrap_or_else(|| Text::literal("free")),
        asset: body.asset.unwrap_or_else(|| Text::literal(Asset::USD.code())),
        overdraft_limit: body.overdraft_limit.unwrap_or_else(|| "0".parse().expect("zero is a decimal")),
    }
}

fn set_account(body: body::SetAccount) -> Result<Intent, Refusal> {
    let body::SetAccount { tier, overdraft_limit, status } = body;
    if tier.is_none() && overdraft_limit.is_none() && status.is_none() {
        return Err(Refusal::invalid("body", "is empty: give `tier`, `overdraft_limit` or `status`"));
    }
    Ok(Intent::SetAccount { tier, overdraft_limit, status })
}

fn reserve(body: body::Reserve, keys: &Keys<'_>) -> Result<Reserve, Refusal> {
    let hold = match (body.hold, &body.job_id) {
        (Some(_), Some(_)) => keys.hold(body.hold, body.job_id.as_ref())?,
        (Some(hold), None) => hold,
        (None, Some(job)) => keys.of_job(job)?,
        (None, None) => keys.id,
    };
    Ok(Reserve {
        amount: positive(body.amount)?,
        hold,
        ttl_ms: lasting(body.ttl_ms.unwrap_or(TTL_DEFAULT_MS))?,
        overage: body.overage.unwrap_or_default(),
        on_expiry: body.on_expiry.unwrap_or_default(),
        late: body.late,
        job_id: body.job_id,
        saga: body.saga,
        usage: priceable(body.usage)?,
        trace: Traced(body.trace),
    })
}

fn capture(body: body::Capture, keys: &Keys<'_>) -> Result<Intent, Refusal> {
    let is_final = body.is_final.unwrap_or(true);
    if !is_final && body.amount.is_some_and(|amount| amount.is_zero()) {
        return Err(Refusal::invalid("amount", "may be zero only in a final capture"));
    }
    if body.usage.is_some() && body.amount.is_none() {
        return Err(Refusal::invalid("amount", "must be given beside `usage`: it is the price of the usage"));
    }
    Ok(Intent::Capture(Capture {
        hold: keys.hold(body.hold, body.job_id.as_ref())?,
        amount: body.amount,
        is_final,
        reason: body.reason,
        usage: priceable(body.usage)?,
        trace: Traced(body.trace),
    }))
}

fn priceable(usage: Option<Box<Usage>>) -> Result<Option<Box<Usage>>, Refusal> {
    if let Some(usage) = &usage {
        usage.check().map_err(|error| Refusal::invalid("usage", error))?;
    }
    Ok(usage)
}

fn positive(amount: Decimal) -> Result<Decimal, Refusal> {
    if amount.is_zero() {
        return Err(Refusal::invalid("amount", AmountError::Zero));
    }
    Ok(amount)
}

fn positive_if_given(amount: Option<Decimal>) -> Result<Option<Decimal>, Refusal> {
    amount.map(positive).transpose()
}

fn lasting(ttl_ms: u64) -> Result<u64, Refusal> {
    if ttl_ms == 0 {
        return Err(Refusal::invalid("ttl_ms", "must be more than zero"));
    }
    Ok(ttl_ms)
}

/// Reads a body; when that fails, reads it once more to learn which member is at fault. The good
/// path does not pay for the bookkeeping.
fn read<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, Refusal> {
    // A reader of structs would also take an array of their members in order.
    if json.trim_ascii_start().first() != Some(&b'{') {
        return Err(Refusal::invalid("body", "must be a JSON object"));
    }
    if let Ok(body) = serde_json::from_slice(json) {
        return Ok(body);
    }
    let mut reader = serde_json::Deserializer::from_slice(json);
    match serde_path_to_error::deserialize::<_, T>(&mut reader) {
        Err(error) => {
            let path = error.path().to_string();
            let field = if path == "." { "body".to_owned() } else { path };
            Err(Refusal::invalid(field, strip_place(&error.into_inner().to_string())))
        }
        Ok(_) => Err(Refusal::invalid("body", "has something after its end")),
    }
}

/// The reader's message without "at line 1 column 7", which means nothing to who wrote a struct.
fn strip_place(message: &str) -> String {
    message.split(" at line ").next().unwrap_or(message).to_owned()
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn parse(verb: Verb, json: &str) -> Result<Intent, Refusal> {
        let issuer = Issuer::new("chat-api").expect("legal");
        Intent::parse(verb, json.as_bytes(), &issuer, Uuid::from_u128(7))
    }

    #[test]
    fn the_same_meaning_is_the_same_intent() {
        let same = [
            r#"{"amount":"1.5","ttl_ms":600000}"#,
            r#"{ "ttl_ms" : 600000, "amount":1.50 }"#,
            r#"{"amount":"1.500","overage":"reject","on_expiry":"release"}"#,
            r#"{"amount":"1.5","hold":"00000000-0000-0000-0000-000000000007","late":null}"#,
        ];
        for json in same {
            assert_eq!(parse(Verb::Reserve, json), parse(Verb::Reserve, same[0]), "{json}");
        }
        let other =
            parse(Verb::Reserve, r#"{"amount":"1.5","late":"charge","overage":"cap"}"#).expect("valid");
        assert_eq!(parse(Verb::Reserve, same[0]).expect("valid").differences(&other), ["late", "overage"]);
    }

    #[test]
    fn a_bad_body_is_refused_by_field() {
        let cases = [
            (Verb::Deduct, r#"{"amount":"1","colour":"red"}"#, "colour", "unknown field"),
            (Verb::Deduct, r#"{"amount":"-1"}"#, "amount", "sign"),
            (Verb::Deduct, r#"{"amount":1e3}"#, "amount", "exponent"),
            (Verb::Deduct, r#"{"amount":"0"}"#, "amount", "more than zero"),
            (Verb::Deduct, r#"{"amount":"1","amount":"2"}"#, "amount", "duplicate"),
            (Verb::Deduct, r"{}", "amount", "missing"),
            (Verb::Deduct, r#"["1",null]"#, "body", "object"),
            (Verb::Deduct, r#"{"amount":"1"} x"#, "body", "after its end"),
            (Verb::Deduct, r#"{"amount":"1","reason":"a\u0000b"}"#, "reason", "U+0000"),
            (Verb::Deduct, r#"{"amount":"1","reason":"\ud800"}"#, "reason", "hex escape"),
            (Verb::Capture, r#"{"amount":"1"}"#, "hold", "job_id"),
            (Verb::Capture, r#"{"hold":"x"}"#, "hold", "UUID"),
            (Verb::Capture, r#"{"job_id":"a","amount":"0","final":false}"#, "amount", "final"),
            (Verb::Reserve, r#"{"amount":"1","ttl_ms":0}"#, "ttl_ms", "more than zero"),
            (Verb::Reserve, r#"{"amount":"1","overage":"steal"}"#, "overage", "unknown variant"),
            (Verb::SetAccount, r"{}", "body", "tier"),
        ];
        for (verb, json, field, word) in cases {
            match parse(verb, json) {
                Err(Refusal::InvalidCommand { field: at, problem }) => {
                    let told = format!("{at}: {problem}");
                    assert!(told.contains(field) && told.contains(word), "{json}: {told}");
                }
                other => panic!("{json}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_deeply_nested_body_is_refused_not_followed() {
        let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(parse(Verb::Deduct, &deep).is_err());
        assert!(parse(Verb::Deduct, &format!(r#"{{"amount":{deep}}}"#)).is_err());
    }
}
