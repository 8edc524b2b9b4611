//! The log archive: applied log entries between backups, so that a restore can reach any moment.
//!
//! One node writes it, to the same target, every few seconds. Entries lie in segments, named by first and last index
//! and the hash chain behind the last, so that a node that cannot read what it encrypted still knows whether the
//! archive is of its own history and where it ends. A segment is written whole, synced and moved to its name; while it
//! is small it is written anew, grown, under a name of the same first index, and then the smaller one is removed.
//!
//! Plain content of a segment: magic (8) · length (4) and JSON of [`Header`] · entries · SHA-256 of everything before.
//! An entry: index (8) · term (8) · kind (1) · replicated time (8) · length (4) · data. Integers are big-endian.
//!
//! Invariant: between `from` of the first segment and `to` of the last, segments follow one another without a gap or
//! the gap is told ([`check`], [`read`]); a writer never leaves one silently: it begins behind a new backup.

use super::{
    BackupError, Phase, Watch,
    crypt::{Identities, Recipients},
    manifest::Manifest,
    objects::{self, Course},
    target::{Folder, Held, make_folder, names, put_in_place, remove},
};
use okno_storage::{
    error::StorageError,
    log::{EntryKind, LogEntry},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File},
    io::{Read, Write},
    path::PathBuf,
    time::{Duration, Instant},
};
use uuid::Uuid;

const MAGIC: &[u8; 8] = b"OKNOSEG1";
const FORMAT: u32 = 1;
/// A segment this large is left alone, and the next one begins: what a crash or a growing rewrites stays small.
pub const SEGMENT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// And so is one this old, so that damage to one file costs no more than this.
pub const SEGMENT_AGE_MAX: Duration = Duration::from_secs(300);
/// Entries asked for at a time.
const ENTRIES: u64 = 1_024;
const ENTRIES_BYTES: usize = 1024 * 1024;
/// A sealed or damaged segment larger than this is not read into memory. An entry is far smaller than a segment.
const FILE_BYTES_MAX: u64 = 2 * SEGMENT_BYTES_MAX as u64 + 1024 * 1024;
const ENTRY_PREFIX: usize = 29;

/// Where the history stands behind one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    pub index: u64,
    pub chain: [u8; 32],
    /// Replicated time, milliseconds.
    pub time_ms: i64,
}

/// The node's own log and journal.
pub trait LogSource: Send + Sync {
    /// The last applied index.
    fn applied(&self) -> u64;
    /// Applied entries in `[from, to)`: at least one, then until `bytes_max`. Empty: they were cut from the log.
    fn entries(&self, from: u64, to: u64, bytes_max: usize) -> Result<Vec<LogEntry>, StorageError>;
    /// Positions behind the entries after `after`, at most `limit`, contiguous.
    fn positions(&self, after: u64, limit: usize) -> Result<Vec<Position>, StorageError>;
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    pub format: u32,
    pub cluster: Uuid,
    pub generation: u64,
    pub from: u64,
    pub to: u64,
    /// The hash chain before `from` and behind `to`, hexadecimal.
    pub chain_before: String,
    pub chain: String,
    /// Replicated time behind `from` and behind `to`.
    pub first_ms: i64,
    pub last_ms: i64,
}

/// A segment's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    pub from: u64,
    pub to: u64,
    /// The first 16 digits of the chain behind `to`.
    pub chain: String,
    pub sealed: bool,
}

impl Name {
    fn parse(text: &str) -> Option<Self> {
        let (text, sealed) = match text.strip_suffix(".age") {
            Some(text) => (text, true),
            None => (text, false),
        };
        let mut parts = text.strip_suffix(".seg")?.splitn(3, '-');
        let (from, to, chain) = (parts.next()?, parts.next()?, parts.next()?);
        let name = Self { from: from.parse().ok()?, to: to.parse().ok()?, chain: chain.to_owned(), sealed };
        (name.from > 0 && name.from <= name.to && chain.len() == 16).then_some(name)
    }

    pub fn text(&self) -> String {
        let end = if self.sealed { ".age" } else { "" };
        format!("{:020}-{:020}-{}.seg{end}", self.from, self.to, self.chain)
    }
}

