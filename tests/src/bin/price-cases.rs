//! Prices the cases that tests/python/prices.py prints, line by line, as a client would.

use std::io::{BufRead as _, Write as _};

use anyhow::Result;
use chrono::{DateTime, Utc};
use holdfast_core::Asset;
use holdfast_core::usage::{Tokens, UsageSource};
use holdfast_prices::{Ask, Book};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
struct Case {
    provider: String,
    model: String,
    at: DateTime<Utc>,
    tokens: Tokens,
}

fn price(book: &Book, case: &Case) -> Result<i64> {
    let ask = Ask { model: case.model.clone(), provider: Some(case.provider.clone()), variant: None };
    let usage = book.quote(&ask, case.at)?.usage(UsageSource::Reported, &case.tokens);
    usage.check()?;
    Ok(usage.price(Asset::USD)?)
}

fn main() -> Result<()> {
    let book = Book::vendored();
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let mut told: Value = serde_json::from_str(&line)?;
        match price(&book, &serde_json::from_str(&line)?) {
            Ok(units) => told["units"] = json!(units),
            // By kind, since they are counted.
            Err(error) => told["error"] = json!(error.to_string().split(':').next()),
        }
        writeln!(out, "{told}")?;
    }
    Ok(())
}
