//! What a commit of about 1 KB costs one node: microseconds of apply and of log append, on RocksDB.
//!
//! `cargo run --release -p okno-storage --example apply_cost [commits [batch]]`; used by docs/performance.md. It
//! times the two threads' work apart, each on one core; the database is in a temporary directory.

use bytes::Bytes;
use okno_storage::{
    commit::{
        Body, Commit, CommitId, EntityKey, Origin, PartChange, Record, RecordTag, RememberedReply,
        RequestKey, RequestRef, RowChange, Value,
    },
    engine::Engine,
    log::{EntryKind, LogEntry, LogStore},
    rocks::{RocksEngine, RocksOptions},
    state::{Genesis, StateStore},
};
use std::{sync::Arc, time::Instant};
use uuid::Uuid;

/// Every fourth commit opens a case, the others add a document to one: an event of 1 KB, a small root, one part
/// that is the event's body, an index row when opened, a remembered reply.
fn commit(n: u64, heads: &mut [CommitId]) -> Commit {
    let slot = usize::try_from(n / 4 % heads.len() as u64).unwrap_or_default();
    let entity = EntityKey::parse(&format!("case/0192f0c4-7a00-7000-8000-{slot:012x}")).expect("well formed");
    let id = CommitId { term: 2, counter: n + 1 };
    let base = std::mem::replace(&mut heads[slot], id);
    let tag = |kind| RecordTag { kind, version: 1 };
    let time_ms = 1_790_000_000_000 + i64::try_from(n / 10).unwrap_or_default();
    let key = RequestKey {
        id: Uuid::from_u128((time_ms as u128) << 80 | 7 << 76 | u128::from(n)),
        principal: "workstation/okno-12-3".into(),
    };
    let request = RequestRef { key, hash: [n as u8; 32] };
    let body: Vec<u8> = (0..1024u64).map(|i| (i * 31 + n) as u8).collect();
    let part = Value { tag: tag(3), body: Body::OfEvent { event: 0, start: 0, len: 1024 } };
    let row = RowChange { table: 1, key: Bytes::from(format!("office-12 {:020}", n)), value: Some(None) };
    Commit {
        entity,
        term: 2,
        id,
        base,
        time_ms,
        origin: Some(Origin {
            principal: "workstation/okno-12-3".into(),
            workstation: "okno-12-3".into(),
            request: Some(request.clone()),
        }),
        events: vec![Record { tag: tag(1), body: body.into() }],
        root: Some(Value { tag: tag(2), body: Body::Inline(vec![7; 160].into()) }),
        parts: vec![PartChange { part: Bytes::from(format!("doc-{}", n % 4)), value: Some(part) }],
        rows: if base == CommitId::NONE { vec![row] } else { vec![] },
        sent: vec![],
        consumed: vec![],
        timers: vec![],
        replies: vec![RememberedReply { request, reply: Record { tag: tag(4), body: vec![1; 40].into() } }],
        system: None,
    }
}

fn genesis() -> Genesis {
    Genesis { chain: [0; 32], conf_state: Bytes::new() }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1).map(|a| a.parse::<u64>());
    let commits = args.next().transpose()?.unwrap_or(100_000);
    let batch = usize::try_from(args.next().transpose()?.unwrap_or(64))?.max(1);
    let dir = tempfile::tempdir()?;
    let engine = RocksEngine::open(dir.path().join("db"), &RocksOptions::default())?;
    let shared: Arc<dyn Engine> = Arc::new(engine.clone());
    let log = LogStore::open(shared.clone())?;
    let mut state = StateStore::open(shared, genesis())?;
    let mut heads = vec![CommitId::NONE; 50_000];
    let (mut encode, mut append, mut apply, mut bytes) = (0.0, 0.0, 0.0, 0);
    let mut index = 0;
    while index < commits {
        let made: Vec<Commit> = (0..batch as u64).map(|n| commit(index + n, &mut heads)).collect();
        let start = Instant::now();
        let mut entries = Vec::with_capacity(batch);
        for commit in &made {
            index += 1;
            entries.push(LogEntry { index, term: 2, kind: EntryKind::Normal, data: commit.encode()? });
        }
        encode += start.elapsed().as_secs_f64();
        bytes += entries.iter().map(|e| e.data.len()).sum::<usize>();
        let start = Instant::now();
        log.persist(entries.clone(), None, false)?;
        append += start.elapsed().as_secs_f64();
        let start = Instant::now();
        let slice = state.apply(&entries, index)?;
        apply += start.elapsed().as_secs_f64();
        assert!(slice.entries.iter().all(|e| e.moved), "every commit applies");
    }
    let each = |seconds: f64| seconds * 1e6 / index as f64;
    println!("commits {index} · batch {batch} · {} bytes each", bytes as u64 / index);
    println!(
        "encode {:.1} µs · append without sync {:.1} µs · apply {:.1} µs",
        each(encode),
        each(append),
        each(apply)
    );
    for size in [1usize, 8, 64] {
        let rounds = 200;
        let start = Instant::now();
        for _ in 0..rounds {
            let mut entries = Vec::with_capacity(size);
            for _ in 0..size {
                let data = commit(index, &mut heads).encode()?;
                index += 1;
                entries.push(LogEntry { index, term: 2, kind: EntryKind::Normal, data });
            }
            log.persist(entries, None, true)?;
        }
        let each = start.elapsed().as_secs_f64() * 1e6 / f64::from(rounds);
        println!("append of {size} with sync {each:.0} µs");
    }
    for (name, value) in engine.stats() {
        println!("  {name} {value}");
    }
    // A start as after a kill: nothing was flushed on purpose, so the write-ahead log is replayed.
    drop((log, state, engine));
    let start = Instant::now();
    let engine: Arc<dyn Engine> =
        Arc::new(RocksEngine::open(dir.path().join("db"), &RocksOptions::default())?);
    let opened = start.elapsed();
    LogStore::open(engine.clone())?;
    let log = start.elapsed() - opened;
    StateStore::open(engine, genesis())?;
    println!("start: database {opened:.1?} · log {log:.1?} · state {:.1?}", start.elapsed() - opened - log);
    Ok(())
}
