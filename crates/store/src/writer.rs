//! The one writer of a partition.
//!
//! **Shape.** A batch is appended in one of two ways. A small one is a single statement, which is one
//! round trip. A larger one is a transaction that moves the head and then takes the rows by COPY,
//! which costs the database half as much for each row and three round trips more for the batch.
//!
//! **Correctness.** [`Writer::take_over`] raises the epoch in a statement of its own, which waits
//! for a commit of the old writer that is under way; only then is anything read. From there on
//! the old writer's statements find another epoch and do nothing. Either way of appending begins by
//! moving the head of this writer's epoch from where it knows it to be, which locks it until the
//! commit; no rows follow when it was not there, and the database refuses rows whose head was not
//! moved with them. An [`StoreError::Unavailable`] from [`Writer::append`] means that nobody knows
//! whether it was committed: take over again.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use holdfast_core::Position;
use holdfast_core::chain::Hash;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, PgConnection, Postgres, Row as _};
use uuid::Uuid;

use crate::connect::{Role, connect, is_local};
use crate::encode::{COPY_COLUMNS, CopyRows};
use crate::error::StoreError;
use crate::head::{Applied, Head, time_of_id};
use crate::record::{Record, Reference, date};

/// From so many rows on COPY is worth its round trips; see docs/performance.md.
const COPY_ROWS_MIN: usize = 24;

/// How long the old writer's commit may still take before its session is ended: longer than any takes
/// on a disk that works.
const OLD_WRITER_WITHIN: Duration = Duration::from_secs(5);

/// The connection of the writer, and the head as it has made it.
pub struct Writer {
    connection: PgConnection,
    head: Head,
    /// Whether COPY may be used: over TCP its last small packet would wait for an acknowledgement
    /// (sqlx sets no TCP_NODELAY), which takes longer than it saves.
    may_copy: bool,
    /// The statements, made once.
    move_head: Arc<str>,
    append: Arc<str>,
    /// A piece of the rows of a COPY.
    rows: BytesMut,
}

/// Envelopes of batches, with their digests.
pub type Evidence = Vec<(Hash, Bytes)>;

/// The head moves if it is still ours; references and evidence are inserted from the moved row.
const MOVE_HEAD: &str = "
WITH head AS (
    UPDATE ledger_head
    SET position = $4, hash = $5, lane_time = $6, applied = $7, applied_digest = $8, stream_created = $9,
        latest_id_ms = $10, latest_id_position = $4
    WHERE partition = $1 AND epoch = $2 AND position = $3
    RETURNING partition, epoch
), ref AS (
    INSERT INTO ledger_ref (partition, position, kind, external_ref, origin, n, total)
    SELECT head.partition, r.*
    FROM head, UNNEST($11::int8[], $12::text[], $13::bytea[], $14::int8[], $15::int4[], $16::int8[])
        AS r (position, kind, external_ref, origin, n, total)
), evidence AS (
    INSERT INTO ledger_evidence (partition, digest, envelope)
    SELECT head.partition, v.* FROM head, UNNEST($17::bytea[], $18::bytea[]) AS v (digest, envelope)
    -- A batch that was published twice is the same evidence.
    ON CONFLICT ON CONSTRAINT ledger_evidence_pkey DO NOTHING
)";

/// Ends [`MOVE_HEAD`] where COPY brings the rows.
const NO_ROWS: &str = "SELECT FROM head";

/// Ends [`MOVE_HEAD`] with the rows themselves, inserted from the moved row too.
const ROWS: &str = "
INSERT INTO ledger_event (partition, epoch, position, amount, posted, held, lane_time, stored_time, command_id,
                          hold, kind, issuer, account, fingerprint, hash, body, envelope)
