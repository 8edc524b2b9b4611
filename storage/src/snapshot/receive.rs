//! Receiving a copy: files in the order of its manifest, in chunks, going on where an interrupted transfer ended.
//!
//! Nothing that came is believed before its file's SHA-256 is the manifest's: a damaged file is thrown away and asked for
//! again. What an earlier transfer left is used as far as it fits: whole files of any earlier copy with the same name and
//! sum, the beginning of the file under way of this very copy.

use super::{CHUNK_BYTES_MAX, Manifest, Pace, Place, SnapshotError};
use crate::error::StorageError;
use sha2::{Digest, Sha256};

/// Where the manifest of the transfer under way stands in the place; no file of a copy has a name that begins so.
const MANIFEST: &str = "_manifest";

/// The next byte wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Position in the manifest's list.
    pub file: usize,
    pub offset: u64,
}

/// What became of a chunk. Whatever it was: [`Receiver::wanted`] says what to send next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Put {
    Taken,
    /// Not the bytes wanted, or damaged on the way.
    Refused(String),
    /// With this chunk the file was complete and not what the manifest says: it is thrown away and wanted again.
    Damaged(String),
}

/// Invariants: files before `file` are whole, checked and synced; of `file` there are `offset` bytes, whose running hash
/// is `hash`.
pub struct Receiver {
    manifest: Manifest,
    place: Box<dyn Place>,
    file: usize,
    offset: u64,
    hash: Sha256,
}

impl Receiver {
    /// Begins, or goes on with, a transfer: looks through what is there. Reads all of it, at `pace`.
    pub fn begin(
        manifest: Manifest,
        mut place: Box<dyn Place>,
        pace: Pace<'_>,
    ) -> Result<Self, SnapshotError> {
        let encoded = manifest.encode()?;
        let same = place.read(MANIFEST, 0, encoded.len() + 1).is_ok_and(|found| found == encoded);
        for name in place.list()? {
            let wanted = manifest.files.iter().any(|f| f.name == name);
            if !(wanted || same && name == MANIFEST) {
                place.remove(&name)?;
            }
        }
        if !same {
            place.append(MANIFEST, &encoded)?;
            place.sync(MANIFEST)?;
        }
        let mut receiver = Self { manifest, place, file: 0, offset: 0, hash: Sha256::new() };
        receiver.look_through(same, pace)?;
        Ok(receiver)
    }

    /// Settles every file that is there: whole and right, the beginning of the first that is not, or thrown away.
    fn look_through(&mut self, same: bool, pace: Pace<'_>) -> Result<(), SnapshotError> {
        while let Some(file) = self.manifest.files.get(self.file) {
            let name = file.name.clone();
            let mut left = match self.place.size(&name)? {
                Some(size) if size > file.bytes || size < file.bytes && !same => {
                    self.place.remove(&name)?;
                    0
                }
                Some(size) => size,
                None => 0,
            };
            (self.offset, self.hash) = (0, Sha256::new());
            while left > 0 {
                let bytes = self.place.read(&name, self.offset, CHUNK_BYTES_MAX)?;
                if bytes.is_empty() {
                    break;
                }
                self.hash.update(&bytes);
                self.offset += bytes.len() as u64;
                left = left.saturating_sub(bytes.len() as u64);
                if !pace(bytes.len() as u64) {
                    return Err(SnapshotError::GivenUp);
                }
            }
            if self.offset < file.bytes {
                return Ok(());
            }
            if let Some(why) = self.finish_file()? {
                tracing::warn!(%why, "what an earlier transfer left is thrown away");
                return Ok(());
            }
        }
        Ok(())
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// `None`: everything is here.
    pub fn wanted(&self) -> Option<Wanted> {
        (self.file < self.manifest.files.len()).then_some(Wanted { file: self.file, offset: self.offset })
    }

    /// Bytes that are here, for showing progress.
    pub fn received_bytes(&self) -> u64 {
        self.manifest.files[..self.file].iter().map(|f| f.bytes).sum::<u64>() + self.offset
    }

    /// Takes a chunk; `crc` is its crc32c. An error is the disk's, and final (rule 12).
    pub fn put(&mut self, at: Wanted, data: &[u8], crc: u32) -> Result<Put, SnapshotError> {
        let Some(wanted) = self.wanted() else { return Ok(Put::Refused("everything is here".into())) };
        if at != wanted {
            return Ok(Put::Refused(format!("{at:?} came, {wanted:?} is wanted")));
        }
        let file = &self.manifest.files[self.file];
        if data.len() > CHUNK_BYTES_MAX || self.offset + data.len() as u64 > file.bytes {
            return Ok(Put::Refused(format!("{} bytes are too many", data.len())));
        }
        if data.is_empty() && file.bytes > 0 {
            return Ok(Put::Refused("an empty chunk".into()));
        }
        if crc32c::crc32c(data) != crc {
            return Ok(Put::Refused("the chunk was damaged on the way".into()));
        }
        self.place.append(&file.name, data)?;
        self.hash.update(data);
        self.offset += data.len() as u64;
        if self.offset < file.bytes {
            return Ok(Put::Taken);
        }
        if let Some(why) = self.finish_file()? {
            return Ok(Put::Damaged(why));
        }
        // What follows may be here from an earlier transfer, or be empty.
        self.look_through(false, &mut |_| true)?;
        Ok(Put::Taken)
    }

    /// All bytes of the file are here. The text says why it was thrown away.
    fn finish_file(&mut self) -> Result<Option<String>, StorageError> {
        let file = &self.manifest.files[self.file];
        let found: [u8; 32] = std::mem::take(&mut self.hash).finalize().into();
        self.offset = 0;
        if found != file.sha256 {
            self.place.remove(&file.name)?;
            return Ok(Some(format!("file {} is not what the manifest says", file.name)));
        }
        // An empty file came as no chunk, or as an empty one.
        self.place.append(&file.name, &[])?;
        self.place.sync(&file.name)?;
        self.file += 1;
        Ok(None)
    }

    /// The place with all files and nothing else.
    pub(crate) fn into_parts(mut self) -> Result<(Manifest, Box<dyn Place>), SnapshotError> {
        if let Some(wanted) = self.wanted() {
            return Err(SnapshotError::NotAsSaid(format!("{wanted:?} has not come")));
        }
        self.place.remove(MANIFEST)?;
        Ok((self.manifest, self.place))
    }
}
