//! The pure domain: what cases, queues, the catalogue and the directory decide and how their states fold
//! (design §1: it does not know that it is replicated). No I/O, no clock, no randomness.
//!
//! Reading order: [`entity`] is the contract with whoever runs an entity, [`registry`] the one list of kinds;
//! [`case`], [`queue`], [`catalogue`], [`directory`] and [`channel`] are the kinds; [`exchange`] is what cases and
//! channels tell each other. A new kind is one module and one
//! registry line; a new command is one variant, and the compiler names the rest.

#![deny(
    clippy::iter_over_hash_type,
    reason = "replicated and simulated code visits things in an order that a seed repeats"
)]

pub mod access;
pub mod case;
pub mod catalogue;
pub mod channel;
pub mod directory;
pub mod entity;
pub mod exchange;
pub mod ids;
pub mod intake;
pub mod level;
pub mod message;
pub mod people;
pub mod planted;
pub mod queue;
pub mod refusal;
#[macro_use]
pub mod registry;
pub mod rows;
pub mod time;
pub mod validators;
