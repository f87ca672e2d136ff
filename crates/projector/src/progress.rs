//! How far the projector is, for those who wait for it.

use std::sync::Arc;

use holdfast_core::Position;
use tokio::sync::watch;

/// Where the live tables are. While somebody waits, the projector does not rest.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    at: watch::Sender<Position>,
    /// How many wait.
    waiting: watch::Sender<usize>,
}

impl Progress {
    /// How far the tables are.
    #[must_use]
    pub fn at(&self) -> Position {
        *self.0.at.borrow()
    }

    /// Waits until they have `position`.
    pub async fn reach(&self, position: Position) {
        if self.at() >= position {
            return;
        }
        let _waiting = Waiting::new(&self.0.waiting);
        // The sender is here, so that waiting does not fail.
        let _ = self.0.at.subscribe().wait_for(|at| *at >= position).await;
    }

    pub(crate) fn set(&self, position: Position) {
        self.0.at.send_replace(position);
    }

    /// Waits until somebody waits for the projector.
    pub(crate) async fn wanted(&self) {
        let _ = self.0.waiting.subscribe().wait_for(|waiting| *waiting > 0).await;
    }
}

/// One who waits, until dropped.
struct Waiting<'a>(&'a watch::Sender<usize>);

impl<'a> Waiting<'a> {
    fn new(waiting: &'a watch::Sender<usize>) -> Self {
        waiting.send_modify(|waiting| *waiting += 1);
        Waiting(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|waiting| *waiting -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_waits_is_known_until_reached_or_gone() {
        let progress = Progress::default();
        progress.reach(Position(0)).await;
        assert_eq!(*progress.0.waiting.borrow(), 0);
        let (waiter, other) = (progress.clone(), progress.clone());
        let waiting = tokio::spawn(async move { waiter.reach(Position(5)).await });
        let gone = tokio::spawn(async move { other.reach(Position(1_000)).await });
        progress.wanted().await;
        progress.set(Position(4));
        assert!(!waiting.is_finished());
        progress.set(Position(5));
        waiting.await.expect("reached");
        gone.abort();
        assert!(gone.await.is_err());
        assert_eq!(*progress.0.waiting.borrow(), 0);
    }
}
