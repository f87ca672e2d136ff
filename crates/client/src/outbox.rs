//! The outbox: what waits to be published at the same moment leaves in as few messages as fit.
//!
//! **Shape.** Callers put signed envelopes in; one task takes whatever is there, publishes it and waits until
//! it is written to the connection. What has come meanwhile leaves next, so that messages grow with the load
//! and nobody waits for company.
//!
//! **Correctness.** What is lost here is lost on the way: the caller publishes its envelope again, by itself.

use std::time::Duration;

use holdfast_protocol::bundle::{Outgoing, bundle};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::timeout;

/// Envelopes that may wait to be published; beyond it callers wait.
const WAITING_MAX: usize = 4_096;
/// How long to wait until something is written: the connection may be away.
const WRITTEN_WITHIN: Duration = Duration::from_secs(1);

/// The callers' end. The task ends with it.
pub(crate) struct Outbox {
    waiting: mpsc::Sender<Outgoing>,
    task: AbortHandle,
}

impl Outbox {
    pub(crate) fn start(nats: async_nats::Client) -> Self {
        let (waiting, queue) = mpsc::channel(WAITING_MAX);
        Outbox { waiting, task: tokio::spawn(publish(nats, queue)).abort_handle() }
    }

    /// Puts an envelope in, waiting for room.
    pub(crate) async fn put(&self, envelope: Outgoing) {
        // The task lives as long as this does.
        let _ = self.waiting.send(envelope).await;
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn publish(nats: async_nats::Client, mut queue: mpsc::Receiver<Outgoing>) {
    let mut waiting = Vec::new();
    while let Some(first) = queue.recv().await {
        waiting.push(first);
        // Callers whose turn has come anyway take it before this task does: of those that one message or one
        // look at the sockets has woken, the first would else leave alone.
        tokio::task::yield_now().await;
        while waiting.len() < WAITING_MAX
            && let Ok(next) = queue.try_recv()
        {
            waiting.push(next);
        }
        for message in bundle(waiting.drain(..)) {
            // What cannot be published is as good as lost on the way.
            let _ = nats.publish(message.subject, message.payload).await;
        }
        let _ = timeout(WRITTEN_WITHIN, nats.flush()).await;
    }
}
