//! What the directory holds, is told and answers.

use super::queue_settings::QueueSettings;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Offices of one region: the largest have a few hundred.
pub const OFFICES_MAX: usize = 2_000;
/// Windows of one office.
pub const WINDOWS_PER_OFFICE_MAX: usize = 200;
/// People of one region: keeps the directory, which every node holds in memory, below some 20 MB.
pub const PEOPLE_MAX: usize = 50_000;
/// Offices one person may work in.
pub const OFFICES_PER_PERSON_MAX: usize = 64;
/// Kiosks, boards and priority categories of one office, each.
pub const PER_OFFICE_MAX: usize = 64;

/// A public service centre (МФЦ).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Office {
    /// Id in keys: `[A-Za-z0-9._-]+`, at most 32.
    pub code: String,
    pub name: String,
    pub address: String,
    /// Code of the region whose holidays count with the country's; empty: none.
    pub region: String,
    /// IANA name, for people; the offset is what counts.
    pub time_zone: String,
    pub utc_offset_minutes: i32,
    /// Ids of the kiosks that give out tickets here.
    pub kiosks: Vec<String>,
    /// Categories of citizens called first here (R-Q12): regional, so data.
    pub priority_categories: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Window {
    pub office: String,
    /// As spoken and shown: "5", "12А".
    pub number: String,
    /// Letters of the ticket groups it serves; empty: all.
    pub ticket_groups: Vec<String>,
    /// Id of the workstation that stands here; empty: none.
    pub workstation: String,
}

/// What a person may do (R-S1); `crate::access` says what exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Role {
    /// Works on cases and the queue of their offices.
    Officer,
    /// An officer who heads an office.
    Head,
    /// Keeps directory and catalogue; no cases.
    Administrator,
    /// Reads.
    Auditor,
}

impl Role {
    pub const ALL: [Self; 4] = [Self::Officer, Self::Head, Self::Administrator, Self::Auditor];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Officer => "officer",
            Self::Head => "head",
            Self::Administrator => "administrator",
            Self::Auditor => "auditor",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }
}

/// Somebody who works with the system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Person {
    /// The id in the person's operator certificate.
    pub id: String,
    pub name: String,
    pub role: Role,
    /// Codes of the offices the person works in.
    pub offices: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    PutOffice(Office),
    PutWindow(Window),
    PutPerson(Person),
    /// Refused while windows or people name it.
    RemoveOffice {
        code: String,
    },
    RemoveWindow {
        office: String,
        number: String,
    },
    RemovePerson {
        id: String,
    },
    /// What governs an office's queue. From [`crate::level::QUEUE`] on.
    PutQueueSettings(Box<QueueSettings>),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    OfficePut(Arc<Office>),
    WindowPut(Arc<Window>),
    PersonPut(Arc<Person>),
    OfficeRemoved { code: String },
    WindowRemoved { office: String, number: String },
    PersonRemoved { id: String },
    QueueSettingsPut(Arc<QueueSettings>),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    None,
    /// The directory's version after the command; the same as before when nothing changed.
    Version(u64),
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Root {
    /// Counts changes.
    pub version: u64,
}

/// Parts are named `office:<code>`, `window:<office>:<number>`, `person:<id>` and `queue-settings:<office>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Part {
    Office(Arc<Office>),
    Window(Arc<Window>),
    Person(Arc<Person>),
    QueueSettings(Arc<QueueSettings>),
}
