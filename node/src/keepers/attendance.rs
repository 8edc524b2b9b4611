//! Who attends the windows (R-R1): the leader listens to all nodes for the workstations attached to them, and tells an
//! office's queue when one whose window works is lost, and when it is back.
//!
//! Every node keeps the leases of its own workstations ([`crate::services::workstations`]) and tells the leader of them,
//! at once when one attaches and every [`TELL_EVERY`]. The leader's [`Ledger`] is memory on its monotonic clock; one that
//! begins to rule reads from the queues which windows had a workstation, and grants each a full lease to be heard of
//! again (design §5), and does so anew when it stood still itself. What follows is a command to the queue with the node as
//! its principal and the ledger's term, repeated until it is settled: both commands may be given twice, and those of
//! another term are refused. The ledger itself is pure ([`okno_runtime::attendance`]).

use crate::services::desk::Desk;
use bytes::Bytes;
use futures::{StreamExt, stream::FuturesUnordered};
use okno_cluster::api::{Proposer, Role};
use okno_domain::{
    entity::{EntityRef, Kind, Principal},
    queue::{Command, Share},
    registry::AnyCommand,
};
use okno_proto::peer::v1 as pb;
use okno_runtime::{
    attendance::{Ledger, is_final},
    call::{Call, CallResult},
    codec::WIRE_FORM_ATTENDANCE,
};
use okno_storage::level;
use parking_lot::Mutex;
use prost::Message;
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};

/// How often a node tells the leader of its workstations, unless one attaches or detaches.
const TELL_EVERY: Duration = Duration::from_secs(2);
/// At most so often all the same: a workstation that attaches in a loop makes no more of it.
const TELL_PAUSE: Duration = Duration::from_millis(200);
/// How often the leader looks who was not heard of.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Workstations told of at a time: some 64 KiB.
const TOLD_AT_ONCE_MAX: usize = 1_000;
/// Commands under way at a time: those of a node that is lost with all its workstations go in some turns.
const COMMANDS_MAX: usize = 64;
/// Of these to one queue: one that does not answer leaves the others theirs.
const COMMANDS_OF_OFFICE_MAX: usize = 4;
/// How long one command may take before it is given anew.
const COMMAND_WITHIN: Duration = Duration::from_secs(5);
/// When it is given anew.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How long a word to the leader may take.
const TELL_WITHIN: Duration = Duration::from_secs(2);

/// The leader's ledger, and who is told when there is something to do.
#[derive(Debug)]
pub struct Attendance {
    ledger: Mutex<Ledger>,
    news: Notify,
    /// The ledger counts from here.
    began: Instant,
}

impl Default for Attendance {
    fn default() -> Self {
        Self { ledger: Mutex::default(), news: Notify::new(), began: Instant::now() }
    }
}

impl Attendance {
    /// What another node tells.
    pub fn hear(&self, from: u64, told: &[u8]) {
        match pb::Attendance::decode(told) {
            Ok(told) => {
                self.take(told.attached.into_iter().map(|attached| {
                    (attached.workstation, Duration::from_millis(u64::from(attached.left_ms)))
                }))
            }
            Err(error) => {
                tracing::warn!(from, %error, "what a node tells of its workstations cannot be read")
            }
        }
    }

    /// What the leader listens for, and what it has yet to tell; nought elsewhere.
    pub fn figures(&self) -> Vec<(&'static str, f64)> {
        let ledger = self.ledger.lock();
        vec![("workstations", ledger.heard() as f64), ("untold", ledger.wanted().len() as f64)]
    }

    fn now_ms(&self) -> u64 {
        millis(self.began.elapsed())
    }

    fn take(&self, standing: impl IntoIterator<Item = (String, Duration)>) {
        let mut ledger = self.ledger.lock();
        let before = ledger.wanted().len();
        ledger.hear(standing.into_iter().map(|(name, left)| (name, millis(left))), self.now_ms());
        if ledger.wanted().len() != before {
            self.news.notify_one();
        }
    }
}

