//! Copies of a member's state for another: taken, sent, interrupted, damaged, installed; a crash at every step leaves
//! the old state or the new one whole. The same over memory and over real files.

mod common;

use common::{apply_all, bare, entry, founded_log, genesis, identity_of, system};
use okno_storage::{
    commit::{CommitId, SystemOp},
    engine::{Batch, Cf, Engine, Sync},
    error::StorageError,
    identity::{FileIdentityMedium, Identity, IdentityRecord},
    log::{HardState, LogEntry, LogStore},
    memory::{MemoryEngine, MemoryIdentity},
    snapshot::{
        self, Candidate, CopyOf, Home, Manifest, MemoryDisk, MemoryHome, Put, Receiver, SnapshotError, Source,
    },
    state::StateStore,
};
use std::sync::Arc;
use uuid::Uuid;

const CLUSTER: Uuid = Uuid::from_u128(0xC1);
const LEVEL: u32 = 2;
const OF: CopyOf = CopyOf { cluster: CLUSTER, generation: 1, genesis: [7; 32], node_id: 1 };

fn record(node_id: u64) -> IdentityRecord {
    identity_of(CLUSTER, node_id)
}

fn a_log(length: u64) -> Vec<LogEntry> {
    founded_log(CLUSTER, length, &"text ".repeat(40))
}

/// A node's stores over a home.
struct Node {
    home: Box<dyn Home>,
    identity: Identity,
    log: LogStore,
    state: StateStore,
}

impl Node {
    fn new(home: Box<dyn Home>, identity: Identity) -> Self {
        let log = LogStore::open(home.engine()).expect("opens");
        let state = StateStore::open(home.engine(), genesis()).expect("opens");
        Self { home, identity, log, state }
    }

    /// Appends and applies what of the log is not here yet.
    fn advance(&mut self, log: &[LogEntry]) {
        let last = usize::try_from(self.log.last_index()).expect("small");
        self.log.persist(log[last..].to_vec(), None, true).expect("writes");
        let applied = usize::try_from(self.state.mark().index).expect("small");
        apply_all(&mut self.state, &log[applied..]);
        let end = (1, self.log.last_index());
        self.identity.update(|r| (r.synced_term, r.synced_index) = end).expect("writes");
    }

    fn digest(&self) -> [u8; 32] {
        self.state.reader().view().digest().expect("reads")
    }

    fn take(&self) -> Arc<dyn Source> {
        self.home.take(&OF, &mut |_| true).expect("copies")
    }

    fn begin(&self, manifest: &Manifest) -> Receiver {
        let manifest = Manifest::decode(&manifest.encode().expect("encodes")).expect("decodes");
        Receiver::begin(manifest, self.home.incoming().expect("a place"), &mut |_| true).expect("begins")
    }

    fn install(&mut self, candidate: Candidate) -> Result<(), SnapshotError> {
        snapshot::install(candidate, &mut self.identity, &self.log, &mut self.state, (7, 3), LEVEL)
    }
}

/// Sends up to `chunks` chunks of at most `max` bytes; true when everything is there.
fn send(source: &dyn Source, receiver: &mut Receiver, max: usize, chunks: usize) -> bool {
    for _ in 0..chunks {
        let Some(wanted) = receiver.wanted() else { return true };
        let data = source.read(wanted.file, wanted.offset, max).expect("reads");
        let put = receiver.put(wanted, &data, crc32c::crc32c(&data)).expect("a good disk");
        assert_eq!(put, Put::Taken);
    }
    receiver.wanted().is_none()
}

/// A machine: what survives a crash of the process.
trait Machine {
    fn start(&self) -> Node;
    fn databases(&self) -> Vec<String>;
    /// The process ends before it could remove the candidate.
    fn die_with(&self, candidate: Candidate);
}

struct InMemory(MemoryDisk, MemoryIdentity);

impl InMemory {
    fn new(node_id: u64) -> Self {
        let medium = MemoryIdentity::new();
        Identity::create(Box::new(medium.clone()), record(node_id)).expect("made");
        Self(MemoryDisk::new("db", MemoryEngine::new()), medium)
    }
}

