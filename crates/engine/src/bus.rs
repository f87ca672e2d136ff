//! NATS connections and the streams that the ledger owns.

use std::time::Duration;

use async_nats::jetstream::{self, stream};
use async_nats::{Client, ConnectOptions};

/// The stream that commands arrive in.
pub const COMMANDS: &str = "LEDGER_COMMANDS";
/// The stream that events are published to.
pub const EVENTS: &str = "LEDGER_EVENTS";
/// The stream of what was passed over or set aside.
pub const REFUSED: &str = "LEDGER_REFUSED";

/// How long any single request to the server may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// The files that `nats stream add --config` takes.
const STREAM_FILES: [(&str, &str); 3] = [
    (COMMANDS, include_str!("../../../nats/streams/LEDGER_COMMANDS.json")),
    (EVENTS, include_str!("../../../nats/streams/LEDGER_EVENTS.json")),
    (REFUSED, include_str!("../../../nats/streams/LEDGER_REFUSED.json")),
];

/// An error of the bus, in words.
#[derive(Debug, thiserror::Error)]
#[error("NATS: {0}")]
pub struct BusError(pub String);

impl BusError {
    pub(crate) fn of(error: impl std::fmt::Display) -> Self {
        BusError(error.to_string())
    }
}

/// Connects to `url`, which carries user and password, as `name`.
pub async fn connect(url: &str, name: &str) -> Result<Client, BusError> {
    let options = ConnectOptions::new().request_timeout(Some(REQUEST_TIMEOUT));
    holdfast_client::nats::connect(url, name, options).await.map_err(BusError)
}

/// The configuration that this version ships for the stream `name`.
#[must_use]
pub fn stream_config(name: &str) -> stream::Config {
    let (_, file) = STREAM_FILES.iter().find(|(known, _)| *known == name).expect("one of the three streams");
    serde_json::from_str(file).expect("the shipped stream files are valid; a test reads them")
}

/// Creates whichever of the streams is missing; one that exists is left as its operator has it.
pub async fn ensure_streams(client: &Client) -> Result<(), BusError> {
    let jetstream = jetstream::new(client.clone());
    for (name, _) in STREAM_FILES {
        jetstream.get_or_create_stream(stream_config(name)).await.map_err(BusError::of)?;
    }
    Ok(())
}

/// Creates the stream `name` if it is missing.
pub(crate) async fn ensure_stream(client: &Client, name: &str) -> Result<stream::Stream, BusError> {
    jetstream::new(client.clone()).get_or_create_stream(stream_config(name)).await.map_err(BusError::of)
}

/// Deletes the events stream and creates it empty, for the relay to fill again from the log.
pub async fn recreate_events(client: &Client) -> Result<(), BusError> {
    let jetstream = jetstream::new(client.clone());
    if jetstream.get_stream(EVENTS).await.is_ok() {
        jetstream.delete_stream(EVENTS).await.map_err(BusError::of)?;
    }
    jetstream.create_stream(stream_config(EVENTS)).await.map_err(BusError::of)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_stream_files_say_what_the_ledger_relies_on() {
        let commands = stream_config(COMMANDS);
        assert_eq!(commands.subjects, ["ledger.cmd.>"]);
        assert_eq!(commands.discard, stream::DiscardPolicy::New);
        assert!(commands.deny_delete && !commands.deny_purge);
        let events = stream_config(EVENTS);
        assert!(events.deny_delete && events.persist_mode == Some(stream::PersistenceMode::Async));
        assert_eq!(commands.persist_mode, None);
        assert_eq!(stream_config(REFUSED).subjects, ["ledger.dlq.>"]);
    }
}
