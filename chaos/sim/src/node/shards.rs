//! The virtual shards and entity actors. Mirrors `actors/runtime/src/shell/shard.rs`, `entity.rs` and `inbox.rs`.

use super::{Live, Map, Stamped};
use crate::{
    core::{CLOCK_GOOD_MS, Core, DRIFT_MAX_PPM, End},
    queue::{Wakeup, What},
};
use okno_cluster::{
    api::{Proposal, ProposeError, ReadError, ShardNotice, StampError},
    core::{
        clock::{self, HEARD_WITHIN_MS, TOLERANCE_MS, Verdict},
        event::{Event, ReadId, ReadRequest},
    },
};
use okno_runtime::{
    call::Answer,
    cell::{AnyCell, CellEnv, CellInput, CellOutput},
    load::{CellFactory, Loaded, StorageCells},
    shard::{Effect, Input, LoadedAs, Shard, ShardEnv, ShardSettings},
    timers,
    work::shard_of,
};
use okno_storage::{
    commit::{EntityKey, MessageKey, RequestKey, SystemOp},
    error::StorageError,
    state::{RememberedRequest, StateReader},
};
use rand::Rng;
use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

/// Who waits for an answer of a shard.
#[derive(Debug)]
pub enum Handle {
    /// The gateway's call; its round, so that an answer to an attempt given up is known.
    Call {
        call: u64,
        round: u32,
    },
    /// A call another node forwarded.
    Received(u64),
    Bury(MessageKey),
    Time,
    Purge,
    Marker,
    /// Nobody looks at it.
    Nobody,
}

impl Handle {
    /// Takes one of the bounded places for callers.
    const fn has_place(&self) -> bool {
        matches!(self, Self::Call { .. } | Self::Received(_))
    }
}

/// Panics to come on a machine, whatever entity is next.
#[derive(Debug, Default)]
pub struct Panics {
    pub cells: AtomicU32,
    pub actors: AtomicU32,
}

impl Panics {
    fn take(of: &AtomicU32) -> bool {
        of.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok()
    }

    pub fn clear(&self) {
        self.cells.store(0, Relaxed);
        self.actors.store(0, Relaxed);
    }
}

/// A cell whose entity may panic: what the production cell makes of a panic it caught.
struct Fragile {
    inner: Box<dyn AnyCell>,
    panics: Arc<Panics>,
    failed: bool,
}

impl AnyCell for Fragile {
    fn handle(&mut self, input: &CellInput, env: &CellEnv) -> CellOutput {
        self.failed = self.failed || Panics::take(&self.panics.cells);
        if self.failed {
            return CellOutput::Failed { reason: "panic: simulated".into() };
        }
        self.inner.handle(input, env)
    }
}

enum Mail {
    Decide(CellInput),
    Halt,
}

struct EntityActor {
    cell: Box<dyn AnyCell>,
    mailbox: VecDeque<Mail>,
    domain: bool,
}

/// One shard with its inbox and its entities' actors.
pub struct Host {
    id: u16,
    shards: u16,
    core: Option<Shard<Handle>>,
    inbox: Vec<Input<Handle>>,
    pub wake: Wakeup,
    actors: Map<u64, EntityActor>,
    pub callers: usize,
    term: Option<u64>,
}

impl Host {
    pub fn new(id: u16, settings: ShardSettings, shards: u16) -> Self {
        Self {
            id,
            shards,
            core: Some(Shard::new(id, settings)),
            inbox: Vec::new(),
            wake: Wakeup::default(),
            actors: Map::new(),
            callers: 0,
            term: None,
        }
    }

    /// Longest mailbox of an entity.
    pub fn deepest(&self) -> usize {
        self.actors.values().map(|actor| actor.mailbox.len()).max().unwrap_or(0)
    }

    pub fn owns(&self, key: &EntityKey) -> bool {
        shard_of(key, self.shards) == self.id
    }
}

/// What a clock heard [`HEARD_WITHIN_MS`] ago seems to have gained since, on a machine whose own runs as fast as may be.
const RUNS_ON_MS: i64 = HEARD_WITHIN_MS as i64 * DRIFT_MAX_PPM / (1_000_000 + DRIFT_MAX_PPM);

struct Env<'a> {
    reader: &'a StateReader,
    verdict: Verdict,
    wall_ms: i64,
    stamped: Stamped,
}

impl ShardEnv for Env<'_> {
    fn applied(&self) -> (u64, i64) {
        self.reader.applied()
    }

    fn request(&self, key: &RequestKey) -> Result<Option<RememberedRequest>, StorageError> {
        self.reader.request(key)
    }

    fn stamp(&self) -> Result<i64, StampError> {
        let stamp = clock::stamp(&self.verdict, self.wall_ms, self.reader.applied().1)?;
        self.stamped.0.set(Some(stamp));
        Ok(stamp)
    }
}

