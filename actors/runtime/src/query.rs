//! Reads of the applied state for the node's services. Plain functions over one point-in-time view each; which
//! consistency a read has is decided before it is called (rule 16), and every answer says at which index it was
//! true. Several reads that must agree go through one [`Snapshot`].

use crate::{
    codec::{self, What},
    load::{LoadedState, load_share, load_state, unreadable},
    sys::{OwnEvent, POWER_ENTITY, PowerNote, QUARANTINE_ENTITY, QUARANTINES_MAX, SysEvent, WITH_EVENTS},
    work::{entity_key, entity_ref},
    world::{World, Worlds},
};
use bytes::Bytes;
use jiff::civil::Date;
use okno_domain::{
    case::{Case, State},
    entity::{Entity, EntityRef, Origin, Principal, Row},
    exchange::BodyRef,
    queue::{Queue, Share},
    registry::{AnyEvent, Kind, Registered},
    rows::{self, ApplicantKey, Table},
    with_kind,
};
use okno_storage::{
    commit::{CommitId, EntityKey, Message, TimerKey},
    error::StorageError,
    state::{AppliedSlice, JournalEntry, StateReader, StateView},
};
use std::sync::Arc;
use tokio::sync::broadcast;
use uuid::{NoContext, Timestamp, Uuid};

/// Rows a list looks at for one page at most, so that a filter that matches little cannot read everything: the
/// page then comes back short, with a place to go on from.
const SCAN_ROWS_MAX: usize = 2_048;
/// Quarantines and releases looked through for the time of one: as many as [`QUARANTINES_MAX`] entities make with one
/// each, in pages that bound memory.
const QUARANTINE_PAGES_MAX: usize = QUARANTINES_MAX / QUARANTINE_PAGE;
const QUARANTINE_PAGE: usize = 1_024;

/// Which cases a list holds, each in the order of one index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CaseFilter {
    /// By one of the applicants' identifiers (R-C6), oldest first.
    Applicant(ApplicantKey),
    /// Oldest first.
    Office(String),
    /// Without an office: office by office; within one, oldest first.
    State { state: State, office: Option<String> },
    /// Running deadlines on days from `from` to `to`, both included, the earliest first (R-C2).
    Deadline { from: Date, to: Date, office: Option<String> },
}

/// A place in a list: behind this row.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ListCursor {
    pub key: Vec<u8>,
    pub entity: String,
}

/// Something read, and how current it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Read<T> {
    pub value: T,
    /// Log index of the entity's last commit.
    pub head_index: u64,
    /// Everything up to this index was applied when it was read.
    pub applied_index: u64,
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct CasePage {
    pub cases: Vec<Read<Case>>,
    /// `None`: the list ends here.
    pub next: Option<ListCursor>,
    pub applied_index: u64,
}

/// One commit of an entity's history.
#[derive(Debug, Clone, PartialEq)]
pub struct HistoryEntry {
    pub index: u64,
    pub time_ms: i64,
    pub commit: CommitId,
    pub origin: Origin,
    pub events: Vec<AnyEvent>,
}

/// One thing that the cluster did by itself or was told to do, and that the journal keeps.
#[derive(Debug, Clone, PartialEq)]
pub struct OwnHistoryEntry {
    pub index: u64,
    pub time_ms: i64,
    pub origin: Origin,
    pub events: Vec<OwnEvent>,
}

/// One applied log entry that moved an entity, for watchers.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    pub index: u64,
    pub time_ms: i64,
    /// Absent for entities of the cluster itself.
    pub entity: Option<EntityRef>,
    pub key: EntityKey,
    pub origin: Origin,
    pub events: Vec<AnyEvent>,
}

/// A stretch of the journal.
#[derive(Debug, Clone, PartialEq)]
pub struct Changes {
    pub changes: Vec<Change>,
    /// The stretch covers everything up to this index.
    pub through: u64,
}

/// What can be said of any entity (`oknoctl entity show`).
#[derive(Debug, Clone, PartialEq)]
pub struct EntityInfo {
    pub key: EntityKey,
    /// Absent: it has no commits.
    pub head: Option<(CommitId, u64)>,
    pub parts: usize,
    /// Bytes of its root and parts.
    pub bytes: usize,
    pub timers: Vec<TimerKey>,
    /// Reason of its quarantine.
    pub quarantine: Option<String>,
    /// Replicated time at which the quarantine began.
    pub quarantined_ms: Option<i64>,
    /// Messages waiting for it, at most 100.
    pub waiting: Vec<Message>,
    pub applied_index: u64,
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Query {
    reader: StateReader,
    worlds: Arc<Worlds>,
    watchers: broadcast::Sender<Arc<AppliedSlice>>,
}

impl Query {
    pub(crate) fn new(
        reader: StateReader,
        worlds: Arc<Worlds>,
        watchers: broadcast::Sender<Arc<AppliedSlice>>,
    ) -> Self {
        Self { reader, worlds, watchers }
    }

