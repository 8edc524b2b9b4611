//! The checks at the end of every drill, through the public interface and each node's own store.

use crate::bench::Bench;
use crate::harness::cluster::Cluster;
use crate::load::record::{Acknowledged, Record};
use crate::load::{Load, finals};
use okno_checks::examine::examine;
use okno_checks::history::{CaseSeen, Final, History};
use okno_checks::invariants::{Invariant, Verdict};
use okno_checks::report::{DrillReport, Timeline};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Calls whose outcome is open are repeated for so long after the load has ended.
const SETTLE_WITHIN: Duration = Duration::from_secs(20);
/// What one node may take, a block cache and write buffers of 64 MiB each included: the rest is RocksDB's own, queues and
/// caches with their bounds, and a copy of what is on its way.
pub const RESIDENT_MAX: u64 = 512 << 20;
/// Of the timeline.
const BUCKET: Duration = Duration::from_millis(250);
/// Problems of one kind that are told; more of the same help nobody.
const TOLD_MAX: usize = 4;

/// Ends the load, checks everything, and enters what was found.
pub async fn checks(bench: &mut Bench, report: &mut DrillReport) {
    let Some(mut load) = bench.load.take() else { return };
    let ended = Instant::now();
    let open = load.finish(SETTLE_WITHIN).await;
    let record = load.recorder.take();
    bench.note("load ends");
    measure(bench, report, &record, ended);
    let settled = format!("{} settled under their own request ids", record.settled);
    bench.verdicts.push(verdict(Invariant::UnknownResolves, &open, settled));

    if let Some(watch) = bench.watch.take() {
        bench.verdicts.push(watch.one_leader());
        bench.verdicts.push(memory(&watch.resident_max()));
        let most = watch.resident_max().into_values().max().unwrap_or(0);
        bench.figure("resident_max_mib", (most >> 20) as f64);
        bench.figure("terms", watch.terms().len() as f64);
    }
    let absent: Vec<u64> = bench.absent.keys().copied().collect();
    let cluster = bench.cluster.as_mut().expect("a load has a cluster");
    let nodes: Vec<u64> = cluster.running().into_iter().filter(|node| !absent.contains(node)).collect();
    let verdicts = compare(cluster, &nodes, &load, record, report).await;
    bench.verdicts.extend(verdicts);
    let cluster = bench.cluster.as_mut().expect("as above");
    let verdict = journals(cluster, &nodes).await;
    bench.verdicts.push(verdict);
}

fn verdict(id: Invariant, problems: &[String], fine: String) -> Verdict {
    let held = problems.is_empty();
    let detail = if held {
        fine
    } else {
        let more = problems.len().saturating_sub(TOLD_MAX);
        let told = problems[..problems.len().min(TOLD_MAX)].join("; ");
        if more == 0 { told } else { format!("{told}; and {more} more") }
    };
    Verdict { id, held, detail }
}

/// Throughput, latency, the longest silence, errors.
fn measure(bench: &mut Bench, report: &mut DrillReport, record: &Record, ended: Instant) {
    report.acknowledged = record.acknowledged.len() as u64;
    report.errors.clone_from(&record.errors);
    report.timeline = timeline(bench, &record.acknowledged);
    report.downtime_ms = downtime(bench, &record.acknowledged, ended)
        .map(|gap| u64::try_from(gap.as_millis()).unwrap_or(u64::MAX));
    let mut took: Vec<Duration> = record.acknowledged.iter().map(|write| write.ended - write.begun).collect();
    took.sort();
    if let (Some(median), Some(last)) = (took.get(took.len() / 2), took.last()) {
        bench.figure("latency_median_ms", median.as_secs_f64() * 1e3);
        bench.figure("latency_max_ms", last.as_secs_f64() * 1e3);
    }
    bench.figure("retries", record.retries as f64);
    bench.figure("unknown_settled", record.settled as f64);
}

fn timeline(bench: &Bench, writes: &[Acknowledged]) -> Timeline {
    let bucket_ms = u64::try_from(BUCKET.as_millis()).expect("a quarter of a second");
    let buckets = usize::try_from(bench.now_ms() / bucket_ms + 1).unwrap_or(0);
    let mut timeline = Timeline {
        bucket_ms,
        acknowledged: vec![0; buckets],
        latency_max_ms: vec![0.0; buckets],
        marks: Vec::new(),
    };
    for write in writes {
        let bucket = usize::try_from(bench.ms(write.ended) / bucket_ms).unwrap_or(0).min(buckets - 1);
        timeline.acknowledged[bucket] += 1;
        let latency = (write.ended - write.begun).as_secs_f64() * 1e3;
        timeline.latency_max_ms[bucket] = timeline.latency_max_ms[bucket].max(latency);
    }
    timeline
}

/// The longest time without an acknowledged write that ended after the first fault began.
fn downtime(bench: &Bench, writes: &[Acknowledged], ended: Instant) -> Option<Duration> {
    let first = bench.faults.first()?.began;
    let mut moments: Vec<Instant> = writes.iter().map(|write| write.ended).collect();
    moments.push(ended);
    moments.sort();
    moments.windows(2).filter(|pair| pair[1] > first).map(|pair| pair[1] - pair[0]).max()
}

