//! The task that keeps the leader's leases: it follows channels as they apply, says what has run out, and answers what
//! nodes ask (supervised like courier and scanner).
//!
//! Invariants:
//! - what it knows is of one term; when leadership ends it is forgotten, and the next leader grants every delivery one
//!   full work time;
//! - an answer is given from commits up to the moment it was asked: a delivery that applied is known;
//! - one lapse a channel is under way at a time;
//! - no rows are read while the state is locked: what was read is merged afterwards, and counts only if it is of the same
//!   term and newer than what is known.

use super::{
    leases::{Leases, Phase},
    presence::Presence,
    wire::{self, Ask, Delivered, Told},
};
use crate::{
    call::{Call, CallResult},
    end::End,
    gateway::{Forwarder, Gateway},
    query::{Query, Read},
    shell::Clock,
};
use bytes::Bytes;
use futures::future::BoxFuture;
use okno_cluster::{
    ForwardHandler, NodeId,
    api::{Proposer, Role},
};
use okno_domain::{
    channel::{Channel, Command, Lapsed},
    entity::{CHANNELS_LEVEL, EntityRef, Principal},
    registry::{AnyCommand, AnyEvent, Kind},
};
use okno_storage::{
    error::StorageError,
    state::{AppliedSlice, StateReader},
};
use parking_lot::Mutex;
use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::broadcast::{self, error::RecvError};

/// Deadlines are looked at so often: a twentieth of the shortest time to acknowledge is not noticed.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Pause before the leader is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(50);
/// A lapse that takes longer is given up, and said again.
const LAPSE_WITHIN: Duration = Duration::from_secs(5);
/// Commits of one channel read at a time.
const HISTORY_PAGE: usize = 256;
/// Channels listed at a time.
const LIST_PAGE: usize = 256;

struct State {
    /// Of the leadership that all of this belongs to.
    term: Option<u64>,
    leases: Leases,
    presence: Presence,
    lapsing: BTreeSet<String>,
}

struct Inner {
    proposer: Arc<dyn Proposer>,
    forwarder: Arc<dyn Forwarder>,
    gateway: Gateway,
    query: Query,
    reader: StateReader,
    clock: Clock,
    principal: Principal,
    state: Mutex<State>,
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Keeper(Arc<Inner>);

/// What a keeper is made of.
pub(crate) struct KeeperParts {
    pub proposer: Arc<dyn Proposer>,
    pub forwarder: Arc<dyn Forwarder>,
    pub gateway: Gateway,
    pub query: Query,
    pub reader: StateReader,
    pub clock: Clock,
    /// `node/<id>`.
    pub principal: Principal,
}

/// Deliveries of one channel, for metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeeperFigures {
    pub channel: String,
    /// Not acknowledged yet, and worked on.
    pub delivered: usize,
    pub working: usize,
}

impl Keeper {
    pub(crate) fn new(parts: KeeperParts) -> Self {
        let KeeperParts { proposer, forwarder, gateway, query, reader, clock, principal } = parts;
        let state = State {
            term: None,
            leases: Leases::default(),
            presence: Presence::default(),
            lapsing: BTreeSet::new(),
        };
        let state = Mutex::new(state);
        Self(Arc::new(Inner { proposer, forwarder, gateway, query, reader, clock, principal, state }))
    }

