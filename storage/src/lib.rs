//! Durable state of one node: engines, log, applied state, identity (design §4).
//!
//! Code map: `engine` the contract · `rocks`, `memory` its two implementations · `keys` every key ever written ·
//! `codec` headers and encoding · `schema`, `rows` frozen schemas of what is replicated and of what is stored ·
//! `commit` what is replicated · `apply` the pure step (state, entry) → outcome · `cache` what it keeps in memory ·
//! `state` the applied state, its owner and its readers · `view` reading it as of one moment · `log` raft's log ·
//! `identity` the double-slot file · `members` who belongs to the cluster · `slot` the engine, exchangeable ·
//! `snapshot` copies for other members, from the taking to the installing ·
//! `recover` a new cluster from what is left of one.

#![deny(
    clippy::iter_over_hash_type,
    reason = "replicated and simulated code visits things in an order that a seed repeats"
)]

mod apply;
mod cache;
pub mod codec;
pub mod commit;
pub mod engine;
pub mod error;
pub mod identity;
pub mod keys;
pub mod level;
pub mod log;
pub mod members;
pub mod memory;
pub mod planted;
pub mod recover;
#[cfg(feature = "rocksdb")]
pub mod rocks;
mod rows;
mod schema;
pub mod scrub;
pub mod slot;
pub mod snapshot;
pub mod state;
mod view;

pub use apply::chain_step;
