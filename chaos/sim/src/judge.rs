//! The clients' side of a run's verdict: what `okno-checks` says of the history.

use okno_checks::{examine::examine, history::History, invariants::Verdict};

/// One verdict for each invariant that is checked on histories.
pub fn judge(history: &History) -> Vec<Verdict> {
    examine(history).verdicts
}
