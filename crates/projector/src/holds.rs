//! Holds as a step leaves them, and as the database is given them: in one list, which it walks once.

use chrono::{DateTime, Utc};
use holdfast_core::body::JobId;
use holdfast_core::{AccountId, Event, Fact, Hold, HoldId};
use holdfast_store::Map;
use holdfast_store::record::date;
use sqlx::Postgres;
use sqlx::postgres::{PgHasArrayType, PgTypeInfo};

use crate::cache::Cache;
use crate::fold::State;
use crate::rows;

/// A hold that a step began or changed, as it is then.
pub(crate) struct Touched {
    pub(crate) account: AccountId,
    pub(crate) id: HoldId,
    pub(crate) hold: Hold,
    pub(crate) labels: Labels,
}

/// What a reserve says of its hold that the rules do not need.
#[derive(Default)]
pub(crate) struct Labels {
    pub(crate) job_id: Option<String>,
    pub(crate) saga: Option<String>,
    /// As JSON.
    pub(crate) usage: Option<String>,
}

/// The holds that a run of events touches, as they come: the same one again and again.
#[derive(Default)]
pub(crate) struct Holds {
    named: Vec<(HoldId, AccountId, State)>,
    labels: Map<(HoldId, AccountId), Labels>,
}

impl Holds {
    /// Adds the hold that `event`, which is folded, has changed.
    pub(crate) fn add(&mut self, event: &Event) {
        let fact = &event.fact;
        let Some(id) = fact.hold().filter(|_| !matches!(fact, Fact::Rejected { .. })) else { return };
        let made = matches!(fact, Fact::Reserved { .. } | Fact::Released { tombstone: true, .. });
        let state = if made { State::New } else { State::Known };
        self.named.push((id, event.account.clone(), state));
        if let Some(labels) = Labels::of(fact) {
            self.labels.insert((id, event.account.clone()), labels);
        }
    }

    /// Each once, in the order of their ids, as `cache` has it. Those that have ended leave the cache: they are
    /// read again in the rare case that they matter.
    pub(crate) fn take_out(mut self, cache: &mut Cache) -> impl Iterator<Item = (State, Touched)> {
        self.named.sort_unstable();
        // The first of those that are the same says whether it is new.
        self.named
            .dedup_by(|(id, owner, _), (before, owner_before, _)| id == before && owner == owner_before);
        self.named.into_iter().filter_map(move |(id, account, state)| {
            let holds = &mut cache.accounts.get_mut(&account)?.as_mut().as_mut()?.holds;
            let hold = if holds.get(&id)?.is_open() { holds.get(&id).cloned() } else { holds.remove(&id) }?;
            let key = (id, account);
            let labels = self.labels.remove(&key).unwrap_or_default();
            Some((state, Touched { account: key.1, id, hold, labels }))
        })
    }
}

impl Labels {
    fn of(fact: &Fact) -> Option<Self> {
        let Fact::Reserved { job_id, saga, priced, .. } = fact else { return None };
        if job_id.is_none() && saga.is_none() && priced.is_none() {
            return None;
        }
        let text = |label: &Option<JobId>| label.as_ref().map(ToString::to_string);
        let usage = priced
            .as_ref()
            .map(|priced| serde_json::to_string(&priced.usage).expect("a usage is plain values"));
        Some(Labels { job_id: text(job_id), saga: text(saga), usage })
    }
}

/// [`HoldRow`] in the database.
const TYPE: &str = "projected_hold";

/// A value of the type `projected_hold`, in the order of its columns (migration 0009).
#[derive(sqlx::Encode)]
pub(crate) struct HoldRow<'a> {
    hold: HoldId,
    account: &'a [u8],
    status: &'static str,
    amount: i64,
    captured: i64,
    absorbed: i64,
    expires_at: DateTime<Utc>,
    ended_kind: Option<&'static str>,
    ended_position: Option<i64>,
    last_position: i64,
    policies: Option<String>,
    reserved_at: Option<DateTime<Utc>>,
    job_id: Option<&'a str>,
    saga: Option<&'a str>,
    usage: Option<&'a str>,
    rates: Option<&'a [u8]>,
}

impl sqlx::Type<Postgres> for HoldRow<'_> {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_name(TYPE)
    }
}

impl PgHasArrayType for HoldRow<'_> {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::array_of(TYPE)
    }
}

impl Touched {
    /// What may change of it, and what identifies it.
    pub(crate) fn state(&self) -> HoldRow<'_> {
        let Touched { account, id, hold, .. } = self;
        HoldRow {
            hold: *id,
            account: account.as_str().as_bytes(),
            status: hold.status.as_str(),
            amount: hold.amount,
            captured: hold.captured,
            absorbed: hold.absorbed,
            expires_at: date(hold.expires_at),
            ended_kind: rows::ended_kind(hold),
            ended_position: hold.ended.map(|end| end.position.0),
            last_position: hold.last_position.0,
            policies: None,
            reserved_at: None,
            job_id: None,
            saga: None,
            usage: None,
            rates: None,
        }
    }

    /// All of it.
    pub(crate) fn whole(&self) -> HoldRow<'_> {
        let Touched { hold, labels, .. } = self;
        HoldRow {
            policies: Some(serde_json::to_string(&hold.policies).expect("policies are plain values")),
            reserved_at: Some(date(hold.reserved_at)),
            job_id: labels.job_id.as_deref(),
            saga: labels.saga.as_deref(),
            usage: labels.usage.as_deref(),
            rates: hold.rates.as_ref().map(|rates| &rates[..]),
            ..self.state()
        }
    }
}
