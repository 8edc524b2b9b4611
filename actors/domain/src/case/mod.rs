//! A case (дело): one request for one service, from taking the documents to handing over the result
//! (R-C1, R-C2, R-C3, R-C6, R-C10). One entity per case: `case/<uuid>`.
//!
//! - [`life`]: states, steps and the transition table · [`types`]: commands, events, state
//! - `decide`: opening and documents · `officer`: who works on it · `steps`: the steps · `terms`: deadlines and timers
//! - `check`: input
//! - [`exchanges`]: what passes between the case and channels · `ask`: how
//!
//! Invariants:
//! - a step is taken only where [`life::leads_to`] has it; every step is recorded with who, where and when;
//! - numbers of documents, requests and steps only grow; `requests_open` counts the requests without an answer;
//! - `due` is there from acceptance on; the deadline stands in the index only while the term runs;
//! - a document changes no index row, so that adding one writes root and document only (design §9).

mod ask;
mod check;
mod decide;
pub mod exchanges;
mod officer;
#[cfg(feature = "test-faults")]
pub use decide::faults;
pub mod life;
mod steps;
mod terms;
pub mod types;

pub use exchanges::{AskBody, Asking, AskingState, CaseLetter, Dealt, Exchange, ExchangeState, LETTERS_MAX};
pub use life::{Life, Outcome, State, Step, StepKind, Suspension};
pub use types::{
    APPLICANT_KEYS_MAX, APPLICANTS_MAX, Advanced, Assignment, Command, DOCUMENTS_MAX, Document, DocumentForm,
    DueDates, Event, INTERAGENCY_MAX, InteragencyRequest, LinkAnswer, Mark, Marks, Opened, Part, Reply, Root,
    STEPS_MAX, Stamp, StepRecord, Stepped, TicketLink,
};

use crate::{
    access,
    catalogue::Deadline,
    entity::{
        CHANNELS_LEVEL, Context, Decision, Entity, EntityRef, EventMeta, FIRST_LEVEL, Input, Kept, Kind,
        PartName, Refusal, Row,
    },
    level,
    message::Message,
    people::{Applicant, applicant_key},
    rows::{self, ApplicantKey},
};
use std::sync::Arc;

/// Parts are few and numbered from 1 with hardly a gap: sorted vectors are smaller than maps.
type Numbered<T> = Vec<(u32, Arc<T>)>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    id: Box<str>,
    root: Box<Root>,
    applicants: Vec<Arc<Applicant>>,
    documents: Numbered<Document>,
    requests: Numbered<InteragencyRequest>,
    steps: Numbered<StepRecord>,
    officer: Option<Arc<Assignment>>,
    /// Asks, exchanges and letters; `None`: none yet.
    dealings: Option<Box<exchanges::Dealings>>,
}

impl Case {
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Everything but the parts.
    pub fn head(&self) -> &Root {
        &self.root
    }

    pub fn state(&self) -> State {
        self.root.life.state()
    }

    pub fn applicants(&self) -> impl ExactSizeIterator<Item = &Applicant> {
        self.applicants.iter().map(Arc::as_ref)
    }

    /// By number.
    pub fn documents(&self) -> impl ExactSizeIterator<Item = &Document> {
        self.documents.iter().map(|(_, document)| document.as_ref())
    }

    /// Interagency requests by number.
    pub fn requests(&self) -> impl ExactSizeIterator<Item = &InteragencyRequest> {
        self.requests.iter().map(|(_, request)| request.as_ref())
    }

    /// Asks of channels by number.
    pub fn askings(&self) -> impl Iterator<Item = &Asking> {
        self.dealings.iter().flat_map(|dealings| &dealings.askings).map(|(_, asking)| asking.as_ref())
    }

    /// What passed about interagency requests that channels answer, by the request's number.
    pub fn exchanges(&self) -> impl Iterator<Item = &Exchange> {
        self.dealings.iter().flat_map(|dealings| &dealings.exchanges).map(|(_, exchange)| exchange.as_ref())
    }

    /// Letters from outside by number.
    pub fn letters(&self) -> impl Iterator<Item = &CaseLetter> {
        self.dealings.iter().flat_map(|dealings| &dealings.letters).map(|(_, letter)| letter.as_ref())
    }

    /// The steps as they were taken.
    pub fn steps(&self) -> impl ExactSizeIterator<Item = &StepRecord> {
        self.steps.iter().map(|(_, step)| step.as_ref())
    }

    /// Who works on it, where that is known.
    pub fn officer(&self) -> Option<&Assignment> {
        self.officer.as_deref()
    }

