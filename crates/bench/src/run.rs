//! The run: each measure in turn on one deployment, then the proof.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result};
use holdfast_audit::verify;
use holdfast_store::head;
use serde_json::json;
use sqlx::Row as _;

use crate::bulk::Batch;
use crate::commands::Bus;
use crate::curves::Curves;
use crate::deployment::{Deployment, PARTITION};
use crate::load::{Done, Driver, Load};
use crate::processes::{backends, per_thousand, resident_bytes};
use crate::report::{Figures, Report};
use crate::settings::{Measure, Size};
use crate::workload::{Balance, Books, Pick};
use crate::{bulk, drain, floor, http, latency, machine, memory, naive, replaying, takeover};

/// Lives at once in `bus`: enough that batches form, few enough that a command waits for tens of
/// milliseconds only.
const AT_ONCE: usize = 2_000;

/// What to run.
pub struct Options {
    /// How much.
    pub size: Size,
    /// Which measures.
    pub only: Vec<Measure>,
    /// Where the servers keep their data.
    pub folder: PathBuf,
    /// The `holdfast` that is measured.
    pub program: PathBuf,
    /// The internal token that it is given.
    pub token: String,
    /// The seed of the workload.
    pub seed: u64,
}

/// Runs the measures. `progress` hears what is being done.
pub async fn run(options: Options, progress: impl FnMut(&str)) -> Result<Report> {
    let deployment =
        Deployment::start(options.folder.clone(), options.program.clone(), options.token.clone()).await?;
    let random = fastrand::Rng::with_seed(options.seed);
    let (books, report) = (Books::default(), Report::default());
    let mut run = Run { options, deployment, books, random, bus: None, report, progress };
    let measured = run.measures().await;
    let report = match measured {
        Ok(()) => run.prove().await,
        Err(error) => Err(error),
    };
    run.deployment.stop().await?;
    report?;
    Ok(run.report)
}

/// Figures by the length of the log in events.
type Points = Vec<(usize, f64)>;

struct Run<P> {
    options: Options,
    deployment: Deployment,
    books: Books,
    random: fastrand::Rng,
    bus: Option<Bus>,
    report: Report,
    progress: P,
}

impl<P: FnMut(&str)> Run<P> {
    fn wants(&self, any: &[Measure]) -> bool {
        any.iter().any(|measure| self.options.only.contains(measure))
    }

    fn keep(&mut self, measure: Measure, figures: Figures) {
        self.report.figures.insert(measure, figures);
    }

    async fn begin(&mut self, measure: Measure) -> Result<()> {
        (self.progress)(&format!("{measure}: {}", measure.about()));
        self.deployment.settle().await
    }

    async fn measures(&mut self) -> Result<()> {
        use Measure::{Bulk, Bus, Floor, Hot, Http, Latency, Memory, Naive, Scale, Store, Takeover, Uniform};
        self.describe().await?;
        (self.progress)("using the database's memory and write-ahead log once");
        self.deployment.warm(self.options.size.warmed_pages()).await?;
        if self.wants(&[Naive]) {
            self.begin(Naive).await?;
            let figures = naive::measure(&self.deployment, self.options.size).await?;
            self.keep(Naive, figures);
        }
        if self.wants(&[Store, Floor]) {
            self.stored().await?;
        }
        // Everything else needs a log to look at; `bus` is how it comes to be.
        self.open().await?;
        let (accounts, hot) = (self.options.size.accounts(), self.options.size.accounts());
        for (measure, pick) in
            [(Bus, Pick::zipf(accounts)), (Uniform, Pick::Uniform(accounts)), (Hot, Pick::One(hot))]
        {
            if self.wants(&[measure]) {
                self.bus(measure, &pick).await?;
            }
        }
        if self.wants(&[Bulk]) {
            self.bulk().await?;
        }
        if self.wants(&[Latency]) {
            self.begin(Latency).await?;
            let rate = self.report.figures.get(&Bus).and_then(|bus| bus.number("commands_per_second"));
            let bus = self.bus.as_mut().context("opened")?;
            let figures =
                latency::measure(bus, &mut self.books, &mut self.random, self.options.size, rate).await?;
            self.keep(Latency, figures);
        }
        if self.wants(&[Http]) {
            self.begin(Http).await?;
            let figures = http::measure(&self.deployment, &mut self.books, self.options.size).await?;
            self.keep(Http, figures);
        }
        if self.wants(&[Scale]) {
            self.scale().await?;
        }
        if self.wants(&[Takeover, Memory]) {
            self.crowd().await?;
        }
        if self.wants(&[Bus]) {
            self.bus_with_random_ids().await?;
        }
        self.drains().await
    }

