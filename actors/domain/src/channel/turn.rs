//! One decision of a channel at work: what it has changed so far lies over the state, so that of several verdicts in one
//! call each sees those before it, and what is handed out sees them all. Nothing of the state is copied.

use super::{
    Account, Channel, Ended, Event, Inbox, MessageState, Move, Outgoing, RECEIVED_MAX, Reply, Settings,
    SubRequest, Take, Token, policy, types::TAKE_MAX,
};
use crate::{
    entity::{Context, Decision, EntityRef, Kind, Origin, Refusal, Send, TimerChange},
    exchange::{BodyRef, ChannelAnswer, Content, LINE_MAX, OTHERS_MAX, Outcome},
    message::Message,
    refusal::{CALL_FULL, CHANNEL_UNKNOWN, refuse},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// The one timer of a channel.
pub(super) const ALARM: &str = "alarm";
/// What a commit may hold of what one decision makes; the rest of its 256 KiB is for the frame, root and rows.
const ROOM_BYTES: usize = 224 * 1024;
/// What a message, an end or a result takes beside its texts.
pub(super) const FRAME_BYTES: usize = 400;
/// What a reference to a body takes.
const REF_BYTES: usize = 160;
/// What an end may take: the answer names bodies, and its one-line reason stands in the event and in the message.
const END_BYTES: usize = 2 * FRAME_BYTES + (OTHERS_MAX + RECEIVED_MAX) * REF_BYTES + 2 * 4 * LINE_MAX;

pub(super) struct Turn<'a> {
    pub channel: &'a Channel,
    pub settings: &'a Settings,
    pub context: &'a Context<'a>,
    pub now_ms: i64,
    pub events: Vec<Event>,
    pub sends: Vec<Send>,
    pub account: Account,
    /// Messages as they are now; `None`: gone.
    changed: BTreeMap<u64, Option<Arc<Outgoing>>>,
    /// Messages out.
    out: usize,
    last_sequence: u64,
    last_token: u64,
    last_body: u64,
    last_letter: u64,
    /// The first moment at which something that was changed expires or is forgotten.
    soonest: Option<i64>,
    chances: u32,
    room: usize,
}

/// What a hand-out came to.
#[derive(Default)]
pub(super) struct Handed {
    pub messages: Vec<Arc<Outgoing>>,
    pub again_ms: Option<i64>,
}

impl<'a> Turn<'a> {
    /// Refused while the channel was never configured.
    pub fn begin(channel: &'a Channel, context: &'a Context<'a>) -> Result<Self, Refusal> {
        let settings = channel.settings.as_deref();
        let settings = settings.ok_or_else(|| refuse(CHANNEL_UNKNOWN).with("channel", channel.id.clone()))?;
        let root = &channel.root;
        Ok(Self {
            channel,
            settings,
            context,
            now_ms: context.now_ms,
            events: Vec::new(),
            sends: Vec::new(),
            account: root.account,
            changed: BTreeMap::new(),
            out: channel.index.out.len(),
            last_sequence: root.last_sequence,
            last_token: root.last_token,
            last_body: root.last_body,
            last_letter: root.last_letter,
            soonest: None,
            chances: 0,
            room: ROOM_BYTES,
        })
    }

    /// The message as it is now.
    pub fn get(&self, sequence: u64) -> Option<&Arc<Outgoing>> {
        match self.changed.get(&sequence) {
            Some(changed) => changed.as_ref(),
            None => self.channel.messages.get(&sequence),
        }
    }

    pub fn by_id(&self, id: &str) -> Option<Arc<Outgoing>> {
        let sequence = self.channel.index.by_id.get(id)?;
        self.get(*sequence).cloned()
    }

    pub fn next_sequence(&mut self) -> u64 {
        self.last_sequence += 1;
        self.last_sequence
    }

    pub fn next_letter(&mut self) -> u64 {
        self.last_letter += 1;
        self.last_letter
    }

    /// Gives a body its number; the runtime writes it (`Entity::kept`).
    pub fn keep(&mut self, content: &Content) -> BodyRef {
        self.last_body += 1;
        self.spend(content.0.len());
        BodyRef::of(&self.channel.this(), self.last_body, content)
    }

