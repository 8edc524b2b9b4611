//! The virtual streams of connectors: what went down on one, what of it was acknowledged, and what goes back when it ends.
//! Mirrors `node/src/services/connector_streams.rs`, and how it asks the leader `Keeper::ask` of
//! `actors/runtime/src/channels/keeper.rs`; the questions and answers are production's ([`Ask`], [`Told`]).
//!
//! A connector's deliveries come as answers to its calls: those it makes at the node it is attached to belong to its
//! stream, all others it has pulled, and nobody gives them back but their clock.
//!
//! Invariant: a stream that ends gives back what was not acknowledged, and all of it after a goodbye.

use super::{Live, Map};
use crate::{core::Core, net::Packet, port::Up};
use okno_cluster::api::Role;
use okno_domain::{
    channel::{Channel, Exchanged, MessageState, Reply, Token},
    refusal::{DELIVERY_LOST, MESSAGE_UNKNOWN},
    registry::AnyReply,
};
use okno_runtime::{
    call::CallResult,
    channels::{Ask, Delivered, Told},
    load::load_state,
};
use std::collections::BTreeMap;

/// A connector that was not heard of for so long is lost: three heartbeats; production's are longer.
const PATIENCE_MS: u64 = 900;
/// How long the leader is asked.
const ASK_WITHIN_MS: u64 = 5_000;

struct Stream {
    channel: &'static str,
    connector: &'static str,
    heard_ms: u64,
    /// By message id: token, and whether the leader knows that it arrived.
    held: BTreeMap<String, (Token, bool)>,
}

/// A question that no leader has answered yet.
struct Asked {
    ask: Ask,
    until_ms: u64,
    /// Whose stream it is about.
    client: usize,
}

#[derive(Default)]
pub(super) struct Streams {
    /// By client.
    open: Map<usize, Stream>,
    asked: Map<u64, Asked>,
}

impl Live {
    /// A connector says something on its stream here.
    pub(super) fn on_stream(
        &mut self,
        w: &mut Core,
        client: usize,
        (channel, connector): (&'static str, &'static str),
        up: Up,
    ) {
        let heard_ms = self.now_ms(w);
        let stream = self.streams.open.entry(client).or_insert_with(|| Stream {
            channel,
            connector,
            heard_ms,
            held: BTreeMap::new(),
        });
        stream.heard_ms = heard_ms;
        match up {
            Up::Heartbeat => {}
            Up::Acknowledgement(deliveries) => {
                let (channel, connector) = (channel.to_owned(), connector.to_owned());
                self.ask_leader(w, client, Ask::Acknowledge { channel, connector, deliveries });
            }
            Up::End { goodbye } => self.end_stream(w, client, goodbye),
        }
    }

    /// A call of a client was answered here: if its stream is here, that is where the deliveries go down.
    pub(super) fn stream_answered(&mut self, client: usize, result: &CallResult) {
        let Some(stream) = self.streams.open.get_mut(&client) else { return };
        let CallResult::Done { reply: AnyReply::Channel(Reply::Exchanged(exchanged)), .. } = result else {
            return;
        };
        let Exchanged { results, handed, .. } = &**exchanged;
        for result in results {
            if [DELIVERY_LOST.code, MESSAGE_UNKNOWN.code].contains(&result.reason.as_str()) {
                stream.held.remove(&result.id);
            }
        }
        for message in handed {
            if let MessageState::Out { token, .. } = message.state {
                stream.held.insert(message.id.clone(), (token, false));
            }
        }
    }

    /// With every gossip: streams whose connectors are silent end, those that stay are looked over, questions that were not
    /// answered are asked again.
    pub(super) fn tend_streams(&mut self, w: &mut Core) {
        let now = self.now_ms(w);
        let silent = |stream: &Stream| now.saturating_sub(stream.heard_ms) > PATIENCE_MS;
        let ends: Vec<usize> = self
            .streams
            .open
            .iter()
            .filter(|(_, stream)| silent(stream))
            .map(|(client, _)| *client)
            .collect();
        for client in ends {
            self.end_stream(w, client, false);
        }
        self.look_over(w);
        self.streams.asked.retain(|_, asked| now < asked.until_ms);
        let again: Vec<u64> = self.streams.asked.keys().copied().collect();
        for id in again {
            self.ask_once(w, id);
        }
    }