SELECT head.partition, head.epoch, e.*
FROM head, UNNEST($19::int8[], $20::int8[], $21::int8[], $22::int8[], $23::timestamptz[], $24::timestamptz[],
                  $25::uuid[], $26::uuid[], $27::text[], $28::text[], $29::bytea[], $30::bytea[], $31::bytea[],
                  $32::bytea[], $33::bytea[])
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
        let row = raise_epoch(&mut connection, url, partition).await?;
        let mut head = Head::from_row(&row)?;
        if row.try_get::<i64, _>("latest_id_position")? != head.position.0 {
            head.latest_id_ms = latest_id_ms(&mut connection, partition).await?;
        }
        let (move_head, append) =
            (format!("{MOVE_HEAD} {NO_ROWS}").into(), format!("{MOVE_HEAD} {ROWS}").into());
        Ok(Writer { connection, head, may_copy: is_local(url)?, move_head, append, rows: BytesMut::new() })
    }

    /// The head as this writer knows it.
    #[must_use]
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Appends `records`, which follow the head, with the `evidence` that they refer to, and moves the
    /// applied sequence with them.
    pub async fn append(
        &mut self,
        records: &[Record],
        evidence: &Evidence,
        applied: Applied,
    ) -> Result<(), StoreError> {
        let last = records.last().expect("appending nothing is `advance`");
        let (position, hash, time) = (last.event.position, last.hash, last.event.time);
        assert_eq!(records[0].event.position, self.head.position.next(), "records follow the head");
        let ids = records.iter().flat_map(|record| [Some(record.event.command), record.event.fact.hold()]);
        let latest = ids.flatten().filter_map(|id| time_of_id(&id)).fold(self.head.latest_id_ms, i64::max);
        let next =
            Head { position, hash, lane_time: time, applied, latest_id_ms: latest, ..self.head.clone() };
        let inserted = if self.may_copy && records.len() >= COPY_ROWS_MIN {
            self.copy_in_transaction(records, evidence, &next).await?
        } else {
            let query = self.moved(&self.append, records, evidence, &next);
            rows(query, records).execute(&mut self.connection).await?.rows_affected()
        };
        if inserted == 0 {
            return Err(StoreError::Fenced);
        }
        if inserted != records.len() as u64 {
            return Err(StoreError::Inconsistent(format!(
                "{inserted} of {} events were inserted",
                records.len()
            )));
        }
        self.head = next;
        Ok(())
    }

    /// Appends by COPY. Answers how many rows were: all, or none when another writer has taken over.
    async fn copy_in_transaction(
        &mut self,
        records: &[Record],
        evidence: &Evidence,
        next: &Head,
    ) -> Result<u64, StoreError> {
        sqlx::query("BEGIN").execute(&mut self.connection).await?;
        let copied = self.copy(records, evidence, next).await;
        // The rows that are missing must not be found out about after the commit.
        let fine = copied.as_ref().is_ok_and(|copied| *copied == records.len() as u64);
        sqlx::query(if fine { "COMMIT" } else { "ROLLBACK" }).execute(&mut self.connection).await?;
        copied
    }

    async fn copy(
        &mut self,
        records: &[Record],
        evidence: &Evidence,
        next: &Head,
    ) -> Result<u64, StoreError> {
        let moved =
            self.moved(&self.move_head, records, evidence, next).execute(&mut self.connection).await?;
        if moved.rows_affected() == 0 {
            return Ok(0);
        }
        let statement = format!("COPY ledger_event ({COPY_COLUMNS}) FROM STDIN (FORMAT binary)");
        let mut copy = self.connection.copy_in_raw(&statement).await?;
        let mut rows = CopyRows::new(next.partition, next.epoch, records);
        while rows.next(&mut self.rows) {
            copy.send(&self.rows[..]).await?;
        }
        Ok(copy.finish().await?)
    }

    /// The statement `sql` with what [`MOVE_HEAD`] takes.
    fn moved<'q>(
        &self,
        sql: &Arc<str>,
        records: &[Record],
        evidence: &'q Evidence,
        next: &'q Head,
    ) -> Query<'q, Postgres, PgArguments> {
        let references: Vec<(Position, Reference)> = records
            .iter()
            .filter_map(|record| record.reference().map(|reference| (record.event.position, reference)))
            .collect();
        let references = ReferenceColumns::of(&references);
        sqlx::query(AssertSqlSafe(Arc::clone(sql)))
            .bind(self.head.partition)
            .bind(self.head.epoch)
            .bind(self.head.position.0)
            .bind(next.position.0)
            .bind(next.hash.as_slice())
            .bind(date(next.lane_time))
            .bind(signed(next.applied.sequence))
            .bind(&next.applied.digest)
            .bind(next.applied.stream_created)
            .bind(next.latest_id_ms)
            .bind(references.positions)
            .bind(references.kinds)
            .bind(references.externals)
            .bind(references.origins)
            .bind(references.ns)
            .bind(references.totals)
            .bind(evidence.iter().map(|(digest, _)| digest.as_slice()).collect::<Vec<&[u8]>>())
            .bind(evidence.iter().map(|(_, envelope)| envelope.as_ref()).collect::<Vec<&[u8]>>())
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

