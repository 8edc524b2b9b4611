//! Taking calls in and answering them: request memory, joins, refusals, outcomes.

use super::{
    Asked, Effect, Held, Item, Join, Phase, REQUEST_AHEAD_MS, REQUEST_WINDOW_MS, Resident, Shard, ShardEnv,
    TRIES_MAX, TurnedAway,
};
use crate::{
    call::{self, Answer, Cause},
    cell::{CellInput, CellOutput},
    end::End,
    work::Work,
    world,
};
use okno_cluster::api::{Lane, NotApplied, Proposal, ProposalOutcome, Unknown};
use okno_domain::{
    entity::{Refusal, RefusalClass},
    intake::Class,
};
use okno_storage::{
    commit::{EntityKey, FenceReason, Record},
    planted::{self, Mutant},
};
use std::{collections::BTreeSet, sync::Arc};
use uuid::Uuid;

/// Why nobody knows what became of a request older than the window of request memory (rule 6).
pub const REQUEST_ID_EXPIRED: &str = "REQUEST_ID_EXPIRED";

/// Milliseconds since the Unix epoch a UUIDv7 was made at; `None`: not a UUIDv7.
pub fn request_time_ms(id: Uuid) -> Option<i64> {
    (id.get_version_num() == 7).then(|| {
        let bytes = id.as_bytes();
        bytes[..6].iter().fold(0, |ms, byte| ms << 8 | i64::from(*byte))
    })
}

/// What is wrong with a request id before anything was read; rule 6.
pub fn check_request_id(id: Uuid) -> Result<i64, Refusal> {
    request_time_ms(id).ok_or_else(|| {
        call::refusal(
            RefusalClass::InvalidArgument,
            "REQUEST_ID_MALFORMED",
            "Идентификатор запроса должен быть UUID версии 7",
            "The request id must be a UUID of version 7",
        )
    })
}

fn ahead(ahead_ms: i64) -> Refusal {
    call::with_detail(
        call::refusal(
            RefusalClass::FailedPrecondition,
            "REQUEST_ID_AHEAD",
            "Часы отправителя спешат: запрос помечен будущим временем",
            "The caller's clock is ahead: the request id lies in the future",
        ),
        "ahead_ms",
        ahead_ms.to_string(),
    )
}

impl<H> Shard<H> {
    /// Request memory first (rule 6): joined, remembered, out of the window, or new.
    pub(super) fn on_call(
        &mut self,
        work: Arc<Work>,
        attempt: u32,
        handle: H,
        now: u64,
        env: &dyn ShardEnv,
        fx: &mut Vec<Effect<H>>,
    ) {
        if self.term.is_none() {
            fx.push(Effect::Answer(handle, Answer::NotApplied(Cause::NoLeader)));
            return;
        }
        let Some(request) = work.request().cloned() else {
            // The cluster's own operations have one caller and no memory; they complete what was begun.
            self.callers += 1;
            self.admit(Item { work, own: Some(handle), tries: 0 }, now, env, fx);
            return;
        };
        if self.callers >= self.settings.calls_max || (!self.outgoing.is_empty() && now < self.stalled_until)
        {
            fx.push(Effect::Answer(handle, Answer::NotApplied(Cause::Overloaded)));
            return;
        }
        if let Some(join) = self.joins.get_mut(&request.key) {
            if join.hash == request.hash {
                join.attempt = join.attempt.max(attempt);
                join.callers.push(handle);
                self.callers += 1;
                self.figures.joined += 1;
            } else {
                fx.push(Effect::Answer(handle, Answer::Refused(call::reused())));
            }
            return;
        }
        let made_ms = match check_request_id(request.key.id) {
            Ok(made_ms) => made_ms,
            Err(refusal) => {
                fx.push(Effect::Answer(handle, Answer::Refused(refusal)));
                return;
            }
        };
        let (_, replicated_ms) = env.applied();
        if made_ms > replicated_ms.saturating_add(REQUEST_AHEAD_MS) {
            let cause = match self.stamp(env) {
                // The cluster stood still for a while: its time will have caught up in a moment.
                Ok(stamp) if made_ms <= stamp.saturating_add(REQUEST_AHEAD_MS) => Cause::TimeBehind,
                // An earlier attempt may still be on its way and arrive when its time has come (rule 2): nothing is
                // said for ever.
                Ok(_) if attempt > 1 => Cause::TimeBehind,
                Ok(_) => {
                    self.callers += 1;
                    self.joins
                        .insert(request.key, Join { hash: request.hash, attempt, callers: vec![handle] });
                    self.at_door.push(TurnedAway {
                        item: Item { work, own: None, tries: 0 },
                        answer: Answer::Refused(ahead(made_ms - replicated_ms)),
                        retried: Cause::TimeBehind,
                    });
                    return;
                }
                Err(_) => Cause::ClockStep,
            };
            fx.push(Effect::Answer(handle, Answer::NotApplied(cause)));
            return;
        }
        if made_ms < replicated_ms.saturating_sub(REQUEST_WINDOW_MS) {
            fx.push(Effect::Answer(handle, Answer::Unknown(REQUEST_ID_EXPIRED.into())));
            return;
        }
        match env.request(&request.key) {
            Ok(Some(remembered)) => {
                self.figures.remembered += 1;
                let answer = if remembered.hash == request.hash {
                    Answer::Done { reply: Some(remembered.reply), index: remembered.index }
                } else {
                    Answer::Refused(call::reused())
                };
                fx.push(Effect::Answer(handle, answer));
            }
            Ok(None) => {
                if let Some(cause) = work.class().and_then(|class| self.settings.intake.refuses(class)) {
                    fx.push(Effect::Answer(handle, Answer::NotApplied(cause)));
                    return;
                }
                self.callers += 1;
                self.joins.insert(request.key, Join { hash: request.hash, attempt, callers: vec![handle] });
                self.admit(Item { work, own: None, tries: 0 }, now, env, fx);
            }
            Err(error) => {
                fx.push(Effect::Answer(handle, Answer::NotApplied(Cause::Closed)));
                fx.push(Effect::Fatal(End::of("request memory", &error)));
            }
        }
    }