/// Generations with an archive, in order.
pub fn generations(folder: &Folder) -> Result<Vec<u64>, BackupError> {
    let mut found: Vec<u64> =
        names(&folder.path().join("archive"))?.iter().filter_map(|name| name.parse().ok()).collect();
    found.sort_unstable();
    Ok(found)
}

/// Segments in order; of several with the same first index the longest.
pub fn segments(folder: &Folder, generation: u64) -> Result<Vec<Name>, BackupError> {
    let mut found: Vec<Name> =
        names(&folder.archive(generation))?.iter().filter_map(|name| Name::parse(name)).collect();
    found.sort();
    let mut out: Vec<Name> = Vec::new();
    for name in found {
        match out.last_mut() {
            Some(last) if last.from == name.from => *last = name,
            _ => out.push(name),
        }
    }
    Ok(out)
}

/// One entry with what restoring needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archived {
    pub entry: LogEntry,
    pub time_ms: i64,
}

/// Where the archive stands after a turn of its writer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// Everything applied when the turn began is archived, up to this index.
    Caught(u64),
    /// There is no backup to begin behind: the first one is due by itself.
    NoBackup,
    /// The entries that should follow are gone from the log: a new backup must come first, and the archive goes on behind
    /// it.
    Gap { archived: u64, detail: String },
    /// This node is behind the archive: it must catch up first.
    Behind { archived: u64 },
}

/// The segment that still grows.
struct Open {
    from: u64,
    before: [u8; 32],
    first_ms: i64,
    last: Position,
    body: Vec<u8>,
    begun: Instant,
    /// Its name on the target, once it has one.
    name: Option<Name>,
    /// Entries since then.
    grown: bool,
}

/// The writer. Holds [`super::target::Work::Archive`] while it lives.
pub struct Archiver {
    folder: Folder,
    generation: u64,
    recipients: Recipients,
    held: Held,
    /// Behind it the next entry belongs; `None` until it was joined to the node's history.
    end: Option<Position>,
    open: Option<Open>,
}

impl Archiver {
    pub fn new(folder: Folder, generation: u64, recipients: Recipients, held: Held) -> Self {
        Self { folder, generation, recipients, held, end: None, open: None }
    }

    /// Archives what was applied since the last turn. After an error nothing in memory is trusted: the next turn looks at
    /// the target again.
    pub fn turn(&mut self, source: &dyn LogSource, watch: &dyn Watch) -> Result<Turn, BackupError> {
        let turn = self.try_turn(source, watch);
        if turn.is_err() {
            self.forget();
        }
        turn
    }

    fn try_turn(&mut self, source: &dyn LogSource, watch: &dyn Watch) -> Result<Turn, BackupError> {
        let applied = source.applied();
        if self.end.is_none()
            && let Some(turn) = self.join(source, applied)?
        {
            return Ok(turn);
        }
        let Some(mut end) = self.end else { return Ok(Turn::Caught(applied)) };
        while end.index < applied {
            watch.step("entries")?;
            let to = applied.min(end.index + ENTRIES);
            let entries = source.entries(end.index + 1, to + 1, ENTRIES_BYTES)?;
            let positions = source.positions(end.index, entries.len())?;
            if entries.first().is_none_or(|e| e.index != end.index + 1) || positions.len() != entries.len() {
                self.write(watch)?;
                self.forget();
                let detail = format!("entry {} was cut from the log before it was archived", end.index + 1);
                return Ok(Turn::Gap { archived: end.index, detail });
            }
            for (entry, position) in entries.iter().zip(positions) {
                if entry.index != position.index {
                    return Err(BackupError::damaged("journal", format!("row {} is missing", entry.index)));
                }
                self.push(end, entry, position);
                end = position;
            }
            if self.open.as_ref().is_some_and(|open| open.body.len() >= SEGMENT_BYTES_MAX) {
                self.write(watch)?;
                self.open = None;
            }
        }
        self.write(watch)?;
        self.end = Some(end);
        if self.open.as_ref().is_some_and(|open| open.begun.elapsed() >= SEGMENT_AGE_MAX) {
            self.open = None;
        }
        Ok(Turn::Caught(end.index))
    }