    fn open(&mut self, opened: &Opened, meta: &EventMeta) {
        self.applicants.clone_from(&opened.applicants);
        *self.root = Root {
            office: opened.office.clone(),
            service: opened.service.clone(),
            life: Life::Draft,
            opened: Some(opened.stamp.clone()),
            changed_ms: meta.time_ms,
            applicant_keys: applicant_keys(&opened.applicants),
            ticket: opened.ticket.clone().map(|ticket| TicketLink { ticket, answer: LinkAnswer::Pending }),
            note: opened.note.clone(),
            warnings: opened.warnings.clone(),
            ..Root::default()
        };
    }

    fn step(&mut self, stepped: &Stepped) {
        self.root.steps_last = stepped.record.number;
        put(&mut self.steps, stepped.record.number, Arc::clone(&stepped.record));
        self.root.life = stepped.life.clone();
        self.root.due.clone_from(&stepped.due);
        if let Some(request) = &stepped.request {
            self.root.requests_last = self.root.requests_last.max(request.number);
            put(&mut self.requests, request.number, Arc::clone(request));
            self.count_open();
        }
        for mark in &stepped.cleared {
            *self.root.marks.get_mut(*mark) = None;
        }
    }

    fn deal(&mut self, dealt: &Dealt) {
        let dealings = self.dealings.get_or_insert_default();
        dealt.asking.iter().for_each(|asking| dealings.put_asking(asking));
        dealt.exchanges.iter().for_each(|exchange| dealings.put_exchange(exchange));
        for request in &dealt.requests {
            self.root.requests_last = self.root.requests_last.max(request.number);
            put(&mut self.requests, request.number, Arc::clone(request));
        }
        for record in &dealt.records {
            self.root.steps_last = record.number;
            put(&mut self.steps, record.number, Arc::clone(record));
        }
        if let Some(life) = &dealt.life {
            self.root.life = life.clone();
        }
        self.count_open();
    }

    fn count_open(&mut self) {
        let open = self.requests.iter().filter(|(_, request)| request.answered_ms.is_none()).count();
        self.root.requests_open = u32::try_from(open).unwrap_or(u32::MAX);
    }
}

impl Root {
    /// The last day of the term, with the mark of a provisional calendar. `None` before acceptance, and while a
    /// suspension leaves it open.
    pub fn deadline(&self) -> Option<&Deadline> {
        let rests = matches!(self.life, Life::Suspended(_));
        self.due.as_ref().filter(|_| !rests).map(|due| &due.deadlines.ready)
    }
}

impl Marks {
    pub fn get_mut(&mut self, mark: Mark) -> &mut Option<i64> {
        match mark {
            Mark::DeadlineNear => &mut self.deadline_near_ms,
            Mark::DeadlinePassed => &mut self.deadline_passed_ms,
            Mark::SuspensionOver => &mut self.suspension_over_ms,
            Mark::StorageOver => &mut self.storage_over_ms,
        }
    }
}

/// The strongest identifier of each applicant, then the others, as far as they go.
fn applicant_keys(applicants: &[Arc<Applicant>]) -> Vec<ApplicantKey> {
    let identifiers: Vec<_> = applicants.iter().map(|applicant| applicant.identifiers()).collect();
    let longest = identifiers.iter().map(Vec::len).max().unwrap_or(0);
    let mut keys = Vec::new();
    for rank in 0..longest {
        for key in identifiers.iter().filter_map(|own| own.get(rank)).filter_map(|text| applicant_key(text)) {
            if !keys.contains(&key) && keys.len() < APPLICANT_KEYS_MAX {
                keys.push(key);
            }
        }
    }
    keys
}

fn put<T>(numbered: &mut Numbered<T>, number: u32, value: Arc<T>) {
    match numbered.binary_search_by_key(&number, |(number, _)| *number) {
        Ok(at) => numbered[at].1 = value,
        Err(at) => {
            // Grown one by one: most cases stay small, and thousands of them are resident.
            if numbered.len() == numbered.capacity() && numbered.len() < 8 {
                numbered.reserve_exact(1);
            }
            numbered.insert(at, (number, value));
        }
    }
}

fn get<T>(numbered: &Numbered<T>, number: u32) -> Option<&Arc<T>> {
    numbered.binary_search_by_key(&number, |(number, _)| *number).ok().map(|at| &numbered[at].1)
}

fn part_name(kind: &str, number: u32) -> PartName {
    format!("{kind}:{number:04}")
}

impl Entity for Case {
    const KIND: Kind = Kind::Case;
    type Command = Command;
    type Event = Event;
    type Reply = Reply;
    type Root = Root;
    type Part = Part;

    fn empty(id: &str) -> Self {
        Self {
            id: id.into(),
            root: Box::default(),
            applicants: Vec::new(),
            documents: Vec::new(),
            requests: Vec::new(),
            steps: Vec::new(),
            officer: None,
            dealings: None,
        }
    }

    fn exists(&self) -> bool {
        self.root.opened.is_some()
    }

