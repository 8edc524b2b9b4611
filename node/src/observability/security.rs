//! The node's log of security events that change nothing: denials, and reads of personal data (design §8, R-S3).
//!
//! A JSON line per event, each with the hash of the line before it, so that an edited or cut line shows. One
//! thread writes; what gathers is written and synced together. Nothing that must be recorded is served when it
//! cannot be: see [`SecurityLog::record`].
//!
//! `security.log` is written; full ones are `security-<first sequence>.log`, which nobody here deletes: how long they
//! are kept is for whoever answers for the journal (R-S3).
//!
//! Invariants: line n's `previous` is the SHA-256 of line n−1 (zeroes for the first), over all files; `sequence`
//! counts from 1 without gaps; after a failed write or sync the log takes nothing more until the node is started
//! again, because what the medium then holds is unknown (rule 12). A disk without room is no such failure: the file is
//! cut back to its last whole batch, what was taken in waits, nothing more is taken in, and all goes on once there is
//! room.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    time::{Duration, SystemTime},
};

/// Events that wait for the writer. Beyond it the disk does not keep up, and recording refuses.
const QUEUE_MAX: usize = 16_384;
/// A file is closed beyond this: a start checks the newest one only, within a second.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Between two looks whether there is room again.
const ROOM_LOOK_EVERY: Duration = Duration::from_millis(500);
/// The file that is written.
pub const FILE: &str = "security.log";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    Denied,
    PersonalRead,
    /// Somebody changed how this node is run: what it logs, for one.
    Operated,
    /// What happened to the machine's power (R-R4).
    Power,
}

/// What happened; texts are short and hold no personal data beyond ids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    pub kind: EventKind,
    pub principal: String,
    pub remote: String,
    pub method: String,
    /// Entity or filter read, or the reason of a denial.
    pub subject: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Line {
    sequence: u64,
    time_ms: u64,
    #[serde(flatten)]
    event: Event,
    previous: String,
}

#[derive(Debug, thiserror::Error)]
pub enum SecurityLogError {
    #[error("{path}: cannot be used")]
    Io {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{path}:{line}: {detail}")]
    Broken { path: PathBuf, line: u64, detail: String },
}

/// The event was not taken in: what it belongs to must be refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the security log cannot be written")]
pub struct NotRecorded;

/// Figures and the state of the writer.
#[derive(Debug, Default)]
struct Shared {
    failed: AtomicBool,
    written: AtomicU64,
    dropped: AtomicU64,
}

/// Where events are recorded; cheap to clone.
#[derive(Clone)]
pub struct SecurityLog {
    queue: mpsc::SyncSender<Event>,
    shared: Arc<Shared>,
}

/// A chain's end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    pub sequence: u64,
    pub hash: String,
    /// Bytes of whole lines.
    bytes: u64,
}

impl SecurityLog {
    /// Opens or creates the log in `directory`, checks the chain of its newest file, and starts the writer. A torn
    /// last line (power cut) is cut off.
    pub fn open(directory: &Path, sync_interval: Duration) -> Result<Self, SecurityLogError> {
        Self::open_with(directory, sync_interval, FILE_BYTES_MAX)
    }

    fn open_with(
        directory: &Path,
        sync_interval: Duration,
        file_bytes_max: u64,
    ) -> Result<Self, SecurityLogError> {
        let path = directory.join(FILE);
        let io = |source| SecurityLogError::Io { path: path.clone(), source };
        let head = match closed_files(directory)?.pop() {
            // A crash between closing a file and the first line of the next leaves only the closed one to go on from.
            Some(last) if !has_line(&path) => Head { bytes: 0, ..verify_file(&last, None)? },
            Some(_) => verify_file(&path, None)?,
            None => verify_file(&path, Some(&Head::start()))?,
        };
        let mut file = create(&path).map_err(io)?;
        file.set_len(head.bytes).map_err(io)?;
        file.seek(SeekFrom::End(0)).map_err(io)?;
        file.sync_all().map_err(io)?;
        sync_directory(directory).map_err(io)?;
        let (queue, events) = mpsc::sync_channel(QUEUE_MAX);
        let shared = Arc::new(Shared::default());
        let writer = Writer {
            directory: directory.to_owned(),
            file,
            file_bytes_max,
            first: first_sequence(&path).map_err(io)?.unwrap_or(head.sequence + 1),
            head,
            events,
            shared: shared.clone(),
            sync_interval,
        };
        std::thread::Builder::new().name("security-log".into()).spawn(move || writer.run()).map_err(io)?;
        Ok(Self { queue, shared })
    }

    /// Takes an event in; it is on stable storage within the sync interval.
    pub fn record(&self, event: Event) -> Result<(), NotRecorded> {
        if self.shared.failed.load(Ordering::Acquire) {
            return Err(NotRecorded);
        }
        self.queue.try_send(event).map_err(|_| {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
            NotRecorded
        })
    }

    pub fn is_failed(&self) -> bool {
        self.shared.failed.load(Ordering::Acquire)
    }

