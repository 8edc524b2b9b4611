//! Between the types of this crate and those of `okno.peer.v1`. What comes in is untrusted: sizes are checked.

use super::{Gossip, Hello, Refusal};
use crate::{
    core::agreement::POINTS_KEPT,
    settings::{ALARM_TEXT_BYTES_MAX, ALARMS_MAX},
    status::{MemberAlarm, Point},
};
use bytes::Bytes;
use okno_proto::okno::peer::v1 as pb;
use okno_storage::members::PEER_ADDRESS_BYTES_MAX;
use prost_raft::Message as _;
use raft::eraftpb::Message;
use uuid::Uuid;

pub fn hello_out(hello: &Hello) -> pb::Hello {
    pb::Hello {
        cluster_id: Bytes::copy_from_slice(hello.cluster.as_bytes()),
        node_id: hello.node,
        incarnation: Bytes::copy_from_slice(hello.incarnation.as_bytes()),
        members_hash: Bytes::copy_from_slice(&hello.members_hash),
        feature_level: hello.feature_level,
        protocol: hello.protocol,
        to_node_id: hello.to,
        peer_address: hello.address.clone(),
    }
}

pub fn hello_in(hello: &pb::Hello) -> Result<Hello, Refusal> {
    let uuid = |bytes: &Bytes, what| Uuid::from_slice(bytes).map_err(|_| Refusal::Malformed(what));
    Ok(Hello {
        cluster: uuid(&hello.cluster_id, "cluster id")?,
        node: hello.node_id,
        incarnation: uuid(&hello.incarnation, "incarnation")?,
        members_hash: hello.members_hash[..].try_into().map_err(|_| Refusal::Malformed("members hash"))?,
        feature_level: hello.feature_level,
        protocol: hello.protocol,
        to: hello.to_node_id,
        address: Some(&hello.peer_address)
            .filter(|a| a.len() <= PEER_ADDRESS_BYTES_MAX)
            .ok_or(Refusal::Malformed("address"))?
            .clone(),
    })
}

fn point_out((index, hash): &Point) -> pb::ChainPoint {
    pb::ChainPoint { index: *index, hash: Bytes::copy_from_slice(hash) }
}

fn point_in(point: &pb::ChainPoint) -> Option<Point> {
    Some((point.index, point.hash[..].try_into().ok()?))
}

/// `clock_ms` is our clock at the moment the frame is made.
pub fn gossip_out(gossip: &Gossip, clock_ms: i64) -> pb::Gossip {
    pb::Gossip {
        clock_ms,
        applied_index: gossip.applied,
        chains: gossip.chains.iter().map(point_out).collect(),
        digest: gossip.digest.as_ref().map(point_out),
        quarantined: gossip.quarantined,
        pinned: gossip.pinned,
        alarms: gossip.alarms.iter().take(ALARMS_MAX).map(alarm_out).collect(),
    }
}

fn alarm_out(alarm: &MemberAlarm) -> pb::Alarm {
    pb::Alarm {
        kind: cut(&alarm.kind),
        severity: u32::from(alarm.severity),
        since_ms: alarm.since_ms,
        text_ru: cut(&alarm.text_ru),
        text_en: cut(&alarm.text_en),
    }
}

fn alarm_in(alarm: &pb::Alarm) -> MemberAlarm {
    MemberAlarm {
        kind: cut(&alarm.kind),
        severity: u8::try_from(alarm.severity).unwrap_or(1),
        since_ms: alarm.since_ms,
        text_ru: cut(&alarm.text_ru),
        text_en: cut(&alarm.text_en),
    }
}

/// A text of bounded length; what is longer ends in the middle of a sentence, not of a character.
fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(ALARM_TEXT_BYTES_MAX)].to_owned()
}

/// Points that are not hashes, and more than are ever sent, are left out.
pub fn gossip_in(gossip: &pb::Gossip) -> Gossip {
    Gossip {
        clock_ms: gossip.clock_ms,
        applied: gossip.applied_index,
        chains: gossip.chains.iter().take(POINTS_KEPT).filter_map(point_in).collect(),
        digest: gossip.digest.as_ref().and_then(point_in),
        quarantined: gossip.quarantined,
        pinned: gossip.pinned,
        alarms: gossip.alarms.iter().take(ALARMS_MAX).map(alarm_in).collect(),
    }
}

pub fn message_out(message: &Message) -> Bytes {
    message.encode_to_vec().into()
}

pub fn messages_in(encoded: &[Bytes]) -> Result<Vec<Message>, Refusal> {
    encoded
        .iter()
        .map(|bytes| Message::decode(&bytes[..]).map_err(|_| Refusal::Malformed("raft message")))
        .collect()
}

/// What a message weighs in a queue: its entries, and a little for the rest.
pub fn weight(message: &Message) -> usize {
    64 + message.entries.iter().map(|e| e.data.len() + 24).sum::<usize>()
}