    fn decide(&self, command: &Command, context: &Context<'_>) -> Result<Decision<Self>, Refusal> {
        match command {
            Command::Open { office, service, applicants, ticket, note } => {
                self.decide_open(office, service, applicants, ticket.as_ref(), note, context)
            }
            Command::AddDocument { kind, form, sheets, reference, note } => {
                self.decide_add_document(kind, *form, *sheets, reference, note, context)
            }
            Command::RemoveDocument { document } => self.decide_remove_document(*document),
            Command::Advance { step } => {
                self.decide_step(step, context).map(|done| self.with_release(done, context))
            }
            Command::TakeOver => self.take_over(context),
            Command::Ask { code, bodies } => self.decide_ask(code, bodies, context),
            Command::GiveUpAsk { asking } => self.decide_give_up(*asking, context),
        }
    }

    fn receive(
        &self,
        source: &EntityRef,
        message: &Message,
        context: &Context<'_>,
    ) -> Result<Decision<Self>, Refusal> {
        match source.kind {
            Kind::Channel => self.take_channel(source, message, context),
            Kind::Case | Kind::Queue | Kind::Catalogue | Kind::Directory => {
                self.take_message(source, message, context.now_ms)
            }
        }
    }

    fn fire(&self, timer: &str, context: &Context<'_>) -> Result<Decision<Self>, Refusal> {
        self.take_timer(timer, context)
    }

    fn evolve(&mut self, event: &Event, meta: &EventMeta) {
        match event {
            Event::DocumentAdded(document) => {
                decide::fault_in_evolve(document);
                self.root.documents_last = document.number;
                put(&mut self.documents, document.number, Arc::clone(document));
            }
            Event::Opened(opened) => self.open(opened, meta),
            Event::DocumentRemoved { number } => self.documents.retain(|(own, _)| own != number),
            Event::Stepped(stepped) => self.step(stepped),
            Event::Marked { mark } => *self.root.marks.get_mut(*mark) = Some(meta.time_ms),
            Event::TicketAnswered { answer } => {
                if let Some(link) = &mut self.root.ticket {
                    link.answer = answer.clone();
                }
            }
            Event::OfficerSet(assignment) => self.officer = Some(Arc::clone(assignment)),
            Event::Asked(dealt) | Event::Exchanged(dealt) => self.deal(dealt),
            Event::LetterTaken(letter) => self.dealings.get_or_insert_default().put_letter(letter),
            Event::BodiesForgotten { exchanges, letters } => {
                let dealings = self.dealings.get_or_insert_default();
                exchanges.iter().for_each(|exchange| dealings.put_exchange(exchange));
                letters.iter().for_each(|letter| dealings.put_letter(letter));
            }
        }
        self.root.changed_ms = meta.time_ms;
    }

    fn touched(event: &Event) -> Vec<PartName> {
        match event {
            Event::DocumentAdded(document) => vec![part_name("document", document.number)],
            Event::Opened(opened) => {
                (1..).zip(&opened.applicants).map(|(n, _)| part_name("applicant", n)).collect()
            }
            Event::DocumentRemoved { number } => vec![part_name("document", *number)],
            Event::Stepped(stepped) => {
                let mut parts = vec![part_name("step", stepped.record.number)];
                parts.extend(stepped.request.as_ref().map(|request| part_name("request", request.number)));
                parts
            }
            Event::OfficerSet(_) => vec![part_name("officer", 1)],
            Event::Marked { .. } | Event::TicketAnswered { .. } => Vec::new(),
            Event::Asked(dealt) | Event::Exchanged(dealt) => dealt.touched(),
            Event::LetterTaken(letter) => vec![part_name("letter", letter.number)],
            Event::BodiesForgotten { exchanges, letters } => {
                let exchanges = exchanges.iter().map(|exchange| part_name("exchange", exchange.number));
                exchanges.chain(letters.iter().map(|letter| part_name("letter", letter.number))).collect()
            }
        }
    }

    fn root(&self) -> Root {
        (*self.root).clone()
    }

    fn part(&self, name: &str) -> Option<Part> {
        let (kind, number) = name.split_once(':')?;
        let number: u32 = number.parse().ok()?;
        match kind {
            "document" => get(&self.documents, number).cloned().map(Part::Document),
            "applicant" => {
                let index = usize::try_from(number.checked_sub(1)?).ok()?;
                self.applicants.get(index).cloned().map(Part::Applicant)
            }
            "request" => get(&self.requests, number).cloned().map(Part::Request),
            "step" => get(&self.steps, number).cloned().map(Part::Step),
            "officer" if number == 1 => self.officer.clone().map(Part::Officer),
            kind => self.dealings.as_ref().and_then(|dealings| dealings.part(kind, number)),
        }
    }

