//! What people at the workplaces must learn about the cluster (R-R1, R-R4): told to every attached workstation and
//! to whoever watches notices. Each node tells what it sees itself, so notices arrive without a leader too.

use crate::observability::{
    alarms::{Alarms, Severity, Standing, kinds},
    security::SecurityLog,
};
use okno_cluster::{ClusterHandle, ClusterStatus, MemberAlarm, MemberAlarms, NodePhase, api::Role};
use okno_proto::v1;
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

/// Notices a slow reader may be behind before it is given the standing ones again.
const BEHIND_MAX: usize = 256;
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Kind of the notice that a told alarm is over.
const ALARM_OVER: &str = "ALARM_OVER";

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
/// alarm, and so does a security log that takes nothing in.
pub async fn follow(
    cluster: Arc<ClusterHandle>,
    notices: Arc<Notices>,
    alarms: Arc<Alarms>,
    security: SecurityLog,
    stop: CancellationToken,
) {
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut leader = None;
    let mut told = BTreeSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = look.tick() => {}
        }
        let status = cluster.status();
        follow_cluster(&status, &alarms);
        let unrecorded =
            security.is_failed().then(|| "it cannot be written: the node's log says why".to_owned());
        alarms.set(kinds::SECURITY_LOG, unrecorded);
        cluster.set_alarms(to_members(&alarms));
        tell_alarms(&cluster.alarms(), status.node_id, &mut told, &notices);
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

/// What the cluster part sees becomes alarms of this node.
fn follow_cluster(status: &ClusterStatus, alarms: &Alarms) {
    const FOLLOWED: [&str; 4] =
        [kinds::CLOCK_DEVIATES, kinds::CLOCK_STEP, kinds::HASH_DIFFERS, kinds::HASH_TIE];
    for kind in FOLLOWED {
        let words: Vec<&str> = status
            .alarms
            .iter()
            .map(|text| kinds::of_text(text))
            .filter_map(|(row, words)| row.filter(|row| row.kind == kind).map(|_| words))
            .collect();
        alarms.set(kind, (!words.is_empty()).then(|| words.join("; ")));
    }
    let away: Vec<String> = status
        .members
        .iter()
        .filter(|member| member.id != status.node_id && !member.connected)
        .map(|member| member.id.to_string())
        .collect();
    alarms.set(
        kinds::MEMBER_DOWN,
        (!away.is_empty()).then(|| format!("cannot be reached: node {}", away.join(", "))),
    );
    let quarantined = match &status.phase {
        NodePhase::Quarantined { reason, remedy } => Some(format!("{reason}. {remedy}")),
        _ => None,
    };
    alarms.set(kinds::NODE_QUARANTINED, quarantined);
    let leaderless = matches!(status.role, Role::Candidate | Role::Follower { leader: None });
    alarms.set(kinds::NO_LEADER, leaderless.then(|| "no leader is known to this node".to_owned()));
}

/// This node's alarms as the members are told of them.
fn to_members(alarms: &Alarms) -> Vec<MemberAlarm> {
    let standing = alarms.list().into_iter();
    standing
        .map(|Standing { alarm, since }| {
            let since = since.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            MemberAlarm {
                kind: alarm.kind.into_owned(),
                severity: alarm.severity as u8,
                since_ms: i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
                text_ru: alarm.text_ru,
                text_en: alarm.reason,
            }
        })
        .collect()
}

/// Tells workstations of alarms that people must know, whichever member they stand on; `told` are those whose notice
/// stands.
fn tell_alarms(
    members: &[MemberAlarms],
    own: u64,
    told: &mut BTreeSet<(&'static str, u64)>,
    notices: &Notices,
) {
    let mut standing = BTreeSet::new();
    for member in members {
        for alarm in &member.alarms {
            // What a newer member made up is told by those who know it.
            let Some(row) = kinds::find(&alarm.kind).filter(|row| row.tell) else { continue };
            standing.insert((row.kind, member.node));
            if !told.insert((row.kind, member.node)) {
                continue;
            }
            let severity = match Severity::of_number(alarm.severity) {
                Severity::Warning => v1::Severity::Warning,
                Severity::Alarm => v1::Severity::Alarm,
            };
            let (russian, english) = if member.node == own {
                (alarm.text_ru.clone(), alarm.text_en.clone())
            } else {
                let node = member.node;
                (format!("Сервер {node}: {}", alarm.text_ru), format!("node {node}: {}", alarm.text_en))
            };
            let words = Words { severity, kind: row.kind, russian, english };
            notices.raise(&key_of(row.kind, member.node), &words);
        }
    }
    let over: Vec<_> = told.difference(&standing).copied().collect();
    for (kind, node) in over {
        told.remove(&(kind, node));
        let text = kinds::find(kind).map_or(kind, |row| row.text_ru);
        notices.clear(
            &key_of(kind, node),
            &Words {
                severity: v1::Severity::Info,
                kind: ALARM_OVER,
                russian: format!("Снято (сервер {node}): {text}"),
                english: format!("over on node {node}: {kind}"),
            },
        );
    }
}

fn key_of(kind: &str, node: u64) -> String {
    format!("alarm-{kind}-{node}")
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
            learner: false,
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
    fn alarms_people_must_know_are_told_with_their_end() {
        let (alarms, notices, mut told) = (Alarms::default(), Notices::default(), BTreeSet::new());
        let (_, mut heard) = notices.subscribe();
        let members = |alarms: &Alarms| {
            [
                MemberAlarms { node: 1, heard_ms_ago: 0, alarms: to_members(alarms) },
                MemberAlarms { node: 2, heard_ms_ago: 90, alarms: to_members(alarms) },
            ]
        };
        alarms.raise((kinds::DISK_FULL, "3 % free"));
        alarms.raise((kinds::BACKUP_OVERDUE, "30 h"));
        tell_alarms(&members(&alarms), 1, &mut told, &notices);
        tell_alarms(&members(&alarms), 1, &mut told, &notices);
        assert_eq!(notices.subscribe().0.len(), 2, "they stand for whoever attaches later");
        alarms.clear(kinds::DISK_FULL);
        tell_alarms(&members(&alarms), 1, &mut told, &notices);
        let mut texts = Vec::new();
        while let Ok(notice) = heard.try_recv() {
            texts.push((notice.kind, notice.text_en));
        }
        let text = |kind: &str, text: &str| (kind.to_owned(), text.to_owned());
        assert_eq!(
            texts,
            [
                text("DISK_FULL", "3 % free"),
                text("DISK_FULL", "node 2: 3 % free"),
                text("ALARM_OVER", "over on node 1: DISK_FULL"),
                text("ALARM_OVER", "over on node 2: DISK_FULL"),
            ]
        );
        assert!(notices.subscribe().0.is_empty());
    }

    #[test]
    fn what_the_cluster_sees_becomes_alarms() {
        let alarms = Alarms::default();
        let mut seen = status(Role::Candidate, false);
        seen.alarms = vec!["HASH_DIFFERS: node 3, rows at index 7".into()];
        follow_cluster(&seen, &alarms);
        let list = alarms.list();
        let found: Vec<&str> = list.iter().map(|one| &*one.alarm.kind).collect();
        assert_eq!(found, ["HASH_DIFFERS", "MEMBER_DOWN", "NO_LEADER"]);
        assert_eq!(list[1].alarm.reason, "cannot be reached: node 2");
        follow_cluster(&status(Role::Leader { ready: true }, true), &alarms);
        assert!(alarms.list().is_empty(), "{:?}", alarms.list());
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
