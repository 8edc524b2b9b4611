//! Operators and the alarm: settings, stop and go, dead letters; what expires, what is forgotten.

use super::{
    Account, Breaker, Channel, Event, LetterState, MessageState, Mode, Outgoing, REDRIVE_MAX, Reply,
    Settings, Which,
    index::Index,
    policy, settings,
    turn::{ALARM, Turn},
    types::SWEEP_MAX,
};
use crate::{
    entity::{Context, Decision, Refusal, TimerChange},
    exchange::{LINE_MAX, Outcome},
    refusal::{CHANNEL_BUSY, FIELD_INVALID, MESSAGE_STATE, MESSAGE_UNKNOWN, TIMER_UNKNOWN, refuse},
    validators::expect_len,
};
use std::sync::Arc;

/// Between two sweeps of which the first left something: lets other commits pass.
const SWEEP_PAUSE_MS: i64 = 1_000;

impl Channel {
    pub(super) fn configure(&self, new: &Settings, context: &Context<'_>) -> Result<Decision<Self>, Refusal> {
        if !settings::is_code(&self.id) {
            return Err(refuse(FIELD_INVALID).with("channel", "a code of 1 to 64 of a-z, 0-9, '.', '-', '_'"));
        }
        let problems = new.problems();
        if !problems.is_empty() {
            return Err(settings::refusal(&problems));
        }
        if self.settings() == Some(new) {
            return Ok(done(Vec::new(), Reply::Configured { version: self.root.version }));
        }
        // Lanes are drawn anew: of two messages out in one of them neither would be the first.
        let other_order = self.settings().is_some_and(|old| old.order != new.order);
        if other_order && !(self.index.out.is_empty() && self.index.asking.is_empty()) {
            return Err(refuse(CHANNEL_BUSY).with("out", self.index.out.len().to_string()));
        }
        let version = self.root.version + 1;
        let mut events = vec![Event::Configured { settings: Arc::new(new.clone()), version }];
        // How long letters are remembered may have changed, and with it what is due first.
        let due =
            Index::of(Some(new), &self.messages, &self.letters).next_due().map(|at| at.max(context.now_ms));
        let mut timers = Vec::new();
        // A debt made under an older rate is no larger than the new one could have made it.
        let paced_us = policy::repaced(new.rate.as_ref(), self.root.account.paced_us, context.now_ms);
        let mut account = Account { paced_us, ..self.root.account };
        if let Some(due_ms) = due.filter(|at| account.alarm_ms.is_none_or(|alarm| *at < alarm)) {
            account.alarm_ms = Some(due_ms);
            timers.push(TimerChange::Set { name: ALARM.to_owned(), due_ms });
        }
        if account != self.root.account {
            events.push(Event::Accounted(account));
        }
        Ok(Decision { timers, ..done(events, Reply::Configured { version }) })
    }

    pub(super) fn steer(
        &self,
        mode: Mode,
        reason: &str,
        context: &Context<'_>,
    ) -> Result<Decision<Self>, Refusal> {
        expect_len("reason", reason, LINE_MAX)?;
        let mut turn = Turn::begin(self, context)?;
        if mode != self.root.mode || *reason != self.root.mode_reason {
            turn.events.push(Event::Steered { mode, reason: reason.to_owned() });
        }
        // Whoever opens a channel by hand knows that the other side is back.
        if mode == Mode::Open {
            turn.account.breaker = Breaker::default();
        }
        Ok(turn.finish(Reply::Steered { mode }))
    }

    pub(super) fn redrive(&self, which: &Which, context: &Context<'_>) -> Result<Decision<Self>, Refusal> {
        let mut turn = Turn::begin(self, context)?;
        let chosen = self.chosen(which)?;
        let mut count = 0;
        for message in chosen {
            let fresh =
                Outgoing { state: MessageState::Ready, attempts: 0, unheard: 0, ..message.as_ref().clone() };
            // With the longest texts not all fit one commit: the reply says how many moved.
            if !turn.redrive(fresh) {
                break;
            }
            count += 1;
        }
        Ok(turn.finish(self.moved(count)))
    }

