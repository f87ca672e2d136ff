//! `replay`: the whole log folded again, beside a COPY of the same rows that does nothing with them.

use std::time::Instant;

use anyhow::Result;
use futures_util::StreamExt;
use holdfast_audit::replay::replay;

use crate::deployment::{Deployment, PARTITION};
use crate::processes::{approximate, per_thousand};
use crate::report::Figures;

pub(crate) async fn measure(deployment: &Deployment) -> Result<Figures> {
    let mut connection = deployment.connection().await?;
    let begun = Instant::now();
    let mut bytes = 0;
    let mut chunks = connection
        .copy_out_raw(
            "COPY (SELECT * FROM ledger_event ORDER BY partition, position) TO STDOUT (FORMAT binary)",
        )
        .await?;
    while let Some(chunk) = chunks.next().await {
        bytes += chunk?.len();
    }
    drop(chunks);
    let copied = begun.elapsed().as_secs_f64();
    let processes = deployment.processes();
    let (before, begun) = (processes.cpu(), Instant::now());
    let (_, folded) = replay(connection, PARTITION, None, |_, _| {}).await?;
    let seconds = begun.elapsed().as_secs_f64();
    let events = usize::try_from(folded.position.0)?;
    Ok(Figures::new()
        .with("events_per_second", approximate(events) / seconds)
        .with("copy_out_rows_per_second", approximate(events) / copied)
        .with("seconds", seconds)
        .count("bytes", bytes)
        .count("n", events)
        .cpu(&per_thousand(&before, &processes.cpu(), events)))
}