/// Raises the epoch, which waits for a commit of the old writer that is under way. One that does not
/// end is broken off: a process that was stopped in the middle of a COPY keeps its lock, and none of
/// the server's time limits applies to it.
async fn raise_epoch(connection: &mut PgConnection, url: &str, partition: i16) -> Result<PgRow, StoreError> {
    let (waiting,): (i32,) = sqlx::query_as("SELECT pg_backend_pid()").fetch_one(&mut *connection).await?;
    let raise = sqlx::query("UPDATE ledger_head SET epoch = epoch + 1 WHERE partition = $1 RETURNING *");
    let mut raised = pin!(raise.bind(partition).fetch_optional(connection));
    let row = loop {
        match tokio::time::timeout(OLD_WRITER_WITHIN, &mut raised).await {
            Ok(row) => break row?,
            Err(_) => break_off(url, waiting).await?,
        }
    };
    row.ok_or_else(|| StoreError::Inconsistent(format!("there is no head of partition {partition}")))
}

/// Ends the sessions of other writers that the session `waiting` waits for. The writer's role may not.
async fn break_off(url: &str, waiting: i32) -> Result<(), StoreError> {
    let mut login = connect(url, Role::Login).await?;
    let ended = sqlx::query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE pid = ANY (pg_blocking_pids($1)) AND application_name = $2",
    );
    ended.bind(waiting).bind(Role::Writer.application()).execute(&mut login).await?;
    Ok(())
}

/// The latest time that any id of version 7 in the log carries, where the head does not say it.
async fn latest_id_ms(connection: &mut PgConnection, partition: i16) -> Result<i64, StoreError> {
    let row: (i64,) = sqlx::query_as(
        "SELECT coalesce(max(('x' || left(replace(id::text, '-', ''), 12))::bit(48)::bigint), 0)
         FROM ledger_event e CROSS JOIN LATERAL (VALUES (e.command_id), (e.hold)) AS ids (id)
         WHERE e.partition = $1 AND substr(id::text, 15, 1) = '7'",
    )
    .bind(partition)
    .fetch_one(connection)
    .await?;
    Ok(row.0)
}

/// `query` with what [`ROWS`] takes.
fn rows<'q>(
    query: Query<'q, Postgres, PgArguments>,
    records: &'q [Record],
) -> Query<'q, Postgres, PgArguments> {
    let events = || records.iter().map(|record| &record.event);
    query
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
        .bind(records.iter().map(|record| record.envelope.as_ref()).collect::<Vec<&[u8]>>())
}

/// A stream sequence as Postgres counts.
fn signed(sequence: u64) -> i64 {
    i64::try_from(sequence).expect("stream sequences stay below 2^63")
}

#[derive(Default)]
struct ReferenceColumns {
    positions: Vec<i64>,
    kinds: Vec<&'static str>,
    externals: Vec<Option<Vec<u8>>>,
    origins: Vec<Option<i64>>,
    ns: Vec<Option<i32>>,
    totals: Vec<Option<i64>>,
}

impl ReferenceColumns {
    fn of(references: &[(Position, Reference)]) -> Self {
        let mut columns = ReferenceColumns::default();
        for (position, reference) in references {
            columns.positions.push(position.0);
            let (kind, external, undo) = match reference {
                Reference::External(bytes) => ("external_ref", Some(bytes.clone()), None),
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
