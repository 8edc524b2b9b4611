//! The drills, one line each. A new drill is a file here and a line in [`ALL`].

use crate::drill::Drill;

pub mod process;

/// Every drill, in the order in which `all` runs them.
pub const ALL: &[Drill] = &[process::LEADER_LOST];

/// A drill by its name.
pub fn find(name: &str) -> Option<&'static Drill> {
    ALL.iter().find(|drill| drill.name == name)
}