impl Machine for InMemory {
    fn start(&self) -> Node {
        let identity = Identity::open(Box::new(self.1.clone())).expect("whole");
        let home = MemoryHome::new(&self.0, &identity.record().live_directory).expect("named and there");
        Node::new(Box::new(home), identity)
    }
    fn databases(&self) -> Vec<String> {
        self.0.directories()
    }
    fn die_with(&self, candidate: Candidate) {
        std::mem::forget(candidate);
    }
}

#[cfg(feature = "rocksdb")]
mod on_disk {
    use super::*;
    use okno_storage::{
        rocks::{RocksEngine, RocksOptions},
        snapshot::RocksHome,
    };
    use std::path::Path;

    pub struct OnDisk(pub tempfile::TempDir);

    impl OnDisk {
        pub fn new(node_id: u64) -> Self {
            let dir = tempfile::tempdir().expect("temporary directory");
            let medium = FileIdentityMedium::new(dir.path().join("identity")).expect("opens");
            Identity::create(Box::new(medium), record(node_id)).expect("made");
            Self(dir)
        }
        fn path(&self) -> &Path {
            self.0.path()
        }
    }

    impl Machine for OnDisk {
        fn start(&self) -> Node {
            let medium = FileIdentityMedium::new(self.path().join("identity")).expect("opens");
            let identity = Identity::open(Box::new(medium)).expect("whole");
            let options = RocksOptions::default();
            let live = self.path().join(&identity.record().live_directory);
            let engine = RocksEngine::open(live, &options).expect("opens");
            let home = RocksHome::new(self.path(), engine, &options).expect("cleans");
            Node::new(Box::new(home), identity)
        }
        fn databases(&self) -> Vec<String> {
            let names = std::fs::read_dir(self.path()).expect("reads");
            let mut names: Vec<_> = names
                .map(|e| e.expect("reads").file_name().into_string().expect("plain"))
                .filter(|name| name.starts_with("db"))
                .collect();
            names.sort();
            names
        }
        /// (Leaking it would keep the database locked within this process.)
        fn die_with(&self, candidate: Candidate) {
            let manifest = candidate.manifest();
            let (term, index) = (manifest.term, manifest.index);
            drop(candidate);
            let names = ["", "-2"].map(|nth| self.path().join(format!("db-{term}-{index}{nth}")));
            let path = names.iter().find(|path| !path.exists()).expect("its name is free again");
            std::fs::create_dir(path).expect("makes");
            std::fs::write(path.join("CURRENT"), "MANIFEST-000001").expect("writes");
        }
    }
}

fn pairs() -> Vec<(Box<dyn Machine>, Box<dyn Machine>)> {
    let mut out: Vec<(Box<dyn Machine>, Box<dyn Machine>)> =
        vec![(Box::new(InMemory::new(1)), Box::new(InMemory::new(2)))];
    #[cfg(feature = "rocksdb")]
    out.push((Box::new(on_disk::OnDisk::new(1)), Box::new(on_disk::OnDisk::new(2))));
    out
}

