//! What a fold knows without asking: the accounts of its last steps, with their open holds.
//!
//! **Correctness.** Whoever folds is the only one who writes the tables, as long as they stand where
//! its last step left them; [`Cache::at`] says where that is. In any doubt everything is forgotten.

use std::collections::BTreeSet;

use holdfast_core::{Account, AccountId, Event, HoldId, Position};
use holdfast_store::recent::Run;
use holdfast_store::{Map, StoreError};
use sqlx::{AssertSqlSafe, PgConnection, Row as _};

use crate::rows;
use crate::tables::Tables;

/// How many accounts are remembered at most: enough for those that a busy hour is about, some 30 MB.
const ACCOUNTS_MAX: usize = 100_000;
/// With so many accounts a generation is full.
const GENERATION_ACCOUNTS: usize = ACCOUNTS_MAX / 2;

/// Accounts as of [`Cache::at`], each with all its open holds.
#[derive(Default)]
pub(crate) struct Cache {
    at: Option<Position>,
    /// Those of the last steps, and all that the step at hand is about.
    pub(crate) accounts: Accounts,
    /// Those of the steps before: an account that nobody asks for leaves when these do.
    before: Accounts,
}

/// Boxed, since a table has as many empty places again.
type Accounts = Map<AccountId, Box<Option<Account>>>;

impl Cache {
    /// Forgets everything unless it is as of `checkpoint`, and what was not asked for lately when it has become
    /// too much.
    pub(crate) fn begin(&mut self, checkpoint: Position) {
        if self.at.take() != Some(checkpoint) {
            self.accounts.clear();
            self.before.clear();
        } else if self.accounts.len() > GENERATION_ACCOUNTS {
            self.before = std::mem::take(&mut self.accounts);
        }
    }

    /// What is remembered is committed and stands at `checkpoint`.
    pub(crate) fn commit(&mut self, checkpoint: Position) {
        self.at = Some(checkpoint);
    }

    /// Loads what the events of `run` are about and is not remembered.
    pub(crate) async fn load(
        &mut self,
        connection: &mut PgConnection,
        tables: Tables,
        partition: i16,
        run: &Run,
    ) -> Result<(), StoreError> {
        let accounts = run.iter().map(|logged| &logged.event.account);
        let missing: BTreeSet<&AccountId> = accounts.filter(|id| !self.remembers(id)).collect();
        if !missing.is_empty() {
            self.load_accounts(connection, tables, partition, &missing).await?;
        }
        let named = run.iter().filter_map(|logged| self.unknown_hold(&logged.event));
        let missing: BTreeSet<(AccountId, HoldId)> = named.collect();
        if !missing.is_empty() {
            self.load_holds(connection, tables, partition, &missing).await?;
        }
        Ok(())
    }

    /// Whether an account is remembered, which makes it one of the last steps'.
    fn remembers(&mut self, id: &AccountId) -> bool {
        if self.accounts.contains_key(id) {
            return true;
        }
        let Some((id, account)) = self.before.remove_entry(id) else { return false };
        self.accounts.insert(id, account);
        true
    }

    /// The hold that `event` changes, when it has ended and so is not remembered.
    fn unknown_hold(&self, event: &Event) -> Option<(AccountId, HoldId)> {
        let hold = event.fact.ended_hold()?;
        let known = self.accounts.get(&event.account)?.as_ref().as_ref()?.holds.contains(&hold);
        (!known).then(|| (event.account.clone(), hold))
    }

    async fn load_accounts(
        &mut self,
        connection: &mut PgConnection,
        tables: Tables,
        partition: i16,
        missing: &BTreeSet<&AccountId>,
    ) -> Result<(), StoreError> {
        let names: Vec<&[u8]> = missing.iter().map(|id| id.as_str().as_bytes()).collect();
        let sql = format!(
            "SELECT {} FROM UNNEST($2::bytea[]) AS n (account) CROSS JOIN LATERAL (
                 SELECT * FROM {}.account WHERE partition = $1 AND account = n.account LIMIT 1
             ) a",
            rows::ACCOUNT,
            tables.schema()
        );
        let found = sqlx::query(AssertSqlSafe(sql)).bind(partition).bind(&names).fetch_all(&mut *connection);
        for row in found.await? {
            let account = rows::account(&row)?;
            self.accounts.insert(account.id.clone(), Box::new(Some(account)));
        }
        let sql = format!(
            "SELECT {} FROM UNNEST($2::bytea[]) AS n (account) CROSS JOIN LATERAL (
                 SELECT * FROM {}.hold WHERE partition = $1 AND account = n.account AND status = 'open' OFFSET 0
             ) h",
            rows::HOLD,
            tables.schema()
        );
        let found = sqlx::query(AssertSqlSafe(sql)).bind(partition).bind(names).fetch_all(connection);
        self.add_holds(&found.await?)?;
        for id in missing {
            self.accounts.entry((*id).clone()).or_default();
        }
        Ok(())
    }

    async fn load_holds(
        &mut self,
        connection: &mut PgConnection,
        tables: Tables,
        partition: i16,
        missing: &BTreeSet<(AccountId, HoldId)>,
    ) -> Result<(), StoreError> {
        let (owners, ids): (Vec<&[u8]>, Vec<HoldId>) =
            missing.iter().map(|(account, hold)| (account.as_str().as_bytes(), *hold)).unzip();
        let sql = format!(
            "SELECT {} FROM UNNEST($2::bytea[], $3::uuid[]) AS n (account, hold) CROSS JOIN LATERAL (
                 SELECT * FROM {}.hold WHERE partition = $1 AND hold = n.hold AND account = n.account LIMIT 1
             ) h",
            rows::HOLD,
            tables.schema()
        );
        let found =
            sqlx::query(AssertSqlSafe(sql)).bind(partition).bind(owners).bind(ids).fetch_all(connection);
        self.add_holds(&found.await?)
    }

    fn add_holds(&mut self, found: &[sqlx::postgres::PgRow]) -> Result<(), StoreError> {
        for row in found {
            let owner = rows::account_id(row.try_get("account")?)?;
            let account =
                self.accounts.get_mut(&owner).and_then(|account| account.as_mut().as_mut()).ok_or_else(
                    || {
                        StoreError::Inconsistent(format!(
                            "a hold of account {owner:?} is projected, the account is not"
                        ))
                    },
                )?;
            account.holds.insert(row.try_get("hold")?, rows::hold(row)?);
        }
        Ok(())
    }
}
