//! Events as messages.
//!
//! What a NATS client takes for headers is a map, and making one for each event from nothing was more
//! than a third of the relay's work. So the headers that the events of a kind share are made once, in a map with room for
//! the others, and copied.

use async_nats::{HeaderMap, HeaderName};
use bytes::Bytes;
use holdfast_core::{Kind, Timestamp};
use holdfast_protocol::event::{EventView, common_headers, own_headers, trace_header};
use holdfast_protocol::subject;
use holdfast_store::record::rfc3339;
use holdfast_store::{Logged, Map};

/// Room for the body of most events.
const BODY_BYTES: usize = 640;

/// Makes the messages of one partition's events.
pub(super) struct Messages {
    partition: i16,
    audience: String,
    /// The headers of each kind. Those that differ from event to event are there and empty.
    of_kind: Map<Kind, HeaderMap>,
    /// The time of the last event: those of one commit have the same.
    time: (Timestamp, String),
}

impl Messages {
    pub(super) fn new(partition: i16, audience: &str) -> Self {
        let time = Timestamp::from_micros(0);
        let (audience, time) = (audience.to_owned(), (time, rfc3339(time)));
        Messages { partition, audience, of_kind: Map::default(), time }
    }

    /// Where an event is published, and what.
    pub(super) fn of(&mut self, logged: &Logged) -> (String, HeaderMap, Bytes) {
        let Logged { event, hash } = logged;
        if self.time.0 != event.time {
            self.time = (event.time, rfc3339(event.time));
        }
        let (kind, time) = (event.fact.kind(), self.time.1.as_str());
        let own = own_headers(self.partition, (event, hash), time);
        let common = self.of_kind.entry(kind).or_insert_with(|| {
            let common = common_headers(kind, &self.audience).into_iter();
            let empty = own.iter().map(|(name, _)| (*name, String::new()));
            common.chain(empty).map(|(name, value)| (HeaderName::from_static(name), value.into())).collect()
        });
        let mut headers = common.clone();
        for (name, value) in own.into_iter().chain(trace_header(&event.fact)) {
            headers.insert(HeaderName::from_static(name), value);
        }
        let mut body = Vec::with_capacity(BODY_BYTES);
        serde_json::to_writer(&mut body, &EventView::new(event, time)).expect("an event is plain values");
        (subject::event(kind, event.account.as_str()), headers, body.into())
    }
}
