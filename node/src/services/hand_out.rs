//! How messages of channels leave through this node: whose turn it is to ask a channel for more, who is attached, and how
//! much of a connector's haste is borne.
//!
//! A hand-out is a command to the channel, forwarded like any other, so a node asks only when it is worth it: when its own
//! rows show that something may leave, one asker a channel at a time. Pushes and pulls stand in the same line.
//!
//! Invariants:
//! - of one channel, certificate and instance there is one session on this node: the newest;
//! - a connector has at most [`CALLS_MAX`] calls and [`STREAMS_OF_ONE_MAX`] streams under way here, and attaches at most
//!   [`ATTACHES_MAX`] times a window;
//! - what is kept for a channel nobody asks about goes with the last that asked.

use super::desk::{Desk, WriteRequest};
use crate::{failure::Failure, front::CallContext};
use bytes::Bytes;
use okno_cluster::api::Proposer;
use okno_domain::{
    channel::{Command, Exchanged, Reply, Take, Verdict},
    entity::{CHANNELS_LEVEL, EntityRef, Kind, Principal},
    exchange::BodyRef,
    refusal::{CHANNEL_FOREIGN, CHANNEL_UNKNOWN, refuse},
    registry::{AnyCommand, AnyReply},
};
use okno_runtime::{
    call::{Call, CallResult},
    channels::{Ask, ChannelHead, Delivered, Keeper, Session, SessionName, Told, Worth},
};
use okno_storage::state::AppliedSlice;
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU32, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast::error::RecvError, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Calls of one connector under way on one node: several for each of its workers' verdicts.
const CALLS_MAX: usize = 32;
/// Streams one connector opens within [`ATTACH_WINDOW`]: a process that restarts attaches a few times; one that attaches in
/// a loop would cost everybody.
const ATTACHES_MAX: usize = 20;
const ATTACH_WINDOW: Duration = Duration::from_secs(10);
/// Streams of one certificate at a time: as many processes as share one channel's work on a node, several times over, and
/// far from all the streams a node has.
const STREAMS_OF_ONE_MAX: usize = 16;
/// Connectors remembered for this: as many as the settings of many channels name.
const GUARDED_MAX: usize = 4_096;
/// How long one hand-out may take: longer than electing a new leader.
const HAND_OUT_WITHIN: Duration = Duration::from_secs(10);
/// How long the leader is asked about a delivery.
pub const ASK_WITHIN: Duration = Duration::from_secs(5);
/// Who does not mean to wait waits this long for the turn all the same: those before ask the channel and are gone.
const TURN_WITHIN: Duration = Duration::from_secs(2);
/// A channel that had nothing is not asked again earlier, unless it moved.
const AGAIN_MIN: Duration = Duration::from_millis(50);
/// Nothing lets a channel sleep longer: clocks of nodes differ a little.
const LOOK_AFTER: Duration = Duration::from_secs(10);
/// How often sessions are told to the leader.
const TELL_EVERY: Duration = Duration::from_secs(2);

/// What a node knows of channels' traffic.
pub struct Traffic {
    pub keeper: Keeper,
    /// Pause between heartbeats of streams.
    pub heartbeat: Duration,
    /// Streams at a time.
    pub streams: Arc<Semaphore>,
    lines: Mutex<BTreeMap<String, Arc<Line>>>,
    sessions: Mutex<BTreeMap<(String, String, String), Attached>>,
    guards: Mutex<BTreeMap<String, Guard>>,
}

/// Where those stand who want messages of one channel.
struct Line {
    /// Log index of the last commit of the channel that was heard of.
    moved: watch::Sender<u64>,
    turn: tokio::sync::Mutex<Asked>,
}

/// What came of the last time somebody asked.
#[derive(Default)]
struct Asked {
    /// The state as of this index had nothing more.
    empty_at: u64,
    /// Unless it is this late, milliseconds since the epoch.
    again_ms: Option<i64>,
}

