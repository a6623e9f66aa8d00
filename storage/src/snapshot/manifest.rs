//! What a snapshot consists of.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

use std::collections::HashSet;

use larder_types::{HybridTime, Position};
use serde::{Deserialize, Serialize};

use super::SnapshotError;
use crate::{
    Applied,
    log::format::{HEADER_BYTES, Header, HeaderRead},
    parted::{from_hex, to_hex},
};

/// A manifest's bytes.
pub const MANIFEST_BYTES_MAX: usize = 4 << 20;
/// Files of a snapshot.
const FILES_MAX: usize = 1 << 16;

/// One file of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestFile {
    /// Its name within the state's directory.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// The crc32 of all of it.
    pub crc32: u32,
}

/// What a snapshot consists of, and the place in the log that it stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Tells snapshots of one position from each other.
    pub id: u64,
    /// The header of a log that goes on behind the snapshot, in hexadecimal.
    head: String,
    position: Position,
    hybrid: HybridTime,
    /// The files, in the order in which they are fetched.
    pub files: Vec<ManifestFile>,
}

impl Manifest {
    pub(super) fn new(id: u64, head: &Header, applied: Applied, files: Vec<ManifestFile>) -> Self {
        let Applied { position, hybrid } = applied;
        Self { id, head: to_hex(&head.encode()), position, hybrid, files }
    }

    /// The last record that the snapshot holds.
    pub const fn applied(&self) -> Applied {
        Applied { position: self.position, hybrid: self.hybrid }
    }

    /// The header of a log that goes on behind the snapshot: its identity, and the chain at the
    /// snapshot's position.
    ///
    /// # Errors
    /// When it does not read as one.
    pub fn head(&self) -> Result<Header, SnapshotError> {
        let malformed = || SnapshotError::Malformed { what: "the log's header is damaged".into() };
        let bytes = from_hex(&self.head).filter(|bytes| bytes.len() == HEADER_BYTES);
        match Header::decode(&bytes.ok_or_else(malformed)?) {
            HeaderRead::Valid(header) => Ok(header),
            _ => Err(malformed()),
        }
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).fold(0, u64::saturating_add)
    }

    /// The manifest as it is sent.
    ///
    /// # Errors
    /// When there are more files than a manifest can name.
    pub fn encode(&self) -> Result<Vec<u8>, SnapshotError> {
        let malformed = |what: String| SnapshotError::Malformed { what };
        let bytes = serde_json::to_vec(self).map_err(|error| malformed(error.to_string()))?;
        if bytes.len() > MANIFEST_BYTES_MAX {
            return Err(malformed(format!("it has {} files, too many to name", self.files.len())));
        }
        Ok(bytes)
    }

    /// The inverse of [`Manifest::encode`], checked: names are plain and unique, and the log goes on
    /// at the snapshot's position.
    ///
    /// # Errors
    /// When the bytes are no such manifest.
    pub fn decode(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let malformed = |what: String| SnapshotError::Malformed { what };
        if bytes.len() > MANIFEST_BYTES_MAX {
            return Err(malformed(format!("it has {} bytes", bytes.len())));
        }
        let manifest: Self =
            serde_json::from_slice(bytes).map_err(|error| malformed(error.to_string()))?;
        manifest.check()?;
        Ok(manifest)
    }

    pub(super) fn check(&self) -> Result<(), SnapshotError> {
        let malformed = |what: String| SnapshotError::Malformed { what };
        let chain = self.head()?.chain;
        if !self.position.seq.is_reachable() || !self.position.epoch.is_reachable() {
            return Err(malformed("no log reaches its position".into()));
        }
        if chain.next != self.position.seq.next()
            || chain.epoch.map(|start| start.epoch) != Some(self.position.epoch)
        {
            return Err(malformed("its log does not go on at its position".into()));
        }
        let mut names = HashSet::new();
        for ManifestFile { name, .. } in &self.files {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
            let fits = (1..=128).contains(&name.len()) && name.bytes().all(plain);
            if !fits || name.starts_with('.') || !names.insert(name) {
                return Err(malformed(format!("{name:?} is no name of a file, or is there twice")));
            }
        }
        if self.files.len() > FILES_MAX {
            return Err(malformed(format!("{} files", self.files.len())));
        }
        Ok(())
    }
}