    /// Begins anew with what lies on the target.
    pub fn forget(&mut self) {
        self.end = None;
        self.open = None;
    }

    /// Finds where to go on: behind the last segment; where there is none, or the entries that should follow it were cut
    /// from the log, behind the first later backup that the log still goes on from, so that what lies between two backups
    /// can be reached too.
    fn join(&mut self, source: &dyn LogSource, applied: u64) -> Result<Option<Turn>, BackupError> {
        make_folder(&self.folder.archive(self.generation))?;
        self.sweep()?;
        let backups = super::manifest::readable(&self.folder)?;
        let mut backups: Vec<u64> =
            backups.iter().filter(|m| m.generation == self.generation).map(|m| m.index).collect();
        backups.sort_unstable();
        let Some(newest) = backups.last().copied() else { return Ok(Some(Turn::NoBackup)) };
        let last = segments(&self.folder, self.generation)?.pop();
        let archived = last.as_ref().map_or(0, |name| name.to);
        if applied < archived.max(newest) {
            return Ok(Some(Turn::Behind { archived }));
        }
        if let Some(name) = last {
            let position = position_at(source, archived)?;
            if !hex::encode(position.chain).starts_with(&name.chain) {
                return Err(BackupError::damaged(
                    self.folder.archive(self.generation).join(name.text()).display().to_string(),
                    "does not end in this node's history: another cluster writes there, or this node's data are wrong",
                ));
            }
            if archived == applied || has(source, archived + 1)? {
                self.end = Some(position);
                return Ok(None);
            }
            if newest <= archived {
                let detail = format!("entry {} was cut from the log before it was archived", archived + 1);
                return Ok(Some(Turn::Gap { archived, detail }));
            }
        }
        let mut begin = newest;
        for index in backups.into_iter().filter(|index| *index > archived) {
            if index == applied || has(source, index + 1)? {
                begin = index;
                break;
            }
        }
        self.end = Some(position_at(source, begin)?);
        Ok(None)
    }

    /// Removes smaller copies of grown segments that a crash left.
    fn sweep(&self) -> Result<(), BackupError> {
        let path = self.folder.archive(self.generation);
        let kept = segments(&self.folder, self.generation)?;
        for text in names(&path)? {
            if let Some(name) = Name::parse(&text)
                && kept.iter().any(|k| k.from == name.from && k.to > name.to)
            {
                remove(&path.join(text))?;
            }
        }
        Ok(())
    }

    fn push(&mut self, before: Position, entry: &LogEntry, position: Position) {
        let open = self.open.get_or_insert_with(|| Open {
            from: entry.index,
            before: before.chain,
            first_ms: position.time_ms,
            last: position,
            body: Vec::new(),
            begun: Instant::now(),
            name: None,
            grown: false,
        });
        let kind = match entry.kind {
            EntryKind::Normal => 0,
            EntryKind::Configuration => 1,
        };
        open.body.extend_from_slice(&entry.index.to_be_bytes());
        open.body.extend_from_slice(&entry.term.to_be_bytes());
        open.body.push(kind);
        open.body.extend_from_slice(&position.time_ms.to_be_bytes());
        let length = u32::try_from(entry.data.len()).expect("entries are bounded far below 4 GiB");
        open.body.extend_from_slice(&length.to_be_bytes());
        open.body.extend_from_slice(&entry.data);
        open.last = position;
        open.grown = true;
    }

