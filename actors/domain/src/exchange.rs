//! What cases and integration channels tell each other: requests, answers, letters from outside, and the bodies they
//! speak of (R-I1, R-I2, R-C11).
//!
//! A body — the bytes that leave for or came from an outside system — is written once, by whoever had it first: a case
//! keeps what it sends, a channel what its connectors bring. Everybody else has a [`BodyRef`], which names the holder, the
//! number there, and the SHA-256 by which the bytes prove themselves whenever they are read back.

use crate::entity::EntityRef;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest, Sha256};
use std::fmt;

/// Bytes of one body (design §8): larger ones wait for blobs. Three of them fit one commit.
pub const BODY_BYTES_MAX: usize = 64 * 1024;
/// Characters of a code: of a channel, a kind of request, an ordering key.
pub const CODE_MAX: usize = 64;
/// Characters of a line for people: subject, outside id.
pub const LINE_MAX: usize = 300;
/// Characters of a summary, a reason or a report of progress.
pub const TEXT_MAX: usize = 2_000;
/// How deep requests may lie within requests: a case's is 0, and what its connector asks of another channel 1.
pub const DEPTH_MAX: u8 = 3;
/// Requests that may be made on account of one request. With [`DEPTH_MAX`] this bounds what one answer can name.
pub const SUBREQUESTS_MAX: usize = 8;
/// Bodies that one answer may name besides its own: those of failed attempts, and of the requests made on its account. What
/// is deeper and does not fit stays kept for good, rather than be forgotten too early.
pub const OTHERS_MAX: usize = 24;

/// Bytes of a message as an outside system gets or sent them. They are encoded at once, not one by one, and no log shows
/// them: they hold personal data.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Content(pub Vec<u8>);

impl Content {
    pub fn sha256(&self) -> [u8; 32] {
        sha256(&self.0)
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Serialize for Content {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl de::Visitor<'_> for Bytes {
            type Value = Content;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Content, E> {
                Ok(Content(bytes.to_vec()))
            }
            fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<Content, E> {
                Ok(Content(bytes))
            }
        }
        deserializer.deserialize_byte_buf(Bytes)
    }
}

pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// A digest as people compare it: hexadecimal.
pub fn hex(digest: &[u8; 32]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Where a body lies and what it must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BodyRef {
    /// The entity in whose rows it stands.
    pub holder: EntityRef,
    /// Within the holder; never used again.
    pub number: u64,
    pub sha256: [u8; 32],
    pub bytes: u32,
}

/// What was read back is not what was kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("body {number} of {holder} should be {expected}, and is {found}")]
pub struct Disproved {
    pub holder: EntityRef,
    pub number: u64,
    pub expected: String,
    pub found: String,
}

impl BodyRef {
    pub fn of(holder: &EntityRef, number: u64, content: &Content) -> Self {
        Self {
            holder: holder.clone(),
            number,
            sha256: content.sha256(),
            // Bounded long before: BODY_BYTES_MAX.
            bytes: u32::try_from(content.0.len()).unwrap_or(u32::MAX),
        }
    }

    /// Are these the bytes that were kept (R-I2)?
    pub fn prove(&self, bytes: &[u8]) -> Result<(), Disproved> {
        let found = sha256(bytes);
        if found == self.sha256 && usize::try_from(self.bytes) == Ok(bytes.len()) {
            return Ok(());
        }
        Err(Disproved {
            holder: self.holder.clone(),
            number: self.number,
            expected: hex(&self.sha256),
            found: hex(&found),
        })
    }
}

/// A request to a channel's outside system: of a case, or of a channel on account of such a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelRequest {
    /// Our message id, the idempotency key outside (rule 5): `<case>.<request>`, and for requests within requests
    /// `<id>.<n>`.
    pub id: String,
    /// The case it is made for.
    pub case: String,
    /// What is asked, in a word the connector knows.
    pub kind: String,
    /// Requests with the same key keep their order where the channel orders by key; empty: none.
    pub key: String,
    pub subject: String,
    pub body: BodyRef,
    /// An answer is of no use later.
    pub expires_ms: Option<i64>,
    /// See [`DEPTH_MAX`].
    pub depth: u8,
}

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The outside system did what was asked.
    Answered,
    /// It will never do it.
    Rejected { reason: String },
    /// Nobody answered in time.
    Expired,
    /// A person gave it up.
    Discarded { reason: String },
    /// Whoever asked needed it no longer.
    Withdrawn,
    /// The channel did not take it; a reason code.
    Refused { reason: String },
}

impl Outcome {
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Rejected { .. } => "rejected",
            Self::Expired => "expired",
            Self::Discarded { .. } => "discarded",
            Self::Withdrawn => "withdrawn",
            Self::Refused { .. } => "refused",
        }
    }

    /// Why it was not answered; empty where the name says it all.
    pub fn reason(&self) -> &str {
        match self {
            Self::Answered | Self::Expired | Self::Withdrawn => "",
            Self::Rejected { reason } | Self::Discarded { reason } | Self::Refused { reason } => reason,
        }
    }

    pub const fn is_answered(&self) -> bool {
        matches!(self, Self::Answered)
    }
}

/// The one answer to a [`ChannelRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelAnswer {
    /// Of the request.
    pub id: String,
    pub outcome: Outcome,
    /// For people: what the answer says.
    pub summary: String,
    pub body: Option<BodyRef>,
    /// Bodies of failed attempts, of requests made on its account and of their answers: kept as long as this one. At most
    /// [`OTHERS_MAX`].
    pub others: Vec<BodyRef>,
    /// The connector that answered; empty: none did.
    pub connector: String,
}

/// A message that came from outside unasked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Letter {
    /// Within the channel.
    pub number: u64,
    /// As its sender calls it.
    pub outside_id: String,
    /// What it is, in a word the process knows.
    pub kind: String,
    pub subject: String,
    pub body: BodyRef,
    pub received_ms: i64,
    /// The connector that brought it.
    pub connector: String,
}

/// The case a message id belongs to.
pub fn case_of(id: &str) -> &str {
    id.split_once('.').map_or(id, |(case, _)| case)
}

/// The id of the `n`-th request within a request (or a case).
pub fn within(id: &str, n: impl fmt::Display) -> String {
    format!("{id}.{n}")
}

/// The request an id lies within, and its place there.
pub fn parent_of(id: &str) -> Option<(&str, u32)> {
    let (parent, n) = id.rsplit_once('.')?;
    Some((parent, n.parse().ok()?))
}
