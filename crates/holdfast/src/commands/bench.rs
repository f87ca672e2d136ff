//! `bench`: how fast the ledger is on this machine, beside what this machine can do at all.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use holdfast_bench::{Measure, Options, Report, Size};
use holdfast_testkit::identity;
use indicatif::{ProgressBar, ProgressStyle};

use super::{Exit, token};
use crate::output::{self, Output};

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// A few seconds of each, 90 s in all; the default.
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// As many commands as docs/performance.md states: up to an hour.
    #[arg(long)]
    full: bool,
    /// Only these measures, separated by commas.
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    only: Vec<Measure>,
    /// Folder for the servers' data, removed at the end; one of its own unless given.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Folder to write plots to, as SVG.
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
    /// Seed of the workload.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

pub(crate) async fn run(args: BenchArgs, output: Output) -> Result<Exit> {
    let size = if args.full { Size::Full } else { Size::Quick };
    let wanted = args
        .data
        .clone()
        .unwrap_or_else(|| std::env::temp_dir().join(format!("holdfast-bench-{}", std::process::id())));
    let folder = identity::reachable_data(&wanted, args.data.is_some())?;
    let only = if args.only.is_empty() { size.measures() } else { args.only };
    let program = std::env::current_exe().context("finding this program")?;
    let options =
        Options { size, only, folder: folder.clone(), program, token: token::new()?, seed: args.seed };
    let bar = ProgressBar::new_spinner();
    bar.set_style(
        ProgressStyle::with_template("{elapsed_precise} {spinner} {msg}").context("a valid template")?,
    );
    bar.enable_steady_tick(Duration::from_millis(250));
    let report = holdfast_bench::run(options, |doing| bar.set_message(doing.to_owned())).await;
    bar.finish_and_clear();
    std::fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
    let report = report?;
    if let Some(plots) = &args.plots {
        std::fs::create_dir_all(plots)?;
        for (name, svg) in holdfast_bench::plots(&report) {
            std::fs::write(plots.join(name), svg)?;
        }
    }
    match output {
        Output::Json => output::json(&report.to_json())?,
        Output::Table => output::text(&table(&report))?,
    }
    Ok(if report.problems.is_empty() { Exit::Fine } else { Exit::Failed })
}

/// The figures for people.
fn table(report: &Report) -> String {
    let mut table = output::table(&["", "per second", "p50 ms", "p99 ms", "seconds", "n", "what"]);
    let number = |figures: &holdfast_bench::Figures, names: &[&str]| {
        let found = names.iter().find_map(|name| figures.number(name));
        found.map_or_else(String::new, |number| format!("{number:.2}"))
    };
    for (measure, figures) in &report.figures {
        table.add_row([
            measure.to_string(),
            number(figures, &["commands_per_second", "rows_per_second", "events_per_second"]),
            number(figures, &["p50_ms"]),
            number(figures, &["p99_ms"]),
            number(figures, &["seconds"]),
            figures.number("n").map_or_else(String::new, |n| n.to_string()),
            measure.about().to_owned(),
        ]);
    }
    let mut cpu = output::table(&["CPU seconds per 1,000", "generator", "ledger", "nats", "postgres"]);
    for (measure, figures) in &report.figures {
        let Some(used) = figures.all().get("cpu_seconds_per_1000") else { continue };
        let cell =
            |name: &str| used[name].as_f64().map_or_else(String::new, |seconds| format!("{seconds:.4}"));
        cpu.add_row([measure.to_string(), cell("generator"), cell("ledger"), cell("nats"), cell("postgres")]);
    }
    let mut ratios = output::table(&["ratio", ""]);
    for (name, ratio) in report.ratios() {
        ratios.add_row([name.to_owned(), format!("{ratio:.3}")]);
    }
    let machine = |name: &str| report.machine[name].to_string();
    format!(
        "{} cores of {}, {}; fsync {} µs; everything on this machine\n\n{table}\n\n{cpu}\n\n{ratios}\n\nverify: {}",
        machine("cores"),
        machine("cpu"),
        machine("memory"),
        report.settings["fsync_microseconds"],
        report.verdict()
    )
}
