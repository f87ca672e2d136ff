//! Rows for a binary COPY: what much is written with at once.

use bytes::{BufMut, BytesMut};
use postgres_types::{ToSql, Type};
use sqlx::PgConnection;

use crate::error::StoreError;
use crate::record::{Record, date};

/// The columns of `ledger_event`, in the order in which [`event`] writes them.
pub(crate) const EVENT_COLUMNS: &str = "position, epoch, amount, posted, held, lane_time, stored_time, command_id, \
     hold, partition, kind, issuer, account, fingerprint, hash, body, envelope";
/// How many they are.
pub(crate) const EVENT_COLUMNS_COUNT: i16 = 17;

/// What every binary COPY begins with: its signature, no flags, no extension.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// A piece ends with the row that makes it so long.
const PIECE_BYTES: usize = 64 * 1024;
/// What every binary COPY ends with.
const TRAILER: i16 = -1;

/// A row that is being written, value by value in the order of the statement's columns.
pub struct RowWriter<'p>(&'p mut BytesMut);

impl RowWriter<'_> {
    /// One value behind its length; −1 stands for NULL.
    ///
    /// # Panics
    /// When `kind` is no type that such a value can have.
    pub fn value(&mut self, value: &impl ToSql, kind: &Type) {
        let RowWriter(piece) = self;
        let at = piece.len();
        piece.put_i32(-1);
        let null = value.to_sql(kind, piece).expect("values of these types can be written");
        if let postgres_types::IsNull::No = null {
            let length = i32::try_from(piece.len() - at - 4).expect("a value is far below 2 GiB");
            piece[at..at + 4].copy_from_slice(&length.to_be_bytes());
        }
    }
}

/// Runs the COPY `statement` of so many `columns` and gives it a row for each of `items`, written by `row`,
/// in pieces: the database takes each in while the next is written. `piece` is emptied and used for all of
/// them. Answers how many rows the database took.
///
/// # Errors
/// What the database says; then none of the rows is there.
pub async fn copy_in<T>(
    connection: &mut PgConnection,
    statement: &str,
    columns: i16,
    items: &[T],
    piece: &mut BytesMut,
    mut row: impl FnMut(&mut RowWriter<'_>, &T),
) -> Result<u64, StoreError> {
    let mut copy = connection.copy_in_raw(statement).await?;
    piece.clear();
    piece.put_slice(HEADER);
    for item in items {
        piece.put_i16(columns);
        row(&mut RowWriter(piece), item);
        if piece.len() >= PIECE_BYTES {
            copy.send(&piece[..]).await?;
            piece.clear();
        }
    }
    piece.put_i16(TRAILER);
    copy.send(&piece[..]).await?;
    Ok(copy.finish().await?)
}

/// Writes `record` of `partition`, appended by the writer of `epoch`.
pub(crate) fn event(row: &mut RowWriter<'_>, partition: i16, epoch: i64, record: &Record) {
    let event = &record.event;
    row.value(&event.position.0, &Type::INT8);
    row.value(&epoch, &Type::INT8);
    row.value(&event.fact.amount(), &Type::INT8);
    row.value(&event.posted, &Type::INT8);
    row.value(&event.held, &Type::INT8);
    row.value(&date(event.time), &Type::TIMESTAMPTZ);
    row.value(&date(record.stored_time), &Type::TIMESTAMPTZ);
    row.value(&event.command, &Type::UUID);
    row.value(&event.fact.hold(), &Type::UUID);
    row.value(&partition, &Type::INT2);
    row.value(&event.fact.kind().as_str(), &Type::TEXT);
    row.value(&event.issuer.as_str(), &Type::TEXT);
    row.value(&event.account.as_str().as_bytes(), &Type::BYTEA);
    row.value(&record.fingerprint.as_slice(), &Type::BYTEA);
    row.value(&record.hash.as_slice(), &Type::BYTEA);
    row.value(&record.body.as_slice(), &Type::BYTEA);
    row.value(&record.envelope.as_ref(), &Type::BYTEA);
}
