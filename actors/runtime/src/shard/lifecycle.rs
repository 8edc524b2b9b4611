//! Activations: beginning, ending, failing, being let go (rules 3 and 13).

use super::{
    Effect, Input, Item, LoadedAs, Phase, Resident, SWEEP_MAX, SWEEP_MS, Shard, ShardEnv, TROUBLES_MAX,
    Trouble,
};
use crate::call::{Answer, Cause};
use okno_cluster::api::Lane;
use okno_storage::commit::EntityKey;
use std::collections::VecDeque;

impl<H> Shard<H> {
    /// Leadership began, ended or went on in another term: every activation of the old term ends.
    pub(super) fn on_role(
        &mut self,
        term: Option<u64>,
        now: u64,
        env: &dyn ShardEnv,
        fx: &mut Vec<Effect<H>>,
    ) {
        if self.term == term {
            return;
        }
        self.term = term;
        let mut keys: Vec<EntityKey> = self.entities.keys().cloned().collect();
        keys.sort_unstable();
        for key in keys {
            self.leave(&key, now, env, fx);
            let Some(resident) = self.entities.get_mut(&key) else { continue };
            let mut items: VecDeque<Item<H>> = std::mem::take(&mut resident.buffer);
            items.extend(std::mem::take(&mut resident.held).into_iter().map(|held| held.item));
            for item in items {
                self.answer(item, Answer::NotApplied(Cause::NoLeader), fx);
            }
            self.try_finish(&key, now, env, fx);
        }
        self.let_in_elsewhere(fx);
    }

    /// Begins an activation of a resident that has none.
    pub(super) fn activate(&mut self, key: &EntityKey, term: u64, now: u64, fx: &mut Vec<Effect<H>>) {
        let Some(resident) = self.entities.get_mut(key) else { return };
        let activation = self.next_activation;
        self.next_activation += 1;
        let buffer = std::mem::take(&mut resident.buffer);
        *resident = Resident { buffer, ..Resident::new(activation, term, now) };
        self.activations.insert(activation, key.clone());
        self.figures.activations += 1;
        fx.push(Effect::Load { activation, entity: key.clone(), term });
    }

    pub(super) fn on_loaded(
        &mut self,
        activation: u64,
        result: LoadedAs,
        now: u64,
        env: &dyn ShardEnv,
        fx: &mut Vec<Effect<H>>,
    ) {
        let Some(key) = self.activations.get(&activation).cloned() else { return };
        let Some(resident) = self.entities.get_mut(&key) else { return };
        if resident.phase != Phase::Loading {
            // Leadership ended while it was read; the actor was told to stop when the phase changed.
            return;
        }
        let answer = match result {
            LoadedAs::Ready => {
                resident.phase = Phase::Active;
                self.active += 1;
                self.sweep.push_back((activation, now));
                for item in std::mem::take(&mut resident.buffer) {
                    self.deliver(&key, item, now, env, fx);
                }
                return;
            }
            LoadedAs::Quarantined(reason) => {
                // Released, it begins with a clean record.
                self.troubles.remove(&key);
                Answer::Quarantined(reason)
            }
            LoadedAs::Unusable(reason) => {
                self.panicked(&key, &reason, now, fx);
                Answer::NotApplied(Cause::EntityFailed)
            }
        };
        self.activations.remove(&activation);
        if let Some(resident) = self.entities.remove(&key) {
            for item in resident.buffer {
                self.turn_away(item, answer.clone(), fx);
            }
        }
    }

    /// Ends the activation: the actor stops, the lane closes, undecided work goes back to the buffer.
    pub(super) fn leave(&mut self, key: &EntityKey, now: u64, env: &dyn ShardEnv, fx: &mut Vec<Effect<H>>) {
        let Some(resident) = self.entities.get_mut(key) else { return };
        let activation = resident.activation;
        match resident.phase {
            Phase::Active => self.active -= 1,
            // The shell has started nothing yet, or stops what it started.
            Phase::Loading => {}
            Phase::Leaving { .. } | Phase::Passing { .. } | Phase::Backoff { .. } => return,
        }
        let lane = Lane { shard: self.id, activation };
        // What was not handed in is the tail of the lane: taken back, it is decided again.
        let kept = self.outgoing.iter().filter(|proposal| proposal.lane == lane).count();
        let mut again: VecDeque<Item<H>> = VecDeque::with_capacity(kept + resident.deciding.len());
        if kept > 0 {
            self.outgoing.retain(|proposal| proposal.lane != lane);
            let from = resident.in_flight.len().saturating_sub(kept);
            let tail = resident.in_flight.split_off(from);
            let first_dropped = resident.first_seq + from as u64;
            resident.failed_seq =
                Some(resident.failed_seq.map_or(first_dropped, |known| known.min(first_dropped)));
            again.extend(tail.into_iter().flatten().map(|(item, _)| item));
        }
        let handed_in = resident.proposed() > 0;
        again.append(&mut resident.deciding);
        again.append(&mut resident.buffer);
        resident.buffer = again;
        resident.phase = Phase::Leaving { stopped: false, closed: (!handed_in).then_some(0) };
        self.figures.rebuilds += 1;
        fx.push(Effect::Stop { activation });
        if handed_in {
            fx.push(Effect::CloseLane(lane));
        }
        self.release_held(key, now, env, fx);
    }

