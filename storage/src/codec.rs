//! The one place that turns durable records into bytes and back (rule 9).
//!
//! Every durable record is a *frame*: a header — magic, record type, schema version, payload length, crc32c over
//! all of these and the payload — and a payload. The header's form never changes, so a frame of a newer schema is
//! recognised as such ([`StorageError::Newer`]) and never mistaken for damage or skipped.
//!
//! Payloads of this crate's own records are bincode 1.3.3 (variable-length integers, trailing bytes refused, size
//! limited); `bincode` is named in this module only, so that it can be exchanged.

use crate::{
    commit::{COMMIT_BYTES_MAX, Record, RecordTag},
    error::StorageError,
};
use bincode::Options;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Magic 2, type 2, version 2, payload length 4, checksum 4.
pub const HEADER_BYTES: usize = 14;
const MAGIC: [u8; 2] = [0x4F, 0x6B];
/// Where the checksum stands; it covers what is before it and the payload.
const CHECKSUM_AT: usize = 10;

/// Record types from here on belong to this crate; the ones below are free for those who use it.
pub const OWN_KINDS_FROM: u16 = 0xFF00;

/// Types of this crate's own records. A number is never reused.
pub(crate) mod kind {
    pub const COMMIT: u16 = 0xFF01;
    pub const ROOT: u16 = 0xFF02;
    pub const JOURNAL: u16 = 0xFF03;
    pub const MESSAGE: u16 = 0xFF04;
    pub const DEAD_LETTER: u16 = 0xFF05;
    pub const REQUEST: u16 = 0xFF06;
    pub const MARK: u16 = 0xFF07;
    pub const NODE_MARK: u16 = 0xFF08;
    pub const QUARANTINE: u16 = 0xFF09;
    pub const FOUNDING: u16 = 0xFF0A;
    pub const LEVEL: u16 = 0xFF0B;
    pub const HARD_STATE: u16 = 0xFF0C;
    pub const TRUNCATED: u16 = 0xFF0D;
    pub const LOG_ENTRY: u16 = 0xFF0E;
    pub const IDENTITY: u16 = 0xFF0F;
    pub const MEMBER_CHANGE: u16 = 0xFF10;
    pub const MEMBERS: u16 = 0xFF11;
    pub const MANIFEST: u16 = 0xFF12;
}

/// Size no payload passes: a commit, or a log entry around one, with room to spare. Bounds what a damaged
/// length field can make the decoder allocate.
const PAYLOAD_BYTES_MAX: u64 = 4 * COMMIT_BYTES_MAX as u64;

fn options() -> impl Options {
    bincode::DefaultOptions::new().with_limit(PAYLOAD_BYTES_MAX)
}

/// Appends the encoding of `value`.
pub(crate) fn encode_into<T: Serialize>(out: &mut Vec<u8>, value: &T) -> Result<(), StorageError> {
    options()
        .serialize_into(out, value)
        .map_err(|e| StorageError::TooLarge(format!("record cannot be encoded: {e}")))
}

/// Decodes all of `bytes`; strings and byte slices borrow from them.
pub(crate) fn decode<'a, T: Deserialize<'a>>(what: &'static str, bytes: &'a [u8]) -> Result<T, StorageError> {
    options().deserialize(bytes).map_err(|e| corrupt(what, e.to_string()))
}

pub(crate) fn corrupt(what: &'static str, detail: impl Into<String>) -> StorageError {
    StorageError::Corrupt { what, detail: detail.into() }
}

/// Starts a frame in an empty buffer: room for the header, to be filled by [`seal`].
pub(crate) fn open_frame(capacity: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES + capacity);
    out.resize(HEADER_BYTES, 0);
    out
}

/// Fills in the header of a frame begun with [`open_frame`].
pub(crate) fn seal(frame: &mut [u8], tag: RecordTag) {
    let length = u32::try_from(frame.len() - HEADER_BYTES).expect("payloads are bounded far below 4 GiB");
    frame[0..2].copy_from_slice(&MAGIC);
    frame[2..4].copy_from_slice(&tag.kind.to_be_bytes());
    frame[4..6].copy_from_slice(&tag.version.to_be_bytes());
    frame[6..10].copy_from_slice(&length.to_be_bytes());
    let sum = crc32c::crc32c_append(crc32c::crc32c(&frame[..CHECKSUM_AT]), &frame[HEADER_BYTES..]);
    frame[CHECKSUM_AT..HEADER_BYTES].copy_from_slice(&sum.to_be_bytes());
}

