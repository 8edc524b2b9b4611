//! The catalogue as an entity: one load is one command, one commit and one version.
//!
//! Invariants:
//! - every process names a service of the same catalogue; every service an authority; every loaded record satisfies [`super::check`];
//! - a region has calendars only for years the country has one for;
//! - the version grows by one with every load that changes anything; a load of what is already there changes
//!   nothing, so that loading the shipped files again at every start is harmless;
//! - a record is only ever put, never removed: cases begun under it need it (`active = false` stops new ones).

use super::{
    CATALOGUE_EMPTY_LOAD,
    check::{self, Problem},
    model::{Authority, Calendar, CalendarKey, Service},
    process::{Ask, Process},
};
use crate::{
    access,
    entity::{
        CHANNELS_LEVEL, Context, Decision, Entity, EntityRef, EventMeta, FIRST_LEVEL, Kind, PartName,
        Refusal, Row,
    },
    message::Message,
    refusal::{MESSAGE_UNEXPECTED, TIMER_UNKNOWN, refuse},
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc};

/// What one load puts. Records the catalogue has and the load does not name stay.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Load {
    pub authorities: Vec<Arc<Authority>>,
    pub services: Vec<Arc<Service>>,
    pub calendars: Vec<Arc<Calendar>>,
}

impl Load {
    pub fn is_empty(&self) -> bool {
        self.authorities.is_empty() && self.services.is_empty() && self.calendars.is_empty()
    }

    /// The records as parts, each kind in the order given.
    fn parts(&self) -> impl Iterator<Item = Part> {
        let authorities = self.authorities.iter().cloned().map(Part::Authority);
        let services = self.services.iter().cloned().map(Part::Service);
        let calendars = self.calendars.iter().cloned().map(Part::Calendar);
        authorities.chain(services).chain(calendars)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Everything in the load, or nothing of it.
    Load(Load),
    /// What modules add to services: everything, or nothing of it. Others' processes stay.
    LoadProcesses(Vec<Arc<Process>>),
    /// The same is about to be loaded: refused now if it would be, and from then on it is not (`Process::claimed`).
    ClaimProcesses(Vec<Arc<Process>>),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// A record is there now, new or replaced. Encodes the part as it is stored, so the bytes are shared.
    Put(Part),
    /// The load is complete; always the last event of its commit.
    Loaded { version: u64 },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    Loaded {
        /// The catalogue's version now.
        version: u64,
        /// Records put by this load.
        changed: u32,
        /// Records of the load that were there already.
        unchanged: u32,
    },
    Nothing,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Root {
    pub version: u64,
    /// When the latest version was loaded.
    pub loaded_ms: i64,
    /// Who loaded it: `kind/id`.
    pub loaded_by: String,
}

/// Named `authority:<code>`, `service:<code>`, `calendar:<year>`, `calendar:<year>:<region>` or
/// `process:<service>:<module>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Part {
    Authority(Arc<Authority>),
    Service(Arc<Service>),
    Calendar(Arc<Calendar>),
    /// From [`CHANNELS_LEVEL`] on.
    Process(Arc<Process>),
}

impl Part {
    pub fn name(&self) -> PartName {
        match self {
            Part::Authority(authority) => format!("authority:{}", authority.code),
            Part::Service(service) => format!("service:{}", service.code),
            Part::Calendar(calendar) => format!("calendar:{}", calendar.key()),
            Part::Process(process) => format!("process:{}:{}", process.service, process.module),
        }
    }
}

/// The catalogue as loaded. Records are shared, so a clone is cheap enough for speculation and for readers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Catalogue {
    root: Root,
    authorities: BTreeMap<String, Arc<Authority>>,
    services: BTreeMap<String, Arc<Service>>,
    calendars: BTreeMap<CalendarKey, Arc<Calendar>>,
    /// By service and module.
    processes: BTreeMap<(String, String), Arc<Process>>,
}

impl Catalogue {
    /// A catalogue as the first load makes it; for tests and tools that work without a cluster.
    pub fn of(load: &Load) -> Result<Self, Vec<Problem>> {
        let problems = check::load(load, &Catalogue::default());
        if !problems.is_empty() {
            return Err(problems);
        }
        let mut catalogue = Catalogue::default();
        for part in load.parts() {
            catalogue.put(part);
        }
        catalogue.root.version = 1;
        Ok(catalogue)
    }

    /// Grows by one with every load that changes anything; 0: nothing was ever loaded.
    pub fn version(&self) -> u64 {
        self.root.version
    }

