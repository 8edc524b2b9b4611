//! The engine over RocksDB.
//!
//! One database, one write-ahead log, eight column families. What the contract of [`crate::engine`] rests on:
//!
//! - *Prefix of the write order.* Recovery is point-in-time: replay stops at the first record that is torn or
//!   rotten. Families are flushed apart (no atomic flush): with several families RocksDB syncs every closed log
//!   file before it installs a flushed table, so no table is ahead of the log that recovery replays; and it refuses
//!   to open if one is. Nothing is written without the log, no files are ingested, none deleted in ranges.
//! - *A synced write.* The batch is written unsynced and the log is synced then, instead of one synced write: the
//!   sync runs outside RocksDB's write queue, so that the apply thread writes on while the raft thread waits for
//!   the disk. The log synced holds the batch, for it was appended before.
//! - *Any error is final.* Errors are passed up; nothing here retries.

use crate::{
    engine::{Batch, BatchOp, Cf, Engine, Read, Sync, Visit},
    error::{ENGINE, StorageError},
};
use bytes::Bytes;
use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB,
    DBCompressionType, DBRecoveryMode, ErrorKind, Options, ReadOptions, Snapshot, WriteBatch, WriteOptions,
    checkpoint::Checkpoint, properties,
};
use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

mod figures;
mod threads;

const MIB: usize = 1024 * 1024;
/// Bloom filter bits per key: about 1 % false finds, so that a new entity or request costs no read.
const BLOOM_BITS: f64 = 10.0;
/// Tables in level 0 before they are merged into the next; far below RocksDB's slow-down trigger of 20.
const L0_TABLES: i32 = 8;
/// Written back to the device in steps of this size, so that a finished table does not hold up a log's sync.
const BYTES_PER_SYNC: u64 = MIB as u64;
/// RocksDB reads and writes every table at the bottom once more, to drop what a snapshot held; of what is written once and in
/// order there is nothing to drop. An option without a setter of its own: seconds.
const NEVER_REWRITTEN: (&str, &str) = ("bottommost_file_compaction_delay", "4294967295");
/// For preparing a copy, of which little is read.
const COPY_CACHE_BYTES: usize = 4 * MIB;
/// RocksDB's own log files kept, and their size.
const INFO_LOGS: usize = 4;
const INFO_LOG_BYTES: usize = 8 * MIB;

/// Bounds of a database's use of memory and disk. The defaults suit three nodes on one small machine.
#[derive(Debug, Clone)]
pub struct RocksOptions {
    /// Blocks, indexes and filters of all families together.
    pub block_cache_bytes: usize,
    /// Memory tables of all families together.
    pub write_buffer_bytes: usize,
    /// The write-ahead log; beyond it the family that holds it up is flushed. Bounds the time of a start too.
    pub max_total_wal_bytes: u64,
    /// Flushes and compactions at a time.
    pub background_jobs: i32,
    pub max_open_files: i32,
}

impl Default for RocksOptions {
    fn default() -> Self {
        Self {
            block_cache_bytes: 64 * MIB,
            write_buffer_bytes: 128 * MIB,
            max_total_wal_bytes: 256 * MIB as u64,
            background_jobs: 2,
            max_open_files: 512,
        }
    }
}

/// A memory table's size by family: what takes a kilobyte a commit gets more. Two tables at most are kept, one
/// being written and one being flushed; the sum over all is bounded by [`RocksOptions::write_buffer_bytes`].
fn write_buffer(cf: Cf) -> usize {
    match cf {
        Cf::Log | Cf::Journal | Cf::Entity => 32 * MIB,
        Cf::Row | Cf::Request => 16 * MIB,
        Cf::Outbox | Cf::Timer => 8 * MIB,
        Cf::Meta => 2 * MIB,
    }
}

