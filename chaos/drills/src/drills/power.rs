//! Power that fails: every node or one, with everything unsynced lost, or with metadata kept and their data lost; and a
//! disk's image copied in flight.
//!
//! Every node's data lie on an ext4 file system of their own. Just before each cut a canary is written there and not
//! synced: that it is gone afterwards shows that the cut was one.

use crate::bench::Bench;
use crate::disk::volume::{self, Journal, PowerCut, Volume};
use crate::drill::{Drill, Need};
use crate::fate::{Fate, Look};
use crate::harness::plan::Plan;
use okno_checks::invariants::Invariant;
use rand::Rng;
use rand::seq::SliceRandom;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Starting, replaying the log and an election, on two cores for all nodes.
const RESUMES_WITHIN: Duration = Duration::from_secs(30);
const REDUNDANT_WITHIN: Duration = Duration::from_secs(45);
const NEXT_WRITE_WITHIN: Duration = Duration::from_secs(15);
const GOES_ON_WRITES: u64 = 200;
/// Room for a database's preallocated log files many times over; sparse until it is used.
const VOLUME_MEBIBYTES: u64 = 512;

pub(super) const NEEDS: &[Need] = &[Need::Root, Need::LoopDevices];

pub const POWER_LOSS: Drill = Drill {
    name: "power-loss",
    faults: &[3, 4],
    needs: NEEDS,
    scenario: "All nodes lose their power at the same moment under load: everything that was not synced is gone. After \
               the wait the power comes back and the nodes are started.",
    expected: "The nodes find each other and serve again without anybody's help; everything acknowledged is there, once.",
    run: |bench| Box::pin(power_loss(bench, Journal::Ordered, PowerCut::EverythingUnsynced)),
};

pub const POWER_LOSS_ONE: Drill = Drill {
    name: "power-loss-one",
    faults: &[3],
    needs: NEEDS,
    scenario: "The leader alone loses its power under load, and comes back after the others have gone on; then a \
               follower does.",
    expected: "The others serve within seconds; each comes back with everything it had promised and catches up.",
    run: |bench| Box::pin(power_loss_one(bench)),
};

pub const METADATA_ONLY: Drill = Drill {
    name: "metadata-only",
    faults: &[5],
    needs: NEEDS,
    scenario: "All nodes lose their power at the same moment under load; their file systems keep metadata of files whose \
               data are lost (data=writeback, journal written out).",
    expected: "As after any loss of power: what was synced is enough.",
    run: |bench| Box::pin(power_loss(bench, Journal::Writeback, PowerCut::DataOnly)),
};

pub const IMAGE_IN_FLIGHT: Drill = Drill {
    name: "image-in-flight",
    faults: &[7],
    needs: NEEDS,
    scenario: "A follower's disk is copied while it is written to; the node is killed, and comes back on the copy after a \
               check of the file system.",
    expected: "It catches up, or it ends or closes itself with a reason; it never serves what is not true.",
    run: |bench| Box::pin(image_in_flight(bench)),
};

/// Every node's volume, and the folder that holds them.
pub(super) struct Disks {
    pub volumes: BTreeMap<u64, Volume>,
    // Dropped after the volumes that are mounted in it.
    _folder: crate::disk::Folder,
}

impl Disks {
    pub fn of(&self, node: u64) -> &Volume {
        &self.volumes[&node]
    }
}

/// A plan for three nodes, each with its data on a volume of its own.
pub(super) fn plan(bench: &mut Bench, mebibytes: u64, journal: Journal) -> (Plan, Rc<Disks>) {
    let mut plan = Plan::default();
    let folder = crate::disk::Folder::new();
    let volumes: BTreeMap<u64, Volume> = plan
        .ids()
        .map(|node| (node, Volume::create(folder.path(), &format!("node-{node}"), mebibytes, journal)))
        .collect();
    for (node, volume) in &volumes {
        plan = plan.data(*node, volume.path().join("data"));
    }
    let disks = Rc::new(Disks { volumes, _folder: folder });
    bench.keep(Rc::clone(&disks));
    (plan, disks)
}

/// A file that was written and not synced.
struct Canary {
    path: PathBuf,
}

const CANARY_BYTES: usize = 64 * 1024;

impl Canary {
    fn sing(volume: &Volume) -> Self {
        let path = volume.path().join("canary");
        std::fs::write(&path, vec![0x5a; CANARY_BYTES]).expect("the volume is mounted");
        Self { path }
    }

    /// Whether what it holds was lost, after the power came back.
    fn lost(&self) -> bool {
        std::fs::read(&self.path).map_or(true, |bytes| bytes != vec![0x5a; CANARY_BYTES])
    }
}

/// Loses power at the given nodes, kills them, and has them stand there without power. Returns what must be lost.
async fn lose_power(bench: &mut Bench, disks: &Disks, nodes: &[u64], how: PowerCut) -> Vec<Canary> {
    let volumes: Vec<&Volume> = nodes.iter().map(|node| disks.of(*node)).collect();
    let canaries = volumes.iter().map(|volume| Canary::sing(volume)).collect();
    volume::cut_power_at_once(&volumes, how);
    if nodes.len() == bench.cluster().ids().len() {
        bench.cluster().kill_all();
    } else {
        for node in nodes {
            bench.cluster().kill(*node);
        }
    }
    for volume in volumes {
        volume.unmount().await;
    }
    bench.injected("power-cuts", nodes.len() as u64);
    canaries
}