#[test]
fn a_member_that_was_away_gets_the_state_twice_in_a_row() {
    for (one, two) in pairs() {
        let log = a_log(300);
        let (mut sender, mut receiver) = (one.start(), two.start());
        receiver.advance(&log[..20]);
        for upto in [200, 300] {
            sender.advance(&log[..upto]);
            let before = receiver.state.reader();
            let old_view = before.view();
            let was = old_view.mark().expect("reads");
            let source = sender.take();
            assert_eq!(source.manifest().index, upto as u64);
            let mut transfer = receiver.begin(source.manifest());
            assert!(send(&*source, &mut transfer, 1000, usize::MAX));
            assert_eq!(transfer.received_bytes(), source.manifest().total_bytes());
            let candidate = receiver.home.candidate(transfer).expect("opens");
            receiver.install(candidate).expect("installs");
            assert_eq!(receiver.state.mark(), sender.state.mark());
            assert_eq!(receiver.digest(), sender.digest());
            assert_eq!(old_view.mark().expect("reads"), was, "a view taken before stays as it was");
            assert_eq!(before.applied().0, upto as u64, "readers go over to the new state");
            let end = upto as u64;
            assert_eq!((receiver.log.first_index(), receiver.log.last_index()), (end + 1, end));
            assert_eq!(receiver.log.truncated(), (end, 1));
            assert_eq!(receiver.log.term(end).expect("reads"), Some(1));
            let hard_state = HardState { term: 7, vote: 3, commit: end };
            assert_eq!(receiver.log.hard_state().expect("reads"), hard_state);
            drop((old_view, before));
            drop(receiver);
            receiver = two.start();
            assert_eq!(
                two.databases(),
                [receiver.identity.record().live_directory.clone()],
                "the old one is gone"
            );
            assert_eq!(
                (receiver.digest(), receiver.log.hard_state().expect("reads")),
                (sender.digest(), hard_state)
            );
        }
        // It goes on as if it had never been away.
        let longer = a_log(310);
        sender.advance(&longer);
        receiver.advance(&longer);
        assert_eq!(
            (receiver.state.mark().chain, receiver.digest()),
            (sender.state.mark().chain, sender.digest())
        );
        assert!(matches!(sender.home.take(&OF, &mut |_| false), Err(SnapshotError::GivenUp)));
    }
}

/// Who reads the level before and after an install must not go on writing in the older form (rule 9).
#[test]
fn a_copy_brings_its_level_along() {
    for (one, two) in pairs() {
        let mut log = a_log(30);
        let raised = system("level", 1, 900, SystemOp::Level { level: LEVEL });
        log.push(entry(log.len() as u64 + 1, 1, &raised));
        let (mut sender, mut receiver) = (one.start(), two.start());
        receiver.advance(&log[..20]);
        sender.advance(&log);
        let reader = receiver.state.reader();
        assert_eq!(reader.level(), 1);
        let source = sender.take();
        let mut transfer = receiver.begin(source.manifest());
        assert!(send(&*source, &mut transfer, 1000, usize::MAX));
        let candidate = receiver.home.candidate(transfer).expect("opens");
        receiver.install(candidate).expect("installs");
        assert_eq!((reader.level(), sender.state.reader().level()), (LEVEL, LEVEL));
    }
}

/// Sums vouch for bytes only: what is damaged where the copy is taken would else be found on a member that had no damage.
#[test]
fn damage_is_not_copied() {
    for (one, _) in pairs() {
        let mut sender = one.start();
        sender.advance(&a_log(40));
        let key = 17u64.to_be_bytes().to_vec();
        let mut row = sender.home.engine().get(Cf::Journal, &key).expect("reads").expect("is there").to_vec();
        let last = row.len() - 1;
        row[last] ^= 1;
        let mut batch = Batch::default();
        batch.put(Cf::Journal, key, row);
        sender.home.engine().write(batch, Sync::Yes).expect("writes");
        let taken = sender.home.take(&OF, &mut |_| true);
        assert!(matches!(taken, Err(SnapshotError::Storage(StorageError::Corrupt { .. }))));
    }
}

#[test]
fn a_crash_at_every_step_leaves_the_old_state_or_the_new_one() {
    for (one, two) in pairs() {
        let log = a_log(120);
        let mut sender = one.start();
        sender.advance(&log);
        two.start().advance(&log[..30]);
        let old = two.start().digest();
        let source = sender.take();
        let bytes = usize::try_from(source.manifest().total_bytes()).expect("small");
        let chunk = bytes / 20 + 1;
        // Cut off after each chunk, gone on with after a restart; half of the way is never sent twice.
        let mut rounds = 0;
        loop {
            let receiver = two.start();
            let mut transfer = receiver.begin(source.manifest());
            let had = transfer.received_bytes();
            assert!(rounds == 0 || had > 0, "an interrupted transfer goes on where it was");
            let whole = send(&*source, &mut transfer, chunk, 1);
            assert_eq!((receiver.digest(), receiver.state.mark().index), (old, 30));
            rounds += 1;
            assert!(rounds < 200, "progress");
            if whole {
                break;
            }
        }
        // Received and opened, and then nothing came of it: discarded.
        let receiver = two.start();
        let candidate = receiver.home.candidate(receiver.begin(source.manifest())).expect("opens");
        assert_eq!(two.databases().len(), 2);
        drop(candidate);
        assert_eq!(two.databases(), ["db"], "no Ready carried it");
        drop(receiver);
        // Crashed with a candidate that is open: the start removes it.
        let receiver = two.start();
        let mut transfer = receiver.begin(source.manifest());
        assert!(send(&*source, &mut transfer, chunk, usize::MAX));
        two.die_with(receiver.home.candidate(transfer).expect("opens"));
        drop(receiver);
        let receiver = two.start();
        assert_eq!((two.databases(), receiver.digest()), (vec!["db".to_owned()], old));
        drop(receiver);
    }
}

