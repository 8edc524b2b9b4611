//! The actor of one shard: runs the core turn by turn on its arbiter, starts and stops entity actors.

use super::{
    Clock,
    entity::{Decide, EntityActor, Halt},
    inbox::{Batches, Caller, Inbox, Inboxes},
};
use crate::{
    call::Answer,
    cell::CellEnv,
    end::End,
    load::{CellFactory, Loaded},
    runtime::Fatal,
    shard::{Effect, Input, LoadedAs, Shard, ShardEnv, ShardFigures, ShardSettings},
};
use actix::{Actor, ActorContext, Addr, AsyncContext, Context, SpawnHandle, StreamHandler};
use ahash::AHashMap;
use okno_cluster::api::{Proposer, StampError};
use okno_storage::{
    commit::{EntityKey, MessageKey, RequestKey, SystemOp, TimerKey},
    error::StorageError,
    state::{RememberedRequest, StateReader},
};
use parking_lot::Mutex;
use std::{
    sync::{Arc, atomic::Ordering},
    thread::JoinHandle,
    time::Duration,
};

/// Where a shard's internal completions and requests go.
pub trait ShardSinks: Send + Sync {
    fn delivered(&self, key: MessageKey, answer: Answer);
    fn fired(&self, key: TimerKey, answer: Answer);
    /// Asks for an operation of the cluster itself; its outcome is of no concern to the shard.
    fn system(&self, op: SystemOp);
}

/// What all shards share.
pub struct ShardsStart {
    pub settings: ShardSettings,
    pub arbiters: usize,
    pub inboxes: Inboxes,
    pub proposer: Arc<dyn Proposer>,
    pub reader: StateReader,
    pub cells: Arc<dyn CellFactory>,
    pub env: Arc<CellEnv>,
    pub sinks: Arc<dyn ShardSinks>,
    pub clock: Clock,
    pub fatal: Fatal,
}

/// The thread of arbiters, and what can be seen of their shards.
pub struct Shards {
    system: actix::System,
    thread: Option<JoinHandle<()>>,
    inboxes: Inboxes,
    figures: Arc<[Mutex<ShardFigures>]>,
}

impl Shards {
    /// Starts the arbiters and one shard actor per inbox. Blocks until they run.
    pub fn start(start: ShardsStart) -> std::io::Result<Self> {
        let inboxes = start.inboxes.clone();
        for (id, inbox) in inboxes.iter().enumerate() {
            let port: Arc<dyn okno_cluster::api::ShardPort> = Arc::clone(inbox) as _;
            start.proposer.register(u16::try_from(id).unwrap_or(u16::MAX), port);
        }
        let figures: Arc<[Mutex<ShardFigures>]> =
            inboxes.iter().map(|_| Mutex::new(ShardFigures::default())).collect();
        let (started, ready) = std::sync::mpsc::channel();
        let shown = Arc::clone(&figures);
        let thread = std::thread::Builder::new().name("okno-actors".into()).spawn(move || {
            let runner = actix::System::new();
            runner.block_on(async {
                let arbiters: Vec<_> = (0..start.arbiters.max(1)).map(|_| actix::Arbiter::new()).collect();
                let start = Arc::new(start);
                for (id, inbox) in start.inboxes.iter().enumerate() {
                    let (start, inbox, shown) = (Arc::clone(&start), Arc::clone(inbox), Arc::clone(&shown));
                    let arbiter = arbiters[id % arbiters.len()].handle();
                    ShardActor::start_in_arbiter(&arbiter, move |context| {
                        ShardActor::new(id, inbox, start, shown, context)
                    });
                }
            });
            // The receiver waits below; it is gone only if starting was given up.
            let _gone = started.send(actix::System::current());
            if let Err(error) = runner.run() {
                tracing::error!(%error, "the actor system ended with an error");
            }
        })?;
        let system = ready.recv().map_err(|_| std::io::Error::other("the actor system did not start"))?;
        Ok(Self { system, thread: Some(thread), inboxes, figures })
    }

    pub fn figures(&self) -> Vec<ShardFigures> {
        self.figures.iter().map(|one| *one.lock()).collect()
    }

    /// Ends shards and arbiters; callers still waiting learn that nobody knows.
    pub fn stop(&mut self) {
        for inbox in self.inboxes.iter() {
            inbox.close();
        }
        self.system.stop();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the actor thread panicked");
        }
    }
}

impl Drop for Shards {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Env<'a>(&'a ShardsStart);

impl ShardEnv for Env<'_> {
    fn applied(&self) -> (u64, i64) {
        self.0.reader.applied()
    }

    fn request(&self, key: &RequestKey) -> Result<Option<RememberedRequest>, StorageError> {
        self.0.reader.request(key)
    }

    fn stamp(&self) -> Result<i64, StampError> {
        self.0.proposer.stamp()
    }
}

struct ShardActor {
    core: Shard<Caller>,
    id: usize,
    inbox: Arc<Inbox>,
    start: Arc<ShardsStart>,
    shown: Arc<[Mutex<ShardFigures>]>,
    actors: AHashMap<u64, Addr<EntityActor>>,
    /// The timer that wakes the shard when nothing arrives, and when.
    wake: Option<(u64, SpawnHandle)>,
    /// Ended as told, not by a panic.
    closed: bool,
}

impl Actor for ShardActor {
    type Context = Context<Self>;
}

impl Drop for ShardActor {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // A bug outside every entity: what callers wait for is lost with the shard (rule 12).
            (self.start.fatal)(End::Failed(format!("shard {} panicked", self.id)));
        }
    }
}

