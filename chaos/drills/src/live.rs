//! The guarded drills: against a customer's running cluster.
//!
//! Guards, in this order: every member serves, is connected and has caught up, so that a quorum survives the loss of
//! one ([`Live::check`]); whoever runs it has typed the cluster's name ([`Live::confirm`]); nothing is written but
//! markers, which compare the members' rows and change no office's work. Only then leadership moves, or one node is
//! stopped — by the operator's own command, and started again by it whatever happened meanwhile.

use crate::harness::POLL;
use okno_checks::invariants::{Invariant, Verdict};
use okno_checks::report::{DrillReport, Mark, Outcome};
use okno_client::{CallOptions, Client, Context, Problem, v1 as proto};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// The drills that may be run against a live cluster, and what each does.
pub const NAMES: [(&str, &str); 2] = [
    ("leader-transfer", "leadership is handed to another node, and back"),
    ("stop-one-node", "a follower is stopped and started by your own commands"),
];

/// Fewer members than this have no quorum once one is away.
const MEMBERS_MIN: usize = 3;
/// Entries a member may be behind the leader at the beginning: traffic under way.
const BEHIND_MAX: u64 = 1_000;
const TRANSFER_WITHIN: Duration = Duration::from_secs(10);
/// The operator's command, and what it brings about.
const STOPPED_WITHIN: Duration = Duration::from_secs(120);
const BACK_WITHIN: Duration = Duration::from_secs(300);
/// The service is watched for so long while a node is away.
const AWAY: Duration = Duration::from_secs(10);
/// A read of the catalogue, linearizable: it needs a leader and a quorum, and touches nobody's data.
const PROBE_EVERY: Duration = Duration::from_millis(100);
const PROBE_WITHIN: Duration = Duration::from_secs(10);
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
const BUCKET_MS: u64 = 250;

#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    #[error("{0}")]
    Setup(#[from] okno_client::SetupError),
    #[error("no live drill is called {0}: there are leader-transfer and stop-one-node")]
    Unknown(String),
    #[error("the context file names no cluster, so that none can be confirmed")]
    Nameless,
    #[error("the drill does not begin: {0}")]
    Unsafe(String),
    #[error("not confirmed: type {expected}, the cluster's name; nothing was done")]
    NotConfirmed { expected: String },
    #[error("stop-one-node needs --stop-command and --start-command")]
    Commands,
}

/// How the operator stops and starts a node: run through `sh -c`, the node's id in `OKNO_NODE`.
#[derive(Debug, Clone)]
pub struct Commands {
    pub stop: String,
    pub start: String,
}

/// A running cluster, looked at and not touched yet.
pub struct Live {
    client: Client,
    cluster: String,
    endpoints: usize,
}

/// What was found before anything was done.
#[derive(Debug, Clone)]
pub struct Facts {
    pub leader: u64,
    pub term: u64,
    pub members: BTreeSet<u64>,
    /// Endpoint of each member.
    at: BTreeMap<u64, usize>,
}

/// The typed confirmation was given.
pub struct Confirmed(());

impl Live {
    /// Reads a context file as `oknoctl` uses it; it must be an administrator's.
    pub fn open(context: &Path) -> Result<Self, LiveError> {
        let settings = Context::load(context)?.settings()?;
        if settings.cluster.is_empty() {
            return Err(LiveError::Nameless);
        }
        let (cluster, endpoints) = (settings.cluster.clone(), settings.endpoints.len());
        Ok(Self { client: Client::new(settings)?, cluster, endpoints })
    }