/// A frame around `payload`.
pub fn frame(tag: RecordTag, payload: &[u8]) -> Vec<u8> {
    let mut out = open_frame(payload.len());
    out.extend_from_slice(payload);
    seal(&mut out, tag);
    out
}

/// Checks a frame's form and checksum, whatever its type and version.
fn check(what: &'static str, bytes: &[u8]) -> Result<RecordTag, StorageError> {
    if bytes.len() < HEADER_BYTES {
        return Err(corrupt(what, format!("{} bytes are fewer than a header", bytes.len())));
    }
    if bytes[0..2] != MAGIC {
        return Err(corrupt(what, "no record begins here"));
    }
    let length = u32::from_be_bytes([bytes[6], bytes[7], bytes[8], bytes[9]]) as usize;
    if length != bytes.len() - HEADER_BYTES {
        return Err(corrupt(what, format!("length says {length}, there are {}", bytes.len() - HEADER_BYTES)));
    }
    let sum = crc32c::crc32c_append(crc32c::crc32c(&bytes[..CHECKSUM_AT]), &bytes[HEADER_BYTES..]);
    if sum.to_be_bytes() != bytes[CHECKSUM_AT..HEADER_BYTES] {
        return Err(corrupt(what, "checksum does not match"));
    }
    Ok(RecordTag {
        kind: u16::from_be_bytes([bytes[2], bytes[3]]),
        version: u16::from_be_bytes([bytes[4], bytes[5]]),
    })
}

/// The record inside a frame; the body shares the frame's memory. Which types and versions are known is for the
/// caller to say: it owns them.
pub fn unframe(bytes: &Bytes) -> Result<Record, StorageError> {
    let tag = check("record", bytes)?;
    Ok(Record { tag, body: bytes.slice(HEADER_BYTES..) })
}

/// The payload of one of this crate's own records, whose newest version is `newest`, and its version.
pub(crate) fn unframe_own<'a>(
    what: &'static str,
    bytes: &'a [u8],
    kind: u16,
    newest: u16,
) -> Result<(u16, &'a [u8]), StorageError> {
    let tag = check(what, bytes)?;
    if tag.kind != kind {
        return Err(corrupt(what, format!("record type {:#06x} stands where {kind:#06x} belongs", tag.kind)));
    }
    if tag.version > newest {
        return Err(StorageError::Newer { kind, version: tag.version });
    }
    if tag.version == 0 {
        return Err(corrupt(what, "schema version 0"));
    }
    Ok((tag.version, &bytes[HEADER_BYTES..]))
}

/// A frame of one of this crate's own records in its version 1 form.
pub(crate) fn frame_own<T: Serialize>(kind: u16, version: u16, value: &T) -> Result<Vec<u8>, StorageError> {
    let mut out = open_frame(64);
    encode_into(&mut out, value)?;
    seal(&mut out, RecordTag { kind, version });
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAG: RecordTag = RecordTag { kind: 7, version: 3 };

    #[test]
    fn a_frame_gives_its_record_back() {
        let record = unframe(&Bytes::from(frame(TAG, b"payload"))).expect("own frame");
        assert_eq!((record.tag, &record.body[..]), (TAG, &b"payload"[..]));
    }

    #[test]
    fn any_flipped_bit_and_any_cut_is_noticed() {
        let good = frame(TAG, b"payload");
        for byte in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[byte] ^= 1 << bit;
                assert!(
                    matches!(unframe(&Bytes::from(bad)), Err(StorageError::Corrupt { .. })),
                    "{byte}.{bit}"
                );
            }
        }
        for len in 0..good.len() {
            assert!(unframe(&Bytes::copy_from_slice(&good[..len])).is_err(), "cut to {len}");
        }
    }

    #[test]
    fn a_newer_version_is_told_from_damage() {
        let newer = frame_own(kind::MARK, 9, &1u8).expect("encodes");
        let err = unframe_own("mark", &newer, kind::MARK, 1).expect_err("version 9 is not known");
        assert!(matches!(err, StorageError::Newer { kind: kind::MARK, version: 9 }));
    }
}
