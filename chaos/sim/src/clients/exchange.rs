//! Those who ask channels, and the connectors that work on them. Officers open cases and ask; connectors take deliveries,
//! acknowledge them, complete, fail, reject and report, ask other channels first, bring letters from outside; and they lie (old tokens, messages of
//! others, verdicts said twice, letters that come again), answer late, die and come back with nothing.
//!
//! What comes of it is judged from what is committed (`crate::services`), and from what they are told.
//!
//! Invariants:
//! - a connector that is dead says nothing; what it held it has forgotten, but the old tokens it lies with;
//! - once the run winds down nobody asks or lies any more, and connectors work until nothing is left.

use super::{
    caller::{Asked, Caller, Ending},
    fixtures, places,
    random::Random,
};
use crate::port::{Action, Event, NodeId, SAID, Up, Word};
use okno_domain::{
    case,
    channel::{
        Command, Exchanged, MessageState, Mode, NewLetter, Reply, Said, Settled, SubAsk, Take, Token,
        Verdict, Which,
    },
    entity::{EntityRef, Kind, Principal},
    exchange::Content,
    ids,
    registry::{AnyCommand, AnyReply},
};
use okno_runtime::channels::Delivered;
use std::collections::VecDeque;

/// Cases of one run: bounds what is read in the end.
const CASES_MAX: usize = 8;
/// Requests one case may come to: it is replaced before.
const OLD_MAX: usize = 24;
const REPEATS_MAX: usize = 6;
/// Outside ids of letters, of which some come again.
const LETTERS_MAX: u64 = 12;
/// How long a connector that died stays away.
const AWAY_US: (u64, u64) = (600_000, 4_000_000);
/// Pause between two calls of a connector that has nothing to do, and while the run winds down.
const QUIET_US: (u64, u64) = (150_000, 450_000);
/// A connector says so often on its stream that it is there.
const HEARTBEAT_US: u64 = 300_000;
/// Deliveries a connector takes at once.
const TAKE_MAX: u64 = 4;
/// How long a request within a request is of use. Those that wait for one that waits for them end by it alone.
const WITHIN_MS: (u64, u64) = (200, 3_000);
/// One more than may be asked for on account of one request.
const TOO_MANY: u64 = 9;
/// Of a hundred verdicts, one that fails.
const FAILS: u64 = 70;
/// Nobody knows this channel.
const NO_CHANNEL: &str = "nowhere";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Asker(usize),
    Connector(usize),
    /// Looks after the channels: stops and starts them, tries dead letters again, gives them up in the end.
    Keeper,
}

/// A delivery a connector works on.
#[derive(Debug, Clone)]
struct Delivery {
    id: String,
    token: Token,
    due_us: u64,
    depth: u8,
    /// Other channels were asked already.
    asked: bool,
}

struct Actor {
    role: Role,
    caller: Caller,
    rest_until: u64,
    away_until: u64,
    held: Vec<Delivery>,
    /// The node a connector is attached to, and when it says so next.
    stream: Option<(NodeId, u64)>,
    repeats: VecDeque<Asked>,
}

#[derive(Debug, Clone)]
struct KnownCase {
    id: String,
    accepted: bool,
    over: bool,
}

/// See the module.
pub struct Exchange {
    actors: Vec<Actor>,
    cases: Vec<KnownCase>,
    /// Deliveries that were given to anybody: what liars name.
    old: VecDeque<(String, Token)>,
    think_us: (u64, u64),
    /// Chance in percent of a lie, of dying.
    lies: u64,
    deaths: u64,
    /// Chance in percent that other channels are asked first.
    asks: u64,
    /// Chance in percent that the other side is not there at all.
    down: u64,
    bodies: u64,
    winding_down: bool,
}

impl Exchange {
    pub fn new(seed: u64, nodes: &[u64], stream: u64) -> Self {
        let mut random = Random::new(seed, stream);
        let askers = (0..places::ASKERS.len()).map(Role::Asker);
        let connectors = (0..places::CONNECTORS.len()).map(Role::Connector);
        let roles = askers.chain(connectors).chain([Role::Keeper]);
        let actors = roles
            .zip(1..)
            .map(|(role, own)| Actor {
                role,
                caller: Caller::new(seed, stream + own, nodes),
                rest_until: 0,
                away_until: 0,
                held: Vec::new(),
                stream: None,
                repeats: VecDeque::new(),
            })
            .collect();
        let hurry = random.within(2, 10);
        Self {
            actors,
            cases: Vec::new(),
            old: VecDeque::new(),
            think_us: (1_000 * hurry, 12_000 * hurry),
            lies: random.within(2, 14),
            deaths: random.within(0, 6),
            asks: random.within(4, 24),
            down: if random.percent(30) { random.within(30, 70) } else { 0 },
            bodies: 0,
            winding_down: false,
        }
    }

