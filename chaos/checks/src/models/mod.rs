//! Small sequential models of the entities, written from the requirements and `docs/case-states.md` and from nothing of
//! the domain's code: what may come of a call in a state, refusals included.
//!
//! They say as much as an observer can know. What depends on the calendar (a day that may have turned, a storage term
//! that may be over) is open only as far as the dates that were possible leave it open.

pub mod case;
pub mod queue;

use crate::history::{Call, Day, Outcome, Setting};

/// A call as a model takes it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Op<'a> {
    pub client: u32,
    pub call: &'a Call,
    /// `None`: nobody learned it.
    pub seen: Option<&'a Outcome>,
    /// The latest date that may have been in use when it was decided, and the latest time.
    pub latest_day: Day,
    pub latest_ms: i64,
}

impl Op<'_> {
    /// True for outcomes that change nothing.
    pub fn reads(&self) -> bool {
        self.call.reads() || matches!(self.seen, Some(Outcome::Refused(_)))
    }

    pub fn show(&self) -> String {
        let seen = self.seen.map_or_else(|| "nobody knows".to_owned(), |seen| format!("{seen:?}"));
        format!("client {}: {:?} → {seen}", self.client, self.call)
    }
}

/// May the client work in this office?
fn works_in(setting: &Setting, client: u32, office: &str) -> bool {
    setting.officers.get(&client).is_none_or(|offices| offices.contains(office))
}
