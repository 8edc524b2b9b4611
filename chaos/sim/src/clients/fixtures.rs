//! The region the simulated clients work in: a small catalogue, two offices with windows, and officers; halls and channels
//! are in [`super::places`]. As commands, from which the world prepares the state every run begins with, and as the setting
//! the checks judge by.

use okno_checks::history::{Office as OfficeSetting, Service as ServiceSetting, Setting};
use okno_domain::{
    catalogue::{self, Catalogue, Load, SourceFile, files},
    directory::{self, Directory, Office, Person, QueueSettings, Role, Window},
    entity::{Context, Entity, EntityRef, EventMeta, Kind, Origin, Principal},
    people::{Applicant, Person as Citizen, PersonName},
    registry::AnyCommand,
    time::local_date,
};
use std::collections::{BTreeMap, BTreeSet};

/// 10:00 at the offices on Monday 2 March 2026: what clocks without skew say when a run begins.
pub const START_MS: i64 = 1_772_420_400_000;
/// Both offices' offset to UTC, so that a moment has one local date.
pub const OFFSET_MINUTES: i32 = 420;
pub const OFFICES: [&str; 2] = ["gornaya", "tikhaya"];
/// Where officers race for the same visitors with everything that may be done with them ([`super::desks`]).
pub const DESKS: &str = "desks";
/// Its officers.
pub const DESKS_CLIENTS: usize = OF_ONE_OFFICE as usize;
pub const CALLS_BEFORE_NO_SHOW: u8 = 2;
/// Windows of every office; the last serves only the letter of the first service.
pub const WINDOWS: [&str; 3] = ["1", "2", "3"];
/// Services new cases are taken for.
pub const SERVICES: [&str; 2] = ["paper", "visit"];
/// A service that takes no new cases.
pub const CLOSED_SERVICE: &str = "closed";
pub const SUSPENSION: &str = "more-papers";
pub const CATEGORY: &str = "veterans";
/// The most clients a run has: so many officers there are.
pub const CLIENTS_MAX: usize = 12;
/// This client works in one office only and is refused in the other.
pub const OF_ONE_OFFICE: u32 = 3;

/// Who prepares the region.
pub fn administrator() -> Principal {
    Principal { kind: "admin".into(), id: "root".into() }
}

/// The officer a client calls as.
pub fn officer(client: usize) -> Principal {
    Principal { kind: "operator".into(), id: format!("officer-{client}") }
}

fn offices_of(client: usize) -> Vec<&'static str> {
    if u32::try_from(client) == Ok(OF_ONE_OFFICE) {
        OFFICES[..1].to_vec()
    } else {
        OFFICES.into_iter().chain([DESKS]).collect()
    }
}

/// What fills the region, in order; every command succeeds on an empty cluster.
pub fn commands() -> Vec<(EntityRef, AnyCommand)> {
    let catalogue = EntityRef { kind: Kind::Catalogue, id: catalogue::ENTITY_ID.into() };
    let directory = EntityRef { kind: Kind::Directory, id: directory::ENTITY_ID.into() };
    let mut all = vec![(catalogue, AnyCommand::Catalogue(catalogue::Command::Load(load())))];
    all.extend(entries().into_iter().map(|entry| (directory.clone(), AnyCommand::Directory(entry))));
    all.extend(super::places::commands());
    all
}

fn load() -> Load {
    let file = SourceFile::new("catalogue.toml", include_str!("catalogue.toml"));
    files::read(&[file], &Catalogue::empty(catalogue::ENTITY_ID)).expect("the fixture is a good catalogue")
}

