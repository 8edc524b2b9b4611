//! The world of one run: machines, clients, network and faults around one queue of events.

use crate::{
    clients::{Population, crowd::Crowd, fixtures, workload::Workload},
    clock::{Clock, START_MS},
    config::{Config, Kind},
    core::{Core, End, Exit},
    faults::Faults,
    image,
    members::{SPARES, Tending},
    net::{Arrival, End as At, Packet},
    node::{Live, Machine, StartError},
    port::{Action, AttemptId, Clients, CommandRequest, Event, SAID},
    queue::{Entry, To, What},
    services::Services,
    tune::Tune,
};
use okno_checks::invariants::Invariant;
use okno_cluster::status::REASON_REMOVED;
use okno_storage::level;
use rand::Rng;
use std::collections::BTreeMap;
use uuid::Uuid;

const _: () = assert!(START_MS == fixtures::START_MS, "nodes and clients agree on when a run begins");

/// A process that ended is started again within this, microseconds.
const RESTART_US: (u64, u64) = (50_000, 1_500_000);
/// Raft messages and calls that wait for a process that stands still; beyond it they are lost.
const PILE_MAX: usize = 4_096;
/// Ends of a damaged node's process after which it is taken out.
const DAMAGED_STARTS_MAX: u32 = 4;
/// Longer than any run: see [`World::note_clocks`].
const HORIZON_MS: i64 = 10 * 60_000;
/// Steps between two looks at the bounds.
const SAMPLE_EVERY: u64 = 64;

pub struct World {
    pub w: Core,
    pub machines: Vec<Machine>,
    pub clients: Crowd,
    pub faults: Faults,
    pub tending: Tending,
    pub seed: u64,
    /// Events handed to cores.
    pub steps: u64,
    /// Since when the fastest clock may have said what.
    pub clocks: Vec<(u64, i64)>,
    /// What it said whenever a clock was set.
    pub fastest: Vec<(u64, i64)>,
    boots: u32,
    piled: usize,
    starts: Vec<u32>,
    /// Attempts of who is judged as it goes: (client, attempt) → request.
    requests: BTreeMap<(usize, AttemptId), Uuid>,
}

impl World {
    pub fn new(config: &Config) -> Self {
        let mut workload = Workload::draw(config.seed);
        let tune = Tune::draw(config);
        if let Some(clients) = config.clients {
            workload.clients = clients.clamp(1, fixtures::CLIENTS_MAX);
        }
        // Asked for even if it is not used: all runs of a process find it made.
        let image = image::image(tune.nodes);
        let mut machines = if tune.from_nothing { image::empty(tune.nodes) } else { image.machines() };
        if [Kind::Join, Kind::Replace, Kind::Recover].iter().any(|kind| Faults::plans(config, *kind)) {
            let places = machines.len()..machines.len() + SPARES;
            machines.extend(places.map(image::spare));
        }
        let places = machines.len();
        let nodes: Vec<u64> = (1..=places as u64).collect();
        let officers = Population::new(config.seed, &nodes, workload);
        let clients = Crowd::draw(config.seed, &nodes, officers);
        let faults = Faults::plan(config, tune.nodes, clients.count());
        let w = Core::new(config.seed, places, clients.count(), tune, config.trace);
        let hall = clients.hall.as_ref().map(|hall| hall.office);
        let services = Services::new(hall, clients.exchange.is_some());
        let mut world = Self::with(w, machines, clients, faults, config.seed);
        if world.w.tune.from_nothing {
            image::furnish(&mut world);
        }
        world.w.watch.services = services;
        world.begin_clients();
        world
    }

    /// A world without clients and faults, from nothing.
    pub fn quiet(tune: Tune) -> Self {
        let nodes = tune.nodes;
        let workload = Workload { clients: 0, ..Workload::draw(0) };
        let ids: Vec<u64> = (1..=nodes as u64).collect();
        let clients = Crowd::only(Population::new(0, &ids, workload));
        let w = Core::new(0, nodes, 0, tune, false);
        Self::with(w, image::empty(nodes), clients, Faults::default(), 0)
    }