    fn load(id: &str, root: Root, mut parts: Vec<(PartName, Part)>) -> Self {
        let mut case = Self { root: Box::new(root), ..Self::empty(id) };
        // Part names order like their numbers; whoever gives them in another order gets the same case.
        parts.sort_by(|(one, _), (other, _)| one.cmp(other));
        for (_, part) in parts {
            match part {
                Part::Document(document) => put(&mut case.documents, document.number, document),
                Part::Applicant(applicant) => case.applicants.push(applicant),
                Part::Request(request) => put(&mut case.requests, request.number, request),
                Part::Step(step) => put(&mut case.steps, step.number, step),
                Part::Officer(assignment) => case.officer = Some(assignment),
                Part::Asking(asking) => case.dealings.get_or_insert_default().put_asking(&asking),
                Part::Exchange(exchange) => case.dealings.get_or_insert_default().put_exchange(&exchange),
                Part::Letter(letter) => case.dealings.get_or_insert_default().put_letter(&letter),
            }
        }
        case
    }

    fn rows(&self, part: Option<&str>) -> Vec<Row> {
        let (None, Some(opened)) = (part, &self.root.opened) else { return Vec::new() };
        let root = &self.root;
        let mut found = Vec::with_capacity(root.applicant_keys.len() + 3);
        found.extend(root.applicant_keys.iter().map(|key| rows::case_by_applicant(key, opened.at_ms)));
        found.push(rows::case_by_office(&root.office, opened.at_ms));
        found.push(rows::case_by_state(self.state(), &root.office, opened.at_ms));
        if let (true, Some(due)) = (self.state().term_runs(), &root.due) {
            found.push(rows::case_by_deadline(due.deadlines.ready.date, &root.office));
        }
        found
    }

    /// What an ask sends is kept by the case, under the numbers of its requests, until it is forgotten (R-I2).
    fn kept<'a>(&self, input: &Input<'a, Self>, events: &[Event]) -> Vec<Kept<'a>> {
        let mut kept = Vec::new();
        for event in events {
            match (event, input) {
                (Event::Asked(dealt), Input::Command(Command::Ask { bodies, .. })) => {
                    let numbers = dealt.exchanges.iter().map(|exchange| exchange.body.number);
                    let bodies = bodies.iter().map(|body| Some(body.body.0.as_slice()));
                    kept.extend(numbers.zip(bodies).map(|(number, body)| Kept { number, body }));
                }
                (Event::BodiesForgotten { exchanges, .. }, _) => {
                    let numbers = exchanges.iter().map(|exchange| exchange.body.number);
                    kept.extend(numbers.map(|number| Kept { number, body: None }));
                }
                _ => {}
            }
        }
        kept
    }

    fn level(event: &Event) -> u32 {
        match event {
            Event::DocumentAdded(_)
            | Event::Opened(_)
            | Event::DocumentRemoved { .. }
            | Event::Stepped(_)
            | Event::Marked { .. }
            | Event::TicketAnswered { .. } => FIRST_LEVEL,
            Event::OfficerSet(_) => level::QUEUE,
            Event::Asked(_) | Event::Exchanged(_) | Event::LetterTaken(_) | Event::BodiesForgotten { .. } => {
                CHANNELS_LEVEL
            }
        }
    }

    fn no_reply() -> Reply {
        Reply::None
    }

    fn authorise(&self, command: &Command, context: &Context<'_>) -> Result<(), Refusal> {
        let office = match command {
            Command::Open { office, .. } => office,
            Command::AddDocument { .. }
            | Command::RemoveDocument { .. }
            | Command::Advance { .. }
            | Command::TakeOver
            | Command::Ask { .. }
            | Command::GiveUpAsk { .. } => {
                decide::known(self)?;
                &self.root.office
            }
        };
        match context.origin.principal.kind.as_str() {
            "operator" => access::officer_of(context, office),
            "connector" => match command {
                Command::Open { .. } | Command::AddDocument { .. } => Ok(()),
                Command::Advance {
                    step:
                        Step::InteragencyAnswered { .. }
                        | Step::Suspend { .. }
                        | Step::Resume { .. }
                        | Step::ReceiveResult { .. }
                        | Step::ReceiveRefusal { .. },
                } => Ok(()),
                Command::RemoveDocument { .. }
                | Command::Advance { .. }
                | Command::TakeOver
                | Command::Ask { .. }
                | Command::GiveUpAsk { .. } => Err(access::denied(context)),
            },
            "portal" => match command {
                Command::Open { .. } | Command::AddDocument { .. } => Ok(()),
                Command::Advance { step: Step::Withdraw { .. } } => Ok(()),
                Command::RemoveDocument { .. }
                | Command::Advance { .. }
                | Command::TakeOver
                | Command::Ask { .. }
                | Command::GiveUpAsk { .. } => Err(access::denied(context)),
            },
            _ => Err(access::denied(context)),
        }
    }
}
