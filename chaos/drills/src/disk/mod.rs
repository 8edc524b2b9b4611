//! Disks of the drill's own, and what can be done to them and to the files on them.
//!
//! | module | does |
//! |---|---|
//! | [`volume`] | an ext4 file system of one node, in a file: power cut, freeze, copy in flight, fill (root) |
//! | [`rot`] | bytes flipped, files cut, removed and put back in a stopped node's data: no root needed |

pub mod rot;
pub mod volume;

use crate::cleanup::{self, Guard};
use std::path::Path;
use tempfile::TempDir;

/// A temporary folder that goes with its value, also when the drill is interrupted.
#[derive(Debug)]
pub struct Folder {
    directory: TempDir,
    _guard: Guard,
}

impl Folder {
    pub fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("okno-disk-").tempdir().expect("a temporary folder");
        let path = directory.path().to_owned();
        let guard = cleanup::register(format!("folder {}", path.display()), move || {
            // Nothing may be left of it already.
            let _ = std::fs::remove_dir_all(path);
        });
        Self { directory, _guard: guard }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }
}

impl Default for Folder {
    fn default() -> Self {
        Self::new()
    }
}
