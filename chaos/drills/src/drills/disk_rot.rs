//! Files that rot, are cut or are gone: one node's write-ahead log, tables, manifest, identity.
//!
//! The node is ended, its files are damaged, it is started: it must notice, or be right. The two others serve all the
//! time. Then the intact files are put back — nothing was lost while the node stood still — and it catches up.

use crate::bench::{Bench, Fault};
use crate::disk::rot::{self, Copy, Kind};
use crate::drill::Drill;
use crate::fate::{Fate, Look};
use crate::harness::plan::Plan;
use okno_checks::invariants::Invariant;
use okno_client::v1 as proto;
use rand::Rng;
use rand::seq::SliceRandom;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const NEXT_WRITE_WITHIN: Duration = Duration::from_secs(15);
const REDUNDANT_WITHIN: Duration = Duration::from_secs(45);
/// A start that must be noticed to be a bad one.
const DECIDES_WITHIN: Duration = Duration::from_secs(20);
/// A log long enough to have a middle.
const WRITES_BEFORE: u64 = 600;
/// Writes that a node's start waits for, so that it has something to catch up with.
const WRITES_MEANWHILE: u64 = 100;

pub const WAL_ROT: Drill = Drill {
    name: "wal-rot",
    faults: &[8],
    needs: &[],
    scenario: "One bit flips in the write-ahead log of a follower that was killed: in the middle of the newest file; in \
               both slots of its identity; near the end of the log.",
    expected: "In the middle: the node stops and says why. At the end: it stops, or what was cut off had not been promised \
               and it catches up. Without a readable identity it stops. The others serve.",
    run: |bench| Box::pin(wal_rot(bench)),
};

pub const SST_ROT: Drill = Drill {
    name: "sst-rot",
    faults: &[9],
    needs: &[],
    scenario: "One bit flips near the end of every table of a follower's database; then one among the rows of entities, and \
               all members digest their rows.",
    expected: "The node stops and says why: at its start, and at the latest when the rows are read. The others serve.",
    run: |bench| Box::pin(sst_rot(bench)),
};

pub const SCRUB_FINDS: Drill = Drill {
    name: "scrub-finds-rot",
    faults: &[9],
    needs: &[],
    scenario: "A bit flips among the rows of entities of a follower's, which nobody asks for; the node reads its store \
               through soon after its start.",
    expected: "Its scrubber finds the rot without anybody reading the row, and closes the node with reason and remedy. The \
               others serve.",
    run: |bench| Box::pin(scrub_finds(bench)),
};

pub const MANIFEST_LOST: Drill = Drill {
    name: "manifest-lost",
    faults: &[10],
    needs: &[],
    scenario: "A follower's MANIFEST is removed; cut to half; has a bit flipped; its CURRENT is removed; names nothing.",
    expected: "Each time the node stops and says why, and never begins anew with nothing. The others serve.",
    run: |bench| Box::pin(manifest_lost(bench)),
};

pub const WAL_LOST: Drill = Drill {
    name: "wal-lost",
    faults: &[11],
    needs: &[],
    scenario: "A follower's write-ahead log is cut to half; then all of it is removed.",
    expected: "Both times the node stops and says why: it had promised what is gone. The others serve.",
    run: |bench| Box::pin(wal_lost(bench)),
};

/// A follower that was killed, with a copy of its intact data.
struct Patient {
    node: u64,
    data: PathBuf,
    intact: Copy,
    fault: Fault,
}

/// What must become of the node.
#[derive(Clone, Copy, PartialEq)]
enum Must {
    /// Before it takes part.
    EndAtStart,
    /// At the latest when what is damaged is read: what nobody reads does no harm.
    EndWhenRead,
    /// It may also serve, on the data it has then: the final checks judge what.
    ServeOrEnd,
}

async fn admit(bench: &mut Bench, plan: Plan, gently: bool) -> Patient {
    bench.start(plan).await;
    bench.progress(WRITES_BEFORE, NEXT_WRITE_WITHIN).await;
    let leader = bench.cluster().leader().await;
    let followers: Vec<u64> = bench.cluster().ids().into_iter().filter(|node| *node != leader).collect();
    let node = *followers.choose(&mut bench.rng).expect("two followers");
    let fault = bench.fault(format!("node {node}, a follower, is ended; its files are damaged"));
    if gently {
        // An orderly end writes everything into tables.
        let status = bench.cluster().terminate(node).await;
        assert!(status.success(), "node {node} ended with {status}");
    } else {
        bench.cluster().kill(node);
    }
    let data = bench.cluster().entry(node).data.clone();
    let intact = Copy::take(&data, bench.scratch());
    Patient { node, data, intact, fault }
}

