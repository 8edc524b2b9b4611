//! The core of a shard: which entities are resident, what they have under way, who waits for it. Input in,
//! effects out; no clock, no thread, no actix. The shell ([`crate::shell`]) or the simulator carries effects out.
//!
//! The way of one entity through [`Phase`]:
//! ```text
//! (absent) ─work─► Loading ─loaded─► Active ─idle─────────────► Leaving ─stopped, lane closed, settled─► (absent)
//!                     ▲                 └─failed, panic, term─►    │
//!                     └──────── work waits ◄─ Backoff ◄─ Passing ◄─┘
//! ```
//! Invariants:
//! - There is at most one activation of an entity, and it ends completely (actor stopped, lane closed, every
//!   proposal settled, apply past the lane's last index) before the next begins (rule 3).
//! - A proposal handed to the raft thread is settled exactly once by it; one that was not is answered here.
//! - Success leaves only on `Applied` or `Duplicate`; a refusal leaves only after everything it rests on has
//!   applied and a ticket asked for after the decision has confirmed leadership (rules 1 and 2).
//! - Every caller is answered exactly once; two callers of one request share one piece of work.

mod answers;
pub use answers::{REQUEST_ID_EXPIRED, check_request_id, request_time_ms};
mod lifecycle;

use crate::{
    call::{Answer, Cause},
    cell::{CellInput, CellOutput},
    end::End,
    intake::Intake,
    work::Work,
};
use ahash::AHashMap;
use bytes::Bytes;
use okno_cluster::api::{Lane, Proposal, ProposeError, RoleState, ShardNotice, StampError};
use okno_domain::entity::Refusal;
use okno_storage::{
    commit::{EntityKey, Message, MessageKey, Record, RequestKey, TimerKey},
    error::StorageError,
    state::RememberedRequest,
};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

/// Bounds and times of a shard.
#[derive(Debug, Clone)]
pub struct ShardSettings {
    /// Calls one entity may have under way. A queue hands out some 5,000 tickets a second at 10 ms a commit.
    pub entity_calls_max: usize,
    /// Messages and timers one entity may have under way beyond its calls, so that new work cannot starve them.
    pub entity_completions_max: usize,
    /// Callers a shard may have waiting: 10 ms of work at 500,000 a second, far above what a disk takes.
    pub calls_max: usize,
    /// Resident entities before the least recently used are let go; about 3 KB each.
    pub resident_max: usize,
    /// An entity idle for this long is let go.
    pub idle_ms: u64,
    /// So many panics within `panic_window_ms` close an entity until it is released (rule 13).
    pub panics_max: usize,
    pub panic_window_ms: u64,
    /// Pause before an entity that panicked is rebuilt; doubles up to `backoff_max_ms`.
    pub backoff_min_ms: u64,
    pub backoff_max_ms: u64,
    /// What is taken in at all.
    pub intake: Arc<Intake>,
}

impl Default for ShardSettings {
    fn default() -> Self {
        Self {
            entity_calls_max: 64,
            entity_completions_max: 64,
            calls_max: 8_192,
            resident_max: 50_000,
            idle_ms: 300_000,
            panics_max: 3,
            panic_window_ms: 600_000,
            backoff_min_ms: 100,
            backoff_max_ms: 5_000,
            intake: Arc::default(),
        }
    }
}

/// Times a piece of work is decided again after something under it failed; then the caller retries.
const TRIES_MAX: u8 = 5;
/// ReadIndex tickets under way; more refusals wait for the next one. The cluster batches them anyway.
const TICKETS_MAX: usize = 16;
/// Entities whose failures are remembered; an attack on more of them forgets the oldest.
const TROUBLES_MAX: usize = 1_024;
/// Pause before proposals the raft thread had no room for are handed in again.
const STALL_MS: u64 = 2;
/// Pause before looking again whether apply has passed a closed lane.
const PASSING_MS: u64 = 2;
/// Residents looked at in one round of letting go, so that a turn stays short.
const SWEEP_MAX: usize = 512;
/// Pause between rounds of letting go.
const SWEEP_MS: u64 = 1_000;
/// Rule 6: how far ahead of replicated time a request id may lie, and how old it may be.
const REQUEST_AHEAD_MS: i64 = 5 * 60 * 1_000;
const REQUEST_WINDOW_MS: i64 = 7 * 24 * 3_600 * 1_000;

