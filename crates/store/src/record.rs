//! A row of the log, on its way in ([`Record`]) and out ([`Row`]).

use bytes::Bytes;
use chrono::{DateTime, Utc};
use holdfast_core::chain::{Hash, Stored, chain_hash};
use holdfast_core::event::{Columns, LogError};
use holdfast_core::{AccountId, Event, Fact, Issuer, Position, Timestamp};
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use crate::error::StoreError;

/// An event about to be appended, hashed onto the one before.
#[derive(Debug, Clone)]
pub struct Record {
    /// The event.
    pub event: Event,
    /// What the command says.
    pub fingerprint: Hash,
    /// When JetStream stored the command.
    pub stored_time: Timestamp,
    /// The event's canonical bytes.
    pub body: Vec<u8>,
    /// The signed envelope as received, of a batch its digest; empty for what the ledger decides by
    /// itself.
    pub envelope: Bytes,
    /// The chain hash.
    pub hash: Hash,
}

impl Record {
    /// Links `event` to the chain after `previous`.
    #[must_use]
    pub fn chained(
        link: Link<'_>,
        event: Event,
        fingerprint: Hash,
        stored_time: Timestamp,
        envelope: Bytes,
    ) -> Self {
        let body = event.body();
        let stored = stored(link.partition, link.epoch, &event, &fingerprint, stored_time, &body, &envelope);
        let hash = chain_hash(link.previous, &stored);
        Record { event, fingerprint, stored_time, body, envelope, hash }
    }

    /// The outside reference that this event uses up, if any.
    #[must_use]
    pub fn reference(&self) -> Option<Reference> {
        match &self.event.fact {
            Fact::ToppedUp { external_ref: Some(text), .. } => {
                Some(Reference::External(text.as_str().as_bytes().to_vec()))
            }
            Fact::Refunded { of, n, total, .. } | Fact::TopUpReversed { of, n, total, .. } => {
                Some(Reference::Undo { origin: *of, n: *n, total: *total })
            }
            _ => None,
        }
    }
}

/// An event of the log with its chain hash: what those who follow the log need of a row.
#[derive(Debug, Clone)]
pub struct Logged {
    /// The event.
    pub event: Event,
    /// Its chain hash.
    pub hash: Hash,
}

impl From<Record> for Logged {
    fn from(Record { event, hash, .. }: Record) -> Self {
        Logged { event, hash }
    }
}

/// What a record is chained to.
#[derive(Debug, Clone, Copy)]
pub struct Link<'a> {
    /// The partition.
    pub partition: i16,
    /// The writer's epoch.
    pub epoch: i64,
    /// The hash of the row before.
    pub previous: &'a Hash,
}

/// A row of `ledger_ref`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// A payment was booked.
    External(Vec<u8>),
    /// A charge or top-up was undone for the `n`th time, `total` of it by now.
    Undo {
        /// The event that was undone.
        origin: Position,
        /// Which time this was.
        n: u32,
        /// How much of it is undone.
        total: i64,
    },
}

/// A row of the log as it was read.
#[derive(Debug, Clone)]
pub struct Row {
    /// The event.
    pub event: Event,
    /// The writer's epoch.
    pub epoch: i64,
    /// The partition.
    pub partition: i16,
    /// What the command says.
    pub fingerprint: Hash,
    /// When JetStream stored the command.
    pub stored_time: Timestamp,
    /// The event's canonical bytes.
    pub body: Vec<u8>,
    /// The signed envelope.
    pub envelope: Vec<u8>,
    /// The chain hash as stored.
    pub hash: Hash,
}

macro_rules! event_columns {
    () => {
        "position, lane_time, issuer, command_id, account, posted, held, body, hash"
    };
}

/// What is read of a row for its event alone, in the order of [`EventFields`]. Kind, hold and amount stand
/// in the body too; whoever checks rows compares them.
pub(crate) const EVENT_COLUMNS: &str = event_columns!();

/// All that is read of a row, in the order of [`Fields`].
pub(crate) const COLUMNS: &str =
    concat!(event_columns!(), ", partition, epoch, kind, hold, amount, fingerprint, stored_time, envelope");

/// [`EVENT_COLUMNS`] as Postgres gives them, whichever way they came.
pub(crate) struct EventFields<'a> {
    pub(crate) position: i64,
    pub(crate) lane_time: DateTime<Utc>,
    pub(crate) issuer: &'a str,
    pub(crate) command_id: Uuid,
    pub(crate) account: &'a [u8],
    pub(crate) posted: i64,
    pub(crate) held: i64,
    pub(crate) body: &'a [u8],
    pub(crate) hash: &'a [u8],
}

impl<'a> EventFields<'a> {
    fn from_row(row: &'a PgRow) -> Result<Self, StoreError> {
        Ok(EventFields {
            position: row.try_get("position")?,
            lane_time: row.try_get("lane_time")?,
            issuer: row.try_get("issuer")?,
            command_id: row.try_get("command_id")?,
            account: row.try_get("account")?,
            posted: row.try_get("posted")?,
            held: row.try_get("held")?,
            body: row.try_get("body")?,
            hash: row.try_get("hash")?,
        })
    }

