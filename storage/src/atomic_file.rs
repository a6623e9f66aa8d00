//! A small file that is replaced whole: what a node must remember beside its log.
//!
//! One line `larder NAME VERSION CRC32`, then JSON. After a crash there is the old content or the
//! new one; damage is told from absence, and never taken for either.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

use std::{
    io,
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};

use crate::fs::{Fs, OpenMode, read_full_at, write_atomic};

/// Why a file was not read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// It does not read as what it should be.
    #[error(
        "{path}: damaged, or of another version: expected {expected}; restore it from a backup, or let this node join again with an empty data directory"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was expected.
        expected: String,
    },
    /// The operating system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Its answer.
        source: io::Error,
    },
}

/// A file of this kind.
#[derive(Clone, Debug)]
pub struct AtomicFile {
    dir: PathBuf,
    name: &'static str,
    version: u32,
    bytes_max: u64,
}

impl AtomicFile {
    /// The file `name` in `dir`, whose content has this version. A file of more than `bytes_max`
    /// is not read.
    pub fn new(dir: &Path, name: &'static str, version: u32, bytes_max: u64) -> Self {
        Self { dir: dir.to_path_buf(), name, version, bytes_max }
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.dir.join(self.name)
    }

    /// Its content; `None` if there is no file.
    ///
    /// # Errors
    /// When it cannot be read, or its checksum, name or version is wrong.
    pub fn read<T: DeserializeOwned>(&self, fs: &dyn Fs) -> Result<Option<T>, FileError> {
        let io = |source| FileError::Io { path: self.path(), source };
        let file = match fs.open(&self.path(), OpenMode::Read) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(io)?,
        };
        let bytes = file.len().map_err(io)?;
        if bytes > self.bytes_max {
            return Err(self.damaged(format!("at most {} bytes", self.bytes_max)));
        }
        let mut text = vec![0; usize::try_from(bytes).unwrap_or(usize::MAX)];
        let read = read_full_at(&*file, &mut text, 0).map_err(io)?;
        text.truncate(read);
        let end = text.iter().position(|&byte| byte == b'\n').unwrap_or(text.len());
        let body = text.get(end.saturating_add(1)..).unwrap_or_default();
        let expected = self.first_line(body);
        if text[..end] != *expected.as_bytes() {
            return Err(self.damaged(format!("a first line {expected:?}")));
        }
        serde_json::from_slice(body).map(Some).map_err(|error| self.damaged(error.to_string()))
    }

    /// Replaces its content, durably.
    ///
    /// # Errors
    /// When a step of it fails: then there is the old content or the new one.
    pub fn write<T: Serialize>(&self, fs: &dyn Fs, content: &T) -> Result<(), FileError> {
        let io = |source| FileError::Io { path: self.path(), source };
        let body = serde_json::to_vec(content).map_err(|error| io(error.into()))?;
        let text = [self.first_line(&body).as_bytes(), b"\n", &body].concat();
        write_atomic(fs, &self.dir, self.name, &text).map_err(io)
    }

    /// Removes it, durably. Nothing is done where there is none.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub fn remove(&self, fs: &dyn Fs) -> Result<(), FileError> {
        let removed = match fs.remove(&self.path()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.and_then(|()| fs.sync_dir(&self.dir)),
        };
        removed.map_err(|source| FileError::Io { path: self.path(), source })
    }

    fn first_line(&self, body: &[u8]) -> String {
        let line = format!("larder {} {}", self.name, self.version);
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(line.as_bytes());
        hasher.update(body);
        format!("{line} {:08x}", hasher.finalize())
    }

    fn damaged(&self, expected: String) -> FileError {
        FileError::Damaged { path: self.path(), expected }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::fs::{create_dir_durably, testing::SimFs};

    fn file() -> AtomicFile {
        AtomicFile::new(Path::new("/data"), "standing", 1, 1_000)
    }

    fn disk() -> SimFs {
        let fs = SimFs::default();
        create_dir_durably(&fs, Path::new("/data")).unwrap();
        SimFs::new(&fs.image())
    }

    #[test]
    fn what_was_written_last_is_read_back_until_it_is_removed() {
        let (fs, file) = (disk(), file());
        assert_eq!(file.read::<Vec<u32>>(&fs).unwrap(), None);
        for content in [vec![1_u32], vec![2, 3]] {
            file.write(&fs, &content).unwrap();
            assert_eq!(file.read::<Vec<u32>>(&fs).unwrap(), Some(content));
        }
        file.remove(&fs).unwrap();
        file.remove(&fs).unwrap();
        assert_eq!(file.read::<Vec<u32>>(&fs).unwrap(), None);
    }

    #[test]
    fn no_flipped_bit_another_version_or_another_file_passes() {
        let (fs, file) = (disk(), file());
        file.write(&fs, &[7_u32, 8]).unwrap();
        let image = fs.image();
        let path = file.path();
        for bit in 0..image.files[&path].len() * 8 {
            let mut damaged = image.clone();
            let mut bytes = damaged.files[&path].to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            damaged.files.insert(path.clone(), bytes.into());
            file.read::<Vec<u32>>(&SimFs::new(&damaged)).expect_err("a flipped bit");
        }
        let other = AtomicFile::new(Path::new("/data"), "standing", 2, 1_000);
        other.read::<Vec<u32>>(&fs).expect_err("another version");
        let small = AtomicFile::new(Path::new("/data"), "standing", 1, 10);
        small.read::<Vec<u32>>(&fs).expect_err("too large");
    }

    #[test]
    fn a_power_cut_leaves_the_old_content_or_the_new_and_what_was_answered_stays() {
        let (fs, file) = (disk(), file());
        file.write(&fs, &1_u32).unwrap();
        let first_done = fs.operations();
        file.write(&fs, &2_u32).unwrap();
        let second_done = fs.operations();
        let crashes = fs.crashes();
        let mut seen = HashSet::new();
        for point in 0..=crashes.points() {
            crashes.each(point, &mut |variant, image| {
                let found: Option<u32> = file.read(&SimFs::new(&image)).unwrap();
                seen.insert(found);
                let possible: &[Option<u32>] = match point {
                    _ if point >= second_done => &[Some(2)],
                    _ if point >= first_done => &[Some(1), Some(2)],
                    _ => &[None, Some(1)],
                };
                assert!(possible.contains(&found), "after {point}, {variant:?}: {found:?}");
            });
        }
        assert_eq!(seen.len(), 3);
    }
}