/// A session as the others see it.
#[derive(Clone)]
struct Attached {
    software: String,
    attached_ms: i64,
    shown: Arc<Shown>,
    /// Cancelled when a newer one has its place.
    replaced: CancellationToken,
}

/// What a session shows of itself.
#[derive(Debug, Default)]
pub struct Shown {
    pub heard_ms: AtomicI64,
    pub unacknowledged: AtomicU32,
    pub working: AtomicU32,
}

struct Guard {
    calls: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    attached: Vec<Instant>,
}

impl Guard {
    fn new() -> Self {
        Self {
            calls: Arc::new(Semaphore::new(CALLS_MAX)),
            streams: Arc::new(Semaphore::new(STREAMS_OF_ONE_MAX)),
            attached: Vec::new(),
        }
    }

    /// One that attaches in a loop is turned away, and one that has as many streams as it may, whatever its processes call
    /// themselves.
    fn attach(&mut self, now: Instant) -> Result<OwnedSemaphorePermit, Failure> {
        self.attached.retain(|at| now.duration_since(*at) < ATTACH_WINDOW);
        self.attached.push(now);
        // Bounded: one that goes on has as many again when the window is over.
        self.attached.truncate(ATTACHES_MAX + 1);
        if self.attached.len() > ATTACHES_MAX {
            return Err(Failure::NotApplied {
                reason: "CONNECTOR_LOOPS".into(),
                exhausted: true,
                retry_after: ATTACH_WINDOW,
                detail: "the connector attaches again and again".into(),
            });
        }
        self.streams.clone().try_acquire_owned().map_err(|_| {
            let detail = format!("the connector has {STREAMS_OF_ONE_MAX} streams here, as many as it may");
            Failure::exhausted("CONNECTORS_FULL", detail)
        })
    }
}

/// What was handed out, with everything that stands with it.
pub struct HandedOut {
    pub exchanged: Exchanged,
    /// Log index of the commit.
    pub index: u64,
}

/// A place among the attached; it is free again when this is dropped.
pub struct Place {
    traffic: Arc<Traffic>,
    name: (String, String, String),
    pub shown: Arc<Shown>,
    pub replaced: CancellationToken,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut sessions = self.traffic.sessions.lock();
        // A newer one may stand there already.
        if sessions.get(&self.name).is_some_and(|own| Arc::ptr_eq(&own.shown, &self.shown)) {
            sessions.remove(&self.name);
        }
    }
}

pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

impl Traffic {
    pub fn new(keeper: Keeper, heartbeat: Duration, streams_max: usize) -> Self {
        Self {
            keeper,
            heartbeat,
            streams: Arc::new(Semaphore::new(streams_max)),
            lines: Mutex::default(),
            sessions: Mutex::default(),
            guards: Mutex::default(),
        }
    }

    /// Takes the place of a session; the one before it there is told.
    pub fn attach(self: &Arc<Self>, channel: &str, connector: &str, instance: &str, software: &str) -> Place {
        let name = (channel.to_owned(), connector.to_owned(), instance.to_owned());
        let attached = Attached {
            software: software.to_owned(),
            attached_ms: now_ms(),
            shown: Arc::new(Shown { heard_ms: AtomicI64::new(now_ms()), ..Shown::default() }),
            replaced: CancellationToken::new(),
        };
        if let Some(before) = self.sessions.lock().insert(name.clone(), attached.clone()) {
            before.replaced.cancel();
        }
        let Attached { shown, replaced, .. } = attached;
        Place { traffic: self.clone(), name, shown, replaced }
    }

    /// Streams by channel.
    pub fn attached(&self) -> BTreeMap<String, usize> {
        let mut count = BTreeMap::new();
        for (channel, _, _) in self.sessions.lock().keys() {
            *count.entry(channel.clone()).or_insert(0) += 1;
        }
        count
    }

