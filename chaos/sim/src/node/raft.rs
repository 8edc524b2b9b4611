//! The virtual raft thread: takes everything that waits, makes one turn of the driver, does its effects in their order.
//! Mirrors `cluster/src/shell/raft_thread.rs`, `hub.rs` and `inlet.rs`; what both do with stores is `okno_cluster::core::steps`.

use super::{
    Append, DISK_HUNG_US, DISK_SLOW_US, HAND_OVER_EVERY_MS, Live, Machine, Phase, TICK_MS, machine::Disk,
};
use crate::{
    config::Kind,
    core::{Core, End},
    net::Packet,
    queue::What,
};
use okno_cluster::{
    api::{NotApplied, ProposalOutcome, ReadError, Role, RoleState, Settled, ShardNotice},
    core::{
        agreement::Finding,
        clock,
        event::{Answer, Effects, Event, ReadId},
        steps,
        table::Answers,
    },
    settings::{MEMBERS_LEVEL, level},
    shell::peers::Disagreement,
    transport::{Gossip, Hello, Refusal},
};
use okno_runtime::shard::Input;
use raft::eraftpb::Message;
use rand::Rng;
use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
};
use uuid::Uuid;

/// As of production's raft thread.
const LEVEL_EVERY_TICKS: u64 = 10;

impl Live {
    // What comes in.

    /// Puts an event into the raft thread's inbox.
    pub(super) fn push(&mut self, w: &mut Core, event: Event) {
        if self.driver.is_none() {
            return self.answer_unseen(w, event);
        }
        self.raft.events.push(event);
        self.wake_raft(w);
    }

    pub fn messages(&mut self, w: &mut Core, from: u64, messages: Vec<Message>) {
        let full = self.raft.messages + messages.len() > okno_cluster::settings::INBOX_MESSAGES_MAX;
        if self.driver.is_none() || !self.is_open() || full {
            return;
        }
        self.raft.messages += messages.len();
        self.raft.events.push(Event::Messages { from, messages });
        self.wake_raft(w);
    }

    pub(super) fn wake_raft(&mut self, w: &mut Core) {
        let after = w.wake_us(self.ix);
        if self.raft.wake.want(w.now + after) {
            self.at(w, after, What::Raft);
        }
    }

    pub(super) fn tick(&mut self, w: &mut Core) {
        self.raft.tick_due = true;
        // The next one follows the turn that takes this one, so that ticks missed in a long append are not made up.
        self.wake_raft(w);
    }

    pub(super) fn unreachable(&mut self, w: &mut Core, node: usize) {
        self.push(w, Event::Unreachable(node as u64 + 1));
        self.forwards_lost(w, node);
    }

    /// How far apply has come.
    pub(super) fn tell_applied(&mut self, w: &mut Core, index: u64) {
        self.raft.applied = Some((index, self.founded));
        if self.raft.wanted {
            self.wake_raft(w);
        }
    }

    // A turn.

    pub(super) fn raft_turn(&mut self, w: &mut Core) {
        if self.raft.append.is_some() {
            // Blocked in its append; looks again when that returns.
            return;
        }
        let mut events = std::mem::take(&mut self.raft.events);
        self.raft.messages = 0;
        if let Some((index, founded)) = self.raft.applied.take() {
            events.push(Event::Applied { index, founded });
        }
        if std::mem::take(&mut self.raft.pins) && !self.pin(w, &mut events) {
            return;
        }
        if std::mem::take(&mut self.raft.later_pins) {
            let pins = self.members.later_pins();
            if let Err(error) = self.identity.update(|r| r.later.pins = pins) {
                return self.failed(w, "identity", &error);
            }
        }
        if events.iter().any(|event| matches!(event, Event::Change { .. }))
            && let Some(news) = self.news(w)
        {
            events.insert(0, news);
        }
        if std::mem::take(&mut self.raft.tick_due) {
            events.extend(self.news(w));
            self.cut_log(w);
            events.push(Event::Tick);
            let now = self.now_ms(w);
            if self.verdict(w).outlier() && self.leads() && self.may_hand_over(now) {
                events.push(Event::Transfer { ticket: 0, to: None });
            }
            self.raft.ticks += 1;
            if self.raft.ticks.is_multiple_of(LEVEL_EVERY_TICKS) {
                events.extend(self.raise_level(w));
            }
            let next = self.clock.span_us(TICK_MS * 1_000);
            self.at(w, next, What::Tick);
        }
        if let Some(fx) = self.drive(w, events) {
            self.perform(w, fx);
        }
    }

