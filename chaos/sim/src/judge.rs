//! The clients' side of a run's verdict: what `okno-checks` says of the history.

use okno_checks::{history::History, invariants::Verdict};

/// `cut_short`: the run ended early, so nothing can be said of what was still open.
pub fn judge(_history: &History, _cut_short: bool) -> Vec<Verdict> {
    Vec::new()
}
