//! Full channels: what one call among many messages looks at and writes. A commit is bounded (256 KiB) whatever is said in it,
//! however long its texts are and however many messages move.

use crate::{
    channel_laws::settings,
    world::{World, origin},
};
use okno_domain::{
    channel::{
        Channel, Command, Event, Exchanged, Lapse, Lapsed, MessageState, Move, Order, Outgoing, PROGRESS_MAX,
        RECEIVED_MAX, Reply, Retry, Said, Settings, SubAnswer, SubAsk, SubRequest, Take, Token, Verdict,
        Which,
    },
    entity::{Context, Entity, EntityRef, EventMeta, Fence, Input, Kind},
    exchange::{BodyRef, Content, OTHERS_MAX, Outcome, SUBREQUESTS_MAX, sha256},
};
use std::sync::Arc;

/// A channel with messages that wait, made by folding events.
struct Full {
    world: World,
    channel: Channel,
    meta: EventMeta,
}

impl Full {
    fn new(settings: Settings) -> Self {
        let world = World::with_office();
        let meta = EventMeta { time_ms: world.now_ms, origin: origin("connector", "one", "") };
        let mut channel = Channel::empty("egrn");
        channel.evolve(&Event::Configured { settings: Arc::new(settings), version: 1 }, &meta);
        Self { world, channel, meta }
    }

    fn add(&mut self, n: u64, key: &str, subject: &str) {
        let holder = EntityRef { kind: Kind::Case, id: "a".into() };
        let message = Outgoing {
            sequence: n,
            id: format!("a.{n}"),
            source: holder.clone(),
            case: "a".into(),
            kind: "facts".into(),
            key: key.into(),
            subject: subject.into(),
            body: BodyRef { holder, number: n, sha256: sha256(b""), bytes: 0 },
            accepted_ms: self.world.now_ms,
            expires_ms: None,
            depth: 0,
            attempts: 0,
            deliveries: 0,
            unheard: 0,
            progress: 0,
            withdrawn: false,
            state: MessageState::Ready,
            subs: Vec::new(),
            failure: String::new(),
            received: Vec::new(),
        };
        self.channel.evolve(&Event::Moved { message: Arc::new(message), why: Move::Accepted }, &self.meta);
    }

    fn exchange(&mut self, request: u128, verdicts: Vec<Verdict>, messages: u16) -> (Exchanged, usize) {
        let command = Command::Exchange { verdicts, take: Take { messages, bytes: u32::MAX } };
        let (reply, bytes) = self.decide(request, &command);
        let Reply::Exchanged(exchanged) = reply else { panic!("a call is answered") };
        (*exchanged, bytes)
    }

    /// Decides and folds; gives what it comes to, and the bytes of everything a commit would hold of it.
    fn decide(&mut self, request: u128, command: &Command) -> (Reply, usize) {
        let this = EntityRef { kind: Kind::Channel, id: "egrn".into() };
        let context = Context {
            this: &this,
            now_ms: self.world.now_ms,
            origin: &self.meta.origin,
            request_id: uuid::Uuid::from_u128(request + 1),
            catalogue: &self.world.catalogue,
            directory: &self.world.directory.state,
            level: okno_domain::entity::CHANNELS_LEVEL,
            fence: Fence { generation: 1, term: 1 },
        };
        let decision = self.channel.decide(command, &context).expect("a good call");
        let kept = self.channel.kept(&Input::Command(command), &decision.events);
        let mut bytes: usize = kept.iter().filter_map(|kept| kept.body).map(|body| body.len() + 64).sum();
        let size = |bytes: Result<u64, bincode::Error>| {
            usize::try_from(bytes.expect("it can be encoded")).expect("small")
        };
        for event in &decision.events {
            bytes += size(bincode::serialized_size(event)) + 64;
            self.channel.evolve(event, &self.meta);
        }
        for send in &decision.sends {
            bytes += size(bincode::serialized_size(&send.message)) + 128;
        }
        bytes += size(bincode::serialized_size(&decision.reply));
        (decision.reply, bytes)
    }

