//! The cell: one entity's pure half on the leader. Work goes in, a proposal, a refusal or a failure comes out;
//! nothing here waits, reads storage or knows actix (design §6).
//!
//! Invariants of a [`Cell`]:
//! - `state` is the fold of everything committed plus everything this activation proposed (its speculation);
//!   `head` is the id of the last of those commits that had events.
//! - `seq` counts the activation's proposals; each carries `base` = the head before it, so that apply fences
//!   everything behind a commit that did not make it.
//! - `last_ms` never decreases: a decision is never stamped before an earlier one of the entity (rule 7).
//! - Once `failed`, every input is answered [`CellOutput::Failed`]: what cannot be folded never leaves.

mod propose;

pub use propose::principal_text;

use crate::{
    call::{self, Cause},
    codec::{self, What},
    depth::Depths,
    end::End,
    work::{CallWork, Work},
    world::Worlds,
};
use bytes::Bytes;
use okno_domain::{
    catalogue::IN_TURN_MAX,
    entity::{Context, EntityRef, Fence, Origin, Principal, Refusal, RefusalClass},
    exchange::DEPTH_MAX,
    message::Message as DomainMessage,
    registry::Registered,
};
use okno_storage::commit::{CommitId, EntityKey, Message, Record, TimerKey};
use sha2::{Digest, Sha256};
use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use uuid::Uuid;

/// Messages that may lead to one another (rule 4). A flow of the domain needs 2; the rest is room to grow.
pub const HOPS_MAX: u16 = 16;

// An ask's requests, each refused and the next one sent: two messages each. The answer to the first, which a call sent, may
// have come up through requests within requests of which nobody needs the others: a message for each level.
const _: () = assert!(DEPTH_MAX as usize + 2 + 2 * (IN_TURN_MAX - 2) <= HOPS_MAX as usize);

/// Work with what the shard knows about it at this moment.
#[derive(Debug, Clone)]
pub struct CellInput {
    pub work: Arc<Work>,
    /// What the leader may stamp now, milliseconds since the Unix epoch.
    pub stamp_ms: i64,
    /// A refusal is committed as the remembered reply: an earlier attempt may still be on its way (rule 2).
    pub commit_refusal: bool,
}

/// What one input came to. Exactly one output per input, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum CellOutput {
    Proposed {
        seq: u64,
        /// The encoded commit.
        data: Bytes,
        /// What the caller is told once it has applied; absent when nobody asked.
        reply: Option<Record>,
    },
    Refused {
        refusal: Refusal,
        /// The last proposal of this activation that the refusal may rest on; 0: none.
        decided_on: u64,
        /// It read no state: it may leave at once (rule 2).
        at_once: bool,
        /// The speculative state is not to be used any further: rebuild from storage.
        spoiled: bool,
    },
    /// Nothing was decided.
    NotNow(Cause),
    /// Panicked, or broke a law of the domain contract. The cell is of no use any more.
    Failed { reason: String },
    /// What every decision rests on cannot be read here: this node must not decide (rule 12).
    Blind { end: End },
}

/// What surrounds every cell of a node.
pub struct CellEnv {
    pub worlds: Arc<Worlds>,
    pub depths: Arc<Depths>,
    pub counter: CommitCounter,
    /// `node/<id>`: who acts when messages and timers do.
    pub node: Principal,
    pub generation: Generation,
}

/// The cluster's generation as it is now: with the term it fences what is handed out (rule 5). Asked anew for every
/// decision, because a copy of a recovered cluster brings a later one into a node that runs.
pub type Generation = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Numbers of commits: never reused within the process, therefore never within a term, since a restarted node
/// leads only in a later term.
#[derive(Debug)]
pub struct CommitCounter(AtomicU64);

impl CommitCounter {
    /// Numbers below this are left to the cluster's own commits (founding).
    pub const FIRST: u64 = 1_024;

