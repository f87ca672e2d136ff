//! Closed-loop load: so many lives at once, each waiting for its outcome before it asks again.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use holdfast_core::{CommandId, Verb};
use holdfast_protocol::bundle::Outgoing;
use holdfast_store::Map;

use crate::commands::{Bus, Told};
use crate::workload::{Books, FUNDS, Life, Pick, name, new_id};

/// Without any outcome for this long, everything that waits is published again, as a client would.
const STALLED: Duration = Duration::from_secs(5);
/// After so many such rounds in a row, the ledger is taken to be gone.
const STALLED_MAX: u32 = 12;
/// Of 100 reserves, so many are sent a second time once their outcome is known.
const REPEATED_PERCENT: u8 = 3;

/// What to do.
pub(crate) struct Load<'a> {
    /// How many commands, about.
    pub(crate) commands: usize,
    /// How many lives at once.
    pub(crate) at_once: usize,
    pub(crate) pick: &'a Pick,
    /// Whether holds have ids of version 4 instead of 7.
    pub(crate) random_ids: bool,
}

/// What was done.
#[derive(Debug, Default)]
pub(crate) struct Done {
    pub(crate) commands: usize,
    pub(crate) elapsed: Duration,
    pub(crate) rejected: usize,
    pub(crate) repeats: usize,
    /// From publish to outcome, in microseconds.
    pub(crate) latencies: Vec<u64>,
}

impl Done {
    pub(crate) fn per_second(&self) -> f64 {
        crate::processes::approximate(self.commands) / self.elapsed.as_secs_f64()
    }

    /// The latency that `share` of the commands did not exceed, in milliseconds.
    pub(crate) fn percentile_ms(&mut self, share: f64) -> f64 {
        self.latencies.sort_unstable();
        let last = self.latencies.len().saturating_sub(1);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of an index")]
        let index = (crate::processes::approximate(last) * share).round() as usize;
        let micros = self.latencies.get(index).copied().unwrap_or(0);
        Duration::from_micros(micros).as_secs_f64() * 1_000.0
    }
}

/// A command that waits for its outcome.
struct Waiting {
    life: Option<Life>,
    command: Outgoing,
    since: Instant,
    repeat: bool,
}

/// The generator at work.
pub(crate) struct Driver<'a> {
    bus: &'a mut Bus,
    books: &'a mut Books,
    random: &'a mut fastrand::Rng,
    waiting: Map<CommandId, Waiting>,
    /// In open loop, lives whose next command waits for its time.
    ready: Option<VecDeque<Life>>,
    done: Done,
}

impl<'a> Driver<'a> {
    pub(crate) fn new(bus: &'a mut Bus, books: &'a mut Books, random: &'a mut fastrand::Rng) -> Self {
        Driver { bus, books, random, waiting: Map::default(), ready: None, done: Done::default() }
    }

    /// Lives lives until `load.commands` were sent and all are answered.
    pub(crate) async fn run(mut self, load: Load<'_>) -> Result<Done> {
        let begun = Instant::now();
        while self.done.commands < load.commands || !self.waiting.is_empty() {
            while self.waiting.len() < load.at_once && self.sent() < load.commands {
                let life = Life::new(load.pick, self.random);
                let life = if load.random_ids { life.with_random_id() } else { life };
                self.send(life).await?;
            }
            self.receive().await?;
        }
        self.done.elapsed = begun.elapsed();
        Ok(self.done)
    }

    /// Sends at a fixed rate whatever comes back. Latency counts from when a command was due, not from
    /// when there was time to send it: a ledger that stands still must not look fast.
    pub(crate) async fn run_open(mut self, per_second: f64, seconds: usize, pick: &Pick) -> Result<Done> {
        self.ready = Some(VecDeque::new());
        let interval = Duration::from_secs_f64(1.0 / per_second);
        let (begun, length) = (Instant::now(), Duration::from_secs(seconds as u64));
        let mut due = begun;
        while due.duration_since(begun) < length {
            while due <= Instant::now() {
                let ready = self.ready.as_mut().and_then(VecDeque::pop_front);
                let life = ready.unwrap_or_else(|| Life::new(pick, self.random));
                self.send_since(life, due).await?;
                due += interval;
            }
            if let Some(told) = self.bus.outcomes(due.saturating_duration_since(Instant::now())).await? {
                self.take_all(told).await?;
            }
        }
        let offered = begun.elapsed();
        while !self.waiting.is_empty() {
            self.receive().await?;
        }
        let mut done = std::mem::take(&mut self.done);
        done.elapsed = offered;
        // What has begun is brought to its end, so that the books close.
        for life in self.ready.take().into_iter().flatten() {
            self.send(life).await?;
        }
        while !self.waiting.is_empty() {
            self.receive().await?;
        }
        Ok(done)
    }

