//! Golden scripts of a shard's core: inputs by hand, effects as they come. Nothing here is concurrent.
//!
//! Inputs: `role TERM|none` · `call NAME ENTITY [id=N] [attempt=N] [hash=N] [ahead=MS]` · `own NAME` (a system
//! operation) · `message ENTITY N` · `timer ENTITY` · `loaded ACT [quarantined|unusable]` · `propose ACT SEQ` ·
//! `refuse ACT ON [at_once] [spoiled]` · `notnow ACT` · `fail ACT` · `applied ACT SEQ INDEX` · `duplicate …` ·
//! `fenced ACT SEQ REASON` · `dropped ACT SEQ REASON` · `unknown ACT SEQ` · `closed ACT INDEX` ·
//! `read TICKET ok|failed` · `gone ACT` · `full` · `tick`. Environment: `reach INDEX` (apply), `pass MS`.

use crate::{node::START_MS, probe::script, world::request_at};
use goldenscript::{Command, Runner};
use okno_cluster::api::{
    Lane, NotApplied, Proposal, ProposalOutcome, ProposeError, ReadError, Role, RoleState, Settled,
    ShardNotice, StampError, Unknown,
};
use okno_domain::entity::{Origin, Principal};
use okno_runtime::{
    Answer, Cause, ShardSettings,
    cell::CellOutput,
    shard::{Effect, Input, LoadedAs, Shard, ShardEnv},
    sys,
    work::{CallWork, SystemWork, Work},
};
use okno_storage::{
    commit::{
        CommitId, EntityKey, FenceReason, Message, MessageKey, Record, RecordTag, RequestKey, RequestRef,
        SystemOp, TimerKey,
    },
    error::StorageError,
    state::RememberedRequest,
};
use std::{collections::BTreeMap, error::Error, fmt::Write as _, path::Path, sync::Arc};

#[derive(Default)]
struct Env {
    applied: u64,
    stamp_ms: i64,
    clock_step: bool,
    remembered: BTreeMap<String, RememberedRequest>,
}

impl ShardEnv for Env {
    fn applied(&self) -> (u64, i64) {
        (self.applied, START_MS)
    }
    fn request(&self, key: &RequestKey) -> Result<Option<RememberedRequest>, StorageError> {
        Ok(self.remembered.get(&key.id.to_string()).cloned())
    }
    fn stamp(&self) -> Result<i64, StampError> {
        if self.clock_step { Err(StampError::ClockStep) } else { Ok(self.stamp_ms) }
    }
}

struct Script {
    shard: Shard<String>,
    env: Env,
    now: u64,
    /// The last batch handed to the raft thread.
    batch: Vec<Proposal>,
}

fn settings() -> ShardSettings {
    ShardSettings {
        entity_calls_max: 4,
        entity_completions_max: 1,
        calls_max: 6,
        resident_max: 3,
        idle_ms: 10_000,
        panics_max: 3,
        panic_window_ms: 60_000,
        backoff_min_ms: 100,
        backoff_max_ms: 1_000,
        intake: std::sync::Arc::default(),
    }
}

impl Script {
    fn new() -> Self {
        Self {
            shard: Shard::new(0, settings()),
            env: Env { stamp_ms: START_MS, ..Env::default() },
            now: 0,
            batch: Vec::new(),
        }
    }

    fn input(&mut self, input: Input<String>) -> String {
        let mut fx = Vec::new();
        self.shard.on(input, self.now, &self.env, &mut fx);
        self.shard.end_turn(self.now, &self.env, &mut fx);
        let mut out = String::new();
        for effect in fx {
            self.show(effect, &mut out);
        }
        out
    }

    fn show(&mut self, effect: Effect<String>, out: &mut String) {
        let line = match effect {
            Effect::Load { activation, entity, term } => {
                format!("load {activation}: {entity} in term {term}")
            }
            Effect::Deliver { activation, input } => {
                let kept = if input.commit_refusal { ", refusals are kept" } else { "" };
                format!("deliver to {activation}: {}{kept}", work(&input.work))
            }
            Effect::Stop { activation } => format!("stop {activation}"),
            Effect::Propose(batch) => {
                let shown: Vec<_> = batch
                    .iter()
                    .map(|one| format!("{}.{} in term {}", one.lane.activation, one.seq, one.term))
                    .collect();
                self.batch = batch;
                format!("propose {}", shown.join(", "))
            }
            Effect::CloseLane(lane) => format!("close lane {}", lane.activation),
            Effect::Confirm(ticket) => format!("confirm leadership, ticket {ticket}"),
            Effect::Answer(name, answer) => format!("answer {name}: {}", show_answer(&answer)),
            Effect::Delivered(key, answer) => {
                format!("delivered {}: {}", key.commit.counter, show_answer(&answer))
            }
            Effect::Fired(key, answer) => format!("fired {}: {}", key.name, show_answer(&answer)),
            Effect::WorldMoved(index) => format!("world moved at {index}"),
            Effect::Quarantine { entity, reason } => format!("quarantine {entity}: {reason}"),
            Effect::Fatal(reason) => format!("fatal {reason}"),
        };
        writeln!(out, "{line}").expect("a string");
    }

