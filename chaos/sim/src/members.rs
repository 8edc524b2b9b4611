//! Members that come and go while a run goes on: machines that join, who is taken out, who is away for so long that it
//! needs a copy, and what is recovered of a cluster of which one member is left.
//!
//! Invariants
//! - Who counts as a voter is what the furthest node has applied; changes and damage are chosen so that a majority of
//!   sound voters is left, whatever is on its way.
//! - A node id is used once: a machine that joins has a place, and so an id, that nobody had before.

use crate::{
    config::Kind,
    core::End,
    faults::Undo,
    image,
    node::{CAUGHT_UP, Handle, Live, Machine, timing},
    world::World,
};
use okno_checks::invariants::Invariant;
use okno_cluster::{
    core::{open::open, steps},
    settings::MEMBERS_LEVEL,
};
use okno_storage::{
    commit::SystemOp,
    engine::Engine,
    identity::{Identity, IdentityRecord, Member},
    log::{EntryKind, LogStore},
    members::{MemberChange, MemberRole},
    memory::MemoryEngine,
    recover::{PlannedMember, RecoverPlan, apply_rest, convert},
};
use rand::{Rng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;
use uuid::Uuid;

/// Places for machines that may join.
pub const SPARES: usize = 3;
/// How often is looked whether what was asked for has come about.
const LOOK_EVERY_US: u64 = 50_000;
/// A member that is to be away until the log is cut comes back after so many looks whatever was cut.
const AWAY_LOOKS: u32 = 160;
/// A copy that was to be installed has had its time after so many looks.
const BACK_LOOKS: u32 = 200;
/// A machine of a cluster that was given up runs for so long.
const GHOST_US: u64 = 1_500_000;

/// A member that is to be away until it needs a copy.
#[derive(Debug, Clone)]
pub struct Absence {
    node: usize,
    kind: Kind,
    looks: u32,
    /// It is back, and had installed so many copies before.
    back: Option<u64>,
    /// Absences still to come.
    again: u32,
}

/// What operators are about, over the whole run.
#[derive(Debug, Default)]
pub struct Tending {
    /// Founders of the present cluster.
    pub founders: Vec<Member>,
    /// Machines that are to join, and for which kind of fault.
    joining: Vec<(usize, Kind)>,
    /// Node ids that are to go, for which kind of fault, and once which machine has joined.
    leaving: Vec<(u64, Kind, Option<usize>)>,
    recovered: bool,
}

impl World {
    /// The kinds of this module.
    pub fn member_fault(&mut self, kind: Kind, r: &mut ChaCha8Rng) -> Option<String> {
        match kind {
            Kind::Join => {
                let place = self.join(kind)?;
                self.say(format_args!("n{} is to join", place + 1));
                None
            }
            Kind::Leave => {
                let (leader, voters) = (self.ready_leader()?, self.w.voters());
                let few = if r.gen_bool(0.3) { 3 } else { 1 };
                let all = self.w.table.current.iter();
                let others: Vec<u64> = all.map(|m| m.node_id).filter(|id| *id != leader as u64 + 1).collect();
                let id = *others.choose(r)?;
                let votes = voters.contains(&(id as usize - 1));
                if self.tending.leaving.iter().any(|(known, ..)| *known == id)
                    || !self.may_lose(id as usize - 1)
                    || votes && voters.len() <= few
                {
                    return None;
                }
                self.tending.leaving.push((id, kind, None));
                self.say(format_args!("n{id} is to go"));
                self.later(1, Undo::Tend { looks: 100 });
                None
            }
            Kind::Replace => {
                let node = *self.w.voters().choose(r)?;
                if self.w.voters().len() < 3 || !self.may_damage() || !self.is_sound(node) {
                    return None;
                }
                let place = self.join(kind)?;
                self.stop(node, End::PowerLost);
                self.machines[node].gone = true;
                self.tending.leaving.push((node as u64 + 1, kind, Some(place)));
                self.say(format_args!("n{} is lost, n{} is to replace it", node + 1, place + 1));
                None
            }
            Kind::Recover => self.recover(r),
            _ => self.absence(kind, r),
        }
    }

    fn say(&mut self, what: std::fmt::Arguments<'_>) {
        if self.w.trace.on() {
            self.w.trace.say(self.w.now, what);
        }
    }

    fn is_sound(&self, node: usize) -> bool {
        let machine = &self.machines[node];
        !machine.damaged && !machine.gone
    }

    /// Is a member with its data whole.
    fn is_sound_voter(&self, node: usize) -> bool {
        self.is_sound(node) && self.w.voters().contains(&node)
    }

    /// A change of members is on its way, as far as can be seen.
    fn is_changing(&self) -> bool {
        self.machines.iter().any(|m| m.live.as_ref().is_some_and(Live::is_changing))
    }

    /// A change may still come about: one is on its way, or stands in a member's log, also of one that is down, beyond what
    /// anybody has applied.
    fn may_change(&self) -> bool {
        let applied = self.w.watch.last();
        let holds = |node: usize| {
            let is_member = self.w.table.get(node as u64 + 1).is_some();
            is_member && self.is_sound(node) && self.machines[node].holds_change_after(applied)
        };
        self.is_changing() || !self.is_removal_known() || (0..self.machines.len()).any(holds)
    }

    /// A majority of those who stay knows of all removals, and so will whoever they elect. Until then the loss of one who
    /// knows may leave them in want of the vote of who is gone already (ADR 0012, what is left).
    fn is_removal_known(&self) -> bool {
        let voters = self.w.voters();
        let knows = |node: &usize| {
            let live = self.machines[*node].live.as_ref();
            live.is_some_and(|live| live.has_removed(&self.w.table.removed))
        };
        voters.iter().filter(|node| knows(node)).count() > voters.len() / 2
    }

    /// Voters whose data are lost or wrong.
    fn unsound(&self) -> usize {
        self.w.voters().into_iter().filter(|node| !self.is_sound(*node)).count()
    }

    /// One more node's data may be lost or wrong: a majority stays whole.
    pub fn may_damage(&self) -> bool {
        !self.may_change() && self.unsound() < self.w.voters().len().saturating_sub(1) / 2
    }

    /// This one may be taken out: a sound majority is left, and right clocks are, too.
    fn may_lose(&self, node: usize) -> bool {
        if !self.w.voters().contains(&node) {
            return true;
        }
        let left = self.w.voters().len() - 1;
        let unsound = self.unsound() - usize::from(!self.is_sound(node));
        left > 0 && unsound <= (left - 1) / 2 && self.w.bad_clocks() == 0 && !self.may_change()
    }

    /// `okno init` on a machine of the present cluster whose data are gone: the same id, another incarnation.
    pub fn made_anew(&self, node: usize, incarnation: u128) -> IdentityRecord {
        let founders = &self.tending.founders;
        let mut record = image::joining(node, self.w.cluster, founders);
        record.later.joined = !founders.iter().any(|m| m.node_id == record.node_id);
        record.incarnation = Uuid::from_u128(incarnation);
        record
    }

    /// A machine that nobody used yet is made and started; it is asked for until it is a member.
    fn join(&mut self, kind: Kind) -> Option<usize> {
        let nodes = self.w.tune.nodes;
        let unused = |place: &usize| self.w.of[*place].is_nil();
        let place = (nodes..self.machines.len()).find(unused)?;
        if self.w.tune.from_nothing && self.ready_leader().is_none() {
            return None;
        }
        let record = image::joining(place, self.w.cluster, &self.tending.founders);
        self.w.of[place] = record.cluster;
        self.machines[place].init(record);
        self.start_later(place, (1, 50_000));
        self.tending.joining.push((place, kind));
        self.later(60_000, Undo::Tend { looks: 400 });
        Some(place)
    }

    /// What operators do: ask for members until they are there, take out who is to go, switch off who was taken out.
    /// True: nothing is left to be done.
    pub fn tend_members(&mut self) -> bool {
        let table = self.w.table.clone();
        let Some(leader) = self.ready_leader() else { return self.tending.is_done() };
        let Some(live) = self.machines[leader].live.as_mut() else { return false };
        if live.is_changing() {
            return false;
        }
        let asked = |(place, _): &&(usize, Kind)| {
            let id = *place as u64 + 1;
            table.get(id).is_none() && !table.is_removed(id)
        };
        if !self.tending.is_done() && live.reader.level() < MEMBERS_LEVEL {
            live.own(&mut self.w, SystemOp::Level { level: MEMBERS_LEVEL }, Handle::Nobody);
            return false;
        }
        if let Some((place, _)) = self.tending.joining.iter().find(asked) {
            let (node_id, peer_address) = (*place as u64 + 1, image::address(*place));
            live.change(&mut self.w, MemberChange::AddLearner { node_id, peer_address, incarnation: None });
            return false;
        }
        let Some(node_id) = self.tending.leaving.iter().find(|l| self.is_to_go(l)).map(|(id, ..)| *id) else {
            return self.tending.is_done();
        };
        let Some(live) = self.machines[leader].live.as_mut() else { return false };
        if node_id == leader as u64 + 1 {
            live.transfer(&mut self.w, None);
        } else {
            live.change(&mut self.w, MemberChange::Remove { node_id });
        }
        false
    }

    /// What has come about of what was asked for.
    pub fn look_at_members(&mut self) {
        while let Some((node, index)) = self.w.promoted.pop() {
            self.w.watch.figures.members += 1;
            let last = match &self.machines[node].live {
                Some(live) => live.last_index(),
                None => self.machines[node].log_end().map_or(0, |(_, last)| last),
            };
            if last + CAUGHT_UP + 1 < index && self.is_sound(node) {
                let detail = format!("node {} was promoted at {index} with a log up to {last}", node + 1);
                self.w.watch.breach(Invariant::Progress, detail);
            }
        }
        if self.tending.is_done() {
            return;
        }
        let table = self.w.table.clone();
        let w = &mut self.w;
        self.tending.joining.retain(|(place, kind)| {
            let id = *place as u64 + 1;
            let joined = table.get(id).is_some_and(|m| m.role == MemberRole::Voter);
            if joined && *kind == Kind::Join {
                w.count(*kind);
            }
            !joined && !table.is_removed(id)
        });
        self.tending.leaving.retain(|(id, kind, _)| {
            let gone = table.is_removed(*id);
            if gone {
                w.watch.figures.members += 1;
                w.count(*kind);
            }
            !gone
        });
    }

    /// Operators look again in a moment.
    pub fn tend_on(&mut self, looks: u32) {
        if !self.tend_members() && looks > 0 {
            self.later(LOOK_EVERY_US, Undo::Tend { looks: looks - 1 });
        }
    }

    /// Once faults have ended: who was removed is switched off, so is what was given up.
    pub fn end_members(&mut self) {
        for node in 0..self.machines.len() {
            self.machines[node].held = false;
            if self.w.table.is_removed(node as u64 + 1) || self.is_foreign(node) {
                self.machines[node].gone = true;
                self.stop(node, End::Killed);
            }
        }
    }

    /// Its `identity` names a cluster that was given up.
    pub fn is_foreign(&self, node: usize) -> bool {
        self.w.of[node] != self.w.cluster && !self.w.of[node].is_nil()
    }

    /// Everybody who is to be a member is one, no sound learner is left, and who is to go and may go is gone.
    pub fn members_at_rest(&self) -> bool {
        let learners = self.w.table.learners().filter(|id| self.is_sound(*id as usize - 1)).count();
        let joining = self.tending.joining.iter().filter(|(place, _)| self.is_sound(*place)).count();
        let leaving = self.tending.leaving.iter().any(|leaving| self.is_to_go(leaving));
        learners + joining == 0 && !leaving && !self.is_changing()
    }

    /// It is a member, nothing stands against taking it out, and who is to replace it has joined.
    fn is_to_go(&self, (id, _, once): &(u64, Kind, Option<usize>)) -> bool {
        let votes =
            |place: usize| self.w.table.get(place as u64 + 1).is_some_and(|m| m.role == MemberRole::Voter);
        once.is_none_or(votes) && self.w.table.get(*id).is_some() && self.may_lose(*id as usize - 1)
    }

    // Away.

    fn absence(&mut self, kind: Kind, r: &mut ChaCha8Rng) -> Option<String> {
        let leader = self.ready_leader()?;
        let all: Vec<usize> =
            self.w.voters().into_iter().filter(|n| *n != leader && self.is_sound(*n)).collect();
        let node = *all.choose(r)?;
        // Two who are away at once would leave three without a quorum, and a log that does not grow.
        if self.w.voters().len() < 3 || self.is_somebody_away() || self.machines[node].disk.armed.is_some() {
            return None;
        }
        self.keep_little_log(r);
        let again = u32::from(kind == Kind::TwoCopies);
        self.go_away(Absence { node, kind, looks: AWAY_LOOKS, back: None, again });
        None
    }

    fn keep_little_log(&mut self, r: &mut ChaCha8Rng) {
        let kept = okno_cluster::core::retention::Retention { tail: r.gen_range(1..=4), bytes_max: 2_000 };
        self.w.retention = (kept, r.gen_range(100..=500));
    }

    fn go_away(&mut self, absence: Absence) {
        self.say(format_args!("n{} is away until it needs a copy: {}", absence.node + 1, absence.kind));
        self.machines[absence.node].held = true;
        self.stop(absence.node, End::Killed);
        self.later(LOOK_EVERY_US, Undo::Absent(absence));
    }

    /// One look at a member that is away, or back.
    pub fn absent_on(&mut self, mut absence: Absence) {
        let node = absence.node;
        if self.w.table.get(node as u64 + 1).is_none() || !self.is_sound(node) || self.is_foreign(node) {
            self.machines[node].held = false;
            self.machines[node].disk.armed = None;
            return;
        }
        let before = match absence.back {
            None => return self.still_away(absence),
            Some(before) => before,
        };
        let installs = self.machines[node].copies_installed();
        absence.looks = absence.looks.saturating_sub(1);
        if installs == before && absence.looks > 0 {
            return self.later(LOOK_EVERY_US, Undo::Absent(absence));
        }
        self.machines[node].disk.armed = None;
        if installs == before || absence.kind != Kind::TwoCopies {
            return;
        }
        if absence.again == 0 {
            return self.w.count(absence.kind);
        }
        self.go_away(Absence { looks: AWAY_LOOKS, back: None, again: absence.again - 1, ..absence });
    }

    fn still_away(&mut self, mut absence: Absence) {
        let node = absence.node;
        let Some((_, last)) = self.machines[node].log_end() else { return };
        let live = self.ready_leader().and_then(|leader| self.machines[leader].live.as_ref());
        let needs = live.is_some_and(|live| live.first_index() > last + 1);
        absence.looks = absence.looks.saturating_sub(1);
        if !needs && absence.looks > 0 {
            return self.later(LOOK_EVERY_US, Undo::Absent(absence));
        }
        self.machines[node].held = false;
        if needs {
            match absence.kind {
                Kind::Away => self.w.count(Kind::Away),
                Kind::TwoCopies => {}
                kind => self.machines[node].disk.armed = Some(kind),
            }
        }
        self.start_later(node, (1, 20_000));
        if needs {
            let back = Some(self.machines[node].copies_installed());
            self.later(LOOK_EVERY_US, Undo::Absent(Absence { looks: BACK_LOOKS, back, ..absence }));
        }
    }

    // Forced recovery.

    /// Everything stops; the member whose log is furthest becomes a cluster of its own, all others are given up. What it
    /// had applied, and what had been acknowledged — it stood on a majority, so it stands in the furthest log — is kept.
    fn recover(&mut self, r: &mut ChaCha8Rng) -> Option<String> {
        self.ready_leader()?;
        if self.tending.recovered || self.w.bad_clocks() > 0 || self.w.tune.from_nothing {
            return None;
        }
        let how = if r.gen_bool(0.5) { End::Killed } else { End::PowerLost };
        for node in 0..self.machines.len() {
            self.stop(node, how);
        }
        let furthest = |node: &usize| self.machines[*node].log_end();
        let survivor =
            (0..self.machines.len()).filter(|n| self.is_sound_voter(*n)).max_by_key(|n| furthest(n))?;
        let applied = self.w.watch.last();
        let cluster = Uuid::from_u128(0x0c1_0000 + u128::from(r.r#gen::<u32>()));
        let incarnation = Uuid::from_u128(0xC000 + u128::from(r.r#gen::<u32>()));
        if r.gen_bool(0.3) {
            // The end comes before `identity` is written: nothing has happened.
            let before = self.machines[survivor].identity();
            self.recover_at(survivor, cluster, incarnation, true);
            if self.machines[survivor].identity() != before {
                let detail = "a recovery that was broken off has changed the survivor".to_owned();
                self.w.watch.breach(Invariant::StopsWhenWrong, detail);
            }
        }
        let index = self.recover_at(survivor, cluster, incarnation, false)?;
        self.tending.recovered = true;
        self.tending.joining.clear();
        self.tending.leaving.clear();
        self.tending.founders =
            vec![Member { node_id: survivor as u64 + 1, peer_address: image::address(survivor) }];
        (self.w.cluster, self.w.of[survivor]) = (cluster, cluster);
        self.w.net.forget();
        let was: Vec<usize> =
            (0..self.machines.len()).filter(|n| *n != survivor && !self.w.of[*n].is_nil()).collect();
        for node in &was {
            self.machines[*node].gone |= true;
            self.machines[*node].held = false;
        }
        let engine = self.machines[survivor].engine()?;
        match LogStore::open(Arc::new(engine)) {
            Ok(log) if log.last_index() == index => {}
            _ => {
                let detail = format!("what was recovered does not end at {index}, as was said");
                self.w.watch.breach(Invariant::Acknowledged, detail);
            }
        }
        self.start_later(survivor, (1, 50_000));
        // Those who were given up and not damaged may come back, one at a time: alone they are no majority, unless the log of
        // theirs takes the survivor out. Then they go on as the cluster that was given up, as they should.
        let may_come =
            |n: &&usize| !self.machines[**n].damaged && !self.machines[**n].holds_change_after(applied);
        if let Some(ghost) = was.iter().find(may_come).copied() {
            self.later(300_000, Undo::Ghost { node: ghost, over: false });
        }
        for _ in 0..2 {
            self.join(Kind::Recover);
        }
        Some(format!("n{} is what is left, up to {index}", survivor + 1))
    }

    /// As `oknoctl recover` does it: on a copy, and then one write of `identity`. Returns the last index recovered.
    fn recover_at(&mut self, node: usize, cluster: Uuid, incarnation: Uuid, broken_off: bool) -> Option<u64> {
        let old = self.machines[node].identity()?;
        let live = self.machines[node].engine()?;
        let generation = old.later.generation + 1;
        let copy = live.crash(live.unsynced());
        let shadow = self.watch_the_rest(node, &old, &copy)?;
        let recovered = rest_of(&copy, &old).and_then(|term| {
            let own = PlannedMember { node_id: old.node_id, peer_address: image::address(node), incarnation };
            let plan = RecoverPlan { cluster, generation, members: vec![own], node_id: old.node_id };
            convert(&copy, &plan, &IdentityRecord { term, ..old.clone() })
        });
        let recovered = match recovered {
            Ok(recovered) => recovered,
            Err(error) => {
                let detail = format!("sound node {} cannot be recovered: {error}", node + 1);
                self.w.watch.breach(Invariant::StopsWhenWrong, detail);
                return None;
            }
        };
        if (recovered.index, recovered.chain) != shadow {
            let detail = format!("recovery ends at {}, applying ends at {}", recovered.index, shadow.0);
            self.w.watch.breach(Invariant::SameState, detail);
        }
        if recovered.index < self.w.watch.last() {
            let detail =
                format!("{} entries were applied, {} recovered", self.w.watch.last(), recovered.index);
            self.w.watch.breach(Invariant::Acknowledged, detail);
        }
        let name = format!("db-recovered-{generation}");
        self.machines[node].store.put(&name, copy);
        if broken_off {
            return None;
        }
        let mut new = recovered.identity;
        new.live_directory = name;
        let mut identity = Identity::open(Box::new(self.machines[node].medium.clone())).ok()?;
        identity.update(|r| *r = IdentityRecord { sequence: r.sequence, ..new }).ok()?;
        self.machines[node].incarnation = incarnation;
        Some(recovered.index)
    }

    /// Applies on a copy what the log holds beyond what is applied, so that it is seen like everything that applies.
    /// Returns where that ends.
    fn watch_the_rest(
        &mut self,
        node: usize,
        old: &IdentityRecord,
        engine: &MemoryEngine,
    ) -> Option<(u64, [u8; 32])> {
        let shadow: Arc<dyn Engine> = Arc::new(engine.crash(engine.unsynced()));
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let mut opened = open(&shadow, old, timing(0), 0, &logger).ok()?;
        let last = opened.log.last_index();
        while opened.state.mark().index < last {
            let entries = steps::next_slice(&opened.state, &opened.log, last).ok()?;
            let slice = match entries.first().map(|e| e.kind) {
                Some(EntryKind::Configuration) => {
                    steps::apply_configuration(&mut opened.state, &entries[0], last, None)
                }
                _ => opened.state.apply(&entries, last),
            };
            let slice = slice.ok()?;
            self.w.watch.applied(node, &entries, &slice, opened.state.mark().chain);
        }
        let mark = opened.state.mark();
        Some((mark.index, mark.chain))
    }

    /// A machine of the cluster that was given up comes back, and is switched off again.
    pub fn ghost_on(&mut self, node: usize, over: bool) {
        if !self.is_foreign(node) {
            return;
        }
        self.machines[node].gone = over;
        if over {
            return self.stop(node, End::Killed);
        }
        self.say(format_args!("n{} comes back from the cluster that was given up", node + 1));
        self.start(node);
        self.later(GHOST_US, Undo::Ghost { node, over: true });
    }
}

impl Tending {
    pub fn new(founders: Vec<Member>) -> Self {
        Self { founders, ..Self::default() }
    }

    fn is_done(&self) -> bool {
        self.joining.is_empty() && self.leaving.is_empty()
    }
}

/// Applies the rest of the log, as recovery does; the highest term it may have been used in.
fn rest_of(engine: &MemoryEngine, old: &IdentityRecord) -> Result<u64, okno_storage::error::StorageError> {
    use okno_storage::state::{Genesis, StateStore};
    let shared: Arc<dyn Engine> = Arc::new(engine.clone());
    let log = LogStore::open(shared.clone())?;
    log.verify()?;
    let genesis = Genesis { chain: old.genesis_chain(), conf_state: bytes::Bytes::new() };
    let mut state = StateStore::open(shared, genesis)?;
    apply_rest(&log, &mut state)?;
    Ok(log.hard_state()?.term.max(old.term))
}

impl Machine {
    /// (term, index) of the last entry on its disk.
    pub fn log_end(&self) -> Option<(u64, u64)> {
        let log = LogStore::open(Arc::new(self.engine()?)).ok()?;
        let last = log.last_index();
        Some((log.term(last).ok().flatten()?, last))
    }

    /// A change of members stands in the log on its disk, beyond `index`.
    fn holds_change_after(&self, index: u64) -> bool {
        let Some(Ok(log)) = self.engine().map(|engine| LogStore::open(Arc::new(engine))) else {
            return false;
        };
        let from = log.first_index().max(index + 1);
        let entries = if from <= log.last_index() {
            log.entries(from, log.last_index() + 1, usize::MAX).unwrap_or_default()
        } else {
            Vec::new()
        };
        entries.iter().any(|e| e.kind == EntryKind::Configuration)
    }
}
