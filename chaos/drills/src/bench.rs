//! The bench a drill works at: a cluster under a recorded load, the marks of what was done to it, and what was seen.
//!
//! The order of a drill: [`Bench::start`] (or [`Bench::prepare`] and [`Bench::begin`]), then faults — each between
//! [`Bench::fault`] and [`Bench::over`], each counted by [`Bench::injected`] once it is known to have happened — then
//! [`Bench::recovered`] and [`Bench::redundant`]. The final checks are the runner's. An expectation that does not hold
//! unwinds (`assert!`), and the report says so.
//!
//! Invariants: whatever was started or changed is undone when the bench is dropped, the cluster before what
//! [`Bench::keep`] was given; times are milliseconds since the bench was made, by one monotonic clock.

use crate::Options;
use crate::harness::cluster::Cluster;
use crate::harness::plan::Plan;
use crate::harness::queue;
use crate::load::{Load, Staff};
use crate::watch::Watch;
use okno_checks::invariants::{Invariant, Verdict};
use okno_checks::report::Mark;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::any::Any;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// Acknowledged writes before a drill begins with its faults.
pub const WARM_UP_WRITES: u64 = 150;
/// Warming up takes about a second; a busy machine is given more.
const WARM_UP_WITHIN: Duration = Duration::from_secs(30);

/// A fault that was begun.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    pub began: Instant,
    mark: usize,
}

pub struct Bench {
    pub options: Options,
    /// Every choice of the drill comes from here.
    pub rng: ChaCha8Rng,
    began: Instant,
    pub(crate) marks: Vec<Mark>,
    pub(crate) faults: Vec<Fault>,
    pub(crate) injected: BTreeMap<String, u64>,
    pub(crate) figures: BTreeMap<String, f64>,
    pub(crate) verdicts: Vec<Verdict>,
    pub(crate) redundancy: Option<Duration>,
    /// Nodes the final checks leave out, and why.
    pub(crate) absent: BTreeMap<u64, String>,
    // In the order in which they are dropped.
    pub(crate) load: Option<Load>,
    pub(crate) watch: Option<Watch>,
    pub(crate) cluster: Option<Cluster>,
    kept: Vec<Box<dyn Any>>,
}

impl Bench {
    pub(crate) fn new(options: Options) -> Self {
        Self {
            rng: ChaCha8Rng::seed_from_u64(options.seed),
            options,
            began: Instant::now(),
            marks: Vec::new(),
            faults: Vec::new(),
            injected: BTreeMap::new(),
            figures: BTreeMap::new(),
            verdicts: Vec::new(),
            redundancy: None,
            absent: BTreeMap::new(),
            load: None,
            watch: None,
            cluster: None,
            kept: Vec::new(),
        }
    }

    // ---- The cluster and its load ----

    /// A cluster that serves, under the usual load, warmed up.
    pub async fn start(&mut self, plan: Plan) {
        self.prepare(plan);
        self.begin().await;
    }

    /// Lays the cluster out; nothing runs yet.
    pub fn prepare(&mut self, mut plan: Plan) -> &mut Cluster {
        if plan.binary.is_none() {
            plan.binary.clone_from(&self.options.binary);
        }
        if let Some(mutant) = &self.options.mutant {
            plan.env.insert("OKNO_MUTANT".to_owned(), mutant.into());
        }
        self.cluster.insert(Cluster::prepare_as(&plan))
    }

    /// Starts every node of a prepared cluster, fills it, and puts it under load.
    pub async fn begin(&mut self) {
        self.begin_with(Staff::default()).await;
    }

    /// As [`Bench::begin`], with other people at work.
    pub async fn begin_with(&mut self, staff: Staff) {
        let cluster = self.cluster.as_mut().expect("prepared before");
        cluster.start_all();
        cluster.wait_ready().await;
        // Its founders raise a new cluster's level a second after its founding, and only they: whoever kills them all
        // before has a cluster that waits for an operator's `level raise`.
        queue::levelled(cluster).await;
        cluster.fill().await;
        self.watch = Some(Watch::start(cluster));
        self.load = Some(Load::start(cluster, &staff, self.options.seed));
        self.note("load begins");
        self.progress(WARM_UP_WRITES, WARM_UP_WITHIN).await;
    }

    pub fn cluster(&mut self) -> &mut Cluster {
        self.cluster.as_mut().expect("a drill starts its cluster first")
    }

    /// A folder of the drill's own, gone at its end.
    pub fn scratch(&self) -> &Path {
        self.cluster.as_ref().expect("a drill starts its cluster first").scratch()
    }