/// Tells the leader of this node's workstations until the node stops.
pub async fn tell(desk: Arc<Desk>, attendance: Arc<Attendance>) {
    let mut roles = desk.cluster.roles();
    loop {
        if desk.cluster.level() >= level::QUEUE {
            tell_once(&desk, &attendance).await;
        }
        tokio::select! {
            () = desk.stop.cancelled() => return,
            () = tokio::time::sleep(TELL_EVERY) => continue,
            () = desk.leases.changed() => {}
            // A new leader listens.
            changed = roles.changed() => if changed.is_err() { return },
        }
        tokio::time::sleep(TELL_PAUSE).await;
    }
}

async fn tell_once(desk: &Desk, attendance: &Attendance) {
    let world = desk.query.world();
    let standing: Vec<(String, Duration)> = desk
        .leases
        .standing(Instant::now())
        .into_iter()
        .filter(|(name, _)| world.directory.window_of(name).is_some())
        .collect();
    match desk.cluster.role().role {
        Role::Leader { .. } => attendance.take(standing),
        Role::Follower { leader: Some(leader) } => {
            for some in standing.chunks(TOLD_AT_ONCE_MAX) {
                let attached = some.iter().map(|(name, left)| pb::AttachedWorkstation {
                    workstation: name.clone(),
                    left_ms: u32::try_from(left.as_millis()).unwrap_or(u32::MAX),
                });
                let mut payload = vec![WIRE_FORM_ATTENDANCE];
                payload.extend(pb::Attendance { attached: attached.collect() }.encode_to_vec());
                let deadline = std::time::Instant::now() + TELL_WITHIN;
                // Said again soon, to whoever leads then.
                if let Err(error) = desk.cluster.forward(leader, Bytes::from(payload), deadline).await {
                    tracing::debug!(leader, ?error, "the leader was not told of the workstations here");
                    return;
                }
            }
        }
        Role::Follower { leader: None } | Role::Candidate => {}
    }
}

/// A command that is under way: one at a time for a workstation, so that its queue hears them in their order.
#[derive(Debug, Clone)]
struct Word {
    term: u64,
    workstation: String,
    office: String,
    window: String,
    there: bool,
}

/// Keeps the ledger while this node leads, and tells queues what follows from it, until the node stops.
pub async fn keep(desk: Arc<Desk>, attendance: Arc<Attendance>) {
    let mut under_way = FuturesUnordered::new();
    let mut telling: BTreeMap<String, Word> = BTreeMap::new();
    // Those whose queue was not reached, or has refused: until when they wait.
    let mut waiting: BTreeMap<String, Instant> = BTreeMap::new();
    loop {
        let term = desk.cluster.role().leading_term().filter(|_| desk.cluster.level() >= level::QUEUE);
        match term {
            None => {
                *attendance.ledger.lock() = Ledger::default();
                waiting.clear();
            }
            Some(term) if attendance.ledger.lock().term() != Some(term) => {
                let expected = tokio::task::block_in_place(|| expected(&desk));
                let lease_ms = millis(desk.leases.lease());
                attendance.ledger.lock().begin(term, expected, lease_ms, attendance.now_ms());
                // Those attached here need not wait for the next word.
                tell_once(&desk, &attendance).await;
            }
            Some(term) => {
                let wanted = {
                    let mut ledger = attendance.ledger.lock();
                    ledger.look(attendance.now_ms());
                    ledger.wanted().clone()
                };
                waiting.retain(|name, _| wanted.contains_key(name));
                for word in next_words(&desk, &attendance, term, wanted, &telling, &waiting) {
                    telling.insert(word.workstation.clone(), word.clone());
                    let desk = &desk;
                    under_way.push(async move {
                        let told = command(desk, &word).await;
                        (word, told)
                    });
                }
            }
        }
        tokio::select! {
            () = desk.stop.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = attendance.news.notified() => {}
            Some((word, told)) = under_way.next(), if !under_way.is_empty() => {
                telling.remove(&word.workstation);
                hear_answer(&attendance, &word, told, &mut waiting);
            }
        }
    }
}

