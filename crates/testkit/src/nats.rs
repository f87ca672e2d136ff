//! An embedded NATS server, run with the configuration of `nats/`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::memory::eighth_mib;
use crate::process::Server;
use crate::{locate, secrets, wait};

/// The files that a deployment starts its server with.
pub const SERVER_CONFIG: &str = include_str!("../../../nats/nats.conf");
/// The accounts, users and permissions of one deployment.
pub const ACCOUNTS_CONFIG: &str = include_str!("../../../nats/accounts.conf");
/// The users of [`ACCOUNTS_CONFIG`], each with a password variable of its name.
pub const USERS: [&str; 5] = ["ledger", "operator", "backend", "auth", "http"];

/// What its heap may grow to before garbage is collected more often.
const HEAP_MIB: std::ops::RangeInclusive<u64> = 512..=4096;

const START_WITHIN: Duration = Duration::from_secs(20);

/// A running NATS server.
pub struct Nats {
    server: Option<Server>,
    folder: PathBuf,
    binary: PathBuf,
    passwords: BTreeMap<String, String>,
    port: u16,
}

impl Nats {
    /// Starts a server in `folder` with the accounts of the text `accounts`.
    pub async fn start(folder: &Path, accounts: &str) -> Result<Self> {
        let binary = locate::nats_server()?;
        fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
        fs::write(folder.join("nats.conf"), SERVER_CONFIG)?;
        fs::write(folder.join("accounts.conf"), accounts)?;
        let mut passwords = BTreeMap::new();
        for user in USERS {
            let file = folder.join(format!("{user}.password"));
            passwords.insert(user.to_owned(), secrets::kept(&file, secrets::password)?);
        }
        let mut nats = Nats { server: None, folder: folder.to_owned(), binary, passwords, port: 0 };
        nats.run().await?;
        Ok(nats)
    }

    async fn run(&mut self) -> Result<()> {
        if self.port == 0 {
            self.port = wait::free_port()?;
        }
        let mut command = Command::new(&self.binary);
        command.arg("-c").arg(self.folder.join("nats.conf")).args(["-p", &self.port.to_string()]);
        command.arg("-P").arg(self.folder.join("server.pid"));
        // Messages are garbage soon. Collecting it less often costs memory, up to a bound, and saves a tenth
        // of the server's time and most of the moments in which callers wait for it.
        command.env("GOGC", "400").env("GOMEMLIMIT", format!("{}MiB", eighth_mib(HEAP_MIB)));
        command.env("HOLDFAST_NATS_STORE_DIR", format!("\"{}\"", self.folder.join("store").display()));
        for (user, password) in &self.passwords {
            command.env(format!("HOLDFAST_NATS_{}_PASSWORD", user.to_uppercase()), password);
        }
        self.server =
            Some(Server::start("nats-server", "TERM", &command, None, &self.folder.join("server.log"))?);
        let deadline = std::time::Instant::now() + START_WITHIN;
        while tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
            let ended = self.server.as_mut().map(Server::ended).transpose()?.flatten();
            if ended.is_some() || std::time::Instant::now() > deadline {
                let log = fs::read_to_string(self.folder.join("server.log")).unwrap_or_default();
                bail!("nats-server did not start: {}", log.lines().last().unwrap_or("it said nothing"));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// A URL with the name and password of `user`.
    #[must_use]
    pub fn url(&self, user: &str) -> String {
        self.url_as(user, user)
    }

    /// A URL for `login`, who has the password of `user`: tenants share passwords, not names.
    #[must_use]
    pub fn url_as(&self, login: &str, user: &str) -> String {
        format!("nats://{login}:{}@127.0.0.1:{}", self.passwords[user], self.port)
    }

    /// The process id of the running server.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        fs::read_to_string(self.folder.join("server.pid")).ok()?.trim().parse().ok()
    }

    /// Kills the server as a power cut would, and starts it again on the same port.
    pub async fn crash(&mut self) -> Result<()> {
        let pid = i32::try_from(self.pid().context("no server.pid")?)?;
        let pid = rustix::process::Pid::from_raw(pid).context("no process id")?;
        rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
        if let Some(mut server) = self.server.take() {
            server.wait()?;
        }
        self.run().await
    }

    /// Starts it again after [`Self::stop`], on the same port.
    pub async fn restart(&mut self) -> Result<()> {
        self.run().await
    }

    /// Stops the server.
    pub fn stop(&mut self) -> Result<()> {
        self.server.take().map_or(Ok(()), |mut server| server.stop())
    }
}