/// Found by the simulator: while a hung disk kept a copy from being installed, the same one came again. Both had one directory, and
/// what became of the second took the first one's files away, which `identity` named by then.
#[test]
fn a_copy_that_comes_again_leaves_alone_the_one_being_installed() {
    for (first_is_installed, dies) in [(true, false), (true, true), (false, false), (false, true)] {
        for (one, two) in pairs() {
            let log = a_log(60);
            let (mut sender, mut receiver) = (one.start(), two.start());
            sender.advance(&log);
            receiver.advance(&log[..10]);
            let source = sender.take();
            let receive = |receiver: &Node| {
                let mut transfer = receiver.begin(source.manifest());
                assert!(send(&*source, &mut transfer, 4096, usize::MAX));
                receiver.home.candidate(transfer)
            };
            let first = receive(&receiver).expect("opens");
            let second = receive(&receiver).expect("opens beside the first");
            assert_eq!(two.databases().len(), 3);
            let (installed, other) = if first_is_installed { (first, second) } else { (second, first) };
            receiver.install(installed).expect("installs");
            if dies {
                two.die_with(other);
            } else {
                assert!(matches!(receiver.install(other), Err(SnapshotError::Old { .. })), "and is removed");
                assert_eq!(receiver.digest(), sender.digest());
                assert!(
                    matches!(receive(&receiver), Err(SnapshotError::Old { .. })),
                    "it is this index already"
                );
            }
            drop(receiver);
            let receiver = two.start();
            assert_eq!(two.databases(), [receiver.identity.record().live_directory.clone()]);
            assert_eq!(receiver.digest(), sender.digest());
        }
    }
}

/// The one write of `identity` decides: torn at any byte, the old state; whole, the new one, whatever came after it.
#[test]
fn identity_decides() {
    let log = a_log(60);
    let one = InMemory::new(1);
    let mut sender = one.start();
    sender.advance(&log);
    let source = sender.take();
    for keep in [0, 1, 4, 30, 100, usize::MAX] {
        let two = InMemory::new(2);
        let mut receiver = two.start();
        receiver.advance(&log[..10]);
        let old = receiver.digest();
        let mut transfer = receiver.begin(source.manifest());
        assert!(send(&*source, &mut transfer, 4096, usize::MAX));
        let candidate = receiver.home.candidate(transfer).expect("opens");
        two.1.tear_next_write(keep);
        assert!(matches!(receiver.install(candidate), Err(SnapshotError::Storage(_))), "the power went");
        drop(receiver);
        let found = Identity::open(Box::new(two.1.clone())).expect("a slot is whole").record().clone();
        let new = found.live_directory != "db";
        assert_eq!(new, keep == usize::MAX, "kept {keep}");
        assert_eq!((found.synced_index, found.term), if new { (60, 7) } else { (10, 1) });
        let after = two.start();
        assert_eq!(after.digest(), if new { sender.digest() } else { old }, "kept {keep}");
        assert_eq!(two.databases(), [found.live_directory], "kept {keep}");
    }
}

