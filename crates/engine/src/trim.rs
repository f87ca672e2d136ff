//! Trimming: what is applied and old leaves the command stream, so that it never fills.
//!
//! **Correctness.** Only messages below one that was committed as applied are purged, so the last
//! applied one, by which a stream is recognised, always stays. The keep time must exceed the time
//! back to which a backup may be restored: until then a restored log can be caught up.

use std::collections::VecDeque;
use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream;
use holdfast_core::Timestamp;

use crate::bus::COMMANDS;

/// The resolution of what is remembered; a day's memory is then 8,640 marks.
const MARK_EVERY_MS: u64 = 10_000;
/// How often to purge.
pub(crate) const TRIM_EVERY: Duration = Duration::from_secs(60);

/// Remembers which sequence was applied when.
#[derive(Debug)]
pub(crate) struct Trimmer {
    keep: Duration,
    marks: VecDeque<(Timestamp, u64)>,
}

impl Trimmer {
    pub(crate) fn new(keep: Duration) -> Self {
        Trimmer { keep, marks: VecDeque::new() }
    }

    /// The message `sequence`, stored at `stored_at`, was applied and committed.
    pub(crate) fn applied(&mut self, stored_at: Timestamp, sequence: u64) {
        match self.marks.back() {
            // The stream began anew; what was remembered is of another one.
            Some((_, last)) if *last >= sequence => self.marks.clear(),
            Some((at, _)) if stored_at < at.plus_millis(MARK_EVERY_MS) => return,
            _ => {}
        }
        self.marks.push_back((stored_at, sequence));
    }

    /// The sequence below which everything is applied and older than the keep time.
    pub(crate) fn due(&mut self, now: Timestamp) -> Option<u64> {
        let keep_ms = u64::try_from(self.keep.as_millis()).unwrap_or(u64::MAX);
        let mut due = None;
        while let Some((at, sequence)) = self.marks.front().copied() {
            if at.plus_millis(keep_ms) > now {
                break;
            }
            due = Some(sequence);
            self.marks.pop_front();
        }
        due
    }
}

/// Purges what is below `sequence`. Failing is no harm: the next time does it.
pub(crate) async fn purge_below(client: Client, sequence: u64) {
    let result = async {
        let stream = jetstream::new(client).get_stream(COMMANDS).await.map_err(|error| error.to_string())?;
        // A sequence beyond the end would move the stream's sequence forward.
        if stream.cached_info().state.last_sequence < sequence {
            return Ok(0);
        }
        stream.purge().sequence(sequence).await.map(|done| done.purged).map_err(|error| error.to_string())
    };
    match result.await {
        Ok(0) => {}
        Ok(purged) => tracing::debug!(purged, sequence, "trimmed the command stream"),
        Err(error) => tracing::warn!(error, "the command stream was not trimmed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_applied_and_old_is_due() {
        let at = |seconds: u64| Timestamp::from_millis(seconds * 1000);
        let mut trimmer = Trimmer::new(Duration::from_secs(100));
        for (seconds, sequence) in [(0, 1), (5, 2), (20, 3), (60, 9)] {
            trimmer.applied(at(seconds), sequence);
        }
        assert_eq!(trimmer.due(at(99)), None);
        assert_eq!(trimmer.due(at(125)), Some(3));
        assert_eq!(trimmer.due(at(125)), None);
        trimmer.applied(at(130), 4);
        assert_eq!(trimmer.due(at(165)), None, "marks of another stream are forgotten");
    }
}
