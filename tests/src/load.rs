//! Load from callers that keep their own books.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use futures_util::future::try_join_all;
use holdfast_core::Verb;
use holdfast_testkit::wait;
use tokio::sync::Mutex;

use crate::books::ClientBooks;
use crate::{Caller, SOON};

/// How many callers a ledger is fully loaded by: it is never idle, and its commits are large.
pub const CALLERS: usize = 1_000;

/// Callers that never stop asking, each with its own account, and what they were told.
pub struct Load {
    books: Arc<Mutex<ClientBooks>>,
    tasks: Vec<tokio::task::JoinHandle<Result<()>>>,
    stop: Arc<AtomicBool>,
}

impl Load {
    /// Funds `callers` accounts with 1,000 each and lets their callers loose.
    pub async fn start(backend: &Caller, callers: usize) -> Result<Self> {
        let books = Arc::new(Mutex::new(ClientBooks::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let accounts: Vec<String> = (0..callers).map(|caller| format!("caller-{caller}")).collect();
        try_join_all(accounts.iter().map(|account| backend.fund(account, "1000"))).await?;
        let tasks = (0..callers).map(|caller| {
            let (backend, books, stop) = (backend.clone(), Arc::clone(&books), Arc::clone(&stop));
            tokio::spawn(async move {
                let account = format!("caller-{caller}");
                while !stop.load(Ordering::Relaxed) {
                    let reserved = backend.send(Verb::Reserve, &account, r#"{"amount":"0.02"}"#).await?;
                    let hold = reserved.hold.context("a hold")?;
                    books.lock().await.note(reserved);
                    let body = format!(r#"{{"hold":"{hold}","amount":"0.011"}}"#);
                    let captured = backend.send(Verb::Capture, &account, &body).await?;
                    books.lock().await.note(captured);
                }
                Ok(())
            })
        });
        let tasks = tasks.collect();
        Ok(Load { books, tasks, stop })
    }

    /// Waits until the callers are told things, as many as there are callers.
    pub async fn served(&self) -> Result<()> {
        let enough = self.books.lock().await.len() + self.tasks.len();
        wait::until("the callers are served", SOON, async || {
            (self.books.lock().await.len() > enough).then_some(())
        })
        .await
    }

    /// Lets the callers finish what they are at.
    pub async fn stop(self) -> Result<ClientBooks> {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await??;
        }
        Ok(Arc::into_inner(self.books).context("everybody has left")?.into_inner())
    }
}
