//! Backups end to end over a real database on one machine: whatever is hurt is found, whatever is interrupted leaves
//! what was complete, and what comes back is what went in.

mod archives;
mod scrubs;

use super::{
    BackupError, Silent, Watch,
    archive::{self, Archiver, LogSource, Position, Turn},
    crypt::{Identities, Recipients},
    manifest::{self, Manifest},
    objects::Stored,
    restore::{Plan, Restored, Until, restore},
    retention::{self, Policy, prune},
    scrub::Damage,
    take::{Facts, Options, take},
    target::{Folder, Target, Work},
    verify::{no_genesis, small, verify},
};
use age::secrecy::ExposeSecret;
use okno_storage::{
    commit::{Body, Commit, CommitId, EntityKey, MemberRecord, Record, RecordTag, SystemOp, Value},
    engine::Engine,
    error::StorageError,
    identity::{FileIdentityMedium, Identity, Member},
    log::{EntryKind, LogEntry, LogStore},
    rocks::RocksEngine,
    state::StateStore,
};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use tempfile::TempDir;
use uuid::Uuid;

const CLUSTER: Uuid = Uuid::from_u128(0x0190_b5f0);
const TERM: u64 = 3;
/// Replicated time of the first commit, and from each to the next.
const BEGUN_MS: i64 = 1_790_000_000_000;
const STEP_MS: i64 = 1_000;

fn members() -> Vec<Member> {
    (1..=3).map(|id| Member { node_id: id, peer_address: format!("node{id}.test:7401") }).collect()
}

fn commit(key: &str, counter: u64, base: CommitId, time_ms: i64) -> Commit {
    let entity = EntityKey::parse(key).expect("a well-formed key");
    Commit::bare(entity, CommitId { term: TERM, counter }, base, time_ms)
}

/// A node's stores, written as the raft and the apply thread write them.
struct Node {
    engine: RocksEngine,
    log: LogStore,
    state: StateStore,
    work: PathBuf,
}

impl Node {
    fn new(directory: &Path, cluster: Uuid) -> Self {
        let engine = RocksEngine::open(directory.join("db"), &small()).expect("opens");
        let shared: Arc<dyn Engine> = Arc::new(engine.clone());
        let log = LogStore::open(shared.clone()).expect("opens");
        let state = StateStore::open(shared, no_genesis()).expect("opens");
        let mut node = Self { engine, log, state, work: directory.to_owned() };
        let members = members()
            .into_iter()
            .map(|m| MemberRecord {
                node_id: m.node_id,
                incarnation: Uuid::from_u128(m.node_id.into()),
                peer_address: m.peer_address,
            })
            .collect();
        let mut found = commit("sys/founding", 0, CommitId::NONE, BEGUN_MS);
        found.system = Some(SystemOp::Found { cluster, members });
        node.append(&[found]);
        node
    }

    fn append(&mut self, commits: &[Commit]) {
        let from = self.log.last_index() + 1;
        let entries: Vec<LogEntry> = commits
            .iter()
            .zip(from..)
            .map(|(commit, index)| LogEntry {
                index,
                term: TERM,
                kind: EntryKind::Normal,
                data: commit.encode().expect("encodes"),
            })
            .collect();
        self.log.persist(entries.clone(), None, true).expect("persists");
        let last = self.log.last_index();
        let slice = self.state.apply(&entries, last).expect("applies");
        assert_eq!(slice.last, last);
    }

    /// So many new cases of some 600 bytes.
    fn grow(&mut self, count: u64) {
        let from = self.log.last_index();
        let tag = RecordTag { kind: 1, version: 1 };
        let commits: Vec<Commit> = (from..from + count)
            .map(|n| {
                let time = BEGUN_MS + n.cast_signed() * STEP_MS;
                let mut made = commit(&format!("case/{n:08}"), n, CommitId::NONE, time);
                let body: Vec<u8> = (0..500_u64).map(|i| (i * 31 + n * 7) as u8).collect();
                made.events = vec![Record { tag, body: body.clone().into() }];
                made.root = Some(Value { tag, body: Body::Inline(body[..100].to_vec().into()) });
                made
            })
            .collect();
        for slice in commits.chunks(200) {
            self.append(slice);
        }
    }