    /// Gives work to its entity, activating it if need be.
    pub(super) fn admit(&mut self, item: Item<H>, now: u64, env: &dyn ShardEnv, fx: &mut Vec<Effect<H>>) {
        let Some(term) = self.term else {
            return self.answer(item, Answer::NotApplied(Cause::NoLeader), fx);
        };
        let key = item.work.entity().clone();
        // Nothing at all is written: messages, timers and the cluster's own wait where they are.
        if item.work.class().is_none()
            && let Some(cause) = self.settings.intake.refuses(Class::Completion)
        {
            return self.answer(item, Answer::NotApplied(cause), fx);
        }
        let calls_max = self.settings.entity_calls_max;
        let all_max = calls_max + self.settings.entity_completions_max;
        match self.entities.get_mut(&key) {
            Some(resident) => {
                let bound = match &*item.work {
                    Work::Call(_) => calls_max,
                    Work::System(system) if system.request.is_some() => calls_max,
                    Work::System(_) | Work::Message(_) | Work::Timer(_) => all_max,
                };
                if resident.under_way() >= bound {
                    return self.answer(item, Answer::NotApplied(Cause::EntityBusy), fx);
                }
                resident.last_used = now;
                if resident.phase == Phase::Active {
                    self.deliver(&key, item, now, env, fx);
                } else {
                    resident.buffer.push_back(item);
                }
            }
            None => {
                let mut resident = Resident::new(0, term, now);
                resident.buffer.push_back(item);
                let until = self.troubles.get(&key).map_or(0, |trouble| trouble.until);
                if now < until {
                    resident.phase = Phase::Backoff { until };
                    self.entities.insert(key.clone(), resident);
                    self.waiting.push(key);
                } else {
                    self.entities.insert(key.clone(), resident);
                    self.activate(&key, term, now, fx);
                }
            }
        }
    }

    /// Hands work to the active entity's actor.
    pub(super) fn deliver(
        &mut self,
        key: &EntityKey,
        item: Item<H>,
        now: u64,
        env: &dyn ShardEnv,
        fx: &mut Vec<Effect<H>>,
    ) {
        if item.work.expires_ms().is_some_and(|expires| now >= expires) {
            return self.answer(item, Answer::NotApplied(Cause::DeadlinePassed), fx);
        }
        let Ok(stamp_ms) = self.stamp(env) else {
            return self.answer(item, Answer::NotApplied(Cause::ClockStep), fx);
        };
        let commit_refusal = self.is_retried(&item);
        let input = CellInput { work: Arc::clone(&item.work), stamp_ms, commit_refusal };
        if let Some(resident) = self.entities.get_mut(key) {
            fx.push(Effect::Deliver { activation: resident.activation, input });
            super::push(&mut resident.deciding, item);
        }
    }

