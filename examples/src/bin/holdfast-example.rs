//! `holdfast-example`: starts one of the example services.
//!
//! The secrets come from the environment only, where other processes do not see them:
//! `INTERNAL_SERVICE_TOKEN`, while it is rotated `INTERNAL_SERVICE_TOKEN_PREVIOUS`, for `auth` and
//! `backend` `HOLDFAST_KEYS`, unless the token is to be the root of its keys.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};
use holdfast_calls::layer::InternalToken;
use holdfast_calls::{Calls, Options};
use holdfast_client::{Client, ClientOptions};
use holdfast_core::Issuer;
use holdfast_examples::auth::{Auth, Invites, Subscriptions};
use holdfast_examples::backend::job::WikiJob;
use holdfast_examples::backend::model::Model;
use holdfast_examples::backend::{Backend, Halt};
use holdfast_examples::clients::{FilesClient, GitClient, VectorsClient};
use holdfast_examples::http::Http;
use holdfast_examples::vectors::chroma::Chroma;
use holdfast_examples::vectors::sqlite::Sqlite;
use holdfast_examples::{auth, backend, files, git, provider, vectors};
use holdfast_protocol::{ClientKeys, RootToken};
use holdfast_saga::{Runner, RunnerOptions};
use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

const TOKEN: &str = "INTERNAL_SERVICE_TOKEN";
const PREVIOUS_TOKEN: &str = "INTERNAL_SERVICE_TOKEN_PREVIOUS";
const KEYS: &str = "HOLDFAST_KEYS";

/// Example services around the Holdfast ledger.
#[derive(Debug, Parser)]
#[command(name = "holdfast-example", version)]
struct Cli {
    #[command(subcommand)]
    service: Service,
}

#[derive(Debug, Subcommand)]
enum Service {
    /// A scripted model provider with OpenAI's chat completions; needs no token.
    Provider(ListenArgs),
    /// Files of projects.
    Files(FolderArgs),
    /// Snapshots of projects, in git.
    Git(FolderArgs),
    /// Documents that are found by what they are about.
    Vectors {
        #[command(flatten)]
        folder: FolderArgs,
        /// A Chroma server to keep the vectors, in place of SQLite in the folder.
        #[arg(long, env = "CHROMA_URL", value_name = "URL")]
        chroma: Option<String>,
    },
    /// Invites and registration.
    Auth(AuthArgs),
    /// Chats and wikis, paid by the user.
    Backend(Box<BackendArgs>),
}

#[derive(Debug, Args)]
struct ListenArgs {
    /// Where to listen; port 0 takes a free one, which the log tells.
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDRESS")]
    listen: SocketAddr,
}

#[derive(Debug, Args)]
struct FolderArgs {
    #[command(flatten)]
    listen: ListenArgs,
    /// The folder for all that the service keeps; one service each.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
}

/// Where the ledger is.
#[derive(Debug, Args)]
struct LedgerArgs {
    /// The bus, with user and password.
    #[arg(long, env = "HOLDFAST_NATS_URL", hide_env_values = true, value_name = "URL")]
    nats: String,
    /// The deployment that commands are for.
    #[arg(long, env = "HOLDFAST_AUDIENCE", value_name = "NAME")]
    audience: String,
}