fn family_options(cf: Cf, cache: &Cache) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    // A whole filter of a large table is megabytes: once the filters outgrow the cache, each read would fetch and check one.
    table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    table.set_partition_filters(true);
    table.set_pin_top_level_index_and_filter(true);
    table.set_block_size(16 * 1024);
    table.set_format_version(6);
    if matches!(cf, Cf::Entity | Cf::Request | Cf::Row | Cf::Outbox | Cf::Timer) {
        table.set_bloom_filter(BLOOM_BITS, false);
        table.set_whole_key_filtering(true);
    }
    let mut options = Options::default();
    options.set_block_based_table_factory(&table);
    options.set_write_buffer_size(write_buffer(cf));
    options.set_max_write_buffer_number(3);
    options.set_level_compaction_dynamic_level_bytes(true);
    match cf {
        // Written in ascending order: tables do not overlap and are moved down as they are, as long as all levels
        // compress alike. The log is cut before compression could pay; the journal is kept.
        Cf::Log => options.set_compression_type(DBCompressionType::None),
        Cf::Journal => options.set_compression_type(DBCompressionType::Lz4),
        _ => {
            options.set_compression_type(DBCompressionType::None);
            options.set_bottommost_compression_type(DBCompressionType::Lz4);
            // Point reads go through bloom filters, so that more tables at the top cost little and each rewriting
            // of the next level takes in twice as much.
            options.set_level_zero_file_num_compaction_trigger(L0_TABLES);
        }
    }
    if matches!(cf, Cf::Outbox | Cf::Timer) {
        // Queue-like: rows come and go. Tables with many deletions are compacted early, or scans wade through them.
        options.add_compact_on_deletion_collector_factory(4096, 2048, 0.3);
    }
    options
}

fn database_options(options: &RocksOptions) -> Options {
    let mut db = Options::default();
    db.set_paranoid_checks(true);
    db.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    // A log file that was synced and is gone or shorter now is noticed at start.
    db.set_track_and_verify_wals_in_manifest(true);
    db.set_max_total_wal_size(options.max_total_wal_bytes);
    db.set_db_write_buffer_size(options.write_buffer_bytes);
    db.set_max_background_jobs(options.background_jobs);
    db.set_max_subcompactions(1);
    db.set_max_open_files(options.max_open_files);
    db.set_bytes_per_sync(BYTES_PER_SYNC);
    db.set_keep_log_file_num(INFO_LOGS);
    db.set_max_log_file_size(INFO_LOG_BYTES);
    db.set_skip_stats_update_on_db_open(true);
    db
}

/// What a disk that failed says, also where RocksDB calls it corruption because a file could not be looked at.
const DISK_FAILED: &str = "Input/output error";
/// What the operating system says of a file that is gone.
const FILE_GONE: &str = "No such file or directory";

/// Bytes that fail their checksum are damaged data, which a restart does not mend; everything else is final for the
/// process (rule 12).
fn engine_error(error: rocksdb::Error) -> StorageError {
    let corruption = error.kind() == ErrorKind::Corruption;
    let detail = error.into_string();
    if corruption && !detail.contains(DISK_FAILED) {
        return StorageError::Corrupt { what: ENGINE, detail };
    }
    StorageError::Engine(detail)
}

/// Opening names files and column families that must be there: one that is missing is as bad as one that is damaged.
fn open_error(error: rocksdb::Error) -> StorageError {
    let gone = match error.kind() {
        ErrorKind::IOError => error.as_ref().contains(FILE_GONE),
        // "Column families not opened", "Column family not found", "does not exist (create_if_missing is false)".
        ErrorKind::InvalidArgument => true,
        _ => false,
    };
    match engine_error(error) {
        StorageError::Engine(detail) if gone => StorageError::Corrupt { what: ENGINE, detail },
        other => other,
    }
}

/// The families and RocksDB's own "default", which it insists on and which stays empty.
fn descriptors(cache: &Cache) -> impl Iterator<Item = ColumnFamilyDescriptor> {
    let families =
        Cf::ALL.into_iter().map(|cf| ColumnFamilyDescriptor::new(cf.name(), family_options(cf, cache)));
    families.chain([ColumnFamilyDescriptor::new("default", Options::default())])
}

