//! The hall of the quiet office at work beside a drill, with a ledger of its own: visitors take tickets at a kiosk, windows
//! call and serve them, and everything that was acknowledged is looked for in the end, in every node's own store and in
//! the office's journal.
//!
//! Bounds: tickets stay below what a day's numbers and a page of the interface hold; one call of one person at a time.

use crate::bench::Bench;
use crate::harness::cluster::Cluster;
use crate::harness::desk::{self, Desk};
use crate::harness::{people, queue};
use crate::load::journal::{self, Journal};
use okno_checks::invariants::Invariant;
use okno_client::{Call, CallError, v1 as proto};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

pub const OFFICE: &str = people::QUIET_OFFICE;
const KIOSK: &str = "hall-tikhaya";
/// Windows without a workstation: they work on whatever happens to the others.
const WINDOWS: [&str; 2] = ["1", "2"];
const TICKETS_MAX: usize = 450;
/// Visitors come a little faster than they are served, so that somebody always waits.
const VISITOR_EVERY: Duration = Duration::from_millis(250);
const VISIT: Duration = Duration::from_millis(500);
/// Whoever waits in the end is served within this.
const EMPTY_WITHIN: Duration = Duration::from_secs(60);
const PAGE: u32 = 500;
/// Problems of one kind that are told.
const TOLD_MAX: usize = 4;

/// Day and number: a ticket's name in its office.
pub type Name = (String, String);

pub fn name(ticket: &proto::Ticket) -> Name {
    (ticket.day.clone(), ticket.number.clone())
}

/// What was acknowledged.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Each ticket with how often it was given.
    pub taken: BTreeMap<Name, u32>,
    /// Each ticket with how often its end was acknowledged.
    pub finished: BTreeMap<Name, u32>,
    /// Calls of visitors to windows, with when they were begun.
    pub called: Vec<(Name, String, Instant)>,
    /// The longest call of all, its retries included.
    pub slowest: Duration,
    pub index_highest: u64,
    /// Failures for which there is no reason.
    pub faults: Vec<String>,
}

type Shared = Arc<Mutex<Ledger>>;

fn locked(ledger: &Shared) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Somebody whose calls stand in the ledger.
#[derive(Clone)]
pub struct Clerk {
    desk: Desk,
    ledger: Shared,
}

impl Clerk {
    pub fn desk(&self) -> &Desk {
        &self.desk
    }

    async fn write<C: Call>(&self, request: C) -> Result<C::Response, CallError> {
        let begun = Instant::now();
        let answer = self.desk.client.call(request).await;
        let mut ledger = locked(&self.ledger);
        ledger.slowest = ledger.slowest.max(begun.elapsed());
        let response = answer?.response;
        ledger.index_highest = ledger.index_highest.max(C::hints(&response).applied_index);
        Ok(response)
    }

    pub async fn take(&self) -> Result<proto::Ticket, CallError> {
        let request = proto::TakeTicketRequest {
            office: OFFICE.into(),
            purpose: proto::VisitPurpose::Apply.into(),
            service: people::SERVICE.into(),
            ..proto::TakeTicketRequest::default()
        };
        let ticket = self.write(request).await?.ticket.expect("a ticket");
        *locked(&self.ledger).taken.entry(name(&ticket)).or_default() += 1;
        Ok(ticket)
    }

    pub async fn call_next(&self, window: &str) -> Result<proto::Ticket, CallError> {
        let request = proto::CallNextRequest {
            office: OFFICE.into(),
            window: window.into(),
            ..proto::CallNextRequest::default()
        };
        self.call_next_as(request).await
    }

    /// With a request of one's own, e.g. to repeat it.
    pub async fn call_next_as(&self, request: proto::CallNextRequest) -> Result<proto::Ticket, CallError> {
        let (begun, window) = (Instant::now(), request.window.clone());
        let ticket = self.write(request).await?.ticket.expect("a ticket");
        locked(&self.ledger).called.push((name(&ticket), window, begun));
        Ok(ticket)
    }

    pub async fn begin(&self, ticket: &proto::Ticket, window: &str) -> Result<proto::Ticket, CallError> {
        let request = proto::BeginServiceRequest {
            office: OFFICE.into(),
            ticket: Some(desk::reference(ticket)),
            window: window.into(),
            ..proto::BeginServiceRequest::default()
        };
        Ok(self.write(request).await?.ticket.expect("a ticket"))
    }

    pub async fn finish(&self, ticket: &proto::Ticket, window: &str) -> Result<proto::Ticket, CallError> {
        let request = proto::FinishServiceRequest {
            office: OFFICE.into(),
            ticket: Some(desk::reference(ticket)),
            window: window.into(),
            ..proto::FinishServiceRequest::default()
        };
        let ticket = self.write(request).await?.ticket.expect("a ticket");
        *locked(&self.ledger).finished.entry(name(&ticket)).or_default() += 1;
        Ok(ticket)
    }

    pub async fn window(&self, window: &str) -> proto::Desk {
        queue::window(&self.desk, OFFICE, window).await
    }

