//! Copies of the database between virtual nodes, and the cutting of the log. Mirrors `cluster/src/shell/copies.rs`,
//! `cluster/src/transport/copy.rs` and the raft thread's part; files travel in chunks, one at a time, over the same links
//! as everything else.

use super::{Live, TICK_MS, machine::slots_sound};
use crate::{
    core::{Core, End},
    net::Packet,
    queue::What,
};
use bytes::Bytes;
use okno_cluster::{
    core::{
        change::Known,
        clock::HEARD_WITHIN_MS,
        event::{Effects, Event, Install, Persist},
        retention, steps,
        table::Answers,
    },
    settings::FEATURE_LEVEL,
};
use okno_storage::{
    memory::MemoryIdentity,
    snapshot::{Candidate, CopyOf, Home, Manifest, Put, Receiver, SnapshotError, Source, Wanted},
};
use raft::eraftpb::Message;
use rand::Rng;
use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
};

/// Taking a copy reads everything.
const TAKE_US: (u64, u64) = (5_000, 400_000);
/// A transfer in which nothing was heard for so long has failed.
const PATIENCE_US: u64 = 1_500_000;
/// Small, so that transfers are cut in many places.
const CHUNK_BYTES: usize = 16 * 1024;

/// How far an install had come when the end came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// `identity` does not name the copy.
    Unnamed,
    /// In the write that names it.
    Torn,
    /// It names it.
    Named,
}

#[derive(Default)]
pub(super) struct Copies {
    source: Option<Arc<dyn Source>>,
    sending: Option<Sending>,
    receiving: Option<Receiving>,
    /// Received and checked: (copy, from whom, transfer).
    candidates: BTreeMap<u64, (Candidate, u64, u64)>,
    next: u64,
    /// The process is to end while a copy comes in.
    cut: bool,
}

impl Copies {
    pub(super) fn new(cut: bool) -> Self {
        Self { cut, ..Self::default() }
    }
}

struct Sending {
    to: u64,
    transfer: u64,
    source: Arc<dyn Source>,
    heard_us: u64,
}

struct Receiving {
    from: u64,
    transfer: u64,
    message: Box<Message>,
    receiver: Receiver,
}

impl Live {
    pub(super) fn place(node: u64) -> usize {
        usize::try_from(node - 1).unwrap_or(usize::MAX)
    }

    /// What the driver must know of others.
    pub(super) fn know(&self, w: &Core) -> Known {
        Known {
            level: self.reader.view().level().map_or(1, |level| level.max(1)),
            levels: self.members.levels().clone(),
            heard: self.peers.heard(self.now_ms(w), HEARD_WITHIN_MS),
            admitted: self.members.admitted(),
            barred: self.members.barred().clone(),
            incarnations: self.members.incarnations().clone(),
        }
    }

    /// Once a tick: cuts what nobody needs.
    pub(super) fn cut_log(&mut self, w: &mut Core) {
        let Some(driver) = self.driver.as_ref().filter(|d| !d.is_waiting()) else { return };
        let (kept, within_ms) = w.retention;
        let (truncated, _) = self.log.truncated();
        let others = self.peers.positions(self.now_ms(w), within_ms);
        let facts = retention::Facts {
            first_index: truncated + 1,
            last_index: driver.last_index(),
            applied: driver.applied(),
            others: &others,
            pinned: driver.pinned_from(),
            entry_bytes: self.entry_bytes.mean(),
        };
        let through = retention::cut_through(kept, facts);
        if through.saturating_sub(truncated) >= retention::STEP_MIN.min(kept.tail) {
            match self.log.cut(through) {
                Ok(_) => w.watch.figures.cuts += 1,
                Err(error) => self.failed(w, "cutting the log", &error),
            }
        }
    }

    /// What a turn asks for.
    pub(super) fn copies_of(&mut self, w: &mut Core, fx: &mut Effects) {
        for copy in std::mem::take(&mut fx.discard) {
            if let Some((candidate, from, transfer)) = self.copies.candidates.remove(&copy) {
                drop(candidate);
                w.send_news(self.ix, Self::place(from), Packet::CopyDone { transfer, installed: false });
            }
        }
        if fx.drop_copy {
            self.copies.source = None;
        }
        if fx.take_copy {
            let after = w.rng.threads.gen_range(TAKE_US.0..=TAKE_US.1);
            self.at(w, after, What::Copy);
        }
        for message in std::mem::take(&mut fx.send_copies) {
            self.send_copy(w, message);
        }
    }

