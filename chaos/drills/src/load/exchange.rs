//! Cases that ask a channel beside a drill, with a ledger of their own: what each sent, and which answer it must have. In
//! the end every node's own store is asked for all of them, byte for byte.
//!
//! Bounds: an asker has one case under way; a case has one request.

use crate::bench::Bench;
use crate::harness::channel;
use crate::harness::cluster::{CATCH_UP_WITHIN, Cluster};
use crate::harness::desk::{self, Desk};
use crate::harness::{in_time, people};
use okno_checks::invariants::Invariant;
use okno_client::{CallError, v1 as proto};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// Visitors of askers, far from everybody else's.
const VISITORS_FROM: u32 = 500_000;
/// How often an asker looks for its answer.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Whatever happens to connectors, an answer comes within this.
const ANSWERED_WITHIN: Duration = Duration::from_secs(60);

/// Problems of one kind that are told.
const TOLD_MAX: usize = 4;

/// A case that asked.
#[derive(Debug, Clone)]
struct Asked {
    sent: Vec<u8>,
    expects: Vec<u8>,
    asked: Instant,
    answered: Option<Duration>,
}

#[derive(Debug, Default)]
struct Ledger {
    cases: BTreeMap<String, Asked>,
    faults: Vec<String>,
}

type Shared = Arc<Mutex<Ledger>>;

fn locked(ledger: &Shared) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Askers at work.
pub struct Askers {
    officer: Desk,
    ledger: Shared,
    visitors: Arc<AtomicU32>,
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Askers {
    /// Nobody asks yet. The channel must be installed.
    pub fn new(cluster: &Cluster) -> Self {
        Self {
            officer: cluster.officer(),
            ledger: Shared::default(),
            visitors: Arc::new(AtomicU32::new(VISITORS_FROM)),
            stop: Arc::default(),
            tasks: Vec::new(),
        }
    }

    /// Puts so many to work: each asks, waits for the answer, and asks again.
    pub fn work(&mut self, count: usize) {
        for _ in 0..count {
            let (officer, ledger) = (self.officer.clone(), Arc::clone(&self.ledger));
            let (visitors, stop) = (Arc::clone(&self.visitors), Arc::clone(&self.stop));
            self.tasks.push(tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    if let Err(problem) = ask_and_wait(&officer, &ledger, &visitors).await {
                        locked(&ledger).faults.push(problem);
                    }
                }
            }));
        }
    }

    /// A case of the drill's own that asks, and the answer it must have.
    pub async fn ask(&self, expects: impl Fn(&[u8]) -> Vec<u8>) -> (String, Vec<u8>) {
        let asked = ask(&self.officer, &self.ledger, &self.visitors, expects).await;
        asked.expect("a case asks the channel")
    }

    /// Requests answered so far, and the longest wait of those asked after a moment.
    pub fn answered_since(&self, moment: Instant) -> (usize, Duration) {
        let ledger = locked(&self.ledger);
        let waits =
            ledger.cases.values().filter(|asked| asked.asked > moment).filter_map(|asked| asked.answered);
        waits.fold((0, Duration::ZERO), |(count, longest), wait| (count + 1, longest.max(wait)))
    }

    /// Waits until so many requests that were asked from now on are answered; the longest wait of them.
    pub async fn progress(&self, answers: usize, within: Duration) -> Duration {
        let from = Instant::now();
        crate::harness::eventually(&format!("{answers} more answers"), within, async || {
            let (have, longest) = self.answered_since(from);
            if have >= answers { Ok(longest) } else { Err(format!("{have} came")) }
        })
        .await
    }

    /// Ends the work, waits for every answer, and looks for all of them on every node.
    pub async fn close(mut self, cluster: &Cluster) -> Findings {
        self.stop.store(true, Ordering::Relaxed);
        for task in std::mem::take(&mut self.tasks) {
            task.await.expect("no asker panics");
        }
        let ledger = std::mem::take(&mut *locked(&self.ledger));
        let mut findings = Findings {
            requests: ledger.cases.len(),
            longest: ledger.cases.values().filter_map(|asked| asked.answered).max().unwrap_or_default(),
            unanswered: ledger.faults,
            wrong: Vec::new(),
        };
        let until = Instant::now() + ANSWERED_WITHIN;
        for case in ledger.cases.keys() {
            let left = until.saturating_duration_since(Instant::now());
            findings.unanswered.extend(answered(&self.officer, case, left).await.err());
        }
        for node in cluster.running() {
            let desk = cluster.desk_at(node, "operator", people::OFFICER);
            for (case, asked) in &ledger.cases {
                if let Err(problem) = look(&desk, case, asked).await {
                    findings.wrong.push(format!("node {node}: case {case}: {problem}"));
                }
            }
        }
        findings.count(cluster).await;
        findings
    }
}