impl Live {
    pub(super) fn shard_for(&self, key: &EntityKey) -> usize {
        self.shards.iter().position(|host| host.owns(key)).unwrap_or(0)
    }

    /// Puts something into a shard's inbox.
    pub(super) fn input(&mut self, w: &mut Core, shard: usize, input: Input<Handle>) {
        self.shards[shard].inbox.push(input);
        self.wake_shard(w, shard);
    }

    pub(super) fn wake_shard(&mut self, w: &mut Core, shard: usize) {
        let after = w.wake_us(self.ix);
        if self.shards[shard].wake.want(w.now + after) {
            self.at(w, after, What::Shard(shard as u16));
        }
    }

    /// One turn of the core and everything that follows from it.
    pub(super) fn shard_turn(&mut self, w: &mut Core, shard: usize) {
        let inputs = std::mem::take(&mut self.shards[shard].inbox);
        let Some(mut core) = self.shards[shard].core.take() else { return };
        let reader = self.reader.clone();
        let env = Env {
            reader: &reader,
            verdict: self.verdict(w),
            wall_ms: self.wall_ms(w),
            stamped: Stamped::default(),
        };
        let now = self.now_ms(w);
        let mut fx = Vec::new();
        if self.role.leading_term() != core.term() {
            core.on(Input::Role(self.role), now, &env, &mut fx);
        }
        for input in inputs {
            core.on(input, now, &env, &mut fx);
        }
        core.end_turn(now, &env, &mut fx);
        while !fx.is_empty() {
            for effect in std::mem::take(&mut fx) {
                self.carry_out(w, shard, effect, &mut core, now, &env, &mut fx);
            }
            core.end_turn(now, &env, &mut fx);
        }
        if let Some(stamp) = env.stamped.0.get() {
            self.judge_stamp(w, env.verdict, stamp);
        }
        let next = core.next_wake(now);
        self.shards[shard].term = core.term();
        self.shards[shard].core = Some(core);
        if let Some(at) = next {
            let after = self.after_us(w, at);
            if self.shards[shard].wake.want(w.now + after) {
                self.at(w, after, What::Shard(shard as u16));
            }
        }
    }

    /// With a majority of right clocks among those heard, no stamp runs ahead of them. What was heard a while ago runs on as this
    /// node's own clock does.
    pub(super) fn judge_stamp(&self, w: &mut Core, verdict: Verdict, stamp: i64) {
        let bad = w.bad_clocks();
        if verdict.clocks >= clock::CLOCKS_MIN && bad <= (verdict.clocks - 1) / 2 {
            let ran_on_ms = if w.is_bad_clock(self.ix) { RUNS_ON_MS } else { 0 };
            let bound_ms = w.true_ms() + TOLERANCE_MS + CLOCK_GOOD_MS + ran_on_ms;
            w.watch.stamped(self.ix, stamp, bound_ms);
        }
    }

    #[allow(clippy::too_many_arguments, reason = "the core is taken out of its host while it is carried out")]
    fn carry_out(
        &mut self,
        w: &mut Core,
        shard: usize,
        effect: Effect<Handle>,
        core: &mut Shard<Handle>,
        now: u64,
        env: &Env<'_>,
        fx: &mut Vec<Effect<Handle>>,
    ) {
        match effect {
            Effect::Deliver { activation, input } => match self.shards[shard].actors.get_mut(&activation) {
                Some(actor) => {
                    actor.mailbox.push_back(Mail::Decide(input));
                    if actor.mailbox.len() == 1 {
                        self.schedule_decision(w, shard, activation);
                    }
                }
                None => core.on(Input::Gone { activation }, now, env, fx),
            },
            Effect::Propose(proposals) => {
                if let Err(error) = self.propose(w, &proposals) {
                    core.on(Input::NotProposed { proposals, error }, now, env, fx);
                }
            }
            Effect::Answer(handle, answer) => {
                if handle.has_place() {
                    self.shards[shard].callers -= 1;
                }
                self.answered(w, handle, answer);
            }
            Effect::Confirm(ticket) => self.confirm(w, shard, ticket),
            Effect::Load { activation, entity, term } => {
                let result = self.load(w, shard, activation, &entity, term);
                if w.tune.late_loads && w.rng.threads.gen_bool(0.5) {
                    self.input(w, shard, Input::Loaded { activation, result });
                } else {
                    core.on(Input::Loaded { activation, result }, now, env, fx);
                }
            }
            Effect::Stop { activation } => match self.shards[shard].actors.get_mut(&activation) {
                Some(actor) => {
                    actor.mailbox.push_back(Mail::Halt);
                    if actor.mailbox.len() == 1 {
                        self.schedule_decision(w, shard, activation);
                    }
                }
                None => core.on(Input::Gone { activation }, now, env, fx),
            },
            Effect::CloseLane(lane) => self.push(w, Event::CloseLane(lane)),
            Effect::Delivered(key, answer) => {
                self.tell_courier(w, okno_runtime::courier::Event::Delivered(key, answer));
            }
            Effect::Fired(key, answer) => self.tell_scanner(w, timers::Event::Fired(key, answer)),
            Effect::WorldMoved(index) => self.worlds.require(index),
            Effect::Quarantine { entity, reason } => {
                self.own(w, SystemOp::Quarantine { entity, reason }, Handle::Nobody);
            }
            Effect::Fatal(okno_runtime::End::Rot(reason)) => self.quarantine(w, &reason),
            Effect::Fatal(end) => self.exit(w, End::Killed, end.to_string(), false),
        }
    }

