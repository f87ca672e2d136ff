//! The lane: the one ordered writer of a partition.
//!
//! **Shape.** [`Lane::run`] takes the partition over, then repeats: take whatever has arrived and
//! is verified, decide in memory, hand over to be committed, answer what has been. What arrives
//! meanwhile is the next batch; there is no timer. [`reign`] is one such period between two
//! take-overs.
//!
//! **Correctness.** A crash before the commit leaves nothing; after it, the answer may be missing,
//! and the publisher's retry gets it from the log. When it is not known whether a commit happened,
//! memory is dropped and the partition taken over again, which waits for the old statement to end.
//! A fence stops the lane for good: another one is writing.

mod accounts;
mod answers;
mod committer;
mod decisions;
mod expiry;
mod lookups;
mod memory;
mod reign;
mod seen;

use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use holdfast_core::{Assets, Position};
use holdfast_projector::load;
use holdfast_protocol::verify::Rules;
use holdfast_store::connect::connect;
use holdfast_store::error::within;
use holdfast_store::recent::Recent;
use holdfast_store::{Role, StoreError, head};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::health::Health;
use committer::CommitThread;
use reign::Reign;

/// How many batches may be decided that are not committed: one that commits, and one that is ready
/// when it has. More would only make a command wait longer for its own commit.
const AHEAD_MAX: usize = 2;

/// How long to wait before taking over again after the database was lost.
const BACKOFF: Duration = Duration::from_millis(250);

/// The most events that a take-over reads of the log itself: more than the projector may lag in a burst.
const TAIL_EVENTS_MAX: i64 = 300_000;
/// How often to look whether the projections are that near, and how long a look may take.
const LOOK_EVERY: Duration = Duration::from_millis(200);
const LOOK_WITHIN: Duration = Duration::from_secs(10);

/// How long a take-over may take, the tail of the log and the old writer's last commit included.
const BEGIN_WITHIN: Duration = Duration::from_secs(120);

/// What a lane is told.
#[derive(Debug, Clone)]
pub struct LaneConfig {
    /// The database.
    pub database_url: String,
    /// The bus: commands come in by a connection that is made anew whenever it is in doubt.
    pub nats_url: String,
    /// The partition.
    pub partition: i16,
    /// The assets that accounts may be opened in.
    pub assets: Assets,
    /// How long applied commands stay in the stream.
    pub keep: Duration,
    /// How many accounts may be in memory.
    pub accounts_max: usize,
}

/// The lane with all that it touches.
pub struct Lane {
    /// What it was told.
    pub config: LaneConfig,
    /// Keys and rights; changes are taken up between batches.
    pub rules: watch::Receiver<Arc<Rules>>,
    /// The connection that the streams are looked after by.
    pub streams: Client,
    /// The connection that outcomes go out by, so that nothing else delays them.
    pub answers: Client,
    /// The present.
    pub clock: Arc<dyn Clock>,
    /// What was committed last, for those who follow.
    pub recent: Arc<Recent>,
    /// Where the last committed position is told.
    pub committed: watch::Sender<Position>,
    /// How it is doing.
    pub health: Arc<Health>,
}

/// Why a lane stopped for good.
#[derive(Debug, thiserror::Error)]
pub enum LaneError {
    /// Another writer took over, or the database contradicts itself.
    #[error(transparent)]
    Store(StoreError),
}

impl Lane {
    /// Runs until told to stop or fenced.
    ///
    /// # Errors
    /// [`LaneError`] when going on could do harm; the process should end.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), LaneError> {
        let thread = CommitThread::start().map_err(LaneError::Store)?;
        loop {
            let result = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                begun = Box::pin(self.begin(thread.handle())) => match begun {
                    Ok(reign) => Box::pin(reign.run(stop.clone())).await,
                    Err(error) => Err(error),
                },
            };
            match result {
                Ok(()) => return Ok(()),
                Err(
                    error @ (StoreError::Fenced
                    | StoreError::Unmigrated
                    | StoreError::Inconsistent(_)
                    | StoreError::Log(_)),
                ) => {
                    self.health.ill("lane", error.to_string());
                    return Err(LaneError::Store(error));
                }
                Err(error @ (StoreError::Unavailable(_) | StoreError::Content { .. })) => {
                    self.health.ill("lane", error.to_string());
                }
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(BACKOFF) => {}
            }
        }
    }

    async fn begin(&mut self, thread: &Handle) -> Result<Reign<'_>, StoreError> {
        self.projected().await?;
        // Those who follow the log stand back meanwhile: somebody waits for the first outcome.
        let recent = Arc::clone(&self.recent);
        recent.press(true);
        let begun = Box::pin(within(BEGIN_WITHIN, Reign::begin(self, thread))).await;
        recent.press(false);
        begun
    }

    /// Waits until the projections are near the log's end. A take-over reads what they lack, and must
    /// never read a log whose projections are being made anew.
    async fn projected(&self) -> Result<(), StoreError> {
        let LaneConfig { database_url, partition, .. } = &self.config;
        let mut connection = connect(database_url, Role::Reader).await?;
        loop {
            let end = within(LOOK_WITHIN, head::read(&mut connection, *partition)).await?.position;
            let at = within(LOOK_WITHIN, load::checkpoint(&mut connection, *partition)).await?;
            if end.0 - at.0 < TAIL_EVENTS_MAX {
                return Ok(());
            }
            self.health.ill("lane", format!("the projections are at {at} of {end}; waiting for them"));
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}
