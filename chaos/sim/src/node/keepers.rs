//! The virtual keepers: the leader's clocks of deliveries, and who attends the windows. Mirrors
//! `actors/runtime/src/channels/keeper.rs` around the same [`Leases`] (who asks it is in [`super::streams`]), and `node/src/keepers/attendance.rs` around the same
//! [`Ledger`]; the leases of workstations are shorter than production's, because runs are short. They work in runs that
//! have halls or channels.
//!
//! Invariant: what they know of leadership is of one term; when it ends it is forgotten.

use super::{Live, Map, Phase, gateway::From};
use crate::{clients::places, core::Core, net::Packet, port::Word};
use okno_cluster::api::Role;
use okno_domain::{
    channel::{Channel, Command as ChannelCommand, Event, MessageState, Move},
    entity::{EntityRef, Kind, Origin},
    queue::{Command as QueueCommand, Queue},
    registry::AnyCommand,
};
use okno_runtime::{
    attendance::{Ledger, is_final},
    call::CallResult,
    channels::{
        Ask, Delivered, Told,
        leases::{Leases, Phase as Clock},
    },
    codec::{self, What},
    load::{load_state, unreadable},
    work::entity_key,
};
use okno_storage::{error::StorageError, state::AppliedSlice};
use rand::Rng;
use std::collections::BTreeSet;

/// A workstation that was not heard of for so long is not attached any more; production's is fifteen times as long.
const LEASE_MS: u64 = 1_000;
/// How long one command may take before it is given anew.
const COMMAND_WITHIN_MS: u64 = 5_000;
/// Commits of one channel read at a time.
const HISTORY_PAGE: usize = 256;

/// A command of a keeper that is under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// Deliveries of this channel lapse.
    Lapse(String),
    Station {
        term: u64,
        workstation: String,
        there: bool,
    },
}

#[derive(Default)]
pub(super) struct Keepers {
    /// Of the leadership that leases and ledger belong to.
    term: Option<u64>,
    leases: Leases,
    lapsing: BTreeSet<String>,
    ledger: Ledger,
    commanding: BTreeSet<String>,
    /// Workstations attached here, and until when they count as that.
    stations: Map<String, u64>,
}

impl Live {
    /// Every 250 ms, with the gossip: production tells of workstations every 2 s and looks at deadlines every 200 ms.
    pub(super) fn keep(&mut self, w: &mut Core) {
        if self.phase != Phase::Serving {
            return;
        }
        let now = self.now_ms(w);
        if let Err(error) = self.follow_term(now) {
            return self.failed(w, "channels or queues cannot be read", &error);
        }
        self.tend_streams(w);
        self.tell_of_stations(w, now);
        self.say_what_ran_out(w, now);
    }

    /// Begins or ends with the leadership.
    fn follow_term(&mut self, now: u64) -> Result<(), StorageError> {
        let term = self.role.leading_term();
        if self.keepers.term == term {
            // The ledger of one who stood still knows nothing.
            if let Some(term) = term
                && self.keepers.ledger.term() != Some(term)
            {
                let leased = self.leased()?;
                self.keepers.ledger.begin(term, leased, LEASE_MS, now);
            }
            return Ok(());
        }
        let (mut leases, mut ledger) = (Leases::default(), Ledger::default());
        if let Some(term) = term {
            for code in places::CHANNELS {
                if let Some(read) = load_state::<Channel>(&self.reader.view(), &places::channel(code))? {
                    leases.begin(code, &read.state, read.head_index, term, now);
                }
            }
            ledger.begin(term, self.leased()?, LEASE_MS, now);
        }
        let stations = std::mem::take(&mut self.keepers.stations);
        self.keepers = Keepers { term, leases, ledger, stations, ..Keepers::default() };
        Ok(())
    }

    /// The workstations whose windows say that they had a lease.
    fn leased(&self) -> Result<BTreeSet<String>, StorageError> {
        let mut leased = BTreeSet::new();
        for hall in places::HALLS {
            let queue = load_state::<Queue>(&self.reader.view(), &places::queue(hall))?;
            let desks = queue.iter().flat_map(|queue| queue.state.desks()).filter(|desk| desk.leased);
            leased.extend(desks.map(|desk| places::workstation(hall, &desk.window).id));
        }
        Ok(leased)
    }

