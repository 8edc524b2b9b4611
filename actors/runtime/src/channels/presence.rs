//! Which connectors are attached to which node, as the nodes tell the leader. Pure.
//!
//! Invariants:
//! - of sessions with one channel, certificate and instance the newest stays, whichever node it is attached to;
//! - what was not told again for [`FORGET_MS`] is not there any more;
//! - a node tells at most [`SESSIONS_MAX`] sessions, so that the table is bounded by the members.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Five times the pause between two tellings.
pub const FORGET_MS: u64 = 10_000;
/// Sessions one node may have; with the longest names they fit one message between nodes.
pub const SESSIONS_MAX: usize = 512;

/// One attached process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    pub channel: String,
    /// Id of its certificate.
    pub connector: String,
    pub instance: String,
    /// Name and version, for people.
    pub software: String,
    /// By the clock of its node, milliseconds since the Unix epoch.
    pub attached_ms: i64,
    pub heard_ms: i64,
    /// Deliveries it has not acknowledged, and those it works on.
    pub unacknowledged: u32,
    pub working: u32,
}

/// Channel, certificate, instance.
pub type SessionName = (String, String, String);

impl Session {
    pub fn name(&self) -> SessionName {
        (self.channel.clone(), self.connector.clone(), self.instance.clone())
    }
}

#[derive(Debug, Clone)]
struct Present {
    node: u64,
    session: Session,
    /// Monotonic, milliseconds.
    told_ms: u64,
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Presence {
    sessions: BTreeMap<SessionName, Present>,
}

impl Presence {
    /// A node tells all its sessions. Those that a newer one has replaced are named back, each with when it
    /// attached: under its name there may be a third by the time its node hears of it.
    pub fn told(&mut self, node: u64, sessions: Vec<Session>, now_ms: u64) -> Vec<(SessionName, i64)> {
        self.sessions.retain(|_, present| present.node != node && present.told_ms + FORGET_MS > now_ms);
        let mut replaced = Vec::new();
        for session in sessions.into_iter().take(SESSIONS_MAX) {
            let name = session.name();
            let newer = self
                .sessions
                .get(&name)
                .is_some_and(|other| (other.session.attached_ms, other.node) > (session.attached_ms, node));
            if newer {
                replaced.push((name, session.attached_ms));
            } else {
                self.sessions.insert(name, Present { node, session, told_ms: now_ms });
            }
        }
        replaced
    }

    /// Who is attached to a channel, each with its node.
    pub fn of(&self, channel: &str, now_ms: u64) -> Vec<(u64, Session)> {
        self.sessions
            .values()
            .filter(|present| present.session.channel == channel && present.told_ms + FORGET_MS > now_ms)
            .map(|present| (present.node, present.session.clone()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(instance: &str, attached_ms: i64) -> Session {
        Session {
            channel: "egrn".into(),
            connector: "egrn-1".into(),
            instance: instance.into(),
            software: "test".into(),
            attached_ms,
            heard_ms: attached_ms,
            unacknowledged: 0,
            working: 0,
        }
    }

    #[test]
    fn the_newer_of_two_streams_stays_and_silence_is_forgotten() {
        let mut presence = Presence::default();
        assert!(presence.told(1, vec![session("a", 10), session("b", 10)], 0).is_empty());
        assert!(presence.told(2, vec![session("a", 20)], 1).is_empty(), "the newer one takes the place");
        assert_eq!(
            presence.told(1, vec![session("a", 10), session("b", 10)], 2),
            [(session("a", 10).name(), 10)]
        );
        let attached: Vec<_> =
            presence.of("egrn", 3).into_iter().map(|(node, s)| (node, s.instance)).collect();
        assert_eq!(attached, [(2, "a".to_owned()), (1, "b".to_owned())]);
        assert!(presence.of("other", 3).is_empty());
        // The same node again with less: what is gone is gone.
        presence.told(1, Vec::new(), 4);
        assert_eq!(presence.of("egrn", 4).len(), 1);
        assert!(presence.of("egrn", 1 + FORGET_MS).is_empty(), "a node that fell silent");
    }
}
