//! A server process that never outlives the one that started it.
//!
//! The server runs below a small shell that holds one end of a pipe. When our end closes, because
//! we say so or because we were killed, the shell tells the server to stop. Terminal signals do not
//! reach it: it has a process group of its own.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::identity::User;

/// `$1` is the signal that stops the server, the rest its command line.
const KEEPER: &str = r#"
stop="$1"; shift
exec 3<&0
"$@" </dev/null 3<&- &
server=$!
( read -r _ <&3; kill -"$stop" "$server" 2>/dev/null ) >/dev/null 2>&1 &
keeper=$!
exec 3<&-
wait "$server"; status=$?
kill "$keeper" 2>/dev/null
exit "$status"
"#;

/// How long a server may take to stop before it is left to the system.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// A running server.
pub struct Server {
    name: &'static str,
    keeper: Child,
    pipe: Option<ChildStdin>,
}

impl Server {
    /// Starts `program` with `arguments`, its output going to the file `log`.
    pub fn start(
        name: &'static str,
        stop_signal: &str,
        command: &Command,
        user: Option<User>,
        log: &Path,
    ) -> Result<Self> {
        let out = File::create(log).with_context(|| format!("creating {}", log.display()))?;
        let mut keeper = Command::new("/bin/sh");
        keeper
            .args(["-c", KEEPER, "keeper", stop_signal])
            .arg(command.get_program())
            .args(command.get_args());
        for (key, value) in command.get_envs() {
            if let Some(value) = value {
                keeper.env(key, value);
            }
        }
        keeper.current_dir("/").stdin(Stdio::piped()).stdout(out.try_clone()?).stderr(out).process_group(0);
        if let Some(user) = user {
            keeper.uid(user.uid).gid(user.gid);
        }
        let mut keeper = keeper.spawn().with_context(|| format!("starting {name}"))?;
        let pipe = keeper.stdin.take();
        Ok(Server { name, keeper, pipe })
    }

    /// Whether it ended by itself.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.keeper.try_wait()?)
    }

    /// Stops it and waits.
    pub fn stop(&mut self) -> Result<()> {
        self.pipe.take();
        self.wait()
    }

    /// Waits for the end, however it comes.
    pub fn wait(&mut self) -> Result<()> {
        let deadline = Instant::now() + STOP_WITHIN;
        while self.ended()?.is_none() {
            if Instant::now() > deadline {
                bail!("{} did not stop within {} s", self.name, STOP_WITHIN.as_secs());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            tracing::warn!(%error, "a server was left behind");
        }
    }
}
