//! Channels under random connectors that lie, die, repeat and answer late. The world checks the laws of entities at every
//! commit; here is what must hold for messages whatever happened:
//!
//! - a message that a channel took is in its backlog or was answered, once, and never both;
//! - a verdict counts exactly when it has the token of the newest delivery and comes from who got it;
//! - of a lane only the first is handed out, never more than the slots, the pace and the breaker allow;
//! - attempts and back-off stay within the settings; a leader that changes loses nothing;
//! - in the end, with connectors that are honest, everything is answered, and every body proves its hash.

use crate::{
    laws::person,
    world::{World, origin},
};
use okno_domain::{
    case::{self, AskBody, ExchangeState, Step},
    catalogue::{Ask, AskOrder, AskRequest, Process, Text, Wait},
    channel::{
        Breaker, BreakerSettings, Channel, Command, Exchanged, Lapse, Lapsed, MessageState, Mode, NewLetter,
        Order, Outgoing, Rate, Reply, Retry, Said, Settings, SubAsk, Take, Token, Verdict, Which,
    },
    entity::{EntityRef, Kind},
    exchange::Content,
};
use proptest::prelude::*;
use std::{collections::BTreeMap, sync::Arc};

const CHANNELS: [&str; 2] = ["egrn", "zags"];
const CONNECTORS: [&str; 2] = ["one", "two"];
const KEYS: [&str; 3] = ["", "k", "m"];
/// Cases a history opens at most.
const CASES_MAX: usize = 5;

/// A delivery as a connector remembers it, for ever.
#[derive(Debug, Clone)]
struct Delivered {
    channel: &'static str,
    id: String,
    token: Token,
    connector: &'static str,
}

struct Run {
    world: World,
    cases: Vec<String>,
    delivered: Vec<Delivered>,
    /// The newest delivery of each message that is still open.
    open: BTreeMap<(&'static str, String), (Token, &'static str)>,
    settings: BTreeMap<&'static str, Settings>,
    /// Since the settings' pace holds: when, and how many left.
    paced: BTreeMap<&'static str, (i64, u64)>,
    last_token: BTreeMap<&'static str, u64>,
}

fn ask(code: &str, wait: Wait, order: AskOrder, blocking: bool) -> Ask {
    let request = |channel: &str| AskRequest { channel: channel.into(), kind: "facts".into() };
    Ask {
        code: code.into(),
        title: Text { ru: "Сведения".into(), en: "Facts".into() },
        requests: vec![request("egrn"), request("egrn"), request("zags")],
        wait,
        order,
        blocking,
        mandatory: false,
        expires_ms: Some(3_600_000),
    }
}

/// An ask of each kind.
pub fn process() -> Process {
    let asks = vec![
        ask("all", Wait::All, AskOrder::Parallel, true),
        ask("any", Wait::Any, AskOrder::Parallel, true),
        ask("turn", Wait::All, AskOrder::Sequential, true),
        ask("turn-any", Wait::Any, AskOrder::Sequential, false),
    ];
    Process { module: "egrn".into(), service: "paper".into(), asks, claimed: Vec::new() }
}

pub fn settings(seed: u32) -> Settings {
    Settings {
        title: Text { ru: "Канал".into(), en: "Channel".into() },
        connectors: CONNECTORS.iter().map(|id| (*id).to_owned()).collect(),
        order: [Order::Free, Order::Key, Order::Strict][(seed % 3) as usize],
        parallel: 1 + (seed / 3 % 4) as u16,
        depth: [3, 100][(seed / 12 % 2) as usize],
        expires_ms: [None, Some(20_000)][(seed / 24 % 2) as usize],
        rate: [None, Some(Rate { messages: 2, per_ms: 1_000, burst: 2 })][(seed / 48 % 2) as usize],
        retry: Retry { attempts: 2 + seed / 96 % 2, base_ms: 500, max_ms: 2_000 },
        breaker: [None, Some(BreakerSettings { failures: 3, open_ms: 1_000, open_max_ms: 4_000, probes: 1 })]
            [(seed / 192 % 2) as usize],
        ..Settings::default()
    }
}