/// Damages the node's files, starts it, sees what becomes of it, and puts the intact files back. A node that took part
/// meanwhile has promised things that the intact files do not hold: it keeps what it has, or stays away.
async fn damage(
    bench: &mut Bench,
    patient: &Patient,
    kind: &str,
    must: Must,
    how: impl FnOnce(&mut Bench, &Path) -> String,
) {
    bench.injected(kind, 0);
    let node = patient.node;
    let done = how(bench, &patient.data);
    bench.injected(kind, 1);
    bench.note(done.clone());
    // So that it can be told whether it took part.
    bench.progress(WRITES_MEANWHILE, NEXT_WRITE_WITHIN).await;
    let look = Look::begin(bench, node).await;
    bench.cluster().start_node(node);
    let mut fate = look.fate(bench, DECIDES_WITHIN).await;
    if must == Must::EndWhenRead && matches!(fate, Fate::Serves) {
        // What is read by nobody is read for a digest.
        let marker = bench.cluster().admin().call(proto::PlaceMarkerRequest { meta: None }).await;
        marker.expect("two nodes are enough for a marker");
        fate = look.fate_of_serving(bench, DECIDES_WITHIN).await;
    }
    let took_part =
        matches!(fate, Fate::Serves | Fate::Undecided { .. } | Fate::Quarantined { took_part: true, .. });
    let safe = match must {
        Must::EndAtStart => fate.stopped() && !took_part,
        Must::EndWhenRead => fate.stopped(),
        Must::ServeOrEnd => fate.is_safe(),
    };
    bench.note(format!("{kind}: node {node} {fate}"));
    bench.check(Invariant::StopsWhenWrong, safe, format!("{done}: node {node} {fate}"));
    let now = Instant::now();
    bench.served_since(now, NEXT_WRITE_WITHIN).await;
    if matches!(fate, Fate::Serves) && safe {
        return;
    }
    if !matches!(fate, Fate::Ended { .. }) {
        bench.cluster().kill(node);
    }
    if took_part {
        bench.absent(node, format!("{kind}: {fate}"));
        assert!(safe, "node {node} took part in spite of: {done}");
    } else {
        patient.intact.put_back();
    }
}

/// Starts the node on its intact files, if it does not serve already.
async fn discharge(bench: &mut Bench, patient: Patient) {
    bench.over(patient.fault);
    if bench.absent.contains_key(&patient.node) {
        return;
    }
    if !bench.cluster().running().contains(&patient.node) {
        bench.note(format!("node {} starts on its intact files", patient.node));
        bench.cluster().start_node(patient.node);
    }
    bench.progress(WRITES_MEANWHILE, NEXT_WRITE_WITHIN).await;
    bench.redundant(patient.fault, REDUNDANT_WITHIN).await;
}

fn newest(data: &Path, kind: Kind) -> PathBuf {
    rot::files(data, kind).pop().unwrap_or_else(|| panic!("{} holds no {kind:?}", data.display()))
}