    pub(super) fn on_lane_closed(
        &mut self,
        lane: Lane,
        last_index: u64,
        now: u64,
        env: &dyn ShardEnv,
        fx: &mut Vec<Effect<H>>,
    ) {
        let Some(key) = self.activations.get(&lane.activation).cloned() else { return };
        if let Some(resident) = self.entities.get_mut(&key)
            && let Phase::Leaving { closed, .. } = &mut resident.phase
        {
            *closed = Some(last_index);
            self.try_finish(&key, now, env, fx);
        }
    }

    pub(super) fn on_gone(&mut self, activation: u64, now: u64, env: &dyn ShardEnv, fx: &mut Vec<Effect<H>>) {
        let Some(key) = self.activations.get(&activation).cloned() else { return };
        let Some(resident) = self.entities.get_mut(&key) else { return };
        if matches!(resident.phase, Phase::Active | Phase::Loading) {
            // Unwound outside the cell's guard. What it was deciding is the likeliest cause.
            let culprit = resident.deciding.pop_front();
            self.panicked(&key, "the actor ended unexpectedly", now, fx);
            if let Some(item) = culprit {
                self.answer(item, Answer::NotApplied(Cause::EntityFailed), fx);
            }
            self.leave(&key, now, env, fx);
        }
        if let Some(resident) = self.entities.get_mut(&key)
            && let Phase::Leaving { stopped, .. } = &mut resident.phase
        {
            *stopped = true;
            self.try_finish(&key, now, env, fx);
        }
    }

    /// Goes on from [`Phase::Leaving`] once nothing of the activation is left.
    pub(super) fn try_finish(
        &mut self,
        key: &EntityKey,
        now: u64,
        env: &dyn ShardEnv,
        fx: &mut Vec<Effect<H>>,
    ) {
        let Some(resident) = self.entities.get_mut(key) else { return };
        let Phase::Leaving { stopped: true, closed } = resident.phase else { return };
        if !resident.in_flight.is_empty() || !resident.held.is_empty() {
            return;
        }
        let index = match closed {
            Some(index) => index,
            // The marker has nothing left to tell.
            None if leads_anew(self.term, resident.term) => 0,
            None => return,
        };
        resident.phase = Phase::Passing { index };
        if !self.step_waiting(key, now, env, fx) {
            self.waiting.push(key.clone());
        }
    }

    /// Entities that wait for apply or for time.
    pub(super) fn look_at_waiting(&mut self, now: u64, env: &dyn ShardEnv, fx: &mut Vec<Effect<H>>) {
        if self.waiting.is_empty() {
            return;
        }
        for key in std::mem::take(&mut self.waiting) {
            if !self.step_waiting(&key, now, env, fx) {
                self.waiting.push(key);
            }
        }
    }

    /// True: it waits no more.
    fn step_waiting(
        &mut self,
        key: &EntityKey,
        now: u64,
        env: &dyn ShardEnv,
        fx: &mut Vec<Effect<H>>,
    ) -> bool {
        let Some(resident) = self.entities.get_mut(key) else { return true };
        if let Phase::Passing { index } = resident.phase {
            // The log may have been cut below it, and not grow as far for long.
            if env.applied().0 < index && !leads_anew(self.term, resident.term) {
                return false;
            }
            self.activations.remove(&resident.activation);
            let until = self.troubles.get(key).map_or(0, |trouble| trouble.until);
            resident.phase = Phase::Backoff { until };
        }
        let Phase::Backoff { until } = resident.phase else { return true };
        if resident.buffer.is_empty() {
            // Nobody waits; a later caller meets the pause through `troubles`.
            self.entities.remove(key);
            return true;
        }
        match self.term {
            None => {
                for item in std::mem::take(&mut resident.buffer) {
                    self.answer(item, Answer::NotApplied(Cause::NoLeader), fx);
                }
                self.entities.remove(key);
                true
            }
            Some(_) if now < until => false,
            Some(term) => {
                self.activate(key, term, now, fx);
                true
            }
        }
    }