    fn with(mut w: Core, machines: Vec<Machine>, clients: Crowd, faults: Faults, seed: u64) -> Self {
        w.net.keep_old = faults.wants_old();
        let nodes = machines.len();
        let first = image::record(0, w.tune.nodes);
        w.cluster = first.cluster;
        let tending = Tending::new(first.members);
        let mut world = Self {
            w,
            machines,
            clients,
            faults,
            tending,
            seed,
            steps: 0,
            clocks: Vec::new(),
            fastest: Vec::new(),
            boots: 0,
            piled: 0,
            starts: vec![0; nodes],
            requests: BTreeMap::new(),
        };
        world.note_clocks();
        for node in 0..nodes {
            world.start(node);
        }
        let Some(live) = &world.machines[0].live else { return world };
        let view = live.reader.view();
        // A store just opened and not damaged can be read.
        let outbox = view.outbox(None, usize::MAX).unwrap_or_default();
        let timers = view.timers(None, i64::MAX, usize::MAX).unwrap_or_default();
        let (index, time_ms) = live.reader.applied();
        world.w.watch.begin(index, time_ms, outbox.into_iter().map(|m| m.key).collect(), timers);
        world
    }

    fn begin_clients(&mut self) {
        self.note_clocks();
        for client in 0..self.clients.count() {
            let at = self.w.now + self.w.rng.world.gen_range(0..200_000);
            self.w.queue.push(at, To::World, What::Client { client, event: Box::new(Event::Awake) });
        }
    }

    /// What the fastest clock says now, and what it will say before the run ends, may be said from now on: midnight may be
    /// near, and each of both dates is one that something happens on.
    pub fn note_clocks(&mut self) {
        let (now, together) = (self.w.now, self.w.together_ms);
        let fastest = self.machines.iter().map(|m| m.clock.wall_ms(now, together)).max();
        self.clocks.extend(fastest.into_iter().flat_map(|wall| [(now, wall), (now, wall + HORIZON_MS)]));
        self.fastest.extend(fastest.map(|wall| (now, wall)));
    }

    /// Takes the next event; the world never stands still.
    pub fn step(&mut self) {
        let Some(entry) = self.w.queue.pop() else {
            self.w.watch.breach(Invariant::Progress, "nothing is left to happen".into());
            self.w.now += 1_000_000;
            return;
        };
        self.w.now = entry.at;
        if let Some(services) = &mut self.w.watch.services {
            services.now(entry.at);
        }
        let counted = match entry.to {
            To::Node { node, boot } => self.at_node(node, boot, entry),
            To::World => self.at_world(entry),
        };
        if counted {
            self.steps += 1;
            if self.steps.is_multiple_of(SAMPLE_EVERY) {
                self.sample();
            }
        }
        while let Some(node) = self.w.appends.pop() {
            self.machines[node].begin_appends(&mut self.w);
        }
        while let Some(exit) = self.w.exits.pop() {
            self.ended(exit);
        }
        self.look_at_members();
    }

    fn mix(&mut self, tag: u64, at: usize) {
        self.w.trace.mix(self.w.now << 16 | tag << 8 | at as u64);
    }

    fn at_node(&mut self, node: usize, boot: u32, entry: Entry) -> bool {
        let machine = &mut self.machines[node];
        let Some(live) = machine.live.as_mut().filter(|live| live.boot == boot) else { return false };
        if machine.paused_until > self.w.now {
            let until = machine.paused_until;
            self.w.queue.defer(entry, until);
            return false;
        }
        let tag = entry.what.tag();
        if !live.on(entry.what, entry.due, &mut self.w) {
            return false;
        }
        self.mix(tag, node);
        true
    }

    fn at_world(&mut self, entry: Entry) -> bool {
        match &entry.what {
            What::Arrive(arrival) => {
                if let At::Node(node) = arrival.to
                    && self.machines[node].paused_until > self.w.now
                {
                    // It waits in the machine's buffers.
                    if self.piled < PILE_MAX {
                        self.piled += 1;
                        let until = self.machines[node].paused_until;
                        self.w.queue.defer(entry, until);
                    }
                    return false;
                }
            }
            What::Client { .. } | What::Start { .. } | What::Fault(_) => {}
            _ => return false,
        }
        if entry.at != entry.due {
            self.piled = self.piled.saturating_sub(1);
        }
        match entry.what {
            What::Arrive(arrival) => self.arrive(*arrival),
            What::Client { client, event } => {
                self.mix(40, client);
                self.client(client, *event);
                true
            }
            What::Start { node } => {
                self.start(node);
                false
            }
            What::Fault(at) => {
                self.go_on(at);
                false
            }
            _ => false,
        }
    }

