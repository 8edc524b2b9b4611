//! The faults of a run: which, when, where and for how long, all drawn from the seed before the run begins.
//!
//! Invariants
//! - Every kind has its own randomness: leaving one out, or adding one, changes nothing about the others.
//! - At most a minority of nodes is ever damaged; everything else ends by itself or with the run's faults.

use crate::{
    config::{Config, Kind},
    core::{DRIFT_MAX_PPM, End, stream},
    members::Absence,
    queue::{To, What},
    world::World,
};
use okno_cluster::core::retention::Retention;
use okno_storage::commit::{EntityKey, SystemOp};
use rand::{Rng, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

/// Chance that a kind is among those of a run.
const CHOSEN: f64 = 0.35;
/// Steps between two faults of one kind.
const GAP: (u64, u64) = (30, 4_000);
/// Others remember what a clock said for 2 s, and a jump needs a moment to be told.
const CLOCK_REMEMBERED_US: u64 = 3_000_000;
const MS: u64 = 1_000;
const SECOND_MS: i64 = 1_000;
const HOUR_MS: i64 = 3_600 * SECOND_MS;

/// The streams of randomness of kinds begin here; those below are others'.
const KINDS_FROM: u64 = 1 << 32;

/// Names a kind's stream: the same whatever other kinds there are, so that recorded seeds stay what they are when one is added.
fn number(kind: Kind) -> u64 {
    kind.id()
        .bytes()
        .fold(0xcbf2_9ce4, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0193) & 0xffff_ffff)
}

#[derive(Debug, Clone)]
struct Planned {
    step: u64,
    kind: Kind,
    seed: u64,
}

/// How a fault ends, or goes on.
#[derive(Debug, Clone)]
pub enum Undo {
    /// Links are as they were.
    Links(Vec<(usize, usize)>),
    ClientCut(Vec<(usize, usize)>),
    /// One after the other is cut, then one after the other healed.
    Swizzle {
        ways: Vec<(usize, usize)>,
        next: usize,
        pause_us: u64,
    },
    Disk(usize),
    Clock(usize),
    /// Operators look after the members, so many times more.
    Tend {
        looks: u32,
    },
    /// A member is away, or back.
    Absent(Absence),
    /// A machine of a cluster that was given up comes back, or goes.
    Ghost {
        node: usize,
        over: bool,
    },
    /// An entity is closed and opened by turns.
    CloseAndOpen {
        entity: EntityKey,
        left: u32,
        pause_us: u64,
    },
    Strobe {
        node: usize,
        offset_ms: i64,
        left: u32,
        pause_us: u64,
    },
}

#[derive(Debug, Default)]
pub struct Faults {
    plan: Vec<Planned>,
    next: usize,
    under_way: Vec<Option<Undo>>,
    client_offsets_ms: Vec<i64>,
}

impl Faults {
    pub fn plan(config: &Config, _nodes: usize, clients: usize) -> Self {
        let mut rng = stream(config.seed, 6);
        let slower = rng.gen_range(1..=3);
        let skewed = config.kinds.contains(&Kind::ClockSkew) && rng.gen_bool(CHOSEN);
        let client_offsets_ms = (0..clients)
            .map(|_| {
                let (usual, far) = (rng.gen_range(-2_000..=2_000), rng.gen_range(-240_000..=240_000));
                if skewed && rng.gen_bool(0.2) { far } else { usual }
            })
            .collect();
        let mut plan = Vec::new();
        for kind in &config.kinds {
            let mut rng = stream(config.seed, KINDS_FROM + number(*kind));
            if !rng.gen_bool(CHOSEN) {
                continue;
            }
            let mut step = 0;
            loop {
                step += rng.gen_range(GAP.0..=GAP.1) * slower;
                let seed = rng.r#gen();
                if step >= config.steps {
                    break;
                }
                plan.push(Planned { step, kind: *kind, seed });
            }
        }
        plan.sort_by_key(|planned| (planned.step, planned.kind));
        Self { plan, next: 0, under_way: Vec::new(), client_offsets_ms }
    }

    /// Will this run cause faults of the kind, if they can be?
    pub fn plans(config: &Config, kind: Kind) -> bool {
        config.kinds.contains(&kind) && stream(config.seed, KINDS_FROM + number(kind)).gen_bool(CHOSEN)
    }