    pub(super) fn discard(
        &self,
        which: &Which,
        reason: &str,
        context: &Context<'_>,
    ) -> Result<Decision<Self>, Refusal> {
        if reason.trim().is_empty() {
            return Err(refuse(FIELD_INVALID).with("reason", "not empty"));
        }
        expect_len("reason", reason, LINE_MAX)?;
        let mut turn = Turn::begin(self, context)?;
        let chosen = self.chosen(which)?;
        let mut count = 0;
        for message in chosen {
            // As with a redrive: the reply says how many there was room for.
            if !turn.has_room_for(message) {
                break;
            }
            count += 1;
            turn.end(message, Outcome::Discarded { reason: reason.to_owned() }, "", None, "");
        }
        Ok(turn.finish(self.moved(count)))
    }

    fn moved(&self, count: usize) -> Reply {
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Reply::Moved { count: number(count), left: number(self.index.dead.len().saturating_sub(count)) }
    }

    fn chosen(&self, which: &Which) -> Result<Vec<&Arc<Outgoing>>, Refusal> {
        match which {
            Which::Oldest(count) => {
                let limit = usize::from(*count).min(REDRIVE_MAX);
                let oldest = self.index.dead.iter().take(limit);
                Ok(oldest.filter_map(|(_, sequence)| self.messages.get(sequence)).collect())
            }
            Which::Named(ids) => {
                if ids.is_empty() || ids.len() > REDRIVE_MAX {
                    return Err(refuse(FIELD_INVALID).with("messages", format!("1 to {REDRIVE_MAX}")));
                }
                let mut chosen = Vec::with_capacity(ids.len());
                for (n, id) in ids.iter().enumerate() {
                    if ids[..n].contains(id) {
                        return Err(refuse(FIELD_INVALID).with("messages", "each once"));
                    }
                    let found = self.index.by_id.get(id).and_then(|sequence| self.messages.get(sequence));
                    let found = found.ok_or_else(|| refuse(MESSAGE_UNKNOWN).with("message", id.clone()))?;
                    if !matches!(found.state, MessageState::Dead { .. }) {
                        return Err(refuse(MESSAGE_STATE)
                            .with("message", id.clone())
                            .with("state", found.state.name())
                            .with("expected", "dead"));
                    }
                    chosen.push(found);
                }
                Ok(chosen)
            }
        }
    }

    /// Ends what has expired and forgets letters whose time is over, some at a time.
    pub(super) fn alarm(&self, timer: &str, context: &Context<'_>) -> Result<Decision<Self>, Refusal> {
        if timer != ALARM {
            return Err(refuse(TIMER_UNKNOWN).with("timer", timer));
        }
        let mut turn = Turn::begin(self, context)?;
        let due = |(at, _): &&(i64, u64)| *at <= context.now_ms;
        let late: Vec<u64> = self
            .index
            .expiring
            .iter()
            .take_while(due)
            .take(SWEEP_MAX)
            .map(|(_, sequence)| *sequence)
            .collect();
        for message in late.iter().filter_map(|sequence| self.messages.get(sequence)) {
            turn.end(message, Outcome::Expired, "", None, "");
        }
        let old = self.index.letters_due.iter().take_while(due).take(SWEEP_MAX - late.len());
        let numbers: Vec<u64> = old.map(|(_, number)| *number).collect();
        let dropped = |number: &&u64| {
            self.letters.get(number).is_some_and(|letter| matches!(letter.state, LetterState::Dropped { .. }))
        };
        let bodies = numbers.iter().filter(dropped).filter_map(|number| self.letters.get(number));
        let bodies: Vec<u64> = bodies.map(|letter| letter.body.number).collect();
        let forgotten = numbers.len();
        if forgotten > 0 {
            turn.events.push(Event::LettersForgotten { numbers, bodies });
        }
        let message = self.index.expiring.iter().nth(late.len()).map(|(at, _)| *at);
        let letter = self.index.letters_due.iter().nth(forgotten).map(|(at, _)| *at);
        let next = [message, letter].into_iter().flatten().min();
        let next = next.map(|at| if at <= context.now_ms { context.now_ms + SWEEP_PAUSE_MS } else { at });
        turn.account.alarm_ms = next;
        Ok(turn.finish_with(next, Reply::None))
    }
}

fn done(events: Vec<Event>, reply: Reply) -> Decision<Channel> {
    Decision { events, reply, sends: Vec::new(), timers: Vec::new() }
}