    /// One more call of this connector; too many are turned away.
    pub fn call_of(&self, connector: &str) -> Result<OwnedSemaphorePermit, Failure> {
        let calls = self.guard(connector, |guard| guard.calls.clone());
        calls
            .try_acquire_owned()
            .map_err(|_| Failure::exhausted("CONNECTOR_FLOODS", "the connector has too many calls under way"))
    }

    /// One more stream of this connector, while what it gives is kept.
    pub fn attach_of(&self, connector: &str) -> Result<OwnedSemaphorePermit, Failure> {
        self.guard(connector, |guard| guard.attach(Instant::now()))
    }

    fn guard<T>(&self, connector: &str, with: impl FnOnce(&mut Guard) -> T) -> T {
        let mut guards = self.guards.lock();
        if guards.len() >= GUARDED_MAX && !guards.contains_key(connector) {
            // Certificates are issued by us: so many at once are none that do anything.
            guards.retain(|_, guard| {
                guard.calls.available_permits() < CALLS_MAX
                    || guard.streams.available_permits() < STREAMS_OF_ONE_MAX
            });
        }
        with(guards.entry(connector.to_owned()).or_insert_with(Guard::new))
    }

    fn line(&self, channel: &str) -> Arc<Line> {
        let fresh = || Arc::new(Line { moved: watch::Sender::new(0), turn: tokio::sync::Mutex::default() });
        self.lines.lock().entry(channel.to_owned()).or_insert_with(fresh).clone()
    }

    /// Wakes those who wait for channels of this slice.
    fn applied(&self, slice: &AppliedSlice) {
        let entities = slice.entries.iter().filter(|entry| entry.moved);
        let lines = self.lines.lock();
        for (entity, index) in entities.filter_map(|entry| Some((entry.entity.as_ref()?, entry.index))) {
            if entity.kind() == Kind::Channel.name()
                && let Some(line) = lines.get(entity.id())
            {
                line.moved.send_replace(index);
            }
        }
    }

    fn wake_all(&self, index: u64) {
        for line in self.lines.lock().values() {
            line.moved.send_replace(index);
        }
    }

    /// Forgets lines in which nobody stands.
    fn forget_lines(&self) {
        self.lines.lock().retain(|_, line| Arc::strong_count(line) > 1);
    }

    fn sessions(&self) -> Vec<Session> {
        let sessions = self.sessions.lock();
        sessions
            .iter()
            .map(|((channel, connector, instance), attached)| Session {
                channel: channel.clone(),
                connector: connector.clone(),
                instance: instance.clone(),
                software: attached.software.clone(),
                attached_ms: attached.attached_ms,
                heard_ms: attached.shown.heard_ms.load(Ordering::Relaxed),
                unacknowledged: attached.shown.unacknowledged.load(Ordering::Relaxed),
                working: attached.shown.working.load(Ordering::Relaxed),
            })
            .collect()
    }

    /// Those that were told, and no newer ones that stand in their place by now.
    fn replace(&self, told: &[(SessionName, i64)]) {
        let sessions = self.sessions.lock();
        for (name, attached_ms) in told {
            if let Some(attached) = sessions.get(name).filter(|own| own.attached_ms == *attached_ms) {
                attached.replaced.cancel();
            }
        }
    }
}

/// Follows what applies, and tells the leader who is attached, until the node stops.
pub async fn follow(desk: Arc<Desk>) {
    let mut slices = desk.query.subscribe();
    let mut tell = tokio::time::interval(TELL_EVERY);
    tell.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut told_some = false;
    loop {
        tokio::select! {
            () = desk.stop.cancelled() => return,
            slice = slices.recv() => match slice {
                Ok(slice) => desk.traffic.applied(&slice),
                Err(RecvError::Lagged(_)) => desk.traffic.wake_all(desk.query.applied().0),
                Err(RecvError::Closed) => return,
            },
            _ = tell.tick() => {
                desk.traffic.forget_lines();
                let sessions = desk.traffic.sessions();
                // Once more when the last has gone, so that the leader need not wait for its silence.
                if !sessions.is_empty() || told_some {
                    told_some = !sessions.is_empty();
                    tokio::spawn(tell_leader(desk.clone(), sessions));
                }
            }
        }
    }
}

