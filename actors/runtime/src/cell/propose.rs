//! From a decision to the bytes of a commit: fold, write what changed, share bodies, check the size.

use super::{Cell, CellEnv, CellOutput, HOPS_MAX};
use crate::{
    call::{self, Cause},
    codec::{self, TIMERS_PART, What},
    work::{CallWork, entity_key},
};
use bytes::Bytes;
use memchr::memmem;
use okno_domain::{
    entity::{
        CHANNELS_LEVEL, Decision, EventMeta, FIRST_LEVEL, Input, Origin, Refusal, RefusalClass, Row,
        TimerChange as DomainTimer,
    },
    message::{Message as DomainMessage, MessageRole},
    registry::Registered,
    rows,
};
use okno_storage::{
    commit::{
        Body, COMMIT_BYTES_MAX, Commit, CommitId, EntityKey, Message, MessageKey, Origin as CommitOrigin,
        PartChange, Record, RememberedReply, RequestRef, RowChange, TimerChange, TimerKey, Value,
    },
    error::StorageError,
    level,
};
use std::collections::{BTreeMap, BTreeSet};

/// A body at least this long is looked for in the events before it is written again: a reference costs about
/// 8 bytes and the search next to nothing.
const SHARE_BYTES_MIN: usize = 64;
/// What is looked for of a body before all of it is compared, and how many places that look alike are tried:
/// zeros in an event must not make the search quadratic.
const SHARE_HEAD_BYTES: usize = 16;
const SHARE_HEADS_MAX: usize = 64;
/// Room the frame of a commit needs beside its events; what decides finally is the encoded size.
const FRAME_BYTES: usize = 512;

/// What led to a decision.
pub(super) enum Trigger<'a> {
    Call(&'a CallWork),
    Message { message: &'a Message, content: &'a DomainMessage, origin: &'a Origin },
    Timer { timer: &'a TimerKey, origin: &'a Origin },
}

impl Trigger<'_> {
    fn origin(&self) -> &Origin {
        match self {
            Self::Call(call) => &call.origin,
            Self::Message { origin, .. } | Self::Timer { origin, .. } => origin,
        }
    }

    fn request(&self) -> Option<&RequestRef> {
        match self {
            Self::Call(call) => Some(&call.request),
            Self::Message { .. } | Self::Timer { .. } => None,
        }
    }

    fn hops(&self) -> u16 {
        match self {
            Self::Message { message, .. } => message.hops.saturating_add(1),
            Self::Call(_) | Self::Timer { .. } => 0,
        }
    }
}

/// `<kind>/<id>` as commits and journals name a caller.
pub fn principal_text(origin: &Origin) -> String {
    format!("{}/{}", origin.principal.kind, origin.principal.id)
}

/// The part of the commit that an accepted decision and a committed refusal have in common.
fn frame(
    key: &EntityKey,
    term: u64,
    id: CommitId,
    base: CommitId,
    time_ms: i64,
    trigger: &Trigger<'_>,
    reply: Option<&Record>,
) -> Commit {
    let origin = trigger.origin();
    let replies = match (trigger.request(), reply) {
        (Some(request), Some(reply)) => {
            vec![RememberedReply { request: request.clone(), reply: reply.clone() }]
        }
        _ => Vec::new(),
    };
    Commit {
        entity: key.clone(),
        term,
        id,
        base,
        time_ms,
        origin: Some(CommitOrigin {
            principal: principal_text(origin),
            workstation: origin.workstation.clone(),
            request: trigger.request().cloned(),
        }),
        events: Vec::new(),
        root: None,
        parts: Vec::new(),
        rows: Vec::new(),
        sent: Vec::new(),
        consumed: match trigger {
            Trigger::Message { message, .. } => vec![message.key.clone()],
            _ => Vec::new(),
        },
        timers: match trigger {
            Trigger::Timer { timer, .. } => vec![TimerChange::Fire((*timer).clone())],
            _ => Vec::new(),
        },
        replies,
        system: None,
    }
}

