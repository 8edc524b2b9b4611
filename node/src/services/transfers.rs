//! Hand-overs of leadership that this node carried out, by the request that asked for them (rule 6, as far as it goes).
//!
//! Who leads is no replicated state, so a hand-over is no commit and cannot be remembered as one. The node that carried
//! it out remembers the last ones: the same request again is told how it ended, and is not carried out twice. A retry that
//! reaches another node finds, where it named a target, that the target leads; where it named none and reaches the new
//! leader, leadership goes on to a third node, which harms nothing.

use super::desk::WriteRequest;
use crate::failure::Failure;
use okno_domain::entity::Principal;
use parking_lot::Mutex;
use std::collections::VecDeque;
use uuid::Uuid;

/// Hand-overs remembered. People ask for them, one at a time, and repeat within minutes.
const KEPT: usize = 64;

struct Done {
    principal: Principal,
    request_id: Uuid,
    hash: [u8; 32],
    leader: u64,
}

/// Invariant: at most [`KEPT`], oldest first, each request once.
#[derive(Default)]
pub struct Transfers(Mutex<VecDeque<Done>>);

impl Transfers {
    /// Who leads since this request was carried out here, if it was.
    pub fn known(&self, request: &WriteRequest) -> Result<Option<u64>, Failure> {
        let done = self.0.lock();
        let same = |one: &&Done| one.request_id == request.request_id && one.principal == request.principal;
        match done.iter().find(same) {
            None => Ok(None),
            Some(one) if one.hash == request.hash => Ok(Some(one.leader)),
            Some(_) => Err(Failure::Refused(okno_runtime::call::reused())),
        }
    }

    pub fn carried_out(&self, request: WriteRequest, leader: u64) {
        let WriteRequest { principal, request_id, hash, .. } = request;
        let mut done = self.0.lock();
        done.push_back(Done { principal, request_id, hash, leader });
        if done.len() > KEPT {
            done.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(n: u128, hash: u8) -> WriteRequest {
        let principal = Principal { kind: "admin".into(), id: "anna".into() };
        WriteRequest::made_up(principal, Uuid::from_u128(n), [hash; 32])
    }

    #[test]
    fn a_request_is_carried_out_once_and_an_id_is_not_used_for_another() {
        let transfers = Transfers::default();
        assert!(matches!(transfers.known(&request(1, 1)), Ok(None)));
        transfers.carried_out(request(1, 1), 2);
        assert!(matches!(transfers.known(&request(1, 1)), Ok(Some(2))));
        let Err(Failure::Refused(refusal)) = transfers.known(&request(1, 9)) else { panic!("another body") };
        assert_eq!(refusal.reason, "REQUEST_ID_REUSED");
        for n in 0..KEPT as u128 {
            transfers.carried_out(request(10 + n, 1), 3);
        }
        assert!(matches!(transfers.known(&request(1, 1)), Ok(None)), "the oldest is forgotten");
        assert_eq!(transfers.0.lock().len(), KEPT);
    }
}
