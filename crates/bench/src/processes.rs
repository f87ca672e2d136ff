//! The CPU time of each process that takes part, from `/proc`.

use std::collections::BTreeMap;
use std::fs;

use sqlx::PgConnection;

/// Clock ticks a second: 100 on every Linux that this runs on (`getconf CLK_TCK`).
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU seconds used so far, by the name of the part.
pub(crate) type CpuSeconds = BTreeMap<String, f64>;

/// The processes that take part.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Processes {
    pub(crate) ledger: Option<u32>,
    pub(crate) nats: Option<u32>,
    pub(crate) postgres: Option<u32>,
}

impl Processes {
    /// What each has used so far; nothing where there is no `/proc`.
    pub(crate) fn cpu(&self) -> CpuSeconds {
        let mut used = CpuSeconds::new();
        let mut add = |name: &str, stat: Option<Stat>| {
            if let Some(stat) = stat {
                used.insert(name.to_owned(), seconds(stat.own));
            }
        };
        add("generator", Stat::of(std::process::id()));
        add("ledger", self.ledger.and_then(Stat::of));
        add("nats", self.nats.and_then(Stat::of));
        if let Some(postmaster) = self.postgres {
            used.insert("postgres".to_owned(), seconds(family(postmaster)));
        }
        used
    }
}

/// What each kind of the database's processes has used so far, besides the whole: of those that serve
/// the ledger by their names, of the others by what they do.
pub(crate) async fn backends(connection: &mut PgConnection) -> Result<CpuSeconds, sqlx::Error> {
    let rows: Vec<(i32, String)> = sqlx::query_as(
        "SELECT pid, coalesce(nullif(application_name, ''), backend_type) FROM pg_stat_activity",
    )
    .fetch_all(connection)
    .await?;
    let mut used = CpuSeconds::new();
    for (pid, name) in rows {
        if let Some(stat) = u32::try_from(pid).ok().and_then(Stat::of) {
            *used.entry(format!("postgres: {name}")).or_default() += seconds(stat.own);
        }
    }
    Ok(used)
}

/// What was used between two readings, per 1,000 of `count`.
pub(crate) fn per_thousand(before: &CpuSeconds, after: &CpuSeconds, count: usize) -> CpuSeconds {
    let thousands = approximate(count) / 1_000.0;
    let used =
        |(name, used): (&String, &f64)| (name.clone(), (used - before.get(name).unwrap_or(&0.0)) / thousands);
    after.iter().map(used).collect()
}

/// The resident set of a process, in bytes.
pub(crate) fn resident_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Ticks of a server and of all its children, of those that have ended too.
fn family(parent: u32) -> u64 {
    let Some(stat) = Stat::of(parent) else { return 0 };
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let children = pids.filter_map(Stat::of).filter(|child| child.parent == parent);
    stat.own + stat.reaped + children.map(|child| child.own).sum::<u64>()
}

struct Stat {
    parent: u32,
    own: u64,
    reaped: u64,
}

impl Stat {
    fn of(pid: u32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may hold spaces; what follows it does not. See proc_pid_stat(5).
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = |index: usize| fields.get(index)?.parse::<u64>().ok();
        Some(Stat {
            parent: fields.get(1)?.parse().ok()?,
            own: ticks(11)? + ticks(12)?,
            reaped: ticks(13)? + ticks(14)?,
        })
    }
}

fn seconds(ticks: u64) -> f64 {
    approximate(usize::try_from(ticks).unwrap_or(usize::MAX)) / TICKS_PER_SECOND
}

/// Counts as figures are far below 2^52.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn approximate(count: usize) -> f64 {
    count as f64
}