impl Run {
    fn new(seeds: [u32; 2]) -> Self {
        let mut world = World::with_office();
        world.origin = origin("admin", "root", "");
        world.processes(&[Arc::new(process())]).expect("a good process");
        let mut run = Self {
            world,
            cases: Vec::new(),
            delivered: Vec::new(),
            open: BTreeMap::new(),
            settings: BTreeMap::new(),
            paced: BTreeMap::new(),
            last_token: BTreeMap::new(),
        };
        for (channel, seed) in CHANNELS.into_iter().zip(seeds) {
            run.configure(channel, settings(seed));
        }
        run
    }

    fn configure(&mut self, channel: &'static str, settings: Settings) {
        self.world.origin = origin("admin", "root", "");
        let command = Command::Configure { settings: Box::new(settings.clone()) };
        match self.world.channel(channel, &command) {
            Ok(_) => {
                self.settings.insert(channel, settings);
                self.paced.insert(channel, (self.world.now_ms, 0));
            }
            Err(refusal) => assert_eq!(refusal.reason, "CHANNEL_BUSY"),
        }
    }

    fn ask(&mut self, x: usize, y: usize) {
        self.world.origin = origin("operator", "anna", "ws-1");
        if self.cases.len() < CASES_MAX && x.is_multiple_of(2) {
            let open = case::Command::Open {
                office: "tikhaya".into(),
                service: "paper".into(),
                applicants: vec![person()],
                ticket: None,
                note: String::new(),
            };
            let (id, opened) = self.world.open(&open);
            opened.expect("a good case");
            self.world.case(&id, &case::Command::Advance { step: Step::Accept }).expect("accepted");
            self.cases.push(id);
        }
        let Some(id) = self.cases.get(x % self.cases.len().max(1)).cloned() else { return };
        let bodies = (0..3).map(|n| AskBody {
            subject: "о чём-то".into(),
            key: KEYS[(x + y + n) % 3].into(),
            body: Content(format!("{id} {x} {y} {n}").into_bytes()),
        });
        let code = ["all", "any", "turn", "turn-any"][y % 4].to_owned();
        let _ = self.world.case(&id, &case::Command::Ask { code, bodies: bodies.collect() });
    }

    fn take(&mut self, channel: &'static str, connector: &'static str, messages: u16) -> usize {
        let take = Take { messages, bytes: 1_000 };
        self.exchange(channel, connector, Vec::new(), take).map_or(0, |exchanged| exchanged.handed.len())
    }

    /// One call, with everything that must hold for what it hands out.
    fn exchange(
        &mut self,
        channel: &'static str,
        connector: &'static str,
        verdicts: Vec<Verdict>,
        take: Take,
    ) -> Option<Exchanged> {
        self.world.origin = origin("connector", connector, "");
        let before = self.world.channels[channel].state.clone();
        let said: Vec<_> = verdicts.iter().map(|v| (v.id.clone(), v.token, v.said.name())).collect();
        let reply = self.world.channel(channel, &Command::Exchange { verdicts, take });
        let exchanged = match reply {
            Ok(Reply::Exchanged(exchanged)) => *exchanged,
            Ok(other) => panic!("{other:?}"),
            Err(refusal) => {
                let expected = [
                    "DELIVERY_LOST",
                    "LEASE_FOREIGN",
                    "MESSAGE_UNKNOWN",
                    "PROGRESS_LIMIT",
                    "SUBREQUEST_IMPOSSIBLE",
                ];
                assert!(expected.contains(&refusal.reason.as_str()), "{refusal:?}");
                for (id, token, _) in &said {
                    let holds = self.open.get(&(channel, id.clone())) == Some(&(*token, connector));
                    let own = ["PROGRESS_LIMIT", "SUBREQUEST_IMPOSSIBLE"].contains(&refusal.reason.as_str());
                    assert_eq!(holds, own, "{id} {token}: {}", refusal.reason);
                }
                return None;
            }
        };
        for ((id, token, said), result) in said.iter().zip(&exchanged.results) {
            let key = (channel, id.clone());
            let holds = self.open.get(&key) == Some(&(*token, connector));
            let limits = ["PROGRESS_LIMIT", "SUBREQUEST_IMPOSSIBLE"].contains(&result.reason.as_str());
            assert_eq!(holds, result.reason.is_empty() || limits, "{id} {token} {said}: {}", result.reason);
            if result.reason.is_empty() && *said != "progress" {
                self.open.remove(&key);
            }
        }
        self.check_handed(channel, connector, &before, &exchanged);
        Some(exchanged)
    }