    /// What the driver must know of others, if it is not what it was told last.
    fn news(&mut self, w: &Core) -> Option<Event> {
        let known = self.know(w);
        (known != self.known).then(|| {
            self.known = known.clone();
            Event::Known(Box::new(known))
        })
    }

    fn may_hand_over(&mut self, now_ms: u64) -> bool {
        let may = self.raft.handed_over_ms.is_none_or(|at| now_ms - at >= HAND_OVER_EVERY_MS);
        if may {
            self.raft.handed_over_ms = Some(now_ms);
        }
        may
    }

    /// Calls the driver as the raft thread does: a log that cannot be read makes raft panic.
    pub(super) fn drive(&mut self, w: &mut Core, events: Vec<Event>) -> Option<Effects> {
        let now = self.now_ms(w);
        let driver = self.driver.as_mut()?;
        if !self.damaged {
            return Some(driver.on(events, now));
        }
        match catch_unwind(AssertUnwindSafe(|| driver.on(events, now))) {
            Ok(fx) => Some(fx),
            Err(panic) => {
                // Not touched any more: raft-rs was left in the middle of something.
                self.driver = None;
                match self.unreadable.get().map(ToString::to_string) {
                    Some(error) => self.quarantine(w, &format!("the log cannot be read: {error}")),
                    None => resume_unwind(panic),
                }
                None
            }
        }
    }

    /// Does the effects of a turn up to its append.
    pub(super) fn perform(&mut self, w: &mut Core, mut fx: Effects) {
        let persist = fx.persist.take();
        let found = fx.found.take();
        let answers = steps::register(&mut self.table, &mut fx);
        if !fx.messages.is_empty() {
            w.send_raft(self.ix, std::mem::take(&mut fx.messages));
        }
        if let Some(watermark) = fx.watermark {
            self.raise(w, watermark);
        }
        if let Some(role) = fx.role {
            self.set_role(w, role);
        }
        self.deliver(w, answers);
        for (lane, last_index) in std::mem::take(&mut fx.closed_lanes) {
            self.notice(w, lane.shard, ShardNotice::LaneClosed { lane, last_index });
        }
        if let Some(configured) = fx.configured.take() {
            self.configured(w, configured);
        }
        self.raft.changes_asked -= fx.changes.len();
        if w.trace.on() {
            for (_, result) in &fx.changes {
                if let Err(why) = result {
                    w.trace
                        .say(w.now, format_args!("n{} is asked for a change of members: {why}", self.ix + 1));
                }
            }
        }
        self.copies_of(w, &mut fx);
        if let Some(why) = fx.quarantine {
            self.quarantine(w, &why.reason);
        }
        if let Some(mark) = fx.synced
            && let Err(error) = steps::note_synced(&mut self.identity, mark)
        {
            return self.failed(w, "identity", &error);
        }
        if let Some(persist) = persist {
            self.raft.appends += 1;
            let number = self.raft.appends;
            self.raft.found = found;
            self.raft.append = Some(Append { number, persist, began_us: w.now, fails: false });
            w.appends.push(self.ix);
        } else if let Some(term) = found {
            self.found(w, term);
        }
    }

    /// Says how long the append under way takes; the disk is the machine's.
    pub fn append_takes(&mut self, w: &mut Core, disk: &mut Disk) {
        let Some(append) = &mut self.raft.append else { return };
        append.fails = std::mem::take(&mut disk.fail);
        let (low, high) = disk.slow_us.unwrap_or(w.tune.append_us);
        let mut takes = w.rng.disk.gen_range(low..=high);
        if let Some(hang) = disk.hang_us.take() {
            takes += hang;
        }
        let number = append.number;
        let installs = append.persist.install.is_some();
        let armed = disk.armed.is_some_and(|kind| kind != Kind::CutCopy);
        if let Some(how) = disk.cut.take().or((installs && armed).then_some(End::PowerLost)) {
            let after = w.rng.disk.gen_range(0..takes.max(1));
            self.at(w, after, What::Cut(how));
        }
        if takes > DISK_HUNG_US {
            self.at(w, DISK_HUNG_US, What::Watchdog { append: number });
        }
        self.at(w, takes, What::Disk);
    }

