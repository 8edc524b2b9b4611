//! An integration channel (R-I1, R-I4, R-I18): the backlog of messages for one outside system, the connectors that work
//! on it, and the letters that come from there. One entity per integration: `channel/<code>`.
//!
//! - [`types`]: commands, events, state · [`settings`]: policies · [`files`]: the module's file · `index`: what follows
//! - `turn`: one decision at work · `work`: connectors · `requests`: cases and other channels · `letters`: from outside ·
//!   `steer`: operators and the alarm · `policy`: pace, back-off, breaker
//!
//! Invariants:
//! - every request taken is answered exactly once, and is in the backlog until then (`messages`);
//! - a verdict counts only with the token of the message's newest delivery, from the connector that got it;
//! - of a lane only the first message is out (`index`), and never more than the settings allow;
//! - tokens, sequences and numbers of bodies and letters only grow;
//! - bodies are neither in the state nor in events: they lie in rows, by number (`crate::entity::Kept`);
//! - the alarm, the only timer, is set no later than the first message to expire and the first letter to forget.

pub mod files;
mod index;
mod letters;
mod policy;
mod requests;
pub mod settings;
mod steer;
mod turn;
pub mod types;
mod work;

pub(crate) use requests::by_holder;
pub use settings::{BreakerSettings, Inbound, Order, Rate, Retry, Settings};
pub use types::{
    Account, Breaker, CALL_BYTES_MAX, Command, Counts, Ended, Event, Exchanged, ITEMS_MAX, Inbox, Lapse,
    Lapsed, Lapses, LetterState, MessageState, Mode, Move, NewLetter, Outgoing, PROGRESS_MAX, Part,
    RECEIVED_MAX, REDRIVE_MAX, Received, Reply, Root, Said, Settled, SubAnswer, SubAsk, SubRequest, TAKE_MAX,
    Take, Token, UNHEARD_MAX, Verdict, Which,
};

use crate::{
    access,
    entity::{
        CHANNELS_LEVEL, Context, Decision, Entity, EntityRef, EventMeta, Input, Kept, Kind, PartName,
        Refusal, Row,
    },
    exchange::{BodyRef, Content},
    message::Message,
    rows,
};
use index::{Index, Messages};
use std::{collections::BTreeMap, sync::Arc};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Channel {
    id: String,
    root: Root,
    /// `None`: never configured, which is not to exist.
    settings: Option<Arc<Settings>>,
    /// By sequence.
    messages: Messages,
    /// By number.
    letters: BTreeMap<u64, Arc<Inbox>>,
    /// Follows from the others.
    index: Index,
}

impl Channel {
    /// Everything but the parts.
    pub fn head(&self) -> &Root {
        &self.root
    }

    pub fn settings(&self) -> Option<&Settings> {
        self.settings.as_deref()
    }

    /// The backlog in its order, dead letters included.
    pub fn messages(&self) -> impl Iterator<Item = &Outgoing> {
        self.messages.values().map(Arc::as_ref)
    }

    /// A message of the backlog by our message id.
    pub fn message(&self, id: &str) -> Option<&Outgoing> {
        self.index.by_id.get(id).and_then(|sequence| self.messages.get(sequence)).map(Arc::as_ref)
    }

    /// Letters that wait for a person, are on their way, or are remembered.
    pub fn letters(&self) -> impl Iterator<Item = &Inbox> {
        self.letters.values().map(Arc::as_ref)
    }

    /// Dead letters, the oldest first.
    pub fn dead(&self) -> impl Iterator<Item = &Outgoing> {
        self.index.dead.iter().filter_map(|(_, sequence)| self.messages.get(sequence)).map(Arc::as_ref)
    }

    fn this(&self) -> EntityRef {
        EntityRef { kind: Kind::Channel, id: self.id.clone() }
    }

    fn count(&self) -> Counts {
        let count = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        Counts {
            live: count(self.messages.len() - self.index.dead.len()),
            out: count(self.index.out.len()),
            asking: count(self.index.asking.len()),
            dead: count(self.index.dead.len()),
            letters: count(self.letters.len()),
            parked: count(self.index.parked.len()),
            oldest_ms: self.index.ages.first().map(|(at, _)| *at),
        }
    }

    fn put(&mut self, message: &Arc<Outgoing>) {
        self.take_out(message.sequence);
        self.root.last_sequence = self.root.last_sequence.max(message.sequence);
        if let MessageState::Out { token, .. } = &message.state {
            self.root.last_token = self.root.last_token.max(token.sequence);
        }
        for body in message.subs.iter().map(|sub| &sub.body).chain(&message.received) {
            self.count_body(body);
        }
        self.messages.insert(message.sequence, Arc::clone(message));
        self.index.insert(&self.messages, message);
    }

    fn take_out(&mut self, sequence: u64) {
        if let Some(old) = self.messages.remove(&sequence) {
            self.index.remove(&self.messages, &old);
        }
    }

