//! From kill -9 to the first outcome of the next process.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use holdfast_core::Verb;
use holdfast_projector::load;
use holdfast_store::head;
use uuid::Uuid;

use crate::commands::Bus;
use crate::deployment::{Deployment, PARTITION};
use crate::report::Figures;
use crate::workload::{Books, decimal, name};

const WITHIN: Duration = Duration::from_secs(60);

/// Kills the ledger, starts another, and waits for the outcome of a command sent in between. `tail_events`
/// of `log_events` were not in the projections, so the next process had to fold them.
pub(crate) async fn measure(
    deployment: &mut Deployment,
    bus: &mut Bus,
    books: &mut Books,
) -> Result<Figures> {
    let amount = 1_000;
    let body = format!(r#"{{"amount":"{}"}}"#, decimal(amount));
    let account = books.accounts() - 1;
    let id = Uuid::now_v7();
    let begun = Instant::now();
    deployment.kill().await?;
    let mut connection = deployment.connection().await?;
    let events = head::read(&mut connection, PARTITION).await?.position;
    let projected = load::checkpoint(&mut connection, PARTITION).await?;
    bus.publish(bus.sign(id, Verb::TopUp, &name(account), body)?).await?;
    deployment.lead().await?;
    loop {
        let told = bus.outcomes(WITHIN).await?.context("no outcome after the take-over")?;
        if told.iter().any(|told| told.id == id && told.code.is_none()) {
            break;
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    books.balance(account).posted += amount;
    Ok(Figures::new()
        .with("seconds", seconds)
        .count("log_events", usize::try_from(events.0)?)
        .count("tail_events", usize::try_from(events.0 - projected.0)?))
}
