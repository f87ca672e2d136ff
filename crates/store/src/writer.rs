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
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use holdfast_core::chain::Hash;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row as _};

use crate::appending::{Appending, signed};
use crate::connect::{Role, connect, is_local};
use crate::encode::{COPY, CopyRows};
use crate::error::StoreError;
use crate::head::{Applied, Head, time_of_id};
use crate::record::Record;

/// From so many rows on COPY is worth its round trips; see docs/performance.md.
const COPY_ROWS_MIN: usize = 8;

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
    /// A piece of the rows of a COPY.
    rows: BytesMut,
}

/// Envelopes of batches, with their digests.
pub type Evidence = Vec<(Hash, Bytes)>;

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
        Ok(Writer { connection, head, may_copy: is_local(url)?, rows: BytesMut::new() })
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
        let appending = Appending { from: &self.head, to: &next, records, evidence };
        let inserted = if self.may_copy && records.len() >= COPY_ROWS_MIN {
            copy_in_transaction(&mut self.connection, &mut self.rows, &appending).await?
        } else {
            appending.whole().build().execute(&mut self.connection).await?.rows_affected()
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

/// Appends by COPY, through the buffer `piece`. Answers how many rows were: all, or none when another writer
/// has taken over.
async fn copy_in_transaction(
    connection: &mut PgConnection,
    piece: &mut BytesMut,
    appending: &Appending<'_>,
) -> Result<u64, StoreError> {
    sqlx::query("BEGIN").execute(&mut *connection).await?;
    let copied = copy(connection, piece, appending).await;
    // The rows that are missing must not be found out about after the commit.
    let fine = copied.as_ref().is_ok_and(|copied| *copied == appending.records.len() as u64);
    sqlx::query(if fine { "COMMIT" } else { "ROLLBACK" }).execute(&mut *connection).await?;
    copied
}

async fn copy(
    connection: &mut PgConnection,
    piece: &mut BytesMut,
    appending: &Appending<'_>,
) -> Result<u64, StoreError> {
    let moved = appending.without_rows().build().execute(&mut *connection).await?;
    if moved.rows_affected() == 0 {
        return Ok(0);
    }
    let mut copy = connection.copy_in_raw(COPY).await?;
    let mut rows = CopyRows::new(appending.to.partition, appending.to.epoch, appending.records);
    while rows.next(piece) {
        copy.send(&piece[..]).await?;
    }
    Ok(copy.finish().await?)
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