#[test]
fn damage_is_refused_and_asked_for_again() {
    for (one, two) in pairs() {
        let log = a_log(50);
        let mut sender = one.start();
        sender.advance(&log);
        let source = sender.take();
        let receiver = two.start();
        let mut transfer = receiver.begin(source.manifest());
        let wanted = transfer.wanted().expect("something");
        let data = source.read(wanted.file, wanted.offset, 100).expect("reads");
        // Damaged on the way.
        assert!(matches!(transfer.put(wanted, &data, 0).expect("a good disk"), Put::Refused(_)));
        // Another place than wanted; more than there is.
        let ahead = snapshot::Wanted { offset: wanted.offset + 1, ..wanted };
        assert!(matches!(
            transfer.put(ahead, &data, crc32c::crc32c(&data)).expect("a good disk"),
            Put::Refused(_)
        ));
        assert_eq!(transfer.wanted(), Some(wanted));
        // Damaged at the sender: the sum of the whole file tells, and the file is wanted from its beginning.
        let size = usize::try_from(source.manifest().files[0].bytes).expect("small");
        let mut whole = source.read(0, 0, size).expect("reads").to_vec();
        whole[size / 2] ^= 1;
        let mut last = Put::Taken;
        for (n, piece) in whole.chunks(snapshot::CHUNK_BYTES_MAX).enumerate() {
            let at = snapshot::Wanted { file: 0, offset: (n * snapshot::CHUNK_BYTES_MAX) as u64 };
            last = transfer.put(at, piece, crc32c::crc32c(piece)).expect("a good disk");
        }
        assert!(matches!(last, Put::Damaged(_)), "{last:?}");
        assert_eq!(transfer.wanted(), Some(wanted));
        assert!(send(&*source, &mut transfer, snapshot::CHUNK_BYTES_MAX, usize::MAX));
        drop(receiver.home.candidate(transfer).expect("opens"));
    }
    // Rot of what came before a restart.
    let (one, two) = (InMemory::new(1), InMemory::new(2));
    let mut sender = one.start();
    sender.advance(&a_log(50));
    let source = sender.take();
    let receiver = two.start();
    let mut transfer = receiver.begin(source.manifest());
    assert!(!send(&*source, &mut transfer, 64, 5));
    let name = source.manifest().files[0].name.clone();
    two.0.rot_incoming(&name, 10);
    drop(transfer);
    let mut transfer = receiver.begin(source.manifest());
    let mut damaged = 0;
    while let Some(wanted) = transfer.wanted() {
        let data = source.read(wanted.file, wanted.offset, 4096).expect("reads");
        let put = transfer.put(wanted, &data, crc32c::crc32c(&data)).expect("a good disk");
        damaged += u32::from(matches!(put, Put::Damaged(_)));
    }
    assert_eq!(damaged, 1);
}