    /// When the version was loaded, by replicated time, and by whom.
    pub fn loaded(&self) -> (i64, &str) {
        (self.root.loaded_ms, &self.root.loaded_by)
    }

    pub fn service(&self, code: &str) -> Option<&Service> {
        self.services.get(code).map(Arc::as_ref)
    }

    /// All services by code.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.values().map(Arc::as_ref)
    }

    pub fn authority(&self, code: &str) -> Option<&Authority> {
        self.authorities.get(code).map(Arc::as_ref)
    }

    /// All authorities by code.
    pub fn authorities(&self) -> impl Iterator<Item = &Authority> {
        self.authorities.values().map(Arc::as_ref)
    }

    /// The calendar of a year; `region` empty: the country's.
    pub fn calendar(&self, year: i16, region: &str) -> Option<&Calendar> {
        let key = CalendarKey { region: region.to_owned(), year };
        self.calendars.get(&key).map(Arc::as_ref)
    }

    /// All calendars: the country's by year, then the regions'.
    pub fn calendars(&self) -> impl Iterator<Item = &Calendar> {
        self.calendars.values().map(Arc::as_ref)
    }

    /// What modules have added to a service, module by module.
    pub fn processes_of(&self, service: &str) -> impl Iterator<Item = &Process> {
        let from = (service.to_owned(), String::new());
        let until = from.0.clone();
        self.processes
            .range(from..)
            .take_while(move |(key, _)| key.0 == until)
            .map(|(_, process)| process.as_ref())
    }

    /// All processes by service and module.
    pub fn processes(&self) -> impl Iterator<Item = &Process> {
        self.processes.values().map(Arc::as_ref)
    }

    /// What a case of the service may or must ask for.
    pub fn asks_of(&self, service: &str) -> impl Iterator<Item = &Ask> {
        self.processes_of(service).flat_map(|process| &process.asks)
    }

    /// Does the region add days of its own in any year?
    pub(super) fn has_calendars_of(&self, region: &str) -> bool {
        let from = CalendarKey { region: region.to_owned(), year: i16::MIN };
        self.calendars.range(from..).next().is_some_and(|(key, _)| key.region == region)
    }

    fn put(&mut self, part: Part) {
        match part {
            Part::Authority(authority) => {
                self.authorities.insert(authority.code.clone(), authority);
            }
            Part::Service(service) => {
                self.services.insert(service.code.clone(), service);
            }
            Part::Calendar(calendar) => {
                self.calendars.insert(calendar.key(), calendar);
            }
            Part::Process(process) => {
                self.processes.insert((process.service.clone(), process.module.clone()), process);
            }
        }
    }

    fn has(&self, part: &Part) -> bool {
        match part {
            Part::Authority(authority) => self.authorities.get(&authority.code) == Some(authority),
            Part::Service(service) => self.services.get(&service.code) == Some(service),
            Part::Calendar(calendar) => self.calendars.get(&calendar.key()) == Some(calendar),
            Part::Process(process) => {
                self.processes.get(&(process.service.clone(), process.module.clone())) == Some(process)
            }
        }
    }

    fn decide_load(&self, load: &Load) -> Result<Decision<Self>, Refusal> {
        if load.is_empty() {
            return Err(refuse(CATALOGUE_EMPTY_LOAD));
        }
        let problems = check::load(load, self);
        if !problems.is_empty() {
            return Err(check::refusal(&problems));
        }
        Ok(self.put_all(load.parts()))
    }

    fn decide_load_processes(&self, processes: &[Arc<Process>]) -> Result<Decision<Self>, Refusal> {
        self.expect_processes(processes)?;
        Ok(self.put_all(processes.iter().cloned().map(Part::Process)))
    }

    /// What holds now keeps holding, and what is to come stands beside it.
    fn decide_claim_processes(&self, processes: &[Arc<Process>]) -> Result<Decision<Self>, Refusal> {
        self.expect_processes(processes)?;
        let claims = processes.iter().map(|process| {
            let present = self.processes.get(&(process.service.clone(), process.module.clone()));
            let asks = present.map_or_else(Vec::new, |present| present.asks.clone());
            let claimed = if asks == process.asks { Vec::new() } else { process.asks.clone() };
            (present.is_some(), Process { asks, claimed, ..process.as_ref().clone() })
        });
        // One that is new and asks nothing takes no code.
        let claims = claims.filter(|(present, process)| *present || !process.claimed.is_empty());
        Ok(self.put_all(claims.map(|(_, process)| Part::Process(Arc::new(process)))))
    }

    fn expect_processes(&self, processes: &[Arc<Process>]) -> Result<(), Refusal> {
        if processes.is_empty() {
            return Err(refuse(CATALOGUE_EMPTY_LOAD));
        }
        let problems = check::processes(processes, self);
        if problems.is_empty() { Ok(()) } else { Err(check::refusal(&problems)) }
    }

    fn put_all(&self, parts: impl Iterator<Item = Part>) -> Decision<Self> {
        let mut events = Vec::new();
        let mut unchanged = 0_u32;
        for part in parts {
            if self.has(&part) {
                unchanged += 1;
            } else {
                events.push(Event::Put(part));
            }
        }
        let changed = u32::try_from(events.len()).unwrap_or(u32::MAX);
        let mut version = self.root.version;
        if changed > 0 {
            version += 1;
            events.push(Event::Loaded { version });
        }
        let reply = Reply::Loaded { version, changed, unchanged };
        Decision { events, reply, sends: Vec::new(), timers: Vec::new() }
    }
}