    /// The copy itself is taken in a moment; when, is the thread's business.
    pub(super) fn take_copy(&mut self, w: &mut Core) {
        let record = self.identity.record();
        let of = CopyOf {
            cluster: record.cluster,
            generation: record.later.generation,
            genesis: record.genesis_chain(),
            node_id: record.node_id,
        };
        let taken = self.home.take(&of, &mut |_| true);
        let copied = taken.and_then(|source| Ok((steps::copy_facts(source.manifest())?, source)));
        let facts = match copied {
            Ok((facts, source)) => {
                w.watch.figures.copies += 1;
                self.copies.source = Some(source);
                Some(facts)
            }
            Err(SnapshotError::Storage(error)) => {
                self.failed(w, "taking a copy", &error);
                None
            }
            Err(_) => None,
        };
        self.push(w, Event::Copied(facts));
    }

    fn send_copy(&mut self, w: &mut Core, message: Message) {
        let to = message.to;
        let index = message.get_snapshot().get_metadata().index;
        let source = self.copies.source.clone().filter(|s| s.manifest().index == index);
        let manifest = source.as_ref().and_then(|s| s.manifest().encode().ok());
        let (Some(source), Some(manifest)) = (source, manifest) else {
            return self.push(w, Event::Sent { to, installed: false });
        };
        let transfer = w.next_id();
        self.copies.sending = Some(Sending { to, transfer, source, heard_us: w.now });
        let message = Box::new(message);
        let begin = Packet::CopyBegin { transfer, manifest: manifest.into(), message };
        w.send_news(self.ix, Self::place(to), begin);
        self.at(w, PATIENCE_US, What::CopyPatience(transfer));
    }

    /// Was anything heard of the transfer?
    pub(super) fn transfer_patience(&mut self, w: &mut Core, transfer: u64) {
        let Some(sending) = self.copies.sending.as_ref().filter(|s| s.transfer == transfer) else { return };
        let silent = w.now.saturating_sub(sending.heard_us);
        if silent < PATIENCE_US {
            return self.at(w, PATIENCE_US - silent, What::CopyPatience(transfer));
        }
        self.transfer_over(w, transfer, false);
    }

    fn transfer_over(&mut self, w: &mut Core, transfer: u64, installed: bool) {
        if let Some(sending) = self.copies.sending.take_if(|s| s.transfer == transfer) {
            self.push(w, Event::Sent { to: sending.to, installed });
        }
    }

    pub fn copy_packet(&mut self, w: &mut Core, from: usize, packet: Packet) {
        if !self.is_open() {
            return;
        }
        let node = from as u64 + 1;
        match packet {
            Packet::CopyBegin { transfer, manifest, message } => {
                let begun = self.receive(w, node, transfer, &manifest, message);
                if !begun {
                    w.send_news(self.ix, from, Packet::CopyDone { transfer, installed: false });
                }
            }
            Packet::CopyWanted { transfer, wanted } => {
                let Some(sending) = self.copies.sending.as_mut().filter(|s| s.transfer == transfer) else {
                    return;
                };
                sending.heard_us = w.now;
                let Ok(data) = sending.source.read(wanted.file, wanted.offset, CHUNK_BYTES) else { return };
                let crc = crc32c::crc32c(&data);
                w.send_news(self.ix, from, Packet::CopyChunk { transfer, at: wanted, data, crc });
            }
            Packet::CopyChunk { transfer, at, data, crc } => self.chunk(w, from, transfer, at, &data, crc),
            Packet::CopyDone { transfer, installed } => self.transfer_over(w, transfer, installed),
            _ => {}
        }
    }

    /// False: refused.
    fn receive(
        &mut self,
        w: &mut Core,
        from: u64,
        transfer: u64,
        manifest: &Bytes,
        message: Box<Message>,
    ) -> bool {
        let Ok(manifest) = Manifest::decode(manifest) else { return false };
        let index = manifest.index;
        let checked = okno_storage::snapshot::check(&manifest, &self.identity, self.applied(), FEATURE_LEVEL);
        if let Err(why) = checked {
            if matches!(why, SnapshotError::Old { .. }) {
                self.push(w, Event::NotNeeded { from, message });
            }
            return false;
        }
        if !self.copies.candidates.is_empty() {
            return false;
        }
        // The one before is given up; what came of it is still there.
        self.copies.receiving = None;
        let begun = self.home.incoming().map_err(SnapshotError::from);
        match begun.and_then(|place| Receiver::begin(manifest, place, &mut |_| true)) {
            Ok(receiver) => {
                if w.trace.on() {
                    w.trace.say(w.now, format_args!("n{} begins to receive a copy of {index}", self.ix + 1));
                }
                self.copies.receiving = Some(Receiving { from, transfer, message, receiver });
                self.ask_on(w);
                true
            }
            Err(_) => false,
        }
    }