    pub fn count(&self) -> usize {
        self.actors.len()
    }

    /// Ids of the cases that anybody opened, or may have.
    pub fn cases(&self) -> impl Iterator<Item = &str> {
        self.cases.iter().map(|case| case.id.as_str())
    }

    pub fn wind_down(&mut self) {
        self.winding_down = true;
    }

    /// Nothing is under way.
    pub fn idle(&self) -> bool {
        self.winding_down && self.actors.iter().all(|actor| actor.caller.is_free())
    }

    pub fn on(&mut self, at: usize, event: Event, now: u64, wall_ms: i64, out: &mut Vec<Action>) {
        if now < self.actors[at].away_until {
            return;
        }
        if matches!(event, Event::Broken { attempt: SAID, .. }) {
            // Its stream ended: it attaches where it finds somebody.
            self.actors[at].stream = None;
        }
        self.attend(at, now, out);
        if let Some((asked, ending)) = self.actors[at].caller.on(event, now, out) {
            self.ended(at, asked, &ending, now, out);
        }
        let actor = &self.actors[at];
        if actor.caller.is_free() && now >= actor.rest_until {
            self.act(at, now, wall_ms, out);
        }
    }

    /// A connector looks after its stream: it goes where its calls go; now and then it breaks for no reason.
    fn attend(&mut self, at: usize, now: u64, out: &mut Vec<Action>) {
        let Actor { role, caller, stream, .. } = &mut self.actors[at];
        if !matches!(role, Role::Connector(_)) {
            return;
        }
        let node = caller.node(now);
        match *stream {
            Some((_, next)) if now < next => return,
            Some((own, _)) if own != node || caller.random.percent(8) => {
                self.say(at, own, Up::End { goodbye: false }, out);
            }
            _ => {}
        }
        self.say(at, node, Up::Heartbeat, out);
        let next = now + HEARTBEAT_US;
        self.actors[at].stream = Some((node, next));
        out.push(Action::Wake { at_us: next });
    }

    fn say(&self, at: usize, node: NodeId, up: Up, out: &mut Vec<Action>) {
        let Role::Connector(own) = self.actors[at].role else { return };
        let (connector, channel) = places::CONNECTORS[own];
        out.push(Action::Tell { node, word: Word::Stream { channel, connector, up } });
    }

    fn rest(&mut self, at: usize, now: u64, (from, to): (u64, u64), out: &mut Vec<Action>) {
        let actor = &mut self.actors[at];
        actor.rest_until = now + 1 + actor.caller.random.within(from, to);
        out.push(Action::Wake { at_us: actor.rest_until });
    }

    fn ended(&mut self, at: usize, asked: Asked, ending: &Ending, now: u64, out: &mut Vec<Action>) {
        let mut pause = if self.winding_down { QUIET_US } else { self.think_us };
        match ending {
            Ending::Done { reply: AnyReply::Channel(Reply::Exchanged(exchanged)), .. } => {
                let nothing = exchanged.handed.is_empty() && self.actors[at].held.is_empty();
                self.took(at, &asked, exchanged, now, out);
                if nothing {
                    pause = QUIET_US;
                }
            }
            Ending::Done { reply: AnyReply::Case(reply), .. } => self.learn(&asked.target.id, reply),
            // A verdict that does not count: the delivery is lost.
            Ending::Refused(_) => {
                if let AnyCommand::Channel(Command::Exchange { verdicts, .. }) = &asked.command {
                    for verdict in verdicts {
                        self.actors[at].held.retain(|own| own.token != verdict.token);
                    }
                }
                if let AnyCommand::Case(case::Command::Open { .. }) = &asked.command {
                    self.cases.retain(|case| case.id != asked.target.id || case.accepted);
                }
            }
            Ending::Done { .. } | Ending::NotApplied | Ending::Unknown => {}
        }
        let actor = &mut self.actors[at];
        if actor.repeats.len() >= REPEATS_MAX {
            actor.repeats.pop_front();
        }
        if !matches!(ending, Ending::NotApplied) {
            actor.repeats.push_back(asked);
        }
        self.rest(at, now, pause, out);
    }