/// What a shard may look at.
pub trait ShardEnv {
    /// Applied index and replicated time.
    fn applied(&self) -> (u64, i64);
    fn request(&self, key: &RequestKey) -> Result<Option<RememberedRequest>, StorageError>;
    fn stamp(&self) -> Result<i64, StampError>;
}

/// What an activation found in storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoadedAs {
    Ready,
    Quarantined(String),
    /// The entity's own trouble.
    Unusable(String),
}

#[derive(Debug)]
pub enum Input<H> {
    /// A caller's command or a system operation; `handle` is how its answer goes back.
    Call {
        work: Arc<Work>,
        attempt: u32,
        handle: H,
    },
    Message(Message),
    Timer(TimerKey),
    Role(RoleState),
    Notice(ShardNotice),
    Loaded {
        activation: u64,
        result: LoadedAs,
    },
    Output {
        activation: u64,
        output: CellOutput,
    },
    /// The actor is no more: stopped as told, or unwound.
    Gone {
        activation: u64,
    },
    /// The raft thread took nothing of this batch.
    NotProposed {
        proposals: Vec<Proposal>,
        error: ProposeError,
    },
    Tick,
}

#[derive(Debug)]
pub enum Effect<H> {
    /// Read the entity, start its actor, report [`Input::Loaded`].
    Load {
        activation: u64,
        entity: EntityKey,
        term: u64,
    },
    Deliver {
        activation: u64,
        input: CellInput,
    },
    /// Stop the actor, report [`Input::Gone`].
    Stop {
        activation: u64,
    },
    Propose(Vec<Proposal>),
    CloseLane(Lane),
    Confirm(u64),
    Answer(H, Answer),
    Delivered(MessageKey, Answer),
    Fired(TimerKey, Answer),
    /// An entity of the shared world moved at this index; before the answer that tells of it.
    WorldMoved(u64),
    Quarantine {
        entity: EntityKey,
        reason: String,
    },
    /// Storage failed: this node cannot go on (rule 12).
    Fatal(End),
}

/// One piece of work and, if no request names its callers, its caller.
#[derive(Debug)]
struct Item<H> {
    work: Arc<Work>,
    own: Option<H>,
    tries: u8,
}

/// What a ticket of ReadIndex confirms the leadership for.
#[derive(Debug)]
struct Asked<H> {
    /// Entities that hold refusals.
    entities: Vec<EntityKey>,
    at_door: Vec<TurnedAway<H>>,
}

/// Turned away by replicated time or by a quarantine, before an entity was asked: a read as well (rule 2), for a leader that
/// is none any more knows old ones.
#[derive(Debug)]
struct TurnedAway<H> {
    item: Item<H>,
    answer: Answer,
    /// What is said if another attempt of the request has come by then: that one may still be carried out, and nothing
    /// remembers this answer.
    retried: Cause,
}

/// A refusal on its way to being safe to tell.
#[derive(Debug)]
struct Held<H> {
    item: Item<H>,
    refusal: Refusal,
    decided_on: u64,
    /// 0: not asked yet.
    ticket: u64,
    confirmed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Loading,
    Active,
    Leaving {
        stopped: bool,
        /// The lane's last index, once it is closed.
        closed: Option<u64>,
    },
    Passing {
        index: u64,
    },
    Backoff {
        until: u64,
    },
}

/// An entity with an activation, or waiting for one.
#[derive(Debug)]
struct Resident<H> {
    activation: u64,
    term: u64,
    phase: Phase,
    /// What waits for the entity to be active.
    buffer: VecDeque<Item<H>>,
    /// Delivered to the actor and not decided yet, in order.
    deciding: VecDeque<Item<H>>,
    /// Proposals `first_seq..` and what is told when they apply; `None`: settled out of order.
    in_flight: VecDeque<Option<(Item<H>, Option<Record>)>>,
    first_seq: u64,
    /// The first proposal that did not take effect: nothing may rest on it or what follows.
    failed_seq: Option<u64>,
    held: Vec<Held<H>>,
    last_used: u64,
}

impl<H> Resident<H> {
    fn new(activation: u64, term: u64, now: u64) -> Self {
        Self {
            activation,
            term,
            phase: Phase::Loading,
            buffer: VecDeque::new(),
            deciding: VecDeque::new(),
            in_flight: VecDeque::new(),
            first_seq: 1,
            failed_seq: None,
            held: Vec::new(),
            last_used: now,
        }
    }

