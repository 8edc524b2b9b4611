//! What the clients of halls and channels work with, beside the offices of [`super::fixtures`]: two halls with settings of
//! their own, whose times are short, and two channels with what a service asks of them.

use super::fixtures::{CATEGORY, OFFSET_MINUTES};
use okno_domain::{
    catalogue::{self, Ask, AskOrder, AskRequest, Process, Text, Wait},
    channel::{self, BreakerSettings, Order, Rate, Retry, Settings},
    directory::{
        self, BookingSettings, Office, OutsideSystem, Person, PriorityCategory, QueueSettings, Role, Window,
    },
    entity::{EntityRef, Kind, Principal},
    registry::AnyCommand,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// The first calls when a window asks; in the second free windows are given their visitors.
pub const HALLS: [&str; 2] = ["hall", "hall-by-load"];
/// The last serves only the letter of the first service.
pub const WINDOWS: [&str; 3] = ["1", "2", "3"];
pub const FAIRNESS_MINUTES: u16 = 1;
pub const PUT_OFF_MINUTES_MAX: u16 = 2;
/// Half the head start of [`CATEGORY`].
pub const LESSER_CATEGORY: &str = "large-families";
/// An outside queue system that both halls name, who speaks for it, and a connector that nobody names.
pub const OUTSIDE: (&str, &str) = ("elq", "elq-1");
pub const STRANGER: &str = "elq-9";
pub const HEAD: &str = "head";
/// Officers who ask channels.
pub const ASKERS: [&str; 2] = ["asker-1", "asker-2"];
/// The service whose cases they open.
pub const ASKING_SERVICE: &str = "asked";
/// What it may ask for, and how many requests that is.
pub const ASKS: [(&str, usize); 4] = [("one", 1), ("both", 2), ("either", 2), ("in-turn", 2)];
pub const CHANNELS: [&str; 2] = ["registry", "archive"];
/// How long a delivery has to be acknowledged, and to be worked on: the shortest there are, because runs are short.
pub const ACK_MS: u32 = 1_000;
pub const WORK_MS: u32 = 1_500;
/// By channel.
pub const CONNECTORS: [(&str, &str); 3] =
    [("registry-1", "registry"), ("registry-2", "registry"), ("archive-1", "archive")];

pub fn kiosk(hall: &str) -> Principal {
    Principal { kind: "kiosk".into(), id: format!("kiosk-{hall}") }
}

pub fn workstation(hall: &str, window: &str) -> Principal {
    Principal { kind: "workstation".into(), id: format!("ws-{hall}-{window}") }
}

pub fn queue(hall: &str) -> EntityRef {
    EntityRef { kind: Kind::Queue, id: hall.to_owned() }
}

pub fn channel(code: &str) -> EntityRef {
    EntityRef { kind: Kind::Channel, id: code.to_owned() }
}

/// Who may speak for which outside queue system.
pub fn outside() -> BTreeMap<String, BTreeSet<String>> {
    BTreeMap::from([(OUTSIDE.0.to_owned(), BTreeSet::from([OUTSIDE.1.to_owned()]))])
}

/// Letters each window of a hall serves; empty: all.
pub fn windows() -> BTreeMap<String, Vec<char>> {
    WINDOWS.iter().map(|window| ((*window).to_owned(), letters(window))).collect()
}

fn letters(window: &str) -> Vec<char> {
    if window == "3" { vec!['А'] } else { Vec::new() }
}

/// What the directory is told of the halls and who works there.
pub fn entries() -> Vec<directory::Command> {
    let mut all = Vec::new();
    for hall in HALLS {
        all.push(directory::Command::PutOffice(Office {
            code: hall.into(),
            name: format!("МФЦ {hall}"),
            utc_offset_minutes: OFFSET_MINUTES,
            kiosks: vec![kiosk(hall).id],
            ..Office::default()
        }));
        for window in WINDOWS {
            all.push(directory::Command::PutWindow(Window {
                office: hall.into(),
                number: window.into(),
                ticket_groups: letters(window).into_iter().map(String::from).collect(),
                workstation: workstation(hall, window).id,
            }));
        }
        all.push(directory::Command::PutQueueSettings(Box::new(settings(hall))));
    }
    let people = [(HEAD, Role::Head)].into_iter().chain(ASKERS.map(|id| (id, Role::Officer)));
    all.extend(people.map(|(id, role)| {
        directory::Command::PutPerson(Person {
            id: id.into(),
            name: "Вымыслова".into(),
            role,
            offices: HALLS.map(str::to_owned).into(),
        })
    }));
    all
}

/// Short times, so that a run sees them end.
fn settings(hall: &str) -> QueueSettings {
    let by_load = hall == HALLS[1];
    let category = |code: &str, weight| PriorityCategory { code: code.to_owned(), weight };
    QueueSettings {
        office: hall.to_owned(),
        categories: vec![category(CATEGORY, 100), category(LESSER_CATEGORY, 50)],
        fairness_minutes: FAIRNESS_MINUTES,
        calls_before_no_show: 2,
        put_off_minutes_max: PUT_OFF_MINUTES_MAX,
        unattended_grace_seconds: 3,
        break_minutes_max: 1,
        booking: BookingSettings {
            step_minutes: 1,
            early_minutes: 5,
            late_minutes: 1,
            late_joins_queue: by_load,
            weight: 50,
            ..BookingSettings::default()
        },
        auto_call: by_load,
        kiosk_pause_seconds: u16::from(by_load),
        outside: vec![OutsideSystem { system: OUTSIDE.0.to_owned(), connectors: vec![OUTSIDE.1.to_owned()] }],
        ..QueueSettings::default()
    }
}

fn text(ru: &str, en: &str) -> Text {
    Text { ru: ru.into(), en: en.into() }
}

fn channel_settings(code: &str) -> Settings {
    let first = code == CHANNELS[0];
    let own = CONNECTORS.iter().filter(|(_, of)| *of == code).map(|(id, _)| (*id).to_owned());
    Settings {
        title: text("Образцовый реестр", "Sample register"),
        connectors: own.collect(),
        order: if first { Order::Free } else { Order::Key },
        parallel: 6,
        depth: 64,
        ack_ms: ACK_MS,
        work_ms: WORK_MS,
        rate: (!first).then_some(Rate { messages: 40, per_ms: 1_000, burst: 4 }),
        retry: Retry { attempts: 3, base_ms: 50, max_ms: 400 },
        breaker: Some(BreakerSettings { failures: 4, open_ms: 200, open_max_ms: 800, probes: 1 }),
        ..Settings::default()
    }
}

fn process() -> Process {
    let requests = |channels: &[&str]| {
        channels
            .iter()
            .map(|code| AskRequest { channel: (*code).to_owned(), kind: "extract".to_owned() })
            .collect()
    };
    let ask = |(code, count): (&str, usize), wait, order, blocking| Ask {
        code: code.to_owned(),
        title: text("Выписка", "Extract"),
        requests: requests(&CHANNELS[..count]),
        wait,
        order,
        blocking,
        mandatory: false,
        expires_ms: None,
    };
    Process {
        module: CHANNELS[0].to_owned(),
        service: ASKING_SERVICE.to_owned(),
        asks: vec![
            ask(ASKS[0], Wait::All, AskOrder::Parallel, true),
            ask(ASKS[1], Wait::All, AskOrder::Parallel, false),
            ask(ASKS[2], Wait::Any, AskOrder::Parallel, false),
            ask(ASKS[3], Wait::All, AskOrder::Sequential, false),
        ],
        claimed: Vec::new(),
    }
}

/// What sets the channels up, once catalogue and directory are there.
pub fn commands() -> Vec<(EntityRef, AnyCommand)> {
    let mut all: Vec<_> = CHANNELS
        .iter()
        .map(|code| {
            let settings = Box::new(channel_settings(code));
            (channel(code), AnyCommand::Channel(channel::Command::Configure { settings }))
        })
        .collect();
    let catalogue = EntityRef { kind: Kind::Catalogue, id: catalogue::ENTITY_ID.into() };
    let processes = catalogue::Command::LoadProcesses(vec![Arc::new(process())]);
    all.push((catalogue, AnyCommand::Catalogue(processes)));
    all
}
