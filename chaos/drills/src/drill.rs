//! What a drill is: a name, the faults it causes, what it needs, and what it does.

use crate::bench::Bench;
use futures::future::LocalBoxFuture;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// One drill. All of them stand in [`crate::drills::ALL`].
#[derive(Clone, Copy)]
pub struct Drill {
    /// In kebab case; the name of its command and of its report.
    pub name: &'static str,
    /// Rows of the fault list (docs/reliability.md).
    pub faults: &'static [u32],
    pub needs: &'static [Need],
    /// What is done to the cluster, in a sentence or two.
    pub scenario: &'static str,
    /// What must come of it.
    pub expected: &'static str,
    /// Starts a cluster ([`Bench::start`]), hurts it, waits until it has recovered. Unwinding means broken. The runner
    /// does the final checks and fills the report.
    pub run: for<'a> fn(&'a mut Bench) -> LocalBoxFuture<'a, ()>,
}

/// What a drill needs of the machine besides the binaries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Need {
    Root,
    /// `ip netns` and `iptables`.
    NetworkNamespaces,
    /// `tc` with its token bucket filter.
    TrafficControl,
    /// `losetup`, `mkfs.ext4`, mounts.
    LoopDevices,
    Strace,
    /// `/dev/fuse`.
    Fuse,
    /// A C compiler, for a library that is preloaded.
    Compiler,
    /// `unshare` with time namespaces.
    TimeNamespaces,
    /// `okno-faulty`: the binary with planted faults.
    FaultyBinary,
    /// `oknoctl` beside `okno`.
    Oknoctl,
    /// Network UPS Tools: `upsd` and `dummy-ups`.
    Nut,
}

impl Need {
    /// What is missing, in words for an operator; `None`: it is here.
    pub fn missing(self) -> Option<String> {
        let tools = |names: &[&str]| {
            let absent: Vec<&str> = names.iter().copied().filter(|name| !on_path(name)).collect();
            (!absent.is_empty()).then(|| format!("not installed: {}", absent.join(", ")))
        };
        match self {
            Self::Root => (!is_root()).then(|| "it must be run as root".to_owned()),
            Self::NetworkNamespaces => tools(&["ip", "iptables"]),
            Self::TrafficControl => tools(&["tc"]),
            Self::LoopDevices => {
                tools(&["losetup", "mkfs.ext4", "mount", "umount", "e2fsck"]).or_else(|| {
                    (!Path::new("/dev/loop-control").exists()).then(|| "no loop devices here".to_owned())
                })
            }
            Self::Strace => tools(&["strace"]),
            Self::Fuse => (!Path::new("/dev/fuse").exists()).then(|| "/dev/fuse is not here".to_owned()),
            Self::Compiler => tools(&["cc"]),
            Self::TimeNamespaces => tools(&["unshare"]).or_else(|| {
                (!Path::new("/proc/self/ns/time").exists())
                    .then(|| "this kernel has no time namespaces".to_owned())
            }),
            Self::FaultyBinary => binary_missing("okno-faulty"),
            Self::Oknoctl => binary_missing("oknoctl"),
            Self::Nut => crate::harness::ups::missing(),
        }
    }
}

fn binary_missing(name: &str) -> Option<String> {
    let path = crate::harness::cluster::binary_path(name);
    (!path.is_file()).then(|| format!("{} is not there", path.display()))
}

fn is_root() -> bool {
    effective_user() == 0
}

#[allow(unsafe_code)]
fn effective_user() -> u32 {
    // SAFETY: geteuid(2) reads nothing of ours and cannot fail.
    unsafe { libc::geteuid() }
}

/// Whether a program is on the search path; system folders count even where a user's path leaves them out.
fn on_path(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .any(|folder| folder.join(name).is_file())
}

impl Drill {
    /// Everything that is missing here.
    pub fn missing(&self) -> Vec<String> {
        self.needs.iter().filter_map(|need| need.missing()).collect()
    }

    pub fn needs_root(&self) -> bool {
        self.needs.contains(&Need::Root)
    }
}
