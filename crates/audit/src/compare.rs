//! Comparing what the log folds to with what the projections say.

use std::pin::pin;

use futures_util::StreamExt;
use holdfast_core::Account;
use holdfast_core::books::Book;
use holdfast_projector::queries;
use holdfast_store::StoreError;
use sqlx::PgConnection;

use crate::folded::Folded;

/// Accounts are compared in pages of so many.
const PAGE: i64 = 1_000;

/// More differences than this tell nobody anything.
const DIFFERENCES_MAX: usize = 10;

/// The differences between the fold and the projections, in words; at most a few.
pub async fn projections(
    connection: &mut PgConnection,
    partition: i16,
    folded: &Folded,
) -> Result<Vec<String>, StoreError> {
    let mut differences = accounts(connection, partition, folded).await?;
    differences.extend(holds(connection, partition, folded).await?);
    differences.extend(books(connection, partition, folded).await?);
    differences.extend(costs(connection, partition, folded).await?);
    differences.truncate(DIFFERENCES_MAX);
    Ok(differences)
}

async fn accounts(
    connection: &mut PgConnection,
    partition: i16,
    folded: &Folded,
) -> Result<Vec<String>, StoreError> {
    let (mut differences, mut projected, mut after) = (Vec::new(), 0, None);
    loop {
        let page = queries::accounts_after(connection, partition, after.as_ref(), PAGE).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.id.clone());
        projected += page.len();
        differences.extend(page.into_iter().filter_map(|account| difference(folded, account)));
        differences.truncate(DIFFERENCES_MAX);
    }
    let known = folded.accounts().count();
    if known != projected {
        differences.push(format!("the log has {known} accounts, the projection {projected}"));
    }
    Ok(differences)
}

/// What differs in an account besides its holds.
fn difference(folded: &Folded, projected: Account) -> Option<String> {
    let id = &projected.id;
    let Some(account) = folded.account(id) else {
        return Some(format!("account {id:?} is projected, but never was opened"));
    };
    let as_stated = Account { holds: account.holds.clone(), ..projected.clone() };
    (*account != as_stated).then(|| {
        format!(
            "account {id:?} has posted {} and held {} by the log, {} and {} projected",
            account.posted, account.held, projected.posted, projected.held
        )
    })
}

async fn holds(
    connection: &mut PgConnection,
    partition: i16,
    folded: &Folded,
) -> Result<Vec<String>, StoreError> {
    let (mut differences, mut projected) = (Vec::new(), 0);
    let mut rows = pin!(queries::every_hold(connection, partition));
    while let Some((owner, id, hold)) = rows.next().await.transpose()? {
        projected += 1;
        let by_log = folded.account(&owner).and_then(|account| account.holds.get(&id));
        if by_log != Some(&hold) && differences.len() < DIFFERENCES_MAX {
            differences
                .push(format!("hold {id} of account {owner:?} is {by_log:?} by the log, {hold:?} projected"));
        }
    }
    let known: usize = folded.accounts().map(|account| account.holds.len()).sum();
    if known != projected {
        differences.push(format!("the log has {known} holds, the projection {projected}"));
    }
    Ok(differences)
}

async fn books(
    connection: &mut PgConnection,
    partition: i16,
    folded: &Folded,
) -> Result<Vec<String>, StoreError> {
    let projected = queries::trial_balance(connection, partition).await?;
    let mut differences = Vec::new();
    for asset in folded.assets() {
        for book in Book::ALL {
            let by_log = folded.book(asset, book);
            let line = projected.iter().find(|line| line.asset == asset && line.book == book);
            let by_projection = line.map_or(0, |line| line.balance);
            if by_log != by_projection {
                let book = book.as_str();
                differences.push(format!(
                    "book {book} of {asset} is {by_log} by the log, {by_projection} projected"
                ));
            }
        }
    }
    Ok(differences)
}

async fn costs(
    connection: &mut PgConnection,
    partition: i16,
    folded: &Folded,
) -> Result<Vec<String>, StoreError> {
    let (mut differences, mut projected) = (Vec::new(), 0);
    let mut rows = pin!(queries::every_cost(connection, partition));
    while let Some((key, cost)) = rows.next().await.transpose()? {
        projected += 1;
        let by_log = folded.cost(&key);
        if by_log != Some(&cost) && differences.len() < DIFFERENCES_MAX {
            differences.push(format!("the cost of {key:?} is {by_log:?} by the log, {cost:?} projected"));
        }
    }
    if folded.costs() != projected {
        differences.push(format!("the log has {} costs, the projection {projected}", folded.costs()));
    }
    Ok(differences)
}

/// The accounts whose balances differ from those that plain SQL computes from the log.
pub async fn recomputed(
    connection: &mut PgConnection,
    partition: i16,
    position: holdfast_core::Position,
) -> Result<Vec<String>, StoreError> {
    let rows: Vec<(String,)> = sqlx::query_as(include_str!("recompute.sql"))
        .bind(partition)
        .bind(position.0)
        .fetch_all(connection)
        .await?;
    Ok(rows
        .into_iter()
        .map(|(account,)| format!("account {account:?} differs from its SQL recomputation"))
        .collect())
}
