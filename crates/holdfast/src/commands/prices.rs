//! `prices`: importing, comparing, publishing and showing price books.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use chrono::{DateTime, NaiveDate, Utc};
use clap::{Args, Subcommand};
use holdfast_core::usage::Quote;
use holdfast_prices::book::Model;
use holdfast_prices::import::{Import, Origin};
use holdfast_prices::{Ask, Book, diff, import};
use holdfast_store::connect::connect;
use holdfast_store::{Role, prices as published};

use super::Exit;
use crate::output::{self, Output};
use crate::settings::DatabaseArgs;

#[derive(Debug, Subcommand)]
pub(crate) enum PricesCommand {
    /// Make a price book of the data of genai-prices.
    Import(ImportArgs),
    /// Say what changes between two price books.
    Diff(DiffArgs),
    /// Put a price book in force.
    Publish(PublishArgs),
    /// Show what a model costs.
    Show(ShowArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// The data: genai-prices' prices/new_data/v2/data.json.
    data: PathBuf,
    /// Where the data is from, with its version.
    #[arg(long)]
    source: String,
    /// The day it was taken.
    #[arg(long, value_name = "YYYY-MM-DD")]
    date: NaiveDate,
    /// Whose it is, and under which licence.
    #[arg(long)]
    notice: String,
    /// Where the price book goes.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// The older book; `vendored` is the one that comes with this version.
    old: PathBuf,
    /// The newer book.
    new: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct PublishArgs {
    /// The book; `vendored` is the one that comes with this version.
    book: PathBuf,
    /// A book whose models replace those of the same id; may be given more than once.
    #[arg(long = "override", value_name = "BOOK")]
    overrides: Vec<PathBuf>,
    #[command(flatten)]
    database: DatabaseArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// The model, by any of its names.
    model: String,
    /// Who runs it.
    #[arg(long)]
    provider: Option<String>,
    /// Which of its price lists, such as batch.
    #[arg(long)]
    variant: Option<String>,
    /// When; now unless given.
    #[arg(long, value_name = "RFC 3339")]
    at: Option<DateTime<Utc>>,
    /// The book; the one that comes with this version unless given.
    #[arg(long)]
    book: Option<PathBuf>,
}

pub(crate) async fn run(command: PricesCommand, output: Output) -> Result<Exit> {
    match command {
        PricesCommand::Import(args) => run_import(args, output),
        PricesCommand::Diff(args) => run_diff(&args, output),
        PricesCommand::Publish(args) => run_publish(args, output).await,
        PricesCommand::Show(args) => run_show(args, output),
    }
}

/// Reads a book from a file, or the one that comes with this version.
pub(crate) fn read(file: &Path) -> Result<Book> {
    if file == Path::new("vendored") {
        return Ok(Book::vendored());
    }
    let text = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    Book::parse(&text).with_context(|| format!("the price book {}", file.display()))
}

/// Every book that is known: those that were published, the one that comes with this version, and `files`.
pub(crate) async fn known(connection: &mut sqlx::PgConnection, files: &[PathBuf]) -> Result<Vec<Book>> {
    let mut books = vec![Book::vendored()];
    for published in published::every(connection).await? {
        match crate::prices::parse(published.book) {
            Ok(book) => books.push(book),
            Err(error) => tracing::warn!(%error, number = published.number, "its prices are not known here"),
        }
    }
    for file in files {
        books.push(read(file)?);
    }
    Ok(books)
}

fn run_import(args: ImportArgs, output: Output) -> Result<Exit> {
    let json =
        std::fs::read_to_string(&args.data).with_context(|| format!("reading {}", args.data.display()))?;
    let origin = Origin { source: args.source, date: args.date, notice: args.notice };
    let Import { book, refused } = import(&json, origin)?;
    std::fs::write(&args.out, book.to_text()).with_context(|| format!("writing {}", args.out.display()))?;
    let (models, out) = (book.models.len(), args.out.display().to_string());
    if output == Output::Json {
        output::json(
            &serde_json::json!({"book": book.id(), "models": models, "refused": refused, "file": out}),
        )?;
    } else {
        for why in &refused {
            output::text(&format!("refused {why}"))?;
        }
        let count = refused.len();
        output::text(&format!("{models} models in {out}, {count} refused; the book is {}", book.id()))?;
    }
    Ok(Exit::Fine)
}

fn run_diff(args: &DiffArgs, output: Output) -> Result<Exit> {
    let (old, new) = (read(&args.old)?, read(&args.new)?);
    let lines = diff(&old, &new);
    if output == Output::Json {
        output::json(&serde_json::json!({"old": old.id(), "new": new.id(), "differences": lines}))?;
    } else {
        lines.iter().try_for_each(|line| output::text(line))?;
        output::text(&format!("{} differences from {} to {}", lines.len(), old.id(), new.id()))?;
    }
    Ok(Exit::Fine)
}

async fn run_publish(args: PublishArgs, output: Output) -> Result<Exit> {
    let mut book = read(&args.book)?;
    for file in &args.overrides {
        book = book.overridden(&read(file)?).with_context(|| format!("overriding by {}", file.display()))?;
    }
    let mut connection = connect(&args.database.url()?, Role::Login).await?;
    let digest = book.id().as_str().as_bytes();
    let number = published::publish(&mut connection, digest, book.to_text().as_bytes()).await?;
    if output == Output::Json {
        output::json(
            &serde_json::json!({"book": book.id(), "models": book.models.len(), "publication": number}),
        )?;
    } else {
        let models = book.models.len();
        output::text(&format!("publication {number}: {models} models, the book is {}", book.id()))?;
    }
    Ok(Exit::Fine)
}

fn run_show(args: ShowArgs, output: Output) -> Result<Exit> {
    let book = args.book.as_deref().map_or_else(|| Ok(Book::vendored()), read)?;
    let ask = Ask { model: args.model, provider: args.provider, variant: args.variant };
    let quote = match book.quote(&ask, args.at.unwrap_or_else(Utc::now)) {
        Ok(quote) => quote,
        Err(unpriced) => {
            tracing::error!("{unpriced}");
            return Ok(Exit::Failed);
        }
    };
    if output == Output::Json {
        output::json(&serde_json::to_value(&quote)?)?;
        return Ok(Exit::Fine);
    }
    let same = |model: &&Model| model.provider == quote.provider && model.model == quote.model;
    let lists = book.models.iter().find(same).map_or(0, |model| model.prices.len());
    output::text(&describe(&quote))?;
    output::text(&format!("{lists} price lists in all; the book is {}", quote.book))?;
    Ok(Exit::Fine)
}

fn describe(quote: &Quote) -> String {
    let mut table = output::table(&["dimension", "from input tokens", "dollars for a million"]);
    for (dimension, tiers) in &quote.rates.0 {
        for (from, rate) in tiers {
            table.add_row([dimension.to_string(), from.to_string(), millionth(*rate)]);
        }
    }
    let since = quote.effective_from.as_ref().map_or_else(String::new, |from| format!(" since {from}"));
    let variant = quote.variant.as_ref().map_or_else(String::new, |variant| format!(" ({variant})"));
    format!("{} of {}{variant}{since}\n{table}", quote.model, quote.provider)
}

/// A rate of 10⁻¹² for one is so many 10⁻⁶ for a million.
fn millionth(rate: u64) -> String {
    let text = format!("{}.{:06}", rate / 1_000_000, rate % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