    fn check_handed(
        &mut self,
        channel: &'static str,
        connector: &'static str,
        before: &Channel,
        exchanged: &Exchanged,
    ) {
        let settings = &self.settings[channel];
        let after = &self.world.channels[channel].state;
        let handed = exchanged.handed.len();
        if handed > 0 {
            assert_ne!(before.head().mode, Mode::Paused);
            let out = after.head().counts.out as usize;
            assert!(out <= settings.slots(), "{out} are out");
            if let (Some(breaker), Breaker::Open { until_ms, .. }) =
                (&settings.breaker, before.head().account.breaker)
            {
                // A verdict of the same call may have closed a half-open one; an open one waits its time.
                assert!(self.world.now_ms >= until_ms && out <= usize::from(breaker.probes));
            }
        }
        let (since_ms, left) = self.paced.get_mut(channel).expect("configured");
        *left += handed as u64;
        if let Some(rate) = &settings.rate {
            let passed = u64::try_from(self.world.now_ms - *since_ms).expect("time goes on");
            let most = u64::from(rate.burst) + passed * u64::from(rate.messages) / u64::from(rate.per_ms);
            assert!(*left <= most, "{left} left in {passed} ms");
        }
        for message in &exchanged.handed {
            let MessageState::Out { token, connector: holder, .. } = &message.state else {
                panic!("{message:?}")
            };
            assert_eq!(holder, connector);
            assert_eq!((token.generation, token.term), (1, self.world.term));
            let last = self.last_token.entry(channel).or_default();
            assert!(token.sequence > *last, "a token is given twice");
            *last = token.sequence;
            let first = after
                .messages()
                .filter(|other| same_lane(settings.order, message, other))
                .min_by_key(|m| m.sequence);
            assert!(
                first.is_none_or(|first| first.sequence >= message.sequence),
                "out of its order: {message:?}"
            );
            assert!(message.attempts < settings.retry.attempts.max(3));
            assert!(self.world.body(&message.body).is_some(), "a body that is handed out is there");
            self.open.insert((channel, message.id.clone()), (*token, connector));
            let id = message.id.clone();
            self.delivered.push(Delivered { channel, id, token: *token, connector });
        }
    }

