//! All services in one process, each on a port of its own: for demonstrations and tests.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use holdfast_calls::layer::InternalToken;
use holdfast_calls::{Calls, JournalError, Options};
use holdfast_client::Client;
use holdfast_saga::{Runner, RunnerOptions, SagaError};
use secrecy::{ExposeSecret, SecretString};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::backend::job::WikiJob;
use crate::backend::model::Model;
use crate::backend::{self, Backend};
use crate::clients::{FilesClient, GitClient, VectorsClient};
use crate::http::Http;
use crate::provider::{self, Provider};
use crate::vectors::Store;
use crate::vectors::sqlite::Sqlite;
use crate::{files, git, vectors};

/// The services but the backend. They end with `stop`.
pub struct Town {
    /// What the model does, and what it did.
    pub provider: Arc<Provider>,
    /// Where the model is.
    pub provider_url: String,
    /// Where files, git and vectors are.
    pub urls: [String; 3],
    /// The file service.
    pub files: FilesClient,
    /// The git service.
    pub git: GitClient,
    /// The vector service.
    pub vectors: VectorsClient,
    data: PathBuf,
    token: SecretString,
    stop: CancellationToken,
}

/// How a backend of the town is set up.
#[derive(Debug, Clone)]
pub struct BackendSettings {
    /// The model, unless a request names one.
    pub model: String,
    /// How long the provider may be silent.
    pub provider_within: Duration,
    /// How long a hold lives without a sign of life.
    pub hold_ttl: Duration,
    /// How often a step of a wiki is tried.
    pub tries: u32,
    /// How long a saga may be silent before another instance drives it on.
    pub saga_lease: Duration,
    /// Another provider than the town's own.
    pub provider: Option<String>,
    /// The name of its journal below the town's folder; one process at a time.
    pub journal: String,
}

/// Why a backend did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The disk or the network.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The journal of calls.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The logs of sagas.
    #[error(transparent)]
    Saga(#[from] SagaError),
}

async fn listen() -> io::Result<(TcpListener, String)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    Ok((listener, url))
}

impl Town {
    /// Opens all services but the backend, which keep what they have below `data`.
    ///
    /// # Errors
    /// When the disk or the network does not let it.
    pub async fn open(data: &Path, token: SecretString, stop: CancellationToken) -> io::Result<Self> {
        std::fs::create_dir_all(data)?;
        let layer = InternalToken::new(token.expose_secret(), None);
        let provider = Arc::<Provider>::default();
        let (listener, provider_url) = listen().await?;
        tokio::spawn(provider::serve(listener, Arc::clone(&provider), stop.clone()));
        let (listener, files_url) = listen().await?;
        let store = Arc::new(files::Files::open(&data.join("files"))?);
        tokio::spawn(files::serve(listener, store, layer.clone(), stop.clone()));
        let (listener, git_url) = listen().await?;
        let store = Arc::new(git::Repositories::open(&data.join("git"))?);
        tokio::spawn(git::serve(listener, store, layer.clone(), stop.clone()));
        let (listener, vectors_url) = listen().await?;
        let store = Sqlite::open(&data.join("vectors.sqlite")).map_err(io::Error::other)?;
        let store: Arc<dyn Store> = Arc::new(store);
        tokio::spawn(vectors::serve(listener, store, layer, stop.clone()));
        let http = Http::default();
        Ok(Town {
            provider,
            provider_url,
            files: FilesClient::new(http.clone(), &files_url, token.clone()),
            git: GitClient::new(http.clone(), &git_url, token.clone()),
            vectors: VectorsClient::new(http, &vectors_url, token.clone()),
            urls: [files_url, git_url, vectors_url],
            data: data.to_owned(),
            token,
            stop,
        })
    }

    /// What a wiki is made with, by a model that may be silent for `within`.
    ///
    /// # Errors
    /// When the disk does not let it.
    pub fn job(&self, within: Duration) -> io::Result<WikiJob> {
        Ok(WikiJob {
            model: Model::new(&self.provider_url, None, within),
            files: self.files.clone(),
            git: self.git.clone(),
            vectors: self.vectors.clone(),
            orders: backend::orders(&self.data)?,
        })
    }

    /// Opens a backend; answers its URL.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn backend(&self, client: Client, settings: BackendSettings) -> Result<String, StartError> {
        let mut options = Options::new(client.clone(), self.data.join(&settings.journal));
        options.ttl = settings.hold_ttl;
        let job = self.job(settings.provider_within)?;
        let provider = settings.provider.as_deref().unwrap_or(&self.provider_url);
        let mut runner = RunnerOptions::new(client.issuer().clone());
        runner.limits.attempts_max = settings.tries;
        runner.lease = settings.saga_lease;
        let backend = Backend {
            calls: Calls::open(options).await?,
            model: Model::new(provider, None, settings.provider_within),
            default_model: settings.model,
            wikis: Runner::new(client.clone(), job.clone(), runner).await?,
            client,
            job,
            halt: None,
        };
        let layer = InternalToken::new(self.token.expose_secret(), None);
        let (listener, url) = listen().await?;
        tokio::spawn(backend::serve(listener, Arc::new(backend), layer, self.stop.clone()));
        Ok(url)
    }
}
