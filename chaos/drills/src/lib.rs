//! Drills: faults caused on real `okno` processes, and the report of what they did to the service (R-O2).
//!
//! | module | holds |
//! |---|---|
//! | [`drill`] | what a drill is, and what it may need |
//! | [`drills`] | all drills, one visible list |
//! | [`bench`] | what a drill works with: cluster, load, marks, counters |
//! | [`load`] | who works at the cluster meanwhile, and the record of it |
//! | [`runner`] | runs drills, one after the other, and makes the reports |
//! | [`finish`] | the checks at the end of every drill |
//! | [`watch`] | who leads, and how much memory nodes take, while a drill runs |
//! | [`live`] | the guarded drills against a running cluster |
//! | [`limits`] | less of the machine for one process |
//! | [`net`], [`disk`], [`clock`], [`trace`] | networks, disks, clocks and system calls, and what can be done to them |
//! | [`fate`] | what became of a node that was given bad data or a bad disk |
//! | [`programs`] | workstations and connectors as processes of their own |
//! | [`tools`] | programs of the system, run to their end |
//! | [`cleanup`] | what must be undone whatever happens |
//! | [`harness`] | whole clusters of real processes; shared with the tests |

pub mod bench;
pub mod cleanup;
pub mod clock;
pub mod disk;
pub mod drill;
pub mod drills;
pub mod fate;
pub mod finish;
pub mod harness;
pub mod limits;
pub mod live;
pub mod load;
pub mod net;
pub mod programs;
pub mod runner;
pub mod tools;
pub mod trace;
pub mod watch;

pub use drill::{Drill, Need};
pub use runner::{Progress, run};

use std::path::PathBuf;
use std::time::Duration;

/// How long the power stays off where a drill cuts it, unless `--wait` says otherwise: what the product promises to
/// come back from by itself.
pub const WAIT: Duration = Duration::from_secs(15 * 60);

/// What a run of drills is told.
#[derive(Debug, Clone)]
pub struct Options {
    /// Chooses nodes and moments. The interleaving of real processes is not chosen by it.
    pub seed: u64,
    /// How long the power stays off where a drill cuts it.
    pub wait: Duration,
    /// Where `okno`, `oknoctl` and `okno-faulty` are, when not beside this program.
    pub bin_dir: Option<PathBuf>,
    /// Run instead of `okno`.
    pub binary: Option<PathBuf>,
    /// A fault planted in that binary: a drill that would notice it must break.
    pub mutant: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self { seed: 1, wait: WAIT, bin_dir: None, binary: None, mutant: None }
    }
}

/// Every drill there is.
pub fn list() -> &'static [Drill] {
    drills::ALL
}

/// The drills of these names, `all` among them; an unknown name is the error.
pub fn select(names: &[String]) -> Result<Vec<&'static Drill>, String> {
    if names.iter().any(|name| name == "all") {
        return Ok(drills::ALL.iter().collect());
    }
    names.iter().map(|name| drills::find(name).ok_or_else(|| name.clone())).collect()
}