impl<E: Registered> Cell<E> {
    /// Folds a decision into the speculative state and encodes its commit.
    pub(super) fn propose(
        &mut self,
        decision: Decision<E>,
        trigger: Trigger<'_>,
        now_ms: i64,
        env: &CellEnv,
        commit_refusal: bool,
    ) -> CellOutput {
        let sets_timer = decision.timers.iter().any(|change| matches!(change, DomainTimer::Set { .. }));
        if decision.events.is_empty() && sets_timer {
            // Its row in the reserved part could not be written, and a later change would not find it.
            return CellOutput::Failed { reason: "a timer was set by a decision without events".into() };
        }
        if let Some(refusal) = level_needed::<E>(&decision, env.worlds.level()) {
            return self.refuse(refusal, &trigger, now_ms, env, commit_refusal);
        }
        let id = CommitId { term: self.term, counter: env.counter.next() };
        let sent = match self.messages(&decision, &trigger, id, env) {
            Ok(sent) => sent,
            Err(Unsent::Refused(refusal)) => {
                return self.refuse(refusal, &trigger, now_ms, env, commit_refusal);
            }
            Err(Unsent::NotNow(cause)) => return CellOutput::NotNow(cause),
        };
        let mut bytes = FRAME_BYTES;
        let mut events = Vec::with_capacity(decision.events.len());
        for event in &decision.events {
            let Some(record) = codec::encode(What::Event(E::KIND), event) else {
                return self.refuse(call::too_large(), &trigger, now_ms, env, commit_refusal);
            };
            bytes += record.body.len();
            events.push(record);
        }
        if bytes > COMMIT_BYTES_MAX || events.len() > usize::from(u16::MAX) {
            return self.refuse(call::too_large(), &trigger, now_ms, env, commit_refusal);
        }
        let reply = match trigger.request() {
            Some(_) => match codec::encode(What::Reply(E::KIND), &decision.reply) {
                Some(reply) => Some(reply),
                None => return self.refuse(call::too_large(), &trigger, now_ms, env, commit_refusal),
            },
            None => None,
        };
        let mut commit = frame(&self.key, self.term, id, self.head, now_ms, &trigger, reply.as_ref());
        commit.sent = sent;

        let Some(kept) = self.kept(&decision, &trigger) else {
            return CellOutput::Failed { reason: "a decision on another kind's command".into() };
        };
        commit.rows = kept;

        // From here on the speculative state moves: whatever fails now spoils the cell.
        let fired = match &trigger {
            Trigger::Timer { timer, .. } => Some(*timer),
            _ => None,
        };
        let timers_moved = self.change_timers(&decision.timers, fired, id, &mut commit.timers);
        if !events.is_empty() && !self.fold(&decision, &trigger, now_ms, timers_moved, &events, &mut commit) {
            return self.spoiled();
        }
        let moved = !events.is_empty();
        commit.events = events;
        if moved {
            self.head = id;
        }
        self.last_ms = now_ms;
        match self.seal(&commit, reply, env) {
            Err(StorageError::TooLarge(_)) => self.spoiled(),
            sealed => sealed.unwrap_or_else(broken),
        }
    }