    fn take_up(&self, leases: &mut Leases, code: &str, found: Clock, now: u64) -> Result<(), StorageError> {
        if let Some(read) = load_state::<Channel>(&self.reader.view(), &places::channel(code))? {
            leases.take_up(code, &read.state, read.head_index, found, now);
        }
        Ok(())
    }

    /// Takes in the channels that moved in a slice.
    pub(super) fn keepers_applied(&mut self, w: &mut Core, slice: &AppliedSlice) -> Result<(), StorageError> {
        if self.keepers.term.is_none() {
            return Ok(());
        }
        let moved: BTreeSet<String> = slice
            .entries
            .iter()
            .filter(|entry| entry.moved)
            .filter_map(|entry| entry.entity.as_ref())
            .filter(|entity| entity.kind() == Kind::Channel.name())
            .map(|entity| entity.id().to_owned())
            .collect();
        moved.iter().try_for_each(|code| self.catch_up(w, code))
    }

    /// Takes in what applied of one channel.
    fn catch_up(&mut self, w: &mut Core, code: &str) -> Result<(), StorageError> {
        let mut leases = std::mem::take(&mut self.keepers.leases);
        let taken = self.catch_up_in(w, &mut leases, code);
        self.keepers.leases = leases;
        taken
    }

    fn catch_up_in(&self, w: &mut Core, leases: &mut Leases, code: &str) -> Result<(), StorageError> {
        let now = self.now_ms(w);
        let term = self.keepers.term;
        let Some(mut after) = leases.through(code) else {
            return self.take_up(leases, code, Clock::Delivered, now);
        };
        let Ok(key) = entity_key(&places::channel(code)) else { return Ok(()) };
        let view = self.reader.view();
        loop {
            let rows = view.history(&key, after, HISTORY_PAGE)?;
            for row in &rows {
                let events: Result<Vec<Event>, _> = row
                    .events
                    .iter()
                    .map(|record| codec::decode(What::Event(Kind::Channel), record))
                    .collect();
                let events = events.map_err(|error| unreadable(&key, &error))?;
                leases.moved(code, row.index, &events, now);
                for event in &events {
                    if let (Event::Moved { message, why: Move::Progressed }, Some(services), Some(term)) =
                        (event, &mut w.watch.services, term)
                        && let MessageState::Out { token, .. } = message.state
                    {
                        services.reported(term, &message.id, token);
                    }
                }
                after = row.index;
            }
            if rows.len() < HISTORY_PAGE {
                return Ok(());
            }
        }
    }

    fn say_what_ran_out(&mut self, w: &mut Core, now: u64) {
        let Some(term) = self.keepers.term else { return };
        for (code, lapsed) in self.keepers.leases.due(now, &self.keepers.lapsing.clone()) {
            self.keepers.lapsing.insert(code.clone());
            if let Some(services) = &mut w.watch.services {
                services.lapses(term, &lapsed);
            }
            let target = places::channel(&code);
            let command = AnyCommand::Channel(ChannelCommand::Lapse { lapsed, term });
            self.keeper_calls(w, Kept::Lapse(code), &target, command);
        }
        self.keepers.ledger.look(now);
        for (workstation, there) in self.keepers.ledger.wanted().clone() {
            let of = places::HALLS.iter().flat_map(|hall| places::WINDOWS.map(|window| (*hall, window)));
            let mut of = of.filter(|(hall, window)| places::workstation(hall, window).id == workstation);
            let Some((hall, window)) = of.next() else { continue };
            if !self.keepers.commanding.insert(workstation.clone()) {
                continue;
            }
            let window = window.to_owned();
            let command = if there {
                QueueCommand::Attended { window, term }
            } else {
                QueueCommand::Unattended { window, term }
            };
            let kept = Kept::Station { term, workstation, there };
            self.keeper_calls(w, kept, &places::queue(hall), AnyCommand::Queue(command));
        }
    }

