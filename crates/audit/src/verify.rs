//! Verifying: is this log whole, and does everything follow from it?
//!
//! **Correctness.** Rows are checked in order, and the first that fails is named: its position is
//! where the log stops being believable. A log that was edited together with its chain and its
//! head by somebody with every right is only told by an anchor kept elsewhere; keep the hash that
//! `verify` prints.

use futures_util::StreamExt;
use holdfast_core::chain::{GENESIS, Hash};
use holdfast_core::{AccountId, Position};
use holdfast_prices::Book;
use holdfast_protocol::RootToken;
use holdfast_protocol::token::hex;
use holdfast_store::{Head, Row, StoreError, head};
use sha2::{Digest, Sha256};
use sqlx::PgConnection;

use crate::compare;
use crate::folded::Folded;
use crate::prices::Prices;
use crate::replay::runs;
use crate::signatures::Signatures;

/// What was found.
#[derive(Debug)]
pub struct Report {
    /// The last event checked.
    pub position: Position,
    /// Its chain hash: keep it elsewhere, and the log up to here can never be rewritten unseen.
    pub hash: Hash,
    /// How many accounts there are.
    pub accounts: usize,
    /// What is wrong; empty when everything follows.
    pub findings: Vec<Finding>,
    /// Rows whose signature was checked and holds; none when signatures were not asked for.
    pub signed: Option<u64>,
    /// Rows whose key is not known.
    pub unverifiable: u64,
    /// Priced rows whose rates are in their book; none when prices were not asked for.
    pub priced: Option<u64>,
    /// Priced rows by a book that was not given.
    pub unknown_books: u64,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The first position where it shows; none when it is not about one row.
    pub position: Option<Position>,
    /// Which check found it.
    pub check: &'static str,
    /// What is wrong.
    pub problem: String,
}

/// What is checked besides the log and the projections.
#[derive(Default)]
pub struct Options<'a> {
    /// The tokens to check signatures with.
    pub signatures: Option<&'a [RootToken]>,
    /// The price books to compare every priced charge with.
    pub prices: Option<&'a [Book]>,
}

/// Why the walk along the log ended.
enum Stop {
    Store(StoreError),
    Found(Finding),
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Stop::Store(error)
    }
}

/// Checks the log of `partition` and what was made of it, as of one moment.
pub async fn verify(
    mut connection: PgConnection,
    partition: i16,
    options: Options<'_>,
    mut progress: impl FnMut(Position, Position),
) -> Result<Report, StoreError> {
    sqlx::query("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY").execute(&mut connection).await?;
    let head = head::read(&mut connection, partition).await?;
    let checkpoint = holdfast_projector::load::checkpoint(&mut connection, partition).await?;
    let mut walk = Walk::new(options);
    if let Some(signatures) = &mut walk.signatures {
        signatures.read_batches(&mut connection, partition).await?;
    }
    let end = last_position(&mut connection, partition).await?.max(head.position);
    let (connection, walked) = runs(connection, partition, end, |rows: &[Row]| {
        for row in rows {
            walk.check(row, row.event.position <= checkpoint)?;
        }
        progress(walk.position, end);
        Ok(())
    })
    .await;
    let mut connection = connection?;
    match walked {
        Err(Stop::Found(finding)) => return Ok(walk.report(vec![finding])),
        Err(Stop::Store(StoreError::Log(error))) => {
            let finding =
                Finding { position: Some(walk.next()), check: "readable", problem: error.to_string() };
            return Ok(walk.report(vec![finding]));
        }
        Err(Stop::Store(StoreError::Inconsistent(problem))) => {
            let finding = Finding { position: Some(walk.next()), check: "readable", problem };
            return Ok(walk.report(vec![finding]));
        }
        Err(Stop::Store(error)) => return Err(error),
        Ok(()) => {}
    }
    let mut findings = walk.ends_at(&head);
    findings.extend(references(&mut connection, partition).await?);
    findings.extend(evidence(&mut connection, partition).await?);
    findings.extend(balances(&mut connection, partition, &walk.folded, checkpoint).await?);
    Ok(walk.report(findings))
}

/// The last row, which may lie beyond a head that was tampered with.
async fn last_position(connection: &mut PgConnection, partition: i16) -> Result<Position, StoreError> {
    let row: (i64,) =
        sqlx::query_as("SELECT coalesce(max(position), 0) FROM ledger_event WHERE partition = $1")
            .bind(partition)
            .fetch_one(connection)
            .await?;
    Ok(Position(row.0))
}

/// Where the walk along the log is.
struct Walk<'a> {
    position: Position,
    hash: Hash,
    epoch: i64,
    time: holdfast_core::Timestamp,
    folded: Folded,
    signatures: Option<Signatures<'a>>,
    prices: Option<Prices<'a>>,
    accounts: std::collections::HashSet<AccountId>,
}

