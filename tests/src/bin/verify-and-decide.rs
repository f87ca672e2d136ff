//! Verifies and decides as many holds as it is told, for whoever counts its instructions.

use anyhow::{Context, Result};
use holdfast_tests::work::Work;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let holds = arguments.next().context("how many holds")?.parse()?;
    let mut work = Work::new(holds)?;
    // Without this word the work is only prepared, which is the part not to count.
    if arguments.next().as_deref() == Some("run") {
        work.run()?;
    }
    Ok(())
}
