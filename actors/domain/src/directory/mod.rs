//! The directory: offices, windows and people of the region (R-O5, R-S1). One entity, `directory/region`.
//!
//! Invariants:
//! - every window is of an office that is there; every office a person names was there when it was put;
//! - a workstation stands at one window at most;
//! - settings of a queue are of an office that is there, and go with it;
//! - the version grows by one with every change; a command that changes nothing makes no event.

mod check;
mod queue_settings;
mod types;

pub use queue_settings::{
    BookingSettings, CLOSED_DAYS_MAX, DayHours, Opening, OutsideSystem, PriorityCategory, QueueSettings,
    SERVICES_MAX, ServiceGroup, ServiceSlots,
};

pub use types::{
    Command, Event, OFFICES_MAX, OFFICES_PER_PERSON_MAX, Office, PEOPLE_MAX, PER_OFFICE_MAX, Part, Person,
    Reply, Role, Root, WINDOWS_PER_OFFICE_MAX, Window,
};

use crate::{
    access,
    entity::{Context, Decision, Entity, EntityRef, EventMeta, FIRST_LEVEL, Kind, PartName, Refusal, Row},
    level,
    message::Message,
    refusal::{
        DIRECTORY_ENTRY_UNKNOWN, DIRECTORY_LIMIT, MESSAGE_UNEXPECTED, OFFICE_IN_USE, OFFICE_UNKNOWN,
        TIMER_UNKNOWN, WORKSTATION_TAKEN, refuse,
    },
};
use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

/// Id of the one directory entity.
pub const ENTITY_ID: &str = "region";

/// The directory as loaded. Entries are shared, so that a clone is cheap.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Directory {
    root: Root,
    offices: BTreeMap<String, Arc<Office>>,
    /// By office and number.
    windows: BTreeMap<(String, String), Arc<Window>>,
    people: BTreeMap<String, Arc<Person>>,
    /// By office; an office that is not here has the defaults.
    queue_settings: BTreeMap<String, Arc<QueueSettings>>,
    /// Workstation → window; follows from `windows`.
    workstations: BTreeMap<String, (String, String)>,
}

impl Directory {
    pub fn version(&self) -> u64 {
        self.root.version
    }

    pub fn office(&self, code: &str) -> Option<&Office> {
        self.offices.get(code).map(Arc::as_ref)
    }

    /// All offices by code.
    pub fn offices(&self) -> impl Iterator<Item = &Office> {
        self.offices.values().map(Arc::as_ref)
    }

    pub fn window(&self, office: &str, number: &str) -> Option<&Window> {
        self.windows.get(&(office.to_owned(), number.to_owned())).map(Arc::as_ref)
    }

    /// The windows of an office by number.
    pub fn windows(&self, office: &str) -> impl Iterator<Item = &Window> {
        let from = (office.to_owned(), String::new());
        self.windows
            .range(from.clone()..)
            .take_while(move |(key, _)| key.0 == from.0)
            .map(|(_, window)| window.as_ref())
    }

    /// The window a workstation stands at.
    pub fn window_of(&self, workstation: &str) -> Option<&Window> {
        self.workstations.get(workstation).and_then(|key| self.windows.get(key)).map(Arc::as_ref)
    }

    pub fn person(&self, id: &str) -> Option<&Person> {
        self.people.get(id).map(Arc::as_ref)
    }

    /// What governs an office's queue; the defaults where the office has said nothing.
    pub fn queue_settings(&self, office: &str) -> &QueueSettings {
        static DEFAULT: LazyLock<QueueSettings> = LazyLock::new(QueueSettings::default);
        self.queue_settings.get(office).map_or_else(|| &*DEFAULT, Arc::as_ref)
    }

    /// All people by id.
    pub fn people(&self) -> impl Iterator<Item = &Person> {
        self.people.values().map(Arc::as_ref)
    }

    fn put_office(&self, office: &Office) -> Result<Vec<Event>, Refusal> {
        check::office(office)?;
        limit("offices", self.offices.len(), OFFICES_MAX, self.offices.contains_key(&office.code))?;
        Ok(self.unless_same(self.office(&office.code), office, || Event::OfficePut(Arc::new(office.clone()))))
    }

