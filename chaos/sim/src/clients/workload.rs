//! What the clients of a run do: how many they are, how they hurry, and what they ask for next, given what all of them
//! have seen so far. What they believe may be out of date or wrong; refusals are wanted.

use super::{desks, fixtures, random::Random};
use okno_checks::history::{
    Call, Entity as Subject, Operation, Outcome, Phase, Purpose, Reply, Seen, Stage, Step, TicketName,
    TicketSeen,
};

/// Tickets of one office that clients remember: the oldest are forgotten.
const TICKETS_MAX: usize = 32;
/// Documents of one case that clients remember.
const DOCUMENTS_MAX: usize = 32;
/// Cases of one run, closed ones included: bounds what is read in the end.
const CASES_MAX: usize = 60;

/// How a run's clients behave; drawn from its seed.
#[derive(Debug, Clone)]
pub struct Workload {
    pub clients: usize,
    /// Cases that are worked on at a time; a closed one makes room for another.
    pub cases_max: usize,
    /// Between two operations of one client.
    pub think_us: (u64, u64),
    pub attempt_timeout_us: u64,
    pub deadline_us: u64,
    /// Chance in percent that a client gives a call up almost at once.
    pub impatient: u64,
    /// Chance in percent that a client asks again what it has asked before.
    pub replays: u64,
    /// Chance in percent that it does what no client may: another content under a used id, an id that is none.
    pub wrong: u64,
    /// Weights of opening, documents, steps, reading a case, and of tickets, windows and reading a queue.
    pub weights: [u32; 7],
}

impl Workload {
    pub fn draw(seed: u64) -> Self {
        let mut random = Random::new(seed, u64::MAX);
        let hurry = random.within(1, 10);
        let few = random.percent(60);
        Self {
            clients: usize::try_from(random.within(4, fixtures::CLIENTS_MAX as u64))
                .unwrap_or(fixtures::CLIENTS_MAX),
            cases_max: if few { 2 + random.index(5) } else { 40 },
            think_us: (500 * hurry, 8_000 * hurry),
            attempt_timeout_us: random.within(5, 30) * 100_000,
            deadline_us: random.within(3, 20) * 1_000_000,
            impatient: random.within(0, 6),
            replays: random.within(0, 8),
            wrong: random.within(0, 4),
            weights: [
                random.within(3, 10) as u32,
                random.within(10, 40) as u32,
                random.within(10, 40) as u32,
                random.within(3, 20) as u32,
                random.within(3, 25) as u32,
                random.within(3, 40) as u32,
                random.within(1, 10) as u32,
            ],
        }
    }
}

#[derive(Debug, Clone)]
struct KnownCase {
    id: String,
    stage: Option<Stage>,
    documents: Vec<u32>,
    requests_last: u32,
}

#[derive(Debug, Clone, Default)]
struct KnownOffice {
    tickets: Vec<(TicketName, Phase)>,
}

/// What the clients have seen, told among themselves.
#[derive(Debug, Clone)]
pub struct Beliefs {
    cases: Vec<KnownCase>,
    offices: Vec<KnownOffice>,
    references: u64,
    /// The queues' offices, by place.
    codes: Vec<&'static str>,
}

/// What is asked next; a new case's id follows from its request.
#[derive(Debug, Clone)]
pub enum Wish {
    Open(Call),
    Of(Subject, Call),
}

impl Default for Beliefs {
    fn default() -> Self {
        Self::new()
    }
}

impl Beliefs {
    pub fn new() -> Self {
        Self {
            cases: Vec::new(),
            offices: vec![KnownOffice::default(); fixtures::OFFICES.len()],
            references: 0,
            codes: fixtures::OFFICES.to_vec(),
        }
    }

    /// Of those who race for the visitors of one office.
    pub fn of_desks() -> Self {
        Self { offices: vec![KnownOffice::default()], codes: vec![fixtures::DESKS], ..Self::new() }
    }

    /// Everything anybody has heard of: the cases and the queues.
    pub fn subjects(&self) -> impl Iterator<Item = Subject> {
        let queues = self.codes.iter().map(|office| Subject::Queue((*office).to_owned()));
        self.cases.iter().map(|case| Subject::Case(case.id.clone())).chain(queues)
    }

    pub fn wish(&mut self, workload: &Workload, client: usize, random: &mut Random) -> Wish {
        if self.codes == [fixtures::DESKS] {
            return Wish::Of(
                Subject::Queue(fixtures::DESKS.to_owned()),
                desks::wish(&self.offices[0].tickets, random),
            );
        }
        let mut office = random.index(fixtures::OFFICES.len());
        // Who works in one office only is refused in the other: sometimes, not half of the time.
        if u32::try_from(client) == Ok(fixtures::OF_ONE_OFFICE) && random.percent(80) {
            office = 0;
        }
        let live = self.cases.iter().filter(|case| case.is_live()).count();
        let mut choice = random.weighted(&workload.weights);
        if live == 0 && (1..=3).contains(&choice) && self.cases.len() < CASES_MAX {
            choice = 0;
        }
        if choice == 0 && (live >= workload.cases_max || self.cases.len() >= CASES_MAX) {
            choice = 1 + random.index(3);
        }
        match choice {
            0 => self.open(office, random),
            1 => self.document(client, random),
            2 => self.advance(random),
            3 => {
                let case = &self.cases[self.some_case(random)];
                Wish::Of(Subject::Case(case.id.clone()), Call::ReadCase)
            }
            4 => take_ticket(office, random),
            5 => self.window(office, random),
            _ => Wish::Of(queue(office), Call::ReadQueue),
        }
    }

