//! The seeded simulator: whole clusters of production code in one thread and in virtual time.
//!
//! | module | holds |
//! |---|---|
//! | [`config`] | what a run is made of; kinds of faults |
//! | [`run`], [`batch`], [`minimise`] | one seed, many seeds, the smallest run that still fails |
//! | [`world`], [`faults`], [`members`], [`finish`] | the events of a run, what goes wrong in it, who joins and leaves, how it ends |
//! | [`node`] | a machine and the process on it, made of production's cores |
//! | [`net`], [`clock`], [`queue`], [`core`] | network, clocks, events in virtual time, what all share |
//! | [`watch`], [`services`], [`judge`] | invariants seen from outside, of halls and channels, and from the clients' histories |
//! | [`image`], [`tune`] | the state runs begin with; what differs between them |
//! | [`clients`], [`port`] | simulated clients, and what passes between them and the world |
//! | [`trace`] | the hash of everything that happened, and its readable lines |

#![deny(
    clippy::iter_over_hash_type,
    reason = "replicated and simulated code visits things in an order that a seed repeats"
)]

pub mod batch;
pub mod clients;
pub mod clock;
pub mod config;
pub mod core;
pub mod faults;
pub mod finish;
pub mod image;
pub mod judge;
pub mod members;
pub mod minimise;
pub mod net;
pub mod node;
pub mod port;
pub mod queue;
pub mod run;
pub mod services;
pub mod trace;
pub mod tune;
pub mod watch;
pub mod world;

pub use batch::{BatchConfig, BatchReport, batch};
pub use config::{Config, Kind};
pub use okno_storage::planted::{self, Mutant};
pub use run::{Failure, Run, RunReport};