    /// A verdict on some delivery, old ones too; sometimes by another connector, or about another message.
    fn settle(&mut self, x: usize, y: usize) {
        if self.delivered.is_empty() {
            return;
        }
        // Mostly the newest.
        let back =
            if y.is_multiple_of(3) { x % self.delivered.len() } else { x % self.delivered.len().min(4) };
        let Delivered { channel, mut id, token, connector } =
            self.delivered[self.delivered.len() - 1 - back].clone();
        let other = CHANNELS[usize::from(channel == CHANNELS[0])];
        let said = match y % 8 {
            0 | 1 => Said::Complete {
                summary: "да".into(),
                body: Some(Content(format!("{id} {x}").into_bytes())),
            },
            2 | 3 => Said::Fail {
                reason: "нет связи".into(),
                retry_after_ms: x.is_multiple_of(2).then_some(1_500),
                body: (y % 8 == 3).then(|| Content(format!("занято {id} {}", x % 5).into_bytes())),
            },
            4 => Said::Reject { reason: "нет".into(), body: None },
            5 => Said::Progress { text: "идёт".into() },
            6 => Said::Ask {
                requests: vec![SubAsk {
                    channel: if x.is_multiple_of(4) { "nowhere" } else { other }.into(),
                    kind: "sub".into(),
                    key: KEYS[x % 3].into(),
                    subject: "вложенный".into(),
                    body: Content(format!("sub {id} {x}").into_bytes()),
                    expires_ms: Some(5_000),
                }],
            },
            _ => Said::Complete { summary: "да".into(), body: None },
        };
        if x.is_multiple_of(11) {
            id = self.delivered[x % self.delivered.len()].id.clone();
        }
        let connector = if x.is_multiple_of(7) { CONNECTORS[y % 2] } else { connector };
        let verdict = Verdict { id, token, said };
        // The same twice in one call, now and then.
        let verdicts = if y.is_multiple_of(5) { vec![verdict.clone(), verdict] } else { vec![verdict] };
        if verdicts.len() == 2 {
            return self.settle_twice(channel, connector, verdicts);
        }
        let messages = u16::try_from(x % 3).expect("small");
        self.exchange(channel, connector, verdicts, Take { messages, bytes: u32::MAX });
    }

    /// Of two verdicts on one delivery at most the first ends it.
    fn settle_twice(&mut self, channel: &'static str, connector: &'static str, verdicts: Vec<Verdict>) {
        let (key, ends) = ((channel, verdicts[0].id.clone()), verdicts[0].said.name() != "progress");
        let holds = self.open.get(&key) == Some(&(verdicts[0].token, connector));
        self.world.origin = origin("connector", connector, "");
        let reply = self.world.channel(channel, &Command::Exchange { verdicts, take: Take::default() });
        let Ok(Reply::Exchanged(exchanged)) = reply else { panic!("{reply:?}") };
        let counts: Vec<bool> = exchanged.results.iter().map(|result| result.reason.is_empty()).collect();
        assert!(holds || counts == [false, false]);
        if ends {
            assert!(!counts[1], "a message was answered twice");
            if counts[0] {
                self.open.remove(&key);
            }
        }
    }

    fn lapse(&mut self, x: usize, y: usize) {
        if self.delivered.is_empty() {
            return;
        }
        let Delivered { channel, id, token, connector } = self.delivered[x % self.delivered.len()].clone();
        self.world.origin = origin("node", "1", "");
        let why = [Lapse::Unheard, Lapse::Overdue, Lapse::Gone][y % 3];
        let command =
            Command::Lapse { lapsed: vec![Lapsed { id: id.clone(), token, why }], term: self.world.term };
        let reply = self.world.channel(channel, &command).expect("the clock is heard");
        let holds = self.open.get(&(channel, id.clone())) == Some(&(token, connector));
        assert_eq!(reply, Reply::Lapsed { count: u32::from(holds) });
        if holds {
            self.open.remove(&(channel, id));
        }
    }

    fn steer(&mut self, channel: &'static str, x: usize) {
        self.world.origin = origin("admin", "root", "");
        let command = match x % 6 {
            0 => Command::Steer { mode: Mode::Paused, reason: "пауза".into() },
            1 => Command::Steer { mode: Mode::Draining, reason: "конец".into() },
            2 | 3 => Command::Steer { mode: Mode::Open, reason: String::new() },
            4 => Command::Redrive { which: Which::Oldest(2) },
            _ => Command::Discard { which: Which::Oldest(1), reason: "довольно".into() },
        };
        self.world.channel(channel, &command).expect("an administrator may");
    }