    fn under_way(&self) -> usize {
        self.buffer.len() + self.deciding.len() + self.in_flight.len() + self.held.len()
    }

    /// Gives back what bursts of work left allocated: most residents are idle, and there are many.
    fn shrink(&mut self) {
        if self.under_way() == 0 {
            self.buffer = VecDeque::new();
            self.deciding = VecDeque::new();
            self.in_flight = VecDeque::new();
            self.held = Vec::new();
        }
    }

    /// Proposals this activation ever made.
    fn proposed(&self) -> u64 {
        self.first_seq + self.in_flight.len() as u64 - 1
    }
}

/// Pushes; the first place is allocated alone, because most entities have one thing under way at a time.
fn push<T>(queue: &mut VecDeque<T>, one: T) {
    if queue.capacity() == 0 {
        queue.reserve_exact(1);
    }
    queue.push_back(one);
}

/// Callers of one request.
#[derive(Debug)]
struct Join<H> {
    hash: [u8; 32],
    /// The largest attempt number among them.
    attempt: u32,
    callers: Vec<H>,
}

/// Recent panics of one entity.
#[derive(Debug, Default)]
struct Trouble {
    at: Vec<u64>,
    until: u64,
}

/// Counters for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ShardFigures {
    pub residents: usize,
    pub callers: usize,
    pub activations: u64,
    pub passivations: u64,
    pub rebuilds: u64,
    pub panics: u64,
    pub proposals: u64,
    pub refusals: u64,
    pub joined: u64,
    pub remembered: u64,
}

/// See the module.
pub struct Shard<H> {
    id: u16,
    settings: ShardSettings,
    term: Option<u64>,
    entities: AHashMap<EntityKey, Resident<H>>,
    activations: AHashMap<u64, EntityKey>,
    next_activation: u64,
    joins: AHashMap<RequestKey, Join<H>>,
    callers: usize,
    /// Residents in [`Phase::Active`].
    active: usize,
    /// Proposals not handed in yet, in lane order.
    outgoing: Vec<Proposal>,
    /// Until then the raft thread is not tried again.
    stalled_until: u64,
    /// Entities with refusals that have no ticket yet.
    unconfirmed: Vec<EntityKey>,
    /// Turned away, without a ticket yet; counted in `callers`, which bounds it.
    at_door: Vec<TurnedAway<H>>,
    tickets: BTreeMap<u64, Asked<H>>,
    next_ticket: u64,
    /// The clock hand of letting go: activations in the order they were last looked at.
    sweep: VecDeque<(u64, u64)>,
    next_sweep: u64,
    /// Entities in [`Phase::Passing`] or [`Phase::Backoff`].
    waiting: Vec<EntityKey>,
    troubles: BTreeMap<EntityKey, Trouble>,
    /// One stamp a turn.
    stamp: Option<Result<i64, StampError>>,
    figures: ShardFigures,
}

impl<H> Shard<H> {
    pub fn new(id: u16, settings: ShardSettings) -> Self {
        Self {
            id,
            settings,
            term: None,
            entities: AHashMap::new(),
            activations: AHashMap::new(),
            next_activation: 1,
            joins: AHashMap::new(),
            callers: 0,
            active: 0,
            outgoing: Vec::new(),
            stalled_until: 0,
            unconfirmed: Vec::new(),
            at_door: Vec::new(),
            tickets: BTreeMap::new(),
            next_ticket: 1,
            sweep: VecDeque::new(),
            next_sweep: 0,
            waiting: Vec::new(),
            troubles: BTreeMap::new(),
            stamp: None,
            figures: ShardFigures::default(),
        }
    }

    /// The term whose actors run here.
    pub fn term(&self) -> Option<u64> {
        self.term
    }

    pub fn figures(&self) -> ShardFigures {
        ShardFigures { residents: self.entities.len(), callers: self.callers, ..self.figures }
    }