    /// Messages with the longest texts there are, eight answered requests of their own among them, in this state.
    fn fill(&mut self, count: u64, state: impl Fn(u64) -> MessageState) {
        let (line, word) = ("🀄".repeat(300), "🀄".repeat(64));
        (1..=count).for_each(|n| self.add(n, &word, &line));
        let messages: Vec<Outgoing> = self.channel.messages().cloned().collect();
        for message in messages {
            let body = message.body.clone();
            let sub = |n: usize| SubRequest {
                id: format!("{}.{n}", message.id),
                channel: "z".repeat(64),
                kind: word.clone(),
                body: body.clone(),
                answer: Some(SubAnswer {
                    outcome: Outcome::Rejected { reason: line.clone() },
                    summary: line.clone(),
                    body: Some(body.clone()),
                    others: vec![body.clone(); OTHERS_MAX],
                }),
            };
            let state = state(message.sequence);
            let subs = (1..=SUBREQUESTS_MAX).map(sub).collect();
            let received = vec![body.clone(); RECEIVED_MAX];
            let message = Outgoing { state, subs, failure: line.clone(), received, ..message };
            let why = Move::SubAnswered;
            self.channel.evolve(&Event::Moved { message: Arc::new(message), why }, &self.meta);
        }
    }
}

/// A call among fifty thousand looks at few: it takes what is first, and the index is what the messages say.
#[test]
fn fifty_thousand_wait_in_their_order() {
    let mut full = Full::new(Settings { order: Order::Key, parallel: 1_024, depth: 100_000, ..settings(0) });
    for n in 1..=50_000_u64 {
        // Half of them crowd one key, the others have none.
        full.add(n, if n % 2 == 0 { "crowd" } else { "" }, "");
    }
    let mut handed = Vec::new();
    for request in 0..40 {
        handed.extend(full.exchange(request, Vec::new(), 64).0.handed.iter().map(|message| message.sequence));
    }
    // One of the crowd, and those without a key until the slots are full.
    let mut expected: Vec<u64> = (1..).step_by(2).take(1_023).collect();
    expected.push(2);
    expected.sort_unstable();
    assert_eq!(handed, expected);
    assert_eq!(full.channel.head().counts.live, 50_000);
    assert!(full.channel.rows(None).is_empty());
}

/// Whatever one call says, and however long its texts are, its commit stays below 256 KiB: what does not fit is told.
#[test]
fn no_call_makes_more_than_a_commit_holds() {
    // The longest texts there are: four bytes a character.
    let (line, text) = ("🀄".repeat(300), "🀄".repeat(2_000));
    let mut full = Full::new(Settings { parallel: 1_024, depth: 100_000, ..settings(0) });
    (1..=2_000).for_each(|n| full.add(n, &"🀄".repeat(64), &line));
    let mut held: Vec<(String, Token)> = Vec::new();
    let (mut request, mut told) = (0, 0);
    let said: [&dyn Fn(u64) -> Said; 5] = [
        &|n| Said::Complete { summary: text.clone(), body: (n == 0).then(|| Content(vec![b'x'; 64 * 1024])) },
        &|_| Said::Reject { reason: text.clone(), body: None },
        &|n| Said::Fail {
            reason: text.clone(),
            retry_after_ms: None,
            body: (n == 0).then(|| Content(vec![b'y'; 64 * 1024])),
        },
        &|_| Said::Progress { text: line.clone() },
        &|n| Said::Ask {
            requests: (0..8)
                .map(|m| SubAsk {
                    channel: "zags".into(),
                    kind: "sub".into(),
                    key: "🀄".repeat(64),
                    subject: line.clone(),
                    body: Content(vec![m; if n == 0 { 8_000 } else { 0 }]),
                    expires_ms: None,
                })
                .collect(),
        },
    ];
    for round in 0..40_usize {
        let verdicts = held.drain(..held.len().min(64)).enumerate().map(|(n, (id, token))| {
            let said = said[(round + n * (round % 2)) % 5](n as u64);
            Verdict { id, token, said }
        });
        request += 1;
        let (exchanged, bytes) = full.exchange(request, verdicts.collect(), 64);
        assert!(bytes <= 248 * 1024, "round {round} makes {bytes} bytes");
        told += exchanged.results.iter().filter(|result| result.reason == "CALL_FULL").count();
        let reasons = exchanged.results.iter().map(|result| result.reason.as_str());
        assert!(
            reasons.clone().all(|reason| ["", "CALL_FULL"].contains(&reason)),
            "{:?}",
            reasons.collect::<Vec<_>>()
        );
        for message in &exchanged.handed {
            let MessageState::Out { token, .. } = message.state else { panic!("{message:?}") };
            held.push((message.id.clone(), token));
        }
    }
    assert!(told > 0, "nothing was ever too much");
}

