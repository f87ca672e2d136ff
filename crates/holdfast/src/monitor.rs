//! What the façade and the services tell of the running ledger.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, connection, jetstream};
use futures_util::future::{BoxFuture, FutureExt};
use holdfast_engine::{Health, bus};
use holdfast_http::{Monitor, QueueStats};
use holdfast_projector::{Progress, queries};
use holdfast_store::head;
use sqlx::PgPool;
use tokio::sync::watch;

use crate::runtime::PARTITION;

/// How long a server may take to answer before it is called unwell.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Asks the parts and the servers.
pub(crate) struct LedgerMonitor {
    pub(crate) health: Arc<Health>,
    pub(crate) pool: PgPool,
    pub(crate) nats: Client,
    pub(crate) projected: Progress,
    /// What is wrong with the projector.
    pub(crate) projector: watch::Receiver<Option<String>>,
}

impl Monitor for LedgerMonitor {
    fn parts(&self) -> BoxFuture<'_, Vec<(String, Option<String>)>> {
        async {
            let mut parts =
                vec![("postgres".to_owned(), self.postgres().await), ("nats".to_owned(), self.bus())];
            parts.push(("projector".to_owned(), self.projector.borrow().clone()));
            parts.extend(self.health.parts().into_iter().map(|(part, problem)| (part.to_owned(), problem)));
            parts
        }
        .boxed()
    }

    fn queue(&self) -> BoxFuture<'_, Result<QueueStats, String>> {
        async {
            let jetstream = jetstream::new(self.nats.clone());
            let stream = tokio::time::timeout(ANSWER_WITHIN, jetstream.get_stream(bus::COMMANDS)).await;
            let stream = stream.map_err(|_| "NATS does not answer")?.map_err(|error| error.to_string())?;
            let info = stream.cached_info();
            let last_sequence = info.state.last_sequence;
            let mut connection = self.pool.acquire().await.map_err(|error| error.to_string())?;
            let head = head::read(&mut connection, PARTITION).await.map_err(|error| error.to_string())?;
            let open_holds =
                queries::open_holds(&mut connection, PARTITION).await.map_err(|error| error.to_string())?;
            // Of a stream that was replaced nothing is applied yet.
            let same = info.created.timestamp_nanos_opt() == Some(head.applied.stream_created);
            let applied = if same { head.applied.sequence } else { 0 };
            Ok(QueueStats {
                queued: last_sequence.saturating_sub(applied),
                applied,
                last_sequence,
                position: head.position.0,
                projected: self.projected.at().0,
                open_holds,
            })
        }
        .boxed()
    }
}

impl LedgerMonitor {
    async fn postgres(&self) -> Option<String> {
        let asked = sqlx::query("SELECT 1").execute(&self.pool);
        match tokio::time::timeout(ANSWER_WITHIN, asked).await {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("no answer".to_owned()),
        }
    }

    fn bus(&self) -> Option<String> {
        match self.nats.connection_state() {
            connection::State::Connected => None,
            state => Some(state.to_string()),
        }
    }
}
