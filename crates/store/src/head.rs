//! The head of a partition: where its log ends, and where in the command stream that is.

use holdfast_core::chain::Hash;
use holdfast_core::{Position, Timestamp};
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use crate::error::StoreError;
use crate::record::{hash_of, moment};

/// Where in the command stream the log ends.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Applied {
    /// The last stream sequence that was applied; 0 for none.
    pub sequence: u64,
    /// The digest of the message there; empty for none.
    pub digest: Vec<u8>,
    /// When that stream was created, in Unix nanoseconds.
    pub stream_created: i64,
}

/// The row of `ledger_head`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The partition.
    pub partition: i16,
    /// The writer that may append.
    pub epoch: i64,
    /// The last event.
    pub position: Position,
    /// Its chain hash.
    pub hash: Hash,
    /// Its lane time.
    pub lane_time: Timestamp,
    /// Where in the command stream.
    pub applied: Applied,
    /// The latest time, in Unix milliseconds, that any id of version 7 up to here carries.
    pub latest_id_ms: i64,
}

/// The time that an id of version 7 carries, in Unix milliseconds (RFC 9562, section 5.7).
#[must_use]
pub fn time_of_id(id: &Uuid) -> Option<i64> {
    let millis = i64::try_from(id.as_u128() >> 80).ok()?;
    (id.get_version_num() == 7).then_some(millis)
}

impl Head {
    pub(crate) fn from_row(row: &PgRow) -> Result<Self, StoreError> {
        let applied: i64 = row.try_get("applied")?;
        Ok(Head {
            partition: row.try_get("partition")?,
            epoch: row.try_get("epoch")?,
            position: Position(row.try_get("position")?),
            hash: hash_of(row.try_get("hash")?)?,
            lane_time: moment(row.try_get("lane_time")?),
            applied: Applied {
                sequence: u64::try_from(applied).unwrap_or(0),
                digest: row.try_get("applied_digest")?,
                stream_created: row.try_get("stream_created")?,
            },
            latest_id_ms: row.try_get("latest_id_ms")?,
        })
    }
}

/// Reads the head as it is now; whoever is not the writer may be behind a moment later.
pub async fn read(connection: &mut sqlx::PgConnection, partition: i16) -> Result<Head, StoreError> {
    let row = sqlx::query("SELECT * FROM ledger_head WHERE partition = $1")
        .bind(partition)
        .fetch_optional(connection)
        .await?;
    let row =
        row.ok_or_else(|| StoreError::Inconsistent(format!("there is no head of partition {partition}")))?;
    Head::from_row(&row)
}
