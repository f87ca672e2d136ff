//! How fast projector and relay work off a backlog: the whole log, with the ledger stopped.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use holdfast_core::Position;
use holdfast_engine::{Health, Relay, bus};
use holdfast_store::head;
use holdfast_store::recent::Recent;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::deployment::{AUDIENCE, Deployment, PARTITION};
use crate::processes::{approximate, per_thousand};
use crate::report::Figures;

const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Events a second into the projections, all of them made anew.
pub(crate) async fn projector(deployment: &Deployment) -> Result<Figures> {
    measured(deployment, async {
        let url = deployment.database_url();
        Box::pin(holdfast_projector::rebuild::rebuild(&url, PARTITION, |_, _| {})).await?;
        Ok(())
    })
    .await
}

/// Events a second onto an empty events stream.
pub(crate) async fn relay(deployment: &Deployment) -> Result<Figures> {
    let client = bus::connect(&deployment.stack.nats.url("ledger"), "holdfast bench relay").await?;
    bus::recreate_events(&client).await?;
    let (committed, watched) = watch::channel(Position::default());
    let relay = Relay {
        database_url: deployment.database_url(),
        partition: PARTITION,
        audience: AUDIENCE.to_owned(),
        client: client.clone(),
        recent: Arc::new(Recent::default()),
        committed: watched,
        health: Arc::new(Health::default()),
    };
    let stop = CancellationToken::new();
    let end = end(deployment).await?;
    let figures = measured(deployment, async {
        let running = tokio::spawn(relay.run(stop.clone()));
        let streams = async_nats::jetstream::new(client);
        while streams
            .get_stream(bus::EVENTS)
            .await
            .context("the events stream")?
            .cached_info()
            .state
            .last_sequence
            < end
        {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        stop.cancel();
        Ok(running.await?)
    })
    .await;
    drop(committed);
    figures
}

async fn end(deployment: &Deployment) -> Result<u64> {
    let head = head::read(&mut deployment.connection().await?, PARTITION).await?;
    Ok(u64::try_from(head.position.0)?)
}

/// The pace at which `work` goes through the whole log.
async fn measured(deployment: &Deployment, work: impl Future<Output = Result<()>>) -> Result<Figures> {
    let (events, processes) = (usize::try_from(end(deployment).await?)?, deployment.processes());
    let (before, begun) = (processes.cpu(), Instant::now());
    work.await?;
    let seconds = begun.elapsed().as_secs_f64();
    Ok(Figures::new()
        .with("events_per_second", approximate(events) / seconds)
        .with("seconds", seconds)
        .count("n", events)
        .cpu(&per_thousand(&before, &processes.cpu(), events)))
}