    fn put_letter(&mut self, letter: &Arc<Inbox>) {
        if let Some(old) = self.letters.get(&letter.number) {
            self.index.remove_letter(old);
        }
        self.root.last_letter = self.root.last_letter.max(letter.number);
        self.count_body(&letter.body);
        self.index.insert_letter(letter);
        self.letters.insert(letter.number, Arc::clone(letter));
    }

    /// A body kept here has taken its number.
    fn count_body(&mut self, body: &BodyRef) {
        if body.holder.kind == Kind::Channel && body.holder.id == self.id {
            self.root.last_body = self.root.last_body.max(body.number);
        }
    }

    fn reindex(&mut self) {
        self.index = Index::of(self.settings.as_deref(), &self.messages, &self.letters);
    }
}

/// The part that keeps a message. Twenty digits hold every number, and order like it.
pub fn message_part(sequence: u64) -> PartName {
    format!("message:{sequence:020}")
}

/// The part that keeps a letter.
pub fn letter_part(number: u64) -> PartName {
    format!("letter:{number:020}")
}

const SETTINGS_PART: &str = "settings";

impl Entity for Channel {
    const KIND: Kind = Kind::Channel;
    type Command = Command;
    type Event = Event;
    type Reply = Reply;
    type Root = Root;
    type Part = Part;

