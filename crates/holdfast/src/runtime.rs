//! A running ledger: lane, relay, projector and façade in one process.
//!
//! **Shape.** [`Ledger::start`] connects everything and answers when the lane leads; [`Ledger::stop`]
//! lets the batch under way finish. A part that ends by itself ends the whole: a lane that was
//! fenced must not leave a façade behind that promises what nobody decides.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use holdfast_client::{Client, ClientOptions};
use holdfast_core::{Issuer, Position};
use holdfast_engine::{Health, Lane, LaneConfig, Relay, SystemClock, bus};
use holdfast_http::{Facade, FacadeConfig};
use holdfast_projector::{Progress, Projector};
use holdfast_protocol::verify::Rules;
use holdfast_protocol::{ClientKeys, Issuers, RootToken};
use holdfast_store::Role;
use holdfast_store::recent::Recent;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::monitor::LedgerMonitor;
use crate::prices::InForce;
use crate::services::{self, Services};
use crate::settings::{self, TuningArgs};

/// The only partition there is for now.
pub(crate) const PARTITION: i16 = 0;
/// How long parts may take to finish once told to.
const STOP_WITHIN: Duration = Duration::from_secs(8);
/// How much of that the façade may take.
const FACADE_WITHIN: Duration = Duration::from_secs(4);
/// Connections that answer reads.
const READERS: u32 = 8;
/// More callers at once than this wait; fewer are served under any limit of files.
const CONNECTIONS_MOST: u64 = 8_192;
const CONNECTIONS_LEAST: usize = 64;
/// Files for everything but callers.
const FILES_RESERVED: u64 = 256;
/// How often the issuers' file is looked at.
const ISSUERS_EVERY: Duration = Duration::from_secs(5);

/// Everything a ledger needs to know.
pub(crate) struct LedgerConfig {
    pub(crate) database_url: String,
    pub(crate) nats_url: String,
    pub(crate) http_nats_url: String,
    /// Where the façade listens.
    pub(crate) http: String,
    pub(crate) audience: String,
    pub(crate) roots: Vec<RootToken>,
    pub(crate) issuers: IssuersSource,
    pub(crate) tuning: TuningArgs,
}

/// Where the rights come from.
pub(crate) enum IssuersSource {
    /// The shipped ones.
    Shipped,
    /// A file that may change.
    File(PathBuf),
}

impl IssuersSource {
    fn read(&self) -> Result<String> {
        match self {
            IssuersSource::Shipped => Ok(settings::ISSUERS.to_owned()),
            IssuersSource::File(file) => {
                std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))
            }
        }
    }
}

/// What only the façade needs.
struct FacadeParts {
    keys: ClientKeys,
    metrics: PrometheusHandle,
}

/// A running ledger.
pub(crate) struct Ledger {
    parts: JoinSet<Result<()>>,
    stop: CancellationToken,
    /// The façade is stopped before the lane: requests under way still want their outcomes.
    facade: Option<JoinHandle<()>>,
    stop_facade: CancellationToken,
    health: Arc<Health>,
    /// Where the façade listens, with the port that it really got.
    pub(crate) http: SocketAddr,
}

