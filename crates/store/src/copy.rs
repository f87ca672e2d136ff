//! Reading long runs of the log as one binary COPY, which costs a third of paged queries.
//!
//! **Correctness.** One statement, so one snapshot: what is read is the log as of its start.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use holdfast_core::Position;
use postgres_types::{FromSql, FromSqlOwned, Type};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::error::StoreError;
use crate::record::{COLUMNS, Fields, Row};

/// What every binary COPY begins with; flags and an extension's length follow.
const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
const HEADER_BYTES: usize = SIGNATURE.len() + 8;

/// Rows of the log in order, as they arrive.
pub struct Rows<'c> {
    chunks: BoxStream<'c, Result<Bytes, sqlx::Error>>,
    pending: Vec<u8>,
    /// How much of `pending` was read.
    read: usize,
    begun: bool,
}

/// The rows after `after`, up to `to`.
pub async fn rows(
    connection: &mut PgConnection,
    partition: i16,
    after: Position,
    to: Position,
) -> Result<Rows<'_>, StoreError> {
    // COPY takes no parameters; these are numbers.
    let statement = format!(
        "COPY (SELECT {COLUMNS} FROM ledger_event WHERE partition = {partition} AND position > {after}
               AND position <= {to} ORDER BY position) TO STDOUT (FORMAT binary)"
    );
    let chunks = connection.copy_out_raw(&statement).await?;
    Ok(Rows { chunks, pending: Vec::new(), read: 0, begun: false })
}

impl Rows<'_> {
    /// The next row; none after the last. A row that cannot be read does not hide those before it.
    pub async fn next(&mut self) -> Result<Option<Row>, StoreError> {
        if !self.begun {
            self.need(HEADER_BYTES).await?;
            if !self.take(HEADER_BYTES).starts_with(SIGNATURE) {
                return Err(broken());
            }
            self.begun = true;
        }
        self.need(2).await?;
        let count = i16::from_be_bytes(self.take(2).try_into().map_err(|_| broken())?);
        if count < 0 {
            return Ok(None);
        }
        let mut values = Vec::with_capacity(17);
        for _ in 0..count {
            self.need(4).await?;
            let length = i32::from_be_bytes(self.take(4).try_into().map_err(|_| broken())?);
            values.push(match usize::try_from(length) {
                Ok(length) => {
                    self.need(length).await?;
                    Some(self.take(length).to_vec())
                }
                Err(_) => None,
            });
        }
        Row::from_fields(fields(values)?).map(Some)
    }

    /// Takes what is left, so that the connection can be used again.
    pub async fn finish(mut self) -> Result<(), StoreError> {
        while self.chunks.next().await.transpose()?.is_some() {}
        Ok(())
    }

    /// Waits until `bytes` more are there.
    async fn need(&mut self, bytes: usize) -> Result<(), StoreError> {
        while self.pending.len() - self.read < bytes {
            self.pending.drain(..self.read);
            self.read = 0;
            let chunk = self.chunks.next().await.ok_or_else(broken)??;
            self.pending.extend_from_slice(&chunk);
        }
        Ok(())
    }

    fn take(&mut self, bytes: usize) -> &[u8] {
        let start = self.read;
        self.read += bytes;
        &self.pending[start..self.read]
    }
}

/// The values of one tuple, in the order of [`COLUMNS`].
fn fields(values: Vec<Option<Vec<u8>>>) -> Result<Fields, StoreError> {
    let mut values = values.into_iter();
    let mut next = || values.next().ok_or_else(broken);
    Ok(Fields {
        partition: value(&next()?, &Type::INT2)?,
        position: value(&next()?, &Type::INT8)?,
        epoch: value(&next()?, &Type::INT8)?,
        kind: value(&next()?, &Type::TEXT)?,
        account: bytes(next()?)?,
        hold: optional::<Uuid>(&next()?, &Type::UUID)?,
        amount: optional::<i64>(&next()?, &Type::INT8)?,
        posted: value(&next()?, &Type::INT8)?,
        held: value(&next()?, &Type::INT8)?,
        issuer: value(&next()?, &Type::TEXT)?,
        command_id: value(&next()?, &Type::UUID)?,
        fingerprint: bytes(next()?)?,
        lane_time: value::<DateTime<Utc>>(&next()?, &Type::TIMESTAMPTZ)?,
        stored_time: value::<DateTime<Utc>>(&next()?, &Type::TIMESTAMPTZ)?,
        body: bytes(next()?)?,
        envelope: bytes(next()?)?,
        hash: bytes(next()?)?,
    })
}

/// The bytes of a `bytea` are its value; they are moved, not decoded.
fn bytes(raw: Option<Vec<u8>>) -> Result<Vec<u8>, StoreError> {
    raw.ok_or_else(broken)
}

fn value<T: FromSqlOwned>(raw: &Option<Vec<u8>>, kind: &Type) -> Result<T, StoreError> {
    optional(raw, kind)?.ok_or_else(broken)
}

fn optional<T: FromSqlOwned>(raw: &Option<Vec<u8>>, kind: &Type) -> Result<Option<T>, StoreError> {
    let decoded = raw.as_deref().map(|raw| <T as FromSql>::from_sql(kind, raw)).transpose();
    decoded
        .map_err(|error| StoreError::Inconsistent(format!("a value of the log cannot be decoded: {error}")))
}

fn broken() -> StoreError {
    StoreError::Inconsistent("a COPY of the log ended early or is in another format".to_owned())
}