    /// A refusal that must be durable consumes the message, the timer or the request, and changes nothing else.
    /// Any other leaves once what it rests on has applied (rule 2).
    pub(super) fn refuse(
        &mut self,
        refusal: Refusal,
        trigger: &Trigger<'_>,
        now_ms: i64,
        env: &CellEnv,
        commit_refusal: bool,
    ) -> CellOutput {
        if !commit_refusal {
            return CellOutput::Refused { refusal, decided_on: self.seq, at_once: false, spoiled: false };
        }
        let id = CommitId { term: self.term, counter: env.counter.next() };
        let reply = codec::encode(What::Refusal, &refusal);
        let mut commit = frame(&self.key, self.term, id, self.head, now_ms, trigger, reply.as_ref());
        match trigger {
            // An answer is never answered, or two entities would refuse each other for ever.
            Trigger::Message { message, content, .. } if content.role() == MessageRole::Request => {
                let answer = DomainMessage::Refused {
                    reason: refusal.reason.clone(),
                    of: Box::new((*content).clone()),
                };
                let Some(record) = codec::encode(What::Message, &answer) else {
                    return CellOutput::Failed { reason: "a refusal cannot be encoded".into() };
                };
                commit.sent.push(Message {
                    key: MessageKey {
                        target: message.key.source.clone(),
                        source: self.key.clone(),
                        commit: id,
                        place: 0,
                    },
                    hops: trigger.hops(),
                    answers: Some(message.key.clone()),
                    record,
                });
            }
            Trigger::Timer { timer, .. } => self.timers.retain(|known| known != *timer),
            Trigger::Message { .. } | Trigger::Call(_) => {}
        }
        self.last_ms = now_ms;
        let reply = trigger.request().and(reply);
        self.seal(&commit, reply, env).unwrap_or_else(broken)
    }

    /// Deletes the row of a timer that is not set any more.
    pub(super) fn clear_timer(
        &mut self,
        timer: &TimerKey,
        origin: &Origin,
        now_ms: i64,
        env: &CellEnv,
    ) -> CellOutput {
        let trigger = Trigger::Timer { timer, origin };
        let id = CommitId { term: self.term, counter: env.counter.next() };
        let mut commit = frame(&self.key, self.term, id, self.head, now_ms, &trigger, None);
        commit.timers = vec![TimerChange::Clear(timer.clone())];
        self.last_ms = now_ms;
        self.seal(&commit, None, env).unwrap_or_else(broken)
    }

    /// Encodes; `Err`: larger than a commit may be, or breaks a rule of commits.
    fn seal(
        &mut self,
        commit: &Commit,
        reply: Option<Record>,
        env: &CellEnv,
    ) -> Result<CellOutput, StorageError> {
        let data = commit.encode_at(env.worlds.level())?;
        self.seq += 1;
        Ok(CellOutput::Proposed { seq: self.seq, data, reply })
    }

    /// Found too large only after the state had moved. The refusal stands; the state does not.
    fn spoiled(&self) -> CellOutput {
        CellOutput::Refused {
            refusal: call::too_large(),
            decided_on: self.seq,
            at_once: false,
            spoiled: true,
        }
    }

    /// The outbox rows of a decision. An answer takes the place reserved when its request was sent; a request
    /// needs room at its target now.
    fn messages(
        &self,
        decision: &Decision<E>,
        trigger: &Trigger<'_>,
        id: CommitId,
        env: &CellEnv,
    ) -> Result<Vec<Message>, Unsent> {
        let mut sent = Vec::with_capacity(decision.sends.len());
        let mut answered = false;
        for (place, send) in decision.sends.iter().enumerate() {
            let target = entity_key(&send.target).map_err(|_| {
                Unsent::Refused(call::with_detail(
                    call::refusal(
                        RefusalClass::InvalidArgument,
                        "MESSAGE_TARGET_MALFORMED",
                        "Получатель сообщения указан неверно",
                        "The target of a message cannot be an entity",
                    ),
                    "target",
                    send.target.to_string(),
                ))
            })?;
            let hops = trigger.hops();
            if hops > HOPS_MAX {
                return Err(Unsent::Refused(call::refusal(
                    RefusalClass::FailedPrecondition,
                    "MESSAGE_HOPS_EXCEEDED",
                    "Слишком длинная цепочка сообщений",
                    "Too many messages led to this one",
                )));
            }
            let answers = match trigger {
                Trigger::Message { message, content, .. }
                    if !answered
                        && content.role() == MessageRole::Request
                        && send.message.role() == MessageRole::Answer
                        && message.key.source == target =>
                {
                    answered = true;
                    Some(message.key.clone())
                }
                _ => None,
            };
            // An answer that comes later has its place as well: whoever gives it bounds how many requests it holds.
            let needs_room = answers.is_none() && send.message.role() == MessageRole::Request;
            if needs_room && !env.depths.has_room(&self.key, &target) {
                return Err(Unsent::NotNow(Cause::TargetBacklog));
            }
            let record = codec::encode(What::Message, &send.message)
                .ok_or_else(|| Unsent::Refused(call::too_large()))?;
            let place = u16::try_from(place).map_err(|_| Unsent::Refused(call::too_large()))?;
            let key = MessageKey { target, source: self.key.clone(), commit: id, place };
            sent.push(Message { key, hops, answers, record });
        }
        Ok(sent)
    }

