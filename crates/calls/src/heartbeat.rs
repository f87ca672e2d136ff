//! The heartbeat: holds of calls that are under way do not run out of time, and what streams
//! deliver is noted in the journal.
//!
//! **Shape.** One task for all live holds. It wakes every [`TICK`], hands the counts that are new
//! to the journal (so a stream costs one write per tick, however small its pieces are), and
//! extends the holds of which half of the time is over.
//!
//! **Correctness.** A hold that is not extended in time expires and is given back, and its capture
//! comes late: charged from what may be taken then. So half of the time is left for trying. Counts
//! are handed over under the lock under which a hold leaves, so none of them comes after the
//! settlement.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use holdfast_client::{Client, ClientError, Request};
use holdfast_core::body::Extend;
use holdfast_core::hold::LIFE_MAX_MS;
use holdfast_core::{AccountId, HoldId, Tokens, Verb};
use holdfast_protocol::Outcome;
use serde_json::value::to_raw_value;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};
use uuid::Uuid;

use crate::journal::Journal;

/// How often streams are noted: at least this often, says the form of the journal.
const TICK: Duration = Duration::from_millis(200);
/// How often the journal is rid of what is no longer of use.
const SWEEP_EVERY: Duration = Duration::from_secs(60 * 60);
/// How long an extension waits for its outcome.
const WITHIN: Duration = Duration::from_secs(5);
/// Extensions on the way at once.
const CONCURRENCY: usize = 32;
/// The last extension stays this far below the longest life, which the ledger counts by its own
/// clock, and from its decision of the reserve.
const LIFE_MARGIN: Duration = Duration::from_secs(30);

/// One live hold.
struct Beat {
    account: AccountId,
    ttl: Duration,
    /// When it is to be extended; none when that is no use any more, or on its way.
    due: Option<Instant>,
    /// When its longest life is over, at the earliest.
    life_end: Instant,
    /// Delivered tokens that the journal does not have yet.
    unwritten: Option<Tokens>,
}

/// The holds whose calls are under way.
#[derive(Default)]
pub(crate) struct Live(Mutex<HashMap<HoldId, Beat>>);

impl Live {
    fn lock(&self) -> MutexGuard<'_, HashMap<HoldId, Beat>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on the hold is extended. `reserve_sent` is from before its reserve was.
    pub(crate) fn add(&self, hold: HoldId, account: AccountId, ttl: Duration, reserve_sent: Instant) {
        let life_end = reserve_sent + Duration::from_millis(LIFE_MAX_MS).saturating_sub(LIFE_MARGIN);
        let due = Some(reserve_sent + ttl / 2);
        self.lock().insert(hold, Beat { account, ttl, due, life_end, unwritten: None });
    }

    /// The hold is being settled, or left to expire.
    pub(crate) fn remove(&self, hold: HoldId) {
        self.lock().remove(&hold);
    }

    /// What has been delivered; written at the next tick.
    pub(crate) fn delivered(&self, hold: HoldId, tokens: Tokens) {
        if let Some(beat) = self.lock().get_mut(&hold) {
            beat.unwritten = Some(tokens);
        }
    }

