//! Writers beside a test, and the check that makes them worth having: everything acknowledged to them is there, once,
//! on every node, read from that node's own store.

use crate::harness::cluster::Cluster;
use crate::harness::desk::{self, Desk};
use crate::harness::people;
use futures::{StreamExt, TryStreamExt};
use okno_client::{Call, CallError, Class, Client};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// Documents of one case before a writer opens the next: far below the bound of a case.
const DOCUMENTS: u32 = 40;
/// Reads under way at a time while checking.
const READS: usize = 16;

/// What was acknowledged to the writers, and what was tried.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Case → reference → number.
    pub cases: BTreeMap<String, BTreeMap<String, u32>>,
    /// References whose outcome was never learned: there once, or not at all.
    pub in_doubt: BTreeSet<String>,
    /// When each acknowledged write was begun and answered, by the writers' one clock.
    pub writes: Vec<(Instant, Instant)>,
    /// The highest index a write took effect at.
    pub index_highest: u64,
    /// Attempts beyond the first, over all calls.
    pub retries: u64,
    /// Failures a healthy or merely interrupted cluster has no reason for.
    pub faults: Vec<String>,
}

/// Writers at work.
pub struct Load {
    ledger: Arc<Mutex<Ledger>>,
    stop: Arc<AtomicBool>,
    writers: Vec<JoinHandle<()>>,
}

impl Load {
    /// `count` officers, each adding documents to cases of its own, one call after the other.
    pub fn start(cluster: &Cluster, count: usize) -> Self {
        assert!(count <= people::WRITERS_MAX);
        Self::start_with(Self::desks(cluster, count))
    }

    /// As [`Load::start`], each resting between its writes: what the cluster holds in the end is bounded by the time it
    /// takes, and not by how fast the machine is.
    pub fn start_unhurried(cluster: &Cluster, count: usize, rest: Duration) -> Self {
        Self::begin(Self::desks(cluster, count), rest)
    }

    fn desks(cluster: &Cluster, count: usize) -> Vec<Desk> {
        (0..count).map(|n| cluster.desk("operator", &people::writer(n))).collect()
    }

    /// As [`Load::start`], with callers of the test's own choosing; each must be an officer of the busy office.
    pub fn start_with(desks: Vec<Desk>) -> Self {
        Self::begin(desks, Duration::ZERO)
    }