    /// Makes what has grown durable.
    fn write(&mut self, watch: &dyn Watch) -> Result<(), BackupError> {
        let Some(open) = self.open.as_mut().filter(|open| open.grown) else { return Ok(()) };
        let header = Header {
            format: FORMAT,
            cluster: self.folder.cluster,
            generation: self.generation,
            from: open.from,
            to: open.last.index,
            chain_before: hex::encode(open.before),
            chain: hex::encode(open.last.chain),
            first_ms: open.first_ms,
            last_ms: open.last.time_ms,
        };
        let name = Name {
            from: open.from,
            to: open.last.index,
            chain: header.chain[..16].to_owned(),
            sealed: !self.recipients.is_empty(),
        };
        let text = serde_json::to_vec(&header).expect("plain values have a JSON form");
        let length = u32::try_from(text.len()).expect("a header has a few hundred bytes");
        let mut hash = Sha256::new();
        let parts: [&[u8]; 4] = [MAGIC, &length.to_be_bytes(), &text, &open.body];
        watch.step("segment")?;
        let temporary = self.held.temporary();
        let io = BackupError::io(&temporary);
        let mut seal = self.recipients.seal(File::create(&temporary).map_err(&io)?).map_err(&io)?;
        for part in parts {
            hash.update(part);
            seal.write_all(part).map_err(&io)?;
        }
        seal.write_all(&hash.finalize()).map_err(&io)?;
        seal.finish().and_then(|file| file.sync_all()).map_err(&io)?;
        watch.step("segment written")?;
        let path = self.folder.archive(self.generation);
        put_in_place(&temporary, &path.join(name.text()))?;
        watch.step("segment in place")?;
        if let Some(smaller) = open.name.replace(name) {
            remove(&path.join(smaller.text()))?;
        }
        open.grown = false;
        Ok(())
    }
}

/// The log still has this entry.
fn has(source: &dyn LogSource, index: u64) -> Result<bool, BackupError> {
    let found = source.entries(index, index + 1, 1)?;
    Ok(found.first().is_some_and(|entry| entry.index == index))
}

fn position_at(source: &dyn LogSource, index: u64) -> Result<Position, BackupError> {
    let found = source.positions(index.saturating_sub(1), 1)?;
    match found.first() {
        Some(position) if position.index == index => Ok(*position),
        _ => Err(BackupError::damaged("journal", format!("row {index} is missing"))),
    }
}

/// Reads one segment whole and checks it.
fn load(
    folder: &Folder,
    generation: u64,
    name: &Name,
    identities: &Identities,
) -> Result<(Header, Vec<u8>), BackupError> {
    let path: PathBuf = folder.archive(generation).join(name.text());
    let place = path.display().to_string();
    let damaged = |detail: &str| BackupError::damaged(&place, detail);
    let size = path.metadata().map_err(BackupError::io(&path))?.len();
    if size > FILE_BYTES_MAX {
        return Err(damaged("larger than any segment"));
    }
    let file = fs::read(&path).map_err(BackupError::io(&path))?;
    let mut bytes = Vec::new();
    identities
        .open(&place, name.sealed, &file[..])?
        .read_to_end(&mut bytes)
        .map_err(|error| damaged(&format!("cannot be decrypted: {error}")))?;
    let Some(body) = bytes.len().checked_sub(32).filter(|body| *body >= MAGIC.len() + 4) else {
        return Err(damaged("cut short"));
    };
    if Sha256::digest(&bytes[..body])[..] != bytes[body..] {
        return Err(damaged("does not match its SHA-256"));
    }
    if bytes[..MAGIC.len()] != MAGIC[..] {
        return Err(damaged("no segment begins here"));
    }
    let rest = &bytes[MAGIC.len()..body];
    let (length, rest) = rest.split_first_chunk::<4>().ok_or_else(|| damaged("cut short"))?;
    let text = rest.get(..u32::from_be_bytes(*length) as usize).ok_or_else(|| damaged("cut short"))?;
    #[derive(Deserialize)]
    struct Versioned {
        format: u32,
    }
    let bad = |error: serde_json::Error| damaged(&error.to_string());
    let Versioned { format } = serde_json::from_slice(text).map_err(bad)?;
    if format > FORMAT {
        return Err(BackupError::Newer { place: place.clone(), found: format, known: FORMAT });
    }
    let header: Header = serde_json::from_slice(text).map_err(bad)?;
    if header.cluster != folder.cluster || header.generation != generation {
        return Err(damaged(&format!("of cluster {}, generation {}", header.cluster, header.generation)));
    }
    if (header.from, header.to) != (name.from, name.to) || !header.chain.starts_with(&name.chain) {
        return Err(damaged("says another place than its name"));
    }
    Ok((header, rest[text.len()..].to_vec()))
}