    /// Opens a hold on each of `accounts` and leaves it open.
    pub(crate) async fn open_holds(
        mut self,
        accounts: impl Iterator<Item = usize>,
        at_once: usize,
    ) -> Result<Done> {
        let begun = Instant::now();
        let mut accounts = accounts.peekable();
        while accounts.peek().is_some() || !self.waiting.is_empty() {
            while self.waiting.len() < at_once {
                let Some(account) = accounts.next() else { break };
                self.send_and_leave(Life::open(account, FUNDS / 1_000)).await?;
            }
            self.receive().await?;
        }
        self.done.elapsed = begun.elapsed();
        Ok(self.done)
    }

    fn sent(&self) -> usize {
        self.done.commands + self.waiting.len()
    }

    async fn send_and_leave(&mut self, mut life: Life) -> Result<()> {
        let (hold, asked) = (life.hold, life.asks());
        let command = self.bus.sign(hold, asked.verb, &name(life.account), asked.body)?;
        life.advance(self.books);
        let waiting = Waiting { life: None, command, since: Instant::now(), repeat: false };
        self.wait(hold, waiting).await
    }

    async fn send(&mut self, life: Life) -> Result<()> {
        self.send_since(life, Instant::now()).await
    }

    async fn send_since(&mut self, life: Life, since: Instant) -> Result<()> {
        let asked = life.asks();
        let id = if asked.verb == Verb::Reserve { life.hold } else { new_id(self.random) };
        let command = self.bus.sign(id, asked.verb, &name(life.account), asked.body)?;
        self.wait(id, Waiting { life: Some(life), command, since, repeat: false }).await
    }

    async fn wait(&mut self, id: CommandId, waiting: Waiting) -> Result<()> {
        self.bus.send(waiting.command.clone()).await?;
        self.waiting.insert(id, waiting);
        Ok(())
    }

    /// Takes what has come, waiting for the first.
    async fn receive(&mut self) -> Result<()> {
        let mut stalled = 0;
        let told = loop {
            if let Some(told) = self.bus.outcomes(STALLED).await? {
                break told;
            }
            stalled += 1;
            ensure!(stalled < STALLED_MAX, "no outcomes for {stalled} rounds; the ledger is gone");
            for waiting in self.waiting.values() {
                self.bus.publish(waiting.command.clone()).await?;
            }
        };
        self.take_all(told).await
    }

    /// Takes these outcomes and all that have come meanwhile.
    async fn take_all(&mut self, mut told: Vec<Told>) -> Result<()> {
        loop {
            for outcome in &told {
                self.take(outcome).await?;
            }
            match self.bus.waiting()? {
                Some(more) => told = more,
                None => return Ok(()),
            }
        }
    }

    async fn take(&mut self, told: &Told) -> Result<()> {
        // An outcome may come twice when a command was published twice.
        let Some(waiting) = self.waiting.remove(&told.id) else { return Ok(()) };
        self.done.commands += 1;
        self.done.rejected += usize::from(told.kind == "rejected");
        self.done.latencies.push(u64::try_from(waiting.since.elapsed().as_micros()).unwrap_or(u64::MAX));
        if waiting.repeat {
            self.done.repeats += 1;
            ensure!(told.replayed, "a repeat of {} was carried out again", told.id);
        }
        let Some(mut life) = waiting.life else {
            let fine = waiting.repeat || told.kind == "reserved";
            ensure!(fine, "{} was {} ({:?})", told.id, told.kind, told.code);
            return Ok(());
        };
        ensure!(
            told.kind == life.expects(),
            "{} was {} ({:?}), not {}",
            told.id,
            told.kind,
            told.code,
            life.expects()
        );
        let reserve = told.id == life.hold;
        if life.advance(self.books) {
            match &mut self.ready {
                Some(ready) => ready.push_back(life),
                None => self.send(life).await?,
            }
        }
        if reserve && self.ready.is_none() && self.random.u8(..100) < REPEATED_PERCENT {
            let (command, since) = (waiting.command, Instant::now());
            self.wait(told.id, Waiting { life: None, command, since, repeat: true }).await?;
        }
        Ok(())
    }
}
