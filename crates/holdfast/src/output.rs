//! What goes to standard output: tables for people, one line of JSON for programs.

use std::io::Write;

use anyhow::Result;
use clap::ValueEnum;
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde::Serialize;

/// How results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    #[default]
    Table,
    /// One line of JSON.
    Json,
}

/// Writes one line of JSON and flushes it, so that whoever reads a pipe has it.
pub(crate) fn json(value: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    let mut out = std::io::stdout().lock();
    out.write_all(&line)?;
    Ok(out.flush()?)
}

/// Writes lines of text.
pub(crate) fn text(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}

/// Tells a story: to standard output for people, beside it when that is kept for JSON.
#[cfg(feature = "demo")]
pub(crate) fn narrate(output: Output, line: &str) -> Result<()> {
    match output {
        Output::Table => text(line),
        Output::Json => Ok(writeln!(std::io::stderr(), "{line}")?),
    }
}

/// A table with these headings.
pub(crate) fn table(headings: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_header(headings);
    table
}
