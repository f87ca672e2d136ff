//! What can go wrong with a saga that is neither a step's failure nor the ledger's no.

use holdfast_client::ClientError;

use crate::key::{KeyError, SagaKey};
use crate::state::Broken;

/// Why a saga was not driven to its end. Except for [`SagaError::Key`], [`SagaError::OtherInput`] and
/// [`SagaError::Input`], another instance or a later sweep goes on with it.
#[derive(Debug, thiserror::Error)]
pub enum SagaError {
    /// It is no name of a saga.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The bus did not do what was asked.
    #[error("the log of sagas: {0}")]
    Log(String),
    /// Somebody else wrote to the saga's log: another instance drives it now, and this one must not.
    #[error("another instance drives {0} on")]
    Fenced(SagaKey),
    /// The saga is being driven.
    #[error("{saga} is driven by {by}")]
    Driven {
        /// The saga.
        saga: SagaKey,
        /// Who drives it.
        by: String,
    },
    /// The id was used for a saga of another account or input.
    #[error("{0} was started before, for another account or with another input")]
    OtherInput(SagaKey),
    /// Entries are missing in the saga's log.
    #[error("{saga}: {broken}; while its hold is open, the next reconciliation drives it again")]
    Broken {
        /// The saga.
        saga: SagaKey,
        /// What is missing.
        broken: Broken,
    },
    /// There is no entry of such a saga.
    #[error("there is no saga {0}")]
    Unknown(SagaKey),
    /// Only a saga that is stuck can be resumed.
    #[error("{0} is not stuck")]
    NotStuck(SagaKey),
    /// The input cannot be written as JSON.
    #[error("the input: {0}")]
    Input(#[from] serde_json::Error),
    /// The entry would be larger than the stream takes; nothing was written.
    #[error("an entry of {saga} has {bytes} bytes, more than the log takes")]
    TooLarge {
        /// The saga.
        saga: SagaKey,
        /// How large it would be.
        bytes: usize,
    },
    /// The ledger gave no outcome.
    #[error(transparent)]
    Ledger(#[from] ClientError),
    /// The ledger did not answer a query.
    #[error("a query to the ledger: {0}")]
    Query(String),
    /// A fault that was asked for: the process has died here, as far as the saga can tell.
    #[error("crashed, as was asked for")]
    Crashed,
}

impl SagaError {
    pub(crate) fn log(error: impl std::fmt::Display) -> Self {
        SagaError::Log(error.to_string())
    }
}
