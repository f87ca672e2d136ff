//! `balance`, `hold`, `statement` and `tail`: looking at accounts and at the log.

use std::time::Duration;

use anyhow::{Result, bail};
use chrono::NaiveDate;
use clap::{Args, ValueEnum};
use holdfast_core::{AccountId, HoldId, Position};
use holdfast_projector::queries::{self, CostGroup};
use holdfast_store::connect::connect;
use holdfast_store::{Role, Row, head, read};
use serde_json::Value;

use super::{Exit, StopSignals, views};
use crate::output::{self, Output};
use crate::runtime::PARTITION;
use crate::settings::DatabaseArgs;

/// How often `tail` looks for new events.
const TAIL_EVERY: Duration = Duration::from_millis(200);
/// How many events `tail` reads at once.
const TAIL_ROWS: i64 = 500;

#[derive(Debug, Args)]
pub(crate) struct BalanceArgs {
    /// The account.
    account: String,
    #[command(flatten)]
    database: DatabaseArgs,
}

#[derive(Debug, Args)]
pub(crate) struct HoldArgs {
    /// The hold.
    hold: HoldId,
    /// Its account, when the same id is in several.
    #[arg(long)]
    account: Option<String>,
    #[command(flatten)]
    database: DatabaseArgs,
}

#[derive(Debug, Args)]
pub(crate) struct StatementArgs {
    /// The account.
    account: String,
    /// Only events before this position.
    #[arg(long, value_name = "POSITION")]
    before: Option<i64>,
    /// How many, the newest first.
    #[arg(long, default_value_t = 50)]
    limit: i64,
    #[command(flatten)]
    database: DatabaseArgs,
}

#[derive(Debug, Args)]
pub(crate) struct TailArgs {
    /// Begin after this position; at the end of the log unless given.
    #[arg(long, value_name = "POSITION")]
    from: Option<i64>,
    /// End after so many events; never unless given.
    #[arg(long)]
    count: Option<usize>,
    #[command(flatten)]
    database: DatabaseArgs,
}

pub(crate) async fn balance(args: BalanceArgs, output: Output) -> Result<Exit> {
    let mut connection = connect(&args.database.url()?, Role::Reader).await?;
    let id = AccountId::new(&args.account)?;
    match queries::account(&mut connection, PARTITION, &id).await? {
        Some(account) => show(&views::account(&account), output)?,
        None => return not_found(&format!("there is no account {id:?}")),
    }
    Ok(Exit::Fine)
}

pub(crate) async fn hold(args: HoldArgs, output: Output) -> Result<Exit> {
    let mut connection = connect(&args.database.url()?, Role::Reader).await?;
    let account = args.account.as_deref().map(AccountId::new).transpose()?;
    let found = queries::holds(&mut connection, PARTITION, args.hold, account.as_ref()).await?;
    match found.as_slice() {
        [] => not_found(&format!("there is no hold {}", args.hold)),
        [only] => show(&views::hold(only), output).map(|()| Exit::Fine),
        several => {
            let accounts: Vec<&str> = several.iter().map(|view| view.account.as_str()).collect();
            bail!("the hold is in several accounts; pass --account with one of {accounts:?}")
        }
    }
}

pub(crate) async fn statement(args: StatementArgs, output: Output) -> Result<Exit> {
    let mut connection = connect(&args.database.url()?, Role::Reader).await?;
    let id = AccountId::new(&args.account)?;
    let rows =
        queries::statement(&mut connection, PARTITION, &id, args.before.map(Position), args.limit).await?;
    if rows.is_empty() {
        return not_found(&format!("nothing happened on account {id:?}"));
    }
    if output == Output::Json {
        output::json(&rows.iter().map(views::event).collect::<Vec<_>>())?;
        return Ok(Exit::Fine);
    }
    let mut table = output::table(&["position", "time", "kind", "amount", "posted", "held", "available"]);
    for row in &rows {
        table.add_row(columns(row));
    }
    output::text(&table.to_string())?;
    Ok(Exit::Fine)
}

