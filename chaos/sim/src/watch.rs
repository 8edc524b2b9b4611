//! What is seen from outside while a run goes on, and judged at once: leaders, votes, what applies where, messages, timers,
//! bounds, stamps. The clients' side — histories — is `okno-checks`'.
//!
//! Invariant: `rows` holds what the first node to apply an index made of it, without gaps behind `base`.

use crate::services::{Facts, Services};
use okno_checks::{
    breaches::Breaches,
    invariants::{Invariant, Verdict},
};
use okno_storage::{
    commit::{Commit, MessageKey, Outcome, SystemOp, TimerChange, TimerKey},
    level,
    log::LogEntry,
    state::AppliedSlice,
};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone, Copy)]
struct Row {
    term: u64,
    code: u8,
    chain: Option<[u8; 32]>,
}

#[derive(Debug, Default)]
pub struct Watch {
    /// Term → who led in it.
    leaders: BTreeMap<u64, usize>,
    /// (node, term) → whom it voted for.
    votes: BTreeMap<(usize, u64), u64>,
    /// Everything up to here stood in the image.
    base: u64,
    rows: Vec<Row>,
    /// Replicated time as the applied entries make it.
    time_ms: i64,
    outbox: BTreeSet<MessageKey>,
    timers: BTreeSet<TimerKey>,
    /// Indexes answered as done, and what was done.
    acknowledged: BTreeMap<u64, u64>,
    breaches: Breaches,
    broken: BTreeSet<Invariant>,
    pub figures: Figures,
    /// The judges of the run's hall and channels, if it has any.
    pub services: Option<Services>,
    /// Name → the highest seen and the bound.
    peaks: BTreeMap<&'static str, (usize, usize)>,
}

/// What happened inside, for reports and to see that runs reach what they should.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    pub applied: u64,
    pub duplicates: u64,
    pub fenced: u64,
    pub terms: u64,
    pub sent: u64,
    pub consumed: u64,
    pub buried: u64,
    pub timers_set: u64,
    pub timers_fired: u64,
    pub timers_cleared: u64,
    pub quarantines: u64,
    pub markers: u64,
    pub acknowledged: u64,
    /// Times the log was cut.
    pub cuts: u64,
    /// Copies taken, and installed.
    pub copies: u64,
    pub installed: u64,
    /// Hellos that were refused because they came from the cluster that was given up.
    pub foreign: u64,
    /// Changes of members that took effect.
    pub members: u64,
}

impl Figures {
    pub fn add(&mut self, other: &Self) {
        self.applied += other.applied;
        self.duplicates += other.duplicates;
        self.fenced += other.fenced;
        self.terms += other.terms;
        self.sent += other.sent;
        self.consumed += other.consumed;
        self.buried += other.buried;
        self.timers_set += other.timers_set;
        self.timers_fired += other.timers_fired;
        self.timers_cleared += other.timers_cleared;
        self.quarantines += other.quarantines;
        self.markers += other.markers;
        self.acknowledged += other.acknowledged;
        self.cuts += other.cuts;
        self.copies += other.copies;
        self.installed += other.installed;
        self.foreign += other.foreign;
        self.members += other.members;
    }
}

impl Watch {
    /// The run begins from a state that has applied `base`.
    pub fn begin(&mut self, base: u64, time_ms: i64, outbox: Vec<MessageKey>, timers: Vec<TimerKey>) {
        (self.base, self.time_ms) = (base, time_ms);
        self.outbox = outbox.into_iter().collect();
        self.timers = timers.into_iter().collect();
    }

    pub fn breach(&mut self, id: Invariant, detail: String) {
        self.broken.insert(id);
        self.breaches.add(id, detail);
    }

    pub fn broken(&self) -> bool {
        !self.broken.is_empty()
    }

    pub fn leads(&mut self, node: usize, term: u64) {
        if let Some(services) = &mut self.services {
            services.leads(term);
        }
        let known = *self.leaders.entry(term).or_insert_with(|| {
            self.figures.terms += 1;
            node
        });
        if known != node {
            let detail = format!("nodes {} and {} both led in term {term}", known + 1, node + 1);
            self.breach(Invariant::OneLeader, detail);
        }
    }

