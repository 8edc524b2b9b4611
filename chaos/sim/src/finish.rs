//! The end of a run: faults end, clients come to an end, and everything is compared with everything.

use crate::{
    clients::{exchange::Exchange, hall::StationSeen, places, translate},
    core::Core,
    node::Live,
    port::Clients,
    services::{Services, channels_rest},
    world::World,
};
use okno_checks::{history::Final, invariants::Invariant};
use okno_storage::{chain_step, error::StorageError, state::JournalEntry};
use std::collections::BTreeSet;

/// Virtual time within which everybody must be answered and all nodes equally far, once faults have ended. An election, the
/// longest pause of the courier (30 s), a shard's question and a client's patience fit into it.
pub const SETTLE_US: u64 = 120_000_000;
/// Within so much of it every window knows whether its workstation lives.
const ATTENDED_US: u64 = 30_000_000;
/// In the end so much time goes by that whoever was put off is due, and every grace time over.
const LATER_MS: i64 = (places::PUT_OFF_MINUTES_MAX as i64 + 3) * 60_000;
/// Beyond the time that was stamped: longer than a channel paces, tries again, or keeps its breaker open.
const PAUSES_MS: i64 = 5_000;
/// Replicated time may lag behind the clocks by a minute while nothing happens.
const LAG_MS: i64 = 62_000;
/// How often the end is looked for.
const LOOK_EVERY_US: u64 = 100_000;
/// Outcome codes of an entry a caller may have been told of: applied, duplicate.
const TOLD: [u8; 2] = [1, 2];
const PAGE: usize = 4_096;
/// Such a stamp is of a leader from before the faults ended: one for each that led then, and some. A cluster that runs ahead of
/// exact clocks again and again is left behind, and has not come to rest in time.
const CATCH_UPS_MAX: u32 = 16;

impl World {
    /// Runs until everything has come to rest. False: it did not in time.
    pub fn settle(&mut self) -> bool {
        self.clients.wind_down();
        let (until, attended) = (self.w.now + SETTLE_US, self.w.now + ATTENDED_US);
        if self.clients.hall.is_some() {
            self.pass(LATER_MS);
        }
        let (mut look, mut caught_up) = (self.w.now, 0);
        while self.w.now < until {
            self.step();
            if self.w.now >= look {
                look = self.w.now + LOOK_EVERY_US;
                if caught_up < CATCH_UPS_MAX && self.catch_up() {
                    caught_up += 1;
                }
                self.tend_members();
                self.judge_stations(attended);
                if !self.release() && self.at_rest() {
                    return true;
                }
            }
        }
        let why = self.unrest();
        self.w.watch.breach(
            Invariant::Progress,
            format!("not at rest {} s after the faults ended: {why}", SETTLE_US / 1_000_000),
        );
        false
    }

    /// A leader that heard fewer than three clocks may have stamped far ahead of the others (rule 7): what a channel paces or
    /// tries again, and a grace time, wait until they get there. It may be applied only now, after the faults. True: it was so.
    fn catch_up(&mut self) -> bool {
        let behind_ms = self.stamped_ms() - self.w.true_ms();
        let waits = behind_ms > 0 && (self.clients.hall.is_some() || self.clients.exchange.is_some());
        if waits {
            self.pass(behind_ms + PAUSES_MS);
        }
        waits
    }

    /// The latest time that any node has applied.
    fn stamped_ms(&self) -> i64 {
        let lives = self.machines.iter().filter_map(|machine| machine.live.as_ref());
        lives.map(|live| live.reader.applied().1).max().unwrap_or_default()
    }

    fn at_rest(&self) -> bool {
        self.clients.idle()
            && self.equally_far()
            && self.members_at_rest()
            && self.ready_leader().is_some_and(|leader| self.drained(leader) && self.services_rest(leader))
    }

    /// Windows that do not know yet whether their workstations live.
    fn unheard_of(&self) -> Vec<StationSeen> {
        match (&self.w.watch.services, &self.clients.hall) {
            (Some(services), Some(hall)) => services.unheard_of(hall.stations()),
            _ => Vec::new(),
        }
    }