    fn propose(&mut self, w: &mut Core, proposals: &[Proposal]) -> Result<(), ProposeError> {
        if !self.is_open() {
            return Err(ProposeError::Closed);
        }
        // A small bound still lets a turn's proposals in one by one turn, however many: production's bound exceeds them.
        if self.proposals > 0 && self.proposals + proposals.len() > w.tune.in_flight_max {
            return Err(ProposeError::Full);
        }
        self.proposals += proposals.len();
        self.push(w, Event::Propose(proposals.to_vec()));
        Ok(())
    }

    fn confirm(&mut self, w: &mut Core, shard: usize, ticket: u64) {
        let shard = shard as u16;
        if self.reads_open >= w.tune.reads_max {
            let notice = ShardNotice::ReadDone { ticket, result: Err(ReadError::Overloaded) };
            return self.notice(w, shard, notice);
        }
        self.reads_open += 1;
        let deadline_ms = self.now_ms(w) + super::READ_TIMEOUT_MS;
        self.push(w, Event::Read(ReadRequest { id: ReadId::Shard { shard, ticket }, deadline_ms }));
    }

    fn load(
        &mut self,
        w: &mut Core,
        shard: usize,
        activation: u64,
        entity: &EntityKey,
        term: u64,
    ) -> LoadedAs {
        match StorageCells::new(self.reader.clone()).load(entity, term) {
            Ok(Loaded::Cell(cell)) => {
                let domain = !entity.is_system();
                let cell: Box<dyn AnyCell> = if domain {
                    Box::new(Fragile { inner: cell, panics: Arc::clone(&self.panics), failed: false })
                } else {
                    cell
                };
                let actor = EntityActor { cell, mailbox: VecDeque::new(), domain };
                self.shards[shard].actors.insert(activation, actor);
                LoadedAs::Ready
            }
            Ok(Loaded::Quarantined(reason)) => LoadedAs::Quarantined(reason),
            Ok(Loaded::Unusable(reason)) => {
                if !self.damaged {
                    w.watch_unusable(self.ix, entity, &reason);
                }
                LoadedAs::Unusable(reason)
            }
            Err(error) => {
                self.exit(w, End::Killed, format!("loading {entity}: {error}"), false);
                LoadedAs::Unusable(error.to_string())
            }
        }
    }

    fn schedule_decision(&mut self, w: &mut Core, shard: usize, activation: u64) {
        let (low, high) = w.tune.decide_us;
        let after = w.rng.threads.gen_range(low..=high) + w.wake_us(self.ix);
        self.at(w, after, What::Decide { shard: shard as u16, activation });
    }

    /// An entity's actor takes the next of its mail.
    pub(super) fn decide(&mut self, w: &mut Core, shard: usize, activation: u64) {
        let Some(actor) = self.shards[shard].actors.get_mut(&activation) else { return };
        let gone = match actor.mailbox.pop_front() {
            None => false,
            Some(Mail::Halt) => true,
            Some(Mail::Decide(_)) if actor.domain && Panics::take(&self.panics.actors) => true,
            Some(Mail::Decide(input)) => {
                let output = actor.cell.handle(&input, &self.env);
                let more = !actor.mailbox.is_empty();
                self.input(w, shard, Input::Output { activation, output });
                if more {
                    self.schedule_decision(w, shard, activation);
                }
                false
            }
        };
        if gone {
            // Whatever else is in its mailbox is gone with it.
            self.shards[shard].actors.remove(&activation);
            self.input(w, shard, Input::Gone { activation });
        }
    }

    fn answered(&mut self, w: &mut Core, handle: Handle, answer: Answer) {
        match handle {
            Handle::Call { call, round } => self.call_answered(w, call, round, answer),
            Handle::Received(id) => self.received_answered(w, id, &answer),
            Handle::Bury(key) => {
                self.tell_courier(w, okno_runtime::courier::Event::Buried(key, answer));
            }
            Handle::Time => self.tell_scanner(w, timers::Event::TimeDone),
            Handle::Purge => {
                let done = matches!(answer, Answer::Done { .. });
                self.tell_scanner(w, timers::Event::PurgeDone(done));
            }
            Handle::Marker => {
                let done = matches!(answer, Answer::Done { .. });
                self.tell_scanner(w, timers::Event::MarkerDone(done));
            }
            Handle::Nobody => {}
        }
    }
}
