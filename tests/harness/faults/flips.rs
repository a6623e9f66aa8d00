//! One flipped bit in one file of a data directory that no process has open.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rand::Rng;
use rand::rngs::StdRng;

/// Flips of the last segment are half of them this near to the end of what was written to it, where the
/// last batch is. Behind that is room.
const LAST_BATCH_BYTES: u64 = 128;

/// What a file of a data directory is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FileKind {
    /// The version of the directory.
    Format,
    /// A segment of the log with a footer.
    SealedSegment,
    /// The segment being written.
    LastSegment,
    /// RocksDB's sorted tables: the data.
    Table,
    /// RocksDB's list of tables.
    Manifest,
    /// RocksDB's name of the manifest.
    Current,
    /// RocksDB's options.
    Options,
    /// RocksDB's identity, its own log for people, and the like.
    Other,
}

impl FileKind {
    /// All there are.
    pub const ALL: [Self; 8] = [
        Self::Format,
        Self::SealedSegment,
        Self::LastSegment,
        Self::Table,
        Self::Manifest,
        Self::Current,
        Self::Options,
        Self::Other,
    ];
}

/// A file of a data directory.
#[derive(Clone, Debug)]
pub struct DataFile {
    /// Where it is, below the data directory.
    pub path: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// Where the zeros begin that it ends with; its length if it ends otherwise.
    pub written: u64,
}

/// A bit that is, or is to be, flipped.
#[derive(Clone, Debug)]
pub struct Flip {
    /// What the file is for.
    pub kind: FileKind,
    /// The file, below the data directory.
    pub file: PathBuf,
    /// Byte in the file.
    pub offset: u64,
    /// Bit in the byte.
    pub bit: u8,
}

impl fmt::Display for Flip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, file, offset, bit } = self;
        write!(f, "{kind:?} {} byte {offset} bit {bit}", file.display())
    }
}

impl Flip {
    /// A bit of one of the files of `kind`, or `None` where there is no such file.
    pub fn choose(
        files: &BTreeMap<FileKind, Vec<DataFile>>,
        kind: FileKind,
        random: &mut StdRng,
    ) -> Option<Self> {
        let candidates = files.get(&kind)?;
        let file = candidates.get(random.random_range(0..candidates.len()))?;
        let range = if kind == FileKind::LastSegment && random.random_bool(0.5) {
            file.written.saturating_sub(LAST_BATCH_BYTES)..file.written
        } else {
            0..file.bytes
        };
        let offset = random.random_range(range);
        Some(Self { kind, file: file.path.clone(), offset, bit: random.random_range(0..8) })
    }

    /// Flips it in the data directory `data`.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn apply(&self, data: &Path) -> Result<()> {
        let path = data.join(&self.file);
        let mut bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        let at = usize::try_from(self.offset)?;
        *bytes.get_mut(at).context("an offset within the file")? ^= 1 << self.bit;
        fs::write(&path, bytes).with_context(|| format!("writing {}", path.display()))
    }
}

/// The files of a data directory that are not empty, by kind.
///
/// # Errors
/// When a directory cannot be read.
pub fn files_by_kind(data: &Path) -> Result<BTreeMap<FileKind, Vec<DataFile>>> {
    let mut paths = Vec::new();
    collect(data, Path::new(""), &mut paths)?;
    paths.sort();
    let last_segment = paths.iter().rfind(|path| is_segment(path)).cloned();
    let mut kinds = BTreeMap::<_, Vec<_>>::new();
    for path in paths {
        let content = fs::read(data.join(&path))?;
        if let Some(last) = content.iter().rposition(|byte| *byte != 0) {
            let kind = kind_of(&path, last_segment.as_deref());
            let (bytes, written) = (content.len() as u64, last as u64 + 1);
            kinds.entry(kind).or_default().push(DataFile { path, bytes, written });
        }
    }
    Ok(kinds)
}

/// Copies a data directory, which no process may have open.
///
/// # Errors
/// When a file cannot be read or written.
pub fn copy_directory(from: &Path, to: &Path) -> Result<()> {
    let mut paths = Vec::new();
    collect(from, Path::new(""), &mut paths)?;
    fs::create_dir_all(to)?;
    for path in paths {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(to.join(parent))?;
        }
        fs::copy(from.join(&path), to.join(&path))
            .with_context(|| format!("copying {}", path.display()))?;
    }
    Ok(())
}

fn collect(root: &Path, below: &Path, paths: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(root.join(below))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            collect(root, &path, paths)?;
        } else {
            paths.push(path);
        }
    }
    Ok(())
}

fn is_segment(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "seg")
}

fn kind_of(path: &Path, last_segment: Option<&Path>) -> FileKind {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    match name.as_ref() {
        "FORMAT" => FileKind::Format,
        "CURRENT" => FileKind::Current,
        _ if Some(path) == last_segment => FileKind::LastSegment,
        _ if is_segment(path) => FileKind::SealedSegment,
        _ if name.ends_with(".sst") => FileKind::Table,
        _ if name.starts_with("MANIFEST-") => FileKind::Manifest,
        _ if name.starts_with("OPTIONS-") => FileKind::Options,
        _ => FileKind::Other,
    }
}
