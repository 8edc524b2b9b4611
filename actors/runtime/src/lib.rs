//! What runs the domain's entities on the leader (design §6): cells, shards, courier, timers, gateway, queries.
//!
//! Code map, in reading order
//! - `call` what callers ask and are told · `work` the same on the inside · `codec` domain types ↔ records
//! - `cell` one entity's pure half: work in, commit out · `sys` the cluster's own entities · `load` rows → cells
//! - `shard` the core that keeps rules 1–4, 6 and 13 for many entities: input in, effects out
//! - `courier`, `timers` cores of message delivery and of the timer scanner · `depth` bounds between entities
//! - `intake` the gate of a node that must take in less · `end` why a node cannot go on
//! - `world` catalogue and directory as applied
//! - `attendance` which workstations attend their windows · `channels` the clocks of deliveries to connectors, and who is attached
//! - `shell` actix actors and tasks around the cores; the only module that imports actix
//! - `gateway` where calls enter, `course` its pure half · `query` reads · `runtime` puts it all together
//!
//! Cores are pure: the simulator drives them in virtual time with the code production runs.

#![deny(
    clippy::iter_over_hash_type,
    reason = "replicated and simulated code visits things in an order that a seed repeats"
)]

pub mod attendance;
pub mod call;
pub mod cell;
pub mod channels;
pub mod codec;
pub mod courier;
pub mod course;
pub mod depth;
pub mod end;
pub mod gateway;
pub mod intake;
pub mod load;
pub mod query;
pub mod runtime;
pub mod shard;
mod shell;
pub mod sys;
pub mod timers;
pub mod work;
pub mod world;

pub use call::{Answer, Call, CallResult, Cause, REASONS, SystemCall, SystemResult};
pub use end::End;
pub use gateway::{Forwarder, Gateway};
pub use query::{
    CaseFilter, CasePage, Change, Changes, EntityInfo, HistoryEntry, ListCursor, Query, Read, Snapshot,
};
pub use runtime::{Fatal, Runtime, RuntimeError, RuntimeFigures, RuntimeHandle, RuntimeSettings};
pub use shard::ShardSettings;
