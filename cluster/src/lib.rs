//! Raft: orders commits and says when they are durable. Does not know what a case is (design §1, §5).
//!
//! Code map
//! - `api` what the runtime may ask and is told (traits only)
//! - `core` pure state machines: the driver around raft-rs, waiters, clock guard, agreement on hashes, pins.
//!   No I/O, no clock, no thread; the simulator runs the same code in virtual time
//! - `shell` the raft thread, the apply thread and the watchdog: they do what the core asks, in its order
//! - `transport` how nodes reach each other: the trait, and gRPC over connections the node layer makes
//! - `start` [`Cluster::start`]: opens the stores, starts threads and links
//! - `handle` [`ClusterHandle`], the one thing others hold
//!
//! Members change one at a time (`core::change`); the log is cut (`core::retention`), and who lacks what was cut is sent
//! a copy of the database (`core::snapshots`, `shell::copies`, `transport::copy`).

#![deny(
    clippy::iter_over_hash_type,
    reason = "replicated and simulated code visits things in an order that a seed repeats"
)]

pub mod api;
pub mod core;
pub mod handle;
pub mod settings;
pub mod shell;
pub mod start;
pub mod status;
pub mod transport;

pub use crate::core::event::Quarantine;
pub use api::NodeId;
pub use handle::ClusterHandle;
pub use settings::{ClusterSettings, FEATURE_LEVEL, level};
pub use shell::fatal::{Fatal, ProcessExit};
pub use start::{Cluster, ClusterError, ClusterParts};
pub use status::{
    ChangeError, Changed, ClusterStatus, MemberAlarm, MemberAlarms, MemberDigests, MemberPlan, MemberStatus,
    NodePhase, QuorumPlan, REMEDY_NEWER_PROGRAM, REMEDY_REBUILD, TransferError,
};
pub use transport::{
    ConnectError, ForwardError, ForwardHandler, PeerConnector, PeerIdentity, Transport, grpc::PeerService,
};
