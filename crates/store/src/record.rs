//! A row of the log, on its way in ([`Record`]) and out ([`Row`]).

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
    /// The signed envelope as received; empty for what the ledger decides by itself.
    pub envelope: Vec<u8>,
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
        envelope: Vec<u8>,
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

/// The columns that [`Row::from_row`] reads.
pub(crate) const COLUMNS: &str = "partition, position, epoch, kind, account, hold, amount, posted, held, issuer, \
     command_id, fingerprint, lane_time, stored_time, body, envelope, hash";

impl Row {
    pub(crate) fn from_row(row: &PgRow) -> Result<Self, StoreError> {
        let inconsistent =
            |what: &str| StoreError::Inconsistent(format!("{what} of a row of the log cannot be read"));
        let account: Vec<u8> = row.try_get("account")?;
        let account = String::from_utf8(account).map_err(|_| inconsistent("the account"))?;
        let columns = Columns {
            position: Position(row.try_get("position")?),
            time: moment(row.try_get("lane_time")?),
            issuer: Issuer::from_log(row.try_get("issuer")?).map_err(|_| inconsistent("the issuer"))?,
            command: row.try_get::<Uuid, _>("command_id")?,
            account: AccountId::new(&account).map_err(|_| inconsistent("the account"))?,
            posted: row.try_get("posted")?,
            held: row.try_get("held")?,
        };
        let body: Vec<u8> = row.try_get("body")?;
        let event = Event::from_log(columns, &body)?;
        let beside = (row.try_get::<&str, _>("kind")?, row.try_get("hold")?, row.try_get("amount")?);
        if beside != (event.fact.kind().as_str(), event.fact.hold(), event.fact.amount()) {
            let problem = "kind, hold or amount differ from the body".to_owned();
            return Err(StoreError::Log(LogError::Body { position: event.position, problem }));
        }
        Ok(Row {
            event,
            epoch: row.try_get("epoch")?,
            partition: row.try_get("partition")?,
            fingerprint: hash_of(row.try_get("fingerprint")?)?,
            stored_time: moment(row.try_get("stored_time")?),
            body,
            envelope: row.try_get("envelope")?,
            hash: hash_of(row.try_get("hash")?)?,
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
pub(crate) fn hash_of(bytes: Vec<u8>) -> Result<Hash, StoreError> {
    bytes.try_into().map_err(|_| StoreError::Inconsistent("a hash has not 32 bytes".to_owned()))
}

/// A stored moment.
#[must_use]
pub fn moment(at: DateTime<Utc>) -> Timestamp {
    Timestamp::from_micros(at.timestamp_micros())
}

/// A moment as stored.
#[must_use]
pub fn date(at: Timestamp) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(at.micros()).unwrap_or(DateTime::<Utc>::MAX_UTC)
}
