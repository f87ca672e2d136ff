//! One Postgres and one NATS server below one folder.

use std::path::Path;

use anyhow::Result;

use crate::nats::Nats;
use crate::postgres::Postgres;

/// A pair of running servers, stopped when dropped.
pub struct Stack {
    /// The database server.
    pub postgres: Postgres,
    /// The bus.
    pub nats: Nats,
}

impl Stack {
    /// Starts both below `folder`, the bus with the given accounts.
    pub async fn start(folder: &Path, accounts: &str) -> Result<Self> {
        let (postgres, nats) =
            tokio::try_join!(async { Postgres::start(&folder.join("postgres")).await }, async {
                Nats::start(&folder.join("nats"), accounts).await
            },)?;
        Ok(Stack { postgres, nats })
    }

    /// Stops both.
    pub fn stop(&mut self) -> Result<()> {
        self.nats.stop()?;
        self.postgres.stop()
    }
}
