//! What follows from the messages and letters of a channel, so that a call among a hundred thousand looks at few:
//! lanes, heads, what is due when.
//!
//! A *lane* is a run of messages of which only the first may be out: the key's in a channel ordered by key, the whole
//! backlog in a strict one. A message without a lane is the head of its own. Dead letters stand in no lane.
//!
//! Invariants:
//! - `ready` and `delayed` hold exactly the heads in these states;
//! - `expiring` holds exactly the messages that may expire now ([`Outgoing::may_expire`]);
//! - `ages` holds exactly the messages that are not dead;
//! - `letters_due` holds exactly the letters that will be forgotten, at the moment they are.

use super::{
    settings::{Order, Settings},
    types::{Inbox, LetterState, MessageState, Outgoing},
};
use crate::time::{DAY_MS, year_over_ms};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

pub(super) type Messages = BTreeMap<u64, Arc<Outgoing>>;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Index {
    pub order: Order,
    /// How long ids of letters are remembered.
    remember_ms: i64,
    pub by_id: BTreeMap<String, u64>,
    pub lanes: BTreeMap<String, BTreeSet<u64>>,
    pub ready: BTreeSet<u64>,
    pub delayed: BTreeSet<(i64, u64)>,
    pub out: BTreeSet<u64>,
    pub asking: BTreeSet<u64>,
    /// By the time of burial.
    pub dead: BTreeSet<(i64, u64)>,
    /// Those that are not dead, by when they came: a redriven one is older than its place says.
    pub ages: BTreeSet<(i64, u64)>,
    pub expiring: BTreeSet<(i64, u64)>,
    pub outside: BTreeMap<String, u64>,
    pub parked: BTreeSet<u64>,
    pub letters_due: BTreeSet<(i64, u64)>,
}

impl Index {
    /// The index of these messages and letters under these settings.
    pub fn of(settings: Option<&Settings>, messages: &Messages, letters: &BTreeMap<u64, Arc<Inbox>>) -> Self {
        let mut index = Self {
            order: settings.map_or(Order::Free, |settings| settings.order),
            remember_ms: settings.map_or(0, |settings| i64::from(settings.inbound.remember_days) * DAY_MS),
            ..Self::default()
        };
        for message in messages.values() {
            index.insert(messages, message);
        }
        for letter in letters.values() {
            index.insert_letter(letter);
        }
        index
    }

    /// The lane a message stands in.
    pub fn lane<'a>(&self, message: &'a Outgoing) -> Option<&'a str> {
        match (self.order, &message.state) {
            (_, MessageState::Dead { .. }) | (Order::Free, _) => None,
            (Order::Strict, _) => Some(""),
            (Order::Key, _) => Some(message.key.as_str()).filter(|key| !key.is_empty()),
        }
    }

    /// Takes in a message that stands in `messages`.
    pub fn insert(&mut self, messages: &Messages, message: &Outgoing) {
        let sequence = message.sequence;
        self.by_id.insert(message.id.clone(), sequence);
        match message.state {
            MessageState::Out { .. } => {
                self.out.insert(sequence);
            }
            MessageState::Asking => {
                self.asking.insert(sequence);
            }
            MessageState::Dead { at_ms } => {
                self.dead.insert((at_ms, sequence));
            }
            MessageState::Ready | MessageState::Delayed { .. } => {}
        }
        if !matches!(message.state, MessageState::Dead { .. }) {
            self.ages.insert((message.accepted_ms, sequence));
        }
        if let Some(at) = message.may_expire() {
            self.expiring.insert((at, sequence));
        }
        match self.lane(message) {
            None => self.list(message),
            Some(lane) => {
                let lane = self.lanes.entry(lane.to_owned()).or_default();
                let before = lane.first().copied();
                lane.insert(sequence);
                if before.is_none_or(|head| sequence < head) {
                    if let Some(old) = before.and_then(|head| messages.get(&head)) {
                        self.unlist(old);
                    }
                    self.list(message);
                }
            }
        }
    }

    /// Forgets a message as it was; `messages` holds the others.
    pub fn remove(&mut self, messages: &Messages, message: &Outgoing) {
        let sequence = message.sequence;
        self.by_id.remove(&message.id);
        self.out.remove(&sequence);
        self.asking.remove(&sequence);
        self.ages.remove(&(message.accepted_ms, sequence));
        if let MessageState::Dead { at_ms } = message.state {
            self.dead.remove(&(at_ms, sequence));
        }
        if let Some(at) = message.may_expire() {
            self.expiring.remove(&(at, sequence));
        }
        self.unlist(message);
        let Some(name) = self.lane(message) else { return };
        let Some(lane) = self.lanes.get_mut(name) else { return };
        let was_head = lane.first() == Some(&sequence);
        lane.remove(&sequence);
        let next = lane.first().copied();
        if next.is_none() {
            self.lanes.remove(name);
        }
        if let Some(head) = next.filter(|_| was_head).and_then(|next| messages.get(&next)) {
            self.list(head);
        }
    }

    fn list(&mut self, message: &Outgoing) {
        match message.state {
            MessageState::Ready => {
                self.ready.insert(message.sequence);
            }
            MessageState::Delayed { until_ms } => {
                self.delayed.insert((until_ms, message.sequence));
            }
            MessageState::Out { .. } | MessageState::Asking | MessageState::Dead { .. } => {}
        }
    }

    fn unlist(&mut self, message: &Outgoing) {
        self.ready.remove(&message.sequence);
        if let MessageState::Delayed { until_ms } = message.state {
            self.delayed.remove(&(until_ms, message.sequence));
        }
    }

    pub fn insert_letter(&mut self, letter: &Inbox) {
        self.outside.insert(letter.outside_id.clone(), letter.number);
        if matches!(letter.state, LetterState::Parked { .. }) {
            self.parked.insert(letter.number);
        }
        if let Some(due) = self.letter_due(letter) {
            self.letters_due.insert((due, letter.number));
        }
    }

    pub fn remove_letter(&mut self, letter: &Inbox) {
        self.outside.remove(&letter.outside_id);
        self.parked.remove(&letter.number);
        if let Some(due) = self.letter_due(letter) {
            self.letters_due.remove(&(due, letter.number));
        }
    }

    /// When a letter is forgotten. A dropped one belongs to no case whose result could be handed over, and is kept a
    /// calendar year from when it was dropped (R-I2).
    pub fn letter_due(&self, letter: &Inbox) -> Option<i64> {
        let remembered = letter.received_ms.saturating_add(self.remember_ms);
        match &letter.state {
            LetterState::Routing { .. } | LetterState::Parked { .. } => None,
            LetterState::Taken { .. } => Some(remembered),
            LetterState::Dropped { at_ms, .. } => Some(remembered.max(year_over_ms(*at_ms, 0))),
        }
    }

    /// When the next message expires or letter is forgotten.
    pub fn next_due(&self) -> Option<i64> {
        let message = self.expiring.first().map(|(at, _)| *at);
        let letter = self.letters_due.first().map(|(at, _)| *at);
        [message, letter].into_iter().flatten().min()
    }
}