/// Messages that carry the answers of others are the largest there are. However many are handed out, lapse or are given up
/// at once, a commit holds them, and the rest moves with the next.
#[test]
fn answers_of_others_fit_a_commit_however_many_move() {
    let token = |n| Token { generation: 1, term: 1, sequence: n };
    let out = |n| MessageState::Out {
        token: token(n),
        connector: "one".into(),
        instance: String::new(),
        since_ms: 0,
    };
    let of = |attempts: u32| Settings {
        parallel: 1_024,
        depth: 100_000,
        retry: Retry { attempts, base_ms: 500, max_ms: 2_000 },
        ..settings(0)
    };
    let left = |full: &Full, state: &str| full.channel.messages().filter(|m| m.state.name() == state).count();

    let mut handed = Full::new(of(3));
    handed.fill(8, |_| MessageState::Ready);
    for request in 0..8 {
        let (exchanged, bytes) = handed.exchange(request, Vec::new(), 64);
        assert!(bytes <= 248 * 1024, "{bytes} bytes");
        assert!(!exchanged.handed.is_empty() || left(&handed, "ready") == 0, "it stands still");
    }
    assert_eq!(left(&handed, "out"), 8);

    for why in [Lapse::Unheard, Lapse::Overdue, Lapse::Gone] {
        for attempts in [1, 3] {
            let mut lapsing = Full::new(of(attempts));
            lapsing.meta.origin = origin("node", "1", "");
            lapsing.fill(64, out);
            let mut request = 0;
            while left(&lapsing, "out") > 0 {
                let out = lapsing.channel.messages().filter(|m| m.state.name() == "out");
                let lapsed =
                    out.map(|m| Lapsed { id: m.id.clone(), token: token(m.sequence), why }).collect();
                request += 1;
                let (reply, bytes) = lapsing.decide(request, &Command::Lapse { lapsed, term: 1 });
                assert!(bytes <= 248 * 1024, "{bytes} bytes");
                assert!(matches!(reply, Reply::Lapsed { count: 1.. }), "it stands still");
            }
            assert!(request > 1, "all of it fitted");
        }
    }

    let mut given_up = Full::new(of(3));
    given_up.meta.origin = origin("admin", "root", "");
    given_up.fill(256, |n| MessageState::Dead { at_ms: n.try_into().expect("small") });
    let reason = "🀄".repeat(300);
    let (mut request, mut moved) = (0, 0);
    while left(&given_up, "dead") > 0 {
        request += 1;
        let command = Command::Discard { which: Which::Oldest(64), reason: reason.clone() };
        let (reply, bytes) = given_up.decide(request, &command);
        assert!(bytes <= 248 * 1024, "{bytes} bytes");
        let Reply::Moved { count: count @ 1.., left: rest } = reply else { panic!("{reply:?}") };
        moved += count;
        assert_eq!(moved + rest, 256);
    }
    assert!(request > 256 / 64, "all of it fitted");
}