    /// Something comes out of the network.
    fn arrive(&mut self, arrival: Arrival) -> bool {
        if !self.w.gets_through(&arrival) {
            return false;
        }
        let node = match arrival.to {
            At::Client(client) => {
                let Packet::Answer(event) = arrival.packet else { return false };
                if let Event::Answer { attempt, .. } | Event::Seen { attempt, .. } = &*event {
                    self.w.net.open.remove(&(client, *attempt));
                }
                self.mix(41, client);
                self.client(client, *event);
                return true;
            }
            At::Node(node) => node,
        };
        if let At::Node(from) = arrival.from
            && !self.is_connected(from, node, &arrival.packet)
        {
            return false;
        }
        let foreign = self.is_foreign(node);
        let Some(live) = self.machines[node].live.as_mut().filter(|_| {
            // Nobody asks a cluster that was given up.
            !foreign || matches!(arrival.from, At::Node(_))
        }) else {
            self.nobody_there(node, arrival);
            return false;
        };
        let w = &mut self.w;
        if w.trace.on() && !matches!(arrival.packet, Packet::Gossip { .. }) {
            let line = format!("{:?} -> n{}: {:?}", arrival.from, node + 1, arrival.packet);
            w.trace.say(w.now, format_args!("{line}"));
        }
        match (arrival.from, arrival.packet) {
            (At::Node(from), Packet::Raft(messages)) => live.messages(w, from as u64 + 1, messages),
            (At::Node(from), Packet::Gossip { gossip, taken }) => {
                live.hear(w, from as u64 + 1, &gossip, taken)
            }
            (At::Node(_), Packet::Hello { hello, answers }) => live.greeted(w, &hello, answers),
            (
                At::Node(from),
                packet @ (Packet::CopyBegin { .. }
                | Packet::CopyWanted { .. }
                | Packet::CopyChunk { .. }
                | Packet::CopyDone { .. }),
            ) => live.copy_packet(w, from, packet),
            (At::Node(from), Packet::Disowned) => live.disowned(w, from as u64 + 1),
            (At::Node(_), Packet::Removed) => live.told_removed(w),
            (At::Node(from), Packet::Forward { id, payload }) => live.forwarded(w, from, id, &payload),
            (At::Node(_), Packet::Forwarded { id, result }) => live.forward_answered(w, id, result.as_ref()),
            (At::Client(client), Packet::Command { attempt, request }) => {
                live.command(w, client, attempt, *request);
            }
            (At::Client(client), Packet::Read { attempt, query }) => live.read(w, client, attempt, query),
            (At::Client(client), Packet::Word(word)) => {
                if !live.hear_word(w, client, word) {
                    w.broken(client, SAID, false, 2_000);
                }
            }
            (At::Node(_), Packet::Attendance(standing)) => live.told_of_stations(w, standing),
            (At::Node(from), Packet::Deliveries { id, ask }) => live.asked_of_deliveries(w, from, id, &ask),
            (At::Node(_), Packet::DeliveriesTold { id, told }) => live.told_of_deliveries(id, told),
            _ => return false,
        }
        self.mix(42, node);
        true
    }

    /// Is there a connection for this packet? One comes about when both have taken the other's hello. Raft's messages and
    /// copies of a cluster that was given up are let through all the same, to who must refuse them itself: the new
    /// cluster remembers the ids of the one it was recovered from.
    fn is_connected(&self, from: usize, to: usize, packet: &Packet) -> bool {
        let (sender, receiver) = (&self.machines[from], &self.machines[to]);
        let took = |machine: &Machine, other: &Machine, place| {
            machine.live.as_ref().is_none_or(|live| live.has_greeted(place, other.incarnation))
        };
        match packet {
            Packet::Hello { .. } | Packet::Disowned | Packet::Removed => true,
            Packet::Raft(_) | Packet::CopyBegin { .. } if self.is_foreign(from) => !self.is_foreign(to),
            _ => took(receiver, sender, from) && took(sender, receiver, to),
        }
    }

