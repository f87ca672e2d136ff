//! An embedded PostgreSQL with durable settings.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use holdfast_store::Role;
use holdfast_store::connect::connect;

use crate::identity::{User, create_private, server_user};
use crate::memory::eighth_mib;
use crate::process::Server;
use crate::{locate, secrets, wait};

/// How long a start may take, recovery after a crash included.
const START_WITHIN: Duration = Duration::from_secs(45);
/// The longest path of a socket on any system that is supported, less the socket's own name.
const SOCKET_FOLDER_MAX: usize = 85;

/// With little memory and little room for the write-ahead log, a busy ledger would write each page of
/// its tables again and again: when it is pushed out, and whole after each checkpoint.
const SETTINGS: [&str; 7] = [
    "listen_addresses=127.0.0.1",
    "max_connections=200",
    "timezone=UTC",
    "log_checkpoints=off",
    "max_wal_size=4GB",
    "min_wal_size=4GB",
    // What a long commit has to flush at its end, the WAL writer has begun to.
    "wal_writer_delay=10ms",
];
const SHARED_BUFFERS_MIB: std::ops::RangeInclusive<u64> = 128..=4096;

/// A running PostgreSQL.
pub struct Postgres {
    server: Option<Server>,
    folder: PathBuf,
    binaries: PathBuf,
    user: Option<User>,
    password: String,
    port: u16,
    socket: Option<PathBuf>,
}

impl Postgres {
    /// Starts the server of `folder`, which is made first when it is new.
    pub async fn start(folder: &Path) -> Result<Self> {
        let binaries = locate::postgres()?;
        let user = server_user()?;
        create_private(folder, user)?;
        let password = secrets::kept(&folder.join("password"), secrets::password)?;
        let socket = folder.join("socket");
        create_private(&socket, user)?;
        let socket = Some(socket).filter(|path| path.as_os_str().len() <= SOCKET_FOLDER_MAX);
        let folder = folder.to_owned();
        let mut postgres = Postgres { server: None, folder, binaries, user, password, port: 0, socket };
        if !postgres.data().join("PG_VERSION").is_file() {
            postgres.initialize()?;
        }
        postgres.run().await?;
        Ok(postgres)
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn initialize(&self) -> Result<()> {
        let passwords = self.folder.join("initial-password");
        fs::write(&passwords, &self.password)?;
        let data = self.data();
        create_private(&data, self.user)?;
        let mut initdb = Command::new(self.binaries.join("initdb"));
        initdb.arg("-D").arg(&data).arg("--pwfile").arg(&passwords);
        // The `C` collation compares bytes and the builtin provider needs no locale of the system:
        // the order of rows is the same on every machine.
        initdb.args([
            "-U",
            "postgres",
            "-A",
            "scram-sha-256",
            "-E",
            "UTF8",
            "--locale=C",
            "--no-instructions",
        ]);
        initdb.current_dir("/").env_clear();
        if let Some(user) = self.user {
            std::os::unix::fs::chown(&passwords, Some(user.uid), Some(user.gid))?;
            initdb.uid(user.uid).gid(user.gid);
        }
        let output = initdb.output().context("running initdb")?;
        fs::remove_file(&passwords)?;
        if !output.status.success() {
            bail!("initdb failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    /// Starts the server process and waits until it answers. A port that was taken meanwhile, or
    /// the shared memory of a predecessor that is still ending, is tried again.
    async fn run(&mut self) -> Result<()> {
        let deadline = std::time::Instant::now() + START_WITHIN;
        loop {
            self.spawn()?;
            match self.answers(deadline).await {
                Ok(()) => return Ok(()),
                Err(error) if std::time::Instant::now() > deadline => return Err(error),
                Err(_) => {}
            }
        }
    }

    fn spawn(&mut self) -> Result<()> {
        if self.port == 0 {
            self.port = wait::free_port()?;
        }
        let mut command = Command::new(self.binaries.join("postgres"));
        command.arg("-D").arg(self.data()).args(["-p", &self.port.to_string()]);
        command.arg("-k").arg(self.socket.as_deref().unwrap_or(Path::new("")));
        // Everything that durability depends on stays at its default, which is safe.
        for setting in SETTINGS {
            command.args(["-c", setting]);
        }
        command.args(["-c", &format!("shared_buffers={}MB", eighth_mib(SHARED_BUFFERS_MIB))]);
        if cfg!(target_os = "linux") {
            // Recovery would otherwise open every file of the data folder to sync it.
            command.args(["-c", "recovery_init_sync_method=syncfs"]);
        }
        let log = self.folder.join("server.log");
        self.server = Some(Server::start("postgres", "INT", &command, self.user, &log)?);
        Ok(())
    }

    async fn answers(&mut self, deadline: std::time::Instant) -> Result<()> {
        let url = self.url("postgres");
        loop {
            if connect(&url, Role::Login).await.is_ok() {
                return Ok(());
            }
            let ended = self.server.as_mut().map(Server::ended).transpose()?.flatten();
            if ended.is_some() || std::time::Instant::now() > deadline {
                let log = fs::read_to_string(self.folder.join("server.log")).unwrap_or_default();
                bail!("postgres did not start: {}", log.lines().last().unwrap_or("it said nothing"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A URL of `database` over TCP, for anybody on this machine.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres:{}@127.0.0.1:{}/{database}", self.password, self.port)
    }

    /// A URL of `database` for this machine's own processes: over the Unix socket where there is
    /// one, since over TCP a large statement waits for an acknowledgement in its middle.
    #[must_use]
    pub fn local_url(&self, database: &str) -> String {
        match &self.socket {
            Some(folder) => {
                let folder =
                    folder.to_string_lossy().replace('%', "%25").replace(' ', "%20").replace('/', "%2F");
                format!("postgres://postgres:{}@{folder}:{}/{database}", self.password, self.port)
            }
            None => self.url(database),
        }
    }

    /// The process id of the running server.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        fs::read_to_string(self.data().join("postmaster.pid")).ok()?.lines().next()?.trim().parse().ok()
    }

    /// The path of a program that comes with the server.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.binaries.join(name)
    }

    /// A path on the disk that the data lies on.
    #[must_use]
    pub fn scratch_file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Kills the server as a power cut would, and starts it again.
    pub async fn crash(&mut self) -> Result<()> {
        let pid = i32::try_from(self.pid().context("no postmaster.pid")?)?;
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
