//! From rows to entities: how an activation begins and how queries read.

use crate::{
    cell::{AnyCell, Cell, CellStart},
    codec::{self, CodecError, TIMERS_PART, What},
    sys::{SysCell, SysStart},
    work::{entity_key, entity_ref},
};
use okno_domain::{
    entity::{Entity, EntityRef},
    registry::Registered,
    with_kind,
};
use okno_storage::{
    commit::{CommitId, EntityKey, Record, TimerKey},
    error::StorageError,
    state::{StateReader, StateView, StoredEntity},
};

/// An entity with where its history stands.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadedState<E> {
    pub state: E,
    pub head: CommitId,
    /// Log index of its last commit.
    pub head_index: u64,
    pub timers: Vec<TimerKey>,
}

/// Loads an entity of a known kind. `None`: it has no commits.
pub fn load_state<E: Registered>(
    view: &StateView,
    this: &EntityRef,
) -> Result<Option<LoadedState<E>>, StorageError> {
    let Ok(key) = entity_key(this) else { return Ok(None) };
    let Some(stored) = view.entity(&key)? else { return Ok(None) };
    from_stored::<E>(&this.id, &stored).map(Some).map_err(|error| unreadable(&key, &error))
}

/// An entity of which only the parts are loaded whose names are in the stretches `[from, to)` that `which` gives, with the
/// log index of its last commit: for readers that need no more, and know what they must not ask then. `None`: it has no
/// commits.
pub fn load_share<E: Registered>(
    view: &StateView,
    this: &EntityRef,
    which: impl FnOnce(&E::Root) -> Vec<(String, String)>,
) -> Result<Option<(E, u64)>, StorageError> {
    let Ok(key) = entity_key(this) else { return Ok(None) };
    let Some((head_index, record)) = view.root(&key)? else { return Ok(None) };
    let root = codec::decode::<E::Root>(What::Root(E::KIND), &record).map_err(|e| unreadable(&key, &e))?;
    let mut parts = Vec::new();
    for (from, to) in which(&root) {
        for (name, record) in view.parts_between(&key, from.as_bytes(), to.as_bytes())? {
            parts.push(part::<E>(&name, &record).map_err(|error| unreadable(&key, &error))?);
        }
    }
    Ok(Some((E::load(&this.id, root, parts), head_index)))
}

fn part<E: Registered>(name: &[u8], record: &Record) -> Result<(String, E::Part), CodecError> {
    let name = std::str::from_utf8(name).map_err(|error| CodecError::Malformed {
        kind: What::Part(E::KIND).number(),
        detail: format!("name of a part: {error}"),
    })?;
    Ok((name.to_owned(), codec::decode::<E::Part>(What::Part(E::KIND), record)?))
}

fn from_stored<E: Registered>(id: &str, stored: &StoredEntity) -> Result<LoadedState<E>, CodecError> {
    let root = codec::decode::<E::Root>(What::Root(E::KIND), &stored.root)?;
    let mut timers = Vec::new();
    let mut parts = Vec::with_capacity(stored.parts.len());
    for (name, record) in &stored.parts {
        if name.as_ref() == TIMERS_PART {
            timers = codec::decode_timers(&stored.key, record)?;
            continue;
        }
        parts.push(part::<E>(name, record)?);
    }
    Ok(LoadedState {
        state: E::load(id, root, parts),
        head: stored.head,
        head_index: stored.head_index,
        timers,
    })
}

/// A record that storage vouches for and this binary cannot read.
pub fn unreadable(key: &EntityKey, error: &CodecError) -> StorageError {
    match error {
        CodecError::Newer { kind, version } => StorageError::Newer { kind: *kind, version: *version },
        CodecError::WrongType { .. } | CodecError::Malformed { .. } => {
            StorageError::Corrupt { what: "entity", detail: format!("{key}: {error}") }
        }
    }
}

/// What an activation begins with.
pub enum Loaded {
    Cell(Box<dyn AnyCell>),
    /// Closed until an operator releases it, for this reason (rule 13).
    Quarantined(String),
    /// There is no such kind in this binary, or its rows cannot be read: the entity's own trouble.
    Unusable(String),
}

/// Makes cells. Production reads storage; tests put entities of their own in the way.
pub trait CellFactory: Send + Sync + 'static {
    /// `Err`: storage itself failed, which ends the process (rule 12).
    fn load(&self, key: &EntityKey, term: u64) -> Result<Loaded, StorageError>;
}

/// The factory over the applied state.
pub struct StorageCells {
    reader: StateReader,
}

impl StorageCells {
    pub fn new(reader: StateReader) -> Self {
        Self { reader }
    }
}

impl CellFactory for StorageCells {
    fn load(&self, key: &EntityKey, term: u64) -> Result<Loaded, StorageError> {
        let view = self.reader.view();
        if key.is_system() {
            return Ok(match SysCell::load(SysStart::read(&view, key.clone(), term)?) {
                Ok(cell) => Loaded::Cell(Box::new(cell)),
                Err(error) => Loaded::Unusable(error.to_string()),
            });
        }
        if let Some(reason) = view.quarantined(key)? {
            return Ok(Loaded::Quarantined(reason));
        }
        let Some(this) = entity_ref(key) else {
            return Ok(Loaded::Unusable(format!("no entity kind is called {:?}", key.kind())));
        };
        Ok(with_kind!(this.kind, E => match cell_of::<E>(&view, this, term)? {
            Ok(cell) => Loaded::Cell(Box::new(cell)),
            Err(reason) => Loaded::Unusable(reason),
        }))
    }
}

/// The cell of an entity as it stands in a view. The inner `Err` is the entity's own trouble.
pub fn cell_of<E: Registered>(
    view: &StateView,
    this: EntityRef,
    term: u64,
) -> Result<Result<Cell<E>, String>, StorageError> {
    let Ok(key) = entity_key(&this) else { return Ok(Err("not an entity key".into())) };
    let floor_ms = view.mark()?.time_ms;
    let stored = view.entity(&key)?;
    // `load` is the domain's code over stored bytes: its panic is the entity's trouble like any other.
    let loaded = std::panic::catch_unwind(|| {
        stored.as_ref().map(|stored| from_stored::<E>(&this.id, stored)).transpose()
    });
    let (state, head, timers) = match loaded {
        Ok(Ok(Some(loaded))) => (loaded.state, loaded.head, loaded.timers),
        Ok(Ok(None)) => (<E as Entity>::empty(&this.id), CommitId::NONE, Vec::new()),
        Ok(Err(error)) => return Ok(Err(error.to_string())),
        Err(panic) => return Ok(Err(format!("panic while loading: {}", crate::cell::panic_text(&*panic)))),
    };
    Ok(Ok(Cell::new(CellStart { this, key, term, state, timers, head, floor_ms })))
}