    /// Applied index and replicated time.
    pub fn applied(&self) -> (u64, i64) {
        self.reader.applied()
    }

    /// An id for a call of this node's own, made now by replicated time: a machine's clock that is wrong cannot put it outside
    /// of what the cluster takes (rule 6).
    pub fn request_id(&self) -> Uuid {
        let now_ms = u64::try_from(self.applied().1).unwrap_or(0);
        let nanos = u32::try_from(now_ms % 1_000).unwrap_or(0) * 1_000_000;
        Uuid::new_v7(Timestamp::from_unix(NoContext, now_ms / 1_000, nanos))
    }

    /// Slices as they apply on this node. A receiver that lags goes on with [`Query::changes`].
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<AppliedSlice>> {
        self.watchers.subscribe()
    }

    /// Catalogue and directory as applied.
    pub fn world(&self) -> Arc<World> {
        self.worlds.last()
    }

    /// A consistent view of this moment. It pins resources: hold it briefly.
    pub fn snapshot(&self) -> Result<Snapshot, StorageError> {
        let view = self.reader.view();
        let mark = view.mark()?;
        Ok(Snapshot { view, applied_index: mark.index, time_ms: mark.time_ms })
    }

    pub fn case(&self, id: &str) -> Result<Option<Read<Case>>, StorageError> {
        self.snapshot()?.entity(id)
    }

    /// The queue of an office, as far as this share of it goes.
    pub fn queue(&self, office: &str, share: Share) -> Result<Option<Read<Queue>>, StorageError> {
        self.snapshot()?.queue(office, share)
    }

    pub fn list_cases(
        &self,
        filter: &CaseFilter,
        after: Option<&ListCursor>,
        limit: usize,
    ) -> Result<CasePage, StorageError> {
        self.snapshot()?.list_cases(filter, after, limit)
    }

    /// History of an entity behind log index `after`, oldest first.
    pub fn history(
        &self,
        entity: &EntityRef,
        after: u64,
        limit: usize,
    ) -> Result<Vec<HistoryEntry>, StorageError> {
        self.snapshot()?.history(entity, after, limit)
    }

    /// What the journal keeps of the cluster's own entities before log index `before`, newest first.
    pub fn own_history(&self, before: u64, limit: usize) -> Result<Vec<OwnHistoryEntry>, StorageError> {
        self.snapshot()?.own_history(before, limit)
    }

    /// The last note on power; none: there never was one, and all is well.
    pub fn power_note(&self) -> Result<Option<PowerNote>, StorageError> {
        let key = own_key(POWER_ENTITY);
        let Some(row) = self.snapshot()?.view.last_of(&key)? else { return Ok(None) };
        let Some(record) = row.events.last() else { return Ok(None) };
        match OwnEvent::decode(record).map_err(|error| unreadable(&key, &error))? {
            OwnEvent::Power(note) => Ok(Some(note)),
            OwnEvent::System(_) => Ok(None),
        }
    }

    /// The journal behind log index `after`; looks at `limit` entries.
    pub fn changes(&self, after: u64, limit: usize) -> Result<Changes, StorageError> {
        self.snapshot()?.changes(after, limit)
    }

    pub fn entity_info(&self, key: &EntityKey) -> Result<EntityInfo, StorageError> {
        self.snapshot()?.entity_info(key)
    }

    /// Quarantined entities and why.
    pub fn quarantines(&self, limit: usize) -> Result<Vec<(EntityKey, String)>, StorageError> {
        self.snapshot()?.view.quarantines(limit)
    }

    /// How many messages were buried, at most `limit`.
    pub fn dead_letters(&self, limit: usize) -> Result<usize, StorageError> {
        Ok(self.snapshot()?.view.dead_letters(None, limit)?.len())
    }
}

/// Reads that agree with each other.
pub struct Snapshot {
    pub(crate) view: StateView,
    pub applied_index: u64,
    /// Replicated time.
    pub time_ms: i64,
}

impl Snapshot {
    /// A body as it was kept, proven by its SHA-256 against the row's and the reference's (R-I2). `None`: it is not there,
    /// or no longer.
    pub fn body(&self, body: &BodyRef) -> Result<Option<Bytes>, StorageError> {
        let Ok(holder) = entity_key(&body.holder) else { return Ok(None) };
        let Row { table, key } = rows::body(body.number);
        let Some(record) = self.view.row(table.number(), &key, &holder)?.flatten() else { return Ok(None) };
        let bytes = codec::kept(&record).map_err(|error| unreadable(&holder, &error))?;
        match body.prove(&bytes) {
            Ok(()) => Ok(Some(bytes)),
            Err(disproved) => Err(StorageError::Corrupt { what: "body", detail: disproved.to_string() }),
        }
    }

