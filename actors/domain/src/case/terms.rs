//! Deadlines and the timers that watch them (R-C2).
//!
//! Which timers a case has follows from its root alone ([`wanted`]); a step compares what was wanted before and
//! after it and changes the difference. A timer that fires sets its mark, and what is marked is not wanted again.

use super::{Case, Event, Life, Mark, Reply, Root, State, ask::BODIES_TIMER, decide::done};
use crate::{
    entity::{Context, Decision, Refusal, TimerChange},
    refusal::{TIMER_UNKNOWN, refuse},
    time::{local_hour_ms, plus_days},
};
use jiff::civil::Date;
use std::collections::BTreeMap;

/// Calendar days before the deadline at which it counts as near: leaves a working day to act even over a weekend.
const NEAR_DAYS: i32 = 3;
/// Local hour of the near mark: the office opens.
const NEAR_HOUR: i8 = 8;

/// The timers a case in this condition has, and when they are due.
pub(super) fn wanted(root: &Root, offset_minutes: i32) -> BTreeMap<Mark, i64> {
    let mut timers = BTreeMap::new();
    let over = |last: Date| local_hour_ms(plus_days(last, 1), 0, offset_minutes);
    if let (true, Some(due)) = (root.life.state().term_runs(), &root.due) {
        let last = due.deadlines.ready.date;
        if root.marks.deadline_near_ms.is_none() {
            timers.insert(Mark::DeadlineNear, near(last, offset_minutes));
        }
        if root.marks.deadline_passed_ms.is_none() {
            timers.insert(Mark::DeadlinePassed, over(last));
        }
    }
    match &root.life {
        Life::Suspended(suspension) if root.marks.suspension_over_ms.is_none() => {
            timers.extend(suspension.until.map(|last| (Mark::SuspensionOver, over(last))));
        }
        Life::ReadyForIssue { keep_until, .. } if root.marks.storage_over_ms.is_none() => {
            timers.extend(keep_until.map(|last| (Mark::StorageOver, over(last))));
        }
        _ => {}
    }
    timers
}

fn near(deadline: Date, offset_minutes: i32) -> i64 {
    local_hour_ms(plus_days(deadline, -NEAR_DAYS), NEAR_HOUR, offset_minutes)
}

/// What turns the timers of one condition into those of another.
pub(super) fn changes(before: &BTreeMap<Mark, i64>, after: &BTreeMap<Mark, i64>) -> Vec<TimerChange> {
    let mut changes = Vec::new();
    for mark in Mark::ALL {
        let name = || mark.timer().to_owned();
        match (before.get(&mark), after.get(&mark)) {
            (one, Some(due_ms)) if one != Some(due_ms) => {
                changes.push(TimerChange::Set { name: name(), due_ms: *due_ms });
            }
            (Some(_), None) => changes.push(TimerChange::Clear { name: name() }),
            _ => {}
        }
    }
    changes
}

/// Marks that do not hold in the condition after a step.
pub(super) fn outdated(root: &Root, now_ms: i64, offset_minutes: i32) -> Vec<Mark> {
    let marks = &root.marks;
    let mut gone = Vec::new();
    if let Some(due) = &root.due {
        let last = due.deadlines.ready.date;
        if marks.deadline_near_ms.is_some() && now_ms < near(last, offset_minutes) {
            gone.push(Mark::DeadlineNear);
        }
        if marks.deadline_passed_ms.is_some() && now_ms < local_hour_ms(plus_days(last, 1), 0, offset_minutes)
        {
            gone.push(Mark::DeadlinePassed);
        }
    }
    if marks.suspension_over_ms.is_some() && root.life.state() != State::Suspended {
        gone.push(Mark::SuspensionOver);
    }
    gone
}

impl Case {
    pub(super) fn take_timer(&self, timer: &str, context: &Context<'_>) -> Result<Decision<Self>, Refusal> {
        if timer == BODIES_TIMER {
            return Ok(self.forget_bodies(context));
        }
        let mark = Mark::ALL.into_iter().find(|mark| mark.timer() == timer);
        let mark = mark.ok_or_else(|| refuse(TIMER_UNKNOWN).with("timer", timer))?;
        // A step that was decided first may have made the timer pointless.
        let events =
            if wanted(&self.root, 0).contains_key(&mark) { vec![Event::Marked { mark }] } else { Vec::new() };
        Ok(done(events, Reply::None))
    }
}
