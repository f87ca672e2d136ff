//! The example services in this process, around a tenant's ledger.

use std::ops::Deref;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use holdfast_examples::backend::job::{Order, WikiJob};
use holdfast_examples::town::{BackendSettings, Town};
use holdfast_saga::{Faults, Limits, Runner, RunnerOptions};
use holdfast_testkit::tenant::Tenant;
use secrecy::SecretString;
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
    town: Town,
    /// The folder for everything that is kept.
    pub data: PathBuf,
    _stop: DropGuard,
}

impl Deref for Shop {
    type Target = Town;

    fn deref(&self) -> &Town {
        &self.town
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.data);
    }
}

impl Shop {
    /// Opens all services but the backend.
    pub async fn open() -> Result<Self> {
        let data = std::env::temp_dir().join(format!("holdfast-shop-{}", Uuid::new_v4().simple()));
        let stop = CancellationToken::new();
        let town = Town::open(&data, SecretString::from(TOKEN), stop.clone()).await?;
        Ok(Shop { town, data, _stop: stop.drop_guard() })
    }

    /// A backend in this process; answers its URL. `provider` is another than the shop's own.
    pub async fn backend(&self, tenant: &Tenant, ttl: Duration, provider: Option<&str>) -> Result<String> {
        let settings = BackendSettings {
            model: MODEL.to_owned(),
            provider_within: PROVIDER_WITHIN,
            hold_ttl: ttl,
            tries: 5,
            saga_lease: Duration::from_secs(60),
            provider: provider.map(str::to_owned),
            journal: format!("calls-{}.sqlite", Uuid::new_v4().simple()),
        };
        let client = client(tenant, "backend").await?.0.as_ref().clone();
        Ok(self.town.backend(client, settings).await?)
    }

    /// A runner of wikis that commits `faults`, and hardly waits between tries.
    pub async fn runner(&self, tenant: &Tenant, faults: Faults) -> Result<Runner<WikiJob>> {
        let client = client(tenant, "backend").await?.0.as_ref().clone();
        let mut options = RunnerOptions::new(client.issuer().clone());
        let pause = Duration::from_millis(1);
        options.limits = Limits { pause, pause_max: pause, ..Limits::default() };
        options.faults = faults;
        Ok(Runner::new(client, self.wiki_job()?, options).await?)
    }

    /// What a wiki is made with.
    pub fn wiki_job(&self) -> Result<WikiJob> {
        Ok(self.town.job(PROVIDER_WITHIN)?)
    }

    /// An order of `pages` pages.
    pub async fn order(&self, tenant: &Tenant, user: &str, project: &str, pages: usize) -> Result<Order> {
        let quote = client(tenant, "backend").await?.0.quote(MODEL, None, None).await?;
        let (user, project) = (user.to_owned(), project.to_owned());
        Ok(Order { user, project, topic: "Bees".to_owned(), pages, quote })
    }
}