/// How the write-ahead log of a database that is not open ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogTail {
    Whole,
    /// Behind its last good record stands one that is incomplete or damaged, and is not read: a write torn by a power
    /// cut, or rot. Text of RocksDB's.
    Damaged(String),
}

struct Shared {
    db: DB,
    cache: Cache,
    unsynced: WriteOptions,
    path: PathBuf,
    writes: AtomicU64,
    syncs: AtomicU64,
    bytes: AtomicU64,
    /// Last, so that the database is closed before its directory goes.
    doomed: Doomed,
}

/// A directory to be removed when its database is closed, if it is set.
#[derive(Default)]
struct Doomed(OnceLock<PathBuf>);

impl Drop for Doomed {
    fn drop(&mut self) {
        if let Some(path) = self.0.get()
            && let Err(error) = std::fs::remove_dir_all(path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            // Nothing depends on its being gone; the next start removes it.
            tracing::warn!(path = %path.display(), %error, "an old database is not removed");
        }
    }
}

impl Shared {
    /// Families were all opened or `open` had failed; none is ever dropped.
    fn family(&self, cf: Cf) -> &ColumnFamily {
        self.db.cf_handle(cf.name()).expect("every family is opened with the database")
    }
}

/// A RocksDB database; clones share it. It is closed when the last clone and view are gone.
#[derive(Clone)]
pub struct RocksEngine(Arc<Shared>);

