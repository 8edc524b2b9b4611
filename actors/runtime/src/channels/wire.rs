//! What a node asks the leader about deliveries and those who hold them. No commit follows, so nothing of it is durable; it
//! travels as a forward of a form of its own, which nodes below the feature level of channels are never sent.

use super::presence::{Session, SessionName};
use crate::codec::{self, CodecError};
use bytes::Bytes;
use okno_domain::channel::Token;
use serde::{Deserialize, Serialize};

/// A delivery as its connector names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivered {
    pub id: String,
    pub token: Token,
}

/// Asked of the leader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// These deliveries arrived.
    Acknowledge { channel: String, connector: String, deliveries: Vec<Delivered> },
    /// The way to whoever these went to is lost; `gone`: it will not come back for them.
    Lost { channel: String, connector: String, deliveries: Vec<Delivered>, gone: bool },
    /// A process of a connector attaches, and has these deliveries and no others.
    Resumed { channel: String, connector: String, instance: String, holds: Vec<Delivered> },
    /// Does the connector hold this message?
    Holds { channel: String, connector: String, delivery: Delivered },
    /// All sessions of a node.
    Present { node: u64, sessions: Vec<Session> },
    /// Who is attached to a channel?
    Attached { channel: String },
}

/// What the leader says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Told {
    /// It leads no longer, or not yet.
    NotLeading,
    /// To [`Ask::Acknowledge`]: a reason code for each delivery; empty: it counts.
    Acknowledged(Vec<String>),
    Done,
    /// To [`Ask::Holds`]: the message's place in the channel, or a reason code.
    Holds(Result<u64, String>),
    /// To [`Ask::Present`]: those that newer ones have replaced, each with when it attached.
    Replaced(Vec<(SessionName, i64)>),
    /// To [`Ask::Attached`]: each with its node.
    Attached(Vec<(u64, Session)>),
}

/// `None`: too large to carry.
pub fn encode_ask(ask: &Ask) -> Option<Bytes> {
    codec::encode_channels(ask)
}

/// `None`: not a question about channels; anything else that is forwarded has another form.
pub fn decode_ask(payload: &[u8]) -> Option<Result<Ask, CodecError>> {
    codec::decode_channels(payload)
}

pub fn encode_told(told: &Told) -> Bytes {
    // An answer names no more than was asked for; a node that cannot read this asks again.
    codec::encode_channels(told).unwrap_or_default()
}

pub fn decode_told(payload: &[u8]) -> Option<Told> {
    codec::decode_channels(payload)?.ok()
}
