//! Who works, and at what: officers with cases of their own, officers who share cases, readers, and a queue with its
//! kiosk, windows and board.
//!
//! Bounds: documents of a case and tickets of a queue stay far below the product's own, so that no refusal is due to
//! the load's size; one call of one person at a time.

use crate::harness::cluster::Cluster;
use crate::harness::{desk, people};
use crate::load::record::Recorder;
use crate::load::{Staff, translate};
use okno_checks::history::{Call, Entity, Purpose, Step as HistoryStep};
use okno_client::{CallError, Client, Settings, v1 as proto};
use proto::advance_case_request::Step;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;

/// Documents of one case before a writer opens the next.
const DOCUMENTS: u32 = 30;
/// Calls on one shared case before the sharers turn to the next.
const SHARED_CALLS: u32 = 60;
/// Cases readers choose from.
const RECENT_MAX: usize = 32;
/// Tickets of one drill: a page of the interface shows them all, and their numbers have three digits.
const TICKETS_MAX: u32 = 450;
/// Between two visitors.
const VISITOR_EVERY: Duration = Duration::from_millis(120);
/// Windows of the busy office that the load works at.
const WINDOWS: [&str; 2] = ["1", "2"];
/// One call with its retries: longer than a change of leaders, shorter than a drill.
const CALL_WITHIN: Duration = Duration::from_secs(8);
/// One attempt: a node that stands still is left after this.
const ATTEMPT_WITHIN: Duration = Duration::from_secs(2);

/// What everybody at work shares.
struct Office {
    recorder: Arc<Recorder>,
    stop: Arc<AtomicBool>,
    pause: Duration,
    recent: Mutex<VecDeque<String>>,
    shared: Mutex<Option<(String, u32)>>,
    visitors: AtomicU32,
}

struct Person {
    number: u32,
    client: Client,
    office: Arc<Office>,
    rng: ChaCha8Rng,
}

/// Puts everybody to work.
pub fn hire(
    cluster: &Cluster,
    staff: &Staff,
    seed: u64,
    recorder: &Arc<Recorder>,
    stop: &Arc<AtomicBool>,
) -> Vec<JoinHandle<()>> {
    assert!(
        staff.writers + staff.sharers + WINDOWS.len() <= people::WRITERS_MAX,
        "more than there are officers"
    );
    let office = Arc::new(Office {
        recorder: Arc::clone(recorder),
        stop: Arc::clone(stop),
        pause: staff.pause,
        recent: Mutex::default(),
        shared: Mutex::default(),
        visitors: AtomicU32::new(1),
    });
    let mut number = 0;
    let mut person = |kind: &str, id: &str, node: Option<u64>| {
        number += 1;
        Person {
            number,
            client: caller(cluster, kind, id, number, node),
            office: Arc::clone(&office),
            rng: ChaCha8Rng::seed_from_u64(seed ^ u64::from(number).rotate_left(32)),
        }
    };
    let mut tasks = Vec::new();
    for n in 0..staff.writers {
        tasks.push(tokio::spawn(person("operator", &people::writer(n), None).own_cases()));
    }
    for n in 0..staff.sharers {
        let id = people::writer(staff.writers + n);
        tasks.push(tokio::spawn(person("operator", &id, None).shared_cases()));
    }
    for _ in 0..staff.readers {
        tasks.push(tokio::spawn(person("auditor", "revizor", None).reads()));
    }
    if staff.readers > 0 {
        for node in cluster.ids() {
            tasks.push(tokio::spawn(person("auditor", "revizor", Some(node)).local_reads(node)));
        }
    }
    if staff.queue {
        tasks.push(tokio::spawn(person("kiosk", people::BUSY_KIOSK, None).visitors()));
        for (n, window) in WINDOWS.into_iter().enumerate() {
            let id = people::writer(staff.writers + staff.sharers + n);
            tasks.push(tokio::spawn(person("operator", &id, None).window(window)));
        }
        tasks.push(tokio::spawn(person("auditor", "revizor", None).board()));
    }
    tasks
}

fn caller(cluster: &Cluster, kind: &str, id: &str, number: u32, node: Option<u64>) -> Client {
    let nodes = cluster.file.nodes.iter().filter(|entry| node.is_none_or(|node| entry.id == node));
    let endpoints = nodes.map(|entry| entry.clients.to_string()).collect();
    let mut settings = Settings::new(endpoints, desk::tls(&cluster.file, cluster.identity(kind, id)));
    settings.cluster.clone_from(&cluster.file.cluster);
    settings.deadline = CALL_WITHIN;
    settings.attempt_timeout = ATTEMPT_WITHIN;
    settings.start = usize::try_from(number).unwrap_or(0);
    Client::new(settings).expect("certificates of a development cluster are readable")
}

impl Person {
    fn on(&self) -> bool {
        !self.office.stop.load(Ordering::Relaxed)
    }

    async fn rest(&mut self) {
        let pause = self.office.pause;
        let part = self.rng.gen_range(0.5..1.5);
        tokio::time::sleep(pause.mul_f64(part)).await;
    }

    // ---- Cases ----