    /// The append returns.
    pub(super) fn disk_done(&mut self, w: &mut Core) {
        let Some(append) = self.raft.append.take() else { return };
        if append.fails {
            self.raft.append = Some(append);
            return self.exit(w, End::FsyncFailed, "fsync failed".into(), true);
        }
        let (sequence, vote) = (append.persist.sequence, append.persist.vote());
        if let Some(install) = append.persist.install {
            return self.installs(w, install, append.persist);
        }
        let bytes = append.persist.entries.iter().map(|e| e.data.len() as u64).sum();
        self.entry_bytes.note(append.persist.entries.len() as u64, bytes);
        if let Err(error) = steps::persist(&mut self.identity, &self.log, append.persist) {
            return self.failed(w, "raft thread", &error);
        }
        if let Some(vote) = vote {
            // On disk, and about to leave.
            w.watch.votes(self.ix, vote.term, vote.vote);
        }
        let slow = w.now - append.began_us >= DISK_SLOW_US;
        let mut events = vec![Event::Persisted(sequence)];
        if let Some(term) = self.raft.found.take()
            && let Some(event) = self.founding(w, term)
        {
            events.push(event);
        }
        if let Some(fx) = self.drive(w, events) {
            self.perform(w, fx);
        }
        let now = self.now_ms(w);
        if slow && self.leads() && self.may_hand_over(now) {
            self.push(w, Event::Transfer { ticket: 0, to: None });
        }
        let waits =
            !self.raft.events.is_empty() || self.raft.tick_due || self.raft.pins || self.raft.later_pins;
        if self.raft.append.is_none() && waits {
            self.wake_raft(w);
        }
    }

    fn found(&mut self, w: &mut Core, term: u64) {
        if let Some(event) = self.founding(w, term)
            && let Some(fx) = self.drive(w, vec![event])
        {
            self.perform(w, fx);
        }
    }

    fn founding(&self, w: &Core, term: u64) -> Option<Event> {
        let time_ms = clock::stamp(&self.verdict(w), self.wall_ms(w), 0).ok()?;
        let commit = steps::founding_commit(self.identity.record(), term, time_ms)?;
        commit.encode().ok().map(|data| Event::Found { term, data })
    }

    /// The leader of a new cluster raises its level once all members are known to understand it.
    fn raise_level(&self, w: &Core) -> Option<Event> {
        let term = self.role.leading_term()?;
        let wanted = self.founded_here && self.reader.level() < level::known();
        if !wanted || !self.members.below(level::known()).is_empty() {
            return None;
        }
        let time_ms = clock::stamp(&self.verdict(w), self.wall_ms(w), self.reader.applied().1).ok()?;
        let node = self.ix as u64 + 1;
        let commit =
            steps::level_commit(node, term, time_ms, level::known(), self.raft.ticks / LEVEL_EVERY_TICKS);
        commit.encode().ok().map(|data| Event::Own { term, data })
    }

    fn set_role(&mut self, w: &mut Core, role: RoleState) {
        self.raft.wanted = matches!(role.role, Role::Leader { ready: false });
        if matches!(role.role, Role::Leader { .. }) {
            w.watch.leads(self.ix, role.term);
        }
        w.trace.mix(role.term << 8 | role.leading_term().is_some() as u64);
        if w.trace.on() {
            let line = format!("n{} {:?} in term {}", self.ix + 1, role.role, role.term);
            w.trace.say(w.now, format_args!("{line}"));
        }
        self.role = role;
        for shard in 0..self.shards.len() {
            self.wake_shard(w, shard);
        }
        self.tell_role(w);
        self.calls_look_again(w);
    }

