//! What people at the workplaces must learn about the cluster (R-R1, R-R4): told to every attached workstation and
//! to whoever watches notices. Each node tells what it sees itself, so notices arrive without a leader too.

use crate::observability::alarms::Alarms;
use okno_cluster::{ClusterHandle, ClusterStatus, NodePhase, api::Role};
use okno_proto::v1;
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

/// Notices a slow reader may be behind before it is given the standing ones again.
const BEHIND_MAX: usize = 256;
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The node's notices. Invariant: `standing` holds the conditions that hold now, by their key.
pub struct Notices {
    state: Mutex<State>,
    told: broadcast::Sender<v1::Notice>,
}

#[derive(Default)]
struct State {
    sequence: u64,
    standing: BTreeMap<String, v1::Notice>,
}

/// A notice in words.
pub struct Words<'a> {
    pub severity: v1::Severity,
    pub kind: &'a str,
    pub russian: String,
    pub english: String,
}

impl Default for Notices {
    fn default() -> Self {
        Self { state: Mutex::default(), told: broadcast::channel(BEHIND_MAX).0 }
    }
}

impl Notices {
    /// Tells something that happened.
    pub fn tell(&self, words: &Words<'_>) {
        let notice = self.make(&mut self.state.lock(), words);
        // Nobody listens: nothing to do.
        let _ = self.told.send(notice);
    }

    /// Tells a condition that stands from now on under `key`, once.
    pub fn raise(&self, key: &str, words: &Words<'_>) {
        let mut state = self.state.lock();
        if !state.standing.contains_key(key) {
            let notice = self.make(&mut state, words);
            state.standing.insert(key.to_owned(), notice.clone());
            let _ = self.told.send(notice);
        }
    }

    /// Ends a condition and says so, if it stood.
    pub fn clear(&self, key: &str, words: &Words<'_>) {
        let mut state = self.state.lock();
        if state.standing.remove(key).is_some() {
            let notice = self.make(&mut state, words);
            let _ = self.told.send(notice);
        }
    }

    /// The standing notices, and all from now on.
    pub fn subscribe(&self) -> (Vec<v1::Notice>, broadcast::Receiver<v1::Notice>) {
        let state = self.state.lock();
        (state.standing.values().cloned().collect(), self.told.subscribe())
    }

    fn make(&self, state: &mut State, words: &Words<'_>) -> v1::Notice {
        state.sequence += 1;
        v1::Notice {
            sequence: state.sequence,
            time: Some(SystemTime::now().into()),
            severity: words.severity.into(),
            kind: words.kind.to_owned(),
            text_ru: words.russian.clone(),
            text_en: words.english.clone(),
            details: BTreeMap::new(),
        }
    }
}

/// Looks at the cluster until `stop` and tells what changes; what the cluster part alarms about becomes the node's
/// alarm.
pub async fn follow(
    cluster: Arc<ClusterHandle>,
    notices: Arc<Notices>,
    alarms: Arc<Alarms>,
    stop: CancellationToken,
) {
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut leader = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = look.tick() => {}
        }
        let status = cluster.status();
        if status.alarms.is_empty() {
            alarms.clear("cluster");
        } else {
            alarms.raise("cluster", &status.alarms.join("; "));
        }
        leader = compare(&status, leader, &notices);
    }
    notices.raise(
        "stopping",
        &Words {
            severity: v1::Severity::Warning,
            kind: "NODE_STOPPING",
            russian: "Сервер останавливается: рабочее место переключится на другой".into(),
            english: "the node is going down: attach to another".into(),
        },
    );
}