#[test]
fn what_is_not_this_nodes_to_take_is_refused() {
    for (one, two) in pairs() {
        let log = a_log(50);
        let (mut sender, mut receiver) = (one.start(), two.start());
        sender.advance(&log);
        receiver.advance(&log[..10]);
        let manifest = sender.take().manifest().clone();
        let check = |m: &Manifest, receiver: &Node, level| {
            snapshot::check(m, &receiver.identity, receiver.state.mark().index, level)
        };
        check(&manifest, &receiver, LEVEL).expect("its own");
        let other = |change: fn(&mut Manifest)| {
            let mut m = manifest.clone();
            change(&mut m);
            m
        };
        let foreign = other(|m| m.cluster = Uuid::from_u128(9));
        assert!(matches!(check(&foreign, &receiver, LEVEL), Err(SnapshotError::Foreign { .. })));
        let generation = other(|m| m.generation = 2);
        assert!(matches!(check(&generation, &receiver, LEVEL), Err(SnapshotError::Foreign { .. })));
        let newer = other(|m| m.level = 3);
        assert!(matches!(check(&newer, &receiver, LEVEL), Err(SnapshotError::Newer { level: 3 })));
        let unknown = other(|m| m.members.current.retain(|m| m.node_id != 2));
        assert!(matches!(
            check(&unknown, &receiver, LEVEL),
            Err(SnapshotError::NotAMember { node_id: 2, .. })
        ));
        let old = other(|m| m.index = 10);
        assert!(matches!(check(&old, &receiver, LEVEL), Err(SnapshotError::Old { .. })));
        let mut encoded = manifest.encode().expect("encodes");
        encoded[5] = 9;
        assert!(Manifest::decode(&encoded).is_err(), "a newer format");
        let upward = other(|m| m.files[0].name = "../identity".into());
        assert!(Manifest::decode(&upward.encode().expect("encodes")).is_err(), "out of its directory");
        // Right files under wrong words.
        let source = sender.take();
        let mut said = source.manifest().clone();
        said.chain[0] ^= 1;
        let mut transfer = receiver.begin(&said);
        assert!(send(&*source, &mut transfer, 1 << 16, usize::MAX));
        assert!(matches!(receiver.home.candidate(transfer), Err(SnapshotError::NotAsSaid(_))));
        // Another history at the applied index: quarantine, and nothing is installed.
        let mut other_log = a_log(50);
        other_log[4] = entry(5, 1, &bare("case/other", 1, 5, CommitId::NONE));
        let third = InMemory::new(2);
        let mut other = third.start();
        other.advance(&other_log[..10]);
        drop(receiver);
        let memory = InMemory::new(1);
        let mut sender = memory.start();
        sender.advance(&log);
        let source = sender.take();
        let mut transfer = other.begin(source.manifest());
        assert!(send(&*source, &mut transfer, 1 << 16, usize::MAX));
        let candidate = other.home.candidate(transfer).expect("opens");
        assert!(matches!(other.install(candidate), Err(SnapshotError::Diverged { index: 10 })));
        assert_eq!((third.databases(), other.state.mark().index), (vec!["db".to_owned()], 10));
    }
}

#[test]
fn a_copy_holds_neither_log_nor_what_is_the_senders_own() {
    let one = InMemory::new(1);
    let mut sender = one.start();
    sender.advance(&a_log(50));
    sender.log.persist(vec![], Some(HardState { term: 5, vote: 1, commit: 50 }), true).expect("writes");
    let source = sender.take();
    assert!(source.manifest().files.iter().all(|f| f.name != "log"));
    let two = InMemory::new(2);
    let receiver = two.start();
    let mut transfer = receiver.begin(source.manifest());
    assert!(send(&*source, &mut transfer, 1 << 16, usize::MAX));
    let candidate = receiver.home.candidate(transfer).expect("opens");
    let engine: Arc<dyn Engine> = candidate.engine().clone();
    let log = LogStore::open(engine).expect("opens");
    assert_eq!((log.hard_state().expect("reads"), log.last_index()), (HardState::default(), 50));
}

/// What rots on the receiver's disk after its sums were right is not installed either.
#[cfg(feature = "rocksdb")]
#[test]
fn what_has_rotted_while_it_was_received_is_not_installed() {
    let (one, two) = (on_disk::OnDisk::new(1), on_disk::OnDisk::new(2));
    let (mut a, b) = (one.start(), two.start());
    a.advance(&a_log(300));
    let source = a.take();
    let mut transfer = b.begin(source.manifest());
    assert!(send(&*source, &mut transfer, 1 << 16, usize::MAX), "every sum is right");
    let received: Vec<_> =
        walk(two.0.path()).into_iter().filter(|path| !path.starts_with(two.0.path().join("db"))).collect();
    let largest = received.iter().filter(|path| path.extension().is_some_and(|end| end == "sst"));
    let largest = largest.max_by_key(|path| path.metadata().map_or(0, |file| file.len())).expect("a table");
    let mut bytes = std::fs::read(largest).expect("reads");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(largest, bytes).expect("writes");
    let refused = b.home.candidate(transfer).err();
    assert!(refused.is_some(), "{} has rotted", largest.display());
}

/// Every file below.
#[cfg(feature = "rocksdb")]
fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("listed").flatten() {
        let path = entry.path();
        if path.is_dir() { found.extend(walk(&path)) } else { found.push(path) }
    }
    found
}
