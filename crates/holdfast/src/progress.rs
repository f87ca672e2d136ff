//! A bar on standard error for whatever takes more than a moment; nothing when nobody looks.

use std::time::Duration;

use holdfast_core::Position;
use indicatif::{ProgressBar, ProgressStyle};

/// Shows how far along the log something is.
pub(crate) struct Along(ProgressBar);

impl Along {
    pub(crate) fn new(what: &'static str) -> Self {
        let bar = ProgressBar::new(0);
        let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} events, {eta} left");
        bar.set_style(style.expect("a valid template"));
        bar.set_message(what);
        bar.enable_steady_tick(Duration::from_millis(250));
        Along(bar)
    }

    /// `at` of `end` is done.
    pub(crate) fn at(&self, at: Position, end: Position) {
        self.0.set_length(end.0.unsigned_abs());
        self.0.set_position(at.0.unsigned_abs());
    }
}

impl Drop for Along {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