    /// Messages must be remembered to arrive again.
    pub fn wants_old(&self) -> bool {
        self.plan.iter().any(|planned| planned.kind == Kind::Stale)
    }

    pub fn client_offset_ms(&self, client: usize) -> i64 {
        self.client_offsets_ms.get(client).copied().unwrap_or(0)
    }
}

impl World {
    /// A member is on its way to needing a copy, or to having installed it.
    pub fn is_somebody_away(&self) -> bool {
        self.faults.under_way.iter().flatten().any(|undo| matches!(undo, Undo::Absent(_)))
    }

    /// Causes the faults whose step has come.
    pub fn cause_faults(&mut self) {
        while let Some(planned) = self.faults.plan.get(self.faults.next).filter(|p| p.step <= self.steps) {
            let Planned { kind, seed, .. } = *planned;
            self.faults.next += 1;
            let rng = ChaCha8Rng::seed_from_u64(seed);
            if let Some(detail) = self.cause(kind, rng) {
                self.w.count(kind);
                self.w.trace.mix(seed);
                if self.w.trace.on() {
                    self.w.trace.say(self.w.now, format_args!("FAULT {kind}: {detail}"));
                }
            }
        }
    }

    pub fn later(&mut self, after_us: u64, undo: Undo) {
        let at = self.w.now + after_us;
        self.faults.under_way.push(Some(undo));
        let place = self.faults.under_way.len() - 1;
        self.w.queue.push(at, To::World, What::Fault(place));
    }

    /// A node, the leader as often as not.
    fn pick(&self, rng: &mut ChaCha8Rng) -> usize {
        let made: Vec<usize> = (0..self.machines.len()).filter(|n| !self.w.of[*n].is_nil()).collect();
        let any = made[rng.gen_range(0..made.len())];
        if rng.gen_bool(0.5) { self.ready_leader().unwrap_or(any) } else { any }
    }

    /// Two different nodes.
    fn pair(&self, rng: &mut ChaCha8Rng) -> Option<(usize, usize)> {
        if self.machines.len() < 2 {
            return None;
        }
        let one = self.pick(rng);
        let other = (one + rng.gen_range(1..self.machines.len())) % self.machines.len();
        Some((one, other))
    }

    fn ways(&self) -> Vec<(usize, usize)> {
        let count = self.machines.len();
        (0..count).flat_map(|a| (0..count).map(move |b| (a, b))).filter(|(a, b)| a != b).collect()
    }

    /// All ways, or the half of them.
    fn some_ways(&self, rng: &mut ChaCha8Rng) -> Vec<(usize, usize)> {
        let mut ways = self.ways();
        if rng.gen_bool(0.5) {
            ways.retain(|_| rng.gen_bool(0.5));
        }
        ways
    }

    fn cut(&mut self, ways: &[(usize, usize)]) {
        let now = self.w.now;
        for (from, to) in ways {
            self.w.net.link(*from, *to).cut.get_or_insert(now);
        }
    }