fn restore_power(bench: &mut Bench, disks: &Disks, nodes: &[u64], canaries: &[Canary]) {
    for node in nodes {
        disks.of(*node).mount();
    }
    let lost = canaries.iter().filter(|canary| canary.lost()).count();
    assert_eq!(lost, canaries.len(), "unsynced files survived: the power was not lost");
    bench.injected("unsynced-files-lost", lost as u64);
    for node in nodes {
        bench.cluster().start_node(*node);
    }
}

async fn random_moment(bench: &mut Bench) {
    let moment = Duration::from_millis(bench.rng.gen_range(500..2_500));
    tokio::time::sleep(moment).await;
}

async fn power_loss(bench: &mut Bench, journal: Journal, how: PowerCut) {
    let (plan, disks) = plan(bench, VOLUME_MEBIBYTES, journal);
    bench.start(plan).await;
    random_moment(bench).await;
    let nodes = bench.cluster().ids();
    let fault = bench.fault("every node loses its power");
    let canaries = lose_power(bench, &disks, &nodes, how).await;
    let wait = bench.options.wait;
    bench.figure("power_off_s", wait.as_secs_f64());
    tokio::time::sleep(wait).await;
    bench.note("the power is back");
    let back = Instant::now();
    restore_power(bench, &disks, &nodes, &canaries);
    bench.over(fault);
    let resumed = bench.served_since(back, RESUMES_WITHIN).await;
    bench.figure("resumed_after_power_ms", resumed.as_secs_f64() * 1000.0);
    bench.progress(GOES_ON_WRITES, NEXT_WRITE_WITHIN).await;
    bench.redundant(fault, REDUNDANT_WITHIN).await;
}

async fn power_loss_one(bench: &mut Bench) {
    let (plan, disks) = plan(bench, VOLUME_MEBIBYTES, Journal::Ordered);
    bench.start(plan).await;
    for leads in [true, false] {
        random_moment(bench).await;
        let node = if leads { bench.cluster().leader().await } else { bench.cluster().follower().await };
        let role = if leads { "the leader" } else { "a follower" };
        let fault = bench.fault(format!("node {node}, {role}, loses its power"));
        let canaries = lose_power(bench, &disks, &[node], PowerCut::EverythingUnsynced).await;
        let cut = Instant::now();
        let next = bench.served_since(cut, NEXT_WRITE_WITHIN).await;
        bench.figure(
            if leads { "next_write_ms" } else { "next_write_without_follower_ms" },
            next.as_secs_f64() * 1000.0,
        );
        bench.progress(GOES_ON_WRITES, NEXT_WRITE_WITHIN).await;
        restore_power(bench, &disks, &[node], &canaries);
        bench.over(fault);
        bench.redundant(fault, REDUNDANT_WITHIN).await;
    }
}

/// A node on a copy of its disk starts, replays its log and catches up, or notices that it cannot.
const DECIDES_WITHIN: Duration = Duration::from_secs(20);

async fn image_in_flight(bench: &mut Bench) {
    let (plan, disks) = plan(bench, VOLUME_MEBIBYTES, Journal::Ordered);
    bench.start(plan).await;
    random_moment(bench).await;
    let followers: Vec<u64> = {
        let leader = bench.cluster().leader().await;
        bench.cluster().ids().into_iter().filter(|node| *node != leader).collect()
    };
    let node = *followers.choose(&mut bench.rng).expect("two followers");
    let disk = disks.of(node);
    let fault = bench.fault(format!("node {node}'s disk is copied in flight; the node moves to the copy"));
    let copying = bench.acknowledged();
    let began = Instant::now();
    let copy = disk.copy_in_flight().await;
    bench.figure("copying_ms", began.elapsed().as_secs_f64() * 1000.0);
    bench.figure("writes_while_copying", (bench.acknowledged() - copying) as f64);
    bench.progress(GOES_ON_WRITES, NEXT_WRITE_WITHIN).await;
    bench.cluster().kill(node);
    disk.replace_by(&copy).await;
    bench.injected("disks-replaced-by-a-copy-in-flight", 1);
    let look = Look::begin(bench, node).await;
    bench.cluster().start_node(node);
    let fate = look.fate(bench, DECIDES_WITHIN).await;
    bench.note(format!("node {node} {fate}"));
    bench.check(Invariant::StopsWhenWrong, fate.is_safe(), format!("on the copy node {node} {fate}"));
    bench.over(fault);
    let end = Instant::now();
    bench.served_since(end, NEXT_WRITE_WITHIN).await;
    if let Fate::Serves = fate {
        bench.redundant(fault, REDUNDANT_WITHIN).await;
    } else {
        bench.absent(node, fate.to_string());
    }
}