    fn put_window(&self, window: &Window) -> Result<Vec<Event>, Refusal> {
        check::window(window)?;
        self.known_office(&window.office)?;
        let there = self.window(&window.office, &window.number);
        limit("windows", self.windows(&window.office).count(), WINDOWS_PER_OFFICE_MAX, there.is_some())?;
        if let Some(other) = self.window_of(&window.workstation)
            && (other.office != window.office || other.number != window.number)
        {
            return Err(refuse(WORKSTATION_TAKEN)
                .with("workstation", window.workstation.clone())
                .with("office", other.office.clone())
                .with("window", other.number.clone()));
        }
        Ok(self.unless_same(there, window, || Event::WindowPut(Arc::new(window.clone()))))
    }

    fn put_person(&self, person: &Person) -> Result<Vec<Event>, Refusal> {
        check::person(person)?;
        for office in &person.offices {
            self.known_office(office)?;
        }
        limit("people", self.people.len(), PEOPLE_MAX, self.people.contains_key(&person.id))?;
        Ok(self.unless_same(self.person(&person.id), person, || Event::PersonPut(Arc::new(person.clone()))))
    }

    fn put_queue_settings(
        &self,
        settings: &QueueSettings,
        context: &Context<'_>,
    ) -> Result<Vec<Event>, Refusal> {
        level::needs(level::QUEUE, context)?;
        queue_settings::check(settings)?;
        self.known_office(&settings.office)?;
        let there = self.queue_settings.get(&settings.office).map(Arc::as_ref);
        Ok(self.unless_same(there, settings, || Event::QueueSettingsPut(Arc::new(settings.clone()))))
    }

    fn remove_office(&self, code: &str) -> Result<Vec<Event>, Refusal> {
        if !self.offices.contains_key(code) {
            return Err(refuse(DIRECTORY_ENTRY_UNKNOWN).with("office", code));
        }
        let people =
            self.people().filter(|person| person.offices.iter().any(|office| office == code)).count();
        let windows = self.windows(code).count();
        if people + windows > 0 {
            return Err(refuse(OFFICE_IN_USE)
                .with("people", people.to_string())
                .with("windows", windows.to_string()));
        }
        Ok(vec![Event::OfficeRemoved { code: code.to_owned() }])
    }

    fn known_office(&self, code: &str) -> Result<(), Refusal> {
        if self.offices.contains_key(code) {
            Ok(())
        } else {
            Err(refuse(OFFICE_UNKNOWN).with("office", code))
        }
    }

    fn unless_same<T: PartialEq>(
        &self,
        there: Option<&T>,
        new: &T,
        event: impl FnOnce() -> Event,
    ) -> Vec<Event> {
        if there == Some(new) { Vec::new() } else { vec![event()] }
    }

    fn insert_window(&mut self, window: Arc<Window>) {
        let key = (window.office.clone(), window.number.clone());
        self.remove_window(&key);
        if !window.workstation.is_empty() {
            self.workstations.insert(window.workstation.clone(), key.clone());
        }
        self.windows.insert(key, window);
    }

    fn remove_window(&mut self, key: &(String, String)) {
        if let Some(old) = self.windows.remove(key) {
            self.workstations.remove(&old.workstation);
        }
    }
}

fn limit(what: &str, have: usize, max: usize, replaces: bool) -> Result<(), Refusal> {
    if replaces || have < max {
        Ok(())
    } else {
        Err(refuse(DIRECTORY_LIMIT).with(what, format!("at most {max}")))
    }
}

impl Entity for Directory {
    const KIND: Kind = Kind::Directory;
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

    fn decide(&self, command: &Command, context: &Context<'_>) -> Result<Decision<Self>, Refusal> {
        let events = match command {
            Command::PutOffice(office) => self.put_office(office)?,
            Command::PutWindow(window) => self.put_window(window)?,
            Command::PutPerson(person) => self.put_person(person)?,
            Command::PutQueueSettings(settings) => self.put_queue_settings(settings, context)?,
            Command::RemoveOffice { code } => self.remove_office(code)?,
            Command::RemoveWindow { office, number } => {
                if self.window(office, number).is_none() {
                    return Err(refuse(DIRECTORY_ENTRY_UNKNOWN).with("window", format!("{office}/{number}")));
                }
                vec![Event::WindowRemoved { office: office.clone(), number: number.clone() }]
            }
            Command::RemovePerson { id } => {
                if self.person(id).is_none() {
                    return Err(refuse(DIRECTORY_ENTRY_UNKNOWN).with("person", id.clone()));
                }
                vec![Event::PersonRemoved { id: id.clone() }]
            }
        };
        let version = self.root.version + events.len() as u64;
        Ok(Decision { events, reply: Reply::Version(version), sends: Vec::new(), timers: Vec::new() })
    }

