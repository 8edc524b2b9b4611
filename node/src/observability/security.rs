//! The node's log of security events that change nothing: denials, and reads of personal data (design §8, R-S3).
//!
//! A JSON line per event, each with the hash of the line before it, so that an edited or cut line shows. One
//! thread writes; what gathers is written and synced together. Nothing that must be recorded is served when it
//! cannot be: see [`SecurityLog::record`].
//!
//! Invariants: line n's `previous` is the SHA-256 of line n−1 (zeroes for the first); `sequence` counts from 1
//! without gaps; after a failed write or sync the log takes nothing more until the node is started again, because
//! what the medium then holds is unknown (rule 12).

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Seek, SeekFrom, Write},
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    Denied,
    PersonalRead,
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
    /// Opens or creates the file, checks its chain, and starts the writer. A torn last line (power cut) is cut off.
    pub fn open(path: &Path, sync_interval: Duration) -> Result<Self, SecurityLogError> {
        let io = |source| SecurityLogError::Io { path: path.to_owned(), source };
        let head = verify(path)?;
        let mut file = OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(io)?;
        file.set_len(head.bytes).map_err(io)?;
        file.seek(SeekFrom::End(0)).map_err(io)?;
        file.sync_all().map_err(io)?;
        if let Some(directory) = path.parent() {
            File::open(directory).and_then(|directory| directory.sync_all()).map_err(io)?;
        }
        let (queue, events) = mpsc::sync_channel(QUEUE_MAX);
        let shared = Arc::new(Shared::default());
        let writer = Writer { file, head, events, shared: shared.clone(), sync_interval };
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
    file: File,
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
            if let Err(error) = self.file.write_all(&batch).and_then(|()| self.file.sync_data()) {
                tracing::error!(%error, "the security log cannot be written: recorded calls are refused from now on");
                self.shared.failed.store(true, Ordering::Release);
                return;
            }
            self.shared.written.fetch_add(count, Ordering::Relaxed);
            // Groups what comes meanwhile into one sync; the queue has room for it.
            std::thread::sleep(self.sync_interval);
        }
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

/// Checks the chain of a file; an absent one has an empty chain. A last line without its end is not counted.
pub fn verify(path: &Path) -> Result<Head, SecurityLogError> {
    let io = |source| SecurityLogError::Io { path: path.to_owned(), source };
    let mut head = Head { sequence: 0, hash: "0".repeat(64), bytes: 0 };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(head),
        Err(error) => return Err(io(error)),
    };
    let mut reader = BufReader::new(file);
    let mut text = Vec::new();
    loop {
        text.clear();
        let read = reader.read_until(b'\n', &mut text).map_err(io)?;
        if read == 0 || text.pop() != Some(b'\n') {
            return Ok(head);
        }
        let broken = |detail: &str| SecurityLogError::Broken {
            path: path.to_owned(),
            line: head.sequence + 1,
            detail: detail.to_owned(),
        };
        let line: Line = serde_json::from_slice(&text).map_err(|error| broken(&format!("not a record: {error}")))?;
        if line.sequence != head.sequence + 1 {
            return Err(broken("a line is missing or doubled"));
        }
        if line.previous != head.hash {
            return Err(broken("the line before was changed"));
        }
        head = Head { sequence: line.sequence, hash: hash(&text), bytes: head.bytes + read as u64 };
    }
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
    fn write(path: &Path, count: u32) {
        let log = SecurityLog::open(path, Duration::from_millis(1)).expect("opened");
        for n in 0..count {
            log.record(event(n)).expect("recorded");
        }
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while log.figures().0 < u64::from(count) {
            assert!(std::time::Instant::now() < deadline, "not written in time");
            std::thread::yield_now();
        }
    }

    #[test]
    fn chain_goes_on_over_restarts_and_torn_lines() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("security.log");
        write(&path, 5);
        assert_eq!(verify(&path).expect("whole").sequence, 5);
        let mut file = OpenOptions::new().append(true).open(&path).expect("opened");
        file.write_all(b"{\"sequence\":6,\"time").expect("torn");
        drop(file);
        write(&path, 2);
        assert_eq!(verify(&path).expect("whole").sequence, 7);
    }

    #[test]
    fn changed_and_missing_lines_show() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("security.log");
        write(&path, 5);
        let text = std::fs::read_to_string(&path).expect("read");
        let check = |changed: String, line: u64| {
            std::fs::write(&path, changed).expect("written");
            match verify(&path) {
                Err(SecurityLogError::Broken { line: found, .. }) => assert_eq!(found, line),
                other => panic!("{other:?}"),
            }
            assert!(SecurityLog::open(&path, Duration::from_millis(1)).is_err(), "a broken chain is not continued");
        };
        check(text.replace("operator/2", "operator/9"), 4);
        let lines: Vec<&str> = text.lines().collect();
        check(format!("{}\n", [lines[0], lines[1], lines[3], lines[4]].join("\n")), 3);
        check(text.replace("\"sequence\":5", "\"sequence\":6"), 5);
    }
}
