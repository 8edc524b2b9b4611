//! Damage to the files of a stopped node's data directory, and its repair.
//!
//! Invariants: only files below the given folder are touched; a copy put back is the very state that was taken.

use rand::Rng;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Where the database lies below a node's data directory.
const DATABASE: &str = "db";
pub const IDENTITY: &str = "identity";
/// Bytes looked at for one that is not zero: room that was only reserved holds nothing that could rot.
const SEARCH_BYTES: usize = 64 * 1024;

/// Files of a database, by what they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    WriteAheadLog,
    Table,
    Manifest,
    Current,
}

/// The database's files of one kind, oldest first, empty ones left out.
pub fn files(data: &Path, kind: Kind) -> Vec<PathBuf> {
    let is_kind = |name: &str| match kind {
        Kind::WriteAheadLog => name.ends_with(".log"),
        Kind::Table => name.ends_with(".sst"),
        Kind::Manifest => name.starts_with("MANIFEST-"),
        Kind::Current => name == "CURRENT",
    };
    let mut found: Vec<PathBuf> = walkdir::WalkDir::new(data.join(DATABASE))
        .into_iter()
        .map(|entry| entry.expect("a stopped node's data are readable"))
        .filter(|entry| entry.file_type().is_file() && is_kind(&entry.file_name().to_string_lossy()))
        .filter(|entry| entry.metadata().is_ok_and(|metadata| metadata.len() > 0))
        .map(walkdir::DirEntry::into_path)
        .collect();
    // Numbers have six digits at least, and grow.
    found.sort_by_key(|path| (path.as_os_str().len(), path.clone()));
    found
}

/// The tables that hold rows of one column family, which a table's own properties name.
pub fn tables_of(data: &Path, family: &str) -> Vec<PathBuf> {
    // The end of the property `rocksdb.column.family.name`, whose beginning may be shared with the one before it and left
    // out, and its value.
    let wanted = format!("name{family}");
    let holds = |table: &PathBuf| {
        let bytes = std::fs::read(table).expect("a file of the stopped node");
        bytes.windows(wanted.len()).any(|window| window == wanted.as_bytes())
    };
    files(data, Kind::Table).into_iter().filter(holds).collect()
}

/// Bytes of a file up to the last that is not zero: room that was only reserved does not count.
pub fn written(file: &Path) -> u64 {
    let bytes = std::fs::read(file).expect("a file of the stopped node");
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1)
}

/// Flips a bit of the first byte from a place on that is not zero; returns its offset.
pub fn flip_at(file: &Path, from: u64, random: &mut impl Rng) -> u64 {
    let opened = File::options().read(true).write(true).open(file).expect("a file of the stopped node");
    let length = opened.metadata().expect("an open file").len();
    let from = from.min(length.saturating_sub(1));
    let mut bytes = vec![0; SEARCH_BYTES.min(usize::try_from(length - from).expect("files fit memory"))];
    opened.read_exact_at(&mut bytes, from).expect("within the file");
    let (distance, byte) = bytes
        .iter()
        .enumerate()
        .find(|(_, byte)| **byte != 0)
        .map(|(distance, byte)| (distance as u64, *byte))
        .unwrap_or_else(|| panic!("{} holds nothing at {from}: there is nothing to rot", file.display()));
    let flipped = byte ^ (1 << random.gen_range(0..8));
    opened.write_all_at(&[flipped], from + distance).expect("within the file");
    opened.sync_all().expect("synced");
    from + distance
}

/// Flips a bit in every so many bytes of what is written; returns the offsets.
pub fn flip_every(file: &Path, step: u64, random: &mut impl Rng) -> Vec<u64> {
    let mut offsets = Vec::new();
    let mut at = 0;
    while at < written(file) {
        let offset = flip_at(file, at, random);
        offsets.push(offset);
        at = offset + step;
    }
    offsets
}

/// Cuts a file to so many bytes.
pub fn truncate(file: &Path, bytes: u64) {
    let opened = File::options().write(true).open(file).expect("a file of the stopped node");
    opened.set_len(bytes).expect("a file can be cut");
}

pub fn remove(file: &Path) {
    std::fs::remove_file(file).expect("a file of the stopped node");
}

/// A copy of a stopped node's data, to be put back after the damage was seen.
pub struct Copy {
    data: PathBuf,
    copy: PathBuf,
}

impl Copy {
    pub fn take(data: &Path, scratch: &Path) -> Self {
        let copy = scratch.join("intact");
        copy_folder(data, &copy);
        Self { data: data.to_owned(), copy }
    }

    /// The data as they were taken; what was there meanwhile is gone.
    pub fn put_back(&self) {
        std::fs::remove_dir_all(&self.data).expect("a stopped node's data can be removed");
        copy_folder(&self.copy, &self.data);
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        // It lies in the drill's own folder, which goes anyway.
        let _ = std::fs::remove_dir_all(&self.copy);
    }
}

fn copy_folder(from: &Path, to: &Path) {
    for entry in walkdir::WalkDir::new(from) {
        let entry = entry.expect("a stopped node's data are readable");
        let target = to.join(entry.path().strip_prefix(from).expect("below its root"));
        if entry.file_type().is_dir() {
            std::fs::create_dir(&target).expect("a folder can be made");
        } else {
            std::fs::copy(entry.path(), &target).expect("a file can be copied");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn damages_one_bit_and_puts_it_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let data = folder.path().join("data");
        std::fs::create_dir_all(data.join(DATABASE)).expect("a folder");
        let log = data.join(DATABASE).join("000012.log");
        let mut bytes = vec![0_u8; 10_000];
        bytes[6_000..].fill(0x55);
        std::fs::write(&log, &bytes).expect("written");
        std::fs::write(data.join(DATABASE).join("000013.log"), b"").expect("written");
        assert_eq!(
            files(&data, Kind::WriteAheadLog),
            std::slice::from_ref(&log),
            "the empty one is left out"
        );
        assert_eq!(written(&log), 10_000);

        let copy = Copy::take(&data, folder.path());
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(1);
        let offset = flip_at(&log, 5_000, &mut random);
        assert_eq!(offset, 6_000, "the first byte from there on that holds something");
        let damaged = std::fs::read(&log).expect("read");
        let different: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != damaged[*at]).collect();
        assert_eq!(different, [6_000]);
        assert_eq!((bytes[6_000] ^ damaged[6_000]).count_ones(), 1);

        truncate(&log, 2_500);
        assert_eq!(std::fs::metadata(&log).expect("there").len(), 2_500);
        copy.put_back();
        assert_eq!(std::fs::read(&log).expect("read"), bytes);
    }
}
