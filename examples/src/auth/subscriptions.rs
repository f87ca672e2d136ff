//! How many accounts there are, as the ledger's façade says.

use axum::http::Request;
use bytes::Bytes;
use http_body_util::Full;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use crate::http::Http;
use crate::problem::Problem;

/// What is looked at of the façade's answer.
#[derive(Deserialize)]
struct Count {
    total: u64,
}

/// Asks the façade, and knows how many accounts there may be.
pub struct Subscriptions {
    http: Http,
    url: String,
    token: SecretString,
    accounts_max: u64,
}

impl Subscriptions {
    /// The façade at `url`, such as `http://127.0.0.1:6004`, with the internal token.
    #[must_use]
    pub fn new(http: Http, url: &str, token: SecretString, accounts_max: u64) -> Self {
        let url = format!("{}/stats/subscription_count", url.trim_end_matches('/'));
        Subscriptions { http, url, token, accounts_max }
    }

    /// How many more accounts there may be: at least one.
    ///
    /// # Errors
    /// When there may be no more, or the façade does not tell.
    pub async fn places(&self) -> Result<u64, Problem> {
        match self.accounts_max.saturating_sub(self.count().await?) {
            0 => {
                let detail = format!("there are {} accounts, and there may be no more", self.accounts_max);
                Err(Problem::conflict("subscriptions_full", detail))
            }
            places => Ok(places),
        }
    }

    async fn count(&self) -> Result<u64, Problem> {
        let request = Request::get(&self.url).header("x-internal-token", self.token.expose_secret());
        let request = request.body(Full::<Bytes>::default());
        let request = request.map_err(|error| Problem::internal("the façade's address", error))?;
        let answer = self.http.send(request).await;
        let answer = answer.map_err(|error| Problem::unavailable(format!("the ledger's façade: {error}")))?;
        if !answer.is_success() {
            return Err(Problem::unavailable(format!("the ledger's façade answered {}", answer.status)));
        }
        let count: Count = serde_json::from_slice(&answer.body)
            .map_err(|error| Problem::unavailable(format!("the façade's answer cannot be read: {error}")))?;
        Ok(count.total)
    }
}