impl RocksEngine {
    /// Opens the database in `path`, making it if there is none.
    pub fn open(path: impl AsRef<Path>, options: &RocksOptions) -> Result<Self, StorageError> {
        let path = path.as_ref();
        let io = |at: &Path| {
            let path = at.to_owned();
            move |source| StorageError::Io { path, source }
        };
        std::fs::create_dir_all(path).map_err(io(path))?;
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent).and_then(|dir| dir.sync_all()).map_err(io(parent))?;
        let cache = Cache::new_lru_cache(options.block_cache_bytes);
        let mut database = database_options(options);
        // Only where there is nothing yet: a database that lost column families with a part of its MANIFEST must not be
        // completed with empty ones.
        let new = std::fs::read_dir(path).map_err(io(path))?.next().is_none();
        database.create_if_missing(new);
        database.create_missing_column_families(new);
        let db = DB::open_cf_descriptors(&database, path, descriptors(&cache)).map_err(open_error)?;
        for cf in [Cf::Log, Cf::Journal] {
            let family = db.cf_handle(cf.name()).expect("every family is opened with the database");
            db.set_options_cf(family, &[NEVER_REWRITTEN]).map_err(engine_error)?;
        }
        threads::stand_back();
        Ok(Self::of(db, cache, path))
    }

    /// Opens an existing database for looking at it: nothing of the data is changed, not even by recovery, and every
    /// write fails. The write-ahead log is read into memory.
    pub fn open_read_only(path: impl AsRef<Path>, options: &RocksOptions) -> Result<Self, StorageError> {
        let path = path.as_ref();
        let cache = Cache::new_lru_cache(options.block_cache_bytes);
        let db = open_existing(path, &database_options(options), &cache).map_err(open_error)?;
        Ok(Self::of(db, cache, path))
    }

    /// Looks at how the write-ahead log ends; changes nothing. Point-in-time recovery cannot tell: it takes the damage
    /// for the end.
    pub fn log_tail(path: impl AsRef<Path>, options: &RocksOptions) -> Result<LogTail, StorageError> {
        let mut strict = database_options(options);
        strict.set_wal_recovery_mode(DBRecoveryMode::AbsoluteConsistency);
        let cache = Cache::new_lru_cache(options.block_cache_bytes);
        match open_existing(path.as_ref(), &strict, &cache).map_err(open_error) {
            Ok(_) => Ok(LogTail::Whole),
            Err(StorageError::Corrupt { detail, .. }) => Ok(LogTail::Damaged(detail)),
            Err(error) => Err(error),
        }
    }

    fn of(db: DB, cache: Cache, path: &Path) -> Self {
        let mut unsynced = WriteOptions::default();
        unsynced.set_sync(false);
        Self(Arc::new(Shared {
            db,
            cache,
            unsynced,
            path: path.to_owned(),
            writes: AtomicU64::new(0),
            syncs: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            doomed: Doomed::default(),
        }))
    }

    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// A copy of this moment in `into`, which must not exist while its parent does, on the same file system: tables are
    /// hard links, so that it takes no room at first. Consistent at one applied index, which is read from the copy
    /// ([`crate::state::StateView::mark`]): memory tables are written out and the write-ahead log goes along. When it
    /// returns the copy's directory is on stable storage. The copy is a database like any other: opening it with
    /// [`RocksEngine::open`] changes its files, with [`RocksEngine::open_read_only`] it does not. A copy that was
    /// interrupted stands beside, in `<into>.tmp`.
    pub fn checkpoint(&self, into: impl AsRef<Path>) -> Result<(), StorageError> {
        let into = into.as_ref();
        let io = |at: &Path| {
            let path = at.to_owned();
            move |source| StorageError::Io { path, source }
        };
        Checkpoint::new(&self.0.db).and_then(|copy| copy.create_checkpoint(into)).map_err(engine_error)?;
        // RocksDB syncs what it copied and the new directory; its name is in the parent.
        let parent = into.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent).and_then(|dir| dir.sync_all()).map_err(io(parent))
    }

    /// Its directory is removed once the last user is gone and it is closed.
    pub(crate) fn remove_when_closed(&self) {
        // Set twice, it says the same.
        let _ = self.0.doomed.0.set(self.0.path.clone());
    }

    /// Makes a copy just taken by [`RocksEngine::checkpoint`] one for others: writes the batch that `strip` makes of what
    /// it finds, drops the log whole — its tables are not even sent — and leaves nothing in memory tables. Returns what
    /// `strip` said and the names of the files that make up the copy, ascending; all others are removed.
    pub(crate) fn strip_copy<T, E: From<StorageError>>(
        path: &Path,
        options: &RocksOptions,
        strip: impl FnOnce(&dyn Read) -> Result<(T, Batch), E>,
    ) -> Result<(T, Vec<String>), E> {
        let cache = Cache::new_lru_cache(COPY_CACHE_BYTES);
        // A copy is read once and sent: compacting it would only make links into files of its own.
        let families = Cf::ALL.into_iter().map(|cf| {
            let mut family = family_options(cf, &cache);
            family.set_disable_auto_compactions(true);
            ColumnFamilyDescriptor::new(cf.name(), family)
        });
        let families = families.chain([ColumnFamilyDescriptor::new("default", Options::default())]);
        let db = DB::open_cf_descriptors(&database_options(options), path, families).map_err(open_error)?;
        let copy = Self::of(db, cache.clone(), path);
        let (said, batch) = strip(&copy)?;
        copy.write(batch, Sync::No)?;
        let mut db = Arc::into_inner(copy.0).expect("nobody else holds what was opened here").db;
        db.drop_cf(Cf::Log.name()).map_err(engine_error)?;
        db.create_cf(Cf::Log.name(), &family_options(Cf::Log, &cache)).map_err(engine_error)?;
        for cf in Cf::ALL {
            let family = db.cf_handle(cf.name()).expect("every family was opened or made");
            db.flush_cf(family).map_err(engine_error)?;
        }
        let tables = db.live_files().map_err(engine_error)?;
        drop(db);
        let io = |source| StorageError::Io { path: path.to_owned(), source };
        let current = std::fs::read_to_string(path.join("CURRENT")).map_err(io)?;
        let mut names: Vec<String> =
            tables.iter().map(|t| t.name.trim_start_matches('/').to_owned()).collect();
        names.extend([current.trim_end().to_owned(), "CURRENT".to_owned(), "IDENTITY".to_owned()]);
        for entry in std::fs::read_dir(path).map_err(io)? {
            let entry = entry.map_err(io)?;
            match entry.file_name().into_string() {
                // The write-ahead log: empty, and named in the manifest.
                Ok(name) if name.ends_with(".log") => names.push(name),
                Ok(name) if names.contains(&name) => {}
                _ => std::fs::remove_file(entry.path()).map_err(io)?,
            }
        }
        names.sort();
        names.dedup();
        Ok((said, names))
    }

    /// Writes every memory table out; for tests and before a planned stop (a start then replays no log).
    pub fn flush(&self) -> Result<(), StorageError> {
        Cf::ALL.into_iter().try_for_each(|cf| self.0.db.flush_cf(self.0.family(cf)).map_err(engine_error))
    }
}

