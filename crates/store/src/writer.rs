//! The one writer of a partition.
//!
//! **Correctness.** [`Writer::take_over`] raises the epoch in a statement of its own, which waits
//! for a commit of the old writer that is under way; only then is anything read. From there on
//! the old writer's statements find another epoch and do nothing. An [`StoreError::Unavailable`]
//! from [`Writer::append`] means that nobody knows whether it was committed: take over again.

use holdfast_core::chain::Hash;
use holdfast_core::{Position, Timestamp};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::connect::{Role, connect};
use crate::error::StoreError;
use crate::head::{Applied, Head};
use crate::record::{Record, Reference, date};

/// The connection of the writer, and the head as it has made it.
pub struct Writer {
    connection: PgConnection,
    head: Head,
}

/// One statement: the head moves if it is still ours, and events are inserted from the moved row.
const APPEND: &str = "
WITH head AS (
    UPDATE ledger_head
    SET position = $4, hash = $5, lane_time = $6, applied = $7, applied_digest = $8, stream_created = $9
    WHERE partition = $1 AND epoch = $2 AND position = $3
    RETURNING partition, epoch
), ref AS (
    INSERT INTO ledger_ref (partition, position, kind, external_ref, origin, n, total)
    SELECT head.partition, r.*
    FROM head, UNNEST($10::int8[], $11::text[], $12::bytea[], $13::int8[], $14::int4[], $15::int8[])
        AS r (position, kind, external_ref, origin, n, total)
)
INSERT INTO ledger_event (partition, epoch, position, amount, posted, held, lane_time, stored_time, command_id,
                          hold, kind, issuer, account, fingerprint, hash, body, envelope)
SELECT head.partition, head.epoch, e.*
FROM head, UNNEST($16::int8[], $17::int8[], $18::int8[], $19::int8[], $20::timestamptz[], $21::timestamptz[],
                  $22::uuid[], $23::uuid[], $24::text[], $25::text[], $26::bytea[], $27::bytea[], $28::bytea[],
                  $29::bytea[], $30::bytea[])
    AS e (position, amount, posted, held, lane_time, stored_time, command_id, hold, kind, issuer, account,
          fingerprint, hash, body, envelope)";

const ADVANCE: &str = "
UPDATE ledger_head SET applied = $4, applied_digest = $5, stream_created = $6
WHERE partition = $1 AND epoch = $2 AND position = $3";

impl Writer {
    /// Connects, fences every other writer of the partition, and reads where it ended.
    pub async fn take_over(url: &str, partition: i16) -> Result<Self, StoreError> {
        let mut connection = connect(url, Role::Writer).await?;
        crate::safety::check_session(&mut connection).await?;
        let row = sqlx::query("UPDATE ledger_head SET epoch = epoch + 1 WHERE partition = $1 RETURNING *")
            .bind(partition)
            .fetch_optional(&mut connection)
            .await?;
        let row = row
            .ok_or_else(|| StoreError::Inconsistent(format!("there is no head of partition {partition}")))?;
        let head = Head::from_row(&row)?;
        Ok(Writer { connection, head })
    }

