//! The log archive: where it begins and goes on, what interrupts it, and what a restore makes of its gaps.

use super::{BEGUN_MS, CLUSTER, Node, Room, StopAt, commit};
use crate::backup::{
    Silent,
    archive::{self, LogSource, Position, Turn},
    restore::Until,
};
use bytes::Bytes;
use okno_storage::{
    commit::{Body, CommitId, Record, RecordTag, Value},
    error::StorageError,
    log::LogEntry,
};
use std::fs;

#[test]
fn the_archive_tells_gaps_and_strange_histories() {
    let mut room = Room::new(true);
    room.node.grow(10);
    let mut archiver = room.archiver();
    let turn = archiver.turn(&room.node, &Silent).expect("looked at");
    assert_eq!(turn, Turn::NoBackup, "nothing to begin behind");
    let manifest = room.take();
    assert_eq!(archiver.turn(&room.node, &Silent).expect("archived"), Turn::Caught(room.node.index()));
    room.node.grow(10);
    archiver.turn(&room.node, &Silent).expect("archived");
    drop(archiver);
    // A node of the same cluster's name whose history is another one.
    let mut strange = Node::new(&room.root.join("strange"), CLUSTER);
    let mut other = commit("case/other", 1, CommitId::NONE, BEGUN_MS + 1);
    other.events =
        vec![Record { tag: RecordTag { kind: 1, version: 1 }, body: Bytes::from_static(b"other") }];
    other.root = Some(Value { tag: RecordTag { kind: 1, version: 1 }, body: Body::Inline(Bytes::new()) });
    strange.append(&[other]);
    let mut archiver = room.archiver();
    let behind = archiver.turn(&strange, &Silent).expect("looked at");
    assert_eq!(behind, Turn::Behind { archived: room.node.index() });
    strange.grow(40);
    let refused = archiver.turn(&strange, &Silent).expect_err("another history").to_string();
    assert!(refused.contains("this node's history"), "{refused}");
    drop(archiver);
    // A segment lost in the middle ends the way; what is behind it is not applied over a hole.
    let mut archiver = room.archiver();
    room.node.grow(5);
    archiver.turn(&room.node, &Silent).expect("archived");
    let segments = archive::segments(&room.folder(), 1).expect("listed");
    assert_eq!(segments.len(), 2);
    let path = room.folder().archive(1).join(segments[0].text());
    fs::remove_file(path).expect("removed");
    assert_eq!(room.verify(&manifest.id).expect("the backup is whole").archived_to, manifest.index);
}

#[test]
fn a_killed_archiver_loses_nothing_that_was_archived() {
    let mut room = Room::new(true);
    room.node.grow(10);
    let manifest = room.take();
    let mut reached = manifest.index;
    for steps in 0..40 {
        let mut archiver = room.archiver();
        room.node.grow(4);
        let _ = archiver.turn(&room.node, &StopAt::new(steps % 8));
        room.node.grow(2);
        let _ = archiver.turn(&room.node, &StopAt::new(steps / 5));
        drop(archiver);
        let to = archive::check(&room.folder(), &manifest, &room.identities, &Silent).expect("whole");
        assert!(to >= reached, "step {steps}: {to} after {reached}");
        reached = to;
    }
    let mut archiver = room.archiver();
    archiver.turn(&room.node, &Silent).expect("archived");
    let restored = room.restore(Until::End, "out").expect("restored");
    assert_eq!((restored.index, restored.digest), (room.node.index(), room.node.digest()));
}

#[test]
fn what_lies_between_two_backups_can_be_reached_also_when_the_archive_began_later() {
    let mut room = Room::new(true);
    room.node.grow(10);
    let first = room.take();
    room.node.grow(10);
    let (between, digest) = (room.node.index(), room.node.digest());
    room.node.grow(10);
    room.take();
    room.node.grow(5);
    let mut archiver = room.archiver();
    archiver.turn(&room.node, &Silent).expect("archived");
    assert_eq!(room.verify(&first.id).expect("whole").archived_to, room.node.index());
    let restored = room.restore(Until::Index(between), "out").expect("restored");
    assert_eq!((restored.index, restored.digest), (between, digest));
}

/// A log whose head is cut.
struct Cut<'a> {
    node: &'a Node,
    first: u64,
}

impl LogSource for Cut<'_> {
    fn applied(&self) -> u64 {
        self.node.applied()
    }
    fn entries(&self, from: u64, to: u64, bytes_max: usize) -> Result<Vec<LogEntry>, StorageError> {
        self.node.entries(from.max(self.first), to, bytes_max)
    }
    fn positions(&self, after: u64, limit: usize) -> Result<Vec<Position>, StorageError> {
        self.node.positions(after, limit)
    }
}

#[test]
fn entries_cut_before_they_were_archived_are_a_gap_until_the_next_backup() {
    let mut room = Room::new(false);
    room.node.grow(10);
    let first = room.take();
    room.node.grow(10);
    let mut archiver = room.archiver();
    archiver.turn(&room.node, &Silent).expect("archived");
    let archived = room.node.index();
    drop(archiver);
    room.node.grow(30);
    // While nobody archived, the log was cut beyond the archive's end.
    let mut archiver = room.archiver();
    let turn = archiver.turn(&Cut { node: &room.node, first: archived + 11 }, &Silent).expect("looked at");
    assert!(matches!(turn, Turn::Gap { archived: at, .. } if at == archived), "{turn:?}");
    let second = room.take();
    room.node.grow(5);
    let end = room.node.index();
    let turn = archiver.turn(&Cut { node: &room.node, first: archived + 11 }, &Silent).expect("archived");
    assert_eq!(turn, Turn::Caught(end));
    assert_eq!(room.verify(&first.id).expect("whole").archived_to, archived, "no way over the gap");
    assert_eq!(room.verify(&second.id).expect("whole").archived_to, end);
    let refused = room.restore(Until::Index(archived + 5), "between").expect_err("nowhere").to_string();
    assert!(refused.contains(&format!("reaches to entry {archived}")), "{refused}");
}