    /// The process is down: whoever has a connection to it learns that, if the machine still says so.
    fn nobody_there(&mut self, node: usize, arrival: Arrival) {
        let says_so = self.w.rng.net.gen_bool(0.7);
        match (arrival.from, arrival.packet) {
            (At::Node(from), Packet::Forward { id, .. }) if says_so => {
                self.w.send_forwarded(node, from, id, None);
            }
            (At::Node(from), Packet::Raft(_)) if says_so && self.w.rng.net.gen_bool(0.1) => {
                self.w.unreachable(from, node, 2_000);
            }
            (At::Client(client), Packet::Command { attempt, .. } | Packet::Read { attempt, .. })
                if says_so =>
            {
                self.w.broken(client, attempt, false, 2_000);
            }
            (At::Client(client), Packet::Word(_)) if says_so => self.w.broken(client, SAID, false, 2_000),
            _ => {}
        }
    }

    fn client(&mut self, client: usize, event: Event) {
        if self.w.trace.on() && !matches!(event, Event::Awake) {
            let line = format!("client {client} learns {event:?}");
            self.w.trace.say(self.w.now, format_args!("{line}"));
        }
        if let Event::Answer { attempt, result, .. } = &event
            && let Some(request) = self.requests.remove(&(client, *attempt))
            && let Some(services) = &mut self.w.watch.services
        {
            services.answered(request, result);
            self.w.watch.judge_services();
        }
        let mut actions = Vec::new();
        let wall = self.w.true_ms() + self.faults.client_offset_ms(client);
        self.clients.on(client, event, self.w.now, wall, &mut actions);
        for action in actions {
            match action {
                Action::Wake { at_us } => {
                    let event = Box::new(Event::Awake);
                    let at = at_us.max(self.w.now + 1);
                    self.w.queue.push(at, To::World, What::Client { client, event });
                }
                Action::Tell { node, word } => self.w.send_word(client, node as usize - 1, word),
                Action::Pass { ms } => self.pass(ms),
                Action::Command { attempt, node, request } => {
                    if client >= self.clients.officers.count()
                        && let Some(services) = &mut self.w.watch.services
                    {
                        let CommandRequest { request_id, principal, target, command, .. } = &*request;
                        services.asked(*request_id, principal, target, command);
                        self.requests.insert((client, attempt), *request_id);
                    }
                    let packet = Packet::Command { attempt, request };
                    self.w.send_from_client(client, node as usize - 1, attempt, packet);
                }
                Action::Read { attempt, node, query } => {
                    self.w.send_from_client(
                        client,
                        node as usize - 1,
                        attempt,
                        Packet::Read { attempt, query },
                    );
                }
            }
        }
    }

    /// Time goes by: all clocks move on together.
    pub fn pass(&mut self, ms: i64) {
        self.w.together_ms += ms;
        self.note_clocks();
    }

    // Processes.

    /// Starts a node's process, if it is down and may run.
    pub fn start(&mut self, node: usize) {
        let machine = &mut self.machines[node];
        if machine.live.is_some() || machine.gone || machine.held {
            return;
        }
        self.boots += 1;
        // Timers of raft are drawn from the seed, so that a run's elections differ from another's.
        match Live::start(machine, self.boots, self.seed, &mut self.w) {
            Ok(live) => {
                self.w.boots[node] = Some(live.boot);
                if self.w.trace.on() {
                    let applied = live.applied();
                    self.w.trace.say(self.w.now, format_args!("n{} starts, applied {applied}", node + 1));
                }
                machine.live = Some(live);
            }
            Err(StartError::Io(error)) => {
                self.w.watch.breach(Invariant::StopsWhenWrong, format!("node {}: {error}", node + 1));
            }
            Err(StartError::Wrong(reason)) => {
                machine.gone = true;
                if reason == REASON_REMOVED {
                    return self.w.watch_left(node);
                }
                let damaged = machine.damaged;
                self.w.watch_quarantine(node, damaged, &format!("at its start: {reason}"));
            }
        }
    }