impl Drop for Askers {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// What was found in the end.
pub struct Findings {
    pub requests: usize,
    /// From the request to its answer.
    pub longest: Duration,
    pub unanswered: Vec<String>,
    /// Answers that are another's, that differ, or that are there twice.
    pub wrong: Vec<String>,
}

impl Findings {
    /// Enters what was found: every request answered once, to its case, byte for byte.
    pub fn enter(&self, bench: &mut Bench) {
        let told =
            |problems: &[String]| problems.iter().take(TOLD_MAX).cloned().collect::<Vec<_>>().join("; ");
        let fine = format!("{} requests, {} ms at most", self.requests, self.longest.as_millis());
        let detail = if self.unanswered.is_empty() { fine } else { told(&self.unanswered) };
        let asked = self.requests > 0;
        bench.check(Invariant::AnsweredOnce, asked && self.unanswered.is_empty(), detail);
        let fine = format!("{} answers, each its own case's, on every node", self.requests);
        let detail = if self.wrong.is_empty() { fine } else { told(&self.wrong) };
        bench.check(Invariant::BodiesKept, self.wrong.is_empty(), detail);
        bench.figure("channel_requests", self.requests as f64);
        bench.figure("channel_answer_max_ms", self.longest.as_secs_f64() * 1e3);
    }

    /// The channel's own count: every request ended once, and nothing is left.
    async fn count(&mut self, cluster: &Cluster) {
        let figures = match channel::figures(&cluster.admin()).await {
            Ok(figures) => figures,
            Err(error) => {
                self.unanswered.push(format!("the channel does not tell its figures: {error}"));
                return;
            }
        };
        if (figures.live, figures.dead) != (0, 0) {
            self.unanswered.push(format!("{} messages are left, {} dead", figures.live, figures.dead));
        }
        if figures.ended_total != self.requests as u64 {
            self.wrong.push(format!("{} requests, {} of them ended", self.requests, figures.ended_total));
        }
    }
}

async fn ask(
    officer: &Desk,
    ledger: &Shared,
    visitors: &AtomicU32,
    expects: impl Fn(&[u8]) -> Vec<u8>,
) -> Result<(String, Vec<u8>), String> {
    let visitor = visitors.fetch_add(1, Ordering::Relaxed);
    let problem = |error: CallError| format!("visitor {visitor}: {error}");
    let case = channel::accepted_case(officer, visitor).await.map_err(problem)?;
    let sent = channel::body_of(&case);
    let expects = expects(&sent);
    // Before the call: should its answer be lost, the request is looked for all the same.
    let asked = Asked { sent: sent.clone(), expects, asked: Instant::now(), answered: None };
    locked(ledger).cases.insert(case.clone(), asked);
    officer.call(channel::ask(&case, "extract", &sent)).await.map_err(problem)?;
    Ok((case, sent))
}

async fn ask_and_wait(officer: &Desk, ledger: &Shared, visitors: &AtomicU32) -> Result<(), String> {
    let (case, _) = ask(officer, ledger, visitors, channel::answer_to).await?;
    answered(officer, &case, ANSWERED_WITHIN).await?;
    if let Some(asked) = locked(ledger).cases.get_mut(&case) {
        asked.answered = Some(asked.asked.elapsed());
    }
    Ok(())
}

/// Waits for the answer of a case.
async fn answered(officer: &Desk, case: &str, within: Duration) -> Result<(), String> {
    let until = Instant::now() + within;
    loop {
        let found =
            channel::exchanges(officer, case).await.map_err(|error| format!("case {case}: {error}"))?;
        let states: Vec<&str> = found.exchanges.iter().map(|exchange| exchange.state.as_str()).collect();
        match states[..] {
            ["answered"] => return Ok(()),
            ["sent"] if Instant::now() < until => tokio::time::sleep(LOOK_EVERY).await,
            _ => return Err(format!("case {case}: its requests are {states:?} after {within:?}")),
        }
    }
}

/// One case as a node's own store has it.
async fn look(desk: &Desk, case: &str, asked: &Asked) -> Result<(), String> {
    let found = in_time("the answer arrives at the node", CATCH_UP_WITHIN, async || {
        let request = proto::ListExchangesRequest { case_id: case.into(), read: desk::local() };
        let found = desk.call(request).await.map_err(|error| error.to_string())?;
        if found.exchanges.iter().all(|exchange| exchange.state == "answered") {
            Ok(found)
        } else {
            Err(format!("{:?}", found.exchanges))
        }
    })
    .await?;
    let [exchange] = &found.exchanges[..] else { return Err(format!("{:?}", found.exchanges)) };
    if exchange.message_id != format!("{case}.1") || !found.letters.is_empty() {
        return Err(format!("{} and {} letters", exchange.message_id, found.letters.len()));
    }
    for (which, reference, expected) in
        [("sent", &exchange.sent, &asked.sent), ("received", &exchange.received, &asked.expects)]
    {
        let request = proto::GetMessageBodyRequest {
            case_id: case.into(),
            body: reference.clone(),
            read: desk::local(),
        };
        let body = desk.call(request).await.map_err(|error| format!("what was {which}: {error}"))?.body;
        if body != expected[..] {
            return Err(format!("{} bytes {which} are not the {} expected", body.len(), expected.len()));
        }
    }
    let (_, case) = desk.case_local(case).await.map_err(|error| error.to_string())?;
    let answers = case.steps.iter().filter(|step| step.step == "interagency-answered").count();
    let requests: Vec<bool> =
        case.interagency_requests.iter().map(|request| request.answered_at.is_some()).collect();
    if answers != 1 || requests != [true] {
        return Err(format!("{answers} steps tell of an answer; requests answered: {requests:?}"));
    }
    Ok(())
}