    fn begin(desks: Vec<Desk>, rest: Duration) -> Self {
        let ledger = Arc::new(Mutex::new(Ledger::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let writers = desks
            .into_iter()
            .enumerate()
            .map(|(number, desk)| {
                let writer = Writer { number, client: desk.client, ledger: Arc::clone(&ledger), rest };
                tokio::spawn(writer.work(Arc::clone(&stop)))
            })
            .collect();
        Self { ledger, stop, writers }
    }

    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `count` more writes were acknowledged.
    pub async fn progress(&self, count: usize) {
        let aim = self.ledger().writes.len() + count;
        crate::harness::eventually(&format!("{count} more writes"), Duration::from_secs(60), async || {
            let ledger = self.ledger();
            if ledger.writes.len() >= aim { Ok(()) } else { Err(format!("{} of {aim}", ledger.writes.len())) }
        })
        .await;
    }

    /// Waits for the first write that was begun after `moment` to be acknowledged; returns how long after it that was.
    pub async fn first_write_after(&self, moment: Instant, within: Duration) -> Duration {
        crate::harness::eventually("a write begun afterwards", within, async || {
            self.ledger().first_write_after(moment).ok_or("none yet")
        })
        .await
    }

    /// Lets every writer finish its call, and returns what was acknowledged. Panics on faults.
    pub async fn finish(self) -> Ledger {
        self.stop.store(true, Ordering::Relaxed);
        for writer in self.writers {
            writer.await.expect("a writer never panics");
        }
        let ledger = std::mem::take(&mut *self.ledger.lock().unwrap_or_else(PoisonError::into_inner));
        assert!(ledger.faults.is_empty(), "writers met faults: {:#?}", ledger.faults);
        ledger
    }
}

impl Ledger {
    pub fn first_write_after(&self, moment: Instant) -> Option<Duration> {
        let answered = self.writes.iter().filter(|(begun, _)| *begun > moment).map(|(_, answered)| *answered);
        answered.min().map(|answered| answered - moment)
    }

    /// Everything acknowledged is there, once, on every one of the nodes, from its own store.
    pub async fn assert_on(&self, cluster: &Cluster, nodes: &[u64]) {
        for node in nodes {
            let from = cluster.wait_applied(*node, self.index_highest).await;
            let auditor = cluster.desk_at(*node, "auditor", "revizor");
            let faults: Vec<String> = futures::stream::iter(&self.cases)
                .map(|(case, documents)| {
                    let auditor = auditor.clone();
                    async move { self.check_case(&auditor, *node, from, case, documents).await }
                })
                .buffer_unordered(READS)
                .try_collect::<Vec<_>>()
                .await
                .unwrap_or_else(|error: CallError| panic!("reading from node {node}: {error}"))
                .into_iter()
                .flatten()
                .collect();
            assert!(
                faults.is_empty(),
                "node {node}: {} faults: {:#?}",
                faults.len(),
                &faults[..faults.len().min(20)]
            );
        }
    }

    async fn check_case(
        &self,
        auditor: &Desk,
        node: u64,
        from: u64,
        case: &str,
        documents: &BTreeMap<String, u32>,
    ) -> Result<Vec<String>, CallError> {
        let mut faults = Vec::new();
        let (meta, found) = match auditor.case_local(case).await {
            Ok(found) => found,
            Err(error) if error.problem().code == tonic::Code::NotFound => {
                return Ok(vec![format!("case {case} is missing")]);
            }
            Err(error) => return Err(error),
        };
        if meta.served_by != node || meta.applied_index < from {
            faults.push(format!("case {case} was read at {meta:?}, expected node {node} from index {from}"));
        }
        let mut numbers: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
        for document in &found.documents {
            numbers.entry(&document.reference).or_default().push(document.number);
        }
        for (reference, found) in &numbers {
            if found.len() > 1 {
                faults.push(format!("case {case}: document {reference} is there as {found:?}"));
            }
            if !documents.contains_key(*reference) && !self.in_doubt.contains(*reference) {
                faults.push(format!("case {case}: nobody was told of document {reference}"));
            }
        }
        for (reference, number) in documents {
            match numbers.get(reference.as_str()) {
                None => faults.push(format!("case {case}: document {reference} is missing")),
                Some(found) if found == &[*number] => {}
                Some(found) => {
                    faults.push(format!("case {case}: {reference} is {found:?}, told as {number}"))
                }
            }
        }
        Ok(faults)
    }

    pub fn documents(&self) -> usize {
        self.cases.values().map(BTreeMap::len).sum()
    }
}

struct Writer {
    number: usize,
    client: Client,
    ledger: Arc<Mutex<Ledger>>,
    /// Between two writes.
    rest: Duration,
}

impl Writer {
    async fn work(self, stop: Arc<AtomicBool>) {
        let mut visitor = 0_u32;
        while !stop.load(Ordering::Relaxed) {
            let request = desk::open(people::BUSY_OFFICE, self.number as u32 * 10_000 + visitor);
            let Some(opened) = self.write("a case", request).await else { continue };
            let case = opened.case_id;
            self.ledger().cases.insert(case.clone(), BTreeMap::new());
            for document in 0..DOCUMENTS {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let reference = format!("{}-{visitor}-{document}", self.number);
                let Some(added) = self.write(&reference, desk::document(&case, &reference)).await else {
                    continue;
                };
                let mut ledger = self.ledger();
                let documents = ledger.cases.get_mut(&case).expect("entered above");
                documents.insert(reference, added.document_number);
            }
            visitor += 1;
        }
    }

    async fn write<C: Call>(&self, what: &str, request: C) -> Option<C::Response> {
        if !self.rest.is_zero() {
            tokio::time::sleep(self.rest).await;
        }
        let begun = Instant::now();
        let outcome = self.client.call(request).await;
        let mut ledger = self.ledger();
        match outcome {
            Ok(answer) => {
                ledger.writes.push((begun, Instant::now()));
                ledger.index_highest = ledger.index_highest.max(C::hints(&answer.response).applied_index);
                ledger.retries += u64::from(answer.attempts - 1);
                Some(answer.response)
            }
            Err(error) => {
                if error.class() == Class::Unknown {
                    ledger.in_doubt.insert(what.to_owned());
                }
                // The writers' deadline is longer than any interruption a test causes.
                ledger.faults.push(format!("{what}: {error} after {} attempts", error.problem().attempts));
                None
            }
        }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