    /// The rows of the bodies that a decision keeps and lets go. `None`: the command is another kind's, and nothing can have
    /// been decided on it.
    fn kept(&self, decision: &Decision<E>, trigger: &Trigger<'_>) -> Option<Vec<RowChange>> {
        // No event of before has a body beside it: the command is not copied for nothing.
        if decision.events.iter().all(|event| E::level(event) < CHANNELS_LEVEL) {
            return Some(Vec::new());
        }
        let command;
        let input = match trigger {
            Trigger::Call(call) => match E::command_from(call.command.clone()) {
                Ok(own) => {
                    command = own;
                    Input::Command(&command)
                }
                Err(_) => return None,
            },
            Trigger::Message { content, .. } => Input::Message(content),
            Trigger::Timer { .. } => Input::Timer,
        };
        let kept = self.state.kept(&input, &decision.events);
        let tag = What::Body.tag();
        Some(
            kept.into_iter()
                .map(|kept| {
                    let Row { table, key } = rows::body(kept.number);
                    let body = kept.body.map(|body| Body::Inline(codec::keep(body)));
                    let value = body.map(|body| Some(Value { tag, body }));
                    RowChange { table: table.number(), key: Bytes::from(key), value }
                })
                .collect(),
        )
    }

    /// Applies timer changes to `self.timers` and lists them for the commit. True: the reserved part changed.
    fn change_timers(
        &mut self,
        changes: &[DomainTimer],
        fired: Option<&TimerKey>,
        id: CommitId,
        out: &mut Vec<TimerChange>,
    ) -> bool {
        let before = self.timers.len();
        if let Some(fired) = fired {
            self.timers.retain(|known| known != fired);
        }
        let mut moved = self.timers.len() != before;
        // The last word on a name counts: one commit sets a name at most once.
        let mut last: BTreeMap<&str, Option<i64>> = BTreeMap::new();
        for change in changes {
            match change {
                DomainTimer::Set { name, due_ms } => last.insert(name, Some(*due_ms)),
                DomainTimer::Clear { name } => last.insert(name, None),
            };
        }
        for (name, due) in last {
            if let Some(at) = self.timers.iter().position(|known| known.name == name) {
                out.push(TimerChange::Clear(self.timers.swap_remove(at)));
                moved = true;
            }
            if let Some(due_ms) = due {
                let key =
                    TimerKey { due_ms, entity: self.key.clone(), name: name.to_owned(), generation: id };
                out.push(TimerChange::Set(key.clone()));
                self.timers.push(key);
                moved = true;
            }
        }
        self.timers.sort_by(|a, b| a.name.cmp(&b.name));
        moved
    }