    // What goes out.

    pub(super) fn notice(&mut self, w: &mut Core, shard: u16, notice: ShardNotice) {
        self.input(w, usize::from(shard), Input::Notice(notice));
    }

    /// Delivers answers, one notice per shard, and gives their slots back.
    pub(super) fn deliver(&mut self, w: &mut Core, answers: Answers) {
        if !answers.settled.is_empty() {
            let mut by_shard: BTreeMap<u16, Vec<Settled>> = BTreeMap::new();
            for answer in answers.settled {
                self.proposals = self.proposals.saturating_sub(1);
                by_shard.entry(answer.settled.lane.shard).or_default().push(answer.settled);
            }
            for (shard, settled) in by_shard {
                self.notice(w, shard, ShardNotice::Settled(settled));
            }
        }
        for (request, result) in answers.reads {
            self.reads_open = self.reads_open.saturating_sub(1);
            match request.id {
                ReadId::Shard { shard, ticket } => {
                    self.notice(w, shard, ShardNotice::ReadDone { ticket, result });
                }
                ReadId::Call(id) => self.read_answered(w, id, result),
            }
        }
    }

    /// Answers what the raft thread will never see any more.
    fn answer_unseen(&mut self, w: &mut Core, event: Event) {
        let mut answers = Answers::default();
        match event {
            Event::Propose(proposals) => {
                answers.settled.extend(proposals.into_iter().map(|p| {
                    Answer::new(p.lane, p.seq, p.data.len(), ProposalOutcome::NotApplied(NotApplied::Closed))
                }));
            }
            Event::CloseLane(lane) => {
                return self.notice(w, lane.shard, ShardNotice::LaneClosed { lane, last_index: 0 });
            }
            Event::Read(request) => answers.reads.push((request, Err(ReadError::Closed))),
            _ => return,
        }
        self.deliver(w, answers);
    }

    // Members, clocks, hashes.

    pub(super) fn gossip(&mut self, w: &mut Core) {
        if w.watch.services.is_some() {
            self.keep(w);
        }
        let (chains, digest) = self.peers.own_points();
        let gossip = Gossip {
            clock_ms: self.wall_ms(w),
            applied: self.reader.applied().0,
            chains,
            digest,
            quarantined: self.phase == Phase::Quarantined,
            pinned: self.members.pinned(),
            alarms: Default::default(),
        };
        for node in self.members.dial().into_keys() {
            let to = Self::place(node);
            // Until the other has said hello there is no connection; it is tried again and again.
            if self.phase == Phase::Pinning || !self.greeted.contains_key(&to) {
                self.say_hello(w, to, None);
            }
            let (gossip, taken) = (Box::new(gossip.clone()), self.greeted.get(&to).copied());
            w.send_news(self.ix, to, Packet::Gossip { gossip, taken });
        }
        if self.phase != Phase::Quarantined {
            let next = self.clock.span_us(super::GOSSIP_MS * 1_000);
            self.at(w, next, What::Gossip);
        }
    }

    /// A member has pinned another incarnation of this node.
    pub fn disowned(&mut self, w: &mut Core, by: u64) {
        if self.members.disowned_by(by) {
            self.quarantine(w, "the other members have pinned another incarnation of this node");
        }
    }

    fn say_hello(&self, w: &mut Core, to: usize, answers: Option<Uuid>) {
        let hello = Box::new(self.members.hello(to as u64 + 1));
        w.send_news(self.ix, to, Packet::Hello { hello, answers });
    }

    /// `taken`: whose hello the speaker has taken of this node.
    pub fn hear(&mut self, w: &mut Core, from: u64, gossip: &Gossip, taken: Option<Uuid>) {
        if self.members.table().is_removed(from) {
            return w.send_news(self.ix, Self::place(from), Packet::Removed);
        }
        if self.members.barred().contains(&from) {
            self.greeted.remove(&Self::place(from));
            return w.send_news(self.ix, Self::place(from), Packet::Disowned);
        }
        if taken == Some(self.members.hello(from).incarnation)
            && let Some(speaker) = self.greeted.get(&Self::place(from))
        {
            self.members.taken(from, *speaker);
            self.look_at_pins(w);
        }
        let now = self.now_ms(w);
        let found = self.peers.hear(from, gossip, now);
        self.judge(w, found);
    }