    async fn open(&self, ticket: Option<&proto::Ticket>) -> Result<String, CallError> {
        let visitor = self.office.visitors.fetch_add(1, Ordering::Relaxed);
        let mut request = desk::open(people::BUSY_OFFICE, visitor);
        request.ticket = ticket.map(desk::reference);
        let call = Call::OpenCase {
            office: people::BUSY_OFFICE.into(),
            service: people::SERVICE.into(),
            ticket: ticket.map(|ticket| translate::ticket_name(&ticket.day, &ticket.number)),
        };
        let recorder = &self.office.recorder;
        let opened =
            recorder.write(self.number, &self.client, None, call, request, translate::opened).await?;
        let mut recent = self.office.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() == RECENT_MAX {
            recent.pop_front();
        }
        recent.push_back(opened.case_id.clone());
        Ok(opened.case_id)
    }

    async fn add(&self, case: &str, reference: &str) -> Result<u32, CallError> {
        let call = Call::AddDocument { reference: reference.to_owned(), sheets: 1 };
        let entity = Some(Entity::Case(case.to_owned()));
        let request = desk::document(case, reference);
        let recorder = &self.office.recorder;
        let added =
            recorder.write(self.number, &self.client, entity, call, request, translate::added).await?;
        Ok(added.document_number)
    }

    async fn advance(&self, case: &str, step: Step, word: HistoryStep) -> Result<(), CallError> {
        let entity = Some(Entity::Case(case.to_owned()));
        let request = desk::advance(case, step);
        let recorder = &self.office.recorder;
        recorder
            .write(self.number, &self.client, entity, Call::Advance(word), request, translate::advanced)
            .await?;
        Ok(())
    }

    async fn read(&self, case: &str) {
        let request = proto::GetCaseRequest { read: None, case_id: case.to_owned() };
        let entity = Entity::Case(case.to_owned());
        let recorder = &self.office.recorder;
        // What went wrong is counted there.
        let _ = recorder
            .read(self.number, &self.client, entity, Call::ReadCase, request, translate::read_case)
            .await;
    }

    /// One case after the other, filled with documents.
    async fn own_cases(mut self) {
        let mut cases = 0;
        while self.on() {
            let Ok(case) = self.open(None).await else { continue };
            cases += 1;
            for document in 0..DOCUMENTS {
                if !self.on() {
                    return;
                }
                // An error was counted; the next document goes on behind it.
                let _ = self.add(&case, &format!("{}-{cases}-{document}", self.number)).await;
                if self.rng.gen_ratio(1, 10) {
                    self.read(&case).await;
                }
                self.rest().await;
            }
        }
    }

    /// The same case as others at the same time: documents, steps that succeed and steps that are refused, reads.
    async fn shared_cases(mut self) {
        let mut calls = 0;
        while self.on() {
            let Some(case) = self.turn().await else { continue };
            calls += 1;
            // Each outcome stands in the history.
            match self.rng.gen_range(0..10) {
                0..5 => {
                    let _ = self.add(&case, &format!("{}-s-{calls}", self.number)).await;
                }
                5..8 => self.read(&case).await,
                _ => {
                    let (step, word) = self.some_step();
                    let _ = self.advance(&case, step, word).await;
                }
            }
            self.rest().await;
        }
    }

    /// The case that is shared now; whoever takes the last turn opens the next.
    async fn turn(&self) -> Option<String> {
        {
            let mut shared = self.office.shared.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((case, turns)) = shared.as_mut()
                && *turns > 0
            {
                *turns -= 1;
                return Some(case.clone());
            }
        }
        let case = self.open(None).await.ok()?;
        let mut shared = self.office.shared.lock().unwrap_or_else(PoisonError::into_inner);
        *shared = Some((case.clone(), SHARED_CALLS));
        Some(case)
    }

    fn some_step(&mut self) -> (Step, HistoryStep) {
        match self.rng.gen_range(0..6) {
            0 => (Step::Accept(proto::AcceptStep {}), HistoryStep::Accept),
            1 => {
                let step = proto::RequestInteragencyStep {
                    authority: "fns".into(),
                    subject: "сведения".into(),
                };
                (Step::RequestInteragency(step), HistoryStep::RequestInteragency)
            }
            2 => {
                let request = self.rng.gen_range(1..4);
                let step = proto::InteragencyAnsweredStep { number: request, answer: "да".into() };
                (Step::InteragencyAnswered(step), HistoryStep::InteragencyAnswered { request })
            }
            3 => {
                let step = proto::SendToAuthorityStep { register_number: "Р-1".into() };
                (Step::SendToAuthority(step), HistoryStep::SendToAuthority)
            }
            4 => {
                let step = proto::ReceiveResultStep { reference: "№ 7".into(), note: String::new() };
                (Step::ReceiveResult(step), HistoryStep::ReceiveResult)
            }
            _ => (Step::Archive(proto::ArchiveStep {}), HistoryStep::Archive),
        }
    }

    fn some_case(&mut self) -> Option<String> {
        let recent = self.office.recent.lock().unwrap_or_else(PoisonError::into_inner);
        (!recent.is_empty()).then(|| recent[self.rng.gen_range(0..recent.len())].clone())
    }