/// What is to be said now: nothing of those of whom something is being said, and not too much to one queue.
fn next_words(
    desk: &Desk,
    attendance: &Attendance,
    term: u64,
    wanted: BTreeMap<String, bool>,
    telling: &BTreeMap<String, Word>,
    waiting: &BTreeMap<String, Instant>,
) -> Vec<Word> {
    let now = Instant::now();
    let world = desk.query.world();
    let mut of_office: BTreeMap<String, usize> = BTreeMap::new();
    telling.values().for_each(|word| *of_office.entry(word.office.clone()).or_default() += 1);
    let mut words = Vec::new();
    for (workstation, there) in wanted {
        if telling.len() + words.len() >= COMMANDS_MAX {
            break;
        }
        if telling.contains_key(&workstation) || waiting.get(&workstation).is_some_and(|until| *until > now) {
            continue;
        }
        let Some(window) = world.directory.window_of(&workstation) else {
            // Taken away from its window meanwhile: nobody's business any more.
            attendance.ledger.lock().settled(term, &workstation, there);
            continue;
        };
        let under_way = of_office.entry(window.office.clone()).or_default();
        if *under_way < COMMANDS_OF_OFFICE_MAX {
            *under_way += 1;
            let (office, window) = (window.office.clone(), window.number.clone());
            words.push(Word { term, workstation, office, window, there });
        }
    }
    words
}

/// What a queue answered. Only one that knows it, or that has no such window, is not told again.
fn hear_answer(
    attendance: &Attendance,
    word: &Word,
    answer: CallResult,
    waiting: &mut BTreeMap<String, Instant>,
) {
    let Word { term, workstation, office, window, there } = word;
    match answer {
        CallResult::Done { .. } => {
            tracing::info!(workstation, office, window, there, "a window's workstation");
        }
        // The window or its office went with the directory's last change.
        CallResult::Refused(refusal) if is_final(&refusal.reason) => {
            tracing::warn!(
                workstation,
                office,
                window,
                reason = refusal.reason,
                "a workstation without a window"
            );
        }
        CallResult::Refused(refusal) => {
            // A parked queue is told when it is released; a word of a term that is over, by the next ledger.
            if waiting.insert(workstation.clone(), Instant::now() + AGAIN_AFTER).is_none() {
                let reason = refusal.reason;
                tracing::warn!(
                    workstation,
                    office,
                    window,
                    reason,
                    "a queue refuses to hear of a workstation"
                );
            }
            return;
        }
        CallResult::NotApplied { .. } | CallResult::Unknown { .. } => {
            waiting.insert(workstation.clone(), Instant::now() + AGAIN_AFTER);
            return;
        }
    }
    attendance.ledger.lock().settled(*term, workstation, *there);
}

/// Milliseconds of a span; no span here is longer than they can say.
fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// The workstations whose windows say that they had a lease. A queue that cannot be read is passed over: its windows are
/// listened for as soon as their workstations are heard of, and whoever reads it next for a client learns what is wrong.
fn expected(desk: &Desk) -> BTreeSet<String> {
    let world = desk.query.world();
    let mut expected = BTreeSet::new();
    for office in world.directory.offices() {
        let queue = match desk.query.queue(&office.code, Share::Windows) {
            Ok(Some(queue)) => queue,
            Ok(None) => continue,
            Err(error) => {
                let (office, error) = (&office.code, crate::observability::chain(&error));
                tracing::error!(office, error, "the workstations of an office's windows cannot be read");
                continue;
            }
        };
        let leased = queue.value.desks().filter(|desk| desk.leased);
        let windows = leased.filter_map(|desk| world.directory.window(&office.code, &desk.window));
        expected.extend(windows.map(|window| window.workstation.clone()).filter(|name| !name.is_empty()));
    }
    expected
}

/// Tells a window's queue whether somebody attends it.
async fn command(desk: &Desk, word: &Word) -> CallResult {
    let (window, term) = (word.window.clone(), word.term);
    let command =
        if word.there { Command::Attended { window, term } } else { Command::Unattended { window, term } };
    let request_id = desk.query.request_id();
    let call = Call {
        principal: Principal { kind: "node".to_owned(), id: desk.node_id.to_string() },
        workstation: word.workstation.clone(),
        request_id,
        attempt: 1,
        hash: Sha256::digest(request_id.as_bytes()).into(),
        target: EntityRef { kind: Kind::Queue, id: word.office.clone() },
        command: AnyCommand::Queue(command),
        deadline: std::time::Instant::now() + COMMAND_WITHIN,
        trace: String::new(),
    };
    desk.gateway.call(call).await
}