    /// Events written and events that found no room.
    pub fn figures(&self) -> (u64, u64) {
        (self.shared.written.load(Ordering::Relaxed), self.shared.dropped.load(Ordering::Relaxed))
    }
}

struct Writer {
    directory: PathBuf,
    file: File,
    file_bytes_max: u64,
    /// Sequence of the file's first line.
    first: u64,
    head: Head,
    events: mpsc::Receiver<Event>,
    shared: Arc<Shared>,
    sync_interval: Duration,
}

impl Writer {
    fn run(mut self) {
        while let Ok(first) = self.events.recv() {
            let mut batch = Vec::new();
            let mut count = 1;
            self.line(first, &mut batch);
            // Bounded by the queue; everything waiting goes together.
            while count < QUEUE_MAX as u64
                && let Ok(event) = self.events.try_recv()
            {
                self.line(event, &mut batch);
                count += 1;
            }
            if let Err(error) = self.append(&batch).and_then(|()| self.close_full()) {
                tracing::error!(%error, "the security log cannot be written: recorded calls are refused from now on");
                self.shared.failed.store(true, Ordering::Release);
                return;
            }
            self.shared.written.fetch_add(count, Ordering::Relaxed);
            // Groups what comes meanwhile into one sync; the queue has room for it.
            std::thread::sleep(self.sync_interval);
        }
    }

    /// Writes and syncs a batch; waits for room while there is none.
    fn append(&mut self, batch: &[u8]) -> std::io::Result<()> {
        while let Err(error) = self.file.write_all(batch) {
            // Whoever is to be served waits for nothing: the node ends.
            let alone = Arc::strong_count(&self.shared) == 1;
            if error.kind() != std::io::ErrorKind::StorageFull || alone {
                return Err(error);
            }
            self.file.set_len(self.head.bytes)?;
            self.file.seek(SeekFrom::Start(self.head.bytes))?;
            if !self.shared.failed.swap(true, Ordering::AcqRel) {
                tracing::error!("no room for the security log: recorded calls are refused until there is");
            }
            std::thread::sleep(ROOM_LOOK_EVERY);
        }
        self.file.sync_data()?;
        self.head.bytes += batch.len() as u64;
        if self.shared.failed.swap(false, Ordering::AcqRel) {
            tracing::info!("there is room for the security log again");
        }
        Ok(())
    }

    /// Closes the file when it is full, and begins the next.
    fn close_full(&mut self) -> std::io::Result<()> {
        if self.head.bytes < self.file_bytes_max {
            return Ok(());
        }
        let path = self.directory.join(FILE);
        std::fs::rename(&path, self.directory.join(format!("security-{:020}.log", self.first)))?;
        self.file = create(&path)?;
        self.file.sync_all()?;
        (self.first, self.head.bytes) = (self.head.sequence + 1, 0);
        sync_directory(&self.directory)
    }

    fn line(&mut self, event: Event, into: &mut Vec<u8>) {
        let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let line = Line {
            sequence: self.head.sequence + 1,
            time_ms: u64::try_from(time.as_millis()).unwrap_or(u64::MAX),
            event,
            previous: std::mem::take(&mut self.head.hash),
        };
        let text = serde_json::to_vec(&line).expect("a line is plain strings and numbers");
        self.head.sequence += 1;
        self.head.hash = hash(&text);
        into.extend_from_slice(&text);
        into.push(b'\n');
    }
}

fn hash(line: &[u8]) -> String {
    hex::encode(Sha256::digest(line))
}

impl Head {
    /// Before the first line.
    fn start() -> Self {
        Self { sequence: 0, hash: "0".repeat(64), bytes: 0 }
    }
}

fn create(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)
}

fn sync_directory(directory: &Path) -> std::io::Result<()> {
    File::open(directory)?.sync_all()
}

/// The closed files, oldest first: their names order like their sequences.
fn closed_files(directory: &Path) -> Result<Vec<PathBuf>, SecurityLogError> {
    let io = |source| SecurityLogError::Io { path: directory.to_owned(), source };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with("security-") && name.ends_with(".log") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn has_line(path: &Path) -> bool {
    first_sequence(path).is_ok_and(|sequence| sequence.is_some())
}

/// Sequence of the first whole line; `None` when there is none.
fn first_sequence(path: &Path) -> std::io::Result<Option<u64>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = Vec::new();
    BufReader::new(file).read_until(b'\n', &mut text)?;
    Ok(serde_json::from_slice::<Line>(&text).ok().map(|line| line.sequence))
}

/// Checks the whole chain, over all files; returns its end. What has no log has an empty chain.
pub fn verify(directory: &Path) -> Result<Head, SecurityLogError> {
    let mut head = Head::start();
    for path in closed_files(directory)?.iter().chain(&[directory.join(FILE)]) {
        head = verify_file(path, Some(&head))?;
    }
    Ok(head)
}