    async fn describe(&mut self) -> Result<()> {
        (self.progress)("asking the machine and the servers what they are");
        self.report.machine = machine::machine();
        let mut connection = self.deployment.connection().await?;
        let mut settings = machine::settings(&self.deployment.stack, &mut connection).await?;
        let size = self.options.size;
        let nats = holdfast_engine::bus::connect(&self.deployment.stack.nats.url("ledger"), "holdfast bench")
            .await?;
        let more = json!({
            "nats_version": nats.server_info().version,
            "ids": "UUID version 7",
            "size": match size { Size::Quick => "quick", Size::Full => "full" },
            "seed": self.options.seed,
            "warmed_pages": size.warmed_pages(),
            "accounts": size.accounts(),
            "at_once": AT_ONCE,
            "n": size.bus_commands(),
            "mix": "of 100 holds 3 are refused, 10 released, 10 captured in two parts, 77 at once; 3 of 100 reserves are sent twice",
        });
        if let (Some(settings), Some(more)) = (settings.as_object_mut(), more.as_object()) {
            settings.extend(more.clone());
        }
        self.report.settings = settings;
        Ok(())
    }

    async fn stored(&mut self) -> Result<()> {
        self.begin(Measure::Store).await?;
        let figures = floor::store(&self.deployment, self.options.size).await?;
        self.keep(Measure::Store, figures);
        self.begin(Measure::Floor).await?;
        let figures = floor::floor(&self.deployment).await?;
        self.keep(Measure::Floor, figures);
        Ok(())
    }

    /// Starts the ledger and opens the accounts that commands are about.
    async fn open(&mut self) -> Result<()> {
        (self.progress)("starting the ledger and opening accounts");
        self.deployment.lead().await?;
        let mut bus = Bus::connect(&self.deployment).await?;
        // One more than the others, which `hot` has to itself.
        let accounts = self.options.size.accounts() + 1;
        bulk::open_accounts(&mut bus, &mut self.books, 0..accounts).await?;
        self.bus = Some(bus);
        self.deployment.caught_up().await?;
        Ok(())
    }

    async fn bus(&mut self, measure: Measure, pick: &Pick) -> Result<()> {
        self.begin(measure).await?;
        let size = self.options.size;
        let commands = if measure == Measure::Bus { size.bus_commands() } else { size.compared_commands() };
        let mut figures = self.load(pick, commands, false).await?;
        if measure == Measure::Bus {
            let each = self.bus_message_each(pick).await?;
            figures = figures.detail("message_each", json!(each.all()));
        }
        self.keep(measure, figures);
        Ok(())
    }

    /// `bus` with a message for each command: what clients do that do not bundle, and many instances with a
    /// caller each.
    async fn bus_message_each(&mut self, pick: &Pick) -> Result<Figures> {
        (self.progress)("bus with a message for each command");
        self.deployment.settle().await?;
        self.bus.as_mut().context("opened")?.bundles = false;
        let figures = self.load(pick, self.options.size.compared_commands(), false).await?;
        self.bus.as_mut().context("opened")?.bundles = true;
        Ok(figures)
    }

    /// `bus` with random ids. After everything that ids in their order are measured by, since an index
    /// that has seen both favours neither.
    async fn bus_with_random_ids(&mut self) -> Result<()> {
        (self.progress)("bus with ids of version 4");
        self.deployment.settle().await?;
        let size = self.options.size;
        let random = self.load(&Pick::zipf(size.accounts()), size.compared_commands(), true).await?;
        let figures = self.report.figures.entry(Measure::Bus).or_default();
        *figures = std::mem::take(figures).detail("uuid_v4", json!(random.all()));
        Ok(())
    }