#[derive(Debug, Args)]
struct BackendArgs {
    #[command(flatten)]
    folder: FolderArgs,
    #[command(flatten)]
    ledger: LedgerArgs,
    /// An OpenAI-compatible endpoint; its key comes from OPENAI_API_KEY.
    #[arg(long, env = "OPENAI_BASE_URL", default_value = "https://api.openai.com", value_name = "URL")]
    provider: String,
    /// The model, unless a request names one.
    #[arg(long, default_value = "gpt-4o-mini", value_name = "NAME")]
    model: String,
    /// How long the provider may be silent, in seconds.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    provider_within: u64,
    /// How long a hold lives without a sign of life, in seconds.
    #[arg(long, default_value_t = 600, value_name = "SECONDS")]
    hold_ttl: u64,
    /// The file service.
    #[arg(long, value_name = "URL")]
    files: String,
    /// The git service.
    #[arg(long, value_name = "URL")]
    git: String,
    /// The vector service.
    #[arg(long, value_name = "URL")]
    vectors: String,
    /// How long a saga may be silent before another instance drives it on, in seconds.
    #[arg(long, default_value_t = 60, value_name = "SECONDS", hide = true)]
    saga_lease: u64,
    /// For tests of crashes: stop there and wait to be killed.
    #[arg(long, hide = true)]
    halt: Option<HaltAt>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum HaltAt {
    Held,
    Dispatched,
    Answered,
}

impl From<HaltAt> for Halt {
    fn from(at: HaltAt) -> Halt {
        match at {
            HaltAt::Held => Halt::Held,
            HaltAt::Dispatched => Halt::Dispatched,
            HaltAt::Answered => Halt::Answered,
        }
    }
}

#[derive(Debug, Args)]
struct AuthArgs {
    #[command(flatten)]
    folder: FolderArgs,
    #[command(flatten)]
    ledger: LedgerArgs,
    /// An invite to add, if it is not there; may be given more than once.
    #[arg(long = "invite", value_name = "CODE")]
    invites: Vec<String>,
    /// The ledger's façade, for the number of accounts.
    #[arg(long, env = "HOLDFAST_URL", default_value = "http://127.0.0.1:6004", value_name = "URL")]
    billing: String,
    /// How many accounts there may be.
    #[arg(long, default_value_t = 1_000, value_name = "COUNT")]
    accounts_max: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match run(cli.service).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(service: Service) -> Result<()> {
    let stop = stop_on_signal()?;
    match service {
        Service::Provider(listen) => {
            let listener = bind(&listen).await?;
            provider::serve(listener, Arc::default(), stop).await?;
        }
        Service::Files(folder) => {
            let store = files::Files::open(&folder.data).with_context(|| at(&folder.data))?;
            files::serve(bind(&folder.listen).await?, Arc::new(store), layer()?, stop).await?;
        }
        Service::Git(folder) => {
            let store = git::Repositories::open(&folder.data).with_context(|| at(&folder.data))?;
            git::serve(bind(&folder.listen).await?, Arc::new(store), layer()?, stop).await?;
        }
        Service::Vectors { folder, chroma } => {
            let store = vector_store(&folder.data, chroma.as_deref())?;
            vectors::serve(bind(&folder.listen).await?, store, layer()?, stop).await?;
        }
        Service::Auth(args) => {
            let service = auth_service(&args).await?;
            let listener = bind(&args.folder.listen).await?;
            auth::serve(listener, Arc::new(service), layer()?, stop).await?;
        }
        Service::Backend(args) => {
            let service = backend_service(&args).await?;
            let listener = bind(&args.folder.listen).await?;
            backend::serve(listener, Arc::new(service), layer()?, stop).await?;
        }
    }
    Ok(())
}

fn vector_store(data: &Path, chroma: Option<&str>) -> Result<Arc<dyn vectors::Store>> {
    if let Some(url) = chroma {
        return Ok(Arc::new(Chroma::new(Http::default(), url)));
    }
    std::fs::create_dir_all(data).with_context(|| at(data))?;
    let store = Sqlite::open(&data.join("vectors.sqlite")).with_context(|| at(data))?;
    Ok(Arc::new(store))
}

async fn auth_service(args: &AuthArgs) -> Result<Auth> {
    let data = &args.folder.data;
    let invites = Invites::open(data).with_context(|| at(data))?;
    invites.add(args.invites.iter().map(String::as_str)).with_context(|| at(data))?;
    let ledger = connect(&args.ledger, "auth").await?;
    let issuer = ledger.issuer().clone();
    let token = SecretString::from(token()?);
    let subscriptions = Subscriptions::new(Http::default(), &args.billing, token, args.accounts_max);
    Ok(Auth::new(ledger, issuer, subscriptions, invites))
}

async fn backend_service(args: &BackendArgs) -> Result<Backend> {
    let data = &args.folder.data;
    std::fs::create_dir_all(data).with_context(|| at(data))?;
    let client = connect(&args.ledger, "backend").await?;
    let mut options = Options::new(client.clone(), data.join("calls.sqlite"));
    options.ttl = Duration::from_secs(args.hold_ttl);
    let key = std::env::var("OPENAI_API_KEY").ok().map(SecretString::from);
    let model = Model::new(&args.provider, key, Duration::from_secs(args.provider_within));
    let (http, token) = (Http::default(), SecretString::from(token()?));
    let job = WikiJob {
        model: model.clone(),
        files: FilesClient::new(http.clone(), &args.files, token.clone()),
        git: GitClient::new(http.clone(), &args.git, token.clone()),
        vectors: VectorsClient::new(http, &args.vectors, token),
        orders: backend::orders(data).with_context(|| at(data))?,
    };
    let mut runner = RunnerOptions::new(client.issuer().clone());
    runner.lease = Duration::from_secs(args.saga_lease);
    Ok(Backend {
        calls: Calls::open(options).await?,
        wikis: Runner::new(client.clone(), job.clone(), runner).await?,
        client,
        model,
        default_model: args.model.clone(),
        job,
        halt: args.halt.map(Halt::from),
    })
}

async fn connect(args: &LedgerArgs, issuer: &str) -> Result<Client> {
    let options =
        ClientOptions { nats_url: args.nats.clone(), keys: keys(issuer)?, audience: args.audience.clone() };
    Client::connect(options).await.context("connecting to the bus")
}

/// The keys of the service `issuer`: as they were handed to it, or made of the token where that is the root
/// of all keys.
fn keys(issuer: &str) -> Result<ClientKeys> {
    if let Ok(line) = std::env::var(KEYS) {
        return line.parse().with_context(|| format!("{KEYS} is not usable"));
    }
    let root =
        RootToken::new(&SecretString::from(token()?)).with_context(|| format!("{TOKEN} is not usable"))?;
    Ok(ClientKeys::derive(&root, &Issuer::new(issuer)?, 1))
}

fn token() -> Result<String> {
    let token = std::env::var(TOKEN).ok().filter(|token| !token.is_empty());
    token.with_context(|| format!("{TOKEN} is not set; make a token with `holdfast token new` and set it"))
}

fn layer() -> Result<InternalToken> {
    let previous = std::env::var(PREVIOUS_TOKEN).ok().filter(|token| !token.is_empty());
    Ok(InternalToken::new(&token()?, previous.as_deref()))
}

async fn bind(args: &ListenArgs) -> Result<TcpListener> {
    let listener = TcpListener::bind(args.listen).await;
    let listener = listener.with_context(|| format!("listening on {}", args.listen))?;
    tracing::info!("listening on http://{}", listener.local_addr()?);
    Ok(listener)
}

fn at(folder: &Path) -> String {
    format!("using the folder {}", folder.display())
}

/// A token that is cancelled by SIGINT or SIGTERM.
fn stop_on_signal() -> Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};

    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("watching for SIGTERM")?;
    let cancel = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        cancel.cancel();
    });
    Ok(stop)
}