    /// A vote is about to be given: it is on disk, or believed to be.
    pub fn votes(&mut self, node: usize, term: u64, vote: u64) {
        if vote == 0 {
            return;
        }
        let known = *self.votes.entry((node, term)).or_insert(vote);
        if known != vote {
            let detail = format!("node {} voted for {known} and for {vote} in term {term}", node + 1);
            self.breach(Invariant::OneLeader, detail);
        }
    }

    /// A process begins with this term and vote: what it told others before it ended it must still know.
    pub fn begins_with(&mut self, node: usize, term: u64, vote: u64) {
        let told = self.votes.range((node, 0)..=(node, u64::MAX)).next_back();
        let Some((&(_, told), &given)) = told else { return };
        if term < told || (term == told && vote != given) {
            let detail = format!(
                "node {} begins in term {term} with a vote for {vote}: it forgot its vote for {given} in term {told}",
                node + 1
            );
            self.breach(Invariant::OneLeader, detail);
        }
    }

    /// A node has applied a slice; `chain` is its chain at the slice's end.
    pub fn applied(&mut self, node: usize, entries: &[LogEntry], slice: &AppliedSlice, chain: [u8; 32]) {
        for (entry, applied) in entries.iter().zip(&slice.entries) {
            let Some(place) = applied.index.checked_sub(self.base + 1) else { continue };
            let place = usize::try_from(place).unwrap_or(usize::MAX);
            let code = applied.outcome.code();
            match self.rows.get(place) {
                Some(row) if row.term == applied.term && row.code == code => {}
                Some(row) => {
                    let detail = format!(
                        "entry {}: node {} applied it as {code} of term {}, before it was {} of term {}",
                        applied.index,
                        node + 1,
                        applied.term,
                        row.code,
                        row.term
                    );
                    self.breach(Invariant::SameState, detail);
                }
                None => {
                    if place != self.rows.len() {
                        let detail = format!(
                            "node {} applied entry {} though {} was applied by nobody",
                            node + 1,
                            applied.index,
                            self.base + 1 + self.rows.len() as u64
                        );
                        self.breach(Invariant::SameState, detail);
                        return;
                    }
                    self.rows.push(Row { term: applied.term, code, chain: None });
                    self.first(entry, &applied.outcome);
                }
            }
        }
        let Some(place) = slice.last.checked_sub(self.base + 1) else { return };
        if let Some(row) = self.rows.get_mut(usize::try_from(place).unwrap_or(usize::MAX)) {
            match row.chain {
                None => row.chain = Some(chain),
                Some(known) if known != chain => {
                    let detail = format!("node {}'s hash chain differs at {}", node + 1, slice.last);
                    self.breach(Invariant::SameState, detail);
                }
                Some(_) => {}
            }
        }
        self.figures.markers += u64::from(slice.marker.is_some());
    }

    /// Nothing stands in the log in a form that the level, as of the end of a slice, does not allow (rule 9).
    pub fn encoded(&mut self, entries: &[LogEntry], level: u32) {
        for entry in entries {
            let needed = level::needed_by(&entry.data);
            if needed > level {
                let detail = format!(
                    "entry {} is in a form of level {needed}, and the cluster is at level {level}",
                    entry.index
                );
                self.breach(Invariant::LevelFirst, detail);
            }
        }
    }