    fn letter(&mut self, channel: &'static str, x: usize, y: usize) {
        self.world.origin = origin("connector", "one", "");
        let about = self.cases.get(y % (CASES_MAX + 1)).cloned().unwrap_or_default();
        let letter = NewLetter {
            outside_id: format!("out-{}", x % 6),
            about,
            kind: "notice".into(),
            subject: String::new(),
            body: Content(format!("письмо {}", x % 6).into_bytes()),
        };
        let known =
            self.world.channels[channel].state.letters().any(|known| known.outside_id == letter.outside_id);
        let reply = self.world.channel(channel, &Command::Receive { letters: vec![letter] });
        let Ok(Reply::Received { results }) = reply else { panic!("{reply:?}") };
        assert_eq!(results[0].duplicate, known);
        for letter in self.world.channels[channel].state.letters() {
            assert!(self.world.body(&letter.body).is_some(), "a letter that is known is there");
        }
    }

    /// What holds after every step.
    fn check(&self) {
        for channel in CHANNELS {
            let this = EntityRef { kind: Kind::Channel, id: channel.into() };
            let state = &self.world.channels[channel].state;
            let settings = &self.settings[channel];
            let mut lanes: BTreeMap<&str, u32> = BTreeMap::new();
            for message in state.messages() {
                assert_eq!(self.world.answered.get(&message.id), None, "answered, and still in the backlog");
                let newest = self.open.get(&(channel, message.id.clone()));
                let out = matches!(message.state, MessageState::Out { .. });
                assert_eq!(newest.is_some(), out, "{message:?}");
                if out && settings.order != Order::Free {
                    let lane = if settings.order == Order::Strict { "" } else { message.key.as_str() };
                    if settings.order == Order::Strict || !lane.is_empty() {
                        *lanes.entry(lane).or_default() += 1;
                    }
                }
                if let MessageState::Delayed { until_ms } = message.state {
                    let longest = i64::from(settings.retry.max_ms.max(1_500));
                    assert!(until_ms <= self.world.now_ms + longest, "{message:?}");
                }
                assert!(message.attempts <= 3, "{message:?}");
            }
            assert!(lanes.values().all(|out| *out <= 1), "two of a lane are out: {lanes:?}");
            let alarm =
                self.world.timers().into_iter().find(|(_, entity, _)| *entity == this).map(|(due, _, _)| due);
            assert_eq!(alarm, state.head().account.alarm_ms, "the alarm is what the root says");
            let first = state.messages().filter_map(Outgoing::may_expire).min();
            assert!(first.is_none_or(|first| {
                alarm.is_some_and(|alarm| alarm <= first.max(alarm.min(self.world.now_ms + 1_000)))
            }));
            assert!(self.world.channels[channel].root_bytes() <= 1_024);
            let alive = state.messages().filter(|m| !matches!(m.state, MessageState::Dead { .. }));
            assert_eq!(state.head().counts.oldest_ms, alive.map(|message| message.accepted_ms).min());
            for body in state.messages().flat_map(|message| &message.received) {
                assert!(self.world.body(body).is_some(), "what came with a failed attempt is kept");
            }
        }
        for (id, requested) in &self.world.requested {
            let there = CHANNELS.iter().any(|code| self.world.channels[*code].state.message(id).is_some());
            let answered = self.world.answered.get(id).copied().unwrap_or(0);
            assert_eq!(*requested, 1, "{id} is asked for once");
            assert_eq!(u32::from(there) + answered, 1, "{id} is lost, or answered {answered} times");
        }
    }