    /// An earlier attempt of it may still be on its way.
    fn is_retried(&self, item: &Item<H>) -> bool {
        let join = item.work.request().and_then(|request| self.joins.get(&request.key));
        join.is_some_and(|join| join.attempt > 1)
    }

    /// Lets the entity decide again: what the last decision rested on did not come to be.
    pub(super) fn redo(
        &mut self,
        key: &EntityKey,
        mut item: Item<H>,
        now: u64,
        env: &dyn ShardEnv,
        fx: &mut Vec<Effect<H>>,
    ) {
        item.tries += 1;
        if self.term.is_none() {
            return self.answer(item, Answer::NotApplied(Cause::NoLeader), fx);
        }
        if item.tries >= TRIES_MAX {
            return self.answer(item, Answer::NotApplied(Cause::EntityRebuilding), fx);
        }
        match self.entities.get_mut(key) {
            Some(resident) if resident.phase == Phase::Active => self.deliver(key, item, now, env, fx),
            Some(resident) => resident.buffer.push_back(item),
            None => self.admit(item, now, env, fx),
        }
    }

    /// Tells everybody who waits for this work how it ended.
    pub(super) fn answer(&mut self, item: Item<H>, answer: Answer, fx: &mut Vec<Effect<H>>) {
        if let Some(handle) = item.own {
            self.callers -= 1;
            fx.push(Effect::Answer(handle, answer));
            return;
        }
        match &*item.work {
            Work::Message(message) => fx.push(Effect::Delivered(message.key.clone(), answer)),
            Work::Timer(timer) => fx.push(Effect::Fired(timer.clone(), answer)),
            Work::Call(_) | Work::System(_) => {
                let Some(join) = item.work.request().and_then(|request| self.joins.remove(&request.key))
                else {
                    return;
                };
                self.callers -= join.callers.len();
                // A quarantine refuses without remembering it: an earlier attempt still on its way may come after the
                // release and be carried out. Only a first attempt may be told no for good (rule 2).
                let answer = match answer {
                    Answer::Quarantined(_) if join.attempt > 1 => Answer::NotApplied(Cause::EntityFailed),
                    other => other,
                };
                for handle in join.callers {
                    fx.push(Effect::Answer(handle, answer.clone()));
                }
            }
        }
    }

    /// What the actor made of the oldest work delivered to it.
    pub(super) fn on_output(
        &mut self,
        activation: u64,
        output: CellOutput,
        now: u64,
        env: &dyn ShardEnv,
        fx: &mut Vec<Effect<H>>,
    ) {
        let Some(key) = self.activations.get(&activation).cloned() else { return };
        let Some(resident) = self.entities.get_mut(&key) else { return };
        if resident.phase != Phase::Active {
            // Its work went back to the buffer when the activation ended; nothing of this leaves.
            return;
        }
        let Some(item) = resident.deciding.pop_front() else { return };
        resident.last_used = now;
        match output {
            CellOutput::Proposed { seq, data, reply } => {
                debug_assert_eq!(seq, resident.proposed() + 1, "a lane's proposals are counted without gaps");
                let term = resident.term;
                super::push(&mut resident.in_flight, Some((item, reply)));
                self.push_outgoing(activation, term, seq, data);
            }
            CellOutput::Refused { refusal, decided_on, at_once, spoiled } => {
                self.figures.refusals += 1;
                if at_once || planted::is(Mutant::RefuseFromSpeculation) {
                    self.answer(item, Answer::Refused(refusal), fx);
                } else {
                    resident.held.reserve_exact(1);
                    resident.held.push(Held { item, refusal, decided_on, ticket: 0, confirmed: false });
                    self.unconfirmed.push(key.clone());
                }
                if spoiled {
                    self.leave(&key, now, env, fx);
                }
            }
            CellOutput::NotNow(cause) => self.answer(item, Answer::NotApplied(cause), fx),
            CellOutput::Blind { end } => {
                self.answer(item, Answer::NotApplied(Cause::Closed), fx);
                fx.push(Effect::Fatal(end));
            }
            CellOutput::Failed { reason } => {
                self.panicked(&key, &reason, now, fx);
                self.answer(item, Answer::NotApplied(Cause::EntityFailed), fx);
                self.leave(&key, now, env, fx);
            }
        }
    }