async fn tell_leader(desk: Arc<Desk>, sessions: Vec<Session>) {
    let ask = Ask::Present { node: desk.node_id, sessions };
    if let Some(Told::Replaced(told)) = desk.traffic.keeper.ask(ask, Instant::now() + TELL_EVERY).await {
        desk.traffic.replace(&told);
    }
}

impl Desk {
    /// Channels are there from their level on; below it nothing about them is forwarded (rule 9).
    pub async fn channels_allowed(&self, context: &CallContext) -> Result<(), Failure> {
        self.needs_level(context, CHANNELS_LEVEL).await
    }

    /// A channel as this node's rows have it.
    pub fn channel_head(&self, code: &str) -> Result<Option<ChannelHead>, Failure> {
        self.query.snapshot().and_then(|view| view.channel_head(code)).map_err(|error| self.unreadable(error))
    }

    /// The channel, if its settings name this connector.
    pub fn own_channel(&self, code: &str, connector: &str) -> Result<ChannelHead, Failure> {
        let unknown = || Failure::Refused(refuse(CHANNEL_UNKNOWN).with("channel", code));
        let head = self.channel_head(code)?.ok_or_else(unknown)?;
        if head.settings.connectors.iter().any(|own| own == connector) {
            return Ok(head);
        }
        Err(Failure::Refused(refuse(CHANNEL_FOREIGN).with("channel", code).with("connector", connector)))
    }

    /// Waits until it is this asker's turn and there is something to take, and takes it; `None`: `until` came before, or
    /// nothing is wanted any more.
    /// `want` is asked when the turn has come. The first hand-out goes under the name of the caller's request, if there is
    /// one; what is taken later has none the caller could ask for it by, and comes back if the answer is lost.
    pub async fn take(
        &self,
        (connector, instance): (&str, &str),
        channel: &str,
        want: impl Fn() -> Take,
        (mut named, until): (Option<WriteRequest>, Option<Instant>),
    ) -> Result<Option<HandedOut>, Failure> {
        let line = self.traffic.line(channel);
        let turn_until = until.map(|until| until.max(Instant::now() + TURN_WITHIN));
        loop {
            // What an earlier attempt was given stands in the memory of requests, whatever the channel has now.
            let again = named.as_ref().is_some_and(|named| named.attempt > 1);
            let mut moved = line.moved.subscribe();
            let pause = {
                let mut asked = match turn_until {
                    None => line.turn.lock().await,
                    Some(until) => match tokio::time::timeout_at(until.into(), line.turn.lock()).await {
                        Ok(asked) => asked,
                        Err(_) => return Ok(None),
                    },
                };
                let head = self.own_channel(channel, connector)?;
                match pause_of(&head, &asked).filter(|_| !again) {
                    None => {
                        let want = want();
                        if want.messages == 0 {
                            // It said goodbye while it stood here: what is there is for the next in line.
                            return Ok(None);
                        }
                        let handed =
                            self.exchange_own((connector, instance), channel, (want, named.take())).await?;
                        // So that the next in line looks at what this one left, and bodies are there.
                        self.wait_for_own(handed.index).await?;
                        if !handed.exchanged.handed.is_empty() {
                            return Ok(Some(handed));
                        }
                        asked.empty_at = handed.index.max(head.head_index);
                        asked.again_ms = handed.exchanged.again_ms;
                        pause_of(&head, &asked).unwrap_or(AGAIN_MIN)
                    }
                    Some(pause) => pause,
                }
            };
            let wake = Instant::now() + pause;
            tokio::select! {
                _ = moved.changed() => {}
                () = tokio::time::sleep_until(until.map_or(wake, |until| until.min(wake)).into()) => {}
                () = self.stop.cancelled() => return Ok(None),
            }
            if until.is_some_and(|until| Instant::now() >= until) {
                return Ok(None);
            }
        }
    }