    fn receive(
        &self,
        source: &EntityRef,
        message: &Message,
        _context: &Context<'_>,
    ) -> Result<Decision<Self>, Refusal> {
        Err(refuse(MESSAGE_UNEXPECTED).with("message", message.name()).with("source", source.to_string()))
    }

    fn fire(&self, timer: &str, _context: &Context<'_>) -> Result<Decision<Self>, Refusal> {
        Err(refuse(TIMER_UNKNOWN).with("timer", timer))
    }

    fn evolve(&mut self, event: &Event, _meta: &EventMeta) {
        match event {
            Event::OfficePut(office) => {
                self.offices.insert(office.code.clone(), Arc::clone(office));
            }
            Event::WindowPut(window) => self.insert_window(Arc::clone(window)),
            Event::PersonPut(person) => {
                self.people.insert(person.id.clone(), Arc::clone(person));
            }
            Event::QueueSettingsPut(settings) => {
                self.queue_settings.insert(settings.office.clone(), Arc::clone(settings));
            }
            Event::OfficeRemoved { code } => {
                self.offices.remove(code);
                self.queue_settings.remove(code);
            }
            Event::WindowRemoved { office, number } => self.remove_window(&(office.clone(), number.clone())),
            Event::PersonRemoved { id } => {
                self.people.remove(id);
            }
        }
        self.root.version += 1;
    }

    fn touched(event: &Event) -> Vec<PartName> {
        vec![match event {
            Event::OfficeRemoved { code } => return vec![office_part(code), settings_part(code)],
            Event::QueueSettingsPut(settings) => settings_part(&settings.office),
            Event::OfficePut(office) => office_part(&office.code),
            Event::WindowPut(window) => window_part(&window.office, &window.number),
            Event::PersonPut(person) => person_part(&person.id),
            Event::WindowRemoved { office, number } => window_part(office, number),
            Event::PersonRemoved { id } => person_part(id),
        }]
    }

    fn root(&self) -> Root {
        self.root.clone()
    }

    fn part(&self, name: &str) -> Option<Part> {
        let (kind, key) = name.split_once(':')?;
        match kind {
            "office" => self.offices.get(key).cloned().map(Part::Office),
            "window" => {
                let (office, number) = key.split_once(':')?;
                self.windows.get(&(office.to_owned(), number.to_owned())).cloned().map(Part::Window)
            }
            "person" => self.people.get(key).cloned().map(Part::Person),
            "queue-settings" => self.queue_settings.get(key).cloned().map(Part::QueueSettings),
            _ => None,
        }
    }

    fn load(_id: &str, root: Root, parts: Vec<(PartName, Part)>) -> Self {
        let mut directory = Self { root, ..Self::default() };
        for (_, part) in parts {
            match part {
                Part::Office(office) => {
                    directory.offices.insert(office.code.clone(), office);
                }
                Part::Window(window) => directory.insert_window(window),
                Part::Person(person) => {
                    directory.people.insert(person.id.clone(), person);
                }
                Part::QueueSettings(settings) => {
                    directory.queue_settings.insert(settings.office.clone(), settings);
                }
            }
        }
        directory
    }

    /// None: readers hold the whole directory in memory.
    fn rows(&self, _part: Option<&str>) -> Vec<Row> {
        Vec::new()
    }

    fn level(event: &Event) -> u32 {
        match event {
            Event::OfficePut(_)
            | Event::WindowPut(_)
            | Event::PersonPut(_)
            | Event::OfficeRemoved { .. }
            | Event::WindowRemoved { .. }
            | Event::PersonRemoved { .. } => FIRST_LEVEL,
            Event::QueueSettingsPut(_) => level::QUEUE,
        }
    }

    fn no_reply() -> Reply {
        Reply::None
    }

    fn authorise(&self, _command: &Command, context: &Context<'_>) -> Result<(), Refusal> {
        if access::administers(context) { Ok(()) } else { Err(access::denied(context)) }
    }
}

fn office_part(code: &str) -> PartName {
    format!("office:{code}")
}

fn window_part(office: &str, number: &str) -> PartName {
    format!("window:{office}:{number}")
}

fn settings_part(office: &str) -> PartName {
    format!("queue-settings:{office}")
}

fn person_part(id: &str) -> PartName {
    format!("person:{id}")
}
