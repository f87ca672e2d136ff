//! Plots of a report, as SVG.

use crate::report::Report;

/// The plots that can be made of `report`, by file name.
#[must_use]
pub fn plots(_report: &Report) -> Vec<(String, String)> {
    Vec::new()
}
