//! The clocks of deliveries: acknowledged within seconds, settled within the work time. Pure: what applied and what time
//! it is come in, what has run out goes out.
//!
//! Invariants:
//! - there is a lease for exactly the messages that are out as of `through`, with the token of their newest delivery;
//! - so their number is bounded by the `parallel` of the channels' settings;
//! - a lease that has run out is told again until a commit ends it: a lapse that got lost holds nothing up for ever.

use okno_domain::{
    channel::{Channel, Event, ITEMS_MAX, Lapse, Lapsed, MessageState, Move, Outgoing, Settings, Token},
    refusal::{DELIVERY_LOST, LEASE_FOREIGN, MESSAGE_UNKNOWN},
};
use std::collections::{BTreeMap, BTreeSet};

/// A lapse that was asked for and has not applied is asked for again after this.
const LAPSE_AGAIN_MS: u64 = 5_000;

/// How far a delivery is known to have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Handed out; nobody has said that it arrived.
    Delivered,
    /// Acknowledged.
    Working,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Lease {
    sequence: u64,
    token: Token,
    connector: String,
    instance: String,
    phase: Phase,
    /// Monotonic, milliseconds.
    until_ms: u64,
    /// Its connector has said goodbye and left it, or came back without it.
    gone: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Watched {
    ack_ms: u64,
    work_ms: u64,
    /// Log index up to which the channel's commits are taken in.
    through: u64,
    /// By message id.
    leases: BTreeMap<String, Lease>,
}

/// A reason code: why a delivery counts no longer.
pub type Reason = &'static str;

/// The leases of one term; see the module.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Leases {
    channels: BTreeMap<String, Watched>,
}

impl Leases {
    /// Takes in a channel as it stands when a leader begins. Deliveries of earlier ones get one full work time (design §5). What
    /// was handed out in this term already, before anybody kept its clock, nobody can have acknowledged to.
    pub fn begin(&mut self, code: &str, channel: &Channel, through: u64, term: u64, now_ms: u64) {
        let found = |token: Token| if token.term == term { Phase::Delivered } else { Phase::Working };
        self.take_in(code, channel, through, found, now_ms);
    }

    /// Takes in a channel as it stands: when it is new, when commits were missed, or when its keeper was restarted. A
    /// delivery that is known keeps its clock; any other begins with a full one in phase `found`.
    pub fn take_up(&mut self, code: &str, channel: &Channel, through: u64, found: Phase, now_ms: u64) {
        self.take_in(code, channel, through, |_| found, now_ms);
    }

    fn take_in(
        &mut self,
        code: &str,
        channel: &Channel,
        through: u64,
        found: impl Fn(Token) -> Phase,
        now_ms: u64,
    ) {
        let mut before = self.channels.remove(code).unwrap_or_default();
        let mut watched = Watched { through, ..Watched::default() };
        watched.settle(channel.settings());
        for message in channel.messages() {
            let MessageState::Out { token, .. } = &message.state else { continue };
            let known = before.leases.remove(&message.id).filter(|lease| lease.token == *token);
            match known {
                Some(lease) => {
                    watched.leases.insert(message.id.clone(), lease);
                }
                None => watched.grant(message, found(*token), now_ms),
            }
        }
        self.channels.insert(code.to_owned(), watched);
    }

    /// How far a channel's commits were taken in; `None`: it is not known yet.
    pub fn through(&self, code: &str) -> Option<u64> {
        self.channels.get(code).map(|watched| watched.through)
    }

    /// The channels that are known.
    pub fn codes(&self) -> impl Iterator<Item = &str> {
        self.channels.keys().map(String::as_str)
    }

    /// What one commit of a known channel changed.
    pub fn moved(&mut self, code: &str, index: u64, events: &[Event], now_ms: u64) {
        let Some(watched) = self.channels.get_mut(code).filter(|watched| watched.through < index) else {
            return;
        };
        watched.through = index;
        for event in events {
            match event {
                Event::Moved { message, why } => watched.put(message, *why, now_ms),
                Event::Redriven { message, .. } => {
                    watched.leases.remove(&message.id);
                }
                Event::Ended(ended) => {
                    watched.leases.remove(&ended.id);
                }
                Event::Configured { settings, .. } => watched.settle(Some(settings)),
                Event::LetterMoved { .. }
                | Event::LettersForgotten { .. }
                | Event::BodiesForgotten { .. }
                | Event::Steered { .. }
                | Event::Accounted(_) => {}
            }
        }
    }