    /// A connector's call came back: what it settled is gone, what it was handed it holds.
    fn took(&mut self, at: usize, asked: &Asked, exchanged: &Exchanged, now: u64, out: &mut Vec<Action>) {
        let AnyCommand::Channel(Command::Exchange { verdicts, .. }) = &asked.command else { return };
        let Self { actors, old, .. } = self;
        let Actor { caller, held, stream, .. } = &mut actors[at];
        for (verdict, Settled { reason, .. }) in verdicts.iter().zip(&exchanged.results) {
            let goes_on = matches!(verdict.said, Said::Progress { .. }) && reason.is_empty();
            if !goes_on {
                held.retain(|delivery| delivery.token != verdict.token);
            }
        }
        let mut arrived = Vec::new();
        for message in &exchanged.handed {
            let MessageState::Out { token, .. } = message.state else { continue };
            if old.len() >= OLD_MAX {
                old.pop_front();
            }
            old.push_back((message.id.clone(), token));
            if held.iter().any(|delivery| delivery.token == token) {
                continue;
            }
            // Most at once, some late, a few so late that they are somebody else's by then.
            let due_us = now
                + match caller.random.below(12) {
                    0 => caller.random.within(900_000, 3_000_000),
                    1..=3 => caller.random.within(50_000, 600_000),
                    _ => caller.random.within(0, 20_000),
                };
            held.push(Delivery {
                id: message.id.clone(),
                token,
                due_us,
                depth: message.depth,
                asked: !message.subs.is_empty(),
            });
            arrived.push(Delivered { id: message.id.clone(), token });
        }
        // Now and then what arrived is never acknowledged, as if it had not.
        if !arrived.is_empty() && !caller.random.percent(20) {
            let node = stream.map_or_else(|| caller.node(now), |(node, _)| node);
            self.say(at, node, Up::Acknowledgement(arrived), out);
        }
    }

    fn learn(&mut self, id: &str, reply: &case::Reply) {
        let Some(case) = self.cases.iter_mut().find(|case| case.id == id) else { return };
        match reply {
            case::Reply::Advanced(advanced) => match advanced.state {
                case::State::Withdrawn => case.over = true,
                _ => case.accepted = true,
            },
            case::Reply::Asked { .. } => case.accepted = true,
            _ => {}
        }
    }

    fn act(&mut self, at: usize, now: u64, wall_ms: i64, out: &mut Vec<Action>) {
        let role = self.actors[at].role;
        let again = !self.winding_down && self.actors[at].caller.random.percent(5);
        if again && let Some(asked) = self.actors[at].repeats.pop_front() {
            return self.actors[at].caller.call(asked, now, out);
        }
        match role {
            Role::Asker(own) => {
                if !self.winding_down {
                    self.ask(at, own, now, wall_ms, out);
                }
            }
            Role::Connector(own) => self.work(at, own, now, wall_ms, out),
            Role::Keeper => self.look_after(at, now, wall_ms, out),
        }
    }

    fn content(&mut self, what: &str) -> Content {
        self.bodies += 1;
        Content(format!("{what} {}", self.bodies).into_bytes())
    }

    /// Opens a case, has it accepted, asks; sometimes gives up or withdraws.
    fn ask(&mut self, at: usize, own: usize, now: u64, wall_ms: i64, out: &mut Vec<Action>) {
        let principal = Principal { kind: "operator".into(), id: places::ASKERS[own].into() };
        let request = self.actors[at].caller.request(wall_ms);
        let live: Vec<KnownCase> = self.cases.iter().filter(|case| !case.over).cloned().collect();
        let random = &mut self.actors[at].caller.random;
        let new = self.cases.len() < CASES_MAX && (live.is_empty() || random.percent(6));
        let Some(case) = random.one_of(&live).cloned().filter(|_| !new) else {
            if self.cases.len() >= CASES_MAX {
                return self.rest(at, now, QUIET_US, out);
            }
            let id = ids::case_id(&principal, request);
            self.cases.push(KnownCase { id: id.clone(), accepted: false, over: false });
            let command = case::Command::Open {
                office: places::HALLS[0].into(),
                service: places::ASKING_SERVICE.into(),
                applicants: vec![fixtures::applicant()],
                ticket: None,
                note: String::new(),
            };
            let target = EntityRef { kind: Kind::Case, id };
            let asked = Asked::new(principal, target, AnyCommand::Case(command), request);
            return self.actors[at].caller.call(asked, now, out);
        };
        let (draw, key) = (random.below(100), random.below(3));
        let (code, count) = places::ASKS[random.index(places::ASKS.len())];
        let asking = u32::try_from(random.within(1, 6)).unwrap_or(1);
        let command = match draw {
            _ if !case.accepted => case::Command::Advance { step: case::Step::Accept },
            0 => case::Command::Advance { step: case::Step::Withdraw { reason: String::new() } },
            1..=6 => case::Command::GiveUpAsk { asking },
            _ => {
                let body = |n: usize, this: &mut Self| case::AskBody {
                    subject: format!("справка {n}"),
                    key: if key == 0 { String::new() } else { format!("key-{key}") },
                    body: this.content("question"),
                };
                let bodies = (0..count).map(|n| body(n, self)).collect();
                case::Command::Ask { code: code.into(), bodies }
            }
        };
        let target = EntityRef { kind: Kind::Case, id: case.id };
        let asked = Asked::new(principal, target, AnyCommand::Case(command), request);
        self.actors[at].caller.call(asked, now, out);
    }