fn memory(resident: &BTreeMap<u64, u64>) -> Verdict {
    let over: Vec<String> = resident
        .iter()
        .filter(|(_, bytes)| **bytes > RESIDENT_MAX)
        .map(|(node, bytes)| format!("node {node} took {} MiB", bytes >> 20))
        .collect();
    let most = resident.values().max().copied().unwrap_or(0) >> 20;
    verdict(
        Invariant::MemoryBounded,
        &over,
        format!("{most} MiB at most; {} are allowed", RESIDENT_MAX >> 20),
    )
}

/// Everything the load was told, against every node's own store and against the sequential models; and the nodes against
/// each other.
async fn compare(
    cluster: &Cluster,
    nodes: &[u64],
    load: &Load,
    record: Record,
    report: &mut DrillReport,
) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    let mut problems = Vec::new();
    let mut found = Vec::new();
    for node in nodes {
        let arrived = crate::watch::applied(cluster, *node, record.index_highest).await;
        match arrived {
            Ok(()) => match finals::read(cluster, *node, record.index_highest).await {
                Ok(own) => found.push(own),
                Err(problem) => problems.push(problem),
            },
            Err(problem) => problems.push(problem),
        }
    }
    if nodes.is_empty() {
        problems.push("no node is left to be asked".to_owned());
    }
    verdicts.push(verdict(Invariant::Acknowledged, &problems, format!("{} stores were read", found.len())));
    let stale = strangers(&record.locals, &found);
    let fine = format!("{} local reads were beginnings of what came to be", record.locals.len());
    verdicts.push(verdict(Invariant::StopsWhenWrong, &stale, fine));
    let alike = cluster.alike(nodes).await;
    let (differences, fine) = match alike {
        Ok(fine) => (Vec::new(), fine),
        Err(difference) => (vec![difference], String::new()),
    };
    verdicts.push(verdict(Invariant::SameState, &differences, fine));

    let history = History {
        setting: finals::setting(load.recorder.began()),
        operations: record.operations,
        finals: found,
    };
    count(&history, report);
    // Searching for an order takes the processor, and nobody else waits for this thread.
    let examined = examine(&history);
    report.figures.insert("operations".to_owned(), history.operations.len() as f64);
    report.figures.insert("facts_compared".to_owned(), examined.compared as f64);
    verdicts.extend(examined.verdicts);
    verdicts
}

/// What a node's own store said of a case must be a beginning of what came to be: documents and steps are only added.
fn strangers(locals: &[(u64, String, CaseSeen)], finals: &[Final]) -> Vec<String> {
    let Some(last) = finals.first() else { return Vec::new() };
    let mut problems = Vec::new();
    for (node, id, seen) in locals {
        let fits = last.cases.get(id).is_some_and(|case| {
            seen.documents.len() <= case.documents.len()
                && seen.documents == case.documents[..seen.documents.len()]
                && seen.steps_last <= case.steps_last
        });
        if !fits {
            problems.push(format!("node {node} showed of case {id} what never was: {seen:?}"));
        }
    }
    problems
}

/// Documents acknowledged that are missing somewhere, and documents that are there twice: the figures of the report.
fn count(history: &History, report: &mut DrillReport) {
    use okno_checks::history::{Call, Entity, Outcome, Reply};
    let mut told: BTreeMap<(&str, &str), u32> = BTreeMap::new();
    for operation in &history.operations {
        if let (Entity::Case(id), Call::AddDocument { reference, .. }) = (&operation.entity, &operation.call)
            && let Outcome::Done { reply: Reply::DocumentAdded { document }, .. } = &operation.outcome
        {
            told.insert((id, reference), *document);
        }
    }
    let mut lost = std::collections::BTreeSet::new();
    let mut twice = std::collections::BTreeSet::new();
    for node in &history.finals {
        for ((id, reference), document) in &told {
            let documents = node.cases.get(*id).map_or(&[][..], |case| &case.documents);
            if !documents.iter().any(|(number, own)| number == document && own == reference) {
                lost.insert((*id, *reference));
            }
            if documents.iter().filter(|(_, own)| own == reference).count() > 1 {
                twice.insert((*id, *reference));
            }
        }
    }
    report.lost = lost.len() as u64;
    report.duplicated = twice.len() as u64;
}

/// Ends the nodes and checks what they left: log, hash chain and rows.
async fn journals(cluster: &mut Cluster, nodes: &[u64]) -> Verdict {
    let mut problems = Vec::new();
    for node in nodes {
        let status = cluster.terminate(*node).await;
        if !status.success() {
            problems.push(format!("node {node} ended with {status} after SIGTERM"));
        }
    }
    for node in nodes {
        problems.extend(cluster.verified(*node).err());
    }
    verdict(
        Invariant::JournalWhole,
        &problems,
        format!("{} data directories passed okno verify", nodes.len()),
    )
}