    /// The delivery arrived: from here on the work time counts. Said twice it changes nothing.
    pub fn acknowledge(
        &mut self,
        code: &str,
        connector: &str,
        (id, token): (&str, Token),
        now_ms: u64,
    ) -> Result<(), Reason> {
        let watched = self.channels.get_mut(code).ok_or(MESSAGE_UNKNOWN.code)?;
        let until_ms = now_ms + watched.work_ms;
        let lease = watched.held(connector, id, token)?;
        // What a process was thought to have lost it may get by asking again what became of its call.
        if lease.phase == Phase::Delivered || lease.gone {
            lease.phase = Phase::Working;
            lease.gone = false;
            lease.until_ms = until_ms;
        }
        Ok(())
    }

    /// The place in the channel of a message that the connector holds.
    pub fn holds(&mut self, code: &str, connector: &str, (id, token): (&str, Token)) -> Result<u64, Reason> {
        let watched = self.channels.get_mut(code).ok_or(MESSAGE_UNKNOWN.code)?;
        watched.held(connector, id, token).map(|lease| lease.sequence)
    }

    /// The way to whoever the delivery went to is lost. What was not acknowledged may never have arrived and lapses now; the
    /// rest stays until its time, unless the connector said goodbye (`gone`).
    pub fn lost(&mut self, code: &str, connector: &str, (id, token): (&str, Token), gone: bool, now_ms: u64) {
        let Some(watched) = self.channels.get_mut(code) else { return };
        let Ok(lease) = watched.held(connector, id, token) else { return };
        if gone || lease.phase == Phase::Delivered {
            lease.gone |= gone;
            lease.until_ms = lease.until_ms.min(now_ms);
        }
    }

    /// A process that attaches again has these and no others: what else went to it never arrived, or was lost with what it
    /// knew, and is not waited for. A new leader cannot tell such a delivery from one that is worked on.
    pub fn resumed(
        &mut self,
        code: &str,
        (connector, instance): (&str, &str),
        holds: &[(&str, Token)],
        now_ms: u64,
    ) {
        let Some(watched) = self.channels.get_mut(code) else { return };
        for (id, lease) in &mut watched.leases {
            let own = lease.connector == connector && lease.instance == instance;
            if own && !holds.contains(&(id.as_str(), lease.token)) {
                lease.gone = true;
                lease.until_ms = lease.until_ms.min(now_ms);
            }
        }
    }

    /// What has run out, channel by channel, as much as one command takes; but for channels that are `busy`.
    pub fn due(&mut self, now_ms: u64, busy: &BTreeSet<String>) -> Vec<(String, Vec<Lapsed>)> {
        let mut found = Vec::new();
        for (code, watched) in self.channels.iter_mut().filter(|(code, _)| !busy.contains(*code)) {
            let due = watched.leases.iter_mut().filter(|(_, lease)| lease.until_ms <= now_ms);
            let lapsed: Vec<Lapsed> = due
                .take(ITEMS_MAX)
                .map(|(id, lease)| {
                    lease.until_ms = now_ms + LAPSE_AGAIN_MS;
                    let why = match lease.phase {
                        Phase::Delivered => Lapse::Unheard,
                        Phase::Working if lease.gone => Lapse::Gone,
                        Phase::Working => Lapse::Overdue,
                    };
                    Lapsed { id: id.clone(), token: lease.token, why }
                })
                .collect();
            if !lapsed.is_empty() {
                found.push((code.clone(), lapsed));
            }
        }
        found
    }

    /// Deliveries of a channel by phase: not acknowledged, and worked on.
    pub fn count(&self, code: &str) -> (usize, usize) {
        let Some(watched) = self.channels.get(code) else { return (0, 0) };
        let working = watched.leases.values().filter(|lease| lease.phase == Phase::Working).count();
        (watched.leases.len() - working, working)
    }
}

impl Watched {
    fn settle(&mut self, settings: Option<&Settings>) {
        if let Some(settings) = settings {
            self.ack_ms = settings.ack_ms.into();
            self.work_ms = settings.work_ms.into();
        }
    }

