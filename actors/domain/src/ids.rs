//! Ids that are made from request ids, so that a retry of a request makes the same ones (rules 6 and 7).

use crate::entity::Principal;
use sha2::{Digest, Sha256};
use uuid::{Builder, Uuid};

/// The `n`-th id that follows from a request: name-based over SHA-256 (UUID version 8).
pub fn derived(request_id: Uuid, n: u32) -> Uuid {
    let mut hash = Sha256::new();
    hash.update(b"okno/derived/1");
    hash.update(request_id.as_bytes());
    hash.update(n.to_be_bytes());
    from_digest(&hash.finalize())
}

/// The id of the case that a request opens. Requests are known by principal and request id together, so two
/// principals that happen to use one request id open two cases.
pub fn case_id(principal: &Principal, request_id: Uuid) -> String {
    let mut hash = Sha256::new();
    hash.update(b"okno/case/1");
    hash.update(request_id.as_bytes());
    hash.update(principal.kind.as_bytes());
    hash.update([0]);
    hash.update(principal.id.as_bytes());
    from_digest(&hash.finalize()).to_string()
}

fn from_digest(digest: &[u8]) -> Uuid {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    Builder::from_custom_bytes(bytes).into_uuid()
}