    /// A hand-out alone.
    async fn exchange_own(
        &self,
        (connector, instance): (&str, &str),
        channel: &str,
        (take, named): (Take, Option<WriteRequest>),
    ) -> Result<HandedOut, Failure> {
        // Of a stream, or of a pull that waited: the id is used once, by this call.
        let (request_id, attempt, hash) = match named {
            Some(named) => (named.request_id, named.attempt, named.hash),
            None => (Uuid::now_v7(), 1, [0; 32]),
        };
        let call = Call {
            principal: Principal { kind: "connector".into(), id: connector.to_owned() },
            workstation: instance.to_owned(),
            request_id,
            attempt,
            hash,
            target: EntityRef { kind: Kind::Channel, id: channel.to_owned() },
            command: AnyCommand::Channel(Command::Exchange { verdicts: Vec::<Verdict>::new(), take }),
            deadline: Instant::now() + HAND_OUT_WITHIN,
            trace: String::new(),
        };
        match self.gateway.call(call).await {
            CallResult::Done { reply: AnyReply::Channel(Reply::Exchanged(exchanged)), index } => {
                Ok(HandedOut { exchanged: *exchanged, index })
            }
            CallResult::Done { .. } => Err(super::desk::wrong_reply()),
            CallResult::Refused(refusal) => Err(Failure::Refused(refusal)),
            CallResult::NotApplied { reason, retry_after_ms } => {
                let pause = Duration::from_millis(retry_after_ms);
                Err(Failure::not_applied(&reason, pause, "nothing was handed out"))
            }
            // What was handed out all the same comes back by the acknowledgement's time-out.
            CallResult::Unknown { reason } => Err(Failure::Unknown { reason }),
        }
    }

    /// Until this node has applied the commit it was told of.
    pub async fn wait_for_own(&self, index: u64) -> Result<(), Failure> {
        if self.cluster.applied_index() >= index {
            return Ok(());
        }
        let waited = self.cluster.wait_applied(index, Instant::now() + HAND_OUT_WITHIN).await;
        waited.map(|_| ()).map_err(|error| {
            Failure::not_applied("NODE_BEHIND", Duration::from_millis(500), error.to_string())
        })
    }

    /// The bytes of a body, proven; `None`: they are not here.
    pub fn body_bytes(&self, body: &BodyRef) -> Result<Option<Bytes>, Failure> {
        let read = self.query.snapshot().and_then(|view| view.body(body));
        read.map_err(|error| self.unreadable(error))
    }

    /// Says that deliveries arrived; a reason code for each that counts no longer.
    pub async fn acknowledge(
        &self,
        connector: &str,
        channel: &str,
        deliveries: Vec<Delivered>,
    ) -> Result<Vec<String>, Failure> {
        if deliveries.is_empty() {
            return Ok(Vec::new());
        }
        let (channel, connector) = (channel.to_owned(), connector.to_owned());
        match self.ask_leader(Ask::Acknowledge { channel, connector, deliveries }).await? {
            Told::Acknowledged(reasons) => Ok(reasons),
            _ => Err(super::desk::wrong_reply()),
        }
    }

    /// Asks the leader about deliveries.
    pub async fn ask_leader(&self, ask: Ask) -> Result<Told, Failure> {
        let told = self.traffic.keeper.ask(ask, Instant::now() + ASK_WITHIN).await;
        told.ok_or_else(|| {
            Failure::not_applied("NO_LEADER", Duration::from_millis(200), "nobody keeps leases at the moment")
        })
    }

    /// Says what a process has that attaches again: what else went to it is not waited for.
    pub async fn resume(&self, connector: &str, channel: &str, instance: &str, holds: Vec<Delivered>) {
        let (channel, connector, instance) = (channel.into(), connector.into(), instance.into());
        // If nobody hears it, the time of what is lost runs out by itself.
        let _told = self.ask_leader(Ask::Resumed { channel, connector, instance, holds }).await;
    }