    /// A process ends; what it had not answered is broken off.
    pub fn stop(&mut self, node: usize, how: End) {
        let machine = &mut self.machines[node];
        let Some(live) = &machine.live else { return };
        let attempts = live.attempts();
        machine.down(how, &mut self.w);
        self.w.boots[node] = None;
        if self.w.trace.on() {
            self.w.trace.say(self.w.now, format_args!("n{} is down: {how:?}", node + 1));
        }
        // A machine without power says nothing to anybody.
        let quiet = how == End::PowerLost && self.w.rng.net.gen_bool(0.5);
        for other in 0..self.machines.len() {
            if other != node {
                self.w.net.break_connection(node, other);
                self.w.net.break_connection(other, node);
                if let Some(live) = &mut self.machines[other].live {
                    live.disconnected(node);
                }
                if !quiet {
                    self.w.unreachable(other, node, 20_000);
                }
            }
        }
        if !quiet {
            for (client, attempt) in attempts {
                self.w.broken(client, attempt, true, 20_000);
            }
        }
    }

    /// A process ended by itself.
    fn ended(&mut self, exit: Exit) {
        let Exit { node, how, reason, expected } = exit;
        if self.machines[node].live.is_none() {
            return;
        }
        if self.w.trace.on() {
            self.w.trace.say(self.w.now, format_args!("n{} ends: {reason}", node + 1));
        }
        if !expected {
            let detail = format!("the process of sound node {} ends: {reason}", node + 1);
            self.w.watch.breach(Invariant::StopsWhenWrong, detail);
        }
        self.stop(node, how);
        if self.machines[node].damaged {
            self.starts[node] += 1;
            // Somebody looks at a machine that fails again and again.
            self.machines[node].gone |= self.starts[node] >= DAMAGED_STARTS_MAX;
        }
        self.start_later(node, RESTART_US);
    }

    pub fn start_later(&mut self, node: usize, (from, to): (u64, u64)) {
        let at = self.w.now + self.w.rng.world.gen_range(from..=to);
        self.w.queue.push(at, To::World, What::Start { node });
    }

    pub fn set_clock(&mut self, node: usize, change: impl Fn(&mut Clock, u64)) {
        let now = self.w.now;
        let machine = &mut self.machines[node];
        change(&mut machine.clock, now);
        if let Some(live) = &mut machine.live {
            live.clock = machine.clock;
        }
        self.note_clocks();
    }

    // Looking.

    /// The node that leads and is ready; the one of the highest term, if there seem to be several.
    pub fn ready_leader(&self) -> Option<usize> {
        let leads = |(node, machine): (usize, &Machine)| {
            let live = machine.live.as_ref().filter(|live| live.is_open() && live.ready())?;
            Some((live.role.term, node))
        };
        let own = |(node, _): &(usize, &Machine)| !self.is_foreign(*node);
        self.machines.iter().enumerate().filter(own).filter_map(leads).max().map(|(_, node)| node)
    }

    /// It counts: it belongs to the cluster.
    pub fn is_member(&self, node: usize) -> bool {
        !self.is_foreign(node) && self.w.table.get(node as u64 + 1).is_some()
    }

    /// The node has applied everything this release may write.
    pub fn is_raised(&self, node: usize) -> bool {
        self.machines[node].live.as_ref().is_some_and(|live| live.reader.level() >= level::known())
    }

    /// Every member that runs has applied all there is.
    pub fn equally_far(&self) -> bool {
        let mut running =
            self.machines.iter().filter_map(|m| m.live.as_ref()).filter(|live| self.is_member(live.ix));
        let Some(first) = running.next() else { return false };
        let (index, watermark) = (first.applied(), first.watermark());
        let last = self.w.watch.last();
        index == watermark && index == last && running.all(|live| live.applied() == index)
    }

    fn sample(&mut self) {
        for machine in &self.machines {
            if let Some(live) = &machine.live {
                live.sample(&mut self.w);
            }
        }
    }
}