/// Reports are bounded for each delivery: one that comes again may be reported on again.
#[test]
fn each_delivery_has_its_reports() {
    let mut full = Full::new(settings(0));
    full.add(1, "", "");
    for delivery in 0..2_u128 {
        let (exchanged, _) = full.exchange(delivery * 100, Vec::new(), 1);
        let MessageState::Out { token, .. } = exchanged.handed[0].state else { panic!("it is handed out") };
        let id = exchanged.handed[0].id.clone();
        let mut say = |n: u128, said: Said| {
            let verdict = Verdict { id: id.clone(), token, said };
            full.exchange(delivery * 100 + n, vec![verdict], 1).0.results[0].reason.clone()
        };
        for n in 1..=u128::from(PROGRESS_MAX) {
            assert_eq!(say(n, Said::Progress { text: String::new() }), "");
        }
        assert_eq!(say(80, Said::Progress { text: String::new() }), "PROGRESS_LIMIT");
        assert_eq!(say(90, Said::Fail { reason: "нет связи".into(), retry_after_ms: None, body: None }), "");
        full.world.now_ms += 60_000;
    }
}

/// The age of the oldest is known however many dead letters lie before it, and goes by when it came, not by its place.
#[test]
fn the_oldest_is_known_behind_any_number_of_dead_letters() {
    let mut full = Full::new(Settings { depth: 100_000, ..settings(0) });
    full.meta.origin = origin("admin", "root", "");
    let began = full.world.now_ms;
    let oldest = |full: &Full| full.channel.head().counts.oldest_ms;
    for n in 1..=5_000 {
        full.add(n, "", "");
        let message = full.channel.message(&format!("a.{n}")).expect("it is there").clone();
        let dead = Outgoing { state: MessageState::Dead { at_ms: began }, ..message };
        full.channel.evolve(&Event::Moved { message: Arc::new(dead), why: Move::Buried }, &full.meta);
    }
    assert_eq!(oldest(&full), None, "all are dead");
    full.world.now_ms += 60_000;
    full.add(5_001, "", "");
    assert_eq!(oldest(&full), Some(began + 60_000));
    full.decide(1, &Command::Redrive { which: Which::Named(vec!["a.7".into()]) });
    assert_eq!(oldest(&full), Some(began), "it has waited since it came");
    full.decide(2, &Command::Configure { settings: Box::new(settings(1)) });
    assert_eq!(oldest(&full), Some(began), "other settings change nothing of it");
}

/// Of what comes with failed attempts every message keeps so many different bodies and no more: the first ones and the newest.
/// The same bytes are kept once, and what gives way to the newest is told, so that its hash stays in the journal.
#[test]
fn what_came_with_failed_attempts_is_bounded() {
    let mut full = Full::new(Settings {
        retry: Retry { attempts: 100, base_ms: 10, max_ms: 10 },
        breaker: None,
        ..settings(0)
    });
    full.add(1, "", "");
    let mut fail = |n: u128, body: &str| {
        full.world.now_ms += 1_000;
        let (exchanged, _) = full.exchange(2 * n, Vec::new(), 1);
        let MessageState::Out { token, .. } = exchanged.handed[0].state else { panic!("it is handed out") };
        let said = Said::Fail {
            reason: "HTTP 503".into(),
            retry_after_ms: None,
            body: Some(Content(body.as_bytes().to_vec())),
        };
        let verdict = Verdict { id: "a.1".into(), token, said };
        assert_eq!(full.exchange(2 * n + 1, vec![verdict], 0).0.results[0].reason, "");
        full.channel.message("a.1").expect("it waits").received.clone()
    };
    let first = fail(1, "ошибка 1");
    assert_eq!(first[0].sha256, sha256("ошибка 1".as_bytes()));
    assert_eq!(fail(2, "ошибка 1"), first, "the same bytes once");
    for n in 2..=RECEIVED_MAX {
        assert_eq!(fail(n as u128 + 1, &format!("ошибка {n}")).len(), n);
    }
    let full_up = fail(50, "ошибка 50");
    assert_eq!((full_up.len(), &full_up[0]), (RECEIVED_MAX, &first[0]));
    assert_eq!(full_up[RECEIVED_MAX - 1].sha256, sha256("ошибка 50".as_bytes()), "the newest is there");
    let newer = fail(51, "ошибка 51");
    assert_eq!(newer[..RECEIVED_MAX - 1], full_up[..RECEIVED_MAX - 1]);
    assert!(newer[RECEIVED_MAX - 1].number > full_up[RECEIVED_MAX - 1].number, "numbers only grow");
}