    /// What the provider reported, or that nothing is left to be charged: written at once, and
    /// not overwritten by what was delivered before.
    pub(crate) fn observed(&self, journal: &Journal, hold: HoldId, observed: Option<(String, &'static str)>) {
        let mut live = self.lock();
        if let Some(beat) = live.get_mut(&hold) {
            beat.unwritten = None;
        }
        journal.observed(hold, observed);
    }

    /// Forgets what was delivered and not written yet.
    pub(crate) fn forget_delivered(&self, hold: HoldId) {
        if let Some(beat) = self.lock().get_mut(&hold) {
            beat.unwritten = None;
        }
    }

    /// Hands over what is new.
    pub(crate) fn write_delivered(&self, journal: &Journal) {
        for (hold, beat) in self.lock().iter_mut() {
            if let Some(tokens) = beat.unwritten.take() {
                journal.observed(*hold, Some((json(&tokens), "delivered")));
            }
        }
    }

    /// The holds that are due, with the time to ask for; none of them is due again until
    /// [`Live::extended`].
    fn due(&self, now: Instant) -> Vec<(HoldId, AccountId, Duration)> {
        let mut due = Vec::new();
        for (hold, beat) in self.lock().iter_mut() {
            if beat.due.is_none_or(|at| at > now) {
                continue;
            }
            beat.due = None;
            let left = beat.life_end.saturating_duration_since(now);
            if left > Duration::ZERO {
                due.push((*hold, beat.account.clone(), beat.ttl.min(left)));
            } else {
                tracing::warn!(%hold, "a hold has reached its longest life and is extended no more");
            }
        }
        due
    }

    /// What an extension by `ttl`, asked for at `asked`, led to.
    fn extended(&self, hold: HoldId, ttl: Duration, asked: Instant, result: Result<Outcome, ClientError>) {
        let mut live = self.lock();
        // It may have been settled meanwhile.
        let Some(beat) = live.get_mut(&hold) else { return };
        match result {
            Ok(outcome) if outcome.accepted() => {
                // A shorter time was all that was left of its life.
                beat.due = (ttl >= beat.ttl).then(|| asked + ttl / 2);
            }
            Ok(outcome) => {
                let code = outcome.code.as_deref().unwrap_or_default();
                tracing::warn!(%hold, code, "a hold was not extended");
            }
            Err(error) => {
                tracing::warn!(%hold, %error, "a hold was not extended yet; it is tried again");
                // Several tries fit into the half that is left.
                beat.due = Some(Instant::now() + (beat.ttl / 16).max(TICK));
            }
        }
    }
}

/// Tokens as the journal has them.
pub(crate) fn json(tokens: &Tokens) -> String {
    serde_json::to_string(tokens).expect("tokens are plain values")
}

/// Beats until nobody has a hold, or could make one, any more.
pub(crate) async fn beat(client: Client, journal: Journal, live: Weak<Live>) {
    let permits = Arc::new(Semaphore::new(CONCURRENCY));
    let mut extensions = JoinSet::new();
    let mut swept = Instant::now();
    let mut ticks = interval(TICK);
    // After a pause of the process there is nothing to be made up for.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(live) = live.upgrade() else { break };
        live.write_delivered(&journal);
        for (hold, account, ttl) in live.due(Instant::now()) {
            let (client, permits, live) = (client.clone(), Arc::clone(&permits), Arc::clone(&live));
            extensions.spawn(async move {
                let _permit = permits.acquire().await;
                let asked = Instant::now();
                let result = extend(&client, hold, &account, ttl).await;
                live.extended(hold, ttl, asked, result);
            });
        }
        while extensions.try_join_next().is_some() {}
        if swept.elapsed() >= SWEEP_EVERY {
            journal.sweep();
            swept = Instant::now();
        }
    }
}

async fn extend(
    client: &Client,
    hold: HoldId,
    account: &AccountId,
    ttl: Duration,
) -> Result<Outcome, ClientError> {
    let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(LIFE_MAX_MS).max(1);
    let body = to_raw_value(&Extend { hold, ttl_ms })?;
    // A new id each time: an extension counts from when it is decided.
    let request = Request {
        id: Uuid::now_v7(),
        verb: Verb::Extend,
        account: account.as_str(),
        body: &body,
        within: WITHIN,
        valid_for: WITHIN,
    };
    client.send(request).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::plan;

    const TTL: Duration = Duration::from_secs(600);

    fn told(code: Option<&str>) -> Result<Outcome, ClientError> {
        let mut outcome = serde_json::json!({
            "id": Uuid::nil(), "kind": "extended", "account": "user-1", "replayed": false,
        });
        if let Some(code) = code {
            outcome["code"] = code.into();
        }
        Ok(serde_json::from_value(outcome).expect("an outcome"))
    }

    #[test]
    fn a_hold_is_extended_when_half_of_its_time_is_over() {
        let (live, plan, start) = (Live::default(), plan(), Instant::now());
        live.add(plan.hold, plan.account.clone(), TTL, start);
        assert!(live.due(start + TTL / 2 - TICK).is_empty());
        let half = start + TTL / 2;
        assert_eq!(live.due(half), [(plan.hold, plan.account.clone(), TTL)]);
        assert!(live.due(half).is_empty(), "one extension at a time");
        live.extended(plan.hold, TTL, half, told(None));
        assert!(live.due(half + TTL / 2 - TICK).is_empty());
        assert_eq!(live.due(half + TTL / 2).len(), 1);
        live.extended(plan.hold, TTL, half, told(Some("hold_settled")));
        assert!(live.due(half + TTL * 3).is_empty(), "a hold that has ended is left alone");
    }

    #[test]
    fn the_last_extension_ends_with_the_life_of_the_hold() {
        let (live, plan, start) = (Live::default(), plan(), Instant::now());
        live.add(plan.hold, plan.account.clone(), TTL, start);
        let late = start + Duration::from_millis(LIFE_MAX_MS) - Duration::from_secs(90);
        let due = live.due(late);
        assert_eq!(due[0].2, Duration::from_secs(60));
        live.extended(plan.hold, due[0].2, late, told(None));
        assert!(live.due(late + TTL).is_empty());
    }
}
