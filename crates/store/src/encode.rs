//! Records as the rows of a binary COPY: what the hot path appends with.

use bytes::{BufMut, BytesMut};
use holdfast_core::Timestamp;
use postgres_types::{ToSql, Type};

use crate::record::Record;

/// The statement that takes what [`CopyRows`] writes.
pub(crate) const COPY: &str = "COPY ledger_event (position, epoch, amount, posted, held, lane_time, stored_time, command_id, hold, \
     partition, kind, issuer, account, fingerprint, hash, body, envelope) FROM STDIN (FORMAT binary)";
const COLUMNS: i16 = 17;
/// What every binary COPY begins with: its signature, no flags, no extension.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// A piece ends with the row that makes it so long.
const PIECE_BYTES: usize = 64 * 1024;
/// What a row takes besides its account, body and envelope.
const ROW_BYTES: usize = 320;

/// From 1970 to 2000, where Postgres counts microseconds from.
const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;

/// What every binary COPY ends with.
const TRAILER: i16 = -1;

/// `records` of `partition`, appended by the writer of `epoch`, as the rows of one COPY in pieces: the
/// database takes each in while the next is written.
pub(crate) struct CopyRows<'a> {
    partition: i16,
    epoch: i64,
    left: &'a [Record],
    begun: bool,
}

impl<'a> CopyRows<'a> {
    pub(crate) fn new(partition: i16, epoch: i64, records: &'a [Record]) -> Self {
        CopyRows { partition, epoch, left: records, begun: false }
    }

    /// Puts the next piece into `piece`, which is emptied first: one buffer serves for all. Answers whether
    /// there was one.
    pub(crate) fn next(&mut self, piece: &mut BytesMut) -> bool {
        piece.clear();
        if self.begun && self.left.is_empty() {
            return false;
        }
        if !std::mem::replace(&mut self.begun, true) {
            piece.put_slice(HEADER);
        }
        while let Some((record, rest)) = self.left.split_first()
            && piece.len() < PIECE_BYTES
        {
            piece.reserve(ROW_BYTES + record.body.len() + record.envelope.len());
            row(piece, self.partition, self.epoch, record);
            self.left = rest;
        }
        if self.left.is_empty() {
            piece.put_i16(TRAILER);
        }
        true
    }
}

fn row(rows: &mut BytesMut, partition: i16, epoch: i64, record: &Record) {
    let event = &record.event;
    rows.put_i16(COLUMNS);
    value(rows, &event.position.0, &Type::INT8);
    value(rows, &epoch, &Type::INT8);
    value(rows, &event.fact.amount(), &Type::INT8);
    value(rows, &event.posted, &Type::INT8);
    value(rows, &event.held, &Type::INT8);
    value(rows, &timestamptz(event.time), &Type::INT8);
    value(rows, &timestamptz(record.stored_time), &Type::INT8);
    value(rows, &event.command, &Type::UUID);
    value(rows, &event.fact.hold(), &Type::UUID);
    value(rows, &partition, &Type::INT2);
    value(rows, &event.fact.kind().as_str(), &Type::TEXT);
    value(rows, &event.issuer.as_str(), &Type::TEXT);
    value(rows, &event.account.as_str().as_bytes(), &Type::BYTEA);
    value(rows, &record.fingerprint.as_slice(), &Type::BYTEA);
    value(rows, &record.hash.as_slice(), &Type::BYTEA);
    value(rows, &record.body.as_slice(), &Type::BYTEA);
    value(rows, &record.envelope.as_ref(), &Type::BYTEA);
}

/// A `timestamptz` in its binary form, which is a number.
fn timestamptz(at: Timestamp) -> i64 {
    at.micros() - POSTGRES_EPOCH_MICROS
}

/// One value behind its length; −1 stands for NULL.
fn value(rows: &mut BytesMut, value: &impl ToSql, kind: &Type) {
    let at = rows.len();
    rows.put_i32(-1);
    let null = value.to_sql(kind, rows).expect("values of these types can be written");
    if let postgres_types::IsNull::No = null {
        let length = i32::try_from(rows.len() - at - 4).expect("a value is far below 2 GiB");
        rows[at..at + 4].copy_from_slice(&length.to_be_bytes());
    }
}
