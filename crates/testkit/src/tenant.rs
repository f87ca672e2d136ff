//! A database and NATS accounts of its own for each test, on servers that a test binary shares.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, bail};
use holdfast_store::Role;
use holdfast_store::connect::{connect, migrate};
use sqlx::{AssertSqlSafe, Executor};
use tokio::sync::{Mutex, MutexGuard, OnceCell};

use crate::identity::{create_private, is_root};
use crate::nats::{ACCOUNTS_CONFIG, USERS};
use crate::servers::Stack;

/// How many tests one binary may have.
const TENANTS: usize = 40;
/// The database that every test's is copied from, migrated once.
const TEMPLATE: &str = "holdfast_template";

/// The folder of a test binary is called this and its process id.
const FOLDER: &str = "holdfast-test-";

static SHARED: OnceCell<Mutex<Stack>> = OnceCell::const_new();
static NEXT: AtomicUsize = AtomicUsize::new(0);

/// What one test has to itself.
#[derive(Debug, Clone)]
pub struct Tenant {
    /// Its number.
    pub number: usize,
    /// Its database.
    pub database_url: String,
    /// The same over TCP, where a [`crate::proxy::Proxy`] can stand between.
    pub database_tcp_url: String,
    nats_urls: Vec<(String, String)>,
}

impl Tenant {
    /// The next tenant; starts the servers the first time.
    pub async fn new() -> Result<Self> {
        let stack = servers().await?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        if number >= TENANTS {
            bail!("this test binary has more than {TENANTS} tests that need a tenant");
        }
        let database = format!("test_{number}");
        let mut admin = connect(&stack.postgres.local_url("postgres"), Role::Login).await?;
        let create = format!("CREATE DATABASE {database} TEMPLATE {TEMPLATE}");
        admin.execute(AssertSqlSafe(create)).await.context("creating the test's database")?;
        let nats_urls = USERS.iter().map(|user| {
            let login = format!("{user}_{number:02}");
            ((*user).to_owned(), stack.nats.url_as(&login, user))
        });
        let nats_urls = nats_urls.collect();
        let database_tcp_url = stack.postgres.url(&database);
        Ok(Tenant { number, database_url: stack.postgres.local_url(&database), database_tcp_url, nats_urls })
    }

    /// The URL for the user of this role (`ledger`, `operator`, `backend`, `auth`, `http`).
    #[must_use]
    pub fn nats_url(&self, user: &str) -> &str {
        let found = self.nats_urls.iter().find(|(name, _)| name == user);
        &found.expect("one of the users of accounts.conf").1
    }
}

/// The servers that all tenants of this binary share, for tests that crash them.
pub async fn servers() -> Result<MutexGuard<'static, Stack>> {
    Ok(SHARED.get_or_try_init(start).await?.lock().await)
}

async fn start() -> Result<Mutex<Stack>> {
    // The data must be reachable for the servers' user; the usual temporary folder of root may
    // be private. What earlier runs left is theirs to lose.
    let base = if is_root() { PathBuf::from("/var/tmp") } else { std::env::temp_dir() };
    clear_leftovers(&base);
    let folder = base.join(format!("{FOLDER}{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    create_private(&folder, crate::identity::server_user()?)?;
    let accounts: Vec<String> = (0..TENANTS).map(tenant_accounts).collect::<Result<_>>()?;
    let stack = Stack::start(&folder, &format!("accounts {{\n{}\n}}\n", accounts.join("\n"))).await?;
    let mut admin = connect(&stack.postgres.local_url("postgres"), Role::Login).await?;
    admin.execute(AssertSqlSafe(format!("CREATE DATABASE {TEMPLATE}"))).await?;
    migrate(&stack.postgres.local_url(TEMPLATE)).await?;
    Ok(Mutex::new(stack))
}

/// Removes the folders of test binaries that are no more.
fn clear_leftovers(base: &std::path::Path) {
    let Ok(entries) = std::fs::read_dir(base) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix(FOLDER).and_then(|pid| rustix::process::Pid::from_raw(pid.parse().ok()?));
        if pid.is_some_and(|pid| rustix::process::test_kill_process(pid).is_err()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// The accounts of `nats/accounts.conf` under names of their own: same subjects, another world.
fn tenant_accounts(number: usize) -> Result<String> {
    let inner = ACCOUNTS_CONFIG
        .split_once("accounts {")
        .and_then(|(_, rest)| rest.rsplit_once('}'))
        .context("accounts.conf is not `accounts { … }`")?
        .0;
    let suffix = format!("_{number:02}");
    let mut text: String =
        inner.lines().filter(|line| !line.trim_start().starts_with('#')).collect::<Vec<_>>().join("\n");
    for account in ["LEDGER", "BACKEND", "AUTH", "HTTP"] {
        text = rename_account(&text, account, &suffix);
    }
    for user in USERS {
        text = text.replace(&format!("user: \"{user}\""), &format!("user: \"{user}{suffix}\""));
    }
    Ok(text)
}

/// Renames an account where it stands as a word of its own: password variables contain the names.
fn rename_account(text: &str, account: &str, suffix: &str) -> String {
    let mut renamed = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(account) {
        let (before, found) = rest.split_at(at);
        let after = &found[account.len()..];
        let part_of_word = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
        renamed.push_str(before);
        renamed.push_str(account);
        if !part_of_word(before.chars().next_back()) && !part_of_word(after.chars().next()) {
            renamed.push_str(suffix);
        }
        rest = after;
    }
    renamed.push_str(rest);
    renamed
}
