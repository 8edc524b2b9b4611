//! What must hold, said once for simulator and drills: histories of what clients saw, the checks on them, and the reports.
//!
//! | module | holds |
//! |---|---|
//! | [`invariants`] | the catalogue: every invariant with its id |
//! | [`history`] | what clients asked and what they learned |
//! | [`report`] | the report of a drill, as JSON |
//! | [`page`] | reports as a page for people |

pub mod history;
pub mod invariants;
pub mod page;
pub mod report;