    async fn reads(mut self) {
        while self.on() {
            if let Some(case) = self.some_case() {
                self.read(&case).await;
            }
            self.rest().await;
            self.rest().await;
        }
    }

    /// From one node's own store: whatever it says must turn out to be a beginning of what came to be.
    async fn local_reads(mut self, node: u64) {
        while self.on() {
            if let Some(case) = self.some_case() {
                let request = proto::GetCaseRequest { read: desk::local(), case_id: case.clone() };
                match self.client.call(request).await {
                    Ok(answer) => {
                        if let Some(seen) = answer.response.case.as_ref().and_then(translate::case) {
                            self.office.recorder.local(node, case, seen);
                        }
                    }
                    // It has not arrived there yet.
                    Err(error) if error.problem().code == tonic::Code::NotFound => {}
                    Err(error) => self.office.recorder.error(&format!("LOCAL_{}", error.reason())),
                }
            }
            tokio::time::sleep(self.office.pause * 5).await;
        }
    }

    // ---- The queue ----

    fn queue() -> Entity {
        Entity::Queue(people::BUSY_OFFICE.to_owned())
    }

    async fn visitors(self) {
        for _ in 0..TICKETS_MAX {
            if !self.on() {
                return;
            }
            let request = proto::TakeTicketRequest {
                office: people::BUSY_OFFICE.into(),
                purpose: proto::VisitPurpose::Apply.into(),
                service: people::SERVICE.into(),
                ..proto::TakeTicketRequest::default()
            };
            let call = Call::TakeTicket {
                purpose: Purpose::Apply,
                service: people::SERVICE.into(),
                category: String::new(),
            };
            let recorder = &self.office.recorder;
            let entity = Some(Self::queue());
            // Entered and counted there.
            let _ = recorder.write(self.number, &self.client, entity, call, request, translate::taken).await;
            tokio::time::sleep(VISITOR_EVERY).await;
        }
    }

    async fn window(mut self, window: &'static str) {
        while self.on() {
            let request = proto::CallNextRequest {
                office: people::BUSY_OFFICE.into(),
                window: window.into(),
                ..proto::CallNextRequest::default()
            };
            let call = Call::CallNext { window: window.into() };
            let recorder = Arc::clone(&self.office.recorder);
            let entity = Some(Self::queue());
            let called =
                recorder.write(self.number, &self.client, entity, call, request, translate::called).await;
            let ticket = match called {
                Ok(response) => response.ticket,
                // An earlier call whose outcome stayed open, or whoever stood here before, has left somebody waiting.
                Err(error) if error.reason() == "WINDOW_BUSY" => self.at_window(window).await,
                Err(_) => None,
            };
            if let Some(ticket) = ticket {
                self.serve(&ticket, window).await;
            }
            tokio::time::sleep(VISITOR_EVERY).await;
            self.rest().await;
        }
    }

    async fn at_window(&self, window: &str) -> Option<proto::Ticket> {
        let tickets = self.list().await?;
        tickets.into_iter().find(|ticket| {
            ticket.window == window
                && [proto::TicketState::Called, proto::TicketState::InService].contains(&ticket.state())
        })
    }

    async fn serve(&mut self, ticket: &proto::Ticket, window: &str) {
        let recorder = Arc::clone(&self.office.recorder);
        let name = translate::ticket_name(&ticket.day, &ticket.number);
        if ticket.state() == proto::TicketState::Called {
            let request = proto::BeginServiceRequest {
                office: people::BUSY_OFFICE.into(),
                ticket: Some(desk::reference(ticket)),
                window: window.into(),
                ..proto::BeginServiceRequest::default()
            };
            let call = Call::Begin { ticket: name.clone(), window: window.into() };
            let entity = Some(Self::queue());
            let begun =
                recorder.write(self.number, &self.client, entity, call, request, translate::begun).await;
            if begun.is_err() {
                return;
            }
        }
        // The case and the queue learn of each other by messages.
        let _ = self.open(Some(ticket)).await;
        self.rest().await;
        let request = proto::FinishServiceRequest {
            office: people::BUSY_OFFICE.into(),
            ticket: Some(desk::reference(ticket)),
            window: window.into(),
            outcome: proto::VisitOutcome::Served.into(),
            ..proto::FinishServiceRequest::default()
        };
        let call = Call::Finish { ticket: name, window: window.into(), served: true };
        let entity = Some(Self::queue());
        let _ = recorder.write(self.number, &self.client, entity, call, request, translate::finished).await;
    }

    async fn list(&self) -> Option<Vec<proto::Ticket>> {
        let request = proto::ListTicketsRequest {
            office: people::BUSY_OFFICE.into(),
            page_size: 500,
            ..proto::ListTicketsRequest::default()
        };
        let recorder = &self.office.recorder;
        let listed = recorder
            .read(self.number, &self.client, Self::queue(), Call::ReadQueue, request, translate::read_queue)
            .await;
        listed.ok().map(|response| response.tickets)
    }

    async fn board(self) {
        while self.on() {
            self.list().await;
            tokio::time::sleep(VISITOR_EVERY * 3).await;
        }
    }
}