/// Checks the chain of one file, which follows `before` if given; returns its end. A last line without its end
/// (torn by a power cut) is not counted.
fn verify_file(path: &Path, before: Option<&Head>) -> Result<Head, SecurityLogError> {
    let io = |source| SecurityLogError::Io { path: path.to_owned(), source };
    let mut head = before.map(|before| Head { bytes: 0, ..before.clone() });
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(head.unwrap_or_else(Head::start));
        }
        Err(error) => return Err(io(error)),
    };
    let mut reader = BufReader::new(file);
    let mut text = Vec::new();
    for place in 1_u64.. {
        text.clear();
        let read = reader.read_until(b'\n', &mut text).map_err(io)?;
        if read == 0 || text.pop() != Some(b'\n') {
            break;
        }
        let broken = |detail: &str| SecurityLogError::Broken {
            path: path.to_owned(),
            line: place,
            detail: detail.to_owned(),
        };
        let line: Line =
            serde_json::from_slice(&text).map_err(|error| broken(&format!("not a record: {error}")))?;
        let before = head.unwrap_or_else(|| Head {
            sequence: line.sequence.saturating_sub(1),
            hash: line.previous.clone(),
            bytes: 0,
        });
        if line.sequence != before.sequence + 1 {
            return Err(broken("a line is missing or doubled"));
        }
        if line.previous != before.hash {
            return Err(broken("the line before was changed"));
        }
        head = Some(Head { sequence: line.sequence, hash: hash(&text), bytes: before.bytes + read as u64 });
    }
    Ok(head.unwrap_or_else(Head::start))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(n: u32) -> Event {
        Event {
            kind: EventKind::Denied,
            principal: format!("operator/{n}"),
            remote: "127.0.0.1:1".into(),
            method: "/okno.v1.CaseService/OpenCase".into(),
            subject: "METHOD_NOT_ALLOWED".into(),
        }
    }

    /// Writes `count` events and waits until they are on disk.
    fn write(directory: &Path, count: u32, file_bytes_max: u64) {
        let log =
            SecurityLog::open_with(directory, Duration::from_millis(1), file_bytes_max).expect("opened");
        for n in 0..count {
            log.record(event(n)).expect("recorded");
            let deadline = std::time::Instant::now() + Duration::from_secs(10);
            while log.figures().0 < u64::from(n + 1) {
                assert!(std::time::Instant::now() < deadline, "not written in time");
                std::thread::yield_now();
            }
        }
    }

    #[test]
    fn chain_goes_on_over_restarts_and_torn_lines() {
        let directory = tempfile::tempdir().expect("directory");
        let (directory, path) = (directory.path(), directory.path().join(FILE));
        write(directory, 5, FILE_BYTES_MAX);
        assert_eq!(verify(directory).expect("whole").sequence, 5);
        let mut file = OpenOptions::new().append(true).open(&path).expect("opened");
        file.write_all(b"{\"sequence\":6,\"time").expect("torn");
        drop(file);
        write(directory, 2, FILE_BYTES_MAX);
        assert_eq!(verify(directory).expect("whole").sequence, 7);
    }

    #[test]
    fn full_files_are_closed_and_the_chain_goes_on() {
        let directory = tempfile::tempdir().expect("directory");
        let directory = directory.path();
        write(directory, 7, 600);
        let closed = closed_files(directory).expect("listed");
        assert!(closed.len() >= 2, "{closed:?}");
        assert_eq!(verify(directory).expect("whole").sequence, 7);
        // As after a crash right behind the closing of a file.
        let last = std::fs::read_to_string(directory.join(FILE)).expect("read");
        let count = last.lines().count() as u64;
        std::fs::remove_file(directory.join(FILE)).expect("removed");
        write(directory, 1, 600);
        assert_eq!(verify(directory).expect("whole").sequence, 7 - count + 1);
        std::fs::remove_file(&closed[0]).expect("removed");
        assert!(verify(directory).is_err(), "a missing file shows");
    }

    #[test]
    fn changed_and_missing_lines_show() {
        let directory = tempfile::tempdir().expect("directory");
        let (directory, path) = (directory.path(), directory.path().join(FILE));
        write(directory, 5, FILE_BYTES_MAX);
        let text = std::fs::read_to_string(&path).expect("read");
        let check = |changed: String, line: u64| {
            std::fs::write(&path, changed).expect("written");
            match verify(directory) {
                Err(SecurityLogError::Broken { line: found, .. }) => assert_eq!(found, line),
                other => panic!("{other:?}"),
            }
            assert!(
                SecurityLog::open(directory, Duration::from_millis(1)).is_err(),
                "a broken chain is not continued"
            );
        };
        check(text.replace("operator/2", "operator/9"), 4);
        let lines: Vec<&str> = text.lines().collect();
        check(format!("{}\n", [lines[0], lines[1], lines[3], lines[4]].join("\n")), 3);
        check(text.replace("\"sequence\":5", "\"sequence\":6"), 5);
        check(format!("{}\n", lines[1..].join("\n")), 1);
    }
}