/// Tells the difference between the last look and this one; returns the leader known.
fn compare(status: &ClusterStatus, leader_before: Option<u64>, notices: &Notices) -> Option<u64> {
    let leader = match status.role {
        Role::Leader { .. } => Some(status.node_id),
        Role::Follower { leader } => leader,
        Role::Candidate => None,
    };
    let words = |severity, kind, russian: String, english: String| Words { severity, kind, russian, english };
    match leader {
        None => notices.raise(
            "no-leader",
            &words(
                v1::Severity::Warning,
                "NO_LEADER",
                "Нет ведущего сервера: запись временно недоступна".into(),
                "no leader is known: changes are not taken for the moment".into(),
            ),
        ),
        Some(id) => {
            notices.clear(
                "no-leader",
                &words(
                    v1::Severity::Info,
                    "LEADER_KNOWN",
                    format!("Ведущий сервер: {id}"),
                    format!("the leader is node {id}"),
                ),
            );
            if leader_before.is_some_and(|before| before != id) {
                notices.tell(&words(
                    v1::Severity::Info,
                    "LEADER_CHANGED",
                    format!("Ведущим стал сервер {id}"),
                    format!("node {id} leads now"),
                ));
            }
        }
    }
    for member in status.members.iter().filter(|member| member.id != status.node_id) {
        let key = format!("member-{}", member.id);
        let id = member.id;
        if member.connected {
            notices.clear(
                &key,
                &words(
                    v1::Severity::Info,
                    "MEMBER_UP",
                    format!("Связь с сервером {id} восстановлена"),
                    format!("node {id} is back"),
                ),
            );
        } else {
            notices.raise(
                &key,
                &words(
                    v1::Severity::Warning,
                    "MEMBER_DOWN",
                    format!("Нет связи с сервером {id}"),
                    format!("node {id} cannot be reached"),
                ),
            );
        }
    }
    if let NodePhase::Quarantined { reason, remedy } = &status.phase {
        notices.raise(
            "quarantined",
            &words(
                v1::Severity::Alarm,
                "NODE_QUARANTINED",
                format!("Сервер {} закрыт: данные не прошли проверку", status.node_id),
                format!("node {} is quarantined: {reason}. {remedy}", status.node_id),
            ),
        );
    }
    // The last known leader, so that a change over a gap is told as one.
    leader.or(leader_before)
}

#[cfg(test)]
mod tests {
    use super::*;
    use okno_cluster::MemberStatus;

    fn status(role: Role, connected: bool) -> ClusterStatus {
        let member = |id, connected| MemberStatus {
            id,
            address: String::new(),
            connected,
            match_index: None,
            applied: None,
            clock_offset_ms: None,
            feature_level: None,
            quarantined: false,
        };
        ClusterStatus {
            node_id: 1,
            cluster: uuid::Uuid::nil(),
            term: 1,
            leader: None,
            role,
            commit: 0,
            applied: 0,
            last_index: 0,
            members: vec![member(1, true), member(2, connected)],
            time_ms: 0,
            chain: [0; 32],
            phase: NodePhase::Serving,
            level: 1,
            alarms: Vec::new(),
        }
    }

    #[test]
    fn changes_are_told_once_and_conditions_stand() {
        let notices = Notices::default();
        let (standing, mut told) = notices.subscribe();
        assert!(standing.is_empty());
        let mut leader = None;
        for (role, connected) in [
            (Role::Follower { leader: Some(2) }, true),
            (Role::Follower { leader: Some(2) }, true),
            (Role::Candidate, false),
            (Role::Candidate, false),
            (Role::Leader { ready: true }, false),
            (Role::Leader { ready: true }, true),
        ] {
            leader = compare(&status(role, connected), leader, &notices);
        }
        let mut kinds = Vec::new();
        let mut last = 0;
        while let Ok(notice) = told.try_recv() {
            assert_eq!(notice.sequence, last + 1);
            last = notice.sequence;
            kinds.push(notice.kind);
        }
        assert_eq!(kinds, ["NO_LEADER", "MEMBER_DOWN", "LEADER_KNOWN", "LEADER_CHANGED", "MEMBER_UP"]);
        assert!(notices.subscribe().0.is_empty(), "nothing stands any more");
    }
}
