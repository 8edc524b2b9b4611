//! Golden scripts of one cell: what a decision becomes as a commit. The entity is a [`Probe`].
//!
//! `run SCRIPT [attempt=N] [as=KIND]` · `message [hops=N] [answer] [content=linked]` · `fire NAME` (as set) ·
//! `fire NAME due=MS` (any) · `apply` (everything proposed) · `reload` · `pass MS`

use crate::{
    bench::{Bench, call, origin},
    node::START_MS,
    probe::{Probe, script},
    world::request_at,
};
use goldenscript::{Command, Runner};
use okno_domain::message::Message as DomainMessage;
use okno_runtime::{
    cell::{AnyCell, CellInput, CellOutput},
    codec::{What, encode},
    load::cell_of,
    work::Work,
};
use okno_storage::commit::{
    Body, Commit, CommitId, EntityKey, Message, MessageKey, TimerChange, TimerKey, Value,
};
use std::{error::Error, fmt::Write as _, path::Path, sync::Arc};

struct Script {
    bench: Bench<Probe>,
    proposed: Vec<bytes::Bytes>,
    messages: u64,
    requests: u64,
}

impl Script {
    fn new() -> Self {
        Self { bench: Bench::new("probe"), proposed: Vec::new(), messages: 0, requests: 0 }
    }

    fn handle(&mut self, work: Work, attempt: u32) -> String {
        let input =
            CellInput { work: Arc::new(work), stamp_ms: self.bench.now_ms, commit_refusal: attempt > 1 };
        let output = self.bench.cell.handle(&input, &self.bench.env);
        let mut out = String::new();
        match output {
            CellOutput::Proposed { seq, data, reply } => {
                let commit = Commit::decode(&data).expect("what was encoded can be decoded");
                show(&mut out, seq, &commit, reply.is_some());
                self.proposed.push(data);
            }
            CellOutput::Refused { refusal, decided_on, at_once, spoiled } => {
                let how = match (at_once, spoiled) {
                    (true, _) => " at once",
                    (_, true) => " spoiled",
                    _ => "",
                };
                writeln!(out, "refused {} decided on {decided_on}{how}", refusal.reason).expect("a string");
            }
            CellOutput::NotNow(cause) => writeln!(out, "not now: {}", cause.code()).expect("a string"),
            CellOutput::Failed { reason } => writeln!(out, "failed: {reason}").expect("a string"),
            CellOutput::Blind { end: reason } => writeln!(out, "blind: {reason}").expect("a string"),
        }
        out
    }
}

fn id(id: CommitId) -> String {
    match id {
        CommitId::NONE => "none".into(),
        // Counted from the first number a cell may use.
        id => format!("{}.{}", id.term, id.counter - okno_runtime::cell::CommitCounter::FIRST),
    }
}

fn value(value: &Value) -> String {
    match &value.body {
        Body::Inline(body) => format!("inline {}", body.len()),
        Body::OfEvent { event, len, .. } => format!("of event {event}, {len}"),
    }
}

fn timer(key: &TimerKey) -> String {
    format!("{} due {} set by {}", key.name, key.due_ms, id(key.generation))
}

fn show(out: &mut String, seq: u64, commit: &Commit, reply: bool) {
    let mut line = |text: String| writeln!(out, "{text}").expect("a string");
    line(format!(
        "proposed {seq}: {} on {} at {:+} by {}{}",
        id(commit.id),
        id(commit.base),
        commit.time_ms - START_MS,
        commit.origin.as_ref().map_or("nobody", |origin| &origin.principal),
        if reply { ", replies" } else { "" },
    ));
    assert_eq!(commit.replies.len(), usize::from(reply));
    if !commit.events.is_empty() {
        line(format!(
            "  events {}, root {}",
            commit.events.len(),
            commit.root.as_ref().map_or("none".into(), value)
        ));
    }
    for part in &commit.parts {
        let name = String::from_utf8_lossy(&part.part).replace('\u{1}', "^");
        line(format!("  part {name}: {}", part.value.as_ref().map_or("deleted".into(), value)));
    }
    for row in &commit.rows {
        let key = String::from_utf8_lossy(&row.key).chars().take_while(|c| *c != '\0').collect::<String>();
        line(format!("  row {} {key}: {}", row.table, if row.value.is_some() { "put" } else { "deleted" }));
    }
    for sent in &commit.sent {
        let answers = if sent.answers.is_some() { " answers" } else { "" };
        line(format!("  sends {} place {} hops {}{answers}", sent.key.target, sent.key.place, sent.hops));
    }
    for consumed in &commit.consumed {
        line(format!("  consumes {} of {}", consumed.commit.counter, consumed.source));
    }
    for change in &commit.timers {
        let (what, key) = match change {
            TimerChange::Set(key) => ("sets", key),
            TimerChange::Clear(key) => ("clears", key),
            TimerChange::Fire(key) => ("fires", key),
        };
        line(format!("  {what} {}", timer(key)));
    }
}

