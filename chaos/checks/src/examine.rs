//! All checks on one history, and what they come to.

use crate::{
    breaches::Breach,
    history::{Entity, History, Outcome, Reply, Seen},
    invariants::{Invariant, Verdict as Held},
    linear::{self, Model, Timed, Verdict},
    models::{Op, case::CaseModel, queue::QueueModel},
    requests::{self, Effect, Requests},
    survive,
};
use std::collections::BTreeMap;

/// The invariants that are checked on histories.
pub const CHECKED: [Invariant; 7] = [
    Invariant::Acknowledged,
    Invariant::Linearizable,
    Invariant::OnceARequest,
    Invariant::UnknownResolves,
    Invariant::NothingUnasked,
    Invariant::MessagesOnce,
    Invariant::SameState,
];

/// Breaches of one invariant that are told; more of the same help nobody.
const TOLD_MAX: usize = 4;

/// What a history came to.
#[derive(Debug, Clone)]
pub struct Examined {
    /// One of each of [`CHECKED`].
    pub verdicts: Vec<Held>,
    /// Operations by outcome.
    pub outcomes: BTreeMap<&'static str, u64>,
    /// Acknowledged facts that were compared with stores, over all nodes.
    pub compared: usize,
    /// Entities for which the search gave up; counted as broken.
    pub undecided: usize,
    /// Unknown outcomes that were told later, and those that never were.
    pub resolved: usize,
    pub unresolved: usize,
}

impl Examined {
    pub fn held(&self) -> bool {
        self.verdicts.iter().all(|verdict| verdict.held)
    }
}

/// Checks a history.
pub fn examine(history: &History) -> Examined {
    let requests = requests::sort_out(history);
    let mut breaches: Vec<Breach> =
        requests.contradictions.iter().map(|text| (Invariant::OnceARequest, text.clone())).collect();
    let compared = survive::compare(history, &requests, &mut breaches);
    let (entities, undecided) = linearizable(history, &requests, &mut breaches);
    let mut outcomes = BTreeMap::new();
    for operation in &history.operations {
        *outcomes.entry(operation.outcome.name()).or_default() += 1;
    }
    let verdicts = CHECKED.map(|id| {
        let broken: Vec<_> =
            breaches.iter().filter(|(broken, _)| *broken == id).map(|(_, text)| text.as_str()).collect();
        let detail = if broken.is_empty() {
            match id {
                Invariant::Acknowledged => format!("{} facts", compared.acknowledged),
                Invariant::Linearizable => format!("{entities} entities"),
                Invariant::OnceARequest => format!("{} requests asked again", requests.asked_again),
                Invariant::UnknownResolves => format!("{} told later", requests.resolved),
                Invariant::MessagesOnce => format!("{} links", compared.links),
                _ => format!("{} stores", history.finals.len()),
            }
        } else {
            let more = broken.len().saturating_sub(TOLD_MAX);
            let mut text = broken[..broken.len().min(TOLD_MAX)].join("\n");
            if more > 0 {
                text.push_str(&format!("\n… and {more} more"));
            }
            text
        };
        Held { id, held: broken.is_empty(), detail }
    });
    Examined {
        verdicts: verdicts.into(),
        outcomes,
        compared: compared.acknowledged,
        undecided,
        resolved: requests.resolved,
        unresolved: requests.effects.iter().filter(|effect| effect.outcome.is_none()).count(),
    }
}