    fn empty(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            root: Root::default(),
            settings: None,
            messages: BTreeMap::new(),
            letters: BTreeMap::new(),
            index: Index::default(),
        }
    }

    fn exists(&self) -> bool {
        self.settings.is_some()
    }

    fn decide(&self, command: &Command, context: &Context<'_>) -> Result<Decision<Self>, Refusal> {
        match command {
            Command::Configure { settings } => self.configure(settings, context),
            Command::Exchange { verdicts, take } => self.exchange(verdicts, *take, context),
            Command::Lapse { lapsed, term } => self.lapse(lapsed, *term, context),
            Command::Receive { letters } => self.receive_letters(letters, context),
            Command::Steer { mode, reason } => self.steer(*mode, reason, context),
            Command::Redrive { which } => self.redrive(which, context),
            Command::Discard { which, reason } => self.discard(which, reason, context),
            Command::AssignLetter { letter, case } => self.assign_letter(*letter, case, context),
            Command::DropLetter { letter, reason } => self.drop_letter(*letter, reason, context),
        }
    }

    fn receive(
        &self,
        source: &EntityRef,
        message: &Message,
        context: &Context<'_>,
    ) -> Result<Decision<Self>, Refusal> {
        self.take_message(source, message, context)
    }

    fn fire(&self, timer: &str, context: &Context<'_>) -> Result<Decision<Self>, Refusal> {
        self.alarm(timer, context)
    }

    fn evolve(&mut self, event: &Event, meta: &EventMeta) {
        match event {
            Event::Moved { message, why } => {
                self.put(message);
                match why {
                    Move::HandedOut => self.root.handed_total += 1,
                    Move::Failed | Move::Buried => self.root.failed_total += 1,
                    Move::Accepted
                    | Move::Unheard
                    | Move::Progressed
                    | Move::Asked
                    | Move::SubAnswered
                    | Move::Withdrawn => {}
                }
            }
            Event::Configured { settings, version } => {
                self.settings = Some(Arc::clone(settings));
                self.root.version = *version;
                self.reindex();
            }
            Event::Ended(ended) => {
                self.take_out(ended.sequence);
                for body in ended.body.iter().chain(&ended.received) {
                    self.count_body(body);
                }
                self.root.ended_total += 1;
            }
            Event::Redriven { from, message } => {
                self.take_out(*from);
                self.put(message);
            }
            Event::LetterMoved { letter } => self.put_letter(letter),
            Event::LettersForgotten { numbers, .. } => {
                for number in numbers {
                    if let Some(old) = self.letters.remove(number) {
                        self.index.remove_letter(&old);
                    }
                }
            }
            Event::BodiesForgotten { .. } => {}
            Event::Steered { mode, reason } => {
                self.root.mode = *mode;
                self.root.mode_reason.clone_from(reason);
                self.root.mode_since_ms = meta.time_ms;
            }
            Event::Accounted(account) => self.root.account = *account,
        }
        self.root.changed_ms = meta.time_ms;
        self.root.counts = self.count();
    }

    fn touched(event: &Event) -> Vec<PartName> {
        match event {
            Event::Moved { message, .. } => vec![message_part(message.sequence)],
            Event::Configured { .. } => vec![SETTINGS_PART.to_owned()],
            Event::Ended(ended) => vec![message_part(ended.sequence)],
            Event::Redriven { from, message } => vec![message_part(*from), message_part(message.sequence)],
            Event::LetterMoved { letter } => vec![letter_part(letter.number)],
            Event::LettersForgotten { numbers, .. } => numbers.iter().copied().map(letter_part).collect(),
            Event::BodiesForgotten { .. } | Event::Steered { .. } | Event::Accounted(_) => Vec::new(),
        }
    }

    fn root(&self) -> Root {
        self.root.clone()
    }

    fn part(&self, name: &str) -> Option<Part> {
        if name == SETTINGS_PART {
            return self.settings.clone().map(Part::Settings);
        }
        let (kind, number) = name.split_once(':')?;
        let number: u64 = number.parse().ok()?;
        match kind {
            "message" => self.messages.get(&number).cloned().map(Part::Message),
            "letter" => self.letters.get(&number).cloned().map(Part::Letter),
            _ => None,
        }
    }

    fn load(id: &str, root: Root, parts: Vec<(PartName, Part)>) -> Self {
        let mut channel = Self { root, ..Self::empty(id) };
        for (_, part) in parts {
            match part {
                Part::Message(message) => {
                    channel.messages.insert(message.sequence, message);
                }
                Part::Letter(letter) => {
                    channel.letters.insert(letter.number, letter);
                }
                Part::Settings(settings) => channel.settings = Some(settings),
            }
        }
        channel.reindex();
        channel
    }

    fn rows(&self, part: Option<&str>) -> Vec<Row> {
        let Some((kind, number)) = part.and_then(|part| part.split_once(':')) else { return Vec::new() };
        let Ok(number) = number.parse::<u64>() else { return Vec::new() };
        let row = match kind {
            "message" => match self.messages.get(&number).map(|message| &message.state) {
                Some(MessageState::Dead { at_ms }) => Some(rows::channel_dead(*at_ms, number)),
                _ => None,
            },
            "letter" => match self.letters.get(&number).map(|letter| &letter.state) {
                Some(LetterState::Parked { since_ms, .. }) => Some(rows::channel_parked(*since_ms, number)),
                _ => None,
            },
            _ => None,
        };
        row.into_iter().collect()
    }

    /// The bodies a call brought, under the numbers that its events give them; they know each other by their SHA-256.
    fn kept<'a>(&self, input: &Input<'a, Self>, events: &[Event]) -> Vec<Kept<'a>> {
        let brought: Vec<&'a Content> = match input {
            Input::Command(Command::Exchange { verdicts, .. }) => {
                verdicts.iter().flat_map(|verdict| verdict.said.bodies()).collect()
            }
            Input::Command(Command::Receive { letters }) => {
                letters.iter().map(|letter| &letter.body).collect()
            }
            Input::Command(_) | Input::Message(_) | Input::Timer => Vec::new(),
        };
        let digests: Vec<[u8; 32]> = brought.iter().map(|content| content.sha256()).collect();
        let mut kept: BTreeMap<u64, Kept<'a>> = BTreeMap::new();
        let mut put = |body: &BodyRef| {
            let own = body.holder.kind == Kind::Channel && body.holder.id == self.id;
            if own
                && body.number > self.root.last_body
                && let Some(at) = digests.iter().position(|digest| *digest == body.sha256)
            {
                kept.insert(body.number, Kept { number: body.number, body: Some(&brought[at].0) });
            }
        };
        for event in events {
            match event {
                Event::Ended(ended) => ended.body.iter().chain(&ended.received).for_each(&mut put),
                Event::Moved { message, why: Move::Failed | Move::Buried } => {
                    message.received.iter().for_each(&mut put);
                }
                Event::Moved { message, why: Move::Asked } => {
                    message.subs.iter().map(|sub| &sub.body).for_each(&mut put);
                }
                Event::LetterMoved { letter } => put(&letter.body),
                Event::Moved { .. }
                | Event::Configured { .. }
                | Event::Redriven { .. }
                | Event::LettersForgotten { .. }
                | Event::BodiesForgotten { .. }
                | Event::Steered { .. }
                | Event::Accounted(_) => {}
            }
        }
        for event in events {
            if let Event::LettersForgotten { bodies: gone, .. } | Event::BodiesForgotten { numbers: gone } =
                event
            {
                kept.extend(gone.iter().map(|number| (*number, Kept { number: *number, body: None })));
            }
        }
        kept.into_values().collect()
    }

    fn level(_event: &Event) -> u32 {
        CHANNELS_LEVEL
    }

    fn no_reply() -> Reply {
        Reply::None
    }

    fn authorise(&self, command: &Command, context: &Context<'_>) -> Result<(), Refusal> {
        match command {
            Command::Configure { .. }
            | Command::Steer { .. }
            | Command::Redrive { .. }
            | Command::Discard { .. } => {
                if access::administers(context) {
                    Ok(())
                } else {
                    Err(access::denied(context))
                }
            }
            Command::AssignLetter { .. } | Command::DropLetter { .. } => access::staff(context),
            Command::Exchange { .. } | Command::Receive { .. } => self.own_connector(context),
            Command::Lapse { .. } => {
                if context.origin.principal.kind == "node" {
                    Ok(())
                } else {
                    Err(access::denied(context))
                }
            }
        }
    }
}