impl Runner for Script {
    fn run(&mut self, command: &Command) -> Result<String, Box<dyn Error>> {
        let mut args = command.consume_args();
        let output = match command.name.as_str() {
            "run" => {
                let text = args.next_pos().ok_or("a script is wanted")?.value.clone();
                let attempt = args.lookup_parse("attempt")?.unwrap_or(1);
                let kind = args.lookup("as").map_or("admin", |arg| arg.value.as_str());
                self.requests += 1;
                let request = request_at(START_MS, self.requests);
                let work = call(&self.bench.this, origin(kind, "root"), request, script(&text));
                self.handle(Arc::unwrap_or_clone(work), attempt)
            }
            "message" => {
                self.messages += 1;
                let ticket = crate::probe::ticket();
                let linked = args.lookup("content").is_some_and(|arg| arg.value == "linked");
                let content = if linked {
                    DomainMessage::TicketLinked { ticket }
                } else {
                    DomainMessage::CaseOpened { ticket }
                };
                let id = CommitId { term: 1, counter: self.messages };
                let (source, target) =
                    (EntityKey::parse("case/source")?, EntityKey::parse("directory/probe")?);
                let answers = linked.then(|| MessageKey {
                    target: source.clone(),
                    source: target.clone(),
                    commit: CommitId { term: 1, counter: 1 },
                    place: 0,
                });
                let message = Message {
                    key: MessageKey { target, source: source.clone(), commit: id, place: 0 },
                    hops: args.lookup_parse("hops")?.unwrap_or(0),
                    answers,
                    record: encode(What::Message, &content).expect("small"),
                };
                // It stands in the outbox, so that it can be consumed.
                let mut commit = crate::node::time_commit(1, self.messages, START_MS);
                (commit.entity, commit.system) = (source, None);
                commit.sent.push(message.clone());
                self.bench.apply(&commit.encode()?);
                self.handle(Work::Message(message), 1)
            }
            "fire" => {
                let name = args.next_pos().ok_or("a name is wanted")?.value.clone();
                let due: Option<i64> = args.lookup_parse("due")?;
                let view = self.bench.store.reader().view();
                let key = match due {
                    Some(due) => TimerKey {
                        due_ms: due,
                        entity: EntityKey::parse("directory/probe")?,
                        name,
                        generation: CommitId { term: 1, counter: 1_024 },
                    },
                    None => view
                        .timers(None, i64::MAX, 100)?
                        .into_iter()
                        .find(|timer| timer.name == name)
                        .ok_or("no such timer is applied")?,
                };
                self.handle(Work::Timer(key), 1)
            }
            "apply" => {
                let count = self.proposed.len();
                for data in std::mem::take(&mut self.proposed) {
                    self.bench.apply(&data);
                }
                self.bench.check();
                format!("applied {count}\n")
            }
            "reload" => {
                let view = self.bench.store.reader().view();
                self.proposed.clear();
                self.bench.cell = cell_of::<Probe>(&view, self.bench.this.clone(), 1)??;
                let state = self.bench.cell.state();
                let timers = view.timers(None, i64::MAX, 100)?;
                let mut out = format!(
                    "{} events, parts {:?}\n",
                    state.events(),
                    state.parts.keys().collect::<Vec<_>>()
                );
                for key in timers {
                    writeln!(out, "timer {}", timer(&key))?;
                }
                out
            }
            "pass" => {
                self.bench.now_ms += args.next_pos().ok_or("milliseconds are wanted")?.parse::<i64>()?;
                String::new()
            }
            "crowd" => {
                let target = args.next_pos().ok_or("a target is wanted")?.value.clone();
                for n in 0..okno_runtime::depth::REQUESTS_PER_TARGET_MAX {
                    self.bench.env.depths.add(&Message {
                        key: MessageKey {
                            target: EntityKey::parse(&target)?,
                            source: EntityKey::parse(&format!("case/other{n}"))?,
                            commit: CommitId { term: 1, counter: u64::from(n) },
                            place: 0,
                        },
                        hops: 0,
                        answers: None,
                        record: encode(
                            What::Message,
                            &DomainMessage::CaseOpened { ticket: crate::probe::ticket() },
                        )
                        .expect("small"),
                    });
                }
                String::new()
            }
            name => return Err(format!("unknown command {name}").into()),
        };
        args.reject_rest()?;
        Ok(output)
    }
}

fn check(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts/cell").join(name);
    goldenscript::run(&mut Script::new(), path).expect("the script runs");
}

#[test]
fn commits() {
    check("commits");
}

#[test]
fn messages() {
    check("messages");
}

#[test]
fn timers() {
    check("timers");
}

#[test]
fn failures() {
    check("failures");
}
