//! Comparing what the log folds to with what the projections say.

use holdfast_core::Account;
use holdfast_core::books::Book;
use holdfast_projector::queries;
use holdfast_store::StoreError;
use sqlx::PgConnection;

use crate::folded::Folded;

/// Accounts are compared in pages of so many.
const PAGE: i64 = 1_000;

/// The differences between the fold and the projections, in words; at most a few.
pub async fn projections(
    connection: &mut PgConnection,
    partition: i16,
    folded: &Folded,
) -> Result<Vec<String>, StoreError> {
    let mut differences = Vec::new();
    let mut projected = 0;
    let mut after = None;
    loop {
        let page = queries::accounts_with_holds(connection, partition, after.as_ref(), PAGE).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.id.clone());
        projected += page.len();
        differences.extend(page.iter().filter_map(|account| difference(folded, account)));
    }
    let known = folded.accounts().count();
    if known != projected {
        differences.push(format!("the log has {known} accounts, the projection {projected}"));
    }
    differences.extend(books(connection, partition, folded).await?);
    differences.truncate(10);
    Ok(differences)
}

fn difference(folded: &Folded, projected: &Account) -> Option<String> {
    let id = &projected.id;
    match folded.account(id) {
        None => Some(format!("account {id:?} is projected, but never was opened")),
        Some(account) if account == projected => None,
        Some(account) => {
            let hold = account.holds.iter().find(|(hold, value)| projected.holds.get(hold) != Some(value));
            Some(match hold {
                Some((hold, value)) => {
                    format!(
                        "hold {hold} of account {id:?} is {value:?} by the log, {:?} projected",
                        projected.holds.get(hold)
                    )
                }
                None => format!(
                    "account {id:?} has posted {} and held {} by the log, {} and {} projected",
                    account.posted, account.held, projected.posted, projected.held
                ),
            })
        }
    }
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
            let by_log = folded.book(&asset.to_string(), book);
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
