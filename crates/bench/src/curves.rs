//! How the pace depends on what is varied: the accounts that commands are about, the size of a batch,
//! and the offered load.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::bulk;
use crate::commands::Bus;
use crate::deployment::Deployment;
use crate::load::{Driver, Load};
use crate::settings::Size;
use crate::workload::{Books, Pick};

/// How many accounts commands are about; all of them are open before.
const ACCOUNTS: [usize; 4] = [100, 1_000, 10_000, 100_000];
/// Commands in an envelope.
const MEMBERS: [usize; 6] = [1, 4, 20, 100, 500, 2_000];
/// A smaller envelope costs more for each command, so fewer are sent.
const MEMBERS_FEW: usize = 20;
/// The offered load, as a share of what `bus` carries.
const SHARES: [f64; 6] = [0.1, 0.25, 0.5, 0.7, 0.85, 0.95];

/// What the curves are drawn with.
pub(crate) struct Curves<'a> {
    pub(crate) deployment: &'a Deployment,
    pub(crate) bus: &'a mut Bus,
    pub(crate) books: &'a mut Books,
    pub(crate) random: &'a mut fastrand::Rng,
    pub(crate) size: Size,
    /// Lives at once.
    pub(crate) at_once: usize,
}

impl Curves<'_> {
    /// `[accounts, commands a second]`, as `bus`, until projector and relay have caught up.
    pub(crate) async fn by_accounts(&mut self) -> Result<Value> {
        let mut points = Vec::new();
        for accounts in ACCOUNTS {
            let pick = Pick::zipf(accounts);
            points.push(json!([accounts, self.pace(&pick).await?]));
        }
        Ok(json!(points))
    }

    /// The pace of the bus over all accounts.
    pub(crate) async fn pace_of_all(&mut self) -> Result<f64> {
        self.pace(&Pick::zipf(self.size.accounts())).await
    }

    async fn pace(&mut self, pick: &Pick) -> Result<f64> {
        let load =
            Load { commands: self.size.curve_commands(), at_once: self.at_once, pick, random_ids: false };
        self.deployment.settle().await?;
        let mut done = Driver::new(self.bus, self.books, self.random).run(load).await?;
        done.elapsed += self.deployment.caught_up().await?;
        Ok(done.per_second())
    }

    /// `[commands in an envelope, commands a second]`.
    pub(crate) async fn by_batch(&mut self) -> Result<Value> {
        let pick = Pick::zipf(self.size.accounts());
        let mut points = Vec::new();
        for members in MEMBERS {
            let commands = self.size.curve_commands();
            let commands = if members < MEMBERS_FEW { commands / 2 } else { commands };
            let batch = bulk::Batch { members, commands };
            self.deployment.settle().await?;
            let done = bulk::lives(self.bus, self.books, self.random, batch, &pick).await?;
            self.deployment.caught_up().await?;
            points.push(json!([members, done.per_second()]));
        }
        Ok(json!(points))
    }

    /// `[offered commands a second, p50 in ms, p99 in ms]` in open loop, up to nearly `bus`.
    pub(crate) async fn by_load(&mut self, bus_per_second: f64) -> Result<Value> {
        let pick = Pick::zipf(self.size.accounts());
        let mut points = Vec::new();
        for share in SHARES {
            let rate = bus_per_second * share;
            self.deployment.settle().await?;
            let driver = Driver::new(self.bus, self.books, self.random);
            let mut open =
                driver.run_open(rate, self.size.curve_seconds(), &pick).await.context("open loop")?;
            self.deployment.caught_up().await?;
            points.push(json!([rate.round(), open.percentile_ms(0.50), open.percentile_ms(0.99)]));
        }
        Ok(json!(points))
    }
}