    /// Commands through the bus until projector and relay have caught up.
    async fn load(&mut self, pick: &Pick, commands: usize, random_ids: bool) -> Result<Figures> {
        let bus = self.bus.as_mut().context("opened")?;
        let processes = self.deployment.processes();
        let mut observer = self.deployment.connection().await?;
        let mut before = processes.cpu();
        before.extend(backends(&mut observer).await?);
        let load = Load { commands, at_once: AT_ONCE, pick, random_ids };
        let mut done = Driver::new(bus, &mut self.books, &mut self.random).run(load).await?;
        let lag = self.deployment.caught_up().await?;
        let outcomes = done.elapsed;
        // Whoever lags behind has not kept pace: its time counts.
        done.elapsed += lag;
        let mut after = processes.cpu();
        after.extend(backends(&mut observer).await?);
        let cpu = per_thousand(&before, &after, done.commands);
        Ok(figures(&mut done)
            .with("outcomes_seconds", outcomes.as_secs_f64())
            .with("lag_seconds", lag.as_secs_f64())
            .cpu(&cpu))
    }

    async fn bulk(&mut self) -> Result<()> {
        self.begin(Measure::Bulk).await?;
        let (size, processes) = (self.options.size, self.deployment.processes());
        let bus = self.bus.as_mut().context("opened")?;
        let mut observer = self.deployment.connection().await?;
        let mut before = processes.cpu();
        before.extend(backends(&mut observer).await?);
        let pick = Pick::zipf(size.accounts());
        let done =
            bulk::lives(bus, &mut self.books, &mut self.random, Batch::of(size.bulk_commands()), &pick)
                .await?;
        let mut after = processes.cpu();
        after.extend(backends(&mut observer).await?);
        let resident = processes.ledger.and_then(resident_bytes).unwrap_or(0);
        let lag = self.deployment.caught_up().await?;
        let figures = Figures::new()
            .with("commands_per_second", done.per_second())
            .with("seconds", done.elapsed.as_secs_f64())
            .with("drain_seconds", lag.as_secs_f64())
            .count("ledger_resident_bytes", usize::try_from(resident)?)
            .count("n", done.commands)
            .count("commands_per_batch", bulk::MEMBERS)
            .cpu(&per_thousand(&before, &after, done.commands));
        self.keep(Measure::Bulk, figures);
        Ok(())
    }

    async fn scale(&mut self) -> Result<()> {
        self.begin(Measure::Scale).await?;
        // First, since everything else makes the log longer.
        let (points, takeovers) = self.by_log_length().await?;
        let bus = self.report.figures.get(&Measure::Bus).and_then(|bus| bus.number("commands_per_second"));
        let mut curves = Curves {
            deployment: &self.deployment,
            bus: self.bus.as_mut().context("opened")?,
            books: &mut self.books,
            random: &mut self.random,
            size: self.options.size,
            at_once: AT_ONCE,
        };
        (self.progress)("scale: by accounts");
        let by_accounts = curves.by_accounts().await?;
        (self.progress)("scale: by the size of a batch");
        let by_batch = curves.by_batch().await?;
        (self.progress)("scale: by the offered load");
        let bus = match bus {
            Some(bus) => bus,
            None => curves.pace_of_all().await?,
        };
        let by_load = curves.by_load(bus).await?;
        let rate = |point: Option<&(usize, f64)>| point.map_or(0.0, |(_, rate)| *rate);
        let figures = Figures::new()
            .with("commands_per_second", rate(points.last()))
            .with("last_over_first", rate(points.last()) / rate(points.first()))
            .detail("by_accounts", by_accounts)
            .detail("by_batch", by_batch)
            .detail("by_load", by_load)
            .detail("by_log_events", json!(points))
            .detail("takeover_seconds_by_log_events", json!(takeovers));
        self.keep(Measure::Scale, figures);
        Ok(())
    }

    /// The pace of the bus now, and when the log has become so long; and how long a take-over takes then.
    async fn by_log_length(&mut self) -> Result<(Points, Points)> {
        let pick = Pick::zipf(self.options.size.accounts());
        let mut points = vec![self.point(&pick).await?];
        let mut takeovers = vec![self.take_over().await?];
        for events in self.options.size.scale_events() {
            let missing = events.saturating_sub(self.events().await?);
            (self.progress)(&format!("scale: {missing} more events, up to {events}"));
            let bus = self.bus.as_mut().context("opened")?;
            bulk::lives(bus, &mut self.books, &mut self.random, Batch::of(missing), &pick).await?;
            self.deployment.caught_up().await?;
            points.push(self.point(&pick).await?);
            takeovers.push(self.take_over().await?);
        }
        Ok((points, takeovers))
    }

    /// The length of the log, and how long a take-over takes with it.
    async fn take_over(&mut self) -> Result<(usize, f64)> {
        let events = self.events().await?;
        let bus = self.bus.as_mut().context("opened")?;
        let figures = takeover::measure(&mut self.deployment, bus, &mut self.books).await?;
        Ok((events, figures.number("seconds").unwrap_or(0.0)))
    }