    /// What an entry changes for messages and timers, once for all nodes.
    fn first(&mut self, entry: &LogEntry, outcome: &Outcome) {
        match outcome {
            Outcome::Applied => self.figures.applied += 1,
            Outcome::Duplicate(_) => self.figures.duplicates += 1,
            Outcome::Fenced(_) => self.figures.fenced += 1,
            Outcome::NoCommit => {}
        }
        if *outcome != Outcome::Applied {
            return;
        }
        let commit = match Commit::decode(&entry.data) {
            Ok(commit) => commit,
            Err(error) => {
                let detail = format!("entry {} applied and cannot be decoded: {error}", entry.index);
                return self.breach(Invariant::SameState, detail);
            }
        };
        self.time_ms = self.time_ms.max(commit.time_ms);
        for key in &commit.consumed {
            self.figures.consumed += 1;
            if !self.outbox.remove(key) {
                let detail = format!("entry {} consumes {key:?}, which is not there", entry.index);
                self.breach(Invariant::MessagesOnce, detail);
            }
        }
        match &commit.system {
            Some(SystemOp::BuryMessage { message, .. }) => {
                self.figures.buried += 1;
                if !self.outbox.remove(message) {
                    let detail = format!("entry {} buries {message:?}, which is not there", entry.index);
                    self.breach(Invariant::MessagesOnce, detail);
                }
            }
            Some(SystemOp::Quarantine { .. }) => self.figures.quarantines += 1,
            _ => {}
        }
        for message in &commit.sent {
            self.figures.sent += 1;
            if !self.outbox.insert(message.key.clone()) {
                let detail = format!("entry {} sends {:?} again", entry.index, message.key);
                self.breach(Invariant::MessagesOnce, detail);
            }
        }
        for change in &commit.timers {
            self.timer(entry.index, change);
        }
        if let Some(services) = &mut self.services {
            services.committed(entry.index, &commit, self.time_ms);
            self.judge_services();
        }
    }

    /// Takes in what the judges of hall and channels have found.
    pub fn judge_services(&mut self) {
        let found = self.services.as_mut().map(Services::take_breaches).unwrap_or_default();
        for (id, detail) in found {
            self.breach(id, detail);
        }
    }

    fn timer(&mut self, index: u64, change: &TimerChange) {
        match change {
            TimerChange::Set(key) => {
                self.figures.timers_set += 1;
                if !self.timers.insert(key.clone()) {
                    self.breach(Invariant::TimersOnce, format!("entry {index} sets {key:?} again"));
                }
            }
            TimerChange::Clear(key) => {
                self.figures.timers_cleared += u64::from(self.timers.remove(key));
            }
            TimerChange::Fire(key) => {
                self.figures.timers_fired += 1;
                if !self.timers.remove(key) {
                    self.breach(
                        Invariant::TimersOnce,
                        format!("entry {index} fires {key:?}, which is not set"),
                    );
                } else if self.time_ms < key.due_ms {
                    let early = key.due_ms - self.time_ms;
                    self.breach(
                        Invariant::TimersOnce,
                        format!("entry {index} fires {key:?} {early} ms early"),
                    );
                }
            }
        }
    }

    /// A leader stamped `time_ms` although it could know that nothing later than `bound_ms` is right.
    pub fn stamped(&mut self, node: usize, time_ms: i64, bound_ms: i64) {
        if time_ms > bound_ms.max(self.time_ms) {
            let ahead = time_ms - bound_ms;
            let detail =
                format!("node {} stamps {ahead} ms beyond the median of the clocks it hears", node + 1);
            self.breach(Invariant::TimersOnce, detail);
        }
    }

    /// A caller was told that its command is done.
    pub fn acknowledged(&mut self, index: u64) {
        self.figures.acknowledged += 1;
        *self.acknowledged.entry(index).or_default() += 1;
    }

    /// Something bounded was seen at this size.
    pub fn peak(&mut self, name: &'static str, value: usize, bound: usize) {
        let peak = self.peaks.entry(name).or_insert((0, bound));
        if value > peak.0 {
            *peak = (value, bound);
            if value > bound {
                self.breach(Invariant::MemoryBounded, format!("{name}: {value}, bounded by {bound}"));
            }
        }
    }

    pub fn peaks(&self) -> impl Iterator<Item = (&'static str, usize, usize)> {
        self.peaks.iter().map(|(name, (value, bound))| (*name, *value, *bound))
    }

    // What the end is compared with.

    pub fn outbox(&self) -> &BTreeSet<MessageKey> {
        &self.outbox
    }
    pub fn timers(&self) -> &BTreeSet<TimerKey> {
        &self.timers
    }
    pub fn time_ms(&self) -> i64 {
        self.time_ms
    }
    pub fn base(&self) -> u64 {
        self.base
    }
    /// The highest index any node applied.
    pub fn last(&self) -> u64 {
        self.base + self.rows.len() as u64
    }
    /// Indexes callers were told.
    pub fn acknowledged_indexes(&self) -> impl Iterator<Item = u64> {
        self.acknowledged.keys().copied()
    }