    /// Takes one input. A turn is any number of inputs followed by [`Shard::end_turn`].
    pub fn on(&mut self, input: Input<H>, now: u64, env: &dyn ShardEnv, fx: &mut Vec<Effect<H>>) {
        match input {
            Input::Call { work, attempt, handle } => self.on_call(work, attempt, handle, now, env, fx),
            Input::Message(message) => self.on_internal(Work::Message(message), now, env, fx),
            Input::Timer(timer) => self.on_internal(Work::Timer(timer), now, env, fx),
            Input::Role(role) => self.on_role(role.leading_term(), now, env, fx),
            Input::Notice(ShardNotice::Settled(settled)) => {
                for one in settled {
                    self.on_settled(one.lane, one.seq, one.outcome, now, env, fx);
                }
            }
            Input::Notice(ShardNotice::LaneClosed { lane, last_index }) => {
                self.on_lane_closed(lane, last_index, now, env, fx);
            }
            Input::Notice(ShardNotice::ReadDone { ticket, result }) => {
                self.on_read_done(ticket, result.is_ok(), now, env, fx);
            }
            Input::Loaded { activation, result } => self.on_loaded(activation, result, now, env, fx),
            Input::Output { activation, output } => self.on_output(activation, output, now, env, fx),
            Input::Gone { activation } => self.on_gone(activation, now, env, fx),
            Input::NotProposed { proposals, error } => self.on_not_proposed(proposals, error, now, fx),
            Input::Tick => {}
        }
    }

    /// Ends a turn: what was gathered leaves in one batch, what waits for time or apply is looked at.
    pub fn end_turn(&mut self, now: u64, env: &dyn ShardEnv, fx: &mut Vec<Effect<H>>) {
        self.look_at_waiting(now, env, fx);
        self.let_go(now, fx);
        if !self.outgoing.is_empty() && now >= self.stalled_until {
            fx.push(Effect::Propose(std::mem::take(&mut self.outgoing)));
        }
        let unconfirmed = !self.unconfirmed.is_empty() || !self.at_door.is_empty();
        if unconfirmed && self.tickets.len() < TICKETS_MAX {
            self.ask_for_ticket(fx);
        }
        self.stamp = None;
    }

    /// When the next turn is due even if nothing arrives, on the caller's monotonic clock.
    pub fn next_wake(&self, now: u64) -> Option<u64> {
        let stalled = (!self.outgoing.is_empty()).then(|| self.stalled_until.max(now + 1));
        let waiting = self
            .waiting
            .iter()
            .filter_map(|key| match self.entities.get(key)?.phase {
                Phase::Passing { .. } => Some(now + PASSING_MS),
                Phase::Backoff { until } => Some(until.max(now + 1)),
                Phase::Loading | Phase::Active | Phase::Leaving { .. } => None,
            })
            .min();
        let sweep = (!self.sweep.is_empty()).then_some(self.next_sweep.max(now + 1));
        [stalled, waiting, sweep].into_iter().flatten().min()
    }

    fn lane(&self, activation: u64) -> Lane {
        Lane { shard: self.id, activation }
    }

    fn stamp(&mut self, env: &dyn ShardEnv) -> Result<i64, StampError> {
        *self.stamp.get_or_insert_with(|| env.stamp())
    }

    fn on_internal(&mut self, work: Work, now: u64, env: &dyn ShardEnv, fx: &mut Vec<Effect<H>>) {
        let item = Item { work: Arc::new(work), own: None, tries: 0 };
        if self.term.is_none() {
            return self.answer(item, Answer::NotApplied(Cause::NoLeader), fx);
        }
        self.admit(item, now, env, fx);
    }

    /// Proposals the raft thread had no room for wait here, and new calls are turned away meanwhile (rule 10).
    fn on_not_proposed(
        &mut self,
        mut proposals: Vec<Proposal>,
        error: ProposeError,
        now: u64,
        fx: &mut Vec<Effect<H>>,
    ) {
        match error {
            ProposeError::Full => {
                // In front of what was decided since: lane order. Lanes that ended since are gone from `outgoing`
                // by then, so theirs must not come back.
                proposals.retain(|proposal| self.activations.contains_key(&proposal.lane.activation));
                proposals.append(&mut self.outgoing);
                self.outgoing = proposals;
                self.stalled_until = now + STALL_MS;
            }
            ProposeError::Closed => {
                for proposal in proposals {
                    self.drop_proposal(&proposal, Cause::Closed, fx);
                }
            }
        }
    }

    fn push_outgoing(&mut self, activation: u64, term: u64, seq: u64, data: Bytes) {
        self.figures.proposals += 1;
        self.outgoing.push(Proposal { lane: self.lane(activation), seq, term, data });
    }
}
