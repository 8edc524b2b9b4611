//! Pure state machines of the cluster: no I/O, no clock, no threads, no randomness but the seed's.
//!
//! - [`driver`] raft-rs behind `on(events, now) → effects`, with [`proposals`], [`reads`] and [`transfer`]
//! - [`change`] changing the members · [`snapshots`] copies for those who lack what was cut · [`retention`] how much of
//!   the log is kept
//! - [`check`] what an inbound raft message must satisfy before it is stepped
//! - [`log_view`] the log as raft-rs wants to see it
//! - [`table`] who waits for which index
//! - [`open`] from stores to a driver · [`steps`] what is done with stores, in the order production and simulator share
//! - [`clock`] what a leader may stamp · [`agreement`] comparing hashes · [`pins`] who may shake hands

pub mod agreement;
pub mod change;
pub mod check;
pub mod clock;
pub mod driver;
pub mod event;
pub mod log_view;
pub mod open;
pub mod pins;
pub mod proposals;
pub mod reads;
pub mod retention;
pub mod snapshots;
pub mod steps;
pub mod table;
pub mod transfer;