    /// One that is still worked on, mostly. There is one.
    fn some_case(&self, random: &mut Random) -> usize {
        let start = random.index(self.cases.len());
        if random.percent(8) {
            return start;
        }
        let turned = (start..self.cases.len()).chain(0..start);
        turned.into_iter().find(|place| self.cases[*place].is_live()).unwrap_or(start)
    }

    fn open(&self, office: usize, random: &mut Random) -> Wish {
        let tickets = &self.offices[office].tickets;
        let ticket =
            if random.percent(60) { random.one_of(tickets).map(|(name, _)| name.clone()) } else { None };
        let service = match random.below(20) {
            0 => fixtures::CLOSED_SERVICE,
            1 => "nowhere-known",
            other => fixtures::SERVICES[usize::from(other % 2 == 0)],
        };
        Wish::Open(Call::OpenCase {
            office: fixtures::OFFICES[office].to_owned(),
            service: service.to_owned(),
            ticket,
        })
    }

    fn document(&mut self, client: usize, random: &mut Random) -> Wish {
        self.references += 1;
        let case = &self.cases[self.some_case(random)];
        let call = if random.percent(15) {
            let known = random.one_of(&case.documents).copied().filter(|_| random.percent(80));
            let document = known.unwrap_or_else(|| u32::try_from(random.within(1, 9)).unwrap_or(1));
            Call::RemoveDocument { document }
        } else {
            // Far more sheets than a document may have, now and then.
            let sheets = if random.percent(3) { 1_000_000 } else { 1 };
            Call::AddDocument { reference: format!("{client}-{}", self.references), sheets }
        };
        Wish::Of(Subject::Case(case.id.clone()), call)
    }

    fn advance(&self, random: &mut Random) -> Wish {
        let case = &self.cases[self.some_case(random)];
        let usual: &[Step] = match case.stage {
            Some(Stage::Draft) => &[Step::Accept, Step::Accept, Step::Accept, Step::Withdraw],
            Some(Stage::Accepted) => &[
                Step::RequestInteragency,
                Step::RequestInteragency,
                Step::SendToAuthority,
                Step::Suspend { reason: String::new() },
            ],
            Some(Stage::Interagency) => &[
                Step::RequestInteragency,
                Step::InteragencyAnswered { request: 0 },
                Step::InteragencyAnswered { request: 0 },
                Step::Suspend { reason: String::new() },
            ],
            Some(Stage::AtAuthority) => {
                &[Step::ReceiveResult, Step::ReceiveRefusal, Step::Suspend { reason: String::new() }]
            }
            Some(Stage::Suspended) => {
                &[Step::Resume, Step::Resume, Step::InteragencyAnswered { request: 0 }, Step::ReceiveRefusal]
            }
            Some(Stage::ResultReceived | Stage::Refused) => &[Step::MakeReady],
            Some(Stage::ReadyForIssue) => &[Step::Issue, Step::MarkUnclaimed],
            Some(Stage::Issued | Stage::Withdrawn | Stage::Unclaimed) => &[Step::Archive],
            Some(Stage::Archived) | None => &[Step::Accept],
        };
        const ANY: [Step; 12] = [
            Step::Accept,
            Step::RequestInteragency,
            Step::InteragencyAnswered { request: 0 },
            Step::SendToAuthority,
            Step::Resume,
            Step::ReceiveResult,
            Step::ReceiveRefusal,
            Step::MakeReady,
            Step::Issue,
            Step::Withdraw,
            Step::MarkUnclaimed,
            Step::Archive,
        ];
        let from = if random.percent(12) { &ANY } else { usual };
        let step = match random.one_of(from).cloned().unwrap_or(Step::Accept) {
            Step::InteragencyAnswered { .. } => Step::InteragencyAnswered {
                request: u32::try_from(random.within(1, u64::from(case.requests_last.max(1)))).unwrap_or(1),
            },
            Step::Suspend { .. } => {
                let reason = if random.percent(95) { fixtures::SUSPENSION } else { "no-such-reason" };
                Step::Suspend { reason: reason.to_owned() }
            }
            other => other,
        };
        Wish::Of(Subject::Case(case.id.clone()), Call::Advance(step))
    }

