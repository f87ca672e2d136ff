//! The auth service: invites, and accounts for those who have one.
//!
//! **Shape.** `POST /validate_invite` says whether an invite may be used now; `POST /register_user`
//! uses it. How many accounts there are is asked of the ledger's façade over HTTP, as before; the
//! account is opened by a signed command of the issuer `auth`, which may do nothing else.
//!
//! **Correctness.** An invite is claimed for a user, on the disk, before the account is opened, and
//! marked as registered after. A crash between leaves a claim that only the same user can use again,
//! on the same terms, which is the same command. So an invite is given back only when the ledger has
//! refused that command, and with it every repetition.

mod invites;
mod subscriptions;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use holdfast_calls::layer::InternalToken;
use holdfast_client::{Client, Request};
use holdfast_core::id::derived_id;
use holdfast_core::{AccountId, Issuer, Verb};
use holdfast_protocol::Outcome;
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

pub use invites::{Claim, Invite, Invites};
pub use subscriptions::Subscriptions;

use crate::extract::Json;
use crate::problem::Problem;
use crate::serving::{self, blocking};

/// How long a caller waits for the ledger.
const LEDGER_WITHIN: Duration = Duration::from_secs(5);
/// The caller comes back with the same invite, which is the same command.
const REPEATABLE_FOR: Duration = Duration::from_secs(24 * 60 * 60);
/// The ledger's own limit.
const TIER_MAX_CHARS: usize = 64;

/// The service.
pub struct Auth {
    ledger: Client,
    issuer: Issuer,
    subscriptions: Subscriptions,
    invites: Arc<Invites>,
    /// Counting accounts and opening one more must be one step. It holds within this process; the
    /// count itself follows the ledger by some milliseconds.
    registering: Mutex<()>,
}

/// An invite that is to be looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Validate {
    /// The invite's code.
    pub code: String,
}

/// A user who has an invite.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Register {
    /// The invite's code.
    pub code: String,
    /// The user, which is the account.
    pub user_id: String,
    /// The user's tier.
    pub tier: String,
}

/// That an invite may be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Validated {
    /// Always true: what is not valid is a problem.
    pub valid: bool,
    /// How many more accounts there may be.
    pub places: u64,
}

/// An account that is open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    /// The user.
    pub user_id: String,
    /// The user's tier.
    pub tier: String,
    /// Whether it was opened before, and is told again.
    pub replayed: bool,
}

impl Auth {
    /// A service that signs as `issuer`, which must be that of `ledger`'s keys.
    #[must_use]
    pub fn new(ledger: Client, issuer: Issuer, subscriptions: Subscriptions, invites: Invites) -> Self {
        Auth { ledger, issuer, subscriptions, invites: Arc::new(invites), registering: Mutex::new(()) }
    }

    /// Whether an invite may be used now.
    ///
    /// # Errors
    /// An invite that is unknown or used, no more places, or a façade that does not answer.
    pub async fn validate(&self, code: &str) -> Result<Validated, Problem> {
        if self.invites.find(code)?.claim.is_some() {
            return Err(used());
        }
        let places = self.subscriptions.places().await?;
        Ok(Validated { valid: true, places })
    }

    /// Uses an invite: opens the user's account.
    ///
    /// # Errors
    /// As [`Auth::validate`], and when the ledger refuses or does not answer.
    pub async fn register(&self, body: &Register) -> Result<Registered, Problem> {
        check(body)?;
        let _one_at_a_time = self.registering.lock().await;
        let invite = self.invites.find(&body.code)?;
        let claim = Claim { user_id: body.user_id.clone(), tier: body.tier.clone() };
        match &invite.claim {
            Some(other) if *other != claim => return Err(used()),
            // Who comes back has its place already.
            Some(_) => {}
            None => {
                self.subscriptions.places().await?;
                self.keep(body, Some(&claim), false).await?;
            }
        }
        let outcome = self.open(body).await?;
        if outcome.accepted() {
            self.keep(body, Some(&claim), true).await?;
            return Ok(Registered { user_id: claim.user_id, tier: claim.tier, replayed: outcome.replayed });
        }
        if !invite.registered {
            self.keep(body, None, false).await?;
        }
        Err(refused(&outcome))
    }

