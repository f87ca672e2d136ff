//! `replay`, `verify` and `projections rebuild`: what finance runs.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use holdfast_audit::verify::{Options, Report, verify};
use holdfast_audit::{Folded, compare, replay};
use holdfast_core::Position;
use holdfast_core::books::Book;
use holdfast_protocol::token::hex;
use holdfast_store::connect::connect;
use holdfast_store::{Role, head};
use serde_json::{Value, json};

use super::Exit;
use crate::output::{self, Output};
use crate::progress::Along;
use crate::runtime::PARTITION;
use crate::settings::{DatabaseArgs, TokenArgs};

#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// Fold the log up to this position only; up to where the projections are unless given.
    #[arg(long, value_name = "POSITION")]
    to: Option<i64>,
    #[command(flatten)]
    database: DatabaseArgs,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Check the stored envelopes' signatures too, with INTERNAL_SERVICE_TOKEN and the one before.
    #[arg(long)]
    signatures: bool,
    /// Compare every priced charge with its price book: every one that was published, the one that
    /// comes with this version, and these files.
    #[arg(long, value_name = "BOOK", num_args = 0..)]
    prices: Option<Vec<PathBuf>>,
    #[command(flatten)]
    token: TokenArgs,
    #[command(flatten)]
    database: DatabaseArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ProjectionsCommand {
    /// Fold the log again from its first event beside the live projections, then swap the two.
    Rebuild(DatabaseArgs),
}

/// Folds the log; with the projections at the same place, the two must be equal.
pub(crate) async fn run_replay(args: ReplayArgs, output: Output) -> Result<Exit> {
    let mut connection = connect(&args.database.url()?, Role::Reader).await?;
    sqlx::query("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY").execute(&mut connection).await?;
    let head = head::read(&mut connection, PARTITION).await?.position;
    if args.to.is_some_and(|to| !(0..=head.0).contains(&to)) {
        bail!("--to: the log ends at position {head}");
    }
    let along = Along::new("replaying");
    let to = args.to.map(Position);
    let replayed = replay::replay(connection, PARTITION, to, |at, end| along.at(at, end)).await?;
    let (mut connection, folded) = replayed;
    drop(along);
    let differences = match to {
        Some(_) => None,
        None => Some(compare::projections(&mut connection, PARTITION, &folded).await?),
    };
    sqlx::query("COMMIT").execute(&mut connection).await?;
    show_replay(&folded, differences.as_deref(), output)?;
    Ok(if differences.is_none_or(|differences| differences.is_empty()) { Exit::Fine } else { Exit::Failed })
}

fn show_replay(folded: &Folded, differences: Option<&[String]>, output: Output) -> Result<()> {
    let balance = |asset: holdfast_core::Asset| -> Value {
        let books = Book::ALL
            .map(|book| (book.as_str().to_owned(), Value::from(whole(asset, folded.book(asset, book)))));
        json!({ "books": serde_json::Map::from_iter(books), "sum": whole(asset, folded.trial_balance(asset)) })
    };
    let assets: Vec<holdfast_core::Asset> = folded.assets().collect();
    if output == Output::Json {
        let trial: serde_json::Map<String, Value> =
            assets.iter().map(|asset| (asset.code().to_owned(), balance(*asset))).collect();
        let equal = differences.map(<[String]>::is_empty);
        return output::json(&json!({
            "position": folded.position, "accounts": folded.accounts().count(), "trial_balance": trial,
            "equal_to_projections": equal, "differences": differences,
        }));
    }
    let mut table = output::table(&["book", "asset", "balance"]);
    for asset in assets {
        for book in Book::ALL {
            let units = folded.book(asset, book);
            table.add_row([book.as_str(), asset.code(), &whole(asset, units)]);
        }
        table.add_row(["sum", asset.code(), &whole(asset, folded.trial_balance(asset))]);
    }
    let accounts = folded.accounts().count();
    let equal = match differences {
        None => "the projections are elsewhere and were not compared".to_owned(),
        Some([]) => "equal to the live projections".to_owned(),
        Some(differences) => format!("NOT equal to the live projections:\n{}", differences.join("\n")),
    };
    output::text(&format!("{table}\nreplayed to position {}, {accounts} accounts; {equal}", folded.position))
}

/// Units that may exceed 64 bits, in whole units.
pub(crate) fn whole(asset: holdfast_core::Asset, units: i128) -> String {
    i64::try_from(units).map_or_else(|_| format!("{units} units"), |units| asset.format(units))
}

pub(crate) async fn run_verify(args: VerifyArgs, output: Output) -> Result<Exit> {
    let mut connection = connect(&args.database.url()?, Role::Reader).await?;
    let books = match &args.prices {
        Some(files) => Some(super::prices::known(&mut connection, files).await?),
        None => None,
    };
    let roots = if args.signatures { args.token.roots()? } else { Vec::new() };
    let options = Options { signatures: args.signatures.then_some(&*roots), prices: books.as_deref() };
    let along = Along::new("verifying");
    let report = verify(connection, PARTITION, options, |at, end| along.at(at, end)).await?;
    drop(along);
    show_report(&report, output)?;
    Ok(if report.findings.is_empty() { Exit::Fine } else { Exit::Failed })
}

fn show_report(report: &Report, output: Output) -> Result<()> {
    if output == Output::Json {
        let findings: Vec<Value> = report
            .findings
            .iter()
            .map(|finding| json!({"position": finding.position, "check": finding.check, "problem": finding.problem}))
            .collect();
        return output::json(&json!({
            "position": report.position, "hash": hex(&report.hash), "accounts": report.accounts,
            "signed": report.signed, "unverifiable": report.unverifiable,
            "priced": report.priced, "unknown_books": report.unknown_books, "findings": findings,
        }));
    }
    output::text(&describe(report))
}

/// The report for people.
pub(crate) fn describe(report: &Report) -> String {
    let mut lines = vec![format!(
        "{} events, {} accounts: positions, chain, epochs, time, fold, holds, references, conservation, projections, SQL recomputation",
        report.position, report.accounts
    )];
    if let Some(signed) = report.signed {
        lines.push(format!("{signed} signatures hold, {} are by keys not known here", report.unverifiable));
    }
    if let Some(priced) = report.priced {
        lines.push(format!(
            "{priced} prices are those of their books, {} are by books not known here",
            report.unknown_books
        ));
    }
    for finding in &report.findings {
        let place = finding.position.map_or_else(String::new, |position| format!(" at position {position}"));
        lines.push(format!("BAD ({}){place}: {}", finding.check, finding.problem));
    }
    let verdict = if report.findings.is_empty() { "clean" } else { "NOT clean" };
    lines.push(format!(
        "{verdict}; the chain ends at position {} with {}",
        report.position,
        hex(&report.hash)
    ));
    lines.join("\n")
}

pub(crate) async fn run_projections(command: &ProjectionsCommand) -> Result<Exit> {
    let ProjectionsCommand::Rebuild(database) = command;
    let along = Along::new("rebuilding");
    let progress = |at, end| along.at(at, end);
    let position = holdfast_projector::rebuild::rebuild(&database.url()?, PARTITION, progress).await?;
    drop(along);
    tracing::info!(position = position.0, "the rebuilt projections are live");
    Ok(Exit::Fine)
}