    fn running(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.machines.len()).filter(|node| self.machines[*node].live.is_some())
    }

    /// Causes one fault. `None`: it could not be, and does not count.
    fn cause(&mut self, kind: Kind, mut rng: ChaCha8Rng) -> Option<String> {
        let r = &mut rng;
        match kind {
            Kind::Loss | Kind::Duplicate | Kind::Reorder | Kind::Delay => return self.trouble(kind, r),
            Kind::OneWayCut | Kind::PartialCut | Kind::Isolate | Kind::Swizzle => return self.cuts(kind, r),
            Kind::ClockSkew
            | Kind::ClockDrift
            | Kind::ClockJump
            | Kind::ClockStrobe
            | Kind::ClocksTogether => {
                return self.clock_fault(kind, r);
            }
            Kind::SlowDisk | Kind::FailedFsync | Kind::HungDisk | Kind::Rot | Kind::IdentityRot => {
                return self.disk_fault(kind, r);
            }
            Kind::Crash
            | Kind::PowerLoss
            | Kind::PowerLossAll
            | Kind::TornIdentity
            | Kind::Stop
            | Kind::Pause
            | Kind::Wipe => {
                return self.process_fault(kind, r);
            }
            _ => {}
        }
        match kind {
            Kind::Join
            | Kind::Leave
            | Kind::Replace
            | Kind::Recover
            | Kind::Away
            | Kind::TwoCopies
            | Kind::CutCopy
            | Kind::InstallUnnamed
            | Kind::InstallTorn
            | Kind::InstallNamed => self.member_fault(kind, r),
            Kind::Reset => {
                let (a, b) = self.pair(r)?;
                self.w.net.break_connection(a, b);
                self.w.unreachable(a, b, 5 * MS);
                Some(format!("n{} -> n{}", a + 1, b + 1))
            }
            Kind::Stale => {
                let mut sent = 0;
                for _ in 0..r.gen_range(1..6) {
                    let (from, to, message) = self.w.net.old(r.gen_range(0..4_096))?;
                    self.w.send_old(from, to, message);
                    sent += 1;
                }
                Some(format!("{sent} messages"))
            }
            Kind::ClientCut => {
                let node = self.pick(r);
                let mut ways: Vec<_> = (0..self.w.net.count_clients()).map(|client| (client, node)).collect();
                ways.retain(|_| r.gen_bool(0.5));
                for (client, node) in &ways {
                    self.w.net.client(*client, *node).cut = true;
                }
                self.later(r.gen_range(100 * MS..3_000 * MS), Undo::ClientCut(ways.clone()));
                (!ways.is_empty()).then(|| format!("{} clients from n{}", ways.len(), node + 1))
            }
            Kind::ClientReset => {
                let node = self.pick(r);
                let mut broken = 0;
                for client in 0..self.w.net.count_clients() {
                    if r.gen_bool(0.5) {
                        for attempt in self.w.net.break_client(client, node) {
                            self.w.broken(client, attempt, true, 10 * MS);
                            broken += 1;
                        }
                    }
                }
                (broken > 0).then(|| format!("{broken} attempts at n{}", node + 1))
            }
            Kind::Transfer => {
                let leader = self.ready_leader()?;
                let to = r.gen_bool(0.7).then(|| r.gen_range(1..=self.machines.len() as u64));
                let live = self.machines[leader].live.as_mut()?;
                live.transfer(&mut self.w, to);
                Some(format!("from n{} to {to:?}", leader + 1))
            }
            Kind::Panic | Kind::ActorDies => {
                let leader = self.ready_leader()?;
                let count = if r.gen_bool(0.7) { 1 } else { r.gen_range(2..6) };
                let panics = &self.machines[leader].panics;
                let which = if kind == Kind::Panic { &panics.cells } else { &panics.actors };
                which.fetch_add(count, std::sync::atomic::Ordering::Relaxed);
                Some(format!("{count} on n{}", leader + 1))
            }
            Kind::SlowApply => {
                let node = self.pick(r);
                self.w.apply_held_until[node] = self.w.now + r.gen_range(50 * MS..1_500 * MS);
                Some(format!("n{}", node + 1))
            }
            Kind::Starve => {
                let node = self.pick(r);
                self.w.starved_until[node] = self.w.now + r.gen_range(100 * MS..2_000 * MS);
                Some(format!("n{}", node + 1))
            }
            Kind::MissedFeed => {
                let leader = self.ready_leader()?;
                self.w.missed[leader] = true;
                Some(format!("n{}", leader + 1))
            }
            Kind::CloseAndOpen => {
                let leader = self.ready_leader()?;
                let live = self.machines[leader].live.as_mut()?;
                let entity = live.busiest()?;
                let detail = format!("{entity} at n{}", leader + 1);
                // Behind a slow append commits of the entity and of both operations gather in one batch.
                let low = r.gen_range(MS..40 * MS);
                self.machines[leader].disk.slow_us = Some((low, 2 * low));
                self.later(r.gen_range(50 * MS..400 * MS), Undo::Disk(leader));
                let (left, pause_us) = (2 * r.gen_range(1..8), r.gen_range(MS / 2..15 * MS));
                self.later(1, Undo::CloseAndOpen { entity, left, pause_us });
                Some(detail)
            }
            Kind::CutLog => {
                let tail = r.gen_range(1..=60);
                let within_ms = r.gen_range(300..=3_000);
                self.w.retention = (Retention { tail, bytes_max: r.gen_range(2_000..200_000) }, within_ms);
                Some(format!("to {tail} entries, kept for who was heard within {within_ms} ms"))
            }
            Kind::Marker => {
                let leader = self.ready_leader()?;
                let live = self.machines[leader].live.as_mut()?;
                live.own(&mut self.w, SystemOp::Marker, crate::node::Handle::Nobody);
                Some(format!("asked for at n{}", leader + 1))
            }
            _ => None,
        }
    }

    fn trouble(&mut self, kind: Kind, r: &mut ChaCha8Rng) -> Option<String> {
        let ways = self.some_ways(r);
        let (loss, duplicate, reorder) =
            (r.gen_range(10..=300), r.gen_range(50..=500), r.gen_range(50..=600));
        let delay = (r.gen_range(0..20 * MS), r.gen_range(20 * MS..250 * MS));
        for (from, to) in &ways {
            let link = self.w.net.link(*from, *to);
            match kind {
                Kind::Loss => link.loss_pm = loss,
                Kind::Duplicate => link.duplicate_pm = duplicate,
                Kind::Reorder => link.reorder_pm = reorder,
                _ => link.delay_us = delay,
            }
        }
        let count = ways.len();
        self.later(r.gen_range(300 * MS..4_000 * MS), Undo::Links(ways));
        (count > 0).then(|| format!("{count} links"))
    }

    fn cuts(&mut self, kind: Kind, r: &mut ChaCha8Rng) -> Option<String> {
        let (a, b) = self.pair(r)?;
        let span = r.gen_range(200 * MS..4_000 * MS);
        let ways = match kind {
            Kind::OneWayCut => vec![(a, b)],
            Kind::PartialCut => vec![(a, b), (b, a)],
            Kind::Isolate => self.ways().into_iter().filter(|(from, to)| *from == a || *to == a).collect(),
            _ => {
                let mut ways = self.ways();
                ways.shuffle(r);
                let pause_us = r.gen_range(10 * MS..200 * MS);
                let count = ways.len();
                self.later(1, Undo::Swizzle { ways, next: 0, pause_us });
                return Some(format!("{count} links"));
            }
        };
        self.cut(&ways);
        self.later(span, Undo::Links(ways.clone()));
        Some(format!("{:?}", ways.iter().map(|(from, to)| (from + 1, to + 1)).collect::<Vec<_>>()))
    }

    fn clock_fault(&mut self, kind: Kind, r: &mut ChaCha8Rng) -> Option<String> {
        let node = self.pick(r);
        let sign = if r.gen_bool(0.6) { 1 } else { -1 };
        let offset_ms = sign
            * match r.gen_range(0..3) {
                0 => r.gen_range(SECOND_MS..30 * SECOND_MS),
                1 => r.gen_range(60 * SECOND_MS..HOUR_MS),
                _ => r.gen_range(HOUR_MS..48 * HOUR_MS),
            };
        if kind == Kind::ClocksTogether {
            let jump = match r.gen_range(0..3) {
                0 => r.gen_range(HOUR_MS..12 * HOUR_MS),
                1 => r.gen_range(24 * HOUR_MS..10 * 24 * HOUR_MS),
                _ => r.gen_range(20 * 24 * HOUR_MS..60 * 24 * HOUR_MS),
            };
            self.w.together_ms += jump;
            self.note_clocks();
            return Some(format!("{} h", jump / HOUR_MS));
        }
        // With more than a minority of wrong clocks nobody can tell who is right.
        let voters = self.w.voters();
        let bad = voters.iter().filter(|n| **n != node && self.w.is_bad_clock(**n));
        if bad.count() + 1 > voters.len().saturating_sub(1) / 2 && voters.len() > 1 || !voters.contains(&node)
        {
            return None;
        }
        if voters.len() == 1 && offset_ms > 0 {
            // One voter agrees with itself: its clock is the cluster's, and may not be far ahead of the clients'.
            return None;
        }
        self.w.clock_bad_until[node] = u64::MAX;
        match kind {
            Kind::ClockSkew | Kind::ClockJump => {
                self.set_clock(node, |clock, _| clock.offset_ms += offset_ms)
            }
            Kind::ClockDrift => {
                let ppm = r.gen_range(-DRIFT_MAX_PPM..=DRIFT_MAX_PPM);
                self.set_clock(node, |clock, now| clock.set_drift(now, ppm));
                self.later(r.gen_range(500 * MS..6_000 * MS), Undo::Clock(node));
                return Some(format!("n{} {ppm} ppm", node + 1));
            }
            _ => {
                let pause_us = r.gen_range(20 * MS..400 * MS);
                self.set_clock(node, |clock, _| clock.offset_ms += offset_ms);
                let left = r.gen_range(2..12);
                self.later(pause_us, Undo::Strobe { node, offset_ms, left, pause_us });
                return Some(format!("n{} by {offset_ms} ms", node + 1));
            }
        }
        let span = if kind == Kind::ClockJump { r.gen_range(100 * MS..1_500 * MS) } else { 5_000 * MS };
        self.later(span, Undo::Clock(node));
        Some(format!("n{} by {offset_ms} ms", node + 1))
    }

    fn disk_fault(&mut self, kind: Kind, r: &mut ChaCha8Rng) -> Option<String> {
        let node = self.pick(r);
        let disk = &mut self.machines[node].disk;
        match kind {
            Kind::SlowDisk => {
                let low = r.gen_range(10 * MS..100 * MS);
                disk.slow_us = Some((low, low + r.gen_range(10 * MS..1_500 * MS)));
                self.later(r.gen_range(500 * MS..5_000 * MS), Undo::Disk(node));
            }
            Kind::FailedFsync => {
                self.machines[node].live.as_ref()?;
                self.machines[node].disk.fail = true;
            }
            Kind::HungDisk => {
                let long = r.gen_bool(0.2);
                disk.hang_us = Some(if long { 12_000 * MS } else { r.gen_range(500 * MS..4_000 * MS) });
            }
            Kind::IdentityRot => {
                let (slot, byte) = (r.gen_range(0..2), r.gen_range(0..200));
                if !self.machines[node].rot_identity(slot, byte) {
                    return None;
                }
                return Some(format!("n{} slot {slot}", node + 1));
            }
            _ => {
                if !self.may_damage() || !self.w.voters().contains(&node) {
                    return None;
                }
                let what = self.machines[node].rot(r.r#gen())?;
                self.w.damaged[node] = true;
                return Some(format!("n{} {what}", node + 1));
            }
        }
        Some(format!("n{}", node + 1))
    }

    fn process_fault(&mut self, kind: Kind, r: &mut ChaCha8Rng) -> Option<String> {
        let node = self.pick(r);
        let down = (r.gen_range(5 * MS..100 * MS), r.gen_range(100 * MS..2_500 * MS));
        if kind == Kind::PowerLossAll {
            let all: Vec<usize> = self.running().collect();
            for node in &all {
                self.stop(*node, End::PowerLost);
                self.start_later(*node, down);
            }
            return (!all.is_empty()).then(|| format!("{} nodes", all.len()));
        }
        self.machines[node].live.as_ref()?;
        match kind {
            Kind::Wipe => {
                // A sole founder needs nobody to begin: made anew under the same cluster id it is a cluster of its own.
                let votes = self.w.voters().contains(&node) && self.tending.founders.len() > 1;
                if self.w.tune.from_nothing || !votes || !self.may_damage() {
                    return None;
                }
                self.stop(node, End::PowerLost);
                let record = self.made_anew(node, 0xB000 + u128::from(r.r#gen::<u32>()));
                self.machines[node].wipe(record);
                (self.w.damaged[node], self.w.wiped[node]) = (true, true);
                self.start_later(node, down);
            }
            Kind::Crash | Kind::PowerLoss => {
                let how = if kind == Kind::Crash { End::Killed } else { End::PowerLost };
                if r.gen_bool(0.5) {
                    // The worst moment: between what was told and what is on disk.
                    self.machines[node].disk.cut = Some(how);
                    return Some(format!("n{} at its next append", node + 1));
                }
                self.stop(node, how);
                self.start_later(node, down);
            }
            Kind::TornIdentity => {
                self.machines[node].tear(&mut self.w);
                self.stop(node, End::PowerLost);
                self.start_later(node, down);
            }
            Kind::Stop => {
                let live = self.machines[node].live.as_mut()?;
                if live.leads() {
                    live.transfer(&mut self.w, None);
                }
                let boot = live.boot;
                self.w.at_node(node, boot, r.gen_range(5 * MS..2_500 * MS), What::Halt);
            }
            _ => {
                let until = self.w.now + r.gen_range(50 * MS..4_000 * MS);
                self.machines[node].paused_until = until;
            }
        }
        Some(format!("n{}", node + 1))
    }

    /// A fault ends or goes on.
    pub fn go_on(&mut self, place: usize) {
        let Some(undo) = self.faults.under_way.get_mut(place).and_then(Option::take) else { return };
        match undo {
            Undo::Links(ways) => {
                for (from, to) in ways {
                    self.w.net.restore(from, to);
                }
            }
            Undo::ClientCut(ways) => {
                for (client, node) in ways {
                    self.w.net.client(client, node).cut = false;
                }
            }
            Undo::Swizzle { ways, next, pause_us } => {
                if let Some(way) = ways.get(next % ways.len()).copied() {
                    if next < ways.len() {
                        self.cut(&[way]);
                    } else {
                        self.w.net.restore(way.0, way.1);
                    }
                }
                if next + 1 < 2 * ways.len() {
                    self.later(pause_us, Undo::Swizzle { ways, next: next + 1, pause_us });
                }
            }
            Undo::CloseAndOpen { entity, left, pause_us } => {
                let op = if left % 2 == 0 {
                    SystemOp::Quarantine { entity: entity.clone(), reason: "closed by mistake".into() }
                } else {
                    SystemOp::Release { entity: entity.clone() }
                };
                if let Some(leader) = self.ready_leader()
                    && let Some(live) = self.machines[leader].live.as_mut()
                {
                    live.own(&mut self.w, op, crate::node::Handle::Nobody);
                }
                if left > 1 {
                    self.later(pause_us, Undo::CloseAndOpen { entity, left: left - 1, pause_us });
                }
            }
            Undo::Tend { looks } => self.tend_on(looks),
            Undo::Absent(absence) => self.absent_on(absence),
            Undo::Ghost { node, over } => self.ghost_on(node, over),
            Undo::Disk(node) => self.machines[node].disk.slow_us = None,
            Undo::Clock(node) => self.mend_clock(node),
            Undo::Strobe { node, offset_ms, left, pause_us } => {
                let offset = if left % 2 == 0 { offset_ms } else { -offset_ms };
                if left == 0 {
                    self.mend_clock(node);
                } else {
                    self.set_clock(node, |clock, _| clock.offset_ms += offset);
                    self.later(pause_us, Undo::Strobe { node, offset_ms, left: left - 1, pause_us });
                }
            }
        }
    }

    fn mend_clock(&mut self, node: usize) {
        self.set_clock(node, |clock, now| clock.mend(now));
        if self.w.clock_bad_until[node] == u64::MAX {
            self.w.clock_bad_until[node] = self.w.now + CLOCK_REMEMBERED_US;
        }
    }

    /// All faults end. What was damaged is taken out: it cannot be mended by itself.
    pub fn heal(&mut self) {
        if self.w.trace.on() {
            self.w.trace.say(self.w.now, format_args!("all faults end"));
        }
        self.faults.next = self.faults.plan.len();
        self.faults.under_way.iter_mut().for_each(|undo| *undo = None);
        self.w.net.heal();
        self.end_members();
        for node in 0..self.machines.len() {
            self.mend_clock(node);
            self.w.starved_until[node] = 0;
            self.w.apply_held_until[node] = 0;
            let machine = &mut self.machines[node];
            machine.disk = crate::node::Disk::default();
            machine.panics.clear();
            machine.paused_until = 0;
            if machine.damaged {
                machine.gone = true;
                self.stop(node, End::Killed);
            } else {
                self.start_later(node, (1, 50 * MS));
            }
        }
    }

    /// Releases what repeated panics have closed, as an operator does.
    pub fn release(&mut self) -> bool {
        let Some(leader) = self.ready_leader() else { return false };
        let Some(live) = self.machines[leader].live.as_mut() else { return false };
        let Ok(closed) = live.reader.view().quarantines(64) else { return false };
        let any = !closed.is_empty();
        for (entity, _) in closed {
            live.own(&mut self.w, SystemOp::Release { entity }, crate::node::Handle::Nobody);
        }
        any
    }
}