    async fn keep(&self, body: &Register, claim: Option<&Claim>, registered: bool) -> Result<(), Problem> {
        let (invites, code) = (Arc::clone(&self.invites), body.code.clone());
        let invite = Invite { claim: claim.cloned(), registered };
        blocking(move || invites.put(&code, invite)).await
    }

    /// Opens the account. The user and the tier make the id: the same again is the same command.
    async fn open(&self, body: &Register) -> Result<Outcome, Problem> {
        let key = json!([body.user_id, body.tier]).to_string();
        let terms = RawValue::from_string(json!({"tier": body.tier}).to_string());
        let terms = terms.map_err(|error| Problem::internal("writing the command", error))?;
        let request = Request {
            id: derived_id(&self.issuer, Verb::OpenAccount.as_str(), &key),
            verb: Verb::OpenAccount,
            account: &body.user_id,
            body: &terms,
            within: LEDGER_WITHIN,
            valid_for: REPEATABLE_FOR,
        };
        let sent = self.ledger.send(request).await;
        sent.map_err(|error| {
            Problem::unavailable(format!("the ledger: {error}; send the same request again"))
        })
    }
}

fn check(body: &Register) -> Result<(), Problem> {
    AccountId::new(&body.user_id).map_err(|error| Problem::invalid("user_id", error))?;
    let length = body.tier.chars().count();
    if length == 0 || length > TIER_MAX_CHARS || body.tier.chars().any(char::is_control) {
        let detail = format!("a tier has 1 to {TIER_MAX_CHARS} printable characters");
        return Err(Problem::invalid("tier", detail));
    }
    Ok(())
}

fn used() -> Problem {
    Problem::conflict("invite_used", "code: this invite was used for another user, or for another tier")
}

fn refused(outcome: &Outcome) -> Problem {
    let code = outcome.code.as_deref().unwrap_or("refused");
    let detail = outcome.detail.as_deref().unwrap_or("the ledger does not say why");
    Problem::conflict(code, format!("the ledger refused: {detail}"))
}

/// The service's routes.
pub fn router(auth: Arc<Auth>, token: InternalToken) -> Router {
    let routes = Router::new()
        .route("/validate_invite", post(validate_invite))
        .route("/register_user", post(register_user))
        .with_state(auth);
    serving::guarded(routes, token)
}

/// Serves until told to stop.
///
/// # Errors
/// When the listener cannot accept.
pub async fn serve(
    listener: TcpListener,
    auth: Arc<Auth>,
    token: InternalToken,
    stop: CancellationToken,
) -> io::Result<()> {
    serving::serve(listener, router(auth, token), stop).await
}

async fn validate_invite(
    State(auth): State<Arc<Auth>>,
    Json(body): Json<Validate>,
) -> Result<axum::Json<Validated>, Problem> {
    auth.validate(&body.code).await.map(axum::Json)
}

async fn register_user(
    State(auth): State<Arc<Auth>>,
    Json(body): Json<Register>,
) -> Result<(StatusCode, axum::Json<Registered>), Problem> {
    let registered = auth.register(&body).await?;
    let status = if registered.replayed { StatusCode::OK } else { StatusCode::CREATED };
    Ok((status, axum::Json(registered)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_registration_is_named() {
        let register = |user_id: &str, tier: &str| Register {
            code: "c".to_owned(),
            user_id: user_id.to_owned(),
            tier: tier.to_owned(),
        };
        assert!(check(&register("user-1", "pro")).is_ok());
        for (user_id, tier, part) in [("", "pro", "user_id: "), ("u", "", "tier: "), ("u", "a\nb", "tier: ")]
        {
            let problem = check(&register(user_id, tier)).expect_err(part);
            assert!(problem.detail().starts_with(part), "{}", problem.detail());
        }
    }
}