    /// What a message has received once this came with a failed attempt: kept like an answer (R-I2), the same bytes once.
    /// When the places are taken the newest has the last one; of what stood there hash and length stay in the journal.
    pub fn receive(&mut self, message: &Outgoing, content: &Content) -> Vec<BodyRef> {
        let mut received = message.received.clone();
        if received.iter().any(|have| have.prove(&content.0).is_ok()) {
            return received;
        }
        if received.len() >= RECEIVED_MAX
            && let Some(last) = received.pop()
        {
            self.events.push(Event::BodiesForgotten { numbers: vec![last.number] });
        }
        received.push(self.keep(content));
        received
    }

    /// A random number, the same on a retry.
    pub fn chance(&mut self) -> u64 {
        self.chances += 1;
        self.context.chance(self.chances)
    }

    /// Is there room for so many bytes more in the commit?
    pub fn expect_room(&self, bytes: usize) -> Result<(), Refusal> {
        if bytes <= self.room { Ok(()) } else { Err(refuse(CALL_FULL)) }
    }

    /// Is there room to move the message, or to end it, with one line that tells why?
    pub fn has_room_for(&self, message: &Outgoing) -> bool {
        self.expect_room(weight(message) + END_BYTES).is_ok()
    }

    /// So much of the commit is taken.
    pub fn spend(&mut self, bytes: usize) {
        self.room = self.room.saturating_sub(bytes);
    }

    pub fn put(&mut self, message: Outgoing, why: Move) -> Arc<Outgoing> {
        let message = Arc::new(message);
        self.spend(weight(&message));
        self.lay(&message);
        self.events.push(Event::Moved { message: Arc::clone(&message), why });
        message
    }

    /// A dead letter gets a new place. False: there is no room for it in this commit.
    pub fn redrive(&mut self, message: Outgoing) -> bool {
        // It stands in the event and in the part: only what moves shares its bytes.
        let bytes = 2 * weight(&message);
        if self.expect_room(bytes).is_err() {
            return false;
        }
        self.spend(bytes);
        let from = message.sequence;
        let sequence = self.next_sequence();
        let message = Arc::new(Outgoing { sequence, ..message });
        self.changed.insert(from, None);
        self.lay(&message);
        self.events.push(Event::Redriven { from, message });
        true
    }

    fn lay(&mut self, message: &Arc<Outgoing>) {
        self.leave(message.sequence);
        if matches!(message.state, MessageState::Out { .. }) {
            self.out += 1;
        }
        self.due(message.may_expire());
        self.changed.insert(message.sequence, Some(Arc::clone(message)));
    }

    fn leave(&mut self, sequence: u64) {
        if self.get(sequence).is_some_and(|old| matches!(old.state, MessageState::Out { .. })) {
            self.out = self.out.saturating_sub(1);
        }
    }

    fn due(&mut self, at_ms: Option<i64>) {
        self.soonest = [self.soonest, at_ms].into_iter().flatten().min();
    }

    /// The message leaves, and whoever asked is answered.
    pub fn end(
        &mut self,
        message: &Outgoing,
        outcome: Outcome,
        summary: &str,
        body: Option<BodyRef>,
        connector: &str,
    ) {
        self.spend(2 * FRAME_BYTES + summary.len() + 2 * outcome.reason().len());
        self.leave(message.sequence);
        self.changed.insert(message.sequence, None);
        let others = message.received.iter().chain(message.subs.iter().flat_map(bodies_of));
        let others: Vec<_> = others.take(OTHERS_MAX).cloned().collect();
        self.spend((others.len() + message.received.len()) * REF_BYTES);
        self.sends.push(Send {
            target: message.source.clone(),
            message: Message::ChannelAnswer(Box::new(ChannelAnswer {
                id: message.id.clone(),
                outcome: outcome.clone(),
                summary: summary.to_owned(),
                body: body.clone(),
                others,
                connector: connector.to_owned(),
            })),
        });
        self.events.push(Event::Ended(Box::new(Ended {
            sequence: message.sequence,
            id: message.id.clone(),
            outcome,
            body,
            attempts: message.attempts,
            received: message.received.clone(),
        })));
    }

    /// Nobody needs it any more, or its time is over: then it ends instead of going back.
    pub fn ends_instead(&mut self, message: &Outgoing) -> bool {
        let outcome = if message.withdrawn {
            Outcome::Withdrawn
        } else if message.expires_ms.is_some_and(|at| at <= self.now_ms) {
            Outcome::Expired
        } else {
            return false;
        };
        self.end(message, outcome, "", None, "");
        true
    }

