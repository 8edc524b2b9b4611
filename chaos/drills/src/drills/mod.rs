//! The drills, one line each. A new drill is a file here and a line in [`ALL`].

use crate::drill::Drill;

pub mod backups;
pub mod certificates;
pub mod clients;
pub mod clock;
pub mod connector_lies;
pub mod connectors;
pub mod copies;
pub mod disk_calls;
pub mod disk_faults;
pub mod disk_rot;
pub mod entity;
pub mod input;
pub mod journal;
pub mod membership;
pub mod network;
pub mod network_lines;
pub mod overload;
pub mod power;
pub mod power_supply;
pub mod process;
pub mod resources;
pub mod upgrade;
pub mod workstations;

/// Every drill, in the order in which `all` runs them.
pub const ALL: &[Drill] = &[
    process::LEADER_LOST,
    process::KILL_FOLLOWER,
    process::KILL_ALL,
    process::LEADER_PAUSED,
    process::LEADER_FLAPPING,
    process::ROLLING_RESTART,
    process::CPU_STARVED,
    upgrade::ROLLING_UPGRADE,
    membership::MEMBERS_CHANGE,
    membership::DATA_WIPED,
    membership::ONE_SURVIVOR,
    copies::SNAPSHOT_CUT,
    copies::SNAPSHOT_DAMAGED,
    clients::WORKSTATION_LOST,
    clients::REPLAYED_IDS,
    workstations::WORKSTATION_KILLED,
    workstations::WORKSTATION_PAUSED,
    connectors::CONNECTOR_KILLED,
    connectors::CONNECTOR_PAUSED,
    connectors::LEADER_LOST_IN_BETWEEN,
    connector_lies::CONNECTOR_LYING,
    connector_lies::OLD_TOKEN,
    overload::OVERLOAD,
    input::MALFORMED,
    input::HUGE_MESSAGES,
    input::RAPID_RESET,
    certificates::BAD_CERTIFICATES,
    certificates::CERTIFICATES_ROTATED,
    certificates::STALE_LIST,
    resources::OUT_OF_DESCRIPTORS,
    resources::OUT_OF_MEMORY,
    entity::PANICKING_ENTITY,
    journal::JOURNAL_EDITED,
    power::POWER_LOSS,
    power::POWER_LOSS_ONE,
    power::METADATA_ONLY,
    power::IMAGE_IN_FLIGHT,
    backups::BACKUP_CUT_OFF,
    backups::BACKUP_DAMAGED,
    backups::RESTORED_MEETS_OLD,
    power_supply::UPS_ON_BATTERY,
    power_supply::UPS_FLAPPING,
    power_supply::UPS_LOW,
    power_supply::UPS_LOST,
    disk_rot::WAL_ROT,
    disk_rot::SST_ROT,
    disk_rot::SCRUB_FINDS,
    disk_rot::MANIFEST_LOST,
    disk_rot::WAL_LOST,
    disk_faults::DISK_NEARLY_FULL,
    disk_faults::DISK_FULL,
    disk_faults::HUNG_DISK,
    disk_calls::KILL_AT_FSYNC,
    disk_calls::FSYNC_EIO,
    disk_calls::READ_EIO,
    disk_calls::SLOW_DISK,
    clock::CLOCK_JUMP,
    clock::CLOCK_STROBE,
    clock::MONOTONIC,
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

/// A row of the fault list that no drill covers yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct NotYet {
    pub fault: u32,
    pub what: &'static str,
    /// What must be there first.
    pub waits_for: &'static str,
}

/// Every row without a drill, and why.
pub const NOT_YET: &[NotYet] = &[
    NotYet {
        fault: 6,
        what: "torn writes",
        waits_for: "a file system that tears (FUSE); the simulator tears identity slots",
    },
    NotYet {
        fault: 25,
        what: "duplicated, reordered, stale messages",
        waits_for: "nothing: TCP between real nodes repeats and reorders none; the simulator does",
    },
    NotYet {
        fault: 42,
        what: "the journal's sink is full or blocked",
        waits_for: "a sink: the journal is kept in the database, whose full disk is row 13",
    },
    NotYet {
        fault: 50,
        what: "a missing or rotten copy of a document",
        waits_for: "documents' contents (part 4)",
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    /// Rows of the fault list.
    const FAULTS: u32 = 50;

    #[test]
    fn names_are_unique_and_plain() {
        let mut seen = BTreeSet::new();
        for drill in ALL {
            assert!(seen.insert(drill.name), "{} stands twice", drill.name);
            let plain = drill
                .name
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
            assert!(plain, "{}", drill.name);
            assert!(!drill.faults.is_empty() && !drill.scenario.is_empty() && !drill.expected.is_empty());
        }
    }

    #[test]
    fn every_fault_has_a_drill_or_a_reason_why_not() {
        let mut covered: BTreeMap<u32, Vec<&str>> = BTreeMap::new();
        for drill in ALL {
            for fault in drill.faults {
                covered.entry(*fault).or_default().push(drill.name);
            }
        }
        for row in NOT_YET {
            assert!(
                !covered.contains_key(&row.fault),
                "row {} has drills: {:?}",
                row.fault,
                covered[&row.fault]
            );
            covered.entry(row.fault).or_default();
        }
        let missing: Vec<u32> = (1..=FAULTS).filter(|fault| !covered.contains_key(fault)).collect();
        assert!(missing.is_empty(), "rows without a drill and without a reason: {missing:?}");
    }

    #[test]
    fn three_drills_run_without_anything() {
        assert!(ALL.iter().filter(|drill| drill.needs.is_empty()).count() >= 3);
    }
}
