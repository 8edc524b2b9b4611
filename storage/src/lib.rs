//! Durable state of one node: engines, log, applied state, identity (design §4).
//!
//! Code map: `engine` the contract · `rocks`, `memory` its two implementations · `keys` every key ever written ·
//! `codec` headers and frozen schemas · `commit` what is replicated · `apply` the pure step (state, entry) →
//! outcome · `state` the applied state and its readers · `log` raft's log · `identity` the double-slot file.

pub mod commit;
pub mod engine;
pub mod error;
pub mod identity;
pub mod log;
pub mod state;