    fn event(&self) -> Result<Event, StoreError> {
        let account = std::str::from_utf8(self.account).ok().and_then(|id| AccountId::new(id).ok());
        let columns = Columns {
            position: Position(self.position),
            time: moment(self.lane_time),
            issuer: Issuer::from_log(self.issuer).map_err(|_| self.unreadable("the issuer is none"))?,
            command: self.command_id,
            account: account.ok_or_else(|| self.unreadable("the account is none"))?,
            posted: self.posted,
            held: self.held,
        };
        Ok(Event::from_log(columns, self.body)?)
    }

    fn unreadable(&self, problem: &str) -> LogError {
        LogError::Body { position: Position(self.position), problem: problem.to_owned() }
    }
}

/// [`COLUMNS`] as Postgres gives them.
pub(crate) struct Fields<'a> {
    pub(crate) event: EventFields<'a>,
    pub(crate) partition: i16,
    pub(crate) epoch: i64,
    pub(crate) kind: &'a str,
    pub(crate) hold: Option<Uuid>,
    pub(crate) amount: Option<i64>,
    pub(crate) fingerprint: &'a [u8],
    pub(crate) stored_time: DateTime<Utc>,
    pub(crate) envelope: &'a [u8],
}

impl Logged {
    /// The row of a query that selected [`EVENT_COLUMNS`].
    pub(crate) fn from_row(row: &PgRow) -> Result<Self, StoreError> {
        Logged::from_fields(&EventFields::from_row(row)?)
    }

    pub(crate) fn from_fields(fields: &EventFields<'_>) -> Result<Self, StoreError> {
        Ok(Logged { event: fields.event()?, hash: hash_of(fields.hash)? })
    }
}

impl Row {
    /// The row of a query that selected [`COLUMNS`].
    pub(crate) fn from_row(row: &PgRow) -> Result<Self, StoreError> {
        Row::from_fields(&Fields {
            event: EventFields::from_row(row)?,
            partition: row.try_get("partition")?,
            epoch: row.try_get("epoch")?,
            kind: row.try_get("kind")?,
            hold: row.try_get("hold")?,
            amount: row.try_get("amount")?,
            fingerprint: row.try_get("fingerprint")?,
            stored_time: row.try_get("stored_time")?,
            envelope: row.try_get("envelope")?,
        })
    }

    /// Reads the event out of its columns, which must not contradict each other.
    pub(crate) fn from_fields(fields: &Fields<'_>) -> Result<Self, StoreError> {
        let Logged { event, hash } = Logged::from_fields(&fields.event)?;
        let beside = (fields.kind, fields.hold, fields.amount);
        if beside != (event.fact.kind().as_str(), event.fact.hold(), event.fact.amount()) {
            return Err(fields.event.unreadable("kind, hold or amount differ from the body").into());
        }
        Ok(Row {
            event,
            epoch: fields.epoch,
            partition: fields.partition,
            fingerprint: hash_of(fields.fingerprint)?,
            stored_time: moment(fields.stored_time),
            body: fields.event.body.to_vec(),
            envelope: fields.envelope.to_vec(),
            hash,
        })
    }

    /// The hash that the chain demands here, after `previous`.
    #[must_use]
    pub fn expected_hash(&self, previous: &Hash) -> Hash {
        let stored = stored(
            self.partition,
            self.epoch,
            &self.event,
            &self.fingerprint,
            self.stored_time,
            &self.body,
            &self.envelope,
        );
        chain_hash(previous, &stored)
    }
}

fn stored<'a>(
    partition: i16,
    epoch: i64,
    event: &'a Event,
    fingerprint: &'a Hash,
    stored_time: Timestamp,
    body: &'a [u8],
    envelope: &'a [u8],
) -> Stored<'a> {
    Stored {
        partition,
        position: event.position,
        epoch,
        kind: event.fact.kind(),
        account: event.account.as_str(),
        hold: event.fact.hold(),
        amount: event.fact.amount(),
        posted: event.posted,
        held: event.held,
        issuer: event.issuer.as_str(),
        command: event.command,
        fingerprint,
        lane_time: event.time,
        stored_time,
        body,
        envelope,
    }
}

/// A hash from 32 stored bytes.
pub(crate) fn hash_of(bytes: &[u8]) -> Result<Hash, StoreError> {
    bytes.try_into().map_err(|_| StoreError::Inconsistent("a hash has not 32 bytes".to_owned()))
}

/// A stored moment.
#[must_use]
pub fn moment(at: DateTime<Utc>) -> Timestamp {
    Timestamp::from_micros(at.timestamp_micros())
}

/// A moment as people and programs read it: RFC 3339 in UTC, to the microsecond.
#[must_use]
pub fn rfc3339(at: Timestamp) -> String {
    date(at).to_rfc3339_opts(chrono::SecondsFormat::Micros, true)
}

/// A moment as stored.
#[must_use]
pub fn date(at: Timestamp) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(at.micros()).unwrap_or(DateTime::<Utc>::MAX_UTC)
}
