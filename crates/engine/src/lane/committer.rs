//! Committing, beside deciding: a task that owns the writer and takes one batch after the other.
//!
//! **Correctness.** Batches are committed in the order in which they were decided. After one that
//! failed none is, until the lane has dropped what it decided on top of it and says so.

use std::sync::Arc;
use std::time::Duration;

use holdfast_store::error::within;
use holdfast_store::writer::Evidence;
use holdfast_store::{Applied, Head, Record, StoreError, Writer};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::AHEAD_MAX;

/// How long a commit may take, its waiting for a slow disk or a synchronous standby included. After
/// that nobody knows what became of it, and taking over again finds out.
const COMMIT_WITHIN: Duration = Duration::from_secs(30);

/// A batch on its way to the log.
pub(super) struct Append {
    /// The events; without any, only the applied sequence moves.
    pub(super) records: Arc<Vec<Record>>,
    pub(super) evidence: Evidence,
    pub(super) applied: Applied,
}

enum Order {
    Append(Append),
    /// What was decided on top of a failure is forgotten.
    GoOn,
}

/// How a commit ended.
pub(super) enum Ended {
    Committed,
    Failed(StoreError),
    /// It followed one that failed.
    Skipped,
    /// Answers [`Order::GoOn`]: where the log ends.
    GoesOn(Head),
}

/// The thread that commits. Deciding keeps the other threads busy for milliseconds at a time, and none of
/// the round trips of a commit may wait until one of them is free.
pub(super) struct CommitThread(Option<Runtime>);

impl CommitThread {
    pub(super) fn start() -> Result<Self, StoreError> {
        let mut runtime = Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).thread_name("holdfast commits").enable_all().build();
        runtime
            .map(|runtime| CommitThread(Some(runtime)))
            .map_err(|error| StoreError::Unavailable(error.into()))
    }

    pub(super) fn handle(&self) -> &Handle {
        self.0.as_ref().expect("taken when dropped").handle()
    }
}

impl Drop for CommitThread {
    /// A runtime may not be waited for within another.
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// The lane's end of it.
pub(super) struct Committer {
    orders: mpsc::Sender<Order>,
    ended: mpsc::Receiver<Ended>,
    /// Dropped with the reign, and with it the connection.
    _task: AbortOnDropHandle<()>,
}

impl Committer {
    /// Takes the partition over on `thread`; answers where the log ends.
    pub(super) async fn take_over(
        thread: &Handle,
        database_url: String,
        partition: i16,
    ) -> Result<(Self, Head), StoreError> {
        let taking = thread.spawn(async move { Writer::take_over(&database_url, partition).await });
        let writer =
            AbortOnDropHandle::new(taking).await.map_err(|ended| match ended.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => gone(),
            })??;
        let head = writer.head().clone();
        let (orders, waiting) = mpsc::channel(AHEAD_MAX + 1);
        let (answers, ended) = mpsc::channel(AHEAD_MAX + 1);
        let task = AbortOnDropHandle::new(thread.spawn(run(writer, waiting, answers)));
        Ok((Committer { orders, ended, _task: task }, head))
    }

    /// Hands a batch over; there is room for [`AHEAD_MAX`].
    pub(super) async fn append(&self, append: Append) -> Result<(), StoreError> {
        self.orders.send(Order::Append(append)).await.map_err(|_| gone())
    }

    /// How the oldest batch on its way ended. Safe to drop.
    pub(super) async fn ended(&mut self) -> Result<Ended, StoreError> {
        self.ended.recv().await.ok_or_else(gone)
    }

    /// Lets committing go on after a failure, when nothing is on its way; answers where the log ends.
    pub(super) async fn go_on(&mut self) -> Result<Head, StoreError> {
        self.orders.send(Order::GoOn).await.map_err(|_| gone())?;
        match self.ended().await? {
            Ended::GoesOn(head) => Ok(head),
            _ => Err(StoreError::Inconsistent("a commit ended that was not begun".to_owned())),
        }
    }
}

fn gone() -> StoreError {
    StoreError::Unavailable(sqlx::Error::WorkerCrashed)
}

async fn run(mut writer: Writer, mut orders: mpsc::Receiver<Order>, ended: mpsc::Sender<Ended>) {
    let mut failed = false;
    while let Some(order) = orders.recv().await {
        let end = match order {
            Order::GoOn => {
                failed = false;
                Ended::GoesOn(writer.head().clone())
            }
            Order::Append(_) if failed => Ended::Skipped,
            Order::Append(append) => match within(COMMIT_WITHIN, commit(&mut writer, append)).await {
                Ok(()) => Ended::Committed,
                Err(error) => {
                    failed = true;
                    Ended::Failed(error)
                }
            },
        };
        if ended.send(end).await.is_err() {
            return;
        }
    }
}

async fn commit(writer: &mut Writer, append: Append) -> Result<(), StoreError> {
    let Append { records, evidence, applied } = append;
    if !records.is_empty() {
        return writer.append(&records, &evidence, applied).await;
    }
    if applied != writer.head().applied {
        return writer.advance(applied).await;
    }
    Ok(())
}