fn entries() -> Vec<directory::Command> {
    let mut all = Vec::new();
    for office in OFFICES.into_iter().chain([DESKS]) {
        all.push(directory::Command::PutOffice(Office {
            code: office.into(),
            name: format!("МФЦ {office}"),
            utc_offset_minutes: OFFSET_MINUTES,
            priority_categories: vec![CATEGORY.into()],
            ..Office::default()
        }));
        for window in WINDOWS {
            all.push(directory::Command::PutWindow(Window {
                office: office.into(),
                number: window.into(),
                ticket_groups: letters_of(window).into_iter().map(String::from).collect(),
                workstation: format!("ws-{office}-{window}"),
            }));
        }
    }
    all.push(directory::Command::PutQueueSettings(Box::new(QueueSettings {
        office: DESKS.to_owned(),
        calls_before_no_show: CALLS_BEFORE_NO_SHOW,
        ..QueueSettings::default()
    })));
    all.extend(super::places::entries());
    for client in 0..CLIENTS_MAX {
        all.push(directory::Command::PutPerson(Person {
            id: officer(client).id,
            name: format!("Вымыслов {client}"),
            role: Role::Officer,
            offices: offices_of(client).into_iter().map(str::to_owned).collect(),
        }));
    }
    all
}

fn letters_of(window: &str) -> Vec<char> {
    if window == "3" { vec!['А'] } else { Vec::new() }
}

/// The world as it is after [`commands`].
pub fn world() -> (Catalogue, Directory) {
    let catalogue = Catalogue::of(&load()).expect("the fixture is a good catalogue");
    let mut directory = Directory::empty(directory::ENTITY_ID);
    let origin = Origin { principal: administrator(), workstation: String::new() };
    let meta = EventMeta { time_ms: START_MS, origin: origin.clone() };
    let this = EntityRef { kind: Kind::Directory, id: directory::ENTITY_ID.into() };
    for command in entries() {
        let snapshot = directory.clone();
        let context = Context {
            this: &this,
            now_ms: START_MS,
            origin: &origin,
            request_id: uuid::Uuid::nil(),
            catalogue: &catalogue,
            directory: &snapshot,
            level: okno_storage::level::FEATURE_LEVEL,
            fence: okno_domain::entity::Fence::default(),
        };
        let decision = snapshot.decide(&command, &context).expect("the fixture is a good directory");
        decision.events.iter().for_each(|event| directory.evolve(event, &meta));
    }
    (catalogue, directory)
}

/// The same as the checks know it. `clocks`: since when (virtual µs) the fastest clock among the nodes may have said
/// what (ms since 1970) before the run ends, by time; `fastest`: what it said then.
pub fn setting(clocks: &[(u64, i64)], fastest: &[(u64, i64)]) -> Setting {
    let service = |active, letter, suspensions: &[&str]| ServiceSetting {
        active,
        letter,
        // Of the services here those that are suspended keep results, too.
        storage: !suspensions.is_empty(),
        suspensions: suspensions.iter().map(|code| (*code).to_owned()).collect(),
    };
    let office = OfficeSetting {
        windows: WINDOWS.iter().map(|window| ((*window).to_owned(), letters_of(window))).collect(),
        categories: BTreeSet::from([CATEGORY.to_owned()]),
        fairness_ms: okno_checks::history::fairness_default_ms(),
        calls_before_no_show: 1,
    };
    let desks = OfficeSetting { calls_before_no_show: CALLS_BEFORE_NO_SHOW, ..office.clone() };
    Setting {
        services: BTreeMap::from([
            (SERVICES[0].to_owned(), service(true, 'А', &[SUSPENSION])),
            (SERVICES[1].to_owned(), service(true, 'Б', &[])),
            (CLOSED_SERVICE.to_owned(), service(false, 'Б', &[])),
        ]),
        offices: OFFICES
            .iter()
            .map(|code| ((*code).to_owned(), office.clone()))
            .chain([(DESKS.to_owned(), desks)])
            .collect(),
        clocks: fastest.to_vec(),
        days: clocks
            .iter()
            .map(|(since, wall_ms)| (*since, super::translate::day(local_date(*wall_ms, OFFSET_MINUTES))))
            .collect(),
        officers: BTreeMap::from([(OF_ONE_OFFICE, BTreeSet::from([OFFICES[0].to_owned()]))]),
        links_may_wait: false,
    }
}

/// Everybody's applicant: who asks changes nothing here.
pub fn applicant() -> Applicant {
    Applicant::Person(Citizen {
        name: PersonName {
            last_name: "Вымыслова".into(),
            first_name: "Анна".into(),
            middle_name: String::new(),
        },
        snils: "112-233-445 95".into(),
        ..Citizen::default()
    })
}