    pub(super) fn judge(&mut self, w: &mut Core, found: Vec<Disagreement>) {
        for Disagreement { what, finding } in found {
            match finding {
                Finding::OwnMinority { index } => {
                    self.quarantine(w, &format!("{what} at index {index} differs from that of a majority"));
                }
                Finding::Differs { index, node } => {
                    w.watch_differs(usize::try_from(node - 1).unwrap_or(0), what, index);
                }
                Finding::Tie { index } => {
                    w.watch_tie(what, index);
                    if !std::mem::replace(&mut self.intake_stopped, true) {
                        self.push(w, Event::StopIntake);
                    }
                }
            }
        }
    }

    /// A hello on a connection just made; the answer is this node's own. An answer to a hello of the node's former self
    /// comes by a connection that died with it.
    pub fn greeted(&mut self, w: &mut Core, hello: &Hello, answers: Option<Uuid>) {
        if !self.is_open() {
            return;
        }
        let from = Self::place(hello.node);
        let level = self.reader.level();
        let own = self.members.hello(hello.node).incarnation;
        let taken = match answers {
            None => self.members.greet(hello, level),
            Some(asked) if asked == own => self.members.answered(hello, level),
            Some(_) => return,
        };
        match taken {
            Ok(news) => {
                if w.of[from] != w.of[self.ix] {
                    w.watch_foreign(self.ix, from);
                }
                let named = self.members.table().get(hello.node).and_then(|m| m.incarnation);
                if w.wiped[from] && named.is_some_and(|named| named != hello.incarnation) {
                    w.watch_wiped(self.ix, from);
                }
                self.greeted.insert(from, hello.incarnation);
                if news {
                    self.raft.later_pins = true;
                    self.wake_raft(w);
                }
                if answers.is_none() {
                    self.say_hello(w, from, Some(hello.incarnation));
                }
                self.look_at_pins(w);
            }
            Err(Refusal::Incarnation(node)) => {
                w.send_news(self.ix, Self::place(node), Packet::Disowned);
            }
            Err(Refusal::Removed(node)) => w.send_news(self.ix, Self::place(node), Packet::Removed),
            Err(Refusal::Cluster(_)) if w.of[from] != w.of[self.ix] => w.watch.figures.foreign += 1,
            // It will be heard once this node's level is that of changes of members.
            Err(Refusal::UnknownNode(_)) if from >= w.tune.nodes && self.reader.level() < MEMBERS_LEVEL => {}
            Err(refusal) => w.watch_refused_hello(self.ix, &refusal.to_string()),
        }
    }

    /// A member says that this node was removed.
    pub fn told_removed(&mut self, w: &mut Core) {
        self.leave(w);
    }

    pub(super) fn look_at_pins(&mut self, w: &mut Core) {
        if !self.members.pinned() && self.members.pins().is_some() {
            self.raft.pins = true;
            self.wake_raft(w);
        }
    }

    /// Writes the pins, then lets the driver vote. False: the process ends.
    fn pin(&mut self, w: &mut Core, events: &mut Vec<Event>) -> bool {
        if self.members.pinned() {
            return true;
        }
        let Some(pins) = self.members.pins() else { return true };
        if let Err(error) = self.identity.update(|r| r.pins = pins) {
            self.failed(w, "identity", &error);
            return false;
        }
        self.members.set_pinned();
        self.phase = Phase::Serving;
        events.push(Event::Pinned);
        true
    }

    /// Asks for leadership to be handed over.
    pub fn transfer(&mut self, w: &mut Core, to: Option<u64>) {
        self.push(w, Event::Transfer { ticket: 0, to });
    }
}

impl Machine {
    /// Appends begun in the last event get their time from the disk.
    pub fn begin_appends(&mut self, w: &mut Core) {
        if let Some(live) = &mut self.live {
            live.append_takes(w, &mut self.disk);
        }
    }
}
