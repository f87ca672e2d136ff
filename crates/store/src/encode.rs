//! Records as the rows of a binary COPY: what the hot path appends with.

use bytes::{BufMut, BytesMut};
use postgres_types::{ToSql, Type};

use crate::record::{Record, date};

/// The columns, in the order in which [`copy_rows`] writes them.
pub(crate) const COPY_COLUMNS: &str = "position, epoch, amount, posted, held, lane_time, stored_time, command_id, \
     hold, partition, kind, issuer, account, fingerprint, hash, body, envelope";
const COLUMNS: i16 = 17;
/// What every binary COPY begins with: its signature, no flags, no extension.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// What a row takes besides its account, body and envelope.
const ROW_BYTES: usize = 320;

/// Puts `records` of `partition`, appended by the writer of `epoch`, into `rows`, which is emptied
/// first: one buffer serves for all batches.
pub(crate) fn copy_rows(rows: &mut BytesMut, partition: i16, epoch: i64, records: &[Record]) {
    let bytes =
        records.iter().map(|record| ROW_BYTES + record.body.len() + record.envelope.len()).sum::<usize>();
    rows.clear();
    rows.reserve(HEADER.len() + bytes);
    rows.put_slice(HEADER);
    for record in records {
        row(rows, partition, epoch, record);
    }
    rows.put_i16(-1);
}

fn row(rows: &mut BytesMut, partition: i16, epoch: i64, record: &Record) {
    let event = &record.event;
    rows.put_i16(COLUMNS);
    value(rows, &event.position.0, &Type::INT8);
    value(rows, &epoch, &Type::INT8);
    value(rows, &event.fact.amount(), &Type::INT8);
    value(rows, &event.posted, &Type::INT8);
    value(rows, &event.held, &Type::INT8);
    value(rows, &date(event.time), &Type::TIMESTAMPTZ);
    value(rows, &date(record.stored_time), &Type::TIMESTAMPTZ);
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