    /// The length of the log, and the pace of the bus there.
    async fn point(&mut self, pick: &Pick) -> Result<(usize, f64)> {
        let events = self.events().await?;
        self.deployment.settle().await?;
        let figures = self.load(pick, self.options.size.bus_commands(), false).await?;
        Ok((events, figures.number("commands_per_second").unwrap_or(0.0)))
    }

    async fn events(&self) -> Result<usize> {
        let head = head::read(&mut self.deployment.connection().await?, PARTITION).await?;
        Ok(usize::try_from(head.position.0)?)
    }

    /// Many accounts in memory, and a crash with all of them.
    async fn crowd(&mut self) -> Result<()> {
        (self.progress)("opening many accounts and holds");
        let (size, first) = (self.options.size, self.books.accounts());
        let bus = self.bus.as_mut().context("opened")?;
        bulk::open_accounts(bus, &mut self.books, first..size.accounts_in_memory()).await?;
        let holds = first..(first + size.open_holds()).min(size.accounts_in_memory());
        Driver::new(bus, &mut self.books, &mut self.random).open_holds(holds, AT_ONCE).await?;
        self.deployment.caught_up().await?;
        self.begin(Measure::Memory).await?;
        let figures = memory::measure(&self.deployment, size.accounts_in_memory())?;
        self.keep(Measure::Memory, figures);
        self.begin(Measure::Takeover).await?;
        let bus = self.bus.as_mut().context("opened")?;
        let at_ease = takeover::measure(&mut self.deployment, bus, &mut self.books).await?;
        let (burst, pick) = (Batch::of(size.burst_commands()), Pick::zipf(size.accounts()));
        bulk::lives(bus, &mut self.books, &mut self.random, burst, &pick).await?;
        let after_burst = takeover::measure(&mut self.deployment, bus, &mut self.books).await?;
        self.keep(Measure::Takeover, at_ease.detail("after_burst", json!(after_burst.all())));
        Ok(())
    }

    async fn drains(&mut self) -> Result<()> {
        use Measure::{Projector, Relay, Replay};
        self.deployment.caught_up().await?;
        self.deployment.kill().await?;
        if self.wants(&[Projector]) {
            self.begin(Projector).await?;
            let figures = drain::projector(&self.deployment).await?;
            self.keep(Projector, figures);
        }
        if self.wants(&[Relay]) {
            self.begin(Relay).await?;
            let figures = drain::relay(&self.deployment).await?;
            self.keep(Relay, figures);
        }
        if self.wants(&[Replay]) {
            self.begin(Replay).await?;
            let figures = replaying::measure(&self.deployment).await?;
            self.keep(Replay, figures);
        }
        Ok(())
    }

    /// `verify`, and every balance against the generator's own books.
    async fn prove(&mut self) -> Result<()> {
        (self.progress)("verifying the log and comparing every balance");
        let connection = self.deployment.connection().await?;
        let report = verify::verify(connection, PARTITION, verify::Options::default(), |_, _| {}).await?;
        let mut connection = self.deployment.connection().await?;
        let findings =
            report.findings.iter().map(|finding| format!("{}: {}", finding.check, finding.problem));
        self.report.problems.extend(findings);
        let rows =
            sqlx::query("SELECT convert_from(account, 'UTF8') AS name, posted, held FROM projection.account")
                .fetch_all(&mut connection)
                .await?;
        let mut ledger = BTreeMap::new();
        for row in rows {
            let balance = Balance { posted: row.try_get("posted")?, held: row.try_get("held")? };
            ledger.insert(row.try_get::<String, _>("name")?, balance);
        }
        for (name, own) in self.books.all() {
            if ledger.get(&name) != Some(&own) {
                let theirs = ledger.get(&name);
                self.report.problems.push(format!("{name} has {theirs:?}, by the generator's books {own:?}"));
            }
        }
        self.report.problems.truncate(10);
        Ok(())
    }
}

fn figures(done: &mut Done) -> Figures {
    Figures::new()
        .with("commands_per_second", done.per_second())
        .with("seconds", done.elapsed.as_secs_f64())
        .with("p50_ms", done.percentile_ms(0.50))
        .with("p99_ms", done.percentile_ms(0.99))
        .count("n", done.commands)
        .count("rejected", done.rejected)
        .count("repeats", done.repeats)
}
