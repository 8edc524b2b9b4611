//! What must hold, said once for simulator and drills: histories of what clients saw, the checks on them, and the reports.
//!
//! | module | holds |
//! |---|---|
//! | [`invariants`] | the catalogue: every invariant with its id |
//! | [`breaches`] | what was found broken, the first of it |
//! | [`history`] | what clients asked and what they learned |
//! | [`examine`] | all checks on a history |
//! | [`requests`] | what became of each request, over all calls that named it |
//! | [`survive`] | what the stores hold in the end against what was told |
//! | [`linear`], [`models`] | whether an order of the operations exists in which a sequential model answers alike |
//! | [`hall`], [`exchange`] | what must hold of an office's queue and of channels, judged commit by commit |
//! | [`report`] | the report of a drill, as JSON |
//! | [`page`] | reports as a page for people |

#![deny(clippy::iter_over_hash_type, reason = "checks visit things in an order that a seed repeats")]

pub mod breaches;
pub mod examine;
pub mod exchange;
pub mod hall;
pub mod history;
pub mod invariants;
pub mod linear;
pub mod models;
pub mod page;
pub mod report;
pub mod requests;
pub mod survive;