    /// Remembers a panic; too many of them close the entity for everybody (rule 13).
    pub(super) fn panicked(&mut self, key: &EntityKey, reason: &str, now: u64, fx: &mut Vec<Effect<H>>) {
        self.figures.panics += 1;
        if self.troubles.len() >= TROUBLES_MAX && !self.troubles.contains_key(key) {
            let window = self.settings.panic_window_ms;
            self.troubles.retain(|_, trouble| trouble.at.last().is_some_and(|at| at + window > now));
            if self.troubles.len() >= TROUBLES_MAX {
                let oldest =
                    self.troubles.iter().min_by_key(|(key, trouble)| (trouble.until, (*key).clone()));
                if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                    self.troubles.remove(&oldest);
                }
            }
        }
        let settings = &self.settings;
        let trouble: &mut Trouble = self.troubles.entry(key.clone()).or_default();
        trouble.at.retain(|at| at + settings.panic_window_ms > now);
        trouble.at.push(now);
        let doublings = u32::try_from(trouble.at.len() - 1).unwrap_or(u32::MAX).min(16);
        let pause = (settings.backoff_min_ms << doublings).min(settings.backoff_max_ms);
        trouble.until = now + pause;
        let count = trouble.at.len();
        tracing::error!(entity = %key, reason, count, "entity failed");
        if count >= settings.panics_max && !key.is_system() {
            fx.push(Effect::Quarantine {
                entity: key.clone(),
                reason: format!("{count} failures in a row, the last: {reason}"),
            });
        }
    }

    /// Lets idle entities go, and the least recently used beyond the bound. A clock hand: each is looked at in
    /// turn and goes if it was not used since the last look.
    pub(super) fn let_go(&mut self, now: u64, fx: &mut Vec<Effect<H>>) {
        let due = now >= self.next_sweep;
        if due {
            self.next_sweep = now + SWEEP_MS;
        }
        // A large house is still walked through within half a minute.
        for _ in 0..SWEEP_MAX.max(self.sweep.len() / 32).min(self.sweep.len()) {
            let over = self.active > self.settings.resident_max;
            if !over && !due {
                return;
            }
            let Some((activation, seen)) = self.sweep.pop_front() else { return };
            let Some(key) = self.activations.get(&activation) else { continue };
            let Some(resident) = self.entities.get_mut(key) else { continue };
            if resident.phase != Phase::Active {
                continue;
            }
            let idle = now.saturating_sub(resident.last_used) >= self.settings.idle_ms;
            let unused = over && resident.last_used <= seen;
            if resident.under_way() > 0 || !(idle || unused) {
                resident.shrink();
                let last_used = resident.last_used;
                self.sweep.push_back((activation, last_used));
                continue;
            }
            // Nothing is under way, so this is the same end without anything to take back.
            let handed_in = resident.proposed() > 0;
            resident.phase = Phase::Leaving { stopped: false, closed: (!handed_in).then_some(0) };
            self.active -= 1;
            self.figures.passivations += 1;
            fx.push(Effect::Stop { activation });
            if handed_in {
                fx.push(Effect::CloseLane(Lane { shard: self.id, activation }));
            }
        }
    }
}

/// This node leads again, and an entry of the new term has applied: whatever was proposed in `term` stands below it or
/// nowhere.
fn leads_anew(leads_in: Option<u64>, term: u64) -> bool {
    leads_in.is_some_and(|now| now != term)
}

impl<H> Input<H> {
    /// What a log line calls it.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Call { .. } => "call",
            Self::Message(_) => "message",
            Self::Timer(_) => "timer",
            Self::Role(_) => "role",
            Self::Notice(_) => "notice",
            Self::Loaded { .. } => "loaded",
            Self::Output { .. } => "output",
            Self::Gone { .. } => "gone",
            Self::NotProposed { .. } => "not-proposed",
            Self::Tick => "tick",
        }
    }
}