    /// Windows know in time what became of their workstations (R-R1).
    fn judge_stations(&mut self, by: u64) {
        if self.w.now < by || self.w.watch.broken() {
            return;
        }
        let unheard_of = self.unheard_of();
        if !unheard_of.is_empty() {
            let seconds = ATTENDED_US / 1_000_000;
            let detail =
                format!("{seconds} s after the faults ended the queue does not know of {unheard_of:?}");
            self.w.watch.breach(Invariant::WindowAttended, detail);
        }
    }

    /// Who was put off is back, windows are attended or left, channels are empty.
    fn services_rest(&self, leader: usize) -> bool {
        let Some(live) = self.machines[leader].live.as_ref().filter(|_| self.w.watch.services.is_some())
        else {
            return true;
        };
        let later = self.clients.hall.is_none() || live.reader.applied().1 >= self.w.true_ms() - LAG_MS;
        let channels = self
            .clients
            .exchange
            .as_ref()
            .is_none_or(|exchange| channels_rest(&live.reader.view(), exchange.cases()).unwrap_or(false));
        let graces = self.w.watch.services.as_ref().is_none_or(Services::graces_over);
        later && channels && graces && self.unheard_of().is_empty()
    }

    fn services_unrest(&self, leader: usize) -> String {
        let applied_ms = self.machines[leader].live.as_ref().map_or(0, |live| live.reader.applied().1);
        let graces = self.w.watch.services.as_ref().is_none_or(Services::graces_over);
        let running = if graces { "" } else { ", a grace time runs" };
        let behind = self.w.true_ms() - applied_ms;
        format!("not heard of {:?}, replicated time {behind} ms behind{running}", self.unheard_of())
    }

    /// No message waits and no timer is due.
    fn drained(&self, node: usize) -> bool {
        let Some(live) = &self.machines[node].live else { return false };
        let view = live.reader.view();
        let messages = view.outbox(None, 1).map_or(0, |all| all.len());
        let timers = view.timers(None, live.reader.applied().1, 1).map_or(0, |all| all.len());
        messages + timers == 0
    }

    fn unrest(&self) -> String {
        let mut why = Vec::new();
        if !self.clients.idle() {
            why.push("clients wait".to_owned());
        }
        if !self.members_at_rest() {
            let (voters, learners): (Vec<_>, Vec<_>) =
                (self.w.table.voters().collect(), self.w.table.learners().collect());
            why.push(format!("members change: voters {voters:?}, learners {learners:?}"));
        }
        match self.ready_leader() {
            None => why.push("nobody leads".to_owned()),
            Some(leader) if !self.drained(leader) => why.push("messages or due timers wait".to_owned()),
            Some(leader) if !self.services_rest(leader) => {
                why.push(format!("hall or channels: {}", self.services_unrest(leader)));
            }
            Some(_) => {}
        }
        for (node, machine) in self.machines.iter().enumerate() {
            let state = match &machine.live {
                None if machine.gone => "is out".to_owned(),
                None => "is down".to_owned(),
                Some(live) => {
                    format!("{:?} applied {} of {}", live.role.role, live.applied(), live.watermark())
                }
            };
            why.push(format!("n{} {state}", node + 1));
        }
        why.join(", ")
    }

    /// Compares the stores of all nodes that run with each other and with what was seen.
    pub fn compare(&mut self) {
        let mut digests = BTreeSet::new();
        let members: Vec<bool> = (0..self.machines.len()).map(|node| self.is_member(node)).collect();
        for machine in &mut self.machines {
            let Some(live) = machine.live.as_mut().filter(|live| members[live.ix]) else { continue };
            match judge(live, &mut self.w) {
                Ok(digest) => {
                    digests.insert((live.applied(), digest));
                }
                Err(error) => self.w.watch_unreadable(live.ix, &error.to_string()),
            }
        }
        self.compare_services();
        if digests.len() > 1 {
            let shown: Vec<String> = digests
                .iter()
                .map(|(index, digest)| format!("{index}: {}", hex::encode(&digest[..6])))
                .collect();
            self.w.watch.breach(Invariant::SameState, format!("rows differ: {}", shown.join(", ")));
        }
    }