    /// The head as this writer knows it.
    #[must_use]
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The connection, for reading what this writer has written.
    pub fn connection(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    /// Appends `records`, which follow the head, and moves the applied sequence with them.
    pub async fn append(&mut self, records: &[Record], applied: Applied) -> Result<(), StoreError> {
        let last = records.last().expect("appending nothing is `advance`");
        let (position, hash, time) = (last.event.position, last.hash, last.event.time);
        assert_eq!(records[0].event.position, self.head.position.next(), "records follow the head");
        let inserted = self.insert(records, &applied, position, &hash, time).await?;
        if inserted == 0 {
            return Err(StoreError::Fenced);
        }
        if inserted != records.len() as u64 {
            let problem = format!("{inserted} of {} events were inserted", records.len());
            return Err(StoreError::Inconsistent(problem));
        }
        self.head = Head { position, hash, lane_time: time, applied, ..self.head.clone() };
        Ok(())
    }

    async fn insert(
        &mut self,
        records: &[Record],
        applied: &Applied,
        position: Position,
        hash: &Hash,
        time: Timestamp,
    ) -> Result<u64, StoreError> {
        let events = || records.iter().map(|record| &record.event);
        let references: Vec<(Position, Reference)> = records
            .iter()
            .filter_map(|record| record.reference().map(|reference| (record.event.position, reference)))
            .collect();
        let references = ReferenceColumns::of(&references);
        let result = sqlx::query(APPEND)
            .bind(self.head.partition)
            .bind(self.head.epoch)
            .bind(self.head.position.0)
            .bind(position.0)
            .bind(hash.as_slice())
            .bind(date(time))
            .bind(signed(applied.sequence))
            .bind(&applied.digest)
            .bind(applied.stream_created)
            .bind(references.positions)
            .bind(references.kinds)
            .bind(references.externals)
            .bind(references.origins)
            .bind(references.ns)
            .bind(references.totals)
            .bind(events().map(|event| event.position.0).collect::<Vec<i64>>())
            .bind(events().map(|event| event.fact.amount()).collect::<Vec<Option<i64>>>())
            .bind(events().map(|event| event.posted).collect::<Vec<i64>>())
            .bind(events().map(|event| event.held).collect::<Vec<i64>>())
            .bind(events().map(|event| date(event.time)).collect::<Vec<_>>())
            .bind(records.iter().map(|record| date(record.stored_time)).collect::<Vec<_>>())
            .bind(events().map(|event| event.command).collect::<Vec<Uuid>>())
            .bind(events().map(|event| event.fact.hold()).collect::<Vec<Option<Uuid>>>())
            .bind(events().map(|event| event.fact.kind().as_str()).collect::<Vec<&str>>())
            .bind(events().map(|event| event.issuer.as_str()).collect::<Vec<&str>>())
            .bind(events().map(|event| event.account.as_str().as_bytes()).collect::<Vec<&[u8]>>())
            .bind(records.iter().map(|record| record.fingerprint.as_slice()).collect::<Vec<&[u8]>>())
            .bind(records.iter().map(|record| record.hash.as_slice()).collect::<Vec<&[u8]>>())
            .bind(records.iter().map(|record| record.body.as_slice()).collect::<Vec<&[u8]>>())
            .bind(records.iter().map(|record| record.envelope.as_slice()).collect::<Vec<&[u8]>>())
            .execute(&mut self.connection)
            .await?;
        Ok(result.rows_affected())
    }

    /// Moves the applied sequence past messages that yielded no event.
    pub async fn advance(&mut self, applied: Applied) -> Result<(), StoreError> {
        let result = sqlx::query(ADVANCE)
            .bind(self.head.partition)
            .bind(self.head.epoch)
            .bind(self.head.position.0)
            .bind(signed(applied.sequence))
            .bind(&applied.digest)
            .bind(applied.stream_created)
            .execute(&mut self.connection)
            .await?;
        if result.rows_affected() != 1 {
            return Err(StoreError::Fenced);
        }
        self.head.applied = applied;
        Ok(())
    }
}

/// A stream sequence as Postgres counts.
fn signed(sequence: u64) -> i64 {
    i64::try_from(sequence).expect("stream sequences stay below 2^63")
}

#[derive(Default)]
struct ReferenceColumns<'a> {
    positions: Vec<i64>,
    kinds: Vec<&'static str>,
    externals: Vec<Option<&'a [u8]>>,
    origins: Vec<Option<i64>>,
    ns: Vec<Option<i32>>,
    totals: Vec<Option<i64>>,
}

impl<'a> ReferenceColumns<'a> {
    fn of(references: &'a [(Position, Reference)]) -> Self {
        let mut columns = ReferenceColumns::default();
        for (position, reference) in references {
            columns.positions.push(position.0);
            let (kind, external, undo) = match reference {
                Reference::External(bytes) => ("external_ref", Some(bytes.as_slice()), None),
                Reference::Undo { origin, n, total } => ("refund", None, Some((origin.0, *n, *total))),
            };
            columns.kinds.push(kind);
            columns.externals.push(external);
            columns.origins.push(undo.map(|(origin, _, _)| origin));
            columns.ns.push(
                undo.map(|(_, n, _)| i32::try_from(n).expect("a charge is undone less than 2^31 times")),
            );
            columns.totals.push(undo.map(|(_, _, total)| total));
        }
        columns
    }
}
