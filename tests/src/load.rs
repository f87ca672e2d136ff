//! Load from callers that keep their own books.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use holdfast_core::Verb;
use tokio::sync::Mutex;

use crate::Caller;
use crate::books::ClientBooks;

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
        for caller in 0..callers {
            backend.fund(&format!("caller-{caller}"), "1000").await?;
        }
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

    /// How many outcomes were received so far.
    pub async fn outcomes(&self) -> usize {
        self.books.lock().await.len()
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
