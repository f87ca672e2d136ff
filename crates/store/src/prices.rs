//! Published price books, kept beside the log. What is in them is not this crate's.

use sqlx::PgConnection;

use crate::error::StoreError;

/// A price book that was published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Which publication: higher is later.
    pub number: i32,
    /// The file.
    pub book: Vec<u8>,
}

/// The book that was published last after publication `known`, if one was.
pub async fn published_after(
    connection: &mut PgConnection,
    known: i32,
) -> Result<Option<Published>, StoreError> {
    let row: Option<(i32, Vec<u8>)> = sqlx::query_as(
        "SELECT published, book FROM price_book WHERE published > $1 ORDER BY published DESC LIMIT 1",
    )
    .bind(known)
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|(number, book)| Published { number, book }))
}

/// Every book that was published, in order.
pub async fn every(connection: &mut PgConnection) -> Result<Vec<Published>, StoreError> {
    let rows: Vec<(i32, Vec<u8>)> =
        sqlx::query_as("SELECT published, book FROM price_book ORDER BY published")
            .fetch_all(connection)
            .await?;
    Ok(rows.into_iter().map(|(number, book)| Published { number, book }).collect())
}

/// Publishes a book; answers its number.
pub async fn publish(connection: &mut PgConnection, digest: &[u8], book: &[u8]) -> Result<i32, StoreError> {
    let (number,): (i32,) =
        sqlx::query_as("INSERT INTO price_book (digest, book) VALUES ($1, $2) RETURNING published")
            .bind(digest)
            .bind(book)
            .fetch_one(connection)
            .await?;
    Ok(number)
}
