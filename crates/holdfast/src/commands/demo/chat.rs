//! One chat call: reserve the estimate, call the model, settle by what happened.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use holdfast_client::{Client, Request};
use holdfast_core::{Asset, Decimal, HoldId, Verb};
use holdfast_protocol::Outcome;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use uuid::Uuid;

use super::prices::price;
use super::provider::{Act, PIECE_TOKENS, Prompt};

/// How long the caller of a model waits.
const MODEL_WITHIN: Duration = Duration::from_millis(400);
/// How long a hold lives; a call that never answers is let go then.
const HOLD_TTL_MS: u64 = 3_000;
/// How long to wait for the ledger.
const LEDGER_WITHIN: Duration = Duration::from_secs(10);

/// How a call went.
pub(super) struct End {
    /// In words.
    pub(super) what: &'static str,
    /// What was reserved, in units.
    pub(super) reserved: i64,
    /// What was charged in the end, in units.
    pub(super) charged: i64,
    /// The line that is shown.
    pub(super) line: String,
}

/// A service that sells chat calls.
pub(super) struct Chat {
    ledger: Client,
    http: hyper_util::client::legacy::Client<HttpConnector, Full<Bytes>>,
    provider: String,
}

impl Chat {
    pub(super) fn new(ledger: Client, provider: String) -> Self {
        let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build_http();
        Chat { ledger, http, provider }
    }

    /// Opens an account, if it is not open, and tops it up; answers what is available.
    pub(super) async fn open(&self, user: &str, amount: &str) -> Result<String> {
        self.send(Verb::OpenAccount, user, json!({"tier": "pro"})).await?;
        let reference = format!("demo-{}", Uuid::now_v7());
        let topped_up =
            self.send(Verb::TopUp, user, json!({"amount": amount, "external_ref": reference})).await?;
        topped_up.available.context("a balance")
    }

    /// Call number `number`, of `user`.
    pub(super) async fn call(&self, number: usize, user: &str) -> Result<End> {
        let varied = i64::try_from(number % 7)?;
        let prompt = Prompt {
            act: Act::of(number),
            input_tokens: 500 + 150 * varied,
            max_output_tokens: 400 + 80 * varied,
        };
        let reserved = price(prompt.input_tokens, prompt.max_output_tokens);
        let body = json!({"amount": usd(reserved), "ttl_ms": HOLD_TTL_MS, "overage": "draw"});
        let hold = self.send(Verb::Reserve, user, body).await?;
        ensure!(hold.accepted(), "the reserve of call {number} was refused: {:?}", hold.detail);
        let hold = hold.hold.context("a hold")?;
        let (what, outcome) = self.settle(user, hold, &prompt).await?;
        let charged = match &outcome {
            Some(outcome) if outcome.kind == "captured" => units(outcome)?,
            _ => 0,
        };
        let end = outcome.as_ref().map_or("left to expire", |outcome| outcome.kind.as_str());
        let line = format!(
            "call {number:>3} {user:<5} reserved {:<9} {what:<28} {end:<14} charged {:<9} available {}",
            usd(reserved),
            usd(charged),
            outcome.as_ref().and_then(|outcome| outcome.available.as_deref()).unwrap_or("-"),
        );
        Ok(End { what, reserved, charged, line })
    }

    /// Calls the model and settles the hold; no outcome when it is left to expire.
    async fn settle(
        &self,
        user: &str,
        hold: HoldId,
        prompt: &Prompt,
    ) -> Result<(&'static str, Option<Outcome>)> {
        let answer = tokio::time::timeout(MODEL_WITHIN, self.ask(prompt)).await;
        let (status, body) = match answer {
            // Whether the model worked on is not known, so the hold must not be released.
            Err(_) => return Ok(("timeout: kept until expiry", None)),
            Ok(response) => response?.map_or((502, None), |(status, body)| (status, Some(body))),
        };
        let Some(body) = body.filter(|_| status == 200) else {
            let body = json!({"hold": hold, "reason": format!("provider error {status}")});
            return Ok(("provider error: released", Some(self.send(Verb::Release, user, body).await?)));
        };
        let (what, cost) = match prompt.act {
            Act::Stream => ("client left: part captured", self.read_some(body, prompt).await?),
            Act::Ramble => ("dearer than its hold: drawn", reported(body).await?),
            _ => ("answered: captured", reported(body).await?),
        };
        let captured = self
            .send(Verb::Capture, user, json!({"hold": hold, "amount": usd(cost), "reason": what}))
            .await?;
        ensure!(captured.accepted(), "a capture was refused: {:?}", captured.detail);
        Ok((what, Some(captured)))
    }

    async fn ask(&self, prompt: &Prompt) -> Result<Option<(u16, Incoming)>> {
        let request = hyper::Request::post(&self.provider).header("content-type", "application/json");
        let request = request.body(Full::from(serde_json::to_vec(prompt)?))?;
        let response = self.http.request(request).await;
        Ok(response.ok().map(|response| (response.status().as_u16(), response.into_body())))
    }

    /// Reads a few pieces, as a client that goes away does; answers what was delivered costs.
    async fn read_some(&self, mut body: Incoming, prompt: &Prompt) -> Result<i64> {
        let mut pieces = 0;
        while pieces < 5 && body.frame().await.transpose()?.is_some() {
            pieces += 1;
        }
        Ok(price(prompt.input_tokens, pieces * PIECE_TOKENS))
    }

    async fn send(&self, verb: Verb, account: &str, body: Value) -> Result<Outcome> {
        let body = RawValue::from_string(body.to_string())?;
        let request = Request {
            id: Uuid::now_v7(),
            verb,
            account,
            body: &body,
            within: LEDGER_WITHIN,
            valid_for: LEDGER_WITHIN,
        };
        Ok(self.ledger.send(request).await?)
    }
}

/// What the provider says was used, priced.
async fn reported(body: Incoming) -> Result<i64> {
    let answer: Value = serde_json::from_slice(&body.collect().await?.to_bytes())?;
    let tokens = |name: &str| answer["usage"][name].as_i64().context("the provider reports usage");
    Ok(price(tokens("input_tokens")?, tokens("output_tokens")?))
}

fn usd(units: i64) -> String {
    Asset::USD.format(units)
}

fn units(outcome: &Outcome) -> Result<i64> {
    let amount: Decimal = outcome.amount.as_deref().unwrap_or("0").parse()?;
    Ok(amount.units(Asset::USD)?)
}