    /// Honest connectors, and all the time in the world.
    fn drain(&mut self) {
        for channel in CHANNELS {
            let order = self.settings[channel].order;
            self.configure(
                channel,
                Settings { rate: None, breaker: None, depth: 1_000, ..settings(0).with(order) },
            );
            self.steer(channel, 2);
        }
        for round in 0_i64.. {
            assert!(round < 2_000, "it never ends");
            // What was out when the connectors changed their ways.
            for n in 0..self.delivered.len() {
                self.lapse(n, 1);
            }
            let mut moved = 0;
            for channel in CHANNELS {
                self.world.origin = origin("admin", "root", "");
                let redrive = Command::Redrive { which: Which::Oldest(64) };
                self.world.channel(channel, &redrive).expect("an administrator may");
                while self.take(channel, "one", 8) > 0 {
                    moved += 1;
                    let held: Vec<_> = self
                        .open
                        .iter()
                        .filter(|(key, _)| key.0 == channel)
                        .map(|(k, v)| (k.1.clone(), v.0))
                        .collect();
                    for (id, token) in held {
                        let body = Some(Content(format!("наконец {id}").into_bytes()));
                        let said = Said::Complete { summary: String::new(), body };
                        let verdict = Verdict { id, token, said };
                        self.exchange(channel, "one", vec![verdict], Take::default()).expect("it counts");
                        self.check();
                    }
                }
            }
            let left: usize =
                CHANNELS.iter().map(|code| self.world.channels[*code].state.messages().count()).sum();
            if moved == 0 && left == 0 {
                return;
            }
            let later = self.world.now_ms + 500;
            self.world.advance_to(later);
        }
    }

    /// Nothing is open any more, and what was kept is what was sent.
    fn check_end(&self) {
        for id in &self.cases {
            let case = &self.world.cases[id].state;
            for exchange in case.exchanges() {
                assert!(matches!(exchange.state, ExchangeState::Closed { .. }), "{exchange:?}");
                assert!(self.world.body(&exchange.body).is_some());
                for body in exchange.answer.iter().chain(&exchange.others) {
                    assert!(self.world.body(body).is_some(), "{exchange:?}");
                }
            }
            assert!(case.askings().all(|asking| asking.state != case::AskingState::Open));
            assert_eq!(case.head().requests_open, 0);
            assert_eq!(case.state(), case::State::Accepted, "nothing holds it up");
            assert!(case.letters().all(|letter| self.world.body(&letter.letter.body).is_some()));
        }
        assert!(self.world.requested.keys().all(|id| self.world.answered.contains_key(id)));
    }
}

trait With {
    fn with(self, order: Order) -> Self;
}

impl With for Settings {
    fn with(self, order: Order) -> Self {
        Self { order, ..self }
    }
}

/// Do two messages stand in one lane, with neither dead?
fn same_lane(order: Order, one: &Outgoing, other: &Outgoing) -> bool {
    let dead = |message: &Outgoing| matches!(message.state, MessageState::Dead { .. });
    match order {
        _ if dead(one) || dead(other) => false,
        Order::Free => false,
        Order::Strict => true,
        Order::Key => !one.key.is_empty() && one.key == other.key,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 160, ..ProptestConfig::default() })]

    #[test]
    fn messages_are_answered_once_and_none_is_lost(
        seeds in [0_u32..384, 0_u32..384],
        history in proptest::collection::vec((0_u8..16, 0_usize..1_000, 0_usize..1_000), 1..70),
    ) {
        let mut run = Run::new(seeds);
        for (what, x, y) in history {
            let channel = CHANNELS[usize::from(x % 4 == 3)];
            match what {
                0..=2 => run.ask(x, y),
                3..=5 => {
                    run.take(channel, CONNECTORS[y % 2], 1 + (x % 5) as u16);
                }
                6..=9 => run.settle(x, y),
                10 => run.lapse(x, y),
                11 => run.steer(channel, y),
                12 => run.letter(channel, x, y),
                13 => run.world.term += 1,
                14 => match run.cases.get(x % CASES_MAX).cloned() {
                    Some(id) if y % 3 == 0 => {
                        run.world.origin = origin("operator", "anna", "ws-1");
                        let asking = 1 + (y % 4) as u32;
                        let _ = run.world.case(&id, &case::Command::GiveUpAsk { asking });
                    }
                    _ => run.configure(channel, settings(y as u32)),
                },
                _ => {
                    let later = run.world.now_ms + [1, 300, 1_000, 6_000, 30_000][y % 5];
                    run.world.advance_to(later);
                }
            }
            run.check();
        }
        run.drain();
        run.check_end();
    }
}
