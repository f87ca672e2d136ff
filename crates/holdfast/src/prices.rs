//! The price book in force: the one published last, or the one that comes with this version.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use holdfast_prices::Book;
use holdfast_store::prices::{every, published_after};
use sqlx::PgPool;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often a new publication is looked for.
const EVERY: Duration = Duration::from_secs(5);

/// The book in force and its publication, 0 for the one that comes with this version.
pub(crate) struct InForce {
    number: i32,
    pub(crate) book: watch::Sender<Arc<Book>>,
}

impl InForce {
    /// What is in force now: the newest publication that can be read. An older version of this program
    /// may know fewer forms of books; it must start all the same.
    pub(crate) async fn read(pool: &PgPool) -> Result<Self> {
        let mut in_force = InForce { number: 0, book: watch::Sender::new(Arc::new(Book::vendored())) };
        for published in every(&mut *pool.acquire().await?).await?.into_iter().rev() {
            in_force.number = in_force.number.max(published.number);
            match parse(published.book) {
                Ok(book) => {
                    in_force.put(book);
                    break;
                }
                Err(error) => {
                    tracing::warn!(%error, number = published.number, "a published price book cannot be read");
                }
            }
        }
        Ok(in_force)
    }

    /// Takes up what is published until told to stop. What cannot be read changes nothing.
    pub(crate) async fn follow(mut self, pool: PgPool, stop: CancellationToken) -> Result<()> {
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(EVERY) => {}
            }
            if let Err(error) = self.refresh(&pool).await {
                tracing::warn!(%error, "published price books were not taken up; the prices before stay in force");
            }
        }
    }

    async fn refresh(&mut self, pool: &PgPool) -> Result<()> {
        let mut connection = pool.acquire().await?;
        let Some(published) = published_after(&mut connection, self.number).await? else { return Ok(()) };
        // Looked at once, even when it is bad: it is not asked for again.
        self.number = published.number;
        self.put(parse(published.book)?);
        Ok(())
    }

    fn put(&self, book: Book) {
        tracing::info!(book = %book.id(), models = book.models.len(), "a price book is in force");
        self.book.send_replace(Arc::new(book));
    }
}

/// A book as it was published.
pub(crate) fn parse(file: Vec<u8>) -> Result<Book> {
    let text = String::from_utf8(file).context("the published price book is no text")?;
    Book::parse(&text).context("the published price book")
}