    /// Holds on to something — a mount, a namespace, a proxy — until the cluster is gone. The last kept goes first.
    pub fn keep(&mut self, what: impl Any) {
        self.kept.push(Box::new(what));
    }

    // ---- What is done, and what is seen ----

    /// Milliseconds since the bench was made.
    pub fn now_ms(&self) -> u64 {
        self.ms(Instant::now())
    }

    pub(crate) fn ms(&self, moment: Instant) -> u64 {
        u64::try_from(moment.saturating_duration_since(self.began).as_millis()).unwrap_or(u64::MAX)
    }

    /// Marks the beginning of a fault that is about to be caused.
    pub fn fault(&mut self, what: impl Into<String>) -> Fault {
        let fault = Fault { began: Instant::now(), mark: self.marks.len() };
        self.faults.push(fault);
        self.note(what);
        fault
    }

    /// Marks its end.
    pub fn over(&mut self, fault: Fault) {
        self.marks[fault.mark].until_ms = Some(self.now_ms());
    }

    /// Marks a moment that is no fault.
    pub fn note(&mut self, what: impl Into<String>) {
        let at_ms = self.now_ms();
        self.marks.push(Mark { at_ms, what: what.into(), until_ms: None });
    }

    /// Counts faults that are known to have happened. A kind that is counted as 0 at the end breaks the drill, and so
    /// does a drill that counted none: register a kind with 0 before trying.
    pub fn injected(&mut self, kind: &str, count: u64) {
        *self.injected.entry(kind.to_owned()).or_default() += count;
    }

    /// Something measured, its unit in the name.
    pub fn figure(&mut self, name: &str, value: f64) {
        self.figures.insert(name.to_owned(), value);
    }

    /// What a drill found out about an invariant besides the final checks.
    pub fn check(&mut self, id: Invariant, held: bool, detail: impl Into<String>) {
        self.verdicts.push(Verdict { id, held, detail: detail.into() });
    }

    /// A node that ended or closed itself as it must: final checks leave it out.
    pub fn absent(&mut self, node: u64, why: impl Into<String>) {
        self.absent.insert(node, why.into());
    }

    // ---- Waiting ----

    /// Writes acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.load.as_ref().map_or(0, Load::acknowledged)
    }

    /// Waits until so many more writes were acknowledged; unwinds when they are not.
    pub async fn progress(&mut self, writes: u64, within: Duration) {
        let aim = self.acknowledged() + writes;
        crate::harness::eventually(&format!("{writes} more writes"), within, async || {
            let have = self.acknowledged();
            if have >= aim { Ok(()) } else { Err(format!("{} missing", aim - have)) }
        })
        .await;
    }

    /// Waits for the first write that was begun after a fault to be acknowledged: how long after the fault that was.
    /// Not within the time stated: progress is broken, and the drill with it.
    pub async fn recovered(&mut self, fault: Fault, within: Duration) -> Duration {
        self.served_since(fault.began, within).await
    }

    /// As [`Bench::recovered`], from any moment, e.g. that of the heal.
    pub async fn served_since(&mut self, moment: Instant, within: Duration) -> Duration {
        let until = Instant::now() + within;
        loop {
            let first = self.load.as_ref().expect("under load").first_write_after(moment);
            if let Some(after) = first {
                let (took, allowed) = (after.as_millis(), within.as_millis());
                let text = format!("a write was acknowledged after {took} ms; {allowed} ms are allowed");
                self.check(Invariant::Progress, true, text);
                return after;
            }
            if Instant::now() > until {
                let text = format!("no write was acknowledged within {within:?}");
                self.check(Invariant::Progress, false, text.clone());
                panic!("{text}");
            }
            tokio::time::sleep(crate::harness::POLL).await;
        }
    }

    /// Waits until every node that is not absent serves and has caught up with what the leader had committed at the
    /// call; keeps the time since the fault as the time without full redundancy.
    pub async fn redundant(&mut self, fault: Fault, within: Duration) -> Duration {
        let members: Vec<u64> =
            self.cluster().ids().into_iter().filter(|node| !self.absent.contains_key(node)).collect();
        let cluster = self.cluster.as_ref().expect("started");
        let caught_up = tokio::time::timeout(within, crate::watch::caught_up(cluster, &members)).await;
        let took = fault.began.elapsed();
        match caught_up {
            Ok(()) => {
                self.redundancy = Some(self.redundancy.map_or(took, |before| before.max(took)));
                self.note("every node has caught up");
                took
            }
            Err(_) => {
                let text = format!("nodes {members:?} had not all caught up within {within:?}");
                self.check(Invariant::Progress, false, text.clone());
                panic!("{text}");
            }
        }
    }
}