    fn settled(&mut self, activation: u64, seq: u64, outcome: ProposalOutcome) -> String {
        let lane = Lane { shard: 0, activation };
        self.input(Input::Notice(ShardNotice::Settled(vec![Settled { lane, seq, outcome }])))
    }
}

fn work(work: &Work) -> String {
    match work {
        Work::Call(call) => format!("call {}", call.request.key.principal),
        Work::System(_) => "system operation".into(),
        Work::Message(message) => format!("message {}", message.key.commit.counter),
        Work::Timer(timer) => format!("timer {}", timer.name),
    }
}

fn show_answer(answer: &Answer) -> String {
    match answer {
        Answer::Done { reply, index } => {
            let reply = reply
                .as_ref()
                .map_or("no reply".into(), |reply| String::from_utf8_lossy(&reply.body).into_owned());
            format!("done at {index}, {reply}")
        }
        Answer::Refused(refusal) => format!("refused {}", refusal.reason),
        Answer::NotApplied(cause) => format!("not applied {}", cause.code()),
        Answer::Unknown(reason) => format!("unknown {reason}"),
        Answer::Quarantined(reason) => format!("quarantined: {reason}"),
        Answer::Gone => "gone".into(),
    }
}

fn reply(text: &str) -> Record {
    Record {
        tag: RecordTag { kind: 0x103, version: 1 },
        body: bytes::Bytes::copy_from_slice(text.as_bytes()),
    }
}