fn open_existing(path: &Path, options: &Options, cache: &Cache) -> Result<DB, rocksdb::Error> {
    // A log that is there is read, not refused.
    DB::open_cf_descriptors_read_only(options, path, descriptors(cache), false)
}

fn bounded(from: &[u8], to: &[u8]) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_iterate_lower_bound(from);
    options.set_iterate_upper_bound(to);
    options
}

/// Walks an iterator that is already placed, one way or the other.
fn walk<'a>(
    mut iterator: rocksdb::DBRawIterator<'a>,
    back: bool,
    visit: Visit<'_>,
) -> Result<(), StorageError> {
    if back {
        iterator.seek_to_last();
    } else {
        iterator.seek_to_first();
    }
    while let Some((key, value)) = iterator.item() {
        if visit(key, value).is_break() {
            return Ok(());
        }
        if back {
            iterator.prev();
        } else {
            iterator.next();
        }
    }
    iterator.status().map_err(engine_error)
}

impl Read for RocksEngine {
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        let found = self.0.db.get_cf(self.0.family(cf), key).map_err(engine_error)?;
        Ok(found.map(Bytes::from))
    }
    fn scan(&self, cf: Cf, from: &[u8], to: &[u8], visit: Visit<'_>) -> Result<(), StorageError> {
        if from >= to {
            return Ok(());
        }
        walk(self.0.db.raw_iterator_cf_opt(self.0.family(cf), bounded(from, to)), false, visit)
    }
    fn scan_back(&self, cf: Cf, from: &[u8], to: &[u8], visit: Visit<'_>) -> Result<(), StorageError> {
        if from >= to {
            return Ok(());
        }
        walk(self.0.db.raw_iterator_cf_opt(self.0.family(cf), bounded(from, to)), true, visit)
    }
}