/// Prints events as they are committed.
pub(crate) async fn tail(args: TailArgs, output: Output) -> Result<Exit> {
    let mut connection = connect(&args.database.url()?, Role::Reader).await?;
    let mut at = match args.from {
        Some(from) => Position(from),
        None => head::read(&mut connection, PARTITION).await?.position,
    };
    let mut signals = StopSignals::listen()?;
    let mut left = args.count.unwrap_or(usize::MAX);
    loop {
        let rows = read::rows_after(&mut connection, PARTITION, at, TAIL_ROWS).await?;
        for row in rows.iter().take(left) {
            match output {
                Output::Json => output::json(&views::event(row))?,
                Output::Table => output::text(&line(row))?,
            }
            at = row.event.position;
        }
        left -= rows.len().min(left);
        if left == 0 {
            return Ok(Exit::Fine);
        }
        if rows.is_empty() {
            tokio::select! {
                () = signals.asked() => return Ok(Exit::Fine),
                () = tokio::time::sleep(TAIL_EVERY) => {}
            }
        }
    }
}

/// What costs are grouped by.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum GroupBy {
    Model,
    User,
    Day,
}

#[derive(Debug, Args)]
pub(crate) struct CostsArgs {
    /// What to sum by.
    #[arg(long, value_enum, default_value = "model")]
    by: GroupBy,
    /// The first day, in UTC.
    #[arg(long, value_name = "YYYY-MM-DD")]
    from: Option<NaiveDate>,
    /// The last day, in UTC.
    #[arg(long, value_name = "YYYY-MM-DD")]
    to: Option<NaiveDate>,
    #[command(flatten)]
    database: DatabaseArgs,
}

/// What priced charges sum to.
pub(crate) async fn costs(args: CostsArgs, output: Output) -> Result<Exit> {
    let mut connection = connect(&args.database.url()?, Role::Reader).await?;
    let by = match args.by {
        GroupBy::Model => CostGroup::Model,
        GroupBy::User => CostGroup::User,
        GroupBy::Day => CostGroup::Day,
    };
    let lines = queries::costs(&mut connection, PARTITION, by, args.from, args.to).await?;
    if output == Output::Json {
        output::json(&lines.iter().map(views::cost).collect::<Vec<_>>())?;
        return Ok(Exit::Fine);
    }
    let mut table =
        output::table(&["group", "asset", "charges", "input tokens", "output tokens", "charged", "absorbed"]);
    for line in &lines {
        let cost = line.cost;
        table.add_row([
            line.group.clone(),
            line.asset.code().to_owned(),
            cost.charges.to_string(),
            cost.input_tokens.to_string(),
            cost.output_tokens.to_string(),
            super::finance::whole(line.asset, cost.charged),
            super::finance::whole(line.asset, cost.absorbed),
        ]);
    }
    output::text(&table.to_string())?;
    Ok(Exit::Fine)
}

fn line(row: &Row) -> String {
    let [position, time, kind, amount, posted, held, available] = columns(row);
    let account = &row.event.account;
    format!(
        "{position:>8} {time} {kind:<15} {account} {amount} (posted {posted}, held {held}, available {available})"
    )
}

fn columns(row: &Row) -> [String; 7] {
    let event = &row.event;
    let money = |units| event.asset.map_or_else(String::new, |asset| asset.format(units));
    [
        event.position.to_string(),
        holdfast_store::record::date(event.time).format("%Y-%m-%d %H:%M:%S%.3f").to_string(),
        event.fact.kind().to_string(),
        event.fact.amount().map(money).unwrap_or_default(),
        money(event.posted),
        money(event.held),
        money(event.available()),
    ]
}

fn not_found(what: &str) -> Result<Exit> {
    tracing::error!("{what}");
    Ok(Exit::Failed)
}

/// One thing, member by member.
fn show(value: &Value, output: Output) -> Result<()> {
    if output == Output::Json {
        return output::json(value);
    }
    let mut table = output::table(&["member", "value"]);
    for (name, value) in value.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null()) {
        table.add_row([name.clone(), value.as_str().map_or_else(|| value.to_string(), str::to_owned)]);
    }
    output::text(&table.to_string())
}