impl Entity for Catalogue {
    const KIND: Kind = Kind::Catalogue;
    type Command = Command;
    type Event = Event;
    type Reply = Reply;
    type Root = Root;
    type Part = Part;

    fn empty(_id: &str) -> Self {
        Self::default()
    }

    fn exists(&self) -> bool {
        self.root.version > 0
    }

    fn decide(&self, command: &Command, _context: &Context<'_>) -> Result<Decision<Self>, Refusal> {
        match command {
            Command::Load(load) => self.decide_load(load),
            Command::LoadProcesses(processes) => self.decide_load_processes(processes),
            Command::ClaimProcesses(processes) => self.decide_claim_processes(processes),
        }
    }

    fn receive(
        &self,
        _source: &EntityRef,
        _message: &Message,
        _context: &Context<'_>,
    ) -> Result<Decision<Self>, Refusal> {
        Err(refuse(MESSAGE_UNEXPECTED))
    }

    fn fire(&self, _timer: &str, _context: &Context<'_>) -> Result<Decision<Self>, Refusal> {
        Err(refuse(TIMER_UNKNOWN))
    }

    fn evolve(&mut self, event: &Event, meta: &EventMeta) {
        match event {
            Event::Put(part) => self.put(part.clone()),
            Event::Loaded { version } => {
                let by = &meta.origin.principal;
                self.root = Root {
                    version: *version,
                    loaded_ms: meta.time_ms,
                    loaded_by: format!("{}/{}", by.kind, by.id),
                };
            }
        }
    }

    fn touched(event: &Event) -> Vec<PartName> {
        match event {
            Event::Put(part) => vec![part.name()],
            Event::Loaded { .. } => Vec::new(),
        }
    }

    fn root(&self) -> Root {
        self.root.clone()
    }

    fn part(&self, name: &str) -> Option<Part> {
        let (kind, code) = name.split_once(':')?;
        match kind {
            "authority" => self.authorities.get(code).cloned().map(Part::Authority),
            "service" => self.services.get(code).cloned().map(Part::Service),
            "calendar" => {
                let (year, region) = code.split_once(':').unwrap_or((code, ""));
                let key = CalendarKey { region: region.to_owned(), year: year.parse().ok()? };
                self.calendars.get(&key).cloned().map(Part::Calendar)
            }
            "process" => {
                let (service, module) = code.split_once(':')?;
                let process = self.processes.get(&(service.to_owned(), module.to_owned()));
                process.cloned().map(Part::Process)
            }
            _ => None,
        }
    }

    fn level(event: &Event) -> u32 {
        match event {
            Event::Put(Part::Process(_)) => CHANNELS_LEVEL,
            Event::Put(_) | Event::Loaded { .. } => FIRST_LEVEL,
        }
    }

    fn load(_id: &str, root: Root, parts: Vec<(PartName, Part)>) -> Self {
        let mut catalogue = Catalogue { root, ..Catalogue::default() };
        for (_, part) in parts {
            catalogue.put(part);
        }
        catalogue
    }

    /// None: readers hold the whole catalogue in memory.
    fn rows(&self, _part: Option<&str>) -> Vec<Row> {
        Vec::new()
    }

    fn no_reply() -> Reply {
        Reply::Nothing
    }

    fn authorise(&self, _command: &Command, context: &Context<'_>) -> Result<(), Refusal> {
        if access::administers(context) { Ok(()) } else { Err(access::denied(context)) }
    }
}