    /// Runs until the node stops. `Err`: storage failed.
    pub(crate) async fn run(self) -> Result<(), End> {
        let mut slices = self.0.query.subscribe();
        // After a restart everything is read again: what applied meanwhile was not heard.
        let known = self.0.state.lock().term.take();
        self.follow_role(known)?;
        let mut roles = self.0.proposer.roles();
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                changed = roles.changed() => if changed.is_err() { return Ok(()) },
                slice = slices.recv() => match slice {
                    Ok(slice) => self.applied(&slice, &mut slices)?,
                    Err(RecvError::Lagged(_)) => self.read_all_again()?,
                    Err(RecvError::Closed) => return Ok(()),
                },
                _ = look.tick() => self.say_what_ran_out(),
            }
            self.follow_role(None)?;
        }
    }

    /// Begins or ends with the leadership. `known`: the term in which clocks were kept before a restart.
    fn follow_role(&self, known: Option<u64>) -> Result<(), End> {
        let term = self.0.proposer.role().leading_term();
        if self.0.state.lock().term == term {
            return Ok(());
        }
        let mut leases = Leases::default();
        if let Some(term) = term
            && self.0.reader.level() >= CHANNELS_LEVEL
        {
            let take_up = |code: &str, read: &Read<Channel>| {
                let now_ms = self.0.clock.now_ms();
                if known == Some(term) {
                    // Who had acknowledged will not do so again.
                    leases.take_up(code, &read.value, read.head_index, Phase::Working, now_ms);
                } else {
                    leases.begin(code, &read.value, read.head_index, term, now_ms);
                }
            };
            blocking(|| self.each_channel(take_up)).map_err(end)?;
        }
        let mut state = self.0.state.lock();
        *state = State { term, leases, presence: Presence::default(), lapsing: BTreeSet::new() };
        Ok(())
    }

    /// Reads every channel with its backlog.
    fn each_channel(&self, mut with: impl FnMut(&str, &Read<Channel>)) -> Result<(), StorageError> {
        let snapshot = self.0.query.snapshot()?;
        let mut after: Option<String> = None;
        loop {
            let codes = snapshot.channels(after.as_deref(), LIST_PAGE)?;
            let ended = codes.len() < LIST_PAGE;
            for code in &codes {
                if let Some(read) = snapshot.entity::<Channel>(code)? {
                    with(code, &read);
                }
            }
            after = codes.into_iter().next_back();
            if ended {
                return Ok(());
            }
        }
    }

    /// What was read of a channel; its deliveries that are not known are new, for nobody can have acknowledged them yet.
    fn merge(&self, term: u64, code: &str, read: &Read<Channel>) {
        let mut state = self.0.state.lock();
        // Somebody who asked may have led on further meanwhile.
        let newer = state.leases.through(code).is_none_or(|through| through < read.head_index);
        if state.term == Some(term) && newer {
            let now_ms = self.0.clock.now_ms();
            state.leases.take_up(code, &read.value, read.head_index, Phase::Delivered, now_ms);
        }
    }

    /// Commits were missed.
    fn read_all_again(&self) -> Result<(), End> {
        let Some(term) = self.0.state.lock().term else { return Ok(()) };
        blocking(|| self.each_channel(|code, read| self.merge(term, code, read))).map_err(end)
    }

    /// Takes in the channels that moved in this slice and in those that wait behind it.
    fn applied(
        &self,
        slice: &AppliedSlice,
        slices: &mut broadcast::Receiver<Arc<AppliedSlice>>,
    ) -> Result<(), End> {
        let mut moved = BTreeSet::new();
        gather(slice, &mut moved);
        loop {
            match slices.try_recv() {
                Ok(slice) => gather(&slice, &mut moved),
                Err(broadcast::error::TryRecvError::Lagged(_)) => return self.read_all_again(),
                Err(_) => break,
            }
        }
        if moved.is_empty() {
            return Ok(());
        }
        let Some(term) = self.0.state.lock().term else { return Ok(()) };
        blocking(|| moved.iter().try_for_each(|code| self.catch_up(term, code))).map_err(end)
    }

    /// Takes in what applied of one channel. Others may do the same at the same time: a commit counts once, in its order,
    /// for whoever reads begins no later than where the state is.
    fn catch_up(&self, term: u64, code: &str) -> Result<(), StorageError> {
        let through = self.0.state.lock().leases.through(code);
        let snapshot = self.0.query.snapshot()?;
        let Some(mut after) = through else {
            if let Some(read) = snapshot.entity::<Channel>(code)? {
                self.merge(term, code, &read);
            }
            return Ok(());
        };
        let this = EntityRef { kind: Kind::Channel, id: code.to_owned() };
        loop {
            let commits = snapshot.history(&this, after, HISTORY_PAGE)?;
            let mut state = self.0.state.lock();
            if state.term != Some(term) {
                return Ok(());
            }
            for commit in &commits {
                let events: Vec<_> = commit
                    .events
                    .iter()
                    .filter_map(|event| match event {
                        AnyEvent::Channel(event) => Some(event.clone()),
                        _ => None,
                    })
                    .collect();
                state.leases.moved(code, commit.index, &events, self.0.clock.now_ms());
                after = commit.index;
            }
            drop(state);
            if commits.len() < HISTORY_PAGE {
                return Ok(());
            }
        }
    }

    fn say_what_ran_out(&self) {
        let mut state = self.0.state.lock();
        let State { term: Some(term), leases, lapsing, .. } = &mut *state else { return };
        for (code, lapsed) in leases.due(self.0.clock.now_ms(), lapsing) {
            lapsing.insert(code.clone());
            tokio::spawn(self.clone().lapse(code, lapsed, *term));
        }
    }

    /// A lapse that is not applied is said again. The token makes it harmless once the delivery is over, the term once
    /// somebody else leads, whose clock knows more.
    async fn lapse(self, code: String, lapsed: Vec<Lapsed>, term: u64) {
        let count = lapsed.len();
        let call = Call {
            principal: self.0.principal.clone(),
            workstation: String::new(),
            request_id: self.0.query.request_id(),
            attempt: 1,
            // The id is used once, by this call.
            hash: [0; 32],
            target: EntityRef { kind: Kind::Channel, id: code.clone() },
            command: AnyCommand::Channel(Command::Lapse { lapsed, term }),
            deadline: Instant::now() + LAPSE_WITHIN,
            trace: String::new(),
        };
        match self.0.gateway.call(call).await {
            CallResult::Done { .. } => tracing::debug!(channel = code, count, "deliveries lapsed"),
            other => tracing::info!(channel = code, count, ?other, "deliveries did not lapse; said again"),
        }
        self.0.state.lock().lapsing.remove(&code);
    }

    /// Asks the leader, whoever it is; `None`: nobody answered in time.
    pub async fn ask(&self, ask: Ask, deadline: Instant) -> Option<Told> {
        loop {
            let told = match self.0.proposer.role().role {
                Role::Leader { ready: true } => self.answer(ask.clone()),
                Role::Follower { leader: Some(leader) } => self.forward(leader, &ask, deadline).await,
                Role::Follower { leader: None } | Role::Candidate | Role::Leader { ready: false } => {
                    Told::NotLeading
                }
            };
            if told != Told::NotLeading {
                return Some(told);
            }
            if Instant::now() + ASK_AGAIN >= deadline {
                return None;
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    async fn forward(&self, to: NodeId, ask: &Ask, deadline: Instant) -> Told {
        let Some(payload) = wire::encode_ask(ask) else { return Told::NotLeading };
        let answer = self.0.forwarder.forward(to, payload, deadline).await;
        answer.ok().and_then(|bytes| wire::decode_told(&bytes)).unwrap_or(Told::NotLeading)
    }

    /// On the leader.
    fn answer(&self, ask: Ask) -> Told {
        let leading = || self.0.proposer.role().leading_term();
        let Some(term) = self.0.state.lock().term.filter(|term| leading() == Some(*term)) else {
            return Told::NotLeading;
        };
        let current = match &ask {
            Ask::Acknowledge { channel, .. }
            | Ask::Lost { channel, .. }
            | Ask::Resumed { channel, .. }
            | Ask::Holds { channel, .. } => blocking(|| self.catch_up(term, channel)),
            Ask::Present { .. } | Ask::Attached { .. } => Ok(()),
        };
        if let Err(error) = current {
            // The keeper's own turn meets the same rows and acts on it.
            tracing::error!(%error, "a channel cannot be read");
            return Told::NotLeading;
        }
        let now_ms = self.0.clock.now_ms();
        let mut state = self.0.state.lock();
        if state.term != Some(term) || leading() != Some(term) {
            return Told::NotLeading;
        }
        match ask {
            Ask::Acknowledge { channel, connector, deliveries } => Told::Acknowledged(
                deliveries
                    .iter()
                    .map(|Delivered { id, token }| {
                        let heard = state.leases.acknowledge(&channel, &connector, (id, *token), now_ms);
                        heard.err().unwrap_or_default().to_owned()
                    })
                    .collect(),
            ),
            Ask::Lost { channel, connector, deliveries, gone } => {
                for Delivered { id, token } in &deliveries {
                    state.leases.lost(&channel, &connector, (id, *token), gone, now_ms);
                }
                Told::Done
            }
            Ask::Resumed { channel, connector, instance, holds } => {
                let holds: Vec<_> = holds.iter().map(|held| (held.id.as_str(), held.token)).collect();
                state.leases.resumed(&channel, (&connector, &instance), &holds, now_ms);
                Told::Done
            }
            Ask::Holds { channel, connector, delivery: Delivered { id, token } } => {
                Told::Holds(state.leases.holds(&channel, &connector, (&id, token)).map_err(str::to_owned))
            }
            Ask::Present { node, sessions } => Told::Replaced(state.presence.told(node, sessions, now_ms)),
            Ask::Attached { channel } => Told::Attached(state.presence.of(&channel, now_ms)),
        }
    }

    /// Of the channels this node leads; empty elsewhere.
    pub fn figures(&self) -> Vec<KeeperFigures> {
        let state = self.0.state.lock();
        let count = |code: &str| {
            let (delivered, working) = state.leases.count(code);
            KeeperFigures { channel: code.to_owned(), delivered, working }
        };
        state.leases.codes().map(count).collect()
    }
}

/// Takes a forward that is about deliveries, and gives everything else to the gateway.
pub(crate) struct Forwards {
    pub keeper: Keeper,
    pub gateway: Gateway,
}

impl ForwardHandler for Forwards {
    fn handle(&self, from: NodeId, payload: Bytes) -> BoxFuture<'static, Bytes> {
        match wire::decode_ask(&payload) {
            None => self.gateway.handle(from, payload),
            Some(Ok(ask)) => {
                let keeper = self.keeper.clone();
                Box::pin(async move { wire::encode_told(&keeper.answer(ask)) })
            }
            Some(Err(error)) => {
                tracing::warn!(from, %error, "a question about deliveries cannot be read");
                Box::pin(async { wire::encode_told(&Told::NotLeading) })
            }
        }
    }
}

/// Channels that moved in a slice.
fn gather(slice: &AppliedSlice, moved: &mut BTreeSet<String>) {
    let entities = slice.entries.iter().filter(|entry| entry.moved).filter_map(|entry| entry.entity.as_ref());
    for entity in entities.filter(|entity| entity.kind() == Kind::Channel.name()) {
        if !moved.contains(entity.id()) {
            moved.insert(entity.id().to_owned());
        }
    }
}

/// Reads rows without holding up what else this thread has to do, where the runtime has threads to spare.
fn blocking<T>(read: impl FnOnce() -> T) -> T {
    match tokio::runtime::Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(tokio::runtime::RuntimeFlavor::MultiThread) => tokio::task::block_in_place(read),
        _ => read(),
    }
}

fn end(error: StorageError) -> End {
    End::of("channel keeper", &error)
}