    fn grant(&mut self, message: &Outgoing, phase: Phase, now_ms: u64) {
        let MessageState::Out { token, connector, instance, .. } = &message.state else { return };
        let span = if phase == Phase::Working { self.work_ms } else { self.ack_ms };
        let lease = Lease {
            sequence: message.sequence,
            token: *token,
            connector: connector.clone(),
            instance: instance.clone(),
            phase,
            until_ms: now_ms + span,
            gone: false,
        };
        self.leases.insert(message.id.clone(), lease);
    }

    fn put(&mut self, message: &Outgoing, why: Move, now_ms: u64) {
        let MessageState::Out { token, .. } = &message.state else {
            self.leases.remove(&message.id);
            return;
        };
        match self.leases.get_mut(&message.id).filter(|lease| lease.token == *token) {
            // Whoever reports on it has got it.
            Some(lease) if why == Move::Progressed => {
                lease.phase = Phase::Working;
                lease.until_ms = now_ms + self.work_ms;
            }
            Some(_) => {}
            None => self.grant(message, Phase::Delivered, now_ms),
        }
    }

    fn held(&mut self, connector: &str, id: &str, token: Token) -> Result<&mut Lease, Reason> {
        let lease = self.leases.get_mut(id).ok_or(MESSAGE_UNKNOWN.code)?;
        if lease.token != token {
            return Err(DELIVERY_LOST.code);
        }
        if lease.connector != connector {
            return Err(LEASE_FOREIGN.code);
        }
        Ok(lease)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use okno_domain::{
        channel::{Ended, Part, Root, message_part},
        entity::{Entity, EntityRef},
        exchange::{BodyRef, Content, Outcome},
        registry::Kind,
    };
    use std::sync::Arc;

    const ACK: u64 = 1_000;
    const WORK: u64 = 10_000;

    fn token(sequence: u64) -> Token {
        Token { generation: 1, term: 2, sequence }
    }

    fn message(sequence: u64, state: MessageState) -> Arc<Outgoing> {
        let case = EntityRef { kind: Kind::Case, id: "c".into() };
        Arc::new(Outgoing {
            sequence,
            id: format!("m{sequence}"),
            source: case.clone(),
            case: "c".into(),
            kind: "k".into(),
            key: String::new(),
            subject: String::new(),
            body: BodyRef::of(&case, 1, &Content::default()),
            accepted_ms: 0,
            expires_ms: None,
            depth: 0,
            attempts: 0,
            deliveries: 1,
            unheard: 0,
            progress: 0,
            withdrawn: false,
            state,
            subs: Vec::new(),
            failure: String::new(),
            received: Vec::new(),
        })
    }

    fn out(sequence: u64, of: u64) -> Arc<Outgoing> {
        message(
            sequence,
            MessageState::Out {
                token: token(of),
                connector: "one".into(),
                instance: "a".into(),
                since_ms: 0,
            },
        )
    }

    fn moved(message: Arc<Outgoing>, why: Move) -> Event {
        Event::Moved { message, why }
    }

    /// A channel with these messages out.
    fn channel(messages: &[Arc<Outgoing>]) -> Channel {
        let settings = Settings { ack_ms: 1_000, work_ms: 10_000, ..Settings::default() };
        let mut parts = vec![("settings".to_owned(), Part::Settings(Arc::new(settings)))];
        parts.extend(messages.iter().map(|m| (message_part(m.sequence), Part::Message(m.clone()))));
        Channel::load("egrn", Root::default(), parts)
    }

    fn leases(messages: &[Arc<Outgoing>], found: Phase) -> Leases {
        let mut leases = Leases::default();
        leases.take_up("egrn", &channel(messages), 7, found, 0);
        leases
    }

    fn due(leases: &mut Leases, now: u64) -> Vec<(String, Lapse)> {
        let due = leases.due(now, &BTreeSet::new()).into_iter().flat_map(|(_, lapsed)| lapsed);
        due.map(|lapsed| (lapsed.id, lapsed.why)).collect()
    }

    #[test]
    fn what_nobody_acknowledges_lapses_and_what_was_acknowledged_has_its_work_time() {
        let mut leases = leases(&[], Phase::Working);
        let handed = [moved(out(1, 1), Move::HandedOut), moved(out(2, 2), Move::HandedOut)];
        leases.moved("egrn", 8, &handed, 0);
        leases.moved("egrn", 8, &handed, 500);
        assert_eq!(leases.acknowledge("egrn", "one", ("m2", token(2)), 900), Ok(()));
        assert_eq!(leases.count("egrn"), (1, 1));
        assert!(due(&mut leases, ACK - 1).is_empty());
        assert_eq!(due(&mut leases, ACK), [("m1".to_owned(), Lapse::Unheard)]);
        assert!(due(&mut leases, ACK + 1).is_empty(), "said once");
        assert_eq!(due(&mut leases, ACK + LAPSE_AGAIN_MS).len(), 1, "and again until a commit ends it");
        leases.moved("egrn", 9, &[moved(message(1, MessageState::Ready), Move::Unheard)], 7_000);
        assert_eq!(due(&mut leases, 900 + WORK), [("m2".to_owned(), Lapse::Overdue)]);
        // Said twice, an acknowledgement does not begin the time anew.
        assert_eq!(leases.acknowledge("egrn", "one", ("m2", token(2)), 9_999), Ok(()));
        leases.moved("egrn", 10, &[Event::Ended(Box::new(ended(2)))], 12_000);
        assert_eq!(leases.count("egrn"), (0, 0));
    }

    fn ended(sequence: u64) -> Ended {
        Ended {
            sequence,
            id: format!("m{sequence}"),
            outcome: Outcome::Answered,
            body: None,
            attempts: 0,
            received: Vec::new(),
        }
    }

    #[test]
    fn a_report_begins_the_work_time_anew_and_counts_as_acknowledgement() {
        let mut leases = leases(&[out(1, 1)], Phase::Delivered);
        leases.moved("egrn", 8, &[moved(out(1, 1), Move::Progressed)], 900);
        assert!(due(&mut leases, 900 + WORK - 1).is_empty());
        leases.moved("egrn", 9, &[moved(out(1, 1), Move::Withdrawn)], 5_000);
        assert_eq!(due(&mut leases, 900 + WORK), [("m1".to_owned(), Lapse::Overdue)], "nothing else does");
    }

    #[test]
    fn only_the_newest_token_of_the_right_connector_counts() {
        let mut leases = leases(&[out(1, 1)], Phase::Working);
        leases.moved("egrn", 8, &[moved(out(1, 5), Move::HandedOut)], 0);
        let mut said =
            |id: &str, connector: &str, of| leases.acknowledge("egrn", connector, (id, token(of)), 0);
        assert_eq!(said("m1", "one", 1), Err("DELIVERY_LOST"));
        assert_eq!(said("m1", "two", 5), Err("LEASE_FOREIGN"));
        assert_eq!(said("m2", "one", 5), Err("MESSAGE_UNKNOWN"));
        assert_eq!(said("m1", "one", 5), Ok(()));
        assert_eq!(leases.acknowledge("other", "one", ("m1", token(5)), 0), Err("MESSAGE_UNKNOWN"));
        assert_eq!(leases.holds("egrn", "one", ("m1", token(5))), Ok(1));
        assert_eq!(leases.holds("egrn", "two", ("m1", token(5))), Err("LEASE_FOREIGN"));
    }

    #[test]
    fn a_lost_way_gives_back_what_may_never_have_arrived_and_a_goodbye_all() {
        let messages = [out(1, 1), out(2, 2)];
        let mut leases = leases(&messages, Phase::Delivered);
        assert_eq!(leases.acknowledge("egrn", "one", ("m2", token(2)), 0), Ok(()));
        for sequence in [1, 2] {
            leases.lost("egrn", "one", (&format!("m{sequence}"), token(sequence)), false, 10);
        }
        assert_eq!(due(&mut leases, 10), [("m1".to_owned(), Lapse::Unheard)]);
        leases.lost("egrn", "two", ("m2", token(2)), true, 11);
        assert!(due(&mut leases, 11).is_empty(), "not its own");
        leases.lost("egrn", "one", ("m2", token(2)), true, 12);
        assert_eq!(due(&mut leases, 12), [("m2".to_owned(), Lapse::Gone)]);
    }

    #[test]
    fn what_a_process_does_not_have_when_it_comes_back_is_not_waited_for() {
        // As a new leader finds them; the third went to another process with the same certificate.
        let of_b =
            MessageState::Out { token: token(3), connector: "one".into(), instance: "b".into(), since_ms: 0 };
        let mut leases = leases(&[out(1, 1), out(2, 2), message(3, of_b)], Phase::Working);
        // Of the second it has an older delivery, which is none.
        leases.resumed("egrn", ("one", "a"), &[("m1", token(1)), ("m2", token(1))], 10);
        leases.resumed("egrn", ("two", "b"), &[], 10);
        assert_eq!(due(&mut leases, 10), [("m2".to_owned(), Lapse::Gone)]);
        // It asked again what became of its last call, and was told of the second.
        leases.resumed("egrn", ("one", "a"), &[("m1", token(1))], 15);
        assert_eq!(leases.acknowledge("egrn", "one", ("m2", token(2)), 15), Ok(()));
        assert!(due(&mut leases, 10 + LAPSE_AGAIN_MS).is_empty());
        // One that was handed out just now, and may be on its way to a stream that is gone.
        leases.moved("egrn", 8, &[moved(out(4, 4), Move::HandedOut)], 20);
        leases.resumed("egrn", ("one", "a"), &[("m1", token(1)), ("m2", token(2))], 20);
        assert_eq!(due(&mut leases, 20), [("m4".to_owned(), Lapse::Unheard)], "no attempt was made");
        assert_eq!(due(&mut leases, 15 + WORK).len(), 4, "the rest has its full time");
    }

    #[test]
    fn a_new_leader_grants_one_full_work_time_and_missed_commits_are_made_up_for() {
        let mut leases = leases(&[out(1, 1)], Phase::Working);
        assert!(due(&mut leases, WORK - 1).is_empty());
        // Commits were missed: what is known keeps its clock, what is new is not acknowledged, what ended is gone.
        leases.take_up("egrn", &channel(&[out(1, 1), out(2, 2)]), 20, Phase::Delivered, 4_000);
        assert_eq!(leases.through("egrn"), Some(20));
        assert_eq!(due(&mut leases, 4_000 + ACK), [("m2".to_owned(), Lapse::Unheard)]);
        assert_eq!(
            due(&mut leases, WORK),
            [("m1".to_owned(), Lapse::Overdue), ("m2".to_owned(), Lapse::Unheard)]
        );
        leases.take_up("egrn", &channel(&[]), 21, Phase::Delivered, 30_000);
        assert!(due(&mut leases, u64::MAX / 2).is_empty());
    }

    #[test]
    fn what_a_leader_handed_out_before_it_kept_clocks_is_not_acknowledged_yet() {
        let earlier = Token { term: 1, ..token(2) };
        let of_another =
            MessageState::Out { token: earlier, connector: "one".into(), instance: "a".into(), since_ms: 0 };
        let mut leases = Leases::default();
        leases.begin("egrn", &channel(&[out(1, 1), message(2, of_another)]), 7, 2, 0);
        assert_eq!(leases.count("egrn"), (1, 1));
        assert_eq!(leases.acknowledge("egrn", "one", ("m1", token(1)), ACK - 100), Ok(()));
        assert!(due(&mut leases, WORK - 1).is_empty());
        assert_eq!(due(&mut leases, WORK), [("m2".to_owned(), Lapse::Overdue)]);
        assert!(due(&mut leases, ACK - 101 + WORK).is_empty(), "its whole work time counts from here on");
        assert_eq!(due(&mut leases, ACK - 100 + WORK), [("m1".to_owned(), Lapse::Overdue)]);
        let mut leases = Leases::default();
        leases.begin("egrn", &channel(&[out(1, 1)]), 7, 2, 0);
        assert_eq!(due(&mut leases, ACK), [("m1".to_owned(), Lapse::Unheard)]);
    }

    #[test]
    fn one_command_takes_so_many_lapses_and_no_more() {
        let many: Vec<_> = (1..=100).map(|sequence| out(sequence, sequence)).collect();
        let mut leases = leases(&many, Phase::Delivered);
        assert_eq!(due(&mut leases, ACK).len(), ITEMS_MAX);
        assert_eq!(due(&mut leases, ACK).len(), 100 - ITEMS_MAX);
        assert!(due(&mut leases, ACK).is_empty());
    }
}
