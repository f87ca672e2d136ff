//! What can go wrong with the database, by what is to be done about it.

use std::time::Duration;

use holdfast_core::event::LogError;

/// An error of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another writer has taken over: stop, whatever was about to be done.
    #[error("another writer has taken over the partition; this one stops")]
    Fenced,
    /// The statement failed for what was in it (SQLSTATE class 22 or 23) and left nothing behind.
    #[error("the database refused what was written ({sqlstate}): {message}")]
    Content {
        /// The five characters that say why.
        sqlstate: String,
        /// The database's words.
        message: String,
    },
    /// The tables are not there.
    #[error("the database has not this version's schema; run `holdfast migrate`")]
    Unmigrated,
    /// A stored row cannot be read, or what was read contradicts the log.
    #[error("the log cannot be read: {0}")]
    Log(#[from] LogError),
    /// What is stored contradicts itself; going on could make it worse.
    #[error("the database contradicts itself: {0}")]
    Inconsistent(String),
    /// The database could not be asked, or it is not known whether it answered: whatever was
    /// assumed about its state must be read again.
    #[error("the database is unavailable: {0}")]
    Unavailable(sqlx::Error),
}

/// Waits for `work` at most for `limit`; after that nobody knows what became of it.
pub async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let late = |_| StoreError::Unavailable(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()));
    tokio::time::timeout(limit, work).await.map_err(late)?
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let sqlstate = error.as_database_error().and_then(|error| error.code().map(|code| code.into_owned()));
        match sqlstate {
            // An undefined table, column, function or schema.
            Some(sqlstate) if ["42P01", "42703", "42883", "3F000"].contains(&sqlstate.as_str()) => {
                StoreError::Unmigrated
            }
            Some(sqlstate) if sqlstate.starts_with("22") || sqlstate.starts_with("23") => {
                StoreError::Content { sqlstate, message: error.to_string() }
            }
            _ => StoreError::Unavailable(error),
        }
    }
}
