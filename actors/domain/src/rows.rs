//! The index tables that queries read, and the order of their keys. Nobody formats a key elsewhere.
//!
//! Rows are key-only: the stored key also holds the entity, and the entity's root has the rest. Text in a key
//! ends with a zero byte, numbers are big-endian with the sign bit flipped, so that byte order is the order of
//! the values; within a prefix the newest comes last. A document added to a case changes no row (design §9).

use crate::{case::State, entity::Row};
use jiff::civil::Date;
use serde::{Deserialize, Serialize};

/// A table or index. The numbers are part of stored keys: never reuse one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "u16", try_from = "u16")]
#[repr(u16)]
pub enum Table {
    /// Applicant's key (16 bytes) ‖ opened. R-C6: the history of an applicant's requests.
    CaseByApplicant = 1,
    /// Office ‖ opened.
    CaseByOffice = 2,
    /// State ‖ office ‖ opened.
    CaseByState = 3,
    /// Deadline ‖ office, while the deadline runs (R-C2).
    CaseByDeadline = 4,
    /// Number of a body. The one table whose rows have a value: a body as it was sent or received, with its SHA-256
    /// (R-I2). See [`crate::entity::Kept`].
    Body = 32,
    /// When it was buried ‖ sequence: the dead letters of a channel.
    ChannelDead = 33,
    /// When it came ‖ number: letters of a channel that wait for a person.
    ChannelParked = 34,
}

impl Table {
    pub const ALL: &'static [Self] = &[
        Self::CaseByApplicant,
        Self::CaseByOffice,
        Self::CaseByState,
        Self::CaseByDeadline,
        Self::Body,
        Self::ChannelDead,
        Self::ChannelParked,
    ];

    pub const fn number(self) -> u16 {
        self as u16
    }

    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.iter().copied().find(|table| table.number() == number)
    }
}

impl From<Table> for u16 {
    fn from(table: Table) -> Self {
        table.number()
    }
}

impl TryFrom<u16> for Table {
    type Error = String;
    fn try_from(number: u16) -> Result<Self, String> {
        Self::from_number(number).ok_or_else(|| format!("no table has the number {number}"))
    }
}

/// Bytes of an applicant's key; see [`crate::people::Identifier::key`].
pub type ApplicantKey = [u8; 16];

pub fn case_by_applicant(applicant: &ApplicantKey, opened_ms: i64) -> Row {
    row(Table::CaseByApplicant, 24, |key| {
        key.extend_from_slice(applicant);
        put_i64(key, opened_ms);
    })
}

pub fn case_by_applicant_prefix(applicant: &ApplicantKey) -> Vec<u8> {
    applicant.to_vec()
}

pub fn case_by_office(office: &str, opened_ms: i64) -> Row {
    row(Table::CaseByOffice, office.len() + 9, |key| {
        put_text(key, office);
        put_i64(key, opened_ms);
    })
}

pub fn case_by_office_prefix(office: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(office.len() + 1);
    put_text(&mut key, office);
    key
}

pub fn case_by_state(state: State, office: &str, opened_ms: i64) -> Row {
    row(Table::CaseByState, office.len() + 10, |key| {
        key.push(state.number());
        put_text(key, office);
        put_i64(key, opened_ms);
    })
}

/// Without an office: the cases of every office, office by office.
pub fn case_by_state_prefix(state: State, office: Option<&str>) -> Vec<u8> {
    let mut key = vec![state.number()];
    if let Some(office) = office {
        put_text(&mut key, office);
    }
    key
}

pub fn case_by_deadline(deadline: Date, office: &str) -> Row {
    row(Table::CaseByDeadline, office.len() + 5, |key| {
        key.extend_from_slice(&day(deadline));
        put_text(key, office);
    })
}

/// The first key of a day and the first key after it bound a range over deadlines.
pub fn case_by_deadline_from(date: Date) -> Vec<u8> {
    day(date).to_vec()
}

/// The office in a key of [`Table::CaseByDeadline`] (without the entity). `None`: not such a key.
pub fn case_by_deadline_office(key: &[u8]) -> Option<&str> {
    let (text, last) = key.get(4..)?.split_at_checked(key.len().checked_sub(5)?)?;
    if last != [0] { None } else { std::str::from_utf8(text).ok() }
}

/// The key of a body among those of its holder.
pub fn body(number: u64) -> Row {
    row(Table::Body, 8, |key| key.extend_from_slice(&number.to_be_bytes()))
}

pub fn channel_dead(at_ms: i64, sequence: u64) -> Row {
    row(Table::ChannelDead, 16, |key| {
        put_i64(key, at_ms);
        key.extend_from_slice(&sequence.to_be_bytes());
    })
}

pub fn channel_parked(at_ms: i64, number: u64) -> Row {
    row(Table::ChannelParked, 16, |key| {
        put_i64(key, at_ms);
        key.extend_from_slice(&number.to_be_bytes());
    })
}

/// The sequence or number in a key of [`Table::ChannelDead`] or [`Table::ChannelParked`] (without the entity).
pub fn channel_entry(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.get(8..)?.try_into().ok()?))
}

/// Year, month and day as four bytes that order like the date.
fn day(date: Date) -> [u8; 4] {
    let year = (date.year() as u16 ^ 0x8000).to_be_bytes();
    [year[0], year[1], date.month() as u8, date.day() as u8]
}

fn row(table: Table, len: usize, fill: impl FnOnce(&mut Vec<u8>)) -> Row {
    let mut key = Vec::with_capacity(len);
    fill(&mut key);
    Row { table, key }
}

fn put_text(key: &mut Vec<u8>, text: &str) {
    debug_assert!(!text.as_bytes().contains(&0), "a zero byte ends text in a key");
    key.extend_from_slice(text.as_bytes());
    key.push(0);
}

fn put_i64(key: &mut Vec<u8>, value: i64) {
    key.extend_from_slice(&((value as u64) ^ (1 << 63)).to_be_bytes());
}