    fn work(&mut self, at: usize, own: usize, now: u64, wall_ms: i64, out: &mut Vec<Action>) {
        let (connector, channel) = places::CONNECTORS[own];
        let honest = self.winding_down;
        let random = &mut self.actors[at].caller.random;
        if !honest && random.percent(self.deaths) {
            return self.die(at, now, out);
        }
        let command = match random.below(100) {
            0..=6 if !honest => self.letters(at),
            draw => {
                let mut verdicts = self.verdicts(at, now);
                let lie = self.actors[at].caller.random.percent(self.lies);
                if !honest && lie {
                    verdicts.extend(self.lie(at));
                }
                let random = &mut self.actors[at].caller.random;
                let messages = if draw < 90 { random.within(1, TAKE_MAX) } else { 0 };
                let messages = u16::try_from(messages).unwrap_or(1);
                Command::Exchange { verdicts, take: Take { messages, bytes: 64 * 1024 } }
            }
        };
        let principal = Principal { kind: "connector".into(), id: connector.into() };
        let request = self.actors[at].caller.request(wall_ms);
        let asked = Asked::new(principal, places::channel(channel), AnyCommand::Channel(command), request);
        self.actors[at].caller.call(asked, now, out);
    }

    fn die(&mut self, at: usize, now: u64, out: &mut Vec<Action>) {
        // Killed, its connections are closed for it; switched off, nobody hears of it; ended, it says goodbye.
        if let Some((node, _)) = self.actors[at].stream.take() {
            let how = self.actors[at].caller.random.below(3);
            if how < 2 {
                self.say(at, node, Up::End { goodbye: how == 0 }, out);
            }
        }
        let actor = &mut self.actors[at];
        actor.caller.die();
        actor.held.clear();
        actor.away_until = now + actor.caller.random.within(AWAY_US.0, AWAY_US.1);
        actor.rest_until = actor.away_until;
        out.push(Action::Wake { at_us: actor.away_until });
    }

    /// What it says of what it holds and has worked on long enough.
    fn verdicts(&mut self, at: usize, now: u64) -> Vec<Verdict> {
        let honest = self.winding_down;
        let due: Vec<Delivery> =
            self.actors[at].held.iter().filter(|own| own.due_us <= now || honest).cloned().collect();
        due.into_iter()
            .map(|delivery| {
                if !honest && let Some(said) = self.others_first(at, &delivery) {
                    return Verdict { id: delivery.id, token: delivery.token, said };
                }
                let Delivery { id, token, .. } = delivery;
                let random = &mut self.actors[at].caller.random;
                let draw = match random.below(100) {
                    _ if honest => 0,
                    _ if random.percent(self.down) => FAILS,
                    draw => draw,
                };
                let said = match draw {
                    0..=59 => Said::Complete { summary: "да".into(), body: Some(self.content("answer")) },
                    60..=64 => Said::Complete { summary: String::new(), body: None },
                    65..=82 => Said::Fail {
                        reason: "занято".into(),
                        retry_after_ms: (draw % 3 == 0).then_some(draw * 3),
                        body: (draw % 2 == 0).then(|| self.content("busy")),
                    },
                    83..=88 => Said::Reject { reason: "нет".into(), body: Some(self.content("no")) },
                    _ => Said::Progress { text: "идёт".into() },
                };
                Verdict { id, token, said }
            })
            .collect()
    }

