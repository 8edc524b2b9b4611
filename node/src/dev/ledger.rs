//! Every step that was acknowledged to a client of `okno dev`: what must be found on every node at the end.
//!
//! Invariants: an entry is made only after success was answered; a reference is given to one document only, so that a
//! document found twice was recorded twice; what was never acknowledged may be there once, or not at all.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Shared by the clients of one runtime thread.
#[derive(Clone, Default)]
pub struct Ledger(Rc<RefCell<State>>);

#[derive(Default)]
struct State {
    cases: BTreeMap<String, CaseEntry>,
    tickets: BTreeMap<(String, String, String), TicketEntry>,
    /// When each acknowledged write was begun and when it was answered.
    writes: Vec<(Instant, Instant)>,
    index_highest: u64,
}

/// What is known of a case.
#[derive(Debug, Clone, Default)]
pub struct CaseEntry {
    pub office: String,
    /// Reference → the number that was answered.
    pub documents: BTreeMap<String, u32>,
    /// Number within the case → name of the acknowledged step.
    pub steps: BTreeMap<u32, String>,
}

/// What is known of a ticket: how far it was acknowledged to have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TicketEntry {
    Taken,
    Called,
    Begun,
    Finished,
}

/// Names a ticket: office, day and number.
pub type TicketKey = (String, String, String);

impl Ledger {
    /// Records an acknowledged write by when it was begun and the index it took effect at.
    pub fn acknowledged(&self, begun: Instant, index: u64) {
        let mut state = self.0.borrow_mut();
        state.writes.push((begun, Instant::now()));
        state.index_highest = state.index_highest.max(index);
    }

    pub fn case_opened(&self, case: &str, office: &str) {
        let entry = CaseEntry { office: office.to_owned(), ..CaseEntry::default() };
        let before = self.0.borrow_mut().cases.insert(case.to_owned(), entry);
        assert!(before.is_none(), "case {case} was opened twice");
    }

    pub fn document_added(&self, case: &str, reference: &str, number: u32) {
        if let Some(entry) = self.0.borrow_mut().cases.get_mut(case) {
            entry.documents.insert(reference.to_owned(), number);
        }
    }

    pub fn step_taken(&self, case: &str, number: u32, step: &str) {
        if let Some(entry) = self.0.borrow_mut().cases.get_mut(case) {
            entry.steps.insert(number, step.to_owned());
        }
    }

    pub fn ticket(&self, office: &str, day: &str, number: &str, entry: TicketEntry) {
        let key = (office.to_owned(), day.to_owned(), number.to_owned());
        let mut state = self.0.borrow_mut();
        let known = state.tickets.entry(key).or_insert(entry);
        *known = (*known).max(entry);
    }

    pub fn writes(&self) -> usize {
        self.0.borrow().writes.len()
    }

    pub fn index_highest(&self) -> u64 {
        self.0.borrow().index_highest
    }

    pub fn cases(&self) -> BTreeMap<String, CaseEntry> {
        self.0.borrow().cases.clone()
    }

    pub fn tickets(&self) -> BTreeMap<TicketKey, TicketEntry> {
        self.0.borrow().tickets.clone()
    }

    pub fn offices_with_tickets(&self) -> BTreeSet<String> {
        self.0.borrow().tickets.keys().map(|(office, _, _)| office.clone()).collect()
    }

    /// How long after `moment` the first write was acknowledged that was begun after it. Writes already on their way
    /// at that moment do not count: their answers may have been on the wire.
    pub fn first_write_after(&self, moment: Instant) -> Option<Duration> {
        let state = self.0.borrow();
        let answered =
            state.writes.iter().filter(|(begun, _)| *begun > moment).map(|(_, answered)| *answered);
        answered.min().map(|answered| answered - moment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_under_way_at_the_moment_of_the_kill_does_not_end_the_gap() {
        let ledger = Ledger::default();
        let before = Instant::now();
        std::thread::sleep(Duration::from_millis(2));
        let kill = Instant::now();
        ledger.acknowledged(before, 7);
        assert_eq!(ledger.first_write_after(kill), None);
        let begun = Instant::now();
        ledger.acknowledged(begun, 8);
        let gap = ledger.first_write_after(kill).unwrap();
        assert!(gap >= begun - kill);
        assert_eq!(ledger.index_highest(), 8);
    }

    #[test]
    fn a_ticket_never_goes_back() {
        let ledger = Ledger::default();
        ledger.ticket("a", "2026-11-21", "А001", TicketEntry::Begun);
        ledger.ticket("a", "2026-11-21", "А001", TicketEntry::Taken);
        assert_eq!(ledger.tickets().into_values().collect::<Vec<_>>(), [TicketEntry::Begun]);
    }
}
