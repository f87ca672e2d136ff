//! `store` and `floor`: decide and append without a bus, and what Postgres can do at all with the
//! same rows.

use std::collections::HashMap;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use futures_util::StreamExt;
use holdfast_core::books::balances_after;
use holdfast_core::chain::fingerprint;
use holdfast_core::decide::References;
use holdfast_core::{
    Account, AccountId, Assets, Command, Context as Now, Decision, Event, Intent, Issuer, Timestamp, Verb,
    decide, evolve,
};
use holdfast_store::connect::{connect, migrate};
use holdfast_store::record::Link;
use holdfast_store::{Applied, Head, Record, Role, Writer};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::deployment::{Deployment, PARTITION};
use crate::processes::{approximate, per_thousand};
use crate::report::Figures;
use crate::settings::Size;
use crate::workload::{FUNDS, Life, Pick, decimal, name};

/// How many commands are committed at once, about what the lane gathers at full load.
const BATCH: usize = 1_000;
/// The database that `store` writes and `floor` copies.
const DATABASE: &str = "store";

/// Stands for the envelope, which is stored as it came: as long as the generator's are.
const ENVELOPE_BYTES: usize = 440;

/// Commands a second through `decide`, the chain and the writer.
pub(crate) async fn store(deployment: &Deployment, size: Size) -> Result<Figures> {
    let url = deployment.create_database(DATABASE).await?;
    migrate(&url).await?;
    let mut bench = Store::new(Writer::take_over(&url, PARTITION).await?)?;
    bench.open_accounts(size.accounts() / 10).await?;
    let processes = deployment.processes();
    let (before, begun) = (processes.cpu(), Instant::now());
    let commands = bench.live(size.store_commands(), size.accounts() / 10).await?;
    let seconds = begun.elapsed().as_secs_f64();
    let cpu = per_thousand(&before, &processes.cpu(), commands);
    Ok(Figures::new()
        .with("commands_per_second", approximate(commands) / seconds)
        .with("seconds", seconds)
        .count("n", commands)
        .cpu(&cpu))
}

/// Rows a second of one binary COPY of what [`store`] wrote into an empty table of the same kind.
pub(crate) async fn floor(deployment: &Deployment) -> Result<Figures> {
    let mut from = connect(&deployment.stack.postgres.local_url(DATABASE), Role::Login).await?;
    let mut rows = Vec::new();
    let mut chunks = from.copy_out_raw("COPY ledger_event TO STDOUT (FORMAT binary)").await?;
    while let Some(chunk) = chunks.next().await {
        rows.push(chunk?);
    }
    drop(chunks);
    let (count,): (i64,) = sqlx::query_as("SELECT count(*) FROM ledger_event").fetch_one(&mut from).await?;
    let count = usize::try_from(count)?;
    let url = deployment.create_database("floor").await?;
    migrate(&url).await?;
    let mut into = connect(&url, Role::Login).await?;
    // The yardstick is the table, not the check that whoever appends has moved the head.
    sqlx::query("ALTER TABLE ledger_event DISABLE TRIGGER USER").execute(&mut into).await?;
    let (processes, bytes) = (deployment.processes(), rows.iter().map(Bytes::len).sum::<usize>());
    let (before, begun) = (processes.cpu(), Instant::now());
    let mut copy = into.copy_in_raw("COPY ledger_event FROM STDIN (FORMAT binary)").await?;
    for chunk in rows {
        copy.send(chunk).await?;
    }
    copy.finish().await?;
    let seconds = begun.elapsed().as_secs_f64();
    Ok(Figures::new()
        .with("rows_per_second", approximate(count) / seconds)
        .with("seconds", seconds)
        .count("bytes", bytes)
        .count("n", count)
        .cpu(&per_thousand(&before, &processes.cpu(), count)))
}

/// The rules, with accounts in memory, and a task that appends one batch while the next is decided.
struct Store {
    batches: mpsc::Sender<Vec<Record>>,
    appending: JoinHandle<Result<()>>,
    /// Where the log ends once everything that was decided is appended.
    head: Head,
    accounts: HashMap<AccountId, Option<Account>>,
    records: Vec<Record>,
    issuer: Issuer,
    assets: Assets,
    random: fastrand::Rng,
    envelope: Bytes,
}

