//! Catalogue and directory as applied: what every decision may look at besides its own entity (rule 2).
//!
//! Invariant: a decision begun after a commit to either was acknowledged on this node sees it. The apply listener
//! and the shard that acknowledges raise `required`; whoever asks next loads.

use crate::load::load_state;
use arc_swap::ArcSwap;
use okno_domain::{
    catalogue::Catalogue,
    directory::Directory,
    entity::{Entity, EntityRef},
    registry::{Kind, Registered},
};
use okno_storage::{error::StorageError, state::StateReader};
use parking_lot::Mutex;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// Both as of one applied index.
#[derive(Debug, Clone)]
pub struct World {
    /// Log index up to which both are known to be current.
    pub index: u64,
    pub catalogue: Arc<Catalogue>,
    pub directory: Arc<Directory>,
}

/// True for kinds whose entities are part of the [`World`].
pub fn is_world(kind: &str) -> bool {
    kind == Kind::Catalogue.name() || kind == Kind::Directory.name()
}

/// The current world and when it has to be loaded again.
pub struct Worlds {
    current: ArcSwap<World>,
    required: AtomicU64,
    /// `None` in tests of pure parts, whose world does not change.
    reader: Option<StateReader>,
    /// The level of a world without a reader.
    fixed_level: u32,
    loading: Mutex<()>,
}

impl Worlds {
    /// Loads the world as applied.
    pub fn open(reader: StateReader) -> Result<Self, StorageError> {
        let world = load(&reader)?;
        Ok(Self {
            required: AtomicU64::new(world.index),
            current: ArcSwap::from_pointee(world),
            reader: Some(reader),
            fixed_level: 0,
            loading: Mutex::new(()),
        })
    }

    /// A world that stays as it is, at a feature level.
    pub fn fixed(catalogue: Catalogue, directory: Directory, level: u32) -> Self {
        Self {
            current: ArcSwap::from_pointee(World {
                index: 0,
                catalogue: Arc::new(catalogue),
                directory: Arc::new(directory),
            }),
            required: AtomicU64::new(0),
            reader: None,
            fixed_level: level,
            loading: Mutex::new(()),
        }
    }

    /// The replicated feature level: in which form what is decided may be written (rule 9).
    pub fn level(&self) -> u32 {
        self.reader.as_ref().map_or(self.fixed_level, StateReader::level)
    }

    /// From now on nobody is given a world older than `index`.
    pub fn require(&self, index: u64) {
        self.required.fetch_max(index, Ordering::AcqRel);
    }

    /// As [`Worlds::current`] for readers; what was last read when storage cannot be read any more.
    pub fn last(&self) -> Arc<World> {
        self.current().unwrap_or_else(|error| {
            tracing::error!(%error, "catalogue and directory cannot be loaded");
            self.current.load_full()
        })
    }

    /// The world, loaded again if one of its entities moved. A few milliseconds after a catalogue load, else nothing.
    /// An error: nothing may be decided here, because an older world would refuse what is right (rule 12).
    pub fn current(&self) -> Result<Arc<World>, StorageError> {
        let world = self.current.load();
        let required = self.required.load(Ordering::Acquire);
        let Some(reader) = self.reader.as_ref().filter(|_| world.index < required) else {
            return Ok(Arc::clone(&world));
        };
        let _one_at_a_time = self.loading.lock();
        let world = self.current.load_full();
        if world.index >= required {
            return Ok(world);
        }
        let mut fresh = load(reader)?;
        // A view opened now has applied `required`, whatever the mark of an idle batch says.
        fresh.index = fresh.index.max(required);
        let fresh = Arc::new(fresh);
        self.current.store(Arc::clone(&fresh));
        Ok(fresh)
    }
}

fn load(reader: &StateReader) -> Result<World, StorageError> {
    let view = reader.view();
    let index = view.mark()?.index;
    Ok(World {
        index,
        catalogue: Arc::new(one::<Catalogue>(&view, okno_domain::catalogue::ENTITY_ID)?),
        directory: Arc::new(one::<Directory>(&view, okno_domain::directory::ENTITY_ID)?),
    })
}

fn one<E: Registered>(view: &okno_storage::state::StateView, id: &str) -> Result<E, StorageError> {
    let this = EntityRef { kind: E::KIND, id: id.to_owned() };
    let loaded = load_state::<E>(view, &this)?;
    Ok(loaded.map_or_else(|| <E as Entity>::empty(id), |loaded| loaded.state))
}