    /// One verdict for each invariant that is judged here.
    pub fn verdicts(&self) -> Vec<Verdict> {
        let f = &self.figures;
        let Facts { hall, exchange } = self.services.as_ref().map(Services::facts).unwrap_or_default();
        let sound = |id: Invariant| match id {
            Invariant::OneLeader => Some(format!("{} terms had a leader", f.terms)),
            Invariant::SameState => Some(format!("{} entries applied, the same everywhere", self.rows.len())),
            Invariant::MessagesOnce => {
                Some(format!("{} sent, {} consumed, {} buried", f.sent, f.consumed, f.buried))
            }
            Invariant::TimersOnce => {
                Some(format!("{} set, {} fired, {} cleared", f.timers_set, f.timers_fired, f.timers_cleared))
            }
            Invariant::MemoryBounded => Some(format!("{} bounds watched", self.peaks.len())),
            Invariant::Acknowledged => Some(format!("{} answers of success", f.acknowledged)),
            Invariant::JournalWhole => Some("every node's chain recomputed".into()),
            Invariant::Progress => Some("everybody was answered and all nodes are equally far".into()),
            Invariant::StopsWhenWrong => Some("no sound node stopped, no damaged one served".into()),
            Invariant::LevelFirst => Some(format!("{} entries in forms their level allows", self.rows.len())),
            Invariant::NeighboursUnharmed => Some("no panic ended a process".into()),
            Invariant::TicketKept => Some(format!("{} tickets, {} times told of", hall.taken, hall.told)),
            Invariant::TicketOnce => Some(format!("{} calls, {} visits", hall.called, hall.served)),
            Invariant::NumbersUnique => Some(format!("{} numbers", hall.taken)),
            Invariant::SlotOnce => Some(format!("{} slots booked", hall.slots)),
            Invariant::FairTurn => Some(format!("{} calls", hall.called)),
            Invariant::DeferredBack => Some(format!("{} came back", hall.came_back)),
            Invariant::WindowAttended => {
                Some(format!("{} windows left, {} visitors returned", hall.unattended, hall.to_head))
            }
            Invariant::OutsideOnce => Some(format!(
                "{} events taken, {} told, {} refused to strangers",
                hall.outside, hall.told_outside, hall.foreign
            )),
            Invariant::AnsweredOnce => {
                Some(format!("{} requests, {} answered", exchange.asked, exchange.answered))
            }
            Invariant::TokenNewest => Some(format!(
                "{} deliveries, {} lapsed, {} old tokens refused",
                exchange.handed, exchange.lapsed, exchange.old_tokens
            )),
            Invariant::BodiesKept => Some(format!("{} bodies", exchange.bodies)),
            Invariant::LeaseKept => Some(format!(
                "{} acknowledged, {} given back, {} lapsed unheard, {} overdue ({} of an earlier leader), {} gone",
                exchange.acknowledged,
                exchange.given_back,
                exchange.unheard,
                exchange.overdue,
                exchange.overdue_anew,
                exchange.gone
            )),
            Invariant::AsksBounded => Some(format!(
                "{} requests within requests, {} told back, {} of them expired, {} beyond a bound",
                exchange.within, exchange.within_answered, exchange.within_expired, exchange.impossible
            )),
            Invariant::LetterOnce => {
                Some(format!("{} letters, {} came again", exchange.letters, exchange.letters_again))
            }
            _ => None,
        };
        Invariant::ALL
            .iter()
            .filter_map(|id| {
                let told: Vec<&str> = self
                    .breaches
                    .iter()
                    .filter(|(of, _)| of == id)
                    .map(|(_, detail)| detail.as_str())
                    .collect();
                if self.broken.contains(id) {
                    return Some(Verdict { id: *id, held: false, detail: told.join("; ") });
                }
                sound(*id).map(|detail| Verdict { id: *id, held: true, detail })
            })
            .collect()
    }
}