    pub fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

impl Default for CommitCounter {
    fn default() -> Self {
        Self(AtomicU64::new(Self::FIRST))
    }
}

/// A cell of any kind.
pub trait AnyCell {
    fn handle(&mut self, input: &CellInput, env: &CellEnv) -> CellOutput;
}

/// The cell of one entity.
pub struct Cell<E: Registered> {
    this: EntityRef,
    key: EntityKey,
    term: u64,
    state: E,
    /// Timers set and not yet cleared or fired, by name.
    timers: Vec<TimerKey>,
    head: CommitId,
    last_ms: i64,
    seq: u64,
    failed: bool,
}

/// What a cell starts from.
pub struct CellStart<E> {
    pub this: EntityRef,
    pub key: EntityKey,
    /// The leader's term; every commit of this activation carries it.
    pub term: u64,
    pub state: E,
    pub timers: Vec<TimerKey>,
    pub head: CommitId,
    /// Replicated time when it was loaded: at least the time of its last commit.
    pub floor_ms: i64,
}

impl<E: Registered> Cell<E> {
    pub fn new(start: CellStart<E>) -> Self {
        Self {
            this: start.this,
            key: start.key,
            term: start.term,
            state: start.state,
            timers: start.timers,
            head: start.head,
            last_ms: start.floor_ms,
            seq: 0,
            failed: false,
        }
    }

    /// The speculative state.
    pub fn state(&self) -> &E {
        &self.state
    }

