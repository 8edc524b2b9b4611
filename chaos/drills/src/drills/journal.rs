//! Somebody edits what is written down.

use crate::bench::Bench;
use crate::disk::rot::Copy;
use crate::drill::Drill;
use crate::drills::process::{NEXT_WRITE_WITHIN, REDUNDANT_WITHIN, SOME_WRITES};
use crate::harness::plan::Plan;
use okno_checks::invariants::Invariant;
use std::path::Path;

pub const JOURNAL_EDITED: Drill = Drill {
    name: "journal-edited",
    faults: &[43],
    needs: &[],
    scenario: "A node is stopped, and in its files one document's number is written over by another of the same length, \
               wherever it stands; later its files are put back.",
    expected: "`okno verify` finds the edited files wrong and the original ones right; the other nodes serve on.",
    run: |bench| Box::pin(journal_edited(bench)),
};

/// What stands in the files, and what is written over it.
const TRUE: &[u8] = b"series 4500 number 174211";
const FORGED: &[u8] = b"series 4500 number 999999";

async fn journal_edited(bench: &mut Bench) {
    bench.injected("edited-places", 0);
    bench.start(Plan::default()).await;
    let officer = bench.cluster().officer();
    let case = officer.open(1).await.expect("a case is opened");
    let reference = std::str::from_utf8(TRUE).expect("plain text");
    officer.add(&case, reference).await.expect("a document is taken");
    let node = bench.cluster().follower().await;
    let index = bench.cluster().status(node).await.expect("it answers").commit_index;
    bench.cluster().wait_applied(node, index).await;
    bench.progress(SOME_WRITES, NEXT_WRITE_WITHIN).await;

    let fault = bench.fault(format!("node {node} is stopped and its files are edited"));
    let status = bench.cluster().terminate(node).await;
    assert!(status.success(), "SIGTERM is a clean end: node {node} ended with {status}");
    let before = bench.cluster().verified(node);
    bench.check(Invariant::JournalWhole, before.is_ok(), format!("before it was edited: {before:?}"));
    let data = bench.cluster().entry(node).data.clone();
    let intact = Copy::take(&data, bench.scratch());
    bench.injected("edited-places", edit(&data));
    let edited = bench.cluster().verified(node);
    let found = edited.is_err();
    bench.check(Invariant::StopsWhenWrong, found, format!("edited, okno verify says: {edited:?}"));
    intact.put_back();
    let after = bench.cluster().verified(node);
    bench.check(Invariant::JournalWhole, after.is_ok(), format!("put back: {after:?}"));
    bench.recovered(fault, NEXT_WRITE_WITHIN).await;
    bench.cluster().start_node(node);
    bench.over(fault);
    bench.redundant(fault, REDUNDANT_WITHIN).await;
    bench.progress(SOME_WRITES, NEXT_WRITE_WITHIN).await;
}

/// Writes the forged text over the true one in every file below a folder; how often it stood there.
fn edit(folder: &Path) -> u64 {
    let mut places = 0;
    for entry in walkdir::WalkDir::new(folder) {
        let entry = entry.expect("a stopped node's files can be read");
        if !entry.file_type().is_file() {
            continue;
        }
        let mut bytes = std::fs::read(entry.path()).expect("as above");
        let found: Vec<usize> = bytes
            .windows(TRUE.len())
            .enumerate()
            .filter(|(_, part)| *part == TRUE)
            .map(|(at, _)| at)
            .collect();
        for at in &found {
            bytes[*at..*at + FORGED.len()].copy_from_slice(FORGED);
        }
        if !found.is_empty() {
            std::fs::write(entry.path(), bytes).expect("as above");
        }
        places += found.len() as u64;
    }
    places
}
