//! Wall clocks that jump and strobe, one a node, by a library preloaded into it; and monotonic clocks that start
//! elsewhere, by time namespaces.
//!
//! Invariants: only the node's wall clock is changed, and only while the offset is not zero; the library counts the
//! readings it falsified, in the same mapped file that holds the offset.

use crate::tools;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Built where the drill runs: it must fit that machine's C library.
const SOURCE: &str = include_str!("skew.c");
/// Two numbers of eight bytes: the offset in nanoseconds, readings falsified.
const FILE_BYTES: u64 = 16;

/// The library, built.
#[derive(Debug)]
pub struct Library {
    path: PathBuf,
    folder: PathBuf,
}

impl Library {
    pub fn build(folder: &Path) -> Self {
        let source = folder.join("skew.c");
        let path = folder.join("libokno-skew.so");
        std::fs::write(&source, SOURCE).expect("the drill's folder is writable");
        tools::run(
            "cc",
            ["-shared", "-fPIC", "-O2", "-fno-builtin", "-o"].map(Path::new).into_iter().chain([
                path.as_path(),
                source.as_path(),
                Path::new("-ldl"),
            ]),
        );
        Self { path, folder: folder.to_owned() }
    }

    /// A clock for one node; it is right until it is told otherwise.
    pub fn clock(&self, node: u64) -> Clock {
        let path = self.folder.join(format!("skew-{node}"));
        let file = File::options()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .open(&path)
            .expect("the drill's folder is writable");
        file.set_len(FILE_BYTES).expect("the drill's folder is writable");
        Clock { file, path, library: self.path.clone() }
    }
}

/// One node's wall clock.
#[derive(Debug)]
pub struct Clock {
    file: File,
    path: PathBuf,
    library: PathBuf,
}

impl Clock {
    /// What the node must be started with.
    pub fn environment(&self) -> Vec<(String, String)> {
        let text = |path: &Path| path.to_str().expect("temporary folders have plain names").to_owned();
        vec![("LD_PRELOAD".into(), text(&self.library)), ("SKEW_FILE".into(), text(&self.path))]
    }

    /// From now on the clock is off by so much; negative: behind.
    pub fn set(&self, offset_ms: i64) {
        let offset_ns = offset_ms * 1_000_000;
        self.file.write_all_at(&offset_ns.to_ne_bytes(), 0).expect("two numbers were made room for");
    }

    /// How often the node read a wrong time.
    pub fn readings(&self) -> u64 {
        let mut bytes = [0; 8];
        self.file.read_exact_at(&mut bytes, 8).expect("two numbers were made room for");
        u64::try_from(i64::from_ne_bytes(bytes)).expect("a count")
    }
}

/// What stands before the command line of a process whose monotonic clocks are ahead by so many seconds.
pub fn monotonic_ahead(seconds: u64) -> Vec<String> {
    let seconds = seconds.to_string();
    ["unshare", "--time", "--monotonic", &seconds, "--boottime", &seconds].map(str::to_owned).to_vec()
}

/// How far a process's monotonic clock is from this one's, in seconds; `None`: it is gone.
pub fn monotonic_offset(process: u32) -> Option<i64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/timens_offsets")).ok()?;
    let line = text.lines().find(|line| line.starts_with("monotonic"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preloaded_clock_is_off_by_what_it_was_told_and_counts_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let library = Library::build(folder.path());
        let clock = library.clock(1);
        let shown = || {
            let mut date = std::process::Command::new("date");
            let output = date.arg("+%s").envs(clock.environment()).output().expect("date runs");
            String::from_utf8_lossy(&output.stdout).trim().parse::<i64>().expect("seconds")
        };
        let right = shown();
        assert_eq!(clock.readings(), 0);
        clock.set(-3_600_500);
        let behind = shown();
        assert!((right - 3_602..=right - 3_590).contains(&behind), "{right} {behind}");
        assert!(clock.readings() > 0);
        clock.set(0);
        assert!(shown() >= right);
    }
}
