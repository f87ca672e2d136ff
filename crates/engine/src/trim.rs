//! Trimming: what is applied and old leaves the command stream, so that it never fills.
//!
//! **Shape.** A few times a minute; nothing is remembered in between. The stream knows when each message
//! was stored, so the boundary is searched for by halving.
//!
//! **Correctness.** Only messages below one that was committed as applied are purged, so the last
//! applied one, by which a stream is recognised, always stays. The keep time must exceed the time
//! back to which a backup may be restored: until then a restored log can be caught up.

use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::{self, stream};
use holdfast_core::Timestamp;
use holdfast_store::Applied;

use crate::bus::{BusError, COMMANDS};
use crate::intake::is_applied;
use crate::raw;

/// How often to trim; at full load the fifth of the stream that is kept free lasts longer.
pub(crate) const TRIM_EVERY: Duration = Duration::from_secs(20);

/// Purges what was applied and is older than `keep`. Failing is no harm: the next time does it.
pub(crate) async fn trim(client: Client, applied: Applied, keep: Duration, now: Timestamp) {
    match purge(client, &applied, keep, now).await {
        Ok(0) => {}
        Ok(purged) => tracing::info!(purged, "trimmed the command stream"),
        Err(error) => tracing::warn!(%error, "the command stream was not trimmed"),
    }
}

async fn purge(client: Client, applied: &Applied, keep: Duration, now: Timestamp) -> Result<u64, BusError> {
    let stream = jetstream::new(client.clone()).get_stream(COMMANDS).await.map_err(BusError::of)?;
    let info = stream.cached_info();
    let keep_micros = i64::try_from(keep.as_micros()).unwrap_or(i64::MAX);
    let before = Timestamp::from_micros(now.micros().saturating_sub(keep_micros));
    // Of another stream, or an older state of this one, nothing is known to be applied.
    let same = info.created.timestamp_nanos_opt() == Some(applied.stream_created)
        && is_applied(&client, applied).await?;
    let pressed = pressed(&info.config, &info.state, applied);
    let oldest = Timestamp::from_micros(info.state.first_timestamp.timestamp_micros());
    if !same || info.state.messages == 0 || (oldest >= before && pressed.is_none()) {
        return Ok(0);
    }
    let end = applied.sequence.min(info.state.last_sequence);
    let mut first_kept = first_since(&client, info.state.first_sequence, end, before).await?;
    if let Some(pressed) = pressed.filter(|pressed| *pressed > first_kept) {
        tracing::warn!("the command stream is nearly full; trimming before the keep time");
        first_kept = pressed;
    }
    if first_kept <= info.state.first_sequence {
        return Ok(0);
    }
    stream.purge().sequence(first_kept).await.map(|done| done.purged).map_err(BusError::of)
}

/// Where to begin to keep when the stream is nearly full, whatever the age: it must never refuse a
/// command for those that were applied long ago.
fn pressed(config: &stream::Config, state: &stream::State, applied: &Applied) -> Option<u64> {
    let most = u64::try_from(config.max_messages).ok().filter(|most| *most > 0)?;
    if state.messages <= most / 5 * 4 {
        return None;
    }
    Some(applied.sequence.saturating_sub(most / 2))
}

/// The lowest sequence from `low` to `end` whose message was stored at `before` or later; `end`
/// when all are older.
async fn first_since(client: &Client, mut low: u64, end: u64, before: Timestamp) -> Result<u64, BusError> {
    let mut high = end;
    while low < high {
        let middle = low + (high - low) / 2;
        let message = raw::at(client, middle).await?;
        // A hole in the stream has no age; what is not there need not be kept.
        let old =
            message.is_none_or(|message| Timestamp::from_micros(message.stored.timestamp_micros()) < before);
        if old {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(low)
}