    /// Asks for the next chunk, or hands the complete copy to raft.
    fn ask_on(&mut self, w: &mut Core) {
        let Some(receiving) = &self.copies.receiving else { return };
        let (from, transfer) = (Self::place(receiving.from), receiving.transfer);
        if let Some(wanted) = receiving.receiver.wanted() {
            return w.send_news(self.ix, from, Packet::CopyWanted { transfer, wanted });
        }
        let Some(Receiving { from, message, receiver, .. }) = self.copies.receiving.take() else { return };
        match self.home.candidate(receiver) {
            Ok(candidate) => {
                self.copies.next += 1;
                let copy = self.copies.next;
                self.copies.candidates.insert(copy, (candidate, from, transfer));
                self.push(w, Event::Received { from, message, copy });
            }
            Err(SnapshotError::Storage(error)) => self.failed(w, "a copy cannot be opened", &error),
            Err(_) => {
                w.send_news(self.ix, Self::place(from), Packet::CopyDone { transfer, installed: false });
            }
        }
    }

    fn chunk(&mut self, w: &mut Core, from: usize, transfer: u64, at: Wanted, data: &Bytes, crc: u32) {
        let Some(receiving) = self.copies.receiving.as_mut().filter(|r| r.transfer == transfer) else {
            return;
        };
        let stale = receiving.receiver.wanted() != Some(at);
        match receiving.receiver.put(at, data, crc) {
            // A doubled one: the answer to it is on its way.
            Ok(_) if stale => {}
            Ok(Put::Taken) if self.cut_the_copy() && w.rng.disk.gen_bool(0.3) => {
                let how = if w.rng.disk.gen_bool(0.5) { End::Killed } else { End::PowerLost };
                self.exit(w, how, "the end came while a copy came in".into(), true);
            }
            Ok(Put::Taken | Put::Refused(_) | Put::Damaged(_)) => self.ask_on(w),
            Err(_) => {
                self.copies.receiving = None;
                w.send_news(self.ix, from, Packet::CopyDone { transfer, installed: false });
            }
        }
    }

    /// The Ready that carries a copy: it becomes this node's database.
    pub(super) fn installs(&mut self, w: &mut Core, install: Install, persist: Persist) {
        let sequence = persist.sequence;
        let Some((candidate, from, transfer)) = self.copies.candidates.remove(&install.copy) else { return };
        // What apply had in hand is passed over.
        self.reached = None;
        let installed = steps::install(candidate, &mut self.identity, &self.log, &mut self.state, persist);
        let table = match installed {
            Ok(table) => table,
            Err(SnapshotError::Storage(error)) => return self.failed(w, "installing a copy", &error),
            Err(error) => return self.quarantine(w, &error.to_string()),
        };
        w.watch.figures.installed += 1;
        self.installs += 1;
        w.trace.mix(install.index);
        if w.trace.on() {
            w.trace.say(w.now, format_args!("n{} is a copy of {} now", self.ix + 1, install.index));
        }
        w.watch.votes(self.ix, install.vote.0, install.vote.1);
        self.generation.store(self.identity.record().later.generation, Ordering::Relaxed);
        self.worlds.require(install.index);
        let mut answers = Answers::default();
        self.table.jump(install.index, &mut answers);
        self.deliver(w, answers);
        self.founded = true;
        self.set_table(w, table.clone());
        w.send_news(self.ix, Self::place(from), Packet::CopyDone { transfer, installed: true });
        let events = vec![Event::Installed { table }, Event::Persisted(sequence)];
        if let Some(fx) = self.drive(w, events) {
            self.perform(w, fx);
        }
        if self.raft.append.is_none() {
            self.wake_raft(w);
        }
        self.wake_apply(w);
    }

    /// A copy is coming in, and the process was to end while it does.
    pub(super) fn cut_the_copy(&self) -> bool {
        self.copies.cut && self.copies.receiving.as_ref().is_some_and(|r| r.receiver.received_bytes() > 0)
    }

    /// The process ends while a copy is being installed; says how far that had come. `None`: it was not this node's to
    /// install.
    pub(super) fn break_install(
        &mut self,
        persist: Persist,
        step: Step,
        how: End,
        tear: usize,
        medium: &MemoryIdentity,
    ) -> Option<Step> {
        let install = persist.install?;
        let (candidate, ..) = self.copies.candidates.remove(&install.copy)?;
        let install = |candidate| {
            steps::install(candidate, &mut self.identity, &self.log, &mut self.state, persist).is_ok()
        };
        match step {
            // What was received stays on the disk, as a directory that nobody names.
            Step::Unnamed => std::mem::forget(candidate),
            Step::Torn if how != End::Killed && slots_sound(medium) => {
                medium.clone().tear_next_write(tear);
                if install(candidate) {
                    // It was in the slot before it tore.
                    return Some(Step::Named);
                }
                medium.clone().spare_next_write();
            }
            Step::Torn | Step::Named => return install(candidate).then_some(Step::Named),
        }
        Some(step)
    }

    /// This node was removed: it closes, and that is as it should be.
    pub(super) fn leave(&mut self, w: &mut Core) {
        if !self.is_open() {
            return;
        }
        w.watch_left(self.ix);
        self.damaged = true;
        self.quarantine(w, "removed");
        self.at(w, TICK_MS * 1_000, What::Halt);
    }
}