    /// One ticket for all refusals of this turn; it begins after they were decided.
    pub(super) fn ask_for_ticket(&mut self, fx: &mut Vec<Effect<H>>) {
        let ticket = self.next_ticket;
        let keys: BTreeSet<EntityKey> = std::mem::take(&mut self.unconfirmed).into_iter().collect();
        let mut asked = Vec::with_capacity(keys.len());
        for key in keys {
            let Some(resident) = self.entities.get_mut(&key) else { continue };
            let mut any = false;
            for held in resident.held.iter_mut().filter(|held| held.ticket == 0) {
                held.ticket = ticket;
                any = true;
            }
            if any {
                asked.push(key);
            }
        }
        let at_door = std::mem::take(&mut self.at_door);
        if !asked.is_empty() || !at_door.is_empty() {
            self.next_ticket += 1;
            self.tickets.insert(ticket, Asked { entities: asked, at_door });
            fx.push(Effect::Confirm(ticket));
        }
    }

    /// The entity could not be had. That it is closed is state: callers hear it once leadership is confirmed. Messages and
    /// timers hear it at once, for they wait where they are and come again.
    pub(super) fn turn_away(&mut self, item: Item<H>, answer: Answer, fx: &mut Vec<Effect<H>>) {
        match (&*item.work, answer) {
            (Work::Call(_) | Work::System(_), answer @ Answer::Quarantined(_)) => {
                self.at_door.push(TurnedAway { item, answer, retried: Cause::EntityFailed });
            }
            (_, answer) => self.answer(item, answer, fx),
        }
    }

    /// Leadership ended: what it would have confirmed is not said. Refusals of entities go with their activations.
    pub(super) fn let_in_elsewhere(&mut self, fx: &mut Vec<Effect<H>>) {
        self.unconfirmed.clear();
        let mut at_door = std::mem::take(&mut self.at_door);
        for asked in self.tickets.values_mut() {
            at_door.append(&mut asked.at_door);
        }
        for turned in at_door {
            self.answer(turned.item, Answer::NotApplied(Cause::NoLeader), fx);
        }
    }

    pub(super) fn on_read_done(
        &mut self,
        ticket: u64,
        confirmed: bool,
        now: u64,
        env: &dyn ShardEnv,
        fx: &mut Vec<Effect<H>>,
    ) {
        let Some(asked) = self.tickets.remove(&ticket) else { return };
        for turned in asked.at_door {
            let answer = match confirmed {
                false => Answer::NotApplied(Cause::NoLeader),
                true if self.is_retried(&turned.item) => Answer::NotApplied(turned.retried),
                true => turned.answer,
            };
            self.answer(turned.item, answer, fx);
        }
        for key in asked.entities {
            let Some(resident) = self.entities.get_mut(&key) else { continue };
            let mut again = Vec::new();
            let mut at = 0;
            while at < resident.held.len() {
                if resident.held[at].ticket != ticket {
                    at += 1;
                } else if confirmed {
                    resident.held[at].confirmed = true;
                    at += 1;
                } else {
                    again.push(resident.held.remove(at).item);
                }
            }
            for item in again {
                self.redo(&key, item, now, env, fx);
            }
            self.release_held(&key, now, env, fx);
            self.try_finish(&key, now, env, fx);
        }
    }

    /// Answers the refusals whose ground is firm, decides again those whose ground is gone.
    pub(super) fn release_held(
        &mut self,
        key: &EntityKey,
        now: u64,
        env: &dyn ShardEnv,
        fx: &mut Vec<Effect<H>>,
    ) {
        let Some(resident) = self.entities.get_mut(key) else { return };
        if resident.held.is_empty() {
            return;
        }
        let (first, failed) = (resident.first_seq, resident.failed_seq);
        let mut free = Vec::new();
        let mut at = 0;
        while at < resident.held.len() {
            let held = &resident.held[at];
            let gone = failed.is_some_and(|failed| failed <= held.decided_on);
            let firm = held.confirmed && held.decided_on < first;
            if gone || firm {
                free.push((gone, resident.held.remove(at)));
            } else {
                at += 1;
            }
        }
        if resident.held.is_empty() {
            resident.held = Vec::new();
        }
        for (gone, held) in free {
            // A second attempt joined after the decision: now the refusal has to be remembered (rule 2).
            if gone || self.is_retried(&held.item) {
                self.redo(key, held.item, now, env, fx);
            } else {
                self.answer(held.item, Answer::Refused(held.refusal), fx);
            }
        }
    }