impl Runner for Script {
    fn run(&mut self, command: &Command) -> Result<String, Box<dyn Error>> {
        let mut args = command.consume_args();
        let mut pos: Vec<String> = args.rest_pos().into_iter().map(|arg| arg.value.clone()).collect();
        pos.reverse();
        let mut next = || pos.pop().ok_or("an argument is missing");
        let id: Option<u64> = args.lookup_parse("id")?;
        let attempt: u32 = args.lookup_parse("attempt")?.unwrap_or(1);
        let hash: u8 = args.lookup_parse("hash")?.unwrap_or(1);
        let ahead: i64 = args.lookup_parse("ahead")?.unwrap_or(0);
        let expires: u64 = args.lookup_parse("expires")?.unwrap_or(u64::MAX);
        args.reject_rest()?;
        let output = match command.name.as_str() {
            "role" => {
                let role = match next()?.as_str() {
                    "none" => RoleState { term: 0, role: Role::Follower { leader: None } },
                    term => RoleState { term: term.parse()?, role: Role::Leader { ready: true } },
                };
                self.input(Input::Role(role))
            }
            "call" => {
                let name = next()?;
                let entity = EntityKey::parse(&next()?)?;
                let n = id.unwrap_or_else(|| name.bytes().fold(0, |sum, byte| sum * 256 + u64::from(byte)));
                let request = RequestRef {
                    key: RequestKey {
                        id: request_at(START_MS + ahead, n),
                        principal: format!("request{}", id.map_or(name.clone(), |id| id.to_string())),
                    },
                    hash: [hash; 32],
                };
                let origin = Origin {
                    principal: Principal { kind: "admin".into(), id: "root".into() },
                    workstation: String::new(),
                };
                let work = Work::Call(CallWork {
                    entity,
                    origin,
                    request,
                    command: script("quiet"),
                    expires_ms: expires,
                });
                self.input(Input::Call { work: Arc::new(work), attempt, handle: name })
            }
            "own" => {
                let op = SystemOp::Time;
                let origin = Origin {
                    principal: Principal { kind: "node".into(), id: "1".into() },
                    workstation: String::new(),
                };
                let entity = sys::key_of(&op);
                let work =
                    Work::System(SystemWork { entity, op, origin, request: None, expires_ms: u64::MAX });
                self.input(Input::Call { work: Arc::new(work), attempt, handle: next()? })
            }
            "message" => {
                let target = EntityKey::parse(&next()?)?;
                let key = MessageKey {
                    target,
                    source: EntityKey::parse("case/source")?,
                    commit: CommitId { term: 1, counter: next()?.parse()? },
                    place: 0,
                };
                let message = Message { key, hops: 0, answers: None, record: reply("") };
                self.input(Input::Message(message))
            }
            "timer" => {
                let entity = EntityKey::parse(&next()?)?;
                let timer = TimerKey { due_ms: 1, entity, name: "tick".into(), generation: CommitId::NONE };
                self.input(Input::Timer(timer))
            }
            "loaded" => {
                let activation = next()?.parse()?;
                let result = match next().as_deref() {
                    Err(_) => LoadedAs::Ready,
                    Ok("quarantined") => LoadedAs::Quarantined("failed before".into()),
                    Ok("unusable") => LoadedAs::Unusable("unreadable".into()),
                    Ok(other) => return Err(format!("not a result: {other}").into()),
                };
                self.input(Input::Loaded { activation, result })
            }
            "propose" => {
                let (activation, seq) = (next()?.parse()?, next()?.parse()?);
                let output = CellOutput::Proposed {
                    seq,
                    data: bytes::Bytes::new(),
                    reply: Some(reply(&format!("reply {seq}"))),
                };
                self.input(Input::Output { activation, output })
            }
            "refuse" => {
                let (activation, decided_on) = (next()?.parse()?, next()?.parse()?);
                let how = next().unwrap_or_default();
                let output = CellOutput::Refused {
                    refusal: crate::probe::refusal("NO"),
                    decided_on,
                    at_once: how == "at_once",
                    spoiled: how == "spoiled",
                };
                self.input(Input::Output { activation, output })
            }
            "notnow" => {
                let output = CellOutput::NotNow(Cause::TargetBacklog);
                self.input(Input::Output { activation: next()?.parse()?, output })
            }
            "fail" => {
                let output = CellOutput::Failed { reason: "panic".into() };
                self.input(Input::Output { activation: next()?.parse()?, output })
            }
            "applied" => {
                let (activation, seq, index) = (next()?.parse()?, next()?.parse()?, next()?.parse()?);
                self.env.applied = self.env.applied.max(index);
                self.settled(activation, seq, ProposalOutcome::Applied { index })
            }
            "duplicate" => {
                let (activation, seq, index) = (next()?.parse()?, next()?.parse()?, next()?.parse()?);
                self.env.applied = self.env.applied.max(index);
                self.settled(
                    activation,
                    seq,
                    ProposalOutcome::Duplicate { index, reply: reply("remembered") },
                )
            }
            "fenced" => {
                let (activation, seq) = (next()?.parse()?, next()?.parse()?);
                let reason = match next()?.as_str() {
                    "base" => FenceReason::Base,
                    "reused" => FenceReason::RequestReused,
                    "quarantined" => FenceReason::Quarantined,
                    "message" => FenceReason::Message,
                    "timer" => FenceReason::Timer,
                    other => return Err(format!("not a reason: {other}").into()),
                };
                self.settled(activation, seq, ProposalOutcome::Fenced { index: 1, reason })
            }
            "dropped" => {
                let (activation, seq) = (next()?.parse()?, next()?.parse()?);
                let why = match next()?.as_str() {
                    "closed" => NotApplied::LaneClosed,
                    "replaced" => NotApplied::Replaced,
                    "overloaded" => NotApplied::Overloaded,
                    "leader" => NotApplied::NotLeader { leader: None },
                    other => return Err(format!("not a reason: {other}").into()),
                };
                self.settled(activation, seq, ProposalOutcome::NotApplied(why))
            }
            "unknown" => {
                let (activation, seq) = (next()?.parse()?, next()?.parse()?);
                self.settled(activation, seq, ProposalOutcome::Unknown(Unknown::LeadershipLost))
            }
            "closed" => {
                let lane = Lane { shard: 0, activation: next()?.parse()? };
                let last_index = next()?.parse()?;
                self.input(Input::Notice(ShardNotice::LaneClosed { lane, last_index }))
            }
            "read" => {
                let ticket = next()?.parse()?;
                let result = if next()? == "ok" { Ok(self.env.applied) } else { Err(ReadError::TimedOut) };
                self.input(Input::Notice(ShardNotice::ReadDone { ticket, result }))
            }
            "gone" => self.input(Input::Gone { activation: next()?.parse()? }),
            "full" => {
                let proposals = std::mem::take(&mut self.batch);
                self.input(Input::NotProposed { proposals, error: ProposeError::Full })
            }
            "tick" => self.input(Input::Tick),
            "reach" => {
                self.env.applied = next()?.parse()?;
                self.input(Input::Tick)
            }
            "pass" => {
                self.now += next()?.parse::<u64>()?;
                self.input(Input::Tick)
            }
            "clock" => {
                match next()?.as_str() {
                    "steps" => self.env.clock_step = true,
                    ms => {
                        self.env.clock_step = false;
                        self.env.stamp_ms = START_MS + ms.parse::<i64>()?;
                    }
                }
                String::new()
            }
            "remember" => {
                let request = request_at(START_MS, next()?.parse()?);
                let remembered = RememberedRequest { hash: [1; 32], reply: reply("remembered"), index: 7 };
                self.env.remembered.insert(request.to_string(), remembered);
                String::new()
            }
            name => return Err(format!("unknown command {name}").into()),
        };
        Ok(output)
    }

    fn end_script(&mut self) -> Result<(), Box<dyn Error>> {
        let figures = self.shard.figures();
        if figures.callers == 0 {
            Ok(())
        } else {
            Err(format!("{} callers were never answered", figures.callers).into())
        }
    }
}

fn check(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts/shard").join(name);
    goldenscript::run(&mut Script::new(), path).expect("the script runs");
}

#[test]
fn calls() {
    check("calls");
}

#[test]
fn refusals() {
    check("refusals");
}

#[test]
fn failures() {
    check("failures");
}

#[test]
fn leadership() {
    check("leadership");
}

#[test]
fn bounds() {
    check("bounds");
}

#[test]
fn passivation() {
    check("passivation");
}