    /// What must be typed.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    pub fn confirm(&self, typed: &str) -> Result<Confirmed, LiveError> {
        if typed.trim() == self.cluster {
            Ok(Confirmed(()))
        } else {
            Err(LiveError::NotConfirmed { expected: self.cluster.clone() })
        }
    }

    async fn status(&self, endpoint: usize) -> Result<proto::GetStatusResponse, Problem> {
        let options = CallOptions { deadline: Some(ANSWER_WITHIN), endpoint: Some(endpoint), once: true };
        match self.client.call_with(proto::GetStatusRequest {}, options).await {
            Ok(answer) => Ok(answer.response),
            Err(error) => Err(error.problem().clone()),
        }
    }

    /// Whether a quorum survives the loss of one node now; says what is in the way.
    pub async fn check(&self) -> Result<Facts, LiveError> {
        let stop = |text: String| Err(LiveError::Unsafe(text));
        let mut seen = BTreeMap::new();
        for endpoint in 0..self.endpoints {
            match self.status(endpoint).await {
                Ok(status) => {
                    seen.insert(status.node_id, (endpoint, status));
                }
                Err(problem) => {
                    let address = self.client.endpoints().nth(endpoint).unwrap_or_default().to_owned();
                    return stop(format!("{address} does not answer: {problem}"));
                }
            }
        }
        let Some((_, (_, first))) = seen.first_key_value() else { return stop("no node answered".into()) };
        let members: BTreeSet<u64> = first.members.iter().map(|member| member.node_id).collect();
        if members.len() < MEMBERS_MIN {
            return stop(format!("{} members: without one of them no quorum is left", members.len()));
        }
        let (leader, term) = (first.leader, first.term);
        let ahead = seen.values().map(|(_, status)| status.commit_index).max().unwrap_or(0);
        for member in &members {
            let Some((_, status)) = seen.get(member) else {
                return stop(format!("member {member} is not among the context's endpoints"));
            };
            if status.phase() != proto::NodePhase::Serving {
                return stop(format!("node {member} does not serve: {:?} {}", status.phase(), status.reason));
            }
            if status.leader == 0 || (status.leader, status.term) != (leader, term) {
                return stop(format!(
                    "node {member} sees node {} lead in term {}, another sees node {leader} in term {term}",
                    status.leader, status.term
                ));
            }
            if status.applied_index + BEHIND_MAX < ahead {
                return stop(format!("node {member} is {} entries behind", ahead - status.applied_index));
            }
            if let Some(away) = status.members.iter().find(|other| !other.connected && !other.self_) {
                return stop(format!("node {member} is not connected to node {}", away.node_id));
            }
        }
        let at = seen.into_iter().map(|(node, (endpoint, _))| (node, endpoint)).collect();
        Ok(Facts { leader, term, members, at })
    }

    /// Runs a drill. What was found before is looked at again first.
    pub async fn run(
        &self,
        name: &str,
        _confirmed: Confirmed,
        commands: Option<&Commands>,
    ) -> Result<DrillReport, LiveError> {
        let Some((name, about)) = NAMES.iter().find(|(known, _)| *known == name) else {
            return Err(LiveError::Unknown(name.to_owned()));
        };
        let facts = self.check().await?;
        let mut course = Course::begin(self, name, about);
        let outcome = match (*name, commands) {
            ("leader-transfer", _) => self.transfer(&facts, &mut course).await,
            (_, Some(commands)) => self.stop_one(&facts, commands, &mut course).await,
            (_, None) => return Err(LiveError::Commands),
        };
        Ok(course.end(self, outcome, &facts).await)
    }

    /// Leadership goes to a follower and comes back.
    async fn transfer(&self, facts: &Facts, course: &mut Course) -> Result<(), String> {
        let follower = *facts.members.iter().find(|node| **node != facts.leader).ok_or("no follower")?;
        for to in [follower, facts.leader] {
            let mark = course.mark(format!("leadership goes to node {to}"));
            let began = Instant::now();
            let request = proto::TransferLeaderRequest { meta: None, to };
            let options = CallOptions { deadline: Some(TRANSFER_WITHIN), ..CallOptions::default() };
            self.client.call_with(request, options).await.map_err(|error| format!("no transfer: {error}"))?;
            let led = self.wait(TRANSFER_WITHIN, async || {
                let status = self.status(facts.at[&to]).await.ok()?;
                (status.leader == to && status.role() == proto::MemberRole::Leader).then_some(())
            });
            led.await.ok_or_else(|| format!("node {to} did not lead within {TRANSFER_WITHIN:?}"))?;
            course.over(mark);
            course.report.injected.entry("leader-transfer".into()).and_modify(|n| *n += 1).or_insert(1);
            let took = began.elapsed().as_secs_f64() * 1e3;
            course.report.figures.insert(format!("transfer_to_node_{to}_ms"), took);
        }
        Ok(())
    }

    /// A follower is stopped, missed for a while, and started again — in any case.
    async fn stop_one(&self, facts: &Facts, commands: &Commands, course: &mut Course) -> Result<(), String> {
        let node = *facts.members.iter().rev().find(|node| **node != facts.leader).ok_or("no follower")?;
        let mark = course.mark(format!("node {node} is stopped"));
        let began = Instant::now();
        let stopped = self.stop_and_look(facts, node, commands, course).await;
        let started = run_command(&commands.start, node).await;
        course.mark(format!("node {node} is started"));
        let back = self
            .wait(BACK_WITHIN, async || {
                let status = self.status(facts.at[&node]).await.ok()?;
                let ahead = self.status(facts.at[&facts.leader]).await.ok()?.commit_index;
                (status.phase() == proto::NodePhase::Serving
                    && status.leader != 0
                    && status.applied_index + BEHIND_MAX >= ahead)
                    .then_some(())
            })
            .await;
        course.over(mark);
        stopped?;
        started?;
        back.ok_or_else(|| {
            format!("node {node} was not back within {BACK_WITHIN:?}: start it, and look at its log")
        })?;
        course.report.redundancy_ms = Some(millis(began.elapsed()));
        Ok(())
    }

    async fn stop_and_look(
        &self,
        facts: &Facts,
        node: u64,
        commands: &Commands,
        course: &mut Course,
    ) -> Result<(), String> {
        run_command(&commands.stop, node).await?;
        let gone = self
            .wait(STOPPED_WITHIN, async || self.status(facts.at[&node]).await.is_err().then_some(()))
            .await;
        gone.ok_or_else(|| format!("node {node} still answers after the stop command"))?;
        course.report.injected.insert("stopped-node".into(), 1);
        tokio::time::sleep(AWAY).await;
        Ok(())
    }

    async fn wait<T>(&self, within: Duration, mut ask: impl AsyncFnMut() -> Option<T>) -> Option<T> {
        let until = Instant::now() + within;
        loop {
            if let Some(found) = ask().await {
                return Some(found);
            }
            if Instant::now() > until {
                return None;
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Compares all members' rows by a marker.
    async fn alike(&self, facts: &Facts) -> Result<String, String> {
        let placed = self.client.call(proto::PlaceMarkerRequest { meta: None }).await;
        let marker = placed.map_err(|error| format!("no marker: {error}"))?.response.marker_index;
        let digests = self
            .wait(BACK_WITHIN, async || {
                let mut own = BTreeMap::new();
                for (node, endpoint) in &facts.at {
                    let options =
                        CallOptions { deadline: Some(ANSWER_WITHIN), endpoint: Some(*endpoint), once: true };
                    let answer = self.client.call_with(proto::GetDigestsRequest {}, options).await.ok()?;
                    let digest = answer
                        .response
                        .members
                        .into_iter()
                        .find(|member| member.node_id == *node && member.marker_index == marker)?;
                    own.insert(*node, digest.digest);
                }
                Some(own)
            })
            .await
            .ok_or_else(|| format!("not every node has digested its rows at {marker}"))?;
        let different: BTreeSet<&String> = digests.values().collect();
        if different.len() == 1 {
            Ok(format!("{} nodes digest their rows at {marker} alike", digests.len()))
        } else {
            Err(format!("digests at {marker} differ: {digests:?}"))
        }
    }
}

async fn run_command(command: &str, node: u64) -> Result<(), String> {
    let text = command.to_owned();
    let ran = tokio::task::spawn_blocking(move || {
        Command::new("sh").arg("-c").arg(&text).env("OKNO_NODE", node.to_string()).status()
    });
    match ran.await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(format!("{command:?} ended with {status}")),
        Ok(Err(error)) => Err(format!("{command:?} could not be run: {error}")),
        Err(error) => Err(format!("{command:?} was not waited for: {error}")),
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[derive(Default)]
struct Probes {
    /// When each read was answered, and how long it took.
    answered: Vec<(Instant, Duration)>,
    errors: BTreeMap<String, u64>,
    /// Term → who was said to lead it.
    leaders: BTreeMap<u64, BTreeSet<u64>>,
}

/// One run: reads meanwhile, and what comes of it.
struct Course {
    began: Instant,
    report: DrillReport,
    probes: Arc<Mutex<Probes>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Course {
    fn begin(live: &Live, name: &str, about: &str) -> Self {
        let probes = Arc::new(Mutex::new(Probes::default()));
        let reads = tokio::spawn(probe(live.client.clone(), Arc::clone(&probes)));
        let watch = tokio::spawn(watch(live.client.clone(), live.endpoints, Arc::clone(&probes)));
        let report = DrillReport::begin(
            name,
            &[if name == "leader-transfer" { 29 } else { 1 }],
            0,
            format!("On the running cluster {}: {about}.", live.cluster),
            "Reads go on, at most one node leads a term, and all members hold the same in the end.",
        );
        Self { began: Instant::now(), report, probes, tasks: vec![reads, watch] }
    }

    fn mark(&mut self, what: String) -> usize {
        let at_ms = millis(self.began.elapsed());
        self.report.timeline.marks.push(Mark { at_ms, what, until_ms: None });
        self.report.timeline.marks.len() - 1
    }

    fn over(&mut self, mark: usize) {
        self.report.timeline.marks[mark].until_ms = Some(millis(self.began.elapsed()));
    }

    async fn end(mut self, live: &Live, outcome: Result<(), String>, facts: &Facts) -> DrillReport {
        let mut problems: Vec<String> = outcome.err().into_iter().collect();
        let served = live
            .wait(TRANSFER_WITHIN, async || {
                let options = CallOptions { deadline: Some(ANSWER_WITHIN), ..CallOptions::default() };
                live.client.call_with(proto::ListServicesRequest::default(), options).await.ok()
            })
            .await
            .is_some();
        let alike = live.alike(facts).await;
        for task in &self.tasks {
            task.abort();
        }
        let probes = std::mem::take(&mut *lock(&self.probes));
        let report = &mut self.report;
        let verdict = |id, held, detail: String| Verdict { id, held, detail };
        let answered = format!("{} linearizable reads were answered meanwhile", probes.answered.len());
        report.invariants.push(verdict(Invariant::Progress, served, answered));
        let doubled = probes.leaders.values().all(|leaders| leaders.len() == 1);
        let terms = format!("leaders by term: {:?}", probes.leaders);
        report.invariants.push(verdict(Invariant::OneLeader, doubled, terms));
        let same = alike.is_ok();
        report.invariants.push(verdict(Invariant::SameState, same, alike.unwrap_or_else(|problem| problem)));
        for broken in report.invariants.iter().filter(|verdict| !verdict.held) {
            problems.push(format!("{} is broken: {}", broken.id.id(), broken.detail));
        }
        timeline(report, self.began, &probes.answered);
        report.errors = probes.errors;
        report.took_ms = millis(self.began.elapsed());
        report.verdict = if problems.is_empty() { Outcome::Held } else { Outcome::Broken };
        report.explanation = problems.join(". ");
        self.report
    }
}

/// Reads stand where a drill's writes do: nothing is written to a customer's cluster.
fn timeline(report: &mut DrillReport, began: Instant, answered: &[(Instant, Duration)]) {
    let buckets = usize::try_from(millis(began.elapsed()) / BUCKET_MS + 1).unwrap_or(1);
    report.timeline.bucket_ms = BUCKET_MS;
    report.timeline.acknowledged = vec![0; buckets];
    report.timeline.latency_max_ms = vec![0.0; buckets];
    for (at, took) in answered {
        let bucket = usize::try_from(millis(at.saturating_duration_since(began)) / BUCKET_MS).unwrap_or(0);
        let bucket = bucket.min(buckets - 1);
        report.timeline.acknowledged[bucket] += 1;
        let latency = &mut report.timeline.latency_max_ms[bucket];
        *latency = latency.max(took.as_secs_f64() * 1e3);
    }
    let gap = answered.windows(2).map(|pair| pair[1].0.saturating_duration_since(pair[0].0)).max();
    report.downtime_ms = gap.map(millis);
    report.figures.insert("reads_answered".into(), answered.len() as f64);
}

fn lock(probes: &Mutex<Probes>) -> MutexGuard<'_, Probes> {
    probes.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn probe(client: Client, probes: Arc<Mutex<Probes>>) {
    loop {
        let begun = Instant::now();
        let options = CallOptions { deadline: Some(PROBE_WITHIN), ..CallOptions::default() };
        let answer = client
            .call_with(proto::ListServicesRequest { page_size: 1, ..Default::default() }, options)
            .await;
        {
            let mut probes = lock(&probes);
            match answer {
                Ok(_) => probes.answered.push((Instant::now(), begun.elapsed())),
                Err(error) => *probes.errors.entry(error.reason().to_owned()).or_default() += 1,
            }
        }
        tokio::time::sleep(PROBE_EVERY).await;
    }
}

async fn watch(client: Client, endpoints: usize, probes: Arc<Mutex<Probes>>) {
    loop {
        for endpoint in 0..endpoints {
            let options = CallOptions { deadline: Some(ANSWER_WITHIN), endpoint: Some(endpoint), once: true };
            if let Ok(answer) = client.call_with(proto::GetStatusRequest {}, options).await
                && answer.response.leader != 0
            {
                let status = answer.response;
                lock(&probes).leaders.entry(status.term).or_default().insert(status.leader);
            }
        }
        tokio::time::sleep(PROBE_EVERY).await;
    }
}
