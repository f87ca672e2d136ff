//! Reading long runs of the log as one binary COPY, which costs a third of paged queries.
//!
//! **Correctness.** One statement, so one snapshot: what is read is the log as of its start.

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use holdfast_core::Position;
use postgres_types::{FromSql, Type};
use sqlx::PgConnection;

use crate::error::StoreError;
use crate::record::{COLUMNS, EVENT_COLUMNS, EventFields, Fields, Logged, Row};

/// What every binary COPY begins with; flags and an extension's length follow.
const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
const HEADER_BYTES: usize = SIGNATURE.len() + 8;

/// About how many bytes are decoded at once.
const RUN_BYTES: usize = 512 * 1024;
/// Hardly a tuple is shorter, so that the list of a run need not grow.
const TUPLE_BYTES_MIN: usize = 256;

/// A run of the log, and what is wrong with the row after it, if that cannot be read.
pub type Run<T> = (Vec<T>, Option<StoreError>);

/// What may be read of each row: a [`Row`] has everything, for whoever checks rows; [`Logged`] is half of
/// it, for whoever folds events.
pub trait Read: Sized + Send + 'static {
    /// The columns that it is read from, in the order of [`Read::read`].
    const COLUMNS: &'static str;

    /// Reads it from the values of one tuple.
    ///
    /// # Errors
    /// [`StoreError::Inconsistent`] or [`StoreError::Log`] when they make none.
    fn read(values: &mut Values<'_>) -> Result<Self, StoreError>;
}

impl Read for Logged {
    const COLUMNS: &'static str = EVENT_COLUMNS;

    fn read(values: &mut Values<'_>) -> Result<Self, StoreError> {
        Logged::from_fields(&event_fields(values)?)
    }
}

impl Read for Row {
    const COLUMNS: &'static str = COLUMNS;

    fn read(values: &mut Values<'_>) -> Result<Self, StoreError> {
        Row::from_fields(&Fields {
            event: event_fields(values)?,
            partition: values.value(&Type::INT2)?,
            epoch: values.value(&Type::INT8)?,
            kind: values.value(&Type::TEXT)?,
            hold: values.optional(&Type::UUID)?,
            amount: values.optional(&Type::INT8)?,
            fingerprint: values.value(&Type::BYTEA)?,
            stored_time: values.value(&Type::TIMESTAMPTZ)?,
            envelope: values.value(&Type::BYTEA)?,
        })
    }
}

fn event_fields<'a>(values: &mut Values<'a>) -> Result<EventFields<'a>, StoreError> {
    Ok(EventFields {
        position: values.value(&Type::INT8)?,
        lane_time: values.value(&Type::TIMESTAMPTZ)?,
        issuer: values.value(&Type::TEXT)?,
        command_id: values.value(&Type::UUID)?,
        account: values.value(&Type::BYTEA)?,
        posted: values.value(&Type::INT8)?,
        held: values.value(&Type::INT8)?,
        body: values.value(&Type::BYTEA)?,
        hash: values.value(&Type::BYTEA)?,
    })
}

/// The rows after `after`, up to `to`, in runs and in order. Runs are decoded on all cores, while the
/// database sends the next.
///
/// The stream must be read to its end before the connection can be used again.
pub async fn runs<T: Read>(
    connection: &mut PgConnection,
    partition: i16,
    after: Position,
    to: Position,
) -> Result<BoxStream<'_, Result<Run<T>, StoreError>>, StoreError> {
    let columns = T::COLUMNS;
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

/// The same, all at once, for a part of the log that fits in memory.
///
/// # Errors
/// What reading the log may end with.
pub async fn all<T: Read>(
    connection: &mut PgConnection,
    partition: i16,
    after: Position,
    to: Position,
) -> Result<Vec<T>, StoreError> {
    let mut all = Vec::new();
    let mut runs = runs(connection, partition, after, to).await?;
    let mut failed = None;
    // To its end, whatever comes: the connection is used again.
    while let Some(run) = runs.next().await {
        match run {
            Ok((read, None)) => all.extend(read),
            Ok((_, Some(error))) | Err(error) => failed = failed.or(Some(error)),
        }
    }
    failed.map_or(Ok(all), Err)
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

/// What there is until something cannot be read.
fn decode<T: Read>(mut bytes: &[u8]) -> Run<T> {
    let mut run = Vec::with_capacity(bytes.len() / TUPLE_BYTES_MIN);
    while !bytes.is_empty() {
        match Values::begin(&mut bytes).and_then(|mut values| T::read(&mut values)) {
            Ok(read) => run.push(read),
            Err(error) => return (run, Some(error)),
        }
    }
    (run, None)
}

/// The values of one tuple, taken one after the other.
pub struct Values<'a>(&'a [u8]);

impl<'a> Values<'a> {
    /// Those of the tuple that `bytes` begin with, which leaves them.
    fn begin(bytes: &mut &'a [u8]) -> Result<Self, StoreError> {
        let length = tuple_length(bytes)?.ok_or_else(broken)?;
        let tuple = bytes.split_off(..length).ok_or_else(broken)?;
        Ok(Values(tuple.get(2..).ok_or_else(broken)?))
    }

    fn value<T: FromSql<'a>>(&mut self, kind: &Type) -> Result<T, StoreError> {
        self.optional(kind)?.ok_or_else(broken)
    }

    fn optional<T: FromSql<'a>>(&mut self, kind: &Type) -> Result<Option<T>, StoreError> {
        let length = self.0.split_off(..4).and_then(<[u8]>::first_chunk).ok_or_else(broken)?;
        let length = i32::from_be_bytes(*length);
        // −1 stands for NULL, which has no bytes.
        let Ok(length) = usize::try_from(length) else { return Ok(None) };
        let raw = self.0.split_off(..length).ok_or_else(broken)?;
        T::from_sql(kind, raw).map(Some).map_err(|error| {
            StoreError::Inconsistent(format!("a value of the log cannot be decoded: {error}"))
        })
    }
}

fn broken() -> StoreError {
    StoreError::Inconsistent("a COPY of the log ended early or is in another format".to_owned())
}
