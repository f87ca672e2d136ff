//! A client that keeps its own books: what it was told, to be compared with what the log says.

use std::collections::BTreeMap;

use anyhow::{Result, bail, ensure};
use holdfast_core::{Asset, Decimal, Units};
use holdfast_protocol::Outcome;
use holdfast_testkit::tenant::Tenant;
use holdfast_testkit::wait;
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use crate::{SOON, count, database};

/// Every outcome that a client received, by command id.
#[derive(Debug, Default)]
pub struct ClientBooks(BTreeMap<Uuid, Outcome>);

impl ClientBooks {
    /// Notes an outcome.
    pub fn note(&mut self, outcome: Outcome) {
        self.0.insert(outcome.id, outcome);
    }

    /// How many outcomes were received.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none was.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Checks these books of [`crate::load::Load`] with `callers` callers against the log: every
    /// outcome once, no row that nobody was told of, no gap, and every charge in the balances.
    pub async fn must_balance(&self, tenant: &Tenant, callers: usize) -> Result<()> {
        let mut connection = database(tenant).await?;
        self.compare(&mut connection).await?;
        let commands =
            count(&mut connection, "SELECT count(*) FROM ledger_event WHERE issuer = 'backend'").await?;
        // Each account was opened and funded besides.
        ensure!(
            usize::try_from(commands)? == self.len() + 2 * callers,
            "{commands} rows, {} outcomes",
            self.len()
        );
        ensure!(
            count(&mut connection, "SELECT max(position) - count(*) FROM ledger_event").await? == 0,
            "a gap"
        );
        let charged = "SELECT coalesce(sum(amount), 0)::int8 FROM ledger_event WHERE kind = 'captured'";
        let charged = count(&mut connection, charged).await?;
        let funded = i64::try_from(callers)? * 1_000_000_000_000;
        let posted = "SELECT sum(posted)::int8 FROM projection.account";
        wait::until("the balances show every charge", SOON, async || {
            count(&mut connection, posted).await.ok().filter(|posted| funded - posted == charged)
        })
        .await?;
        Ok(())
    }

    /// Checks that every outcome stands in the log exactly once, as it was told.
    pub async fn compare(&self, connection: &mut PgConnection) -> Result<()> {
        let rows = sqlx::query("SELECT command_id, position, kind, posted, held FROM ledger_event")
            .fetch_all(connection)
            .await?;
        let mut found: BTreeMap<Uuid, Vec<(i64, String, i64, i64)>> = BTreeMap::new();
        for row in &rows {
            let told = (row.try_get(1)?, row.try_get(2)?, row.try_get(3)?, row.try_get(4)?);
            found.entry(row.try_get(0)?).or_default().push(told);
        }
        for (id, outcome) in &self.0 {
            let Some([(position, kind, posted, held)]) = found.get(id).map(Vec::as_slice) else {
                bail!("command {id} was answered {outcome:?}; the log has {:?}", found.get(id));
            };
            let told = (outcome.position, &outcome.kind, units(&outcome.posted)?, units(&outcome.held)?);
            if told != (Some(*position), kind, *posted, *held) {
                bail!("command {id} was answered {outcome:?}; the log has {:?}", found[id]);
            }
        }
        Ok(())
    }
}

fn units(amount: &Option<String>) -> Result<Units> {
    let text = amount.as_deref().unwrap_or("0");
    let (sign, digits) = text.strip_prefix('-').map_or((1, text), |digits| (-1, digits));
    Ok(sign * digits.parse::<Decimal>()?.units(Asset::USD)?)
}