    fn keeper_calls(&mut self, w: &mut Core, kept: Kept, target: &EntityRef, command: AnyCommand) {
        let millis = u64::try_from(self.wall_ms(w)).unwrap_or(0);
        let id = uuid::Builder::from_unix_timestamp_millis(millis, &w.rng.threads.r#gen()).into_uuid();
        let origin = Origin { principal: self.env.node.clone(), workstation: String::new() };
        if let Some(services) = &mut w.watch.services {
            services.asked(id, &origin.principal, target, &command);
        }
        let deadline_ms = self.now_ms(w) + COMMAND_WITHIN_MS;
        self.call(w, From::Keeper(kept), origin, (id, [0; 32]), target, command, 1, deadline_ms);
    }

    /// A command of a keeper has ended.
    pub(super) fn keeper_told(&mut self, kept: Kept, result: &CallResult) {
        match kept {
            Kept::Lapse(code) => {
                self.keepers.lapsing.remove(&code);
            }
            Kept::Station { term, workstation, there } => {
                self.keepers.commanding.remove(&workstation);
                let settled = match result {
                    CallResult::Done { .. } => true,
                    CallResult::Refused(refusal) => is_final(&refusal.reason),
                    CallResult::NotApplied { .. } | CallResult::Unknown { .. } => false,
                };
                if settled {
                    self.keepers.ledger.settled(term, &workstation, there);
                }
            }
        }
    }

    fn tell_of_stations(&mut self, w: &mut Core, now: u64) {
        self.keepers.stations.retain(|_, until| *until > now);
        let standing: Vec<(String, u64)> =
            self.keepers.stations.iter().map(|(name, until)| (name.clone(), until - now)).collect();
        match self.role.role {
            Role::Leader { .. } => self.keepers.ledger.hear(standing, now),
            Role::Follower { leader: Some(leader) } if !standing.is_empty() => {
                w.send_news(self.ix, Self::place(leader), Packet::Attendance(standing));
            }
            Role::Follower { .. } | Role::Candidate => {}
        }
    }

    /// Another node tells of its workstations.
    pub fn told_of_stations(&mut self, w: &Core, standing: Vec<(String, u64)>) {
        let now = self.now_ms(w);
        self.keepers.ledger.hear(standing, now);
    }

    /// A program attached here says something. False: nobody is to be attached here.
    pub fn hear_word(&mut self, w: &mut Core, client: usize, word: Word) -> bool {
        if self.phase != Phase::Serving {
            return false;
        }
        match word {
            Word::Here { workstation } => {
                let until = self.now_ms(w) + LEASE_MS;
                self.keepers.stations.insert(workstation, until);
            }
            Word::Stream { channel, connector, up } => self.on_stream(w, client, (channel, connector), up),
        }
        true
    }

    /// What a node asks of deliveries, on the leader (`Keeper::answer`).
    pub(super) fn answer_of_deliveries(&mut self, w: &mut Core, ask: &Ask) -> Told {
        let Some(term) = self.keepers.term.filter(|term| self.role.leading_term() == Some(*term)) else {
            return Told::NotLeading;
        };
        let (Ask::Acknowledge { channel, .. }
        | Ask::Lost { channel, .. }
        | Ask::Resumed { channel, .. }
        | Ask::Holds { channel, .. }) = ask
        else {
            return Told::NotLeading;
        };
        if let Err(error) = self.catch_up(w, channel) {
            self.failed(w, "a channel cannot be read", &error);
            return Told::NotLeading;
        }
        let now = self.now_ms(w);
        let leases = &mut self.keepers.leases;
        match ask {
            Ask::Acknowledge { channel, connector, deliveries } => {
                let mut reasons = Vec::with_capacity(deliveries.len());
                for Delivered { id, token } in deliveries {
                    let heard = leases.acknowledge(channel, connector, (id, *token), now);
                    if let (Ok(()), Some(services)) = (heard, &mut w.watch.services) {
                        services.acknowledged(term, id, *token);
                    }
                    reasons.push(heard.err().unwrap_or_default().to_owned());
                }
                Told::Acknowledged(reasons)
            }
            Ask::Lost { channel, connector, deliveries, gone } => {
                for Delivered { id, token } in deliveries {
                    leases.lost(channel, connector, (id, *token), *gone, now);
                }
                Told::Done
            }
            Ask::Resumed { channel, connector, instance, holds } => {
                let holds: Vec<_> = holds.iter().map(|held| (held.id.as_str(), held.token)).collect();
                leases.resumed(channel, (connector, instance), &holds, now);
                Told::Done
            }
            Ask::Holds { channel, connector, delivery: Delivered { id, token } } => {
                Told::Holds(leases.holds(channel, connector, (id, *token)).map_err(str::to_owned))
            }
            Ask::Present { .. } | Ask::Attached { .. } => Told::NotLeading,
        }
    }
}