    fn step(&mut self, input: &CellInput, env: &CellEnv) -> CellOutput {
        #[cfg(feature = "mutants")]
        carry_over_planted();
        let now_ms = input.stamp_ms.max(self.last_ms);
        let world = match env.worlds.current() {
            Ok(world) => world,
            Err(error) => return CellOutput::Blind { end: End::of("catalogue or directory", &error) },
        };
        match &*input.work {
            Work::Call(call) => {
                let Ok(command) = E::command_from(call.command.clone()) else {
                    return refused_at_once(kind_mismatch(call));
                };
                let context = Context {
                    this: &self.this,
                    now_ms,
                    origin: &call.origin,
                    request_id: call.request.key.id,
                    catalogue: &world.catalogue,
                    directory: &world.directory,
                    level: env.worlds.level(),
                    fence: Fence { generation: (env.generation)(), term: self.term },
                };
                let decided = self
                    .state
                    .authorise(&command, &context)
                    .and_then(|()| self.state.decide(&command, &context));
                match decided {
                    Ok(decision) => self.propose(
                        decision,
                        propose::Trigger::Call(call),
                        now_ms,
                        env,
                        input.commit_refusal,
                    ),
                    Err(refusal) => {
                        self.refuse(refusal, &propose::Trigger::Call(call), now_ms, env, input.commit_refusal)
                    }
                }
            }
            Work::Message(message) => {
                let origin = Origin { principal: env.node.clone(), workstation: String::new() };
                let source = crate::work::entity_ref(&message.key.source);
                let content = codec::decode::<DomainMessage>(What::Message, &message.record);
                let (Some(source), Ok(content)) = (source, content) else {
                    // A newer node may have written it: leave it to the courier, which counts and finally buries it.
                    return refused_at_once(call::refusal(
                        RefusalClass::FailedPrecondition,
                        "MESSAGE_UNREADABLE",
                        "Сообщение не может быть прочитано этой версией",
                        "The message cannot be read by this version",
                    ));
                };
                let context = Context {
                    this: &self.this,
                    now_ms,
                    origin: &origin,
                    request_id: message_request_id(message),
                    catalogue: &world.catalogue,
                    directory: &world.directory,
                    level: env.worlds.level(),
                    fence: Fence { generation: (env.generation)(), term: self.term },
                };
                let received = self.state.receive(&source, &content, &context);
                let trigger = propose::Trigger::Message { message, content: &content, origin: &origin };
                match received {
                    Ok(decision) => self.propose(decision, trigger, now_ms, env, true),
                    Err(refusal) => self.refuse(refusal, &trigger, now_ms, env, true),
                }
            }
            Work::Timer(timer) => {
                let origin = Origin { principal: env.node.clone(), workstation: String::new() };
                let trigger = propose::Trigger::Timer { timer, origin: &origin };
                if !self.timers.contains(timer) {
                    // Replaced by a commit in flight, or an orphan: clearing it is no fault in either case.
                    return self.clear_timer(timer, &origin, now_ms, env);
                }
                let context = Context {
                    this: &self.this,
                    now_ms,
                    origin: &origin,
                    request_id: timer_request_id(timer),
                    catalogue: &world.catalogue,
                    directory: &world.directory,
                    level: env.worlds.level(),
                    fence: Fence { generation: (env.generation)(), term: self.term },
                };
                match self.state.fire(&timer.name, &context) {
                    Ok(decision) => self.propose(decision, trigger, now_ms, env, true),
                    Err(refusal) => self.refuse(refusal, &trigger, now_ms, env, true),
                }
            }
            Work::System(_) => {
                CellOutput::Failed { reason: "a system operation came to a domain entity".into() }
            }
        }
    }
}

/// The domain knows nobody: which of its faults is planted it is told here.
#[cfg(feature = "mutants")]
fn carry_over_planted() {
    use okno_domain::planted::{Fault, choose};
    use okno_storage::planted::{self, Mutant};
    const OF_THE_DOMAIN: [(Mutant, Fault); 4] = [
        (Mutant::AcceptOldToken, Fault::AcceptOldToken),
        (Mutant::LoseDeferredTimer, Fault::LoseDeferredTimer),
        (Mutant::CallUnbounded, Fault::CallUnbounded),
        (Mutant::HeedFormerClock, Fault::HeedFormerClock),
    ];
    choose(OF_THE_DOMAIN.iter().find(|(mutant, _)| planted::is(*mutant)).map(|(_, fault)| *fault));
}

impl<E: Registered> AnyCell for Cell<E> {
    fn handle(&mut self, input: &CellInput, env: &CellEnv) -> CellOutput {
        if self.failed {
            return CellOutput::Failed { reason: "failed earlier in this activation".into() };
        }
        let output = match catch_unwind(AssertUnwindSafe(|| self.step(input, env))) {
            Ok(output) => output,
            Err(panic) => CellOutput::Failed { reason: format!("panic: {}", panic_text(&*panic)) },
        };
        self.failed = matches!(output, CellOutput::Failed { .. } | CellOutput::Refused { spoiled: true, .. });
        output
    }
}

fn refused_at_once(refusal: Refusal) -> CellOutput {
    CellOutput::Refused { refusal, decided_on: 0, at_once: true, spoiled: false }
}

fn kind_mismatch(work: &CallWork) -> Refusal {
    call::with_detail(
        call::refusal(
            RefusalClass::InvalidArgument,
            "COMMAND_KIND_MISMATCH",
            "Команда предназначена объекту другого вида",
            "The command is for another kind of entity",
        ),
        "command",
        work.command.kind().name(),
    )
}

/// What a panic said, as far as it said it in text.
pub fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&'static str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no text".to_owned());
    text.chars().take(200).collect()
}

/// The request id a delivered message decides under: a function of its key, so that a second delivery derives
/// the same ids.
fn message_request_id(message: &Message) -> Uuid {
    let key = &message.key;
    derived(&[
        b"message",
        key.source.as_str().as_bytes(),
        key.target.as_str().as_bytes(),
        &key.commit.term.to_be_bytes(),
        &key.commit.counter.to_be_bytes(),
        &key.place.to_be_bytes(),
    ])
}

fn timer_request_id(timer: &TimerKey) -> Uuid {
    derived(&[
        b"timer",
        timer.entity.as_str().as_bytes(),
        timer.name.as_bytes(),
        &timer.generation.term.to_be_bytes(),
        &timer.generation.counter.to_be_bytes(),
    ])
}

fn derived(parts: &[&[u8]]) -> Uuid {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.finalize()[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}