impl Ledger {
    /// Starts every part and waits until the lane leads.
    pub(crate) async fn start(config: LedgerConfig) -> Result<Self> {
        let listener = TcpListener::bind(&config.http).await;
        let listener = listener.with_context(|| format!("listening on {}", config.http))?;
        let http = listener.local_addr()?;
        // Recording begins before there is anything to record.
        let metrics = metrics_handle()?;
        let issuers = config.issuers.read()?;
        let http_keys = http_keys(&config.roots[0], &issuers)?;
        let (rules, watched_rules) =
            watch::channel(Arc::new(settings::rules(&config.roots, &issuers, &config.audience)?));
        let streams = bus::connect(&config.nats_url, "holdfast streams").await?;
        bus::ensure_streams(&streams).await?;
        let answers = bus::connect(&config.nats_url, "holdfast outcomes").await?;
        let events = bus::connect(&config.nats_url, "holdfast relay").await?;
        let queries = bus::connect(&config.nats_url, "holdfast monitor").await?;
        let (committed_sender, committed) = watch::channel(Position::default());
        let projected = Progress::default();
        let (problem_sender, projector_problem) = watch::channel(None);
        let recent = Arc::new(Recent::default());
        let health = Arc::new(Health::default());
        health.starting("lane");
        let stop = CancellationToken::new();
        let lane = Lane {
            config: LaneConfig {
                database_url: config.database_url.clone(),
                nats_url: config.nats_url.clone(),
                partition: PARTITION,
                assets: config.tuning.assets()?,
                keep: config.tuning.keep(),
                accounts_max: config.tuning.accounts_max,
            },
            rules: watched_rules,
            streams,
            answers,
            clock: Arc::new(SystemClock),
            recent: Arc::clone(&recent),
            committed: committed_sender,
            health: Arc::clone(&health),
        };
        let projector = Projector {
            url: config.database_url.clone(),
            partition: PARTITION,
            recent: Arc::clone(&recent),
            committed: committed.clone(),
            progress: projected.clone(),
            problem: problem_sender,
        };
        let relay = Relay {
            database_url: config.database_url.clone(),
            partition: PARTITION,
            audience: config.audience.clone(),
            client: events,
            recent,
            committed: committed.clone(),
            health: Arc::clone(&health),
        };
        let mut parts = JoinSet::new();
        let token = stop.clone();
        parts.spawn(async move { Ok(lane.run(token).await?) });
        let token = stop.clone();
        parts.spawn(async move {
            projector.run(token).await;
            Ok(())
        });
        let token = stop.clone();
        parts.spawn(async move {
            relay.run(token).await;
            Ok(())
        });
        let stop_facade = CancellationToken::new();
        let mut ledger = Ledger { parts, stop, facade: None, stop_facade, health, http };
        ledger.leading().await?;
        let health = Arc::clone(&ledger.health);
        let pool = holdfast_store::connect::pool(&config.database_url, Role::Reader, READERS)?;
        let nats = queries;
        let monitor = LedgerMonitor { health, pool, nats, projected, projector: projector_problem };
        ledger.open(&config, listener, monitor, FacadeParts { keys: http_keys, metrics }).await?;
        let follow = follow_issuers(config, issuers, rules, ledger.stop.clone());
        ledger.parts.spawn(follow);
        Ok(ledger)
    }

    /// Waits until the lane leads, or until a part gives up.
    async fn leading(&mut self) -> Result<()> {
        loop {
            if self.health.parts().get("lane").is_some_and(Option::is_none) {
                return Ok(());
            }
            tokio::select! {
                ended = self.parts.join_next() => return ended_early(ended),
                () = tokio::time::sleep(Duration::from_millis(10)) => {}
            }
        }
    }

    /// Opens the façade and the NATS services.
    async fn open(
        &mut self,
        config: &LedgerConfig,
        listener: TcpListener,
        monitor: LedgerMonitor,
        facade: FacadeParts,
    ) -> Result<()> {
        let (pool, monitor) = (monitor.pool.clone(), Arc::new(monitor));
        let options = ClientOptions {
            nats_url: config.http_nats_url.clone(),
            keys: facade.keys,
            audience: config.audience.clone(),
        };
        let prices = InForce::read(&pool).await?;
        let book = prices.book.subscribe();
        self.parts.spawn(prices.follow(pool.clone(), self.stop.clone()));
        let facade = Facade::new(FacadeConfig {
            client: Client::connect(options).await?,
            pool: pool.clone(),
            partition: PARTITION,
            projected: monitor.projected.clone(),
            monitor: Arc::clone(&monitor) as Arc<dyn holdfast_http::Monitor>,
            book: book.clone(),
            tokens: config.roots.iter().map(|root| root.text().clone()).collect(),
            docs: config.tuning.docs,
            metrics: facade.metrics,
        });
        let (router, stop) = (holdfast_http::router(facade), self.stop_facade.clone());
        self.facade =
            Some(tokio::spawn(holdfast_http::server::serve(listener, router, connections_max(), stop)));
        let services = Arc::new(Services { pool, monitor, book });
        let registered = services::register(&config.nats_url, &services).await?;
        self.parts.spawn(services::run(config.nats_url.clone(), services, registered, self.stop.clone()));
        Ok(())
    }

