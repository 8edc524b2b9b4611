//! The threads that do what the core asks, and what they share.
//!
//! - [`raft_thread`] owns the driver and `identity`: drains everything that waits into one turn, does its effects
//! - [`apply_thread`] owns the state: reads the log up to the watermark, applies slices, answers
//! - [`hub`] what both and the handle share · [`inbox`] the raft thread's mailbox
//! - [`peers`] what members say about themselves · [`watchdog`] a disk that does not return
//! - [`copies`] of the database, for members that lack what was cut
//! - [`digests`] the view that waits to be digested
//! - [`fatal`] the end of the process
//!
//! Neither thread ever blocks on another: see rule 11.

pub mod apply_thread;
pub mod copies;
pub mod digests;
pub mod fatal;
pub mod hub;
pub mod inbox;
pub mod inlet;
pub mod peers;
pub mod raft_thread;
pub mod system;
pub mod watchdog;