    /// Other channels are asked first: now and then far too many, the own one, or one that is not there.
    fn others_first(&mut self, at: usize, delivery: &Delivery) -> Option<Said> {
        let Role::Connector(own) = self.actors[at].role else { return None };
        let (_, channel) = places::CONNECTORS[own];
        let random = &mut self.actors[at].caller.random;
        // What lies deep goes deeper, so that runs see the bound; what comes back is asked about again now and then.
        let chance = match (delivery.asked, delivery.depth) {
            (true, _) => self.asks / 4,
            (false, depth) => self.asks << depth,
        };
        if !random.percent(chance) {
            return None;
        }
        let count = if random.percent(4) { TOO_MANY } else { random.within(1, 3) };
        let requests = (0..count).map(|_| self.within(at, channel)).collect();
        Some(Said::Ask { requests })
    }

    fn within(&mut self, at: usize, own: &str) -> SubAsk {
        let body = self.content("question within");
        let random = &mut self.actors[at].caller.random;
        let other = places::CHANNELS[usize::from(own == places::CHANNELS[0])];
        let channel = match random.below(40) {
            0 => own,
            1 => NO_CHANNEL,
            _ => other,
        };
        let key = match random.below(3) {
            0 => String::new(),
            key => format!("key-{key}"),
        };
        let span = u32::try_from(random.within(WITHIN_MS.0, WITHIN_MS.1)).unwrap_or(1);
        // Without a key nothing is waited for but a connector: such a one may wait a day.
        let expires_ms = (!key.is_empty() || random.percent(70)).then_some(span);
        SubAsk {
            channel: channel.into(),
            kind: "extract".into(),
            key,
            subject: "справка".into(),
            body,
            expires_ms,
        }
    }

    /// A verdict that does not count: on what it never held or holds no longer.
    fn lie(&mut self, at: usize) -> Option<Verdict> {
        let body = self.content("a lie");
        let random = &mut self.actors[at].caller.random;
        let (id, mut token) = random.one_of(self.old.make_contiguous()).cloned()?;
        match random.below(4) {
            0 => token.sequence += random.within(1, 50),
            1 => token.term = token.term.saturating_sub(1),
            _ => {}
        }
        let said = match random.below(3) {
            0 => Said::Fail { reason: "ложь".into(), retry_after_ms: None, body: None },
            _ => Said::Complete { summary: "ложь".into(), body: Some(body) },
        };
        Some(Verdict { id, token, said })
    }

    /// Letters from outside: some come again, a few with other bytes.
    fn letters(&mut self, at: usize) -> Command {
        let case = self.actors[at].caller.random.one_of(&self.cases).map(|case| case.id.clone());
        let random = &mut self.actors[at].caller.random;
        let count = random.within(1, 2);
        let letters = (0..count)
            .map(|_| {
                let number = random.below(LETTERS_MAX);
                let other = if random.percent(8) { " другое" } else { "" };
                // The same letter is always about the same; who knows of no case yet says nothing of one.
                let about =
                    if number.is_multiple_of(3) { String::new() } else { case.clone().unwrap_or_default() };
                NewLetter {
                    outside_id: format!("вх-{number}"),
                    about,
                    kind: "notice".into(),
                    subject: "письмо".into(),
                    body: Content(format!("letter {number}{other}").into_bytes()),
                }
            })
            .collect();
        Command::Receive { letters }
    }

    fn look_after(&mut self, at: usize, now: u64, wall_ms: i64, out: &mut Vec<Action>) {
        let caller = &mut self.actors[at].caller;
        let channel = places::CHANNELS[caller.random.index(places::CHANNELS.len())];
        let which = Which::Oldest(u16::try_from(caller.random.within(1, 8)).unwrap_or(1));
        let command = match (self.winding_down, caller.random.below(10)) {
            (true, 0..=4) => Command::Steer { mode: Mode::Open, reason: String::new() },
            (true, _) => Command::Discard { which, reason: "закрыто".into() },
            (false, 0) => Command::Steer { mode: Mode::Paused, reason: "работы".into() },
            (false, 1) => Command::Steer { mode: Mode::Draining, reason: "работы".into() },
            (false, 2..=5) => Command::Steer { mode: Mode::Open, reason: String::new() },
            (false, 6) => Command::Discard { which, reason: "не нужно".into() },
            (false, _) => Command::Redrive { which },
        };
        let request = caller.request(wall_ms);
        let target = places::channel(channel);
        let asked = Asked::new(fixtures::administrator(), target, AnyCommand::Channel(command), request);
        caller.call(asked, now, out);
    }
}
