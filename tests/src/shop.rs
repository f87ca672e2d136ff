//! The example services in this process, each on a port of its own, around a tenant's ledger.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use holdfast_calls::layer::InternalToken;
use holdfast_calls::{Calls, Options};
use holdfast_examples::backend::job::{Order, WikiJob};
use holdfast_examples::backend::model::Model;
use holdfast_examples::backend::{self, Backend};
use holdfast_examples::clients::{FilesClient, GitClient, VectorsClient};
use holdfast_examples::http::Http;
use holdfast_examples::provider::Provider;
use holdfast_examples::vectors::sqlite::Sqlite;
use holdfast_examples::{files, git, provider, vectors};
use holdfast_saga::{Faults, Limits, Runner, RunnerOptions};
use holdfast_testkit::tenant::Tenant;
use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use crate::{TOKEN, client};

/// A model of the price book at 0.30 dollars for a million tokens in and 2.50 out: 300 and 2,500
/// nano-dollars for one.
pub const MODEL: &str = "gemini-2.5-flash";
/// How long the provider may be silent.
const PROVIDER_WITHIN: Duration = Duration::from_millis(1_000);

/// Services that end with it, and the folder in which they keep everything.
pub struct Shop {
    /// What the model does, and what it did.
    pub provider: Arc<Provider>,
    /// Where it is.
    pub provider_url: String,
    /// The file service.
    pub files: FilesClient,
    /// The git service.
    pub git: GitClient,
    /// The vector service.
    pub vectors: VectorsClient,
    /// The URLs of the same three.
    pub urls: [String; 3],
    /// The folder for everything that is kept.
    pub data: PathBuf,
    stop: CancellationToken,
    _stop: DropGuard,
}

impl Drop for Shop {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.data);
    }
}

/// The layer that every service is behind.
pub fn layer() -> InternalToken {
    InternalToken::new(TOKEN, None)
}

async fn listen() -> Result<(TcpListener, String)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    Ok((listener, url))
}

impl Shop {
    /// Opens all services but the backend.
    pub async fn open() -> Result<Self> {
        let data = std::env::temp_dir().join(format!("holdfast-shop-{}", Uuid::new_v4().simple()));
        std::fs::create_dir_all(&data)?;
        let stop = CancellationToken::new();
        let provider = Arc::<Provider>::default();
        let (listener, provider_url) = listen().await?;
        tokio::spawn(provider::serve(listener, Arc::clone(&provider), stop.clone()));
        let (listener, files_url) = listen().await?;
        let store = Arc::new(files::Files::open(&data.join("files"))?);
        tokio::spawn(files::serve(listener, store, layer(), stop.clone()));
        let (listener, git_url) = listen().await?;
        let store = Arc::new(git::Repositories::open(&data.join("git"))?);
        tokio::spawn(git::serve(listener, store, layer(), stop.clone()));
        let (listener, vectors_url) = listen().await?;
        let store: Arc<dyn vectors::Store> = Arc::new(Sqlite::open(&data.join("vectors.sqlite"))?);
        tokio::spawn(vectors::serve(listener, store, layer(), stop.clone()));
        let (http, token) = (Http::default(), SecretString::from(TOKEN));
        Ok(Shop {
            provider,
            provider_url,
            files: FilesClient::new(http.clone(), &files_url, token.clone()),
            git: GitClient::new(http.clone(), &git_url, token.clone()),
            vectors: VectorsClient::new(http, &vectors_url, token),
            urls: [files_url, git_url, vectors_url],
            data,
            _stop: stop.clone().drop_guard(),
            stop,
        })
    }

    /// What a wiki is made with.
    pub fn job(&self) -> Result<WikiJob> {
        Ok(WikiJob {
            model: self.model(&self.provider_url),
            files: self.files.clone(),
            git: self.git.clone(),
            vectors: self.vectors.clone(),
            orders: backend::orders(&self.data)?,
        })
    }

    fn model(&self, url: &str) -> Model {
        Model::new(url, None, PROVIDER_WITHIN)
    }

    /// A backend in this process; answers its URL. `provider` is another than the shop's own.
    pub async fn backend(&self, tenant: &Tenant, ttl: Duration, provider: Option<&str>) -> Result<String> {
        let client = client(tenant, "backend").await?.0.as_ref().clone();
        let journal = self.data.join(format!("calls-{}.sqlite", Uuid::new_v4().simple()));
        let mut options = Options::new(client.clone(), journal);
        options.ttl = ttl;
        let job = self.job()?;
        let backend = Backend {
            calls: Calls::open(options).await?,
            model: self.model(provider.unwrap_or(&self.provider_url)),
            default_model: MODEL.to_owned(),
            wikis: Runner::new(client.clone(), job.clone(), RunnerOptions::new(client.issuer().clone()))
                .await?,
            client,
            job,
            halt: None,
        };
        let (listener, url) = listen().await?;
        tokio::spawn(backend::serve(listener, Arc::new(backend), layer(), self.stop.clone()));
        Ok(url)
    }

    /// A runner of wikis that commits `faults`, and hardly waits between tries.
    pub async fn runner(&self, tenant: &Tenant, faults: Faults) -> Result<Runner<WikiJob>> {
        let client = client(tenant, "backend").await?.0.as_ref().clone();
        let mut options = RunnerOptions::new(client.issuer().clone());
        let pause = Duration::from_millis(1);
        options.limits = Limits { pause, pause_max: pause, ..Limits::default() };
        options.faults = faults;
        Ok(Runner::new(client, self.job()?, options).await?)
    }

    /// An order of `pages` pages.
    pub async fn order(&self, tenant: &Tenant, user: &str, project: &str, pages: usize) -> Result<Order> {
        let quote = client(tenant, "backend").await?.0.quote(MODEL, None, None).await?;
        let (user, project) = (user.to_owned(), project.to_owned());
        Ok(Order { user, project, topic: "Bees".to_owned(), pages, quote })
    }
}

/// A folder below the shop's that no other test uses.
pub fn folder(shop: &Shop, name: &str) -> Result<PathBuf> {
    let folder = Path::new(&shop.data).join(name);
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}