    fn digest(&self) -> [u8; 32] {
        self.state.reader().view().digest().expect("reads")
    }

    fn index(&self) -> u64 {
        self.state.mark().index
    }
}

impl LogSource for Node {
    fn applied(&self) -> u64 {
        self.index()
    }
    fn entries(&self, from: u64, to: u64, bytes_max: usize) -> Result<Vec<LogEntry>, StorageError> {
        self.log.entries(from, to, bytes_max)
    }
    fn positions(&self, after: u64, limit: usize) -> Result<Vec<Position>, StorageError> {
        let rows = self.state.reader().view().journal(after, limit)?;
        Ok(rows
            .into_iter()
            .map(|row| Position { index: row.index, chain: row.chain, time_ms: row.time_ms })
            .collect())
    }
}

/// What a list says of a backup before anybody has scrubbed.
fn is_usable(room: &Room, manifest: &Manifest, stored: &Stored) -> bool {
    retention::state(&room.folder(), manifest, stored, &Damage::default()) == retention::State::Complete
}

/// A node, a target, and the operator's key.
struct Room {
    _dir: TempDir,
    root: PathBuf,
    node: Node,
    target: Target,
    recipients: Recipients,
    identities: Identities,
}

impl Room {
    fn new(sealed: bool) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().to_owned();
        let key = age::x25519::Identity::generate();
        let recipients = if sealed { vec![key.to_public().to_string()] } else { vec![] };
        Self {
            node: Node::new(&root.join("data"), CLUSTER),
            target: Target::init(&root.join("target")).expect("prepared"),
            recipients: Recipients::parse(&recipients).expect("a recipient"),
            identities: Identities::parse(key.to_string().expose_secret()).expect("an identity"),
            root,
            _dir: dir,
        }
    }

    fn folder(&self) -> Folder {
        self.target.folder(CLUSTER)
    }

    fn facts(&self) -> Facts {
        let program = self.root.join("okno");
        fs::write(&program, b"the program").expect("written");
        Facts {
            cluster_name: "kuzbass".into(),
            generation: 1,
            genesis: [0; 32],
            node: 2,
            version: "0.0.0".into(),
            software: vec![("okno".into(), program)],
        }
    }

    fn try_take(&self, watch: &dyn Watch) -> Result<Manifest, BackupError> {
        let folder = self.folder();
        let mut held = folder.take_on(Work::Backup, "test")?;
        let options = Options { recipients: &self.recipients, rate: 0, work: &self.node.work };
        let source = |into: &Path| self.node.engine.checkpoint(into);
        take(&folder, &mut held, &source, &self.facts(), &options, watch)
    }

    fn take(&self) -> Manifest {
        // Ids have seconds in them, and an index that may not have moved.
        self.try_take(&Silent).expect("a backup is taken")
    }

    fn archiver(&self) -> Archiver {
        let folder = self.folder();
        let held = folder.take_on(Work::Archive, "test").expect("nobody else archives");
        Archiver::new(folder, 1, self.recipients.clone(), held)
    }

    fn verify(&self, id: &str) -> Result<super::verify::Verified, BackupError> {
        verify(&self.folder(), id, &self.identities, &self.root.join("scratch"), &Silent)
    }

    fn restore(&self, until: Until, into: &str) -> Result<Restored, BackupError> {
        let folder = self.folder();
        let plan = Plan {
            folder: &folder,
            backup: None,
            until,
            identities: &self.identities,
            cluster: Uuid::from_u128(77),
            members: members(),
            into: (1..=3).map(|id| (id, self.root.join(into).join(id.to_string()))).collect(),
        };
        restore(&plan, &Silent)
    }

    /// Every file of the target that holds something of a backup.
    fn files(&self) -> Vec<PathBuf> {
        walkdir::WalkDir::new(self.folder().path())
            .into_iter()
            .map(|entry| entry.expect("listed"))
            .filter(|entry| entry.file_type().is_file())
            .map(|entry| entry.into_path())
            .filter(|path| path.extension().is_none_or(|extension| extension != "lock"))
            .collect()
    }
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).expect("read");
    bytes[at] ^= 0x10;
    fs::write(path, bytes).expect("written");
}

