//! The façade: callers with kept-alive connections, each waiting for its answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::deployment::Deployment;
use crate::load::Done;
use crate::processes::per_thousand;
use crate::report::Figures;
use crate::settings::Size;
use crate::workload::{Books, Pick, decimal, name};

/// Callers at once, each with a connection: those of a busy service. `bus` has eight times as many commands on
/// their way.
const CALLERS: usize = 256;
const AMOUNT: i64 = 2_000_000;
const CAPTURED: i64 = 1_500_000;

/// Requests a second through the façade, reserves and captures in turn.
pub(crate) async fn measure(deployment: &Deployment, books: &mut Books, size: Size) -> Result<Figures> {
    let client: Client<HttpConnector, Full<Bytes>> =
        Client::builder(TokioExecutor::new()).pool_max_idle_per_host(CALLERS).build_http();
    let left = Arc::new(AtomicUsize::new(size.http_requests() / 2));
    let processes = deployment.processes();
    let (before, begun) = (processes.cpu(), Instant::now());
    let mut callers = JoinSet::new();
    for seed in 0..CALLERS {
        let caller = Caller {
            client: client.clone(),
            base: deployment.http()?.to_owned(),
            token: deployment.token.clone(),
            random: fastrand::Rng::with_seed(seed as u64),
            latencies: Vec::new(),
        };
        callers.spawn(caller.call(Arc::clone(&left), size.accounts()));
    }
    let mut done = Done::default();
    while let Some(ended) = callers.join_next().await {
        let (accounts, latencies) = ended??;
        for account in accounts {
            books.balance(account).posted -= CAPTURED;
        }
        done.latencies.extend(latencies);
    }
    done.elapsed = begun.elapsed();
    done.commands = done.latencies.len();
    let cpu = per_thousand(&before, &processes.cpu(), done.commands);
    Ok(Figures::new()
        .with("commands_per_second", done.per_second())
        .with("seconds", done.elapsed.as_secs_f64())
        .with("p50_ms", done.percentile_ms(0.50))
        .with("p99_ms", done.percentile_ms(0.99))
        .count("n", done.commands)
        .cpu(&cpu))
}

struct Caller {
    client: Client<HttpConnector, Full<Bytes>>,
    base: String,
    token: String,
    random: fastrand::Rng,
    latencies: Vec<u64>,
}

impl Caller {
    /// Calls until none are left; answers the accounts that were charged, and how long each call took.
    async fn call(mut self, left: Arc<AtomicUsize>, accounts: usize) -> Result<(Vec<usize>, Vec<u64>)> {
        let (pick, mut charged) = (Pick::Uniform(accounts), Vec::new());
        let take = |left: usize| left.checked_sub(1);
        while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
            let account = pick.account(&mut self.random);
            let user = name(account);
            let reserved =
                self.post("/reserve", &json!({ "user_id": user, "amount": decimal(AMOUNT) })).await?;
            let capture =
                json!({ "user_id": user, "hold_id": reserved["hold_id"], "amount": decimal(CAPTURED) });
            self.post("/capture", &capture).await?;
            charged.push(account);
        }
        Ok((charged, self.latencies))
    }

    async fn post(&mut self, path: &str, body: &Value) -> Result<Value> {
        let request = Request::post(format!("{}{path}", self.base))
            .header("X-INTERNAL-TOKEN", &self.token)
            .header("content-type", "application/json")
            .body(Full::from(body.to_string()))?;
        let begun = Instant::now();
        let response = self.client.request(request).await.context("calling the façade")?;
        let status = response.status();
        let bytes = response.into_body().collect().await?.to_bytes();
        self.latencies.push(u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX));
        let fine = matches!(status, StatusCode::OK | StatusCode::CREATED);
        ensure!(fine, "{path}: {status} {}", String::from_utf8_lossy(&bytes));
        Ok(serde_json::from_slice(&bytes)?)
    }
}
