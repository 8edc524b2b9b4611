//! The state every run begins with — founded, with a catalogue and a directory — prepared once per size of cluster by
//! running a quiet world, and copied for each run.

use crate::{clients::fixtures, node::Machine, tune::Tune, world::World};
use okno_domain::entity::Origin;
use okno_runtime::call::CallResult;
use okno_storage::{
    identity::{Identity, IdentityRecord, Member},
    memory::MemoryEngine,
};
use parking_lot::Mutex;
use std::{collections::BTreeMap, sync::Arc};
use uuid::Uuid;

/// The image is made so long before a run begins: replicated time must not be ahead of the clocks.
const BEFORE_MS: i64 = 60_000;
/// Virtual time within which a quiet cluster is founded and furnished.
const WITHIN_US: u64 = 30_000_000;

/// What the disks hold.
pub struct Image {
    disks: Vec<(MemoryEngine, IdentityRecord)>,
}

/// A member as `okno init` makes it.
pub fn record(node: usize, nodes: usize) -> IdentityRecord {
    let id = node as u64 + 1;
    IdentityRecord {
        cluster: Uuid::from_u128(0x0c1),
        node_id: id,
        incarnation: Uuid::from_u128(0xA000 + u128::from(id)),
        members: (1..=nodes as u64)
            .map(|id| Member { node_id: id, peer_address: format!("n{id}.test:7401") })
            .collect(),
        pins: Vec::new(),
        term: 0,
        vote: 0,
        synced_term: 0,
        synced_index: 0,
        live_directory: "db".into(),
        sequence: 0,
        later: Default::default(),
    }
}

/// As `okno init --join` makes it, of a cluster with these founders.
pub fn joining(node: usize, cluster: Uuid, founders: &[Member]) -> IdentityRecord {
    let mut joins = record(node, 1);
    (joins.cluster, joins.members) = (cluster, founders.to_vec());
    joins.later.joined = true;
    joins
}

/// Where a node is reached.
pub fn address(node: usize) -> String {
    format!("n{}.test:7401", node + 1)
}

/// A machine on which nothing has been made yet.
pub fn spare(node: usize) -> Machine {
    let mut machine = Machine::new(MemoryEngine::new(), record(node, node + 1));
    machine.gone = true;
    machine
}

/// Machines on which `okno init` has run and nothing else.
pub fn empty(nodes: usize) -> Vec<Machine> {
    (0..nodes).map(|node| Machine::new(MemoryEngine::new(), record(node, nodes))).collect()
}

/// The image for so many nodes. The usual sizes are made together, by whoever asks first.
pub fn image(nodes: usize) -> Arc<Image> {
    static IMAGES: Mutex<BTreeMap<usize, Arc<Image>>> = Mutex::new(BTreeMap::new());
    let mut images = IMAGES.lock();
    if !images.contains_key(&nodes) {
        sound(|| {
            for size in USUAL.into_iter().chain([nodes]) {
                images.entry(size).or_insert_with(|| Arc::new(make(size)));
            }
        });
    }
    Arc::clone(&images[&nodes])
}

/// Sizes that are drawn.
const USUAL: [usize; 3] = [1, 3, 5];

/// Without the planted fault, if one is chosen: runs of every fault begin with the same state.
#[cfg(feature = "mutants")]
fn sound(make: impl FnOnce()) {
    use okno_storage::planted::{self, Mutant};
    let chosen = Mutant::ALL.iter().copied().find(|mutant| planted::is(*mutant));
    planted::choose(None);
    make();
    planted::choose(chosen);
}

#[cfg(not(feature = "mutants"))]
fn sound(make: impl FnOnce()) {
    make();
}

impl Image {
    pub fn machines(&self) -> Vec<Machine> {
        self.disks.iter().map(|(engine, record)| Machine::new(engine.crash(0), record.clone())).collect()
    }
}

/// Founds and furnishes a cluster. A fault here is one of the simulator or of the founding itself.
fn make(nodes: usize) -> Image {
    let mut world = World::quiet(Tune::plain(nodes));
    world.w.together_ms = -BEFORE_MS;
    furnish(&mut world);
    let disks = world
        .machines
        .iter()
        .map(|machine| {
            let identity = Identity::open(Box::new(machine.medium.clone())).expect("a sound identity");
            let mut record = identity.record().clone();
            record.sequence = 0;
            let engine = machine.engine().expect("a sound identity names its database");
            (engine.crash(engine.unsynced()), record)
        })
        .collect();
    Image { disks }
}

/// Runs a world until it is founded and holds the fixtures everywhere.
pub fn furnish(world: &mut World) {
    let until = world.w.now + WITHIN_US;
    let run = |world: &mut World, what: &str, done: &mut dyn FnMut(&mut World) -> bool| {
        while !done(world) {
            assert!(world.w.now < until, "a quiet cluster was not {what} in time");
            world.step();
        }
    };
    run(world, "founded", &mut |world| world.ready_leader().is_some());
    run(world, "raised to its level", &mut |world| {
        world.ready_leader().is_some_and(|leader| world.is_raised(leader))
    });
    for (number, (target, command)) in fixtures::commands().into_iter().enumerate() {
        let leader = world.ready_leader().expect("nothing disturbs a quiet cluster");
        let (machine, w) = (&mut world.machines[leader], &mut world.w);
        let live = machine.live.as_mut().expect("it leads");
        let origin = Origin { principal: fixtures::administrator(), workstation: String::new() };
        let ms = u64::try_from(live.wall_ms(w)).unwrap_or(0);
        let id = uuid::Builder::from_unix_timestamp_millis(
            ms,
            &(number as u128).to_be_bytes()[6..].try_into().expect("ten bytes"),
        )
        .into_uuid();
        live.ask(w, origin, id, &target, command);
        run(world, "furnished", &mut |world| {
            let live = world.machines[leader].live.as_mut().expect("it leads");
            match live.world_done().pop() {
                Some(CallResult::Done { .. }) => true,
                Some(other) => panic!("a fixture was not taken: {other:?}"),
                None => false,
            }
        });
    }
    run(world, "caught up", &mut |world| world.equally_far());
}