    /// Evolves the state and fills in root, parts and rows. False: something cannot be encoded.
    fn fold(
        &mut self,
        decision: &Decision<E>,
        trigger: &Trigger<'_>,
        now_ms: i64,
        timers_moved: bool,
        events: &[Record],
        commit: &mut Commit,
    ) -> bool {
        let touched: BTreeSet<String> = decision.events.iter().flat_map(E::touched).collect();
        let existed: Vec<bool> = touched.iter().map(|part| self.state.part(part).is_some()).collect();
        let before = self.rows(&touched);
        let meta = EventMeta { time_ms: now_ms, origin: trigger.origin().clone() };
        for event in &decision.events {
            self.state.evolve(event, &meta);
        }
        let after = self.rows(&touched);

        let Some(root) = codec::encode_body(&self.state.root()) else { return false };
        commit.root = Some(Value { tag: What::Root(E::KIND).tag(), body: share(root, events) });
        for (part, existed) in touched.into_iter().zip(existed) {
            let value = match self.state.part(&part) {
                Some(content) => {
                    let Some(body) = codec::encode_body(&content) else { return false };
                    Some(Value { tag: What::Part(E::KIND).tag(), body: share(body, events) })
                }
                None if existed => None,
                None => continue,
            };
            commit.parts.push(PartChange { part: Bytes::from(part.into_bytes()), value });
        }
        if timers_moved {
            let value = if self.timers.is_empty() {
                None
            } else {
                let Some(record) = codec::encode_timers(&self.timers) else { return false };
                Some(Value { tag: record.tag, body: Body::Inline(record.body) })
            };
            commit.parts.push(PartChange { part: Bytes::from_static(TIMERS_PART), value });
        }
        for gone in before.difference(&after) {
            commit.rows.push(RowChange {
                table: gone.table.number(),
                key: Bytes::from(gone.key.clone()),
                value: None,
            });
        }
        for new in after.difference(&before) {
            commit.rows.push(RowChange {
                table: new.table.number(),
                key: Bytes::from(new.key.clone()),
                value: Some(None),
            });
        }
        true
    }

    /// The index rows of the root and the touched parts; those of other parts cannot have changed.
    fn rows(&self, touched: &BTreeSet<String>) -> BTreeSet<Row> {
        let parts = touched.iter().map(|part| Some(part.as_str()));
        std::iter::once(None).chain(parts).flat_map(|part| self.state.rows(part)).collect()
    }
}

const _: () = assert!(
    CHANNELS_LEVEL == level::CHANNELS && okno_domain::level::QUEUE == level::QUEUE,
    "the domain and storage count levels alike"
);

/// The refusal of what the replicated feature level does not allow to be written yet (rule 9).
fn level_needed<E: Registered>(decision: &Decision<E>, level: u32) -> Option<Refusal> {
    let events = decision.events.iter().map(E::level);
    let sends = decision.sends.iter().map(|send| send.message.level());
    let needed = events.chain(sends).max().unwrap_or(FIRST_LEVEL);
    (needed > level).then(|| okno_domain::level::low(level, needed))
}

/// Why a decision's messages were not made.
enum Unsent {
    Refused(Refusal),
    NotNow(Cause),
}

/// A body stands in a commit once: where an event holds it already, the row points there.
fn share(body: Bytes, events: &[Record]) -> Body {
    if body.len() >= SHARE_BYTES_MIN {
        // Looking for the head alone and comparing the rest: a searcher for the whole body would cost more to
        // prepare than to run.
        let head = memmem::Finder::new(&body[..SHARE_HEAD_BYTES]);
        for (place, event) in events.iter().enumerate() {
            for start in head.find_iter(&event.body).take(SHARE_HEADS_MAX) {
                if event.body[start..].starts_with(&body) {
                    // All three fit: a commit has at most 65,535 events and 256 KiB.
                    return Body::OfEvent {
                        event: place as u16,
                        start: start as u32,
                        len: body.len() as u32,
                    };
                }
            }
        }
    }
    Body::Inline(body)
}

/// The domain made what no commit may hold (a part's name too long, a timer without a name): its bug.
fn broken(error: StorageError) -> CellOutput {
    CellOutput::Failed { reason: format!("not a commit: {error}") }
}