    fn window(&self, office: usize, random: &mut Random) -> Wish {
        let window = (*random.one_of(&fixtures::WINDOWS).unwrap_or(&"1")).to_owned();
        let window = if random.percent(2) { "99".to_owned() } else { window };
        let tickets = &self.offices[office].tickets;
        // What the window holds, as far as anybody knows, comes first: windows that are never freed call nobody.
        let held = tickets
            .iter()
            .find(|(_, phase)| matches!(phase, Phase::Called(at) | Phase::InService(at) if *at == window));
        let call = match held {
            Some((ticket, Phase::Called(_))) if random.percent(80) => {
                let ticket = ticket.clone();
                if random.percent(75) {
                    Call::Begin { ticket, window }
                } else {
                    Call::Finish { ticket, window, served: false }
                }
            }
            Some((ticket, Phase::InService(_))) if random.percent(80) => {
                Call::Finish { ticket: ticket.clone(), window, served: true }
            }
            _ => match random.one_of(tickets).filter(|_| random.percent(15)) {
                Some((ticket, _)) if random.percent(50) => Call::Begin { ticket: ticket.clone(), window },
                Some((ticket, _)) => {
                    Call::Finish { ticket: ticket.clone(), window, served: random.percent(50) }
                }
                // Nobody waits, as far as anybody knows: a visitor comes, mostly.
                None if random.percent(60) && !tickets.iter().any(|(_, phase)| *phase == Phase::Waiting) => {
                    return take_ticket(office, random);
                }
                None => Call::CallNext { window },
            },
        };
        Wish::Of(queue(office), call)
    }

    /// A case somebody asked for may exist, whatever the answer.
    pub fn heard_of(&mut self, id: &str) {
        if !self.cases.iter().any(|case| case.id == id) {
            let case = KnownCase { id: id.to_owned(), stage: None, documents: Vec::new(), requests_last: 0 };
            self.cases.push(case);
        }
    }

    /// What an operation's outcome tells.
    pub fn learn(&mut self, operation: &Operation) {
        let Outcome::Done { reply, .. } = &operation.outcome else {
            // What was never opened is forgotten.
            if let (Outcome::Refused(_), Call::OpenCase { .. }, Subject::Case(id)) =
                (&operation.outcome, &operation.call, &operation.entity)
            {
                self.cases.retain(|case| case.id != *id || case.stage.is_some());
            }
            return;
        };
        match &operation.entity {
            Subject::Case(id) => {
                self.heard_of(id);
                let Some(case) = self.cases.iter_mut().find(|case| case.id == *id) else { return };
                match reply {
                    Reply::Opened => case.stage = Some(Stage::Draft),
                    Reply::DocumentAdded { document } => {
                        if case.documents.len() >= DOCUMENTS_MAX {
                            case.documents.remove(0);
                        }
                        case.documents.push(*document);
                    }
                    Reply::Advanced { stage, request, .. } => {
                        case.stage = Some(*stage);
                        case.requests_last = case.requests_last.max(*request);
                    }
                    Reply::Read(Seen::Case(seen)) => {
                        case.stage = Some(seen.stage);
                        case.documents = seen.documents.iter().map(|(number, _)| *number).collect();
                        case.requests_last = seen.requests_last;
                    }
                    _ => {}
                }
            }
            Subject::Queue(code) => {
                let Some(place) = self.codes.iter().position(|office| office == code) else { return };
                let office = &mut self.offices[place];
                match reply {
                    Reply::TicketTaken { ticket, .. } | Reply::Ticket(ticket) => office.put(ticket),
                    Reply::Read(Seen::Queue(seen)) => {
                        seen.tickets.iter().for_each(|ticket| office.put(ticket))
                    }
                    _ => {}
                }
            }
        }
    }
}

impl KnownCase {
    /// As far as anybody knows there is still something to do with it.
    const fn is_live(&self) -> bool {
        !matches!(self.stage, Some(Stage::Issued | Stage::Withdrawn | Stage::Unclaimed | Stage::Archived))
    }
}

impl KnownOffice {
    fn put(&mut self, seen: &TicketSeen) {
        match self.tickets.iter_mut().find(|(name, _)| *name == seen.name) {
            Some((_, phase)) => *phase = seen.phase.clone(),
            None => {
                if self.tickets.len() >= TICKETS_MAX {
                    self.tickets.remove(0);
                }
                self.tickets.push((seen.name.clone(), seen.phase.clone()));
            }
        }
    }
}

fn queue(office: usize) -> Subject {
    Subject::Queue(fixtures::OFFICES[office].to_owned())
}

fn take_ticket(office: usize, random: &mut Random) -> Wish {
    let (purpose, service) = match random.below(16) {
        0 => (Purpose::AskStatus, String::new()),
        1 => (Purpose::CollectResult, fixtures::SERVICES[0].to_owned()),
        2 => (Purpose::Apply, fixtures::CLOSED_SERVICE.to_owned()),
        3 => (Purpose::Apply, "nowhere-known".to_owned()),
        other => (Purpose::Apply, fixtures::SERVICES[usize::from(other % 2 == 0)].to_owned()),
    };
    let category = match random.below(12) {
        0 => "nobodys".to_owned(),
        1..=3 => fixtures::CATEGORY.to_owned(),
        _ => String::new(),
    };
    Wish::Of(queue(office), Call::TakeTicket { purpose, service, category })
}