    /// An entity by its id within its kind.
    pub fn entity<E: Registered>(&self, id: &str) -> Result<Option<Read<E>>, StorageError> {
        let this = EntityRef { kind: E::KIND, id: id.to_owned() };
        let loaded = load_state::<E>(&self.view, &this)?;
        Ok(loaded.map(|LoadedState { state, head_index, .. }| Read {
            value: state,
            head_index,
            applied_index: self.applied_index,
        }))
    }

    /// The queue of an office, as far as this share of it goes.
    pub fn queue(&self, office: &str, share: Share) -> Result<Option<Read<Queue>>, StorageError> {
        let this = EntityRef { kind: Kind::Queue, id: office.to_owned() };
        let loaded = load_share::<Queue>(&self.view, &this, |root| share.stretches(root))?;
        Ok(loaded.map(|(value, head_index)| Read { value, head_index, applied_index: self.applied_index }))
    }

    pub fn list_cases(
        &self,
        filter: &CaseFilter,
        after: Option<&ListCursor>,
        limit: usize,
    ) -> Result<CasePage, StorageError> {
        let (table, from, to) = range(filter);
        let mut cases = Vec::new();
        let mut place =
            after.and_then(|after| Some((after.key.clone(), EntityKey::parse(&after.entity).ok()?)));
        let mut seen = 0;
        loop {
            let want = (limit - cases.len()).min(SCAN_ROWS_MAX - seen);
            if want == 0 {
                break;
            }
            let behind = place.as_ref().map(|(key, entity)| (key.as_slice(), entity));
            let rows = self.view.rows(table.number(), &from, &to, behind, want)?;
            let ended = rows.len() < want;
            seen += rows.len();
            for (key, entity) in rows {
                if matches(filter, &key)
                    && let Some(case) = self.entity::<Case>(entity.id())?
                {
                    cases.push(case);
                }
                place = Some((key.to_vec(), entity));
            }
            if ended {
                return Ok(CasePage { cases, next: None, applied_index: self.applied_index });
            }
        }
        let next = place.map(|(key, entity)| ListCursor { key, entity: entity.to_string() });
        Ok(CasePage { cases, next, applied_index: self.applied_index })
    }

    pub fn history(
        &self,
        entity: &EntityRef,
        after: u64,
        limit: usize,
    ) -> Result<Vec<HistoryEntry>, StorageError> {
        let Ok(key) = entity_key(entity) else { return Ok(Vec::new()) };
        let rows = self.view.history(&key, after, limit)?;
        rows.into_iter()
            .map(|row| {
                Ok(HistoryEntry {
                    index: row.index,
                    time_ms: row.time_ms,
                    commit: row.commit,
                    origin: origin(&row),
                    events: events(entity.kind, &key, &row)?,
                })
            })
            .collect()
    }

    pub fn own_history(&self, before: u64, limit: usize) -> Result<Vec<OwnHistoryEntry>, StorageError> {
        let mut rows = Vec::new();
        for name in WITH_EVENTS {
            let key = own_key(name);
            for row in self.view.recent(&key, before, limit)? {
                let events: Result<Vec<_>, _> = row.events.iter().map(OwnEvent::decode).collect();
                let events = events.map_err(|error| unreadable(&key, &error))?;
                rows.push(OwnHistoryEntry {
                    index: row.index,
                    time_ms: row.time_ms,
                    origin: origin(&row),
                    events,
                });
            }
        }
        rows.sort_unstable_by_key(|row| std::cmp::Reverse(row.index));
        rows.truncate(limit);
        Ok(rows)
    }

    pub fn changes(&self, after: u64, limit: usize) -> Result<Changes, StorageError> {
        let rows = self.view.journal(after, limit)?;
        let through = rows.last().map_or(after.max(self.applied_index), |row| row.index);
        let mut changes = Vec::new();
        for row in rows {
            let Some(key) = row.entity.clone().filter(|_| !row.events.is_empty()) else { continue };
            let entity = entity_ref(&key);
            let events = match &entity {
                Some(entity) => events(entity.kind, &key, &row)?,
                None => Vec::new(),
            };
            changes.push(Change {
                index: row.index,
                time_ms: row.time_ms,
                entity,
                key,
                origin: origin(&row),
                events,
            });
        }
        Ok(Changes { changes, through })
    }

