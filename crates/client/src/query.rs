//! Questions to the ledger's services: prices, holds, sagas.
//!
//! **Correctness.** Answers are not signed, and are as of the projections: what is decided by them must
//! be proved by the outcome of a command.

use std::time::Duration;

use async_nats::service::{NATS_SERVICE_ERROR, NATS_SERVICE_ERROR_CODE};
use bytes::Bytes;
use holdfast_core::usage::Quote;
use holdfast_core::{CommandId, HoldId};
use holdfast_protocol::Outcome;
use holdfast_protocol::subject::{self, QUERIES};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::Client;

/// How long the ledger may take over a question.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// There is nothing of that name; a model without a price must not be called.
    #[error("{0}")]
    NotFound(String),
    /// The question makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// Nobody answers.
    #[error("the ledger does not answer: {0}")]
    Unavailable(String),
}

/// A hold that names a saga.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct OpenSaga {
    /// Who pays.
    pub account: String,
    /// The hold.
    pub hold: HoldId,
    /// What its reserve names.
    pub saga: String,
}

/// How a hold stands.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct HoldState {
    /// `open`, `settled`, `released`, `expired` or `tombstone`.
    pub status: String,
    /// What is still held, in whole units.
    pub amount: String,
    /// What was charged, in whole units.
    pub captured: String,
    /// What the house absorbed, in whole units.
    pub absorbed: String,
}

#[derive(Serialize)]
struct Which<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    variant: Option<&'a str>,
}

impl Client {
    /// The rates of a model, as they are now.
    ///
    /// # Errors
    /// [`QueryError::NotFound`] when it has no price: the call must be refused.
    pub async fn quote(
        &self,
        model: &str,
        provider: Option<&str>,
        variant: Option<&str>,
    ) -> Result<Quote, QueryError> {
        let which = serde_json::to_vec(&Which { provider, variant });
        let which = which.map_err(|error| QueryError::Invalid(error.to_string()))?;
        self.ask(format!("prices.{}", subject::account_token(model)), which.into()).await
    }

    /// How a hold stands.
    ///
    /// # Errors
    /// [`QueryError::NotFound`] when the projections do not have it.
    pub async fn hold_state(&self, account: &str, hold: HoldId) -> Result<HoldState, QueryError> {
        self.ask(format!("hold.{}.{hold}", subject::account_token(account)), Bytes::new()).await
    }

    /// The open holds whose saga begins with `<definition>/`, the oldest first, at most 1,000.
    ///
    /// # Errors
    /// [`QueryError::Unavailable`].
    pub async fn open_sagas(&self, definition: &str) -> Result<Vec<OpenSaga>, QueryError> {
        self.ask(format!("sagas.{definition}"), Bytes::new()).await
    }

    /// The stored outcome of a command of this service; none when it was not decided.
    ///
    /// # Errors
    /// [`QueryError::Unavailable`].
    pub async fn decided(&self, id: CommandId) -> Result<Option<Outcome>, QueryError> {
        match self.ask(format!("command.{}.{id}", self.issuer()), Bytes::new()).await {
            Err(QueryError::NotFound(_)) => Ok(None),
            answer => answer.map(Some),
        }
    }

    async fn ask<T: DeserializeOwned>(&self, query: String, payload: Bytes) -> Result<T, QueryError> {
        let asked = self.nats().request(format!("{QUERIES}{query}"), payload);
        let unavailable = |problem: String| QueryError::Unavailable(problem);
        let answer =
            timeout(ANSWER_WITHIN, asked).await.map_err(|_| unavailable("no answer in time".to_owned()))?;
        let answer = answer.map_err(|error| unavailable(error.to_string()))?;
        let header = |name: &str| Some(answer.headers.as_ref()?.get(name)?.as_str().to_owned());
        if let Some(code) = header(NATS_SERVICE_ERROR_CODE) {
            let said = header(NATS_SERVICE_ERROR).unwrap_or_default();
            return Err(match code.as_str() {
                "404" => QueryError::NotFound(said),
                "400" => QueryError::Invalid(said),
                _ => QueryError::Unavailable(said),
            });
        }
        serde_json::from_slice(&answer.payload).map_err(|error| unavailable(error.to_string()))
    }
}