    /// Compares what the stores hold of hall and channels with what happened to them.
    fn compare_services(&mut self) {
        let Some(mut services) = self.w.watch.services.take() else { return };
        for node in 0..self.machines.len() {
            let Some(live) = self.machines[node].live.as_ref().filter(|_| self.is_member(node)) else {
                continue;
            };
            let cases = self.clients.exchange.iter().flat_map(Exchange::cases);
            let time_ms = live.reader.applied().1;
            if let Err(error) = services.held(node as u64 + 1, &live.reader.view(), time_ms, cases) {
                self.w.watch_unreadable(node, &error.to_string());
            }
        }
        self.w.watch.services = Some(services);
        self.w.watch.judge_services();
    }

    /// What the stores hold of these offices, in the checkers' words.
    pub fn finals(&mut self, offices: &[&str]) -> Vec<Final> {
        let mut finals = Vec::new();
        for machine in &self.machines {
            let Some(live) = machine.live.as_ref().filter(|live| self.is_member(live.ix)) else { continue };
            match translate::final_of(live.ix as u64 + 1, &live.reader.view(), offices) {
                Ok(last) => finals.push(last),
                Err(error) => self.w.watch_unreadable(live.ix, &error.to_string()),
            }
        }
        finals
    }
}

/// One node's store against what was seen; its digest.
fn judge(live: &Live, w: &mut Core) -> Result<[u8; 32], StorageError> {
    let view = live.reader.view();
    let name = live.ix + 1;
    let journal = journal(live)?;
    chain_holds(&journal, w, name);
    let codes: Vec<(u64, u8)> = journal.iter().map(|row| (row.index, row.outcome_code)).collect();
    let lost: Vec<u64> = w
        .watch
        .acknowledged_indexes()
        .filter(|index| {
            codes.binary_search_by_key(index, |(at, _)| *at).map_or(true, |at| !TOLD.contains(&codes[at].1))
        })
        .collect();
    if !lost.is_empty() {
        w.watch
            .breach(Invariant::Acknowledged, format!("node {name}: acknowledged at {lost:?} and not there"));
    }
    let outbox: BTreeSet<_> = view.outbox(None, usize::MAX)?.into_iter().map(|message| message.key).collect();
    if outbox != *w.watch.outbox() {
        let detail =
            format!("node {name}: {} messages wait, {} should", outbox.len(), w.watch.outbox().len());
        w.watch.breach(Invariant::MessagesOnce, detail);
    }
    let timers: BTreeSet<_> = view.timers(None, i64::MAX, usize::MAX)?.into_iter().collect();
    if timers != *w.watch.timers() {
        let detail =
            format!("node {name}: {} timers are set, {} should be", timers.len(), w.watch.timers().len());
        w.watch.breach(Invariant::TimersOnce, detail);
    }
    view.digest()
}

fn journal(live: &Live) -> Result<Vec<JournalEntry>, StorageError> {
    let view = live.reader.view();
    let mut all = Vec::new();
    loop {
        let after = all.last().map_or(0, |row: &JournalEntry| row.index);
        let page = view.journal(after, PAGE)?;
        let full = page.len() == PAGE;
        all.extend(page);
        if !full {
            return Ok(all);
        }
    }
}

/// Every row follows from the one before.
fn chain_holds(journal: &[JournalEntry], w: &mut Core, name: usize) {
    for pair in journal.windows(2) {
        let [before, row] = pair else { continue };
        let chain =
            chain_step(&before.chain, row.index, row.term, row.outcome_code, &row.events_hash, &row.rest);
        if row.index != before.index + 1 || chain != row.chain {
            let detail = format!("node {name}: row {} does not follow from {}", row.index, before.index);
            return w.watch.breach(Invariant::JournalWhole, detail);
        }
    }
}