impl<'a> Walk<'a> {
    fn new(options: Options<'a>) -> Self {
        Walk {
            position: Position::default(),
            hash: GENESIS,
            epoch: 0,
            time: holdfast_core::Timestamp::default(),
            folded: Folded::default(),
            signatures: options.signatures.map(Signatures::new),
            prices: options.prices.map(Prices::new),
            accounts: std::collections::HashSet::new(),
        }
    }

    fn next(&self) -> Position {
        self.position.next()
    }

    /// Checks the next row. What comes after the projections' checkpoint is folded apart, so that
    /// the fold can be compared with them.
    fn check(&mut self, row: &Row, before_checkpoint: bool) -> Result<(), Stop> {
        let at = row.event.position;
        let found = |check, problem: String| Err(Stop::Found(Finding { position: Some(at), check, problem }));
        if at != self.next() {
            let missing = self.next();
            let problem = format!("position {missing} is missing");
            return Err(Stop::Found(Finding { position: Some(missing), check: "positions", problem }));
        }
        if row.expected_hash(&self.hash) != row.hash {
            return found("chain", "its hash does not follow from the row and the one before".to_owned());
        }
        if row.epoch < self.epoch {
            return found("epochs", format!("epoch {} stands after epoch {}", row.epoch, self.epoch));
        }
        if row.event.time < self.time {
            return found("time", "its lane time is before that of the row before".to_owned());
        }
        if before_checkpoint && let Err(error) = self.folded.apply(&row.event) {
            return found("fold", error.problem);
        }
        if let Some(signatures) = &mut self.signatures
            && let Err(problem) = signatures.check(row)
        {
            return found("signature", problem);
        }
        if let Some(prices) = &mut self.prices
            && let Err(problem) = prices.check(&row.event)
        {
            return found("price", problem);
        }
        if matches!(row.event.fact, holdfast_core::Fact::AccountOpened { .. }) {
            self.accounts.insert(row.event.account.clone());
        }
        (self.position, self.hash, self.epoch, self.time) = (at, row.hash, row.epoch, row.event.time);
        Ok(())
    }

    /// Whether the log ends where its head says.
    fn ends_at(&self, head: &Head) -> Vec<Finding> {
        if (self.position, self.hash) == (head.position, head.hash) {
            return Vec::new();
        }
        let problem = format!("the log ends at {}, its head says {}", self.position, head.position);
        vec![Finding { position: Some(self.position.min(head.position).next()), check: "head", problem }]
    }

    fn report(self, findings: Vec<Finding>) -> Report {
        let unknown_books = self.prices.as_ref().map_or(0, |prices| prices.unverifiable);
        let unverifiable = self.signatures.as_ref().map_or(0, |signatures| signatures.unverifiable);
        Report {
            position: self.position,
            hash: self.hash,
            accounts: self.accounts.len(),
            findings,
            signed: self.signatures.map(|signatures| signatures.good),
            unverifiable,
            priced: self.prices.map(|prices| prices.good),
            unknown_books,
        }
    }
}

/// Every reference that events made is written down, and no other.
async fn references(connection: &mut PgConnection, partition: i16) -> Result<Vec<Finding>, StoreError> {
    let rows: Vec<(i64,)> =
        sqlx::query_as(include_str!("references.sql")).bind(partition).fetch_all(connection).await?;
    let finding = |(position,)| Finding {
        position: Some(Position(position)),
        check: "references",
        problem: "ledger_ref and the event do not agree".to_owned(),
    };
    Ok(rows.into_iter().map(finding).collect())
}

/// The envelopes of batches are those that their events name by digest.
async fn evidence(connection: &mut PgConnection, partition: i16) -> Result<Vec<Finding>, StoreError> {
    let query = sqlx::query_as("SELECT digest, envelope FROM ledger_evidence WHERE partition = $1");
    let mut rows = query.bind(partition).fetch(connection);
    let mut findings = Vec::new();
    while let Some((digest, envelope)) = rows.next().await.transpose()? {
        let (digest, envelope): (Vec<u8>, Vec<u8>) = (digest, envelope);
        if Sha256::digest(&envelope).as_slice() != digest {
            let problem = format!("the envelope of the batch {} is another one", hex(&digest));
            findings.push(Finding { position: None, check: "evidence", problem });
        }
    }
    Ok(findings)
}

/// Money is conserved, and the projections say what the log says.
async fn balances(
    connection: &mut PgConnection,
    partition: i16,
    folded: &Folded,
    checkpoint: Position,
) -> Result<Vec<Finding>, StoreError> {
    let finding = |check| move |problem| Finding { position: None, check, problem };
    let mut findings = Vec::new();
    for asset in folded.assets() {
        let sum = folded.trial_balance(asset);
        if sum != 0 {
            findings.push(finding("conservation")(format!("the books of {asset} sum to {sum}, not to zero")));
        }
    }
    findings.extend(
        compare::projections(connection, partition, folded).await?.into_iter().map(finding("projections")),
    );
    let recomputed = compare::recomputed(connection, partition, checkpoint).await?;
    findings.extend(recomputed.into_iter().map(finding("sql recomputation")));
    Ok(findings)
}