impl ShardActor {
    fn new(
        id: usize,
        inbox: Arc<Inbox>,
        start: Arc<ShardsStart>,
        shown: Arc<[Mutex<ShardFigures>]>,
        context: &mut Context<Self>,
    ) -> Self {
        context.add_stream(Batches(Arc::clone(&inbox)));
        Self {
            core: Shard::new(u16::try_from(id).unwrap_or(u16::MAX), start.settings.clone()),
            id,
            inbox,
            start,
            shown,
            actors: AHashMap::new(),
            wake: None,
            closed: false,
        }
    }

    /// One turn of the core and everything that follows from it.
    fn turn(&mut self, inputs: Vec<Input<Caller>>, context: &mut Context<Self>) {
        let start = Arc::clone(&self.start);
        let env = Env(&start);
        let now = start.clock.now_ms();
        self.inbox.last_turn_ms.store(now, Ordering::Release);
        self.inbox.turns.fetch_add(1, Ordering::Relaxed);
        let mut fx = Vec::new();
        let role = start.proposer.role();
        if role.leading_term() != self.core.term() {
            self.core.on(Input::Role(role), now, &env, &mut fx);
        }
        for input in inputs {
            self.core.on(input, now, &env, &mut fx);
        }
        self.core.end_turn(now, &env, &mut fx);
        while !fx.is_empty() {
            for effect in std::mem::take(&mut fx) {
                self.carry_out(effect, now, &env, &mut fx);
            }
            self.core.end_turn(now, &env, &mut fx);
        }
        *self.shown[self.id].lock() = self.core.figures();
        self.schedule(now, context);
    }

    fn carry_out(&mut self, effect: Effect<Caller>, now: u64, env: &Env<'_>, fx: &mut Vec<Effect<Caller>>) {
        match effect {
            Effect::Deliver { activation, input } => {
                let sent =
                    self.actors.get(&activation).is_some_and(|actor| actor.try_send(Decide(input)).is_ok());
                if !sent {
                    // A dead actor has said so itself or will; saying it twice does no harm.
                    self.core.on(Input::Gone { activation }, now, env, fx);
                }
            }
            Effect::Propose(proposals) => {
                if let Err(error) = self.start.proposer.propose(proposals.clone()) {
                    self.core.on(Input::NotProposed { proposals, error }, now, env, fx);
                }
            }
            Effect::Answer(caller, answer) => caller.tell(answer),
            Effect::Confirm(ticket) => {
                self.start.proposer.confirm_leadership(u16::try_from(self.id).unwrap_or(u16::MAX), ticket);
            }
            Effect::Load { activation, entity, term } => {
                let result = self.load(activation, &entity, term, fx);
                self.core.on(Input::Loaded { activation, result }, now, env, fx);
            }
            Effect::Stop { activation } => match self.actors.remove(&activation) {
                // A closed mailbox means it is gone, and it reports that itself.
                Some(actor) => {
                    let _closed = actor.try_send(Halt);
                }
                None => self.core.on(Input::Gone { activation }, now, env, fx),
            },
            Effect::CloseLane(lane) => self.start.proposer.close_lane(lane),
            Effect::Delivered(key, answer) => self.start.sinks.delivered(key, answer),
            Effect::Fired(key, answer) => self.start.sinks.fired(key, answer),
            Effect::WorldMoved(index) => self.start.env.worlds.require(index),
            Effect::Quarantine { entity, reason } => {
                self.start.sinks.system(SystemOp::Quarantine { entity, reason });
            }
            Effect::Fatal(reason) => (self.start.fatal)(reason),
        }
    }

    fn load(
        &mut self,
        activation: u64,
        entity: &EntityKey,
        term: u64,
        fx: &mut Vec<Effect<Caller>>,
    ) -> LoadedAs {
        match self.start.cells.load(entity, term) {
            Ok(Loaded::Cell(cell)) => {
                let (env, inbox) = (Arc::clone(&self.start.env), Arc::clone(&self.inbox));
                let actor = EntityActor { activation, cell, env, inbox };
                self.actors.insert(activation, actor.launch());
                LoadedAs::Ready
            }
            Ok(Loaded::Quarantined(reason)) => LoadedAs::Quarantined(reason),
            Ok(Loaded::Unusable(reason)) => LoadedAs::Unusable(reason),
            Err(error) => {
                fx.push(Effect::Fatal(End::of(format_args!("loading {entity}"), &error)));
                LoadedAs::Unusable(error.to_string())
            }
        }
    }

    /// Keeps one timer, for the earliest time the core asks for.
    fn schedule(&mut self, now: u64, context: &mut Context<Self>) {
        let Some(at) = self.core.next_wake(now) else { return };
        if let Some((set_for, handle)) = self.wake {
            if set_for <= at && set_for > now {
                return;
            }
            context.cancel_future(handle);
        }
        let handle =
            context.run_later(Duration::from_millis(at.saturating_sub(now).max(1)), |actor, context| {
                actor.wake = None;
                actor.turn(vec![Input::Tick], context);
            });
        self.wake = Some((at, handle));
    }
}

impl StreamHandler<Vec<Input<Caller>>> for ShardActor {
    fn handle(&mut self, inputs: Vec<Input<Caller>>, context: &mut Context<Self>) {
        self.turn(inputs, context);
    }

    fn finished(&mut self, context: &mut Context<Self>) {
        self.closed = true;
        context.stop();
    }
}
