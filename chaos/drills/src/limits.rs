//! Less of the machine for one process: descriptors, memory, processor time.

use std::path::{Path, PathBuf};

/// Where version 2 of control groups is mounted.
const CONTROL_GROUPS: &str = "/sys/fs/cgroup";

/// What is missing for limits by control groups.
pub fn control_groups_missing() -> Option<String> {
    let root = Path::new(CONTROL_GROUPS);
    let Ok(controllers) = std::fs::read_to_string(root.join("cgroup.controllers")) else {
        return Some("control groups of version 2 are not mounted".to_owned());
    };
    let absent: Vec<&str> = ["cpu", "memory"]
        .into_iter()
        .filter(|name| !controllers.split_whitespace().any(|controller| controller == *name))
        .collect();
    (!absent.is_empty()).then(|| format!("control groups have no controller for {}", absent.join(", ")))
}

/// Resident memory of a process in bytes; `None`: it is gone.
pub fn resident(process: u32) -> Option<u64> {
    let text = std::fs::read_to_string(PathBuf::from(format!("/proc/{process}/status"))).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}
