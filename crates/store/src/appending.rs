//! The statements that append.
//!
//! **Shape.** Each moves the head and inserts from the row that was moved: nothing, when another writer has
//! taken over. What a commit does not bring is not part of its statement, since the database prepares every
//! part of one whether rows come or not.

use holdfast_core::Position;
use sqlx::postgres::PgHasArrayType;
use sqlx::query_builder::Separated;
use sqlx::{Encode, Postgres, QueryBuilder, Type};

use crate::head::Head;
use crate::record::{Record, Reference, date};
use crate::writer::Evidence;

/// What one commit appends.
pub(crate) struct Appending<'a> {
    /// The head, which is moved if it is still there.
    pub(crate) from: &'a Head,
    /// The head as it is then.
    pub(crate) to: &'a Head,
    pub(crate) records: &'a [Record],
    pub(crate) evidence: &'a Evidence,
}

impl Appending<'_> {
    /// Everything but the rows, which COPY brings. It affects one row, or none.
    pub(crate) fn without_rows(&self) -> QueryBuilder<Postgres> {
        let mut sql = self.beginning();
        sql.push(" SELECT FROM head");
        sql
    }

    /// Everything. It affects as many rows as there are records, or none.
    pub(crate) fn whole(&self) -> QueryBuilder<Postgres> {
        let mut sql = self.beginning();
        sql.push(
            " INSERT INTO ledger_event (partition, epoch, position, amount, posted, held, lane_time, stored_time,
                                        command_id, hold, kind, issuer, account, fingerprint, hash, body, envelope)
             SELECT head.partition, head.epoch, ",
        );
        // A list of one costs the database several times what its value does.
        let alone = self.records.len() == 1;
        sql.push(if alone { "" } else { "e.* FROM head, UNNEST(" });
        Rows { columns: sql.separated(", "), records: self.records }.bind();
        sql.push(if alone { " FROM head" } else { ") AS e" });
        sql
    }

    /// Moves the head, and inserts references and evidence where there are any.
    fn beginning(&self) -> QueryBuilder<Postgres> {
        let Appending { from, to, .. } = self;
        let mut sql = QueryBuilder::new("WITH head AS (UPDATE ledger_head SET position = ");
        sql.push_bind(to.position.0).push(", latest_id_position = $1, hash = ").push_bind(&to.hash[..]);
        sql.push(", lane_time = ").push_bind(date(to.lane_time));
        sql.push(", applied = ").push_bind(signed(to.applied.sequence));
        sql.push(", applied_digest = ").push_bind(&to.applied.digest);
        sql.push(", stream_created = ").push_bind(to.applied.stream_created);
        sql.push(", latest_id_ms = ").push_bind(to.latest_id_ms);
        sql.push(" WHERE partition = ").push_bind(from.partition);
        sql.push(" AND epoch = ").push_bind(from.epoch);
        sql.push(" AND position = ").push_bind(from.position.0);
        sql.push(" RETURNING partition, epoch)");
        self.references(&mut sql);
        self.evidence(&mut sql);
        sql
    }

    fn references(&self, sql: &mut QueryBuilder<Postgres>) {
        let referring = self.records.iter().filter_map(|record| Some((record, record.reference()?)));
        let columns =
            ReferenceColumns::of(referring.map(|(record, reference)| (record.event.position, reference)));
        if columns.positions.is_empty() {
            return;
        }
        sql.push(
            ", ref AS (INSERT INTO ledger_ref (partition, position, kind, external_ref, origin, n, total)
             SELECT head.partition, r.* FROM head, UNNEST(",
        );
        let mut lists = sql.separated(", ");
        lists.push_bind(columns.positions).push_bind(columns.kinds).push_bind(columns.externals);
        lists.push_bind(columns.origins).push_bind(columns.ns).push_bind(columns.totals);
        sql.push(") AS r)");
    }

    fn evidence(&self, sql: &mut QueryBuilder<Postgres>) {
        if self.evidence.is_empty() {
            return;
        }
        let (digests, envelopes): (Vec<&[u8]>, Vec<&[u8]>) =
            self.evidence.iter().map(|(digest, envelope)| (digest.as_slice(), envelope.as_ref())).unzip();
        sql.push(
            ", evidence AS (INSERT INTO ledger_evidence (partition, digest, envelope)
             SELECT head.partition, v.* FROM head, UNNEST(",
        );
        sql.separated(", ").push_bind(digests).push_bind(envelopes);
        // A batch that was published twice is the same evidence.
        sql.push(") AS v ON CONFLICT ON CONSTRAINT ledger_evidence_pkey DO NOTHING)");
    }
}

/// The columns of rows: values of one, lists of several.
struct Rows<'q, 'a> {
    columns: Separated<'q, Postgres, &'static str>,
    records: &'a [Record],
}

impl<'a> Rows<'_, 'a> {
    fn bind(mut self) {
        self.column(|record| record.event.position.0);
        self.column(|record| record.event.fact.amount());
        self.column(|record| record.event.posted);
        self.column(|record| record.event.held);
        self.column(|record| date(record.event.time));
        self.column(|record| date(record.stored_time));
        self.column(|record| record.event.command);
        self.column(|record| record.event.fact.hold());
        self.column(|record| record.event.fact.kind().as_str());
        self.column(|record| record.event.issuer.as_str());
        self.column(|record| record.event.account.as_str().as_bytes());
        self.column(|record| record.fingerprint.as_slice());
        self.column(|record| record.hash.as_slice());
        self.column(|record| record.body.as_slice());
        self.column(|record| record.envelope.as_ref());
    }

    fn column<T>(&mut self, value: fn(&'a Record) -> T)
    where
        T: Encode<'a, Postgres> + Type<Postgres> + PgHasArrayType + 'a,
    {
        match self.records {
            [alone] => self.columns.push_bind(value(alone)),
            several => self.columns.push_bind(several.iter().map(value).collect::<Vec<T>>()),
        };
    }
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
    fn of(references: impl Iterator<Item = (Position, Reference)>) -> Self {
        let mut columns = ReferenceColumns::default();
        for (position, reference) in references {
            columns.positions.push(position.0);
            let (kind, external, undo) = match reference {
                Reference::External(bytes) => ("external_ref", Some(bytes), None),
                Reference::Undo { origin, n, total } => ("refund", None, Some((origin.0, n, total))),
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

/// A stream sequence as Postgres counts.
pub(crate) fn signed(sequence: u64) -> i64 {
    i64::try_from(sequence).expect("stream sequences stay below 2^63")
}