    /// The one outcome of a proposal.
    pub(super) fn on_settled(
        &mut self,
        lane: Lane,
        seq: u64,
        outcome: ProposalOutcome,
        now: u64,
        env: &dyn ShardEnv,
        fx: &mut Vec<Effect<H>>,
    ) {
        let Some(key) = self.activations.get(&lane.activation).cloned() else { return };
        let Some(resident) = self.entities.get_mut(&key) else { return };
        let Some(slot) =
            seq.checked_sub(resident.first_seq).and_then(|at| resident.in_flight.get_mut(at as usize))
        else {
            return;
        };
        let Some((item, reply)) = slot.take() else { return };
        while matches!(resident.in_flight.front(), Some(None)) {
            resident.in_flight.pop_front();
            resident.first_seq += 1;
        }
        resident.last_used = now;
        // The common case, and all there is to it.
        if let ProposalOutcome::Applied { index } = outcome
            && resident.phase == Phase::Active
            && resident.held.is_empty()
        {
            return self.applied(item, reply, index, fx);
        }
        let failed = !matches!(outcome, ProposalOutcome::Applied { .. });
        if failed {
            resident.failed_seq = Some(resident.failed_seq.map_or(seq, |known| known.min(seq)));
            // Before anything is decided again: the activation takes nothing more.
            self.leave(&key, now, env, fx);
        }
        match outcome {
            ProposalOutcome::Applied { index } => self.applied(item, reply, index, fx),
            ProposalOutcome::Duplicate { index, reply } => {
                self.answer(item, Answer::Done { reply: Some(reply), index }, fx);
            }
            ProposalOutcome::Fenced { reason, .. } => match reason {
                FenceReason::RequestReused => self.answer(item, Answer::Refused(call::reused()), fx),
                FenceReason::Quarantined => self.answer(item, Answer::Quarantined("quarantined".into()), fx),
                FenceReason::Message | FenceReason::Timer => self.answer(item, Answer::Gone, fx),
                // It stands in the log and did nothing, for ever: deciding again is safe.
                FenceReason::Term | FenceReason::Base => self.redo(&key, item, now, env, fx),
            },
            ProposalOutcome::NotApplied(why) => match why {
                NotApplied::LaneClosed | NotApplied::Replaced => self.redo(&key, item, now, env, fx),
                NotApplied::NotLeader { .. } | NotApplied::Transferring => {
                    self.answer(item, Answer::NotApplied(Cause::NoLeader), fx);
                }
                NotApplied::Overloaded => self.answer(item, Answer::NotApplied(Cause::Overloaded), fx),
                NotApplied::Closed => self.answer(item, Answer::NotApplied(Cause::Closed), fx),
            },
            ProposalOutcome::Unknown(why) => {
                let why = match why {
                    Unknown::LeadershipLost => "LEADERSHIP_LOST",
                    Unknown::DiskHung => "DISK_HUNG",
                    Unknown::Closed => "NODE_CLOSED",
                };
                self.answer(item, Answer::Unknown(why.into()), fx);
            }
        }
        self.release_held(&key, now, env, fx);
        self.try_finish(&key, now, env, fx);
    }

    fn applied(&mut self, item: Item<H>, reply: Option<Record>, index: u64, fx: &mut Vec<Effect<H>>) {
        if world::is_world(item.work.entity().kind()) {
            fx.push(Effect::WorldMoved(index));
        }
        self.answer(item, Answer::Done { reply, index }, fx);
    }

    /// A proposal that was never handed in: nothing happened.
    pub(super) fn drop_proposal(&mut self, proposal: &Proposal, cause: Cause, fx: &mut Vec<Effect<H>>) {
        let Some(key) = self.activations.get(&proposal.lane.activation) else { return };
        let Some(resident) = self.entities.get_mut(key) else { return };
        let at = proposal.seq.checked_sub(resident.first_seq);
        let Some((item, _)) =
            at.and_then(|at| resident.in_flight.get_mut(at as usize)).and_then(Option::take)
        else {
            return;
        };
        resident.failed_seq = Some(resident.failed_seq.map_or(proposal.seq, |known| known.min(proposal.seq)));
        while matches!(resident.in_flight.front(), Some(None)) {
            resident.in_flight.pop_front();
            resident.first_seq += 1;
        }
        self.answer(item, Answer::NotApplied(cause), fx);
    }
}
