//! The drills, one line each. A new drill is a file here and a line in [`ALL`].

use crate::drill::Drill;

pub mod disk_rot;
pub mod network;
pub mod network_lines;
pub mod power;
pub mod process;

/// Every drill, in the order in which `all` runs them.
pub const ALL: &[Drill] = &[
    process::LEADER_LOST,
    power::POWER_LOSS,
    power::POWER_LOSS_ONE,
    power::METADATA_ONLY,
    power::IMAGE_IN_FLIGHT,
    disk_rot::WAL_ROT,
    disk_rot::SST_ROT,
    disk_rot::MANIFEST_LOST,
    disk_rot::WAL_LOST,
    network::LEADER_ISOLATED,
    network::FOLLOWER_ISOLATED,
    network::ONE_WAY_CUT,
    network::PARTIAL_CUT,
    network::SWIZZLE,
    network_lines::LOSSY,
    network_lines::SLOW_LINKS,
    network_lines::NARROW_LINKS,
    network_lines::RESETS,
    network_lines::HALF_OPEN,
];

/// A drill by its name.
pub fn find(name: &str) -> Option<&'static Drill> {
    ALL.iter().find(|drill| drill.name == name)
}