    /// Waits for a part to end by itself, which is always an error.
    pub(crate) async fn failed(&mut self) -> anyhow::Error {
        let ended = self.parts.join_next().await;
        ended_early(ended).expect_err("a part that ends early is an error")
    }

    /// Tells every part to stop and waits.
    pub(crate) async fn stop(mut self) -> Result<()> {
        self.stop_facade.cancel();
        let facade = self.facade.take();
        let all = async {
            if let Some(facade) = facade {
                // Whatever the façade does, the lane must have its time too.
                let _ = tokio::time::timeout(FACADE_WITHIN, facade).await;
            }
            self.stop.cancel();
            while let Some(ended) = self.parts.join_next().await {
                ended??;
            }
            Ok(())
        };
        tokio::time::timeout(STOP_WITHIN, all).await.context("the ledger did not stop in time")?
    }
}

/// The façade's own keys, of the newest generation that is accepted from it.
fn http_keys(root: &RootToken, issuers: &str) -> Result<ClientKeys> {
    let (http, issuers) = (Issuer::new("http")?, Issuers::parse(issuers)?);
    let rights = issuers.iter().find(|(issuer, _)| **issuer == http).map(|(_, rights)| rights);
    let generation = rights.and_then(|rights| rights.generations.iter().max());
    let generation =
        generation.context("the issuers' file does not list `http`, which the HTTP façade signs as")?;
    Ok(ClientKeys::derive(root, &http, *generation))
}

/// How many callers the façade may be connected to: as many as there may be files, less those that
/// the lane, the relay and the projector need.
fn connections_max() -> usize {
    let limit = getrlimit(Resource::Nofile);
    // The usual limit is a relic; a process may raise it to the hard one by itself.
    let wanted = limit.maximum.unwrap_or(CONNECTIONS_MOST).min(CONNECTIONS_MOST + FILES_RESERVED);
    let raised =
        Rlimit { current: Some(limit.current.map_or(wanted, |current| current.max(wanted))), ..limit };
    let files = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => wanted,
        Err(_) => limit.current.unwrap_or(wanted),
    };
    usize::try_from(files.saturating_sub(FILES_RESERVED)).unwrap_or(usize::MAX).max(CONNECTIONS_LEAST)
}

/// Metrics are recorded by one recorder for the whole process.
fn metrics_handle() -> Result<PrometheusHandle> {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).map_err(|_| anyhow::anyhow!("metrics are recorded already"))?;
    Ok(handle)
}

fn ended_early(ended: Option<Result<Result<()>, tokio::task::JoinError>>) -> Result<()> {
    match ended {
        Some(Ok(Err(error))) => Err(error),
        Some(Err(error)) => Err(error.into()),
        Some(Ok(Ok(()))) | None => bail!("a part of the ledger ended by itself"),
    }
}

/// Takes up changes of the issuers' file since `last` was read. A file that cannot be read changes nothing.
async fn follow_issuers(
    config: LedgerConfig,
    mut last: String,
    rules: watch::Sender<Arc<Rules>>,
    stop: CancellationToken,
) -> Result<()> {
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(ISSUERS_EVERY) => {}
        }
        let read = config.issuers.read().and_then(|text| {
            let changed = text != last;
            let rules =
                changed.then(|| settings::rules(&config.roots, &text, &config.audience)).transpose()?;
            Ok((text, rules))
        });
        match read {
            Ok((text, Some(changed))) => {
                tracing::info!("the issuers' file has changed and is in force");
                rules.send_replace(Arc::new(changed));
                last = text;
            }
            Ok((_, None)) => {}
            Err(error) => {
                tracing::warn!(%error, "the issuers' file was not taken up; the rights before stay in force")
            }
        }
    }
}