    /// An attempt came to nothing: again later, or to the dead letters. `outside`: it says something about the other side,
    /// so that the breaker counts it; of what was given up on nothing is known.
    pub fn fail(&mut self, message: &Outgoing, reason: &str, not_before_ms: i64, outside: bool) {
        if outside && !message.withdrawn {
            self.account.failed(self.settings.breaker.as_ref(), self.now_ms);
        }
        let attempts = message.attempts.saturating_add(1);
        let failed = Outgoing { attempts, unheard: 0, failure: cut(reason), ..message.clone() };
        if self.ends_instead(&failed) {
            return;
        }
        if attempts >= self.settings.retry.attempts {
            let state = MessageState::Dead { at_ms: self.now_ms };
            self.put(Outgoing { state, ..failed }, Move::Buried);
            return;
        }
        let chance = self.chance();
        let pause = policy::back_off(&self.settings.retry, attempts, chance);
        let until_ms = self.now_ms.saturating_add(pause).max(not_before_ms);
        self.put(Outgoing { state: MessageState::Delayed { until_ms }, ..failed }, Move::Failed);
    }

    pub fn put_letter(&mut self, letter: Inbox) -> Arc<Inbox> {
        // In the event, in the part, and in the message to the case.
        let texts = letter.subject.len() + letter.outside_id.len() + letter.about.len() + letter.kind.len();
        self.spend(3 * (FRAME_BYTES + REF_BYTES + texts));
        self.due(self.channel.index.letter_due(&letter));
        let letter = Arc::new(letter);
        self.events.push(Event::LetterMoved { letter: Arc::clone(&letter) });
        letter
    }

    /// Hands out what is next, as far as order, pace, breaker and slots let it. A connector's process is its workstation.
    pub fn hand_out(&mut self, take: Take, to: &Origin) -> Handed {
        let mut handed = Handed::default();
        if take.messages == 0 || self.channel.root.mode == super::Mode::Paused {
            return handed;
        }
        let mut again = Vec::new();
        let permits = self.account.permits(self.settings, self.now_ms).unwrap_or_else(|until_ms| {
            again.push(until_ms);
            0
        });
        let free = self.settings.slots().min(permits).saturating_sub(self.out);
        let limit = usize::from(take.messages.min(TAKE_MAX)).min(free);
        let mut bytes = 0_u64;
        for sequence in if limit > 0 { self.candidates(limit) } else { BTreeSet::new() } {
            let Some(message) = self.get(sequence).cloned() else { continue };
            if handed.messages.len() >= limit {
                break;
            }
            if !self.has_room_for(&message) {
                again.push(self.now_ms);
                break;
            }
            // The alarm that ends what is late may be on its way.
            if self.ends_instead(&message) {
                again.push(self.now_ms);
                continue;
            }
            bytes += u64::from(message.body.bytes);
            // Once in the event and once in the reply.
            if (!handed.messages.is_empty() && bytes > u64::from(take.bytes))
                || 2 * weight(&message) > self.room
            {
                break;
            }
            match policy::pace(self.settings.rate.as_ref(), self.account.paced_us, self.now_ms) {
                Ok(paced_us) => self.account.paced_us = paced_us,
                Err(at_ms) => {
                    again.push(at_ms);
                    break;
                }
            }
            self.account.probe();
            self.last_token += 1;
            let fence = self.context.fence;
            let token = Token { generation: fence.generation, term: fence.term, sequence: self.last_token };
            let state = MessageState::Out {
                token,
                connector: to.principal.id.clone(),
                instance: to.workstation.clone(),
                since_ms: self.now_ms,
            };
            let deliveries = message.deliveries.saturating_add(1);
            let message = self.put(
                Outgoing { state, deliveries, progress: 0, ..message.as_ref().clone() },
                Move::HandedOut,
            );
            self.spend(weight(&message));
            handed.messages.push(message);
        }
        again.extend(self.first_delayed());
        handed.again_ms = again.into_iter().min();
        handed
    }

