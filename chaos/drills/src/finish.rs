//! The checks at the end of every drill, through the public interface.

use crate::bench::Bench;
use okno_checks::report::DrillReport;

/// Ends the load, checks everything, and enters what was found.
pub async fn checks(bench: &mut Bench, report: &mut DrillReport) {
    let Some(load) = bench.load.take() else { return };
    let ledger = load.finish().await;
    report.acknowledged = ledger.writes.len() as u64;
    if let Some(watch) = &bench.watch {
        bench.verdicts.push(watch.one_leader());
    }
}
