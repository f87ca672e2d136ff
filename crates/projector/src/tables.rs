//! Which of the two sets of projection tables is meant.

/// A schema of projection tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tables {
    /// The tables that are read.
    Live,
    /// The tables that a rebuild fills.
    Next,
}

impl Tables {
    pub(crate) fn schema(self) -> &'static str {
        match self {
            Tables::Live => "projection",
            Tables::Next => "projection_next",
        }
    }
}

/// Held exclusively while folding or swapping, shared while several statements must see one set
/// of tables: names are resolved statement by statement, and a swap changes them.
pub(crate) const LOCK: &str = "SELECT pg_advisory_xact_lock(hashtext('holdfast projection'))";
pub(crate) const LOCK_SHARED: &str = "SELECT pg_advisory_xact_lock_shared(hashtext('holdfast projection'))";