    /// What became of the deliveries elsewhere.
    fn look_over(&mut self, w: &mut Core) {
        let mut streams = std::mem::take(&mut self.streams.open);
        for stream in streams.values_mut().filter(|stream| !stream.held.is_empty()) {
            match load_state::<Channel>(&self.reader.view(), &crate::clients::places::channel(stream.channel))
            {
                Ok(Some(read)) => {
                    let out: BTreeMap<&str, Token> = read
                        .state
                        .messages()
                        .filter_map(|message| match message.state {
                            MessageState::Out { token, .. } => Some((message.id.as_str(), token)),
                            _ => None,
                        })
                        .collect();
                    stream.held.retain(|id, (token, _)| out.get(id.as_str()) == Some(token));
                }
                Ok(None) => {}
                Err(error) => self.failed(w, "a channel cannot be read", &error),
            }
        }
        self.streams.open = streams;
    }

    fn end_stream(&mut self, w: &mut Core, client: usize, goodbye: bool) {
        let Some(Stream { channel, connector, held, .. }) = self.streams.open.remove(&client) else {
            return;
        };
        let left = held.into_iter().filter(|(_, (_, acknowledged))| goodbye || !acknowledged);
        let deliveries: Vec<Delivered> = left.map(|(id, (token, _))| Delivered { id, token }).collect();
        if deliveries.is_empty() {
            return;
        }
        if let Some(services) = &mut w.watch.services {
            services.given_back(&deliveries, goodbye);
        }
        let (channel, connector) = (channel.to_owned(), connector.to_owned());
        self.ask_leader(w, client, Ask::Lost { channel, connector, deliveries, gone: goodbye });
    }

    fn ask_leader(&mut self, w: &mut Core, client: usize, ask: Ask) {
        let (id, until_ms) = (w.next_id(), self.now_ms(w) + ASK_WITHIN_MS);
        self.streams.asked.insert(id, Asked { ask, until_ms, client });
        self.ask_once(w, id);
    }

    fn ask_once(&mut self, w: &mut Core, id: u64) {
        let Some(ask) = self.streams.asked.get(&id).map(|asked| asked.ask.clone()) else { return };
        match self.role.role {
            Role::Leader { .. } => {
                let told = self.answer_of_deliveries(w, &ask);
                self.told_of_deliveries(id, told);
            }
            Role::Follower { leader: Some(leader) } => {
                w.send_news(self.ix, Self::place(leader), Packet::Deliveries { id, ask });
            }
            Role::Follower { leader: None } | Role::Candidate => {}
        }
    }

    /// Another node asks, because it takes this one for the leader.
    pub fn asked_of_deliveries(&mut self, w: &mut Core, from: usize, id: u64, ask: &Ask) {
        let told = self.answer_of_deliveries(w, ask);
        w.send_news(self.ix, from, Packet::DeliveriesTold { id, told });
    }

    /// The leader has answered.
    pub fn told_of_deliveries(&mut self, id: u64, told: Told) {
        // It leads no longer: somebody else is asked, as long as there is time.
        if told == Told::NotLeading {
            return;
        }
        let Some(Asked { ask, client, .. }) = self.streams.asked.remove(&id) else { return };
        let (Ask::Acknowledge { deliveries, .. }, Told::Acknowledged(reasons)) = (ask, told) else { return };
        let Some(stream) = self.streams.open.get_mut(&client) else { return };
        for (Delivered { id, token }, reason) in deliveries.into_iter().zip(reasons) {
            let held = stream.held.get_mut(&id).filter(|(own, _)| *own == token);
            match (held, reason.as_str()) {
                (Some((_, acknowledged)), "") => *acknowledged = true,
                (Some(_), _) => {
                    stream.held.remove(&id);
                }
                (None, _) => {}
            }
        }
    }
}