    /// Serves one visitor from the call to the end; `None`: nobody waits.
    async fn serve_next(&self, window: &str) -> Result<Option<proto::Ticket>, CallError> {
        let ticket = match self.call_next(window).await {
            Ok(ticket) => ticket,
            Err(error) if error.reason() == "QUEUE_EMPTY" => return Ok(None),
            Err(error) => return Err(error),
        };
        self.begin(&ticket, window).await?;
        Ok(Some(self.finish(&ticket, window).await?))
    }

    fn fault(&self, what: String) {
        locked(&self.ledger).faults.push(what);
    }
}

/// The hall at work.
pub struct Hall {
    pub clerk: Clerk,
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Hall {
    /// Opens it: a kiosk, and the windows without workstations. The cluster must be at its newest level.
    pub fn open(cluster: &Cluster) -> Self {
        let ledger = Shared::default();
        let clerk = Clerk { desk: cluster.officer(), ledger: Arc::clone(&ledger) };
        let kiosk = Clerk { desk: cluster.desk("kiosk", KIOSK), ledger };
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = vec![tokio::spawn(visitors(kiosk, Arc::clone(&stop)))];
        for window in WINDOWS {
            tasks.push(tokio::spawn(works(clerk.clone(), window, Arc::clone(&stop))));
        }
        Self { clerk, stop, tasks }
    }

    /// Visitors called to windows so far, by calls begun after a moment.
    pub fn called_since(&self, moment: Instant) -> usize {
        locked(&self.clerk.ledger).called.iter().filter(|(_, _, begun)| *begun > moment).count()
    }

    pub fn slowest(&self) -> Duration {
        locked(&self.clerk.ledger).slowest
    }

    /// Waits until so many more visitors were called.
    pub async fn progress(&self, calls: usize, within: Duration) {
        let from = Instant::now();
        crate::harness::eventually(&format!("{calls} more visitors are called"), within, async || {
            let have = self.called_since(from);
            if have >= calls { Ok(()) } else { Err(format!("{have} were")) }
        })
        .await;
    }

    /// Ends the day's work: nobody comes any more, whoever waits is served, and everything is looked for.
    pub async fn close(mut self, cluster: &Cluster) -> Findings {
        self.stop.store(true, Ordering::Relaxed);
        for task in std::mem::take(&mut self.tasks) {
            task.await.expect("nobody at work panics");
        }
        let until = Instant::now() + EMPTY_WITHIN;
        loop {
            match self.clerk.serve_next(WINDOWS[0]).await {
                Ok(Some(_)) if Instant::now() < until => {}
                Ok(Some(_)) => {
                    self.clerk.fault(format!("somebody still waited after {EMPTY_WITHIN:?}"));
                    break;
                }
                Ok(None) => break,
                Err(error) => {
                    self.clerk.fault(format!("serving whoever waits: {error}"));
                    break;
                }
            }
        }
        let ledger = std::mem::take(&mut *locked(&self.clerk.ledger));
        look(cluster, ledger).await
    }
}

impl Drop for Hall {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

async fn visitors(kiosk: Clerk, stop: Arc<AtomicBool>) {
    for _ in 0..TICKETS_MAX {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        if let Err(error) = kiosk.take().await {
            kiosk.fault(format!("taking a ticket: {error}"));
        }
        tokio::time::sleep(VISITOR_EVERY).await;
    }
}

async fn works(clerk: Clerk, window: &'static str, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        if let Err(error) = clerk.serve_next(window).await {
            clerk.fault(format!("window {window}: {error}"));
        }
        tokio::time::sleep(VISIT).await;
    }
}

/// What was found in the end.
pub struct Findings {
    pub journal: Journal,
    pub tickets: usize,
    pub slowest: Duration,
    /// What was acknowledged and is not there, or not as it was.
    pub lost: Vec<String>,
    /// What happened twice.
    pub twice: Vec<String>,
    /// Numbers given twice.
    pub numbers: Vec<String>,
}

impl Findings {
    /// Enters what was found: every ticket there once, served once, under a number of its own.
    pub fn enter(&self, bench: &mut Bench) {
        let fine = format!("{} tickets on every node and in the journal", self.tickets);
        for (invariant, problems) in [
            (Invariant::TicketKept, &self.lost),
            (Invariant::TicketOnce, &self.twice),
            (Invariant::NumbersUnique, &self.numbers),
        ] {
            let told: Vec<&str> = problems.iter().take(TOLD_MAX).map(String::as_str).collect();
            let held = problems.is_empty() && self.tickets > 0;
            bench.check(invariant, held, if problems.is_empty() { fine.clone() } else { told.join("; ") });
        }
        bench.figure("hall_tickets", self.tickets as f64);
        bench.figure("hall_call_max_ms", self.slowest.as_secs_f64() * 1e3);
    }
}