impl Store {
    fn new(writer: Writer) -> Result<Self> {
        let (batches, waiting) = mpsc::channel(1);
        Ok(Store {
            head: writer.head().clone(),
            batches,
            appending: tokio::spawn(append(writer, waiting)),
            accounts: HashMap::new(),
            records: Vec::with_capacity(BATCH),
            issuer: Issuer::new("backend")?,
            assets: Assets::with([])?,
            random: fastrand::Rng::with_seed(7),
            envelope: vec![b'x'; ENVELOPE_BYTES].into(),
        })
    }

    async fn open_accounts(&mut self, accounts: usize) -> Result<()> {
        for account in 0..accounts {
            self.decide(Verb::OpenAccount, account, Uuid::now_v7(), "{}").await?;
            let body = format!(r#"{{"amount":"{}"}}"#, decimal(FUNDS));
            self.decide(Verb::TopUp, account, Uuid::now_v7(), &body).await?;
        }
        self.append().await
    }

    /// Lives lives until `commands` were decided, and waits until all are appended.
    async fn live(mut self, commands: usize, accounts: usize) -> Result<usize> {
        let (pick, mut books, mut done) = (Pick::zipf(accounts), crate::workload::Books::default(), 0);
        while done < commands {
            let mut life = Life::new(&pick, &mut self.random);
            loop {
                let asked = life.asks();
                let id = if asked.verb == Verb::Reserve { life.hold } else { Uuid::now_v7() };
                self.decide(asked.verb, life.account, id, &asked.body).await?;
                done += 1;
                if !life.advance(&mut books) {
                    break;
                }
            }
        }
        self.append().await?;
        drop(self.batches);
        self.appending.await??;
        Ok(done)
    }

    async fn decide(&mut self, verb: Verb, account: usize, id: Uuid, body: &str) -> Result<()> {
        let intent = Intent::parse(verb, body.as_bytes(), &self.issuer, id);
        let intent = intent.map_err(|refusal| anyhow::anyhow!("{}", refusal.detail()))?;
        let now = Timestamp::from_micros(self.head.lane_time.micros() + 1);
        let expires_at = now.plus_millis(60_000);
        let (issuer, account) = (self.issuer.clone(), AccountId::new(&name(account))?);
        let command = Command { issuer, id, account, expires_at, intent };
        let state = self.accounts.entry(command.account.clone()).or_default();
        let context = Now { now, assets: &self.assets, references: &References::default() };
        let fact = match decide(state.as_ref(), &command, &context) {
            Ok(Decision::Record(fact)) => fact,
            other => bail!("{other:?}"),
        };
        let (posted, held) = balances_after(state.as_ref(), &fact);
        let asset = state.as_ref().map(|account| account.asset).or_else(|| self.assets.find("USD"));
        let head = &self.head;
        let last = self.records.last();
        let event = Event {
            position: last.map_or(head.position, |record| record.event.position).next(),
            time: now,
            issuer: command.issuer,
            command: id,
            account: command.account,
            asset,
            posted,
            held,
            fact,
        };
        evolve(state, &event)?;
        let previous = last.map_or(&head.hash, |record| &record.hash);
        let link = Link { partition: head.partition, epoch: head.epoch, previous };
        let print = fingerprint(verb.as_str(), event.account.as_str(), body.as_bytes());
        let record = Record::chained(link, event, print, now, self.envelope.clone());
        self.records.push(record);
        if self.records.len() == BATCH { self.append().await } else { Ok(()) }
    }

    async fn append(&mut self) -> Result<()> {
        let Some(last) = self.records.last() else { return Ok(()) };
        let (position, hash, lane_time) = (last.event.position, last.hash, last.event.time);
        self.head = Head { position, hash, lane_time, ..self.head.clone() };
        let batch = std::mem::replace(&mut self.records, Vec::with_capacity(BATCH));
        if self.batches.send(batch).await.is_err() {
            (&mut self.appending).await??;
        }
        // As in the lane: one batch is decided while another is appended, and no third.
        self.batches.reserve().await.context("appending has ended")?;
        Ok(())
    }
}

async fn append(mut writer: Writer, mut batches: mpsc::Receiver<Vec<Record>>) -> Result<()> {
    while let Some(records) = batches.recv().await {
        writer.append(&records, &Vec::new(), Applied::default()).await.context("appending")?;
    }
    Ok(())
}
