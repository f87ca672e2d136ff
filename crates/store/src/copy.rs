//! Reading long runs of the log as one binary COPY, which costs a third of paged queries.
//!
//! **Correctness.** One statement, so one snapshot: what is read is the log as of its start.

use bytes::{Bytes, BytesMut};
use chrono::{DateTime, Utc};
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use holdfast_core::Position;
use postgres_types::{FromSql, FromSqlOwned, Type};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::error::StoreError;
use crate::record::{COLUMNS, EVENT_COLUMNS, Fields, Row};

/// What every binary COPY begins with; flags and an extension's length follow.
const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
const HEADER_BYTES: usize = SIGNATURE.len() + 8;

/// About how many bytes are decoded at once.
const RUN_BYTES: usize = 512 * 1024;

/// A run of rows, and what is wrong with the row after them, if it cannot be read.
pub type Run = (Vec<Row>, Option<StoreError>);

/// What is read of each row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// Everything, for whoever checks rows.
    Rows,
    /// All but the envelope, which is nearly half of it, for whoever folds events.
    Events,
}

/// The rows after `after`, up to `to`, in runs and in order. Runs are decoded on all cores, while the
/// database sends the next.
///
/// The stream must be read to its end before the connection can be used again.
pub async fn runs(
    connection: &mut PgConnection,
    partition: i16,
    after: Position,
    to: Position,
    read: Read,
) -> Result<BoxStream<'_, Result<Run, StoreError>>, StoreError> {
    let columns = if read == Read::Rows { COLUMNS } else { EVENT_COLUMNS };
    // COPY takes no parameters; these are numbers.
    let statement = format!(
        "COPY (SELECT {columns} FROM ledger_event WHERE partition = {partition} AND position > {after}
               AND position <= {to} ORDER BY position) TO STDOUT (FORMAT binary)"
    );
    let chunks = connection.copy_out_raw(&statement).await?;
    let tuples = Tuples { chunks, pending: BytesMut::new(), whole: 0, begun: false };
    let raw = stream::unfold(tuples, |mut tuples| async move {
        tuples.next().await.transpose().map(|run| (run, tuples))
    });
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let decoded = raw.map(|run| async {
        let run = run?;
        let decoding = tokio::task::spawn_blocking(move || decode(&run));
        decoding.await.map_err(|_| broken())
    });
    Ok(decoded.buffered(2 * cores).boxed())
}

/// What the database sends, cut between tuples.
struct Tuples<'c> {
    chunks: BoxStream<'c, Result<Bytes, sqlx::Error>>,
    pending: BytesMut,
    /// How much of `pending` is whole tuples.
    whole: usize,
    begun: bool,
}

impl Tuples<'_> {
    /// The next run of whole tuples; none after the last.
    async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        while self.whole < RUN_BYTES {
            let Some(chunk) = self.chunks.next().await.transpose()? else { break };
            self.pending.extend_from_slice(&chunk);
            if !self.begun && self.pending.len() >= HEADER_BYTES {
                if !self.pending.split_to(HEADER_BYTES).starts_with(SIGNATURE) {
                    return Err(broken());
                }
                self.begun = true;
            }
            if self.begun {
                self.advance()?;
            }
        }
        let run = self.pending.split_to(std::mem::take(&mut self.whole)).freeze();
        Ok(Some(run).filter(|run| !run.is_empty()))
    }

    /// Finds the end of the last tuple that is there to its end.
    fn advance(&mut self) -> Result<(), StoreError> {
        while let Some(length) = tuple_length(&self.pending[self.whole..])? {
            self.whole += length;
        }
        Ok(())
    }
}

/// How long the tuple at the beginning of `bytes` is; none when it is not whole, or is the end mark.
fn tuple_length(bytes: &[u8]) -> Result<Option<usize>, StoreError> {
    let Some(count) = bytes.first_chunk().map(|count| i16::from_be_bytes(*count)) else { return Ok(None) };
    let (mut at, mut left) = (2, count);
    while left > 0 {
        let Some(length) = bytes.get(at..).and_then(<[u8]>::first_chunk) else { return Ok(None) };
        // −1 stands for NULL, which has no bytes.
        at += 4 + usize::try_from(i32::from_be_bytes(*length).max(0)).map_err(|_| broken())?;
        left -= 1;
    }
    Ok(Some(at).filter(|end| count >= 0 && *end <= bytes.len()))
}

/// Rows until one cannot be read.
fn decode(mut bytes: &[u8]) -> Run {
    let mut rows = Vec::with_capacity(bytes.len() / 1024 + 1);
    while !bytes.is_empty() {
        match decode_row(&mut bytes) {
            Ok(row) => rows.push(row),
            Err(error) => return (rows, Some(error)),
        }
    }
    (rows, None)
}

fn decode_row(bytes: &mut &[u8]) -> Result<Row, StoreError> {
    let count = i16::from_be_bytes(*take(bytes, 2)?.first_chunk().ok_or_else(broken)?);
    let mut values = Vec::with_capacity(17);
    for _ in 0..count {
        let length = i32::from_be_bytes(*take(bytes, 4)?.first_chunk().ok_or_else(broken)?);
        values.push(usize::try_from(length).ok().map(|length| take(bytes, length)).transpose()?);
    }
    Row::from_fields(fields(&values)?)
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Result<&'a [u8], StoreError> {
    bytes.split_off(..length).ok_or_else(broken)
}

/// The values of one tuple, in the order of [`COLUMNS`].
fn fields(values: &[Option<&[u8]>]) -> Result<Fields, StoreError> {
    let mut values = values.iter().copied();
    let mut next = || values.next().ok_or_else(broken);
    Ok(Fields {
        partition: value(next()?, &Type::INT2)?,
        position: value(next()?, &Type::INT8)?,
        epoch: value(next()?, &Type::INT8)?,
        kind: value(next()?, &Type::TEXT)?,
        account: bytes(next()?)?,
        hold: optional::<Uuid>(next()?, &Type::UUID)?,
        amount: optional::<i64>(next()?, &Type::INT8)?,
        posted: value(next()?, &Type::INT8)?,
        held: value(next()?, &Type::INT8)?,
        issuer: value(next()?, &Type::TEXT)?,
        command_id: value(next()?, &Type::UUID)?,
        fingerprint: bytes(next()?)?,
        lane_time: value::<DateTime<Utc>>(next()?, &Type::TIMESTAMPTZ)?,
        stored_time: value::<DateTime<Utc>>(next()?, &Type::TIMESTAMPTZ)?,
        body: bytes(next()?)?,
        envelope: bytes(next()?)?,
        hash: bytes(next()?)?,
    })
}

/// The bytes of a `bytea` are its value.
fn bytes(raw: Option<&[u8]>) -> Result<Vec<u8>, StoreError> {
    raw.map(<[u8]>::to_vec).ok_or_else(broken)
}

fn value<T: FromSqlOwned>(raw: Option<&[u8]>, kind: &Type) -> Result<T, StoreError> {
    optional(raw, kind)?.ok_or_else(broken)
}

fn optional<T: FromSqlOwned>(raw: Option<&[u8]>, kind: &Type) -> Result<Option<T>, StoreError> {
    let decoded = raw.map(|raw| <T as FromSql>::from_sql(kind, raw)).transpose();
    decoded
        .map_err(|error| StoreError::Inconsistent(format!("a value of the log cannot be decoded: {error}")))
}

fn broken() -> StoreError {
    StoreError::Inconsistent("a COPY of the log ended early or is in another format".to_owned())
}