async fn look(cluster: &Cluster, ledger: Ledger) -> Findings {
    let mut lost = ledger.faults;
    let mut twice = Vec::new();
    let given_twice = ledger.taken.iter().filter(|(_, times)| **times > 1);
    let mut numbers: Vec<String> =
        given_twice.map(|(name, times)| format!("{name:?} was given {times} times")).collect();
    for (name, times) in ledger.finished.iter().filter(|(_, times)| **times > 1) {
        twice.push(format!("{name:?} was finished {times} times"));
    }
    for node in cluster.running() {
        if let Err(problem) = crate::watch::applied(cluster, node, ledger.index_highest).await {
            lost.push(problem);
            continue;
        }
        match local(&cluster.desk_at(node, "auditor", "revizor")).await {
            Ok(tickets) => {
                let mut seen = BTreeMap::new();
                for ticket in &tickets {
                    if seen.insert(name(ticket), ticket.state()).is_some() {
                        numbers.push(format!("node {node} lists {:?} twice", name(ticket)));
                    }
                }
                lost.extend(against(node, &seen, &ledger.taken, &ledger.finished));
            }
            Err(error) => lost.push(format!("node {node} does not list its tickets: {error}")),
        }
    }
    let journal = match journal::read(&cluster.desk("auditor", "revizor"), OFFICE).await {
        Ok(journal) => journal,
        Err(error) => {
            lost.push(format!("the office's journal cannot be read: {error}"));
            Journal::default()
        }
    };
    let told = journal.check();
    twice.extend(told.twice);
    numbers.extend(told.numbers);
    let registered: BTreeSet<&Name> = journal.registered().collect();
    for name in ledger.taken.keys().filter(|name| !registered.contains(name)) {
        lost.push(format!("the journal knows nothing of {name:?}"));
    }
    for name in registered.iter().filter(|name| !ledger.taken.contains_key(**name)) {
        lost.push(format!("nobody was given {name:?}, and the journal has it"));
    }
    Findings { tickets: ledger.taken.len(), slowest: ledger.slowest, journal, lost, twice, numbers }
}

/// What one node holds against what was acknowledged. Everybody was served in the end.
fn against(
    node: u64,
    seen: &BTreeMap<Name, proto::TicketState>,
    taken: &BTreeMap<Name, u32>,
    finished: &BTreeMap<Name, u32>,
) -> Vec<String> {
    let mut lost = Vec::new();
    for name in taken.keys() {
        match seen.get(name) {
            None => lost.push(format!("{name:?} is missing at node {node}")),
            Some(proto::TicketState::Finished) => {
                if !finished.contains_key(name) {
                    lost.push(format!("nobody finished {name:?}, and node {node} has it so"));
                }
            }
            Some(state) => lost.push(format!("{name:?} is {state:?} at node {node} after all were served")),
        }
    }
    for name in seen.keys().filter(|name| !taken.contains_key(*name)) {
        lost.push(format!("nobody was given {name:?}, and node {node} has it"));
    }
    lost
}

/// All tickets of the office from the called node's own store.
async fn local(auditor: &Desk) -> Result<Vec<proto::Ticket>, CallError> {
    let mut all = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = proto::ListTicketsRequest {
            read: desk::local(),
            office: OFFICE.into(),
            page_size: PAGE,
            page_token,
            ..proto::ListTicketsRequest::default()
        };
        let page = auditor.call(request).await?;
        all.extend(page.tickets);
        if page.next_page_token.is_empty() {
            return Ok(all);
        }
        page_token = page.next_page_token;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::TicketState::{Finished, Waiting};

    fn names(numbers: &[&str]) -> BTreeMap<Name, u32> {
        numbers.iter().map(|number| (("2026-11-22".to_owned(), (*number).to_owned()), 1)).collect()
    }

    fn seen(states: &[(&str, proto::TicketState)]) -> BTreeMap<Name, proto::TicketState> {
        states
            .iter()
            .map(|(number, state)| (("2026-11-22".to_owned(), (*number).to_owned()), *state))
            .collect()
    }

    #[test]
    fn what_is_missing_unserved_or_unasked_is_named() {
        let taken = names(&["А001", "А002"]);
        let fine = seen(&[("А001", Finished), ("А002", Finished)]);
        assert_eq!(against(1, &fine, &taken, &taken), Vec::<String>::new());
        let missing = against(1, &seen(&[("А001", Finished)]), &taken, &taken);
        assert!(missing.len() == 1 && missing[0].contains("is missing"), "{missing:?}");
        let waits = against(1, &seen(&[("А001", Finished), ("А002", Waiting)]), &taken, &taken);
        assert!(waits.len() == 1 && waits[0].contains("Waiting"), "{waits:?}");
        let unfinished = against(1, &fine, &taken, &names(&["А001"]));
        assert!(unfinished.len() == 1 && unfinished[0].contains("nobody finished"), "{unfinished:?}");
        let unasked = against(1, &fine, &names(&["А001"]), &taken);
        assert!(unasked.len() == 1 && unasked[0].contains("nobody was given"), "{unasked:?}");
    }
}