/// Every entity by itself. How many there are, and of how many nothing could be said.
fn linearizable(history: &History, requests: &Requests<'_>, breaches: &mut Vec<Breach>) -> (usize, usize) {
    let mut entities: BTreeMap<&Entity, Vec<&Effect<'_>>> = BTreeMap::new();
    for effect in &requests.effects {
        entities.entry(effect.entity()).or_default().push(effect);
    }
    // What the stores hold in the end is one more read of each, after everything that ended.
    let last = history.operations.iter().filter_map(|operation| operation.ended).max().unwrap_or(0);
    let mut undecided = 0;
    for (entity, effects) in &mut entities {
        effects.sort_by_key(|effect| effect.begun);
        if let Some(text) = out_of_order(effects) {
            breaches.push((Invariant::Linearizable, format!("{entity}: {text}")));
        }
        let finals: Vec<Outcome> = history
            .finals
            .iter()
            .map(|node| node.seen(entity))
            .map(|seen| Outcome::Done { index: index(&seen), reply: Reply::Read(seen) })
            .collect();
        let mut operations: Vec<Timed<Op<'_>>> = effects
            .iter()
            .map(|effect| Timed {
                op: Op {
                    client: effect.operation.client,
                    call: effect.call(),
                    seen: effect.outcome,
                    latest_day: history.setting.latest_day(effect.ended.unwrap_or(u64::MAX)),
                    latest_ms: history.setting.latest_ms(effect.ended.unwrap_or(u64::MAX)),
                },
                begun: effect.begun,
                ended: effect.ended,
                hint: effect.index(),
            })
            .collect();
        for (place, outcome) in finals.iter().enumerate() {
            // The same seen by another node says nothing new.
            if finals[..place].contains(outcome) {
                continue;
            }
            let op = Op {
                client: u32::MAX,
                call: read_of(entity),
                seen: Some(outcome),
                latest_day: history.setting.latest_day(u64::MAX),
                latest_ms: history.setting.latest_ms(u64::MAX),
            };
            operations.push(Timed { op, begun: last + 1, ended: Some(last + 2), hint: u64::MAX });
        }
        let verdict = match entity {
            Entity::Case(_) => {
                let seen = operations.iter().filter_map(|timed| match timed.op.seen {
                    Some(Outcome::Done { reply: Reply::Read(Seen::Case(case)), .. }) => Some(case),
                    _ => None,
                });
                check(&CaseModel::new(&history.setting, seen), &operations)
            }
            Entity::Queue(office) => {
                let seen = operations.iter().filter_map(|timed| timed.op.seen);
                check(&QueueModel::new(&history.setting, office, seen), &operations)
            }
        };
        match verdict {
            Verdict::Linearizable(_) => {}
            Verdict::Broken(broken) => {
                let head = format!("{entity}: no order of the {} operations that had ended", broken.ended);
                let text = format!("{head} by {} is possible; {}", broken.by, broken.explanation);
                breaches.push((Invariant::Linearizable, text));
            }
            Verdict::Undecided { configurations } => {
                undecided += 1;
                let text = format!("{entity}: undecided after {configurations} configurations");
                breaches.push((Invariant::Linearizable, text));
            }
        }
    }
    (entities.len(), undecided)
}

fn check<'a, M: Model<Op = Op<'a>>>(model: &M, operations: &[Timed<Op<'a>>]) -> Verdict {
    linear::check(model, operations)
}

const fn read_of(entity: &Entity) -> &'static crate::history::Call {
    match entity {
        Entity::Case(_) => &crate::history::Call::ReadCase,
        Entity::Queue(_) => &crate::history::Call::ReadQueue,
    }
}

const fn index(seen: &Seen) -> u64 {
    match seen {
        Seen::Absent => 0,
        Seen::Case(case) => case.index,
        Seen::Queue(queue) => queue.index,
    }
}

/// Log indexes must order like time: a write stands behind everything that had ended before it began, a read before
/// nothing of it. Needs no model. `effects` are ordered by begin.
fn out_of_order(effects: &[&Effect<'_>]) -> Option<String> {
    let mut ends: Vec<&Effect<'_>> = effects.iter().copied().filter(|effect| effect.is_done()).collect();
    ends.sort_by_key(|effect| effect.ended);
    let mut ends = ends.into_iter().peekable();
    let mut highest: Option<&Effect<'_>> = None;
    let mut indexes: BTreeMap<u64, &Effect<'_>> = BTreeMap::new();
    for effect in effects.iter().copied().filter(|effect| effect.is_done()) {
        while let Some(end) = ends.next_if(|end| end.ended.is_some_and(|at| at < effect.begun)) {
            // What may have changed nothing has an index of its own, and leaves the entity's as it was.
            if !end.call().may_change_nothing() && highest.is_none_or(|highest| end.index() > highest.index())
            {
                highest = Some(end);
            }
        }
        let absent = matches!(effect.outcome, Some(Outcome::Done { reply: Reply::Read(Seen::Absent), .. }));
        // Whoever wrote the history may not know indexes.
        if effect.index() == 0 && !absent {
            continue;
        }
        let reads = effect.call().reads();
        let show = |effect: &Effect<'_>| {
            let Effect { operation, begun, ended, .. } = effect;
            let ended = ended.unwrap_or_default();
            let index = effect.index();
            format!("client {}: {:?} [{begun} .. {ended}] at index {index}", operation.client, effect.call())
        };
        if let Some(before) = highest
            && (before.index() > effect.index() || !reads && before.index() == effect.index())
        {
            return Some(format!("{} stands behind what came later: {}", show(before), show(effect)));
        }
        if !reads && let Some(other) = indexes.insert(effect.index(), effect) {
            return Some(format!("{} and {} are one commit", show(other), show(effect)));
        }
    }
    None
}
