//! The projector: follows the log and keeps the live tables.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_core::Position;
use holdfast_store::connect::connect;
use holdfast_store::error::within;
use holdfast_store::recent::Recent;
use holdfast_store::{Role, StoreError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::fold::{Folder, STEP_EVENTS};
use crate::progress::Progress;
use crate::tables::Tables;

/// How often the log is looked at when nobody says that it grew.
const POLL: Duration = Duration::from_millis(200);
/// After a step the projector rests for so many times as long as it worked. Longer steps cost less for
/// each event: more holds begin and end within one. When little happens a step takes a millisecond or
/// two, and nobody notices the rest.
const RESTS: u32 = 6;
/// But no longer than this.
const REST_MAX: Duration = Duration::from_millis(600);
/// Nor when nothing was committed for half as long as it worked, within these bounds: then there is nothing to
/// wait for. Commits of a busy lane are 10 to 40 ms apart.
const QUIET: RangeInclusive<Duration> = Duration::from_millis(20)..=Duration::from_millis(60);
/// How far it may fall behind in a burst, in events: a take-over has to fold what the tables lack, and this
/// takes it a second, or two and a half on a slow machine.
const LAG_MAX: i64 = 200_000;
/// How long one step may take, waiting for a rebuild's swap included.
const STEP_WITHIN: Duration = Duration::from_secs(60);
/// How long to wait after an error before the next try.
const BACKOFF: Duration = Duration::from_millis(500);

/// Follows one partition.
pub struct Projector {
    /// The database.
    pub url: String,
    /// The partition.
    pub partition: i16,
    /// What the lane of this process has committed last.
    pub recent: Arc<Recent>,
    /// The lane's last committed position, to wake by.
    pub committed: watch::Receiver<Position>,
    /// Where the tables are, for those who wait for it.
    pub progress: Progress,
    /// What is wrong, if anything is.
    pub problem: watch::Sender<Option<String>>,
}

impl Projector {
    /// Runs until told to stop. An error is logged and tried again from the checkpoint.
    pub async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => return,
                result = self.follow() => {
                    let Err(error) = result;
                    self.problem.send_replace(Some(error.to_string()));
                    tracing::warn!(%error, "the projector goes on from its checkpoint");
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(BACKOFF) => {}
            }
        }
    }

    async fn follow(&mut self) -> Result<std::convert::Infallible, StoreError> {
        let mut connection = connect(&self.url, Role::Projector).await?;
        let recent = Arc::clone(&self.recent);
        let mut folder = Folder::new(Tables::Live, self.partition, recent.follow());
        let mut at = Position::default();
        loop {
            tokio::select! {
                () = recent.yield_to_lane(at, LAG_MAX, &self.committed) => {}
                () = self.progress.wanted() => {}
            }
            let begun = Instant::now();
            let next = within(STEP_WITHIN, folder.step(&mut connection)).await?;
            let worked = begun.elapsed();
            self.progress.set(next);
            self.problem.send_if_modified(|problem| problem.take().is_some());
            let committed = self.committed.borrow_and_update().0;
            metrics::gauge!("holdfast_projector_position").set(approximate(next.0));
            metrics::gauge!("holdfast_projector_lag_events").set(approximate((committed - next.0).max(0)));
            if next != at {
                self.rest(next, worked).await;
            } else if committed <= next.0 {
                // Whoever wakes us may be another process that cannot; hence the poll.
                changed(&mut self.committed, POLL).await;
            }
            at = next;
        }
    }

    /// Lets events gather behind `at`, after a step that took `worked`: until they fill a step, somebody waits
    /// for them, or no more come.
    async fn rest(&mut self, at: Position, worked: Duration) {
        let quiet = (worked / 2).clamp(*QUIET.start(), *QUIET.end());
        let enough = i64::try_from(STEP_EVENTS).unwrap_or(i64::MAX);
        let gathered = async {
            while self.committed.borrow_and_update().0 - at.0 < enough {
                if !changed(&mut self.committed, quiet).await {
                    return;
                }
            }
        };
        tokio::select! {
            () = gathered => {}
            () = self.progress.wanted() => {}
            () = tokio::time::sleep((worked * RESTS).min(REST_MAX)) => {}
        }
    }
}

/// Whether more was committed within `limit`.
async fn changed(committed: &mut watch::Receiver<Position>, limit: Duration) -> bool {
    match tokio::time::timeout(limit, committed.changed()).await {
        Ok(Ok(())) => true,
        Ok(Err(_)) => {
            // The lane has ended, and this process soon will.
            tokio::time::sleep(limit).await;
            false
        }
        Err(_) => false,
    }
}

/// Metrics are floats; positions stay exact far beyond any log that exists.
#[allow(clippy::cast_precision_loss)]
fn approximate(count: i64) -> f64 {
    count as f64
}
