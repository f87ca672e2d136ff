//! What is measured, and how much of it.

use std::fmt;
use std::str::FromStr;

/// One row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "`about` says what each is")]
pub enum Measure {
    Floor,
    Naive,
    Store,
    Bus,
    Uniform,
    Hot,
    Bulk,
    Latency,
    Http,
    Projector,
    Relay,
    Replay,
    Takeover,
    Scale,
    Memory,
}

impl Measure {
    /// Every measure, in the order of the table.
    pub const ALL: [Measure; 15] = [
        Measure::Floor,
        Measure::Naive,
        Measure::Store,
        Measure::Bus,
        Measure::Uniform,
        Measure::Hot,
        Measure::Bulk,
        Measure::Latency,
        Measure::Http,
        Measure::Projector,
        Measure::Relay,
        Measure::Replay,
        Measure::Takeover,
        Measure::Scale,
        Measure::Memory,
    ];

    /// Its name on the command line and in the report.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Measure::Floor => "floor",
            Measure::Naive => "naive",
            Measure::Store => "store",
            Measure::Bus => "bus",
            Measure::Uniform => "uniform",
            Measure::Hot => "hot",
            Measure::Bulk => "bulk",
            Measure::Latency => "latency",
            Measure::Http => "http",
            Measure::Projector => "projector",
            Measure::Relay => "relay",
            Measure::Replay => "replay",
            Measure::Takeover => "takeover",
            Measure::Scale => "scale",
            Measure::Memory => "memory",
        }
    }

    /// What it measures, in one line.
    #[must_use]
    pub fn about(self) -> &'static str {
        match self {
            Measure::Floor => "binary COPY of the same rows into the same table",
            Measure::Naive => "a transaction per command, SELECT FOR UPDATE, 20 connections",
            Measure::Store => "decide and append, no bus",
            Measure::Bus => {
                "single signed commands, bundled as they come, outcome awaited, zipf 1.0, caught up at the end"
            }
            Measure::Uniform => "as bus, accounts uniform",
            Measure::Hot => "as bus, all on one account",
            Measure::Bulk => "as bus, in batch envelopes",
            Measure::Latency => "one caller; then open loop at a third of bus",
            Measure::Http => "the façade, keep-alive",
            Measure::Projector => "draining a backlog into the projections",
            Measure::Relay => "draining a backlog onto the events stream",
            Measure::Replay => "folding the whole log from Postgres",
            Measure::Takeover => "kill -9 until the first outcome",
            Measure::Scale => "bus by accounts, batch size, offered load, and length of the log",
            Measure::Memory => "resident set with accounts in memory",
        }
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names no measure.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is none of {list}", list = Measure::ALL.map(Measure::as_str).join(", "))]
pub struct UnknownMeasure(String);

impl FromStr for Measure {
    type Err = UnknownMeasure;

    fn from_str(text: &str) -> Result<Self, UnknownMeasure> {
        let found = Measure::ALL.into_iter().find(|measure| measure.as_str() == text);
        found.ok_or_else(|| UnknownMeasure(text.to_owned()))
    }
}

/// How much is done: the same code, other counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// Ends within 90 s.
    Quick,
    /// The counts of the table.
    Full,
}

impl Size {
    fn pick(self, quick: usize, full: usize) -> usize {
        match self {
            Size::Quick => quick,
            Size::Full => full,
        }
    }

    /// Pages of 8 KiB that the database has used before anything is measured, about as many as the run needs.
    pub(crate) fn warmed_pages(self) -> i64 {
        match self {
            Size::Quick => 128 * 1024,
            Size::Full => 352 * 1024,
        }
    }

    /// Accounts that commands are about.
    pub(crate) fn accounts(self) -> usize {
        self.pick(100_000, 100_000)
    }

    /// Commands of `bus`.
    pub(crate) fn bus_commands(self) -> usize {
        self.pick(120_000, 1_000_000)
    }

    /// Commands of `uniform`, of `hot`, and of `bus` with a message for each or with random ids, each.
    pub(crate) fn compared_commands(self) -> usize {
        self.pick(40_000, 1_000_000)
    }

    /// Commands of `store`, whose rows `floor` copies.
    pub(crate) fn store_commands(self) -> usize {
        self.pick(100_000, 500_000)
    }

    /// Transactions of `naive`.
    pub(crate) fn naive_commands(self) -> usize {
        self.pick(12_000, 100_000)
    }

    /// Commands of `bulk`.
    pub(crate) fn bulk_commands(self) -> usize {
        self.pick(200_000, 2_000_000)
    }

    /// Commands of one caller, one at a time.
    pub(crate) fn single_commands(self) -> usize {
        self.pick(1_000, 20_000)
    }

    /// Seconds of open loop.
    pub(crate) fn open_seconds(self) -> usize {
        self.pick(3, 30)
    }

    /// Requests of `http`.
    pub(crate) fn http_requests(self) -> usize {
        self.pick(12_000, 200_000)
    }

    /// Accounts of `takeover` and `memory` in all.
    pub(crate) fn accounts_in_memory(self) -> usize {
        self.pick(120_000, 1_000_000)
    }

    /// Open holds of `takeover`.
    pub(crate) fn open_holds(self) -> usize {
        self.pick(15_000, 100_000)
    }

    /// Commands of the burst before the second kill of `takeover`.
    pub(crate) fn burst_commands(self) -> usize {
        self.pick(100_000, 500_000)
    }

    /// Commands for each point of a curve of `scale`.
    pub(crate) fn curve_commands(self) -> usize {
        self.pick(60_000, 300_000)
    }

    /// Seconds of open loop for each point of a curve of `scale`.
    pub(crate) fn curve_seconds(self) -> usize {
        self.pick(3, 15)
    }

    /// The measures that run unless some are named: `scale` alone takes longer than `--quick` may.
    #[must_use]
    pub fn measures(self) -> Vec<Measure> {
        let all = Measure::ALL.into_iter();
        all.filter(|measure| self == Size::Full || *measure != Measure::Scale).collect()
    }

    /// Log lengths after which `scale` measures again.
    pub(crate) fn scale_events(self) -> &'static [usize] {
        match self {
            Size::Quick => &[500_000, 1_000_000],
            Size::Full => &[1_000_000, 10_000_000],
        }
    }
}
