//! How long one command takes: one caller at a time, then at a fixed rate.

use anyhow::Result;

use crate::commands::Bus;
use crate::load::{Driver, Load};
use crate::report::Figures;
use crate::settings::Size;
use crate::workload::{Books, Pick};

/// The offered load when `bus` did not run, in commands a second.
const RATE_DEFAULT: f64 = 5_000.0;

/// Latency in closed loop with one caller, and in open loop at a third of `bus_per_second`.
pub(crate) async fn measure(
    bus: &mut Bus,
    books: &mut Books,
    random: &mut fastrand::Rng,
    size: Size,
    bus_per_second: Option<f64>,
) -> Result<Figures> {
    let pick = Pick::zipf(size.accounts());
    let load = Load { commands: size.single_commands(), at_once: 1, pick: &pick, random_ids: false };
    let mut single = Driver::new(bus, books, random).run(load).await?;
    let rate = bus_per_second.map_or(RATE_DEFAULT, |rate| rate / 3.0);
    let mut open = Driver::new(bus, books, random).run_open(rate, size.open_seconds(), &pick).await?;
    Ok(Figures::new()
        .with("p50_ms", single.percentile_ms(0.50))
        .with("p99_ms", single.percentile_ms(0.99))
        .count("n", single.commands)
        .with("open_offered_per_second", rate)
        .with("open_p50_ms", open.percentile_ms(0.50))
        .with("open_p99_ms", open.percentile_ms(0.99))
        .count("open_n", open.commands))
}