    pub fn entity_info(&self, key: &EntityKey) -> Result<EntityInfo, StorageError> {
        let stored = self.view.entity(key)?;
        let mut info = EntityInfo {
            key: key.clone(),
            head: None,
            parts: 0,
            bytes: 0,
            timers: Vec::new(),
            quarantine: self.view.quarantined(key)?,
            quarantined_ms: None,
            waiting: self.view.outbox_of(key, 100)?,
            applied_index: self.applied_index,
        };
        if info.quarantine.is_some() {
            info.quarantined_ms = self.quarantined_ms(key)?;
        }
        if let Some(stored) = stored {
            info.head = Some((stored.head, stored.head_index));
            info.bytes =
                stored.root.body.len() + stored.parts.iter().map(|(_, part)| part.body.len()).sum::<usize>();
            for (name, record) in &stored.parts {
                if name.as_ref() == codec::TIMERS_PART {
                    info.timers =
                        codec::decode_timers(key, record).map_err(|error| unreadable(key, &error))?;
                } else {
                    info.parts += 1;
                }
            }
        }
        Ok(info)
    }

    /// When an entity was last quarantined. The row that closes it keeps the reason alone; the journal has the time.
    fn quarantined_ms(&self, key: &EntityKey) -> Result<Option<i64>, StorageError> {
        let keeper = own_key(QUARANTINE_ENTITY);
        let (mut after, mut last) = (0, None);
        for _ in 0..QUARANTINE_PAGES_MAX {
            let rows = self.view.history(&keeper, after, QUARANTINE_PAGE)?;
            for row in &rows {
                for record in &row.events {
                    let event: SysEvent = codec::decode(What::SystemEvent, record)
                        .map_err(|error| unreadable(&keeper, &error))?;
                    if matches!(event, SysEvent::Quarantined { entity, .. } if entity == key.as_str()) {
                        last = Some(row.time_ms);
                    }
                }
            }
            match rows.last() {
                Some(row) if rows.len() == QUARANTINE_PAGE => after = row.index,
                _ => return Ok(last),
            }
        }
        // More than anybody looks through for a date: none is better than an old one.
        Ok(None)
    }
}

/// The key of one of the cluster's own entities.
fn own_key(name: &str) -> EntityKey {
    EntityKey::parse(name).expect("names of system entities are well-formed")
}

/// Who was behind a journal row.
fn origin(row: &JournalEntry) -> Origin {
    let (kind, id) = row.principal.split_once('/').unwrap_or(("", &row.principal));
    Origin {
        principal: Principal { kind: kind.to_owned(), id: id.to_owned() },
        workstation: row.workstation.clone(),
    }
}

fn events(kind: Kind, key: &EntityKey, row: &JournalEntry) -> Result<Vec<AnyEvent>, StorageError> {
    with_kind!(kind, E => {
        row.events
            .iter()
            .map(|record| {
                codec::decode::<<E as Entity>::Event>(What::Event(kind), record)
                    .map(<E as Registered>::event_into)
                    .map_err(|error| unreadable(key, &error))
            })
            .collect()
    })
}

/// The index a filter is answered from, and the stretch of it.
fn range(filter: &CaseFilter) -> (Table, Vec<u8>, Vec<u8>) {
    let prefix = |table, from: Vec<u8>| {
        let to = after_prefix(&from);
        (table, from, to)
    };
    match filter {
        CaseFilter::Applicant(key) => prefix(Table::CaseByApplicant, rows::case_by_applicant_prefix(key)),
        CaseFilter::Office(office) => prefix(Table::CaseByOffice, rows::case_by_office_prefix(office)),
        CaseFilter::State { state, office } => {
            prefix(Table::CaseByState, rows::case_by_state_prefix(*state, office.as_deref()))
        }
        CaseFilter::Deadline { from, to, .. } => (
            Table::CaseByDeadline,
            rows::case_by_deadline_from(*from),
            after_prefix(&rows::case_by_deadline_from(*to)),
        ),
    }
}

/// What the range alone does not decide.
fn matches(filter: &CaseFilter, key: &[u8]) -> bool {
    match filter {
        CaseFilter::Deadline { office: Some(office), .. } => {
            rows::case_by_deadline_office(key).is_some_and(|own| own == office)
        }
        CaseFilter::Applicant(_)
        | CaseFilter::Office(_)
        | CaseFilter::State { .. }
        | CaseFilter::Deadline { office: None, .. } => true,
    }
}

/// The first key behind every key that begins with `prefix`.
fn after_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    // Only an empty prefix or one of 0xff bytes comes here; row keys are shorter than this.
    vec![u8::MAX; 64]
}