fn name(path: &Path) -> String {
    path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

async fn wal_rot(bench: &mut Bench) {
    let patient = admit(bench, Plan::default(), false).await;
    damage(bench, &patient, "bit-flipped-in-the-middle-of-the-log", Must::EndAtStart, |bench, data| {
        let (log, place) = (newest(data, Kind::WriteAheadLog), bench.rng.gen_range(0.3..0.6));
        let written = rot::written(&log);
        let offset = rot::flip_at(&log, (written as f64 * place) as u64, &mut bench.rng);
        format!("a bit flipped at {offset} of {written} bytes of {}", name(&log))
    })
    .await;
    damage(bench, &patient, "bits-flipped-in-the-identity", Must::EndAtStart, |bench, data| {
        let offsets = rot::flip_every(&data.join(rot::IDENTITY), IDENTITY_STEP_BYTES, &mut bench.rng);
        format!("bits flipped at {offsets:?} of the identity")
    })
    .await;
    damage(bench, &patient, "bit-flipped-at-the-end-of-the-log", Must::ServeOrEnd, |bench, data| {
        let log = newest(data, Kind::WriteAheadLog);
        let written = rot::written(&log);
        let offset = rot::flip_at(&log, written.saturating_sub(bench.rng.gen_range(1..200)), &mut bench.rng);
        format!("a bit flipped at {offset} of {written} bytes of {}", name(&log))
    })
    .await;
    discharge(bench, patient).await;
}

/// Far less than one of the identity's two slots.
const IDENTITY_STEP_BYTES: u64 = 64;

async fn sst_rot(bench: &mut Bench) {
    let patient = admit(bench, Plan::default(), true).await;
    damage(bench, &patient, "bits-flipped-in-every-table", Must::EndAtStart, |bench, data| {
        let tables = rot::files(data, Kind::Table);
        assert!(!tables.is_empty(), "an orderly end writes tables");
        for table in &tables {
            // The end of a table is read at every start: its properties, its index.
            let place = bench.rng.gen_range(0.6..0.9);
            let length = std::fs::metadata(table).map_or(0, |metadata| metadata.len());
            rot::flip_at(table, (length as f64 * place) as u64, &mut bench.rng);
        }
        format!("a bit flipped in each of {} tables", tables.len())
    })
    .await;
    damage(bench, &patient, "bit-flipped-in-rows-of-entities", Must::EndWhenRead, |bench, data| {
        let table = rot::tables_of(data, "entity").pop().expect("an orderly end writes the entities' table");
        // A table begins with its rows.
        let offset = rot::flip_at(&table, bench.rng.gen_range(100..4_000), &mut bench.rng);
        format!("a bit flipped at {offset} of {}, which holds entities", name(&table))
    })
    .await;
    discharge(bench, patient).await;
}

/// After its start, so that it has caught up by then; soon enough for a drill.
const SCRUBS_AFTER: &str = "2s";

async fn scrub_finds(bench: &mut Bench) {
    let plan = Plan::default().setting("scrub", "first_after", SCRUBS_AFTER);
    let patient = admit(bench, plan, true).await;
    bench.injected("bit-flipped-in-rows-of-entities", 0);
    let table =
        rot::tables_of(&patient.data, "entity").pop().expect("an orderly end writes the entities' table");
    let offset = rot::flip_at(&table, bench.rng.gen_range(100..4_000), &mut bench.rng);
    bench.injected("bit-flipped-in-rows-of-entities", 1);
    bench.note(format!("a bit flipped at {offset} of {}, which holds entities", name(&table)));
    let node = patient.node;
    let look = Look::begin(bench, node).await;
    let began = Instant::now();
    bench.cluster().start_node(node);
    let fate = look.fate_of_serving(bench, DECIDES_WITHIN).await;
    bench.figure("found_after_ms", began.elapsed().as_secs_f64() * 1000.0);
    bench.check(Invariant::StopsWhenWrong, fate.stopped(), format!("node {node} {fate}"));
    bench.note(format!("node {node} {fate}"));
    bench.progress(WRITES_MEANWHILE, NEXT_WRITE_WITHIN).await;
    bench.over(patient.fault);
    bench.absent(node, format!("its rows are rotten: {fate}"));
}

async fn manifest_lost(bench: &mut Bench) {
    let patient = admit(bench, Plan::default(), false).await;
    damage(bench, &patient, "manifest-removed", Must::EndAtStart, |_, data| {
        let file = newest(data, Kind::Manifest);
        rot::remove(&file);
        format!("{} removed", name(&file))
    })
    .await;
    damage(bench, &patient, "manifest-cut", Must::EndAtStart, |_, data| {
        let file = newest(data, Kind::Manifest);
        rot::truncate(&file, rot::written(&file) / 2);
        format!("{} cut to half", name(&file))
    })
    .await;
    damage(bench, &patient, "bit-flipped-in-the-manifest", Must::EndAtStart, |bench, data| {
        let file = newest(data, Kind::Manifest);
        let offset = rot::flip_at(&file, rot::written(&file) / 3, &mut bench.rng);
        format!("a bit flipped at {offset} of {}", name(&file))
    })
    .await;
    damage(bench, &patient, "current-removed", Must::EndAtStart, |_, data| {
        rot::remove(&newest(data, Kind::Current));
        "CURRENT removed".to_owned()
    })
    .await;
    damage(bench, &patient, "current-wrong", Must::EndAtStart, |_, data| {
        std::fs::write(newest(data, Kind::Current), "MANIFEST-999999\n").expect("a stopped node's file");
        "CURRENT names a file that is not there".to_owned()
    })
    .await;
    discharge(bench, patient).await;
}

async fn wal_lost(bench: &mut Bench) {
    let patient = admit(bench, Plan::default(), false).await;
    damage(bench, &patient, "log-cut", Must::EndAtStart, |_, data| {
        let log = newest(data, Kind::WriteAheadLog);
        let written = rot::written(&log);
        rot::truncate(&log, written / 2);
        format!("{} cut to half of {written} bytes", name(&log))
    })
    .await;
    damage(bench, &patient, "log-removed", Must::EndAtStart, |_, data| {
        let logs = rot::files(data, Kind::WriteAheadLog);
        logs.iter().for_each(|log| rot::remove(log));
        format!("{} log files removed", logs.len())
    })
    .await;
    discharge(bench, patient).await;
}