/// Ends the work at the Nth step.
struct StopAt {
    left: AtomicUsize,
}

impl StopAt {
    fn new(steps: usize) -> Self {
        Self { left: AtomicUsize::new(steps) }
    }
}

impl Watch for StopAt {
    fn step(&self, _: &'static str) -> Result<(), BackupError> {
        let left = self.left.load(Ordering::Relaxed);
        if left == 0 {
            return Err(BackupError::Stopped);
        }
        self.left.store(left - 1, Ordering::Relaxed);
        Ok(())
    }
}

/// Ends the work at the first step of this name.
struct StopIn(&'static str);

impl Watch for StopIn {
    fn step(&self, step: &'static str) -> Result<(), BackupError> {
        if step == self.0 { Err(BackupError::Stopped) } else { Ok(()) }
    }
}

#[test]
fn a_backup_comes_back_as_it_was_with_the_archive_behind_it() {
    for sealed in [false, true] {
        let mut room = Room::new(sealed);
        room.node.grow(500);
        let (index, digest) = (room.node.index(), room.node.digest());
        let manifest = room.take();
        assert_eq!((manifest.index, &manifest.digest), (index, &hex::encode(digest)));
        let mut archiver = room.archiver();
        room.node.grow(300);
        assert_eq!(archiver.turn(&room.node, &Silent).expect("archived"), Turn::Caught(room.node.index()));
        // Grown, not another file.
        room.node.grow(50);
        let (middle, middle_digest) = (room.node.index(), room.node.digest());
        archiver.turn(&room.node, &Silent).expect("archived");
        assert_eq!(archive::segments(&room.folder(), 1).expect("listed").len(), 1);
        room.node.grow(20);
        drop(archiver);
        // Another writer, who knows nothing of the first but what lies there.
        let mut archiver = room.archiver();
        archiver.turn(&room.node, &Silent).expect("archived");
        assert_eq!(archive::segments(&room.folder(), 1).expect("listed").len(), 2);
        let end = room.node.index();
        assert_eq!(room.verify(&manifest.id).expect("whole").archived_to, end);

        for (name, until, to, expected) in [
            ("backup", Until::Backup, index, digest),
            ("index", Until::Index(middle), middle, middle_digest),
            (
                "time",
                Until::Time(BEGUN_MS + (middle.cast_signed() - 1) * STEP_MS + STEP_MS / 2),
                middle,
                middle_digest,
            ),
            ("end", Until::End, end, room.node.digest()),
        ] {
            let restored = room.restore(until, name).expect(name);
            assert_eq!((restored.index, restored.digest), (to, expected), "{name}");
            assert_eq!(restored.replayed, to - index, "{name}");
            assert!(!restored.archive_ended, "{name}");
            for id in 1..=3 {
                check_member(&room.root.join(name).join(id.to_string()), id, &restored);
            }
        }
        let late = room.restore(Until::Time(i64::MAX), "late").expect("as far as it goes");
        assert!(late.archive_ended && late.index == end);
        let beyond = room.restore(Until::Index(end + 1), "beyond").expect_err("not archived").to_string();
        assert!(beyond.contains(&format!("reaches to entry {end}")), "{beyond}");
        assert!(super::target::names(&room.root.join("beyond/1")).expect("listed").is_empty());
    }
}

/// A directory a node of the new cluster starts from.
fn check_member(directory: &Path, id: u64, restored: &Restored) {
    let medium = FileIdentityMedium::new(directory.join("identity")).expect("opens");
    let identity = Identity::open(Box::new(medium)).expect("an identity");
    let record = identity.record();
    assert_eq!((record.cluster, record.node_id), (restored.cluster, id));
    assert_eq!((record.synced_term, record.synced_index), (restored.term, restored.index));
    assert!(record.term > restored.term, "no commit id of the old cluster comes again");
    assert_eq!((record.later.generation, record.genesis_chain()), (2, [0; 32]));
    let engine = RocksEngine::open(directory.join(&record.live_directory), &small()).expect("opens");
    let shared: Arc<dyn Engine> = Arc::new(engine);
    let log = LogStore::open(shared.clone()).expect("opens");
    assert_eq!((log.first_index(), log.last_index()), (restored.index + 1, restored.index));
    let state = StateStore::open(shared, no_genesis()).expect("opens");
    let mark = state.mark();
    assert_eq!((mark.index, mark.chain, mark.commit), (restored.index, restored.chain, restored.index));
    let (cluster, members) = state.reader().view().founding().expect("reads").expect("founded");
    assert_eq!(cluster, restored.cluster);
    assert!(members.iter().map(|m| (m.node_id, m.incarnation)).eq(record.pins.iter().copied()));
    assert_eq!(names_in(directory), ["db", "identity"]);
}

fn names_in(directory: &Path) -> Vec<String> {
    super::target::names(directory).expect("listed")
}

#[test]
fn the_second_backup_adds_only_what_is_new_also_after_a_compaction() {
    let mut room = Room::new(false);
    room.node.grow(3_000);
    let first = room.take();
    room.node.grow(10);
    let second = room.take();
    assert!(
        second.new_bytes < first.new_bytes / 4,
        "{} new bytes after {}",
        second.new_bytes,
        first.new_bytes
    );
    // Merged tables have other bytes: they are new, and the old ones are still there for the old backup.
    room.node.grow(3_000);
    room.node.engine.flush().expect("flushed");
    let third = room.take();
    for manifest in [&first, &second, &third] {
        room.verify(&manifest.id).expect("every one of them is whole");
    }
}

#[test]
fn one_flipped_byte_in_any_file_is_found_and_nothing_is_restored() {
    for sealed in [false, true] {
        let mut room = Room::new(sealed);
        room.node.grow(200);
        let manifest = room.take();
        room.node.grow(40);
        let mut archiver = room.archiver();
        archiver.turn(&room.node, &Silent).expect("archived");
        room.verify(&manifest.id).expect("whole");
        for path in room.files() {
            let size = fs::metadata(&path).expect("there").len() as usize;
            // Every kind of file in several places; small ones that people read, everywhere.
            let places: Vec<usize> = if path.ends_with(manifest::SUM) {
                (0..size).collect()
            } else {
                [0, size / 3, size / 2, size.saturating_sub(1)].into_iter().filter(|at| *at < size).collect()
            };
            for at in places {
                flip(&path, at);
                assert!(room.verify(&manifest.id).is_err(), "{} byte {at}", path.display());
                let restored = room.restore(Until::End, "out");
                // Software is checked too: a restore from a target that rots is refused whatever rots.
                assert!(restored.is_err(), "{} byte {at}: {restored:?}", path.display());
                for id in ["1", "2", "3"] {
                    assert!(names_in(&room.root.join("out").join(id)).is_empty(), "nothing is left of it");
                }
                flip(&path, at);
            }
        }
        room.verify(&manifest.id).expect("whole again");
    }
}

#[test]
fn missing_foreign_newer_and_unreadable_backups_are_told_apart() {
    let mut room = Room::new(true);
    room.node.grow(50);
    let manifest = room.take();
    let told = |result: Result<super::verify::Verified, BackupError>| match result {
        Err(error) => error.to_string(),
        Ok(found) => panic!("must be refused: {found:?}"),
    };
    // No key, and another key.
    let verify_with = |identities: &Identities| {
        told(verify(&room.folder(), &manifest.id, identities, &room.root.join("scratch"), &Silent))
    };
    assert!(verify_with(&Identities::default()).contains("--identity"));
    let other = age::x25519::Identity::generate();
    let other = Identities::parse(other.to_string().expose_secret()).expect("an identity");
    assert!(verify_with(&other).contains("not encrypted for any key"));
    // A missing file.
    let object =
        room.files().into_iter().find(|path| path.starts_with(room.folder().objects())).expect("one");
    let aside = room.root.join("aside");
    fs::rename(&object, &aside).expect("moved");
    assert!(told(room.verify(&manifest.id)).contains("is missing"));
    assert!(!is_usable(&room, &manifest, &Stored::default()));
    fs::rename(&aside, &object).expect("moved back");
    // A manifest rewritten together with its sum: a newer format, another cluster's id, other data than it says.
    let path = room.folder().backups().join(&manifest.id);
    let rewrite = |change: &dyn Fn(&mut Manifest)| {
        let mut changed = manifest.clone();
        change(&mut changed);
        let (text, sum) = changed.encode();
        fs::write(path.join(manifest::FILE), text).expect("written");
        fs::write(path.join(manifest::SUM), sum).expect("written");
        told(room.verify(&manifest.id))
    };
    assert!(rewrite(&|m| m.format = 2).contains("format 2, this program knows formats up to 1"));
    assert!(rewrite(&|m| m.cluster = Uuid::from_u128(9)).contains("lies under cluster"));
    assert!(rewrite(&|m| m.index += 1).contains("index of the data"));
    assert!(rewrite(&|m| m.digest = "00".repeat(32)).contains("digest of the data"));
    assert!(rewrite(&|m| m.database[0].name = "../escape".into()).contains("names a file"));
    // The other cluster's data under this cluster's folder.
    let strange = Node::new(&room.root.join("strange"), Uuid::from_u128(9));
    let folder = room.folder();
    let mut held = folder.take_on(Work::Backup, "test").expect("free");
    let options = Options { recipients: &room.recipients, rate: 0, work: &strange.work };
    let source = |into: &Path| strange.engine.checkpoint(into);
    let refused = take(&folder, &mut held, &source, &room.facts(), &options, &Silent);
    assert!(refused.expect_err("another cluster").to_string().contains("the data are of cluster"));
}

#[test]
fn interrupted_anywhere_the_backup_before_stays_usable_and_the_next_succeeds() {
    let mut room = Room::new(true);
    room.node.grow(100);
    let first = room.take();
    // Once: every checkpoint writes new tables, and steps would run away from who counts them.
    room.node.grow(3);
    let mut steps = 0;
    loop {
        match room.try_take(&StopAt::new(steps)) {
            Err(BackupError::Stopped) => {
                assert_eq!(manifest::list(&room.folder()).expect("listed").len(), 1, "step {steps}");
                if steps % 7 == 0 {
                    room.verify(&first.id).expect("the one before is whole");
                }
            }
            Err(other) => panic!("step {steps}: {other}"),
            Ok(last) => {
                room.verify(&last.id).expect("whole");
                break;
            }
        }
        steps += 1;
    }
    assert!(steps > 20, "{steps} steps were interrupted");
    assert!(names_in(&room.folder().tmp()).is_empty(), "what they left is cleared away");
    // Once more, with new tables, stopped when the first of them is in place.
    room.node.grow(3);
    assert!(matches!(room.try_take(&StopIn("object in place")), Err(BackupError::Stopped)));
    let folder = room.folder();
    let held = folder.take_on(Work::Backup, "test").expect("free");
    let pruned = prune(&folder, &held, &Policy::default(), false, &Silent).expect("pruned");
    assert!(pruned.backups.is_empty() && pruned.objects > 0, "files of no backup go: {pruned:?}");
    for manifest in manifest::readable(&folder).expect("listed") {
        drop(room.folder());
        assert!(is_usable(&room, &manifest, &Stored::default()));
    }
}

#[test]
fn an_interrupted_restore_is_no_node_and_can_be_begun_again() {
    let mut room = Room::new(false);
    room.node.grow(60);
    room.take();
    let folder = room.folder();
    let mut steps = 0;
    loop {
        let into = room.root.join("out");
        let plan = Plan {
            folder: &folder,
            backup: None,
            until: Until::End,
            identities: &room.identities,
            cluster: Uuid::from_u128(77),
            members: members(),
            into: vec![(1, into.join("1")), (2, into.join("2"))],
        };
        match restore(&plan, &StopAt::new(steps)) {
            Ok(restored) => {
                check_member(&into.join("1"), 1, &restored);
                check_member(&into.join("2"), 2, &restored);
                break;
            }
            Err(BackupError::Stopped) => {
                // Where identities are written one directory may be complete already; the other is no node.
                assert!(!into.join("2/identity").exists(), "step {steps}");
                fs::remove_dir_all(&into).expect("removed");
            }
            Err(other) => panic!("step {steps}: {other}"),
        }
        steps += 1;
    }
    assert!(steps > 20, "{steps} steps were interrupted");
    let again = room.restore(Until::End, "out").expect_err("it holds a node").to_string();
    assert!(again.contains("is not empty"), "{again}");
}

#[test]
fn a_target_that_goes_away_is_an_error_and_an_unprepared_one_is_refused() {
    let mut room = Room::new(false);
    room.node.grow(50);
    let first = room.take();
    // Pulled out midway: everything under it is gone from one step to the next.
    struct PullOut {
        root: PathBuf,
        aside: PathBuf,
        left: AtomicUsize,
    }
    impl Watch for PullOut {
        fn step(&self, _: &'static str) -> Result<(), BackupError> {
            if self.left.fetch_sub(1, Ordering::Relaxed) == 1 {
                fs::rename(&self.root, &self.aside).expect("moved away");
            }
            Ok(())
        }
    }
    room.node.grow(500);
    let pull = PullOut {
        root: room.target.root().to_owned(),
        aside: room.root.join("pulled"),
        left: AtomicUsize::new(12),
    };
    assert!(matches!(room.try_take(&pull), Err(BackupError::Io { .. })));
    assert!(!room.root.join("data/checkpoint").exists(), "the copy on the node's own disk is gone");
    // What is left is an empty mount point: nothing is written under it.
    fs::create_dir(room.target.root()).expect("made");
    let refused = Target::open(room.target.root()).expect_err("no medium").to_string();
    assert!(refused.contains("not mounted"), "{refused}");
    fs::remove_dir(room.target.root()).expect("still empty");
    fs::rename(&pull.aside, &pull.root).expect("back");
    room.verify(&first.id).expect("the one before is whole");
    room.take();
    fs::write(room.root.join("foreign"), b"x").expect("written");
    assert!(Target::init(&room.root).is_err(), "not into a directory that holds other things");
    fs::write(room.target.root().join("okno-target.json"), br#"{"format":9}"#).expect("written");
    assert!(matches!(Target::open(room.target.root()), Err(BackupError::Newer { found: 9, .. })));
}

#[test]
fn one_at_a_time() {
    let room = Room::new(false);
    let folder = room.folder();
    let held = folder.take_on(Work::Backup, "node 2").expect("free");
    let busy = folder.take_on(Work::Backup, "node 1").expect_err("taken").to_string();
    assert!(busy.contains("node 2"), "{busy}");
    assert!(folder.hold_still().is_err(), "nor may it be read meanwhile");
    drop(folder.take_on(Work::Archive, "node 1").expect("another kind of work"));
    drop(held);
    let reading = folder.hold_still().expect("free");
    assert!(folder.take_on(Work::Backup, "node 1").is_err(), "nor removed while it is read");
    drop((reading, folder.hold_still().expect("readers share")));
}

#[test]
fn pruning_keeps_what_a_kept_backup_needs() {
    let mut room = Room::new(false);
    let mut taken = Vec::new();
    let mut archiver = room.archiver();
    for _ in 0..4 {
        room.node.grow(400);
        // The first one finds no backup to begin behind.
        archiver.turn(&room.node, &Silent).expect("archived");
        taken.push(room.take());
        archiver.forget();
    }
    let folder = room.folder();
    let held = folder.take_on(Work::Backup, "test").expect("free");
    let policy = Policy { last: 2, daily: 0, weekly: 0, monthly: 0 };
    let dry = prune(&folder, &held, &policy, true, &Silent).expect("looked at");
    assert_eq!(dry.backups, [taken[0].id.clone(), taken[1].id.clone()]);
    assert_eq!(manifest::list(&folder).expect("listed").len(), 4, "a dry run removes nothing");
    // A manifest that cannot be read may need anything: no file goes.
    let sum = folder.backups().join(&taken[3].id).join(manifest::SUM);
    flip(&sum, 0);
    let careful = prune(&folder, &held, &policy, false, &Silent).expect("pruned");
    assert_eq!(careful.held_by.as_deref(), Some(taken[3].id.as_str()));
    assert_eq!((careful.backups.as_slice(), careful.objects), (&[taken[0].id.clone()][..], 0));
    flip(&sum, 0);
    let pruned = prune(&folder, &held, &policy, false, &Silent).expect("pruned");
    assert_eq!(pruned.backups, [taken[1].id.clone()]);
    assert!(pruned.objects > 0 && pruned.segments > 0, "{pruned:?}");
    drop(held);
    for manifest in &taken[2..] {
        let found = room.verify(&manifest.id).expect("whole");
        assert_eq!(found.archived_to, room.node.index(), "and so is the archive behind it");
    }
}

#[test]
fn restores_are_refused_before_anything_is_read_when_their_plan_is_wrong() {
    let mut room = Room::new(false);
    room.node.grow(5);
    room.take();
    let folder = room.folder();
    let told = |members: Vec<Member>, into: Vec<(u64, PathBuf)>| {
        let plan = Plan {
            folder: &folder,
            backup: None,
            until: Until::End,
            identities: &room.identities,
            cluster: Uuid::from_u128(77),
            members,
            into,
        };
        restore(&plan, &Silent).expect_err("must be refused").to_string()
    };
    let out = |n: &str| room.root.join("out").join(n);
    assert!(told(vec![], vec![(1, out("1"))]).contains("one to five"));
    assert!(told(members(), vec![(4, out("4"))]).contains("not among the members"));
    assert!(told(members(), vec![(1, out("1")), (1, out("2"))]).contains("twice"));
    assert!(told(members(), vec![(1, out("1")), (2, out("1"))]).contains("twice"));
    assert!(told(members(), vec![]).contains("no directory"));
    assert!(!room.root.join("out").exists() || names_in(&out("1")).is_empty());
    // A live directory.
    let live = told(members(), vec![(1, room.node.work.clone())]);
    assert!(live.contains("is not empty"), "{live}");
    for (text, expected) in [
        ("end", Some(Until::End)),
        ("backup", Some(Until::Backup)),
        ("812", Some(Until::Index(812))),
        ("2026-11-22T08:30:00+07:00", Some(Until::Time(1_795_311_000_000))),
        ("2026-11-22T08:30:00", None),
        ("yesterday", None),
    ] {
        assert_eq!(text.parse::<Until>().ok(), expected, "{text}");
    }
}