    /// The next messages that may leave, in the order of their sequence.
    fn candidates(&self, limit: usize) -> BTreeSet<u64> {
        let index = &self.channel.index;
        let untouched = |sequence: &u64| !self.changed.contains_key(sequence);
        let mut found: BTreeSet<u64> =
            index.ready.iter().filter(|at| untouched(at)).take(limit).copied().collect();
        let due = index.delayed.range(..=(self.now_ms, u64::MAX)).map(|(_, sequence)| sequence);
        found.extend(due.filter(|at| untouched(at)).take(limit));
        // Where this decision moved something the index is out of date: what is first there now?
        for (sequence, message) in &self.changed {
            let lane = self.channel.messages.get(sequence).and_then(|old| index.lane(old));
            let head = match lane.and_then(|lane| index.lanes.get(lane)) {
                Some(lane) => lane.iter().find(|at| self.get(**at).is_some_and(|m| stands(m))).copied(),
                None => message.as_ref().map(|message| message.sequence),
            };
            let head = head.filter(|head| {
                self.get(*head).is_some_and(|message| match message.state {
                    MessageState::Ready => true,
                    MessageState::Delayed { until_ms } => until_ms <= self.now_ms,
                    MessageState::Out { .. } | MessageState::Asking | MessageState::Dead { .. } => false,
                })
            });
            found.extend(head);
        }
        found
    }

    /// When the next message that waits for its next attempt may leave.
    fn first_delayed(&self) -> Option<i64> {
        let after = (self.now_ms.saturating_add(1), 0);
        let base = self.channel.index.delayed.range(after..).next().map(|(at, _)| *at);
        let changed = self.changed.values().flatten().filter_map(|message| match message.state {
            MessageState::Delayed { until_ms } if until_ms > self.now_ms => Some(until_ms),
            _ => None,
        });
        base.into_iter().chain(changed).min()
    }

    /// The decision. The alarm is pulled forward if something is due before it.
    pub fn finish(mut self, reply: Reply) -> Decision<Channel> {
        let late = |at: i64| self.account.alarm_ms.is_none_or(|alarm| at < alarm);
        let alarm = self.soonest.filter(|at| late(*at));
        if alarm.is_some() {
            self.account.alarm_ms = alarm;
        }
        self.finish_with(alarm, reply)
    }

    /// The decision, with the alarm set to this moment, or left as it is.
    pub fn finish_with(mut self, alarm: Option<i64>, reply: Reply) -> Decision<Channel> {
        if self.account != self.channel.root.account {
            self.events.push(Event::Accounted(self.account));
        }
        let timers = alarm.map(|due_ms| TimerChange::Set { name: ALARM.to_owned(), due_ms });
        Decision { events: self.events, reply, sends: self.sends, timers: timers.into_iter().collect() }
    }

    /// Tells a case.
    pub fn tell(&mut self, case: &str, message: Message) {
        self.sends.push(Send { target: EntityRef { kind: Kind::Case, id: case.to_owned() }, message });
    }
}

/// Does it still stand in its lane?
fn stands(message: &Outgoing) -> bool {
    !matches!(message.state, MessageState::Dead { .. })
}

/// The bodies of a request within a request, its answer's, and what that names.
fn bodies_of(sub: &SubRequest) -> impl Iterator<Item = &BodyRef> {
    let answer = sub.answer.as_ref();
    let others = answer.map_or(&[][..], |answer| answer.others.as_slice());
    std::iter::once(&sub.body).chain(answer.and_then(|answer| answer.body.as_ref())).chain(others)
}

/// What a message takes in a commit, from above.
pub(super) fn weight(message: &Outgoing) -> usize {
    let subs = message.subs.iter().map(|sub| {
        let answer = sub.answer.as_ref();
        let answer = answer.map_or(0, |answer| {
            REF_BYTES + answer.summary.len() + answer.outcome.reason().len() + answer.others.len() * REF_BYTES
        });
        FRAME_BYTES + sub.kind.len() + answer
    });
    FRAME_BYTES
        + (1 + message.received.len()) * REF_BYTES
        + 2 * message.id.len()
        + message.key.len()
        + message.kind.len()
        + message.subject.len()
        + message.failure.len()
        + subs.sum::<usize>()
}

/// A text as it is kept with a message: one line.
pub(super) fn cut(text: &str) -> String {
    text.chars().take(LINE_MAX).collect()
}