impl Engine for RocksEngine {
    fn write(&self, batch: Batch, sync: Sync) -> Result<(), StorageError> {
        let families = Cf::ALL.map(|cf| self.0.family(cf));
        let mut out = WriteBatch::with_capacity_bytes(batch.bytes + 16 * batch.ops.len() + 64);
        for op in &batch.ops {
            match op {
                BatchOp::Put(cf, key, value) => out.put_cf(families[*cf as usize], key, value),
                BatchOp::Delete(cf, key) => out.delete_cf(families[*cf as usize], key),
                BatchOp::DeleteRange(cf, from, to) if from < to => {
                    out.delete_range_cf(families[*cf as usize], from, to);
                }
                BatchOp::DeleteRange(..) => {}
            }
        }
        self.0.bytes.fetch_add(out.size_in_bytes() as u64, Ordering::Relaxed);
        self.0.writes.fetch_add(1, Ordering::Relaxed);
        self.0.db.write_opt(out, &self.0.unsynced).map_err(engine_error)?;
        if sync == Sync::Yes {
            self.0.db.flush_wal(true).map_err(engine_error)?;
            self.0.syncs.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn view(&self) -> Arc<dyn Read> {
        Arc::new(RocksView::new(self.0.clone()))
    }

    fn stats(&self) -> Vec<(&'static str, u64)> {
        let shared = &*self.0;
        let mut out = vec![
            ("rocksdb_writes", shared.writes.load(Ordering::Relaxed)),
            ("rocksdb_syncs", shared.syncs.load(Ordering::Relaxed)),
            ("rocksdb_written_bytes", shared.bytes.load(Ordering::Relaxed)),
            ("rocksdb_block_cache_bytes", shared.cache.get_usage() as u64),
        ];
        let whole = [
            ("rocksdb_write_stopped", properties::IS_WRITE_STOPPED),
            ("rocksdb_delayed_write_rate", properties::ACTUAL_DELAYED_WRITE_RATE),
            ("rocksdb_background_errors", properties::BACKGROUND_ERRORS),
        ];
        for (name, property) in whole {
            out.push((name, shared.db.property_int_value(property).ok().flatten().unwrap_or(0)));
        }
        let (mut tables, mut pending) = (0, 0);
        for cf in Cf::ALL {
            let family = shared.family(cf);
            let value =
                |property| shared.db.property_int_value_cf(family, property).ok().flatten().unwrap_or(0);
            tables += value(properties::CUR_SIZE_ALL_MEM_TABLES);
            pending += value(properties::ESTIMATE_PENDING_COMPACTION_BYTES);
            let l0 = shared.db.property_int_value_cf(family, properties::num_files_at_level(0));
            out.push((l0_name(cf), l0.ok().flatten().unwrap_or(0)));
        }
        out.push(("rocksdb_memtable_bytes", tables));
        out.push(("rocksdb_pending_compaction_bytes", pending));
        out
    }
}

fn l0_name(cf: Cf) -> &'static str {
    match cf {
        Cf::Log => "rocksdb_l0_files_log",
        Cf::Entity => "rocksdb_l0_files_entity",
        Cf::Row => "rocksdb_l0_files_row",
        Cf::Journal => "rocksdb_l0_files_journal",
        Cf::Outbox => "rocksdb_l0_files_outbox",
        Cf::Timer => "rocksdb_l0_files_timer",
        Cf::Request => "rocksdb_l0_files_request",
        Cf::Meta => "rocksdb_l0_files_meta",
    }
}

/// A snapshot that keeps its database open.
///
/// Invariant: `snapshot` borrows from `shared.db`, which stands at a fixed address behind the `Arc`; fields are
/// dropped in order of declaration, the snapshot first.
struct RocksView {
    snapshot: Snapshot<'static>,
    shared: Arc<Shared>,
}

impl RocksView {
    #[expect(
        unsafe_code,
        reason = "the binding's snapshot borrows the database; owning both needs one lifetime cast"
    )]
    fn new(shared: Arc<Shared>) -> Self {
        let snapshot: Snapshot<'_> = shared.db.snapshot();
        // SAFETY: see the invariant above: the database outlives the snapshot, and the cast lifetime never leaves
        // this struct, whose field is private and never moved out.
        let snapshot = unsafe { std::mem::transmute::<Snapshot<'_>, Snapshot<'static>>(snapshot) };
        Self { snapshot, shared }
    }
}

impl Read for RocksView {
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        let found = self.snapshot.get_cf(self.shared.family(cf), key).map_err(engine_error)?;
        Ok(found.map(Bytes::from))
    }
    fn scan(&self, cf: Cf, from: &[u8], to: &[u8], visit: Visit<'_>) -> Result<(), StorageError> {
        if from >= to {
            return Ok(());
        }
        walk(self.snapshot.raw_iterator_cf_opt(self.shared.family(cf), bounded(from, to)), false, visit)
    }
    fn scan_back(&self, cf: Cf, from: &[u8], to: &[u8], visit: Visit<'_>) -> Result<(), StorageError> {
        if from >= to {
            return Ok(());
        }
        walk(self.snapshot.raw_iterator_cf_opt(self.shared.family(cf), bounded(from, to)), true, visit)
    }
}
