//! Less than a node needs: descriptors, memory.

use crate::bench::{Bench, Fault};
use crate::drill::Drill;
use crate::drills::process::{NEXT_WRITE_WITHIN, REDUNDANT_WITHIN, SOME_WRITES};
use crate::harness::plan::Plan;
use crate::limits::{self, Resource};
use okno_checks::invariants::Invariant;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// A node that cannot go on ends within this, or bears it.
const PRESSED_FOR: Duration = Duration::from_secs(8);

pub const OUT_OF_DESCRIPTORS: Drill = Drill {
    name: "out-of-descriptors",
    faults: &[41],
    needs: &[],
    scenario: "The leader is left no file descriptor beyond those it has (prlimit), while new connections knock and its store \
               wants new files.",
    expected: "It bears it, or ends at once rather than half work; the cluster serves on; with its descriptors back, or \
               started again, it is whole.",
    run: |bench| Box::pin(out_of_descriptors(bench)),
};

async fn out_of_descriptors(bench: &mut Bench) {
    bench.injected("descriptor-refused", 0);
    bench.start(Plan::default()).await;
    let node = bench.cluster().leader().await;
    let process = bench.cluster().pid(node).expect("it runs");
    let has = limits::lowest_free_descriptor(process).expect("a process of ours");
    let before = limits::limit(process, Resource::Descriptors).expect("its limits are readable");
    let fault = bench.fault(format!("node {node}, the leader, has no descriptor left"));
    limits::set_limit(process, Resource::Descriptors, has).expect("a limit can be lowered");
    bench.figure("descriptors_max", has as f64);
    let address = bench.cluster().entry(node).clients;
    // Each is completed by the kernel and waits to be taken, for which a descriptor is missing.
    let mut knocking = Vec::new();
    let mut refused = 0;
    while fault.began.elapsed() < PRESSED_FOR {
        if let Ok(stream) = TcpStream::connect(address).await {
            knocking.push(stream);
        }
        if bench.cluster().has_ended(node) {
            break;
        }
        refused = told(bench, node, &["Too many open files", "os error 24"]);
        tokio::time::sleep(Duration::from_millis(50)).await;
        if refused > 0 && fault.began.elapsed() > PRESSED_FOR / 2 {
            break;
        }
    }
    let refused = refused.max(told(bench, node, &["Too many open files", "os error 24"]));
    bench.injected("descriptor-refused", refused);
    drop(knocking);
    if !bench.cluster().has_ended(node) {
        limits::set_limit(process, Resource::Descriptors, before).expect("a limit can be put back");
    }
    back(bench, node, fault).await;
}

pub const OUT_OF_MEMORY: Drill = Drill {
    name: "out-of-memory",
    faults: &[41],
    needs: &[],
    scenario: "The leader is left no address space beyond what it has (RLIMIT_AS), so that its next large allocation fails.",
    expected: "It bears it, or ends at once; the cluster serves on without it; started again, it is whole.",
    run: |bench| Box::pin(out_of_memory(bench)),
};

async fn out_of_memory(bench: &mut Bench) {
    bench.injected("memory-limit", 0);
    bench.start(Plan::default()).await;
    let node = bench.cluster().leader().await;
    let process = bench.cluster().pid(node).expect("it runs");
    let has = limits::address_space(process).expect("a process of ours");
    let before = limits::limit(process, Resource::AddressSpace).expect("its limits are readable");
    let fault = bench.fault(format!("node {node}, the leader, gets no more memory"));
    limits::set_limit(process, Resource::AddressSpace, has).expect("a limit can be lowered");
    bench.figure("address_space_mib", (has >> 20) as f64);
    // Connections want buffers, and the work under way wants more than was there.
    let address = bench.cluster().entry(node).clients;
    let mut knocking = Vec::new();
    while fault.began.elapsed() < PRESSED_FOR && !bench.cluster().has_ended(node) {
        if let Ok(stream) = TcpStream::connect(address).await {
            knocking.push(stream);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let refused = told(bench, node, &["memory allocation", "Cannot allocate memory", "os error 12"]);
    bench.figure("allocations_refused_in_the_log", refused as f64);
    // Whether an allocation was refused is up to what the node holds already: the figure above tells.
    bench.injected("memory-limit", 1);
    drop(knocking);
    if !bench.cluster().has_ended(node) {
        limits::set_limit(process, Resource::AddressSpace, before).expect("a limit can be put back");
    }
    back(bench, node, fault).await;
}

/// How often a node's log says one of these.
fn told(bench: &mut Bench, node: u64, texts: &[&str]) -> u64 {
    let log = bench.cluster().log(node);
    texts.iter().map(|text| log.matches(text).count() as u64).max().unwrap_or(0)
}

/// The service goes on; the node is started again where it has ended.
async fn back(bench: &mut Bench, node: u64, fault: Fault) {
    let ended = bench.cluster().ended(node, Duration::ZERO).await;
    bench.note(match &ended {
        Some(status) => format!("node {node} has ended: {status}"),
        None => format!("node {node} has borne it"),
    });
    bench.figure("ended_by_itself", f64::from(u8::from(ended.is_some())));
    // Ending is right; ending as if nothing had been wrong is not.
    let clean = ended.is_some_and(|status| status.success());
    bench.check(Invariant::StopsWhenWrong, !clean, format!("node {node}: {ended:?}"));
    bench.served_since(Instant::now(), NEXT_WRITE_WITHIN).await;
    bench.progress(SOME_WRITES, NEXT_WRITE_WITHIN).await;
    if ended.is_some() {
        bench.cluster().start_node(node);
    }
    bench.over(fault);
    bench.redundant(fault, REDUNDANT_WITHIN).await;
    bench.progress(SOME_WRITES, NEXT_WRITE_WITHIN).await;
}