    /// Says that the way to whoever has these is lost.
    pub async fn give_back(&self, connector: &str, channel: &str, deliveries: Vec<Delivered>, gone: bool) {
        if deliveries.is_empty() {
            return;
        }
        let (channel, connector) = (channel.to_owned(), connector.to_owned());
        // If nobody hears it, their time runs out by itself.
        let _told = self.ask_leader(Ask::Lost { channel, connector, deliveries, gone }).await;
    }
}

/// How long to wait before the channel is asked; `None`: not at all.
fn pause_of(head: &ChannelHead, asked: &Asked) -> Option<Duration> {
    let now = now_ms();
    let until = |at: i64| {
        let left = u64::try_from(at.saturating_sub(now)).unwrap_or(0);
        Duration::from_millis(left).clamp(AGAIN_MIN, LOOK_AFTER)
    };
    match head.worth_asking(now) {
        Worth::Moved => Some(LOOK_AFTER),
        Worth::At(at) => Some(until(at)),
        Worth::Now if head.head_index > asked.empty_at => None,
        Worth::Now => match asked.again_ms {
            Some(at) if at <= now => None,
            Some(at) => Some(until(at)),
            None => Some(LOOK_AFTER),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use okno_domain::channel::{Root, Settings};

    fn head(live: u32, out: u32, head_index: u64) -> ChannelHead {
        let mut root = Root::default();
        root.counts.live = live;
        root.counts.out = out;
        let settings = Arc::new(Settings { parallel: 4, ..Settings::default() });
        ChannelHead { code: "egrn".into(), root, settings, head_index, applied_index: head_index }
    }

    #[test]
    fn a_channel_is_asked_only_when_it_is_worth_it() {
        let never = Asked::default();
        assert_eq!(pause_of(&head(1, 0, 7), &never), None);
        assert_eq!(pause_of(&head(0, 0, 7), &never), Some(LOOK_AFTER), "nothing waits");
        assert_eq!(pause_of(&head(3, 3, 7), &never), Some(LOOK_AFTER), "all of it is out");
        assert_eq!(pause_of(&head(9, 4, 7), &never), Some(LOOK_AFTER), "no slot is free");
        let empty = Asked { empty_at: 7, again_ms: None };
        assert_eq!(pause_of(&head(1, 0, 7), &empty), Some(LOOK_AFTER), "asked in vain since it moved");
        assert_eq!(pause_of(&head(1, 0, 8), &empty), None, "it moved");
        let later = Asked { empty_at: 7, again_ms: Some(now_ms() + 3_000) };
        let pause = pause_of(&head(1, 0, 7), &later).expect("a pause");
        assert!(pause > Duration::from_secs(2) && pause <= Duration::from_secs(3), "{pause:?}");
        let due = Asked { empty_at: 7, again_ms: Some(now_ms() - 1) };
        assert_eq!(pause_of(&head(1, 0, 7), &due), None, "its time has come");
    }

    #[test]
    fn one_certificate_has_so_many_streams_and_attaches_so_often() {
        let mut guard = Guard::new();
        let (begin, mut streams) = (Instant::now(), Vec::new());
        for n in 0..u32::try_from(STREAMS_OF_ONE_MAX).expect("small") {
            streams.push(guard.attach(begin + ATTACH_WINDOW * n).expect("one of so many"));
        }
        let later = begin + ATTACH_WINDOW * 100;
        let full = guard.attach(later).expect_err("one too many");
        assert_eq!(full.reason(), "CONNECTORS_FULL");
        streams.pop();
        streams.push(guard.attach(later).expect("one has ended"));
        for _ in 2..ATTACHES_MAX {
            assert_eq!(guard.attach(later).expect_err("full again").reason(), "CONNECTORS_FULL");
        }
        streams.clear();
        assert_eq!(guard.attach(later).expect_err("too often").reason(), "CONNECTOR_LOOPS");
        assert!(guard.attach(later + ATTACH_WINDOW).is_ok(), "and after a while again");
    }
}