fn parse(header: &Header, body: Vec<u8>, place: &str) -> Result<Vec<Archived>, BackupError> {
    let damaged = |detail: &str| BackupError::damaged(place, detail);
    let body = bytes::Bytes::from(body);
    let mut out = Vec::new();
    let mut at = 0;
    let mut next = header.from;
    while at < body.len() {
        let prefix = body.get(at..at + ENTRY_PREFIX).ok_or_else(|| damaged("an entry is cut short"))?;
        let number = |from: usize| prefix[from..from + 8].iter().fold(0_u64, |n, b| n << 8 | u64::from(*b));
        let (index, term, time) = (number(0), number(8), number(17));
        let kind = match prefix[16] {
            0 => EntryKind::Normal,
            1 => EntryKind::Configuration,
            _ => return Err(damaged("an entry of unknown kind")),
        };
        let length = u32::from_be_bytes([prefix[25], prefix[26], prefix[27], prefix[28]]) as usize;
        at += ENTRY_PREFIX;
        if index != next || body.len() - at < length {
            return Err(damaged("its entries do not follow one another"));
        }
        let data = body.slice(at..at + length);
        out.push(Archived { entry: LogEntry { index, term, kind, data }, time_ms: time.cast_signed() });
        at += length;
        next += 1;
    }
    if next != header.to + 1 {
        return Err(damaged("its last entries are missing"));
    }
    Ok(out)
}

/// Reads every segment of a generation. One that is not encrypted is checked against its own sum; of one that is, that it
/// can be read. Returns how many there are and what is damaged.
pub fn scrub(
    folder: &Folder,
    generation: u64,
    course: &mut Course<'_>,
) -> Result<(u64, Vec<String>), BackupError> {
    let (mut count, mut damaged) = (0, Vec::new());
    for name in segments(folder, generation)? {
        let place = folder.archive(generation).join(name.text());
        let read = objects::read_stored(&place, course)?;
        // Pruned, or grown and written under another name since it was listed.
        if !place.exists() {
            continue;
        }
        count += 1;
        let checked = match read {
            Ok(_) if name.sealed => Ok(()),
            Ok(_) => load(folder, generation, &name, &Identities::default()).map(|_| ()),
            Err(detail) => Err(BackupError::damaged(place.display().to_string(), detail)),
        };
        match checked {
            Ok(()) | Err(BackupError::Newer { .. }) => {}
            Err(BackupError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
            Err(error @ BackupError::Damaged { .. }) => damaged.push(error.to_string()),
            Err(error) => return Err(error),
        }
    }
    Ok((count, damaged))
}

/// Reads entries behind `(after, chain)`, segment by segment, as far as they go without a gap; `take` gets each
/// segment's entries and returns whether more are wanted. Returns the last index given.
pub fn read(
    folder: &Folder,
    generation: u64,
    after: (u64, &str),
    identities: &Identities,
    watch: &dyn Watch,
    mut take: impl FnMut(Header, Vec<Archived>) -> Result<bool, BackupError>,
) -> Result<u64, BackupError> {
    let (mut at, mut chain) = (after.0, after.1.to_owned());
    let names = segments(folder, generation)?;
    let last = names.last().map_or(0, |name| name.to);
    for name in names.iter().filter(|name| name.to > after.0) {
        if name.from > at + 1 {
            // What follows is behind a later backup.
            tracing::debug!(at, next = name.from, "the archive has a gap here");
            break;
        }
        watch.step("segment")?;
        watch.progress(Phase::Replay, at, last);
        let (header, body) = load(folder, generation, name, identities)?;
        let place = name.text();
        if header.from == at + 1 && header.chain_before != chain {
            return Err(BackupError::damaged(place, "the hash chain before it is not the one it continues"));
        }
        let entries = parse(&header, body, &place)?;
        (at, chain) = (header.to, header.chain.clone());
        if !take(header, entries)? {
            break;
        }
    }
    Ok(at)
}

/// Checks every archived segment behind a backup. Returns the index it can be restored to.
pub fn check(
    folder: &Folder,
    manifest: &Manifest,
    identities: &Identities,
    watch: &dyn Watch,
) -> Result<u64, BackupError> {
    read(folder, manifest.generation, (manifest.index, &manifest.chain), identities, watch, |_, _| Ok(true))
}
