//! The only changes that recovery makes: a torn tail is moved to the quarantine, a file that
//! never got its header is set aside, and bytes that nobody vouches for are written again.
//!
//! Nothing is deleted: what leaves the log is durable in the quarantine first.

use std::{
    io,
    ops::Range,
    path::{Path, PathBuf},
};

use super::{
    TornTail,
    error::LogError,
    survey::{Surveyed, TailScan},
};
use crate::fs::{File, Fs, OpenMode, create_dir_durably, parent_of, read_full_at, write_all_at};

/// Bytes copied at once.
const COPY_BYTES: usize = 1 << 20;
/// Names tried before giving up: more files of one name mean that something else is wrong.
const NAMES_MAX: u32 = 10_000;

/// Makes all of the last segment durable, whoever wrote it: cuts what lies behind its last whole
/// frame, after copying it to the quarantine up to the zeros at the end, and writes again what
/// nothing proves durable. `scan`
/// is the end of a segment that is not sealed. Returns what was cut.
pub(super) fn repair_tail(
    fs: &dyn Fs,
    quarantine: &Path,
    segment: &Surveyed,
    scan: Option<&TailScan>,
) -> Result<Option<TornTail>, LogError> {
    let opened = fs.open(&segment.path, OpenMode::Write);
    let file = opened.map_err(LogError::io("open log segment", &segment.path))?;
    let (unproven, end, torn_end) = match scan {
        Some(scan) => (scan.unproven_from(), scan.end, scan.torn_end),
        None => (segment.footer_offset(), segment.bytes, segment.bytes),
    };
    let mut torn = None;
    if end < torn_end {
        torn = Some(TornTail {
            segment: segment.name(),
            offset: end,
            bytes: torn_end - end,
            quarantined_to: quarantine_bytes(fs, quarantine, segment, &*file, end..torn_end)?,
        });
    }
    // Also where nothing is torn: an earlier run may have cut room, and its sync have failed.
    if torn.is_some() || end == segment.bytes {
        file.truncate(end).map_err(LogError::io("cut the end of", &segment.path))?;
    }
    rewrite(&*file, unproven, end)
        .map_err(LogError::io("write the last batch again to", &segment.path))?;
    file.sync_data().map_err(LogError::io("sync", &segment.path))?;
    Ok(torn)
}

/// Writes bytes over themselves, so that the sync that follows covers them: after a failed sync
/// in an earlier run the kernel may hold them as clean pages that never reached the disk.
fn rewrite(file: &dyn File, mut offset: u64, end: u64) -> io::Result<()> {
    let mut buffer = vec![0; COPY_BYTES.min(usize::try_from(end - offset).unwrap_or(COPY_BYTES))];
    while offset < end {
        let wanted = buffer.len().min(usize::try_from(end - offset).unwrap_or(usize::MAX));
        let read = read_full_at(file, &mut buffer[..wanted], offset)?;
        if read < wanted {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        write_all_at(file, &buffer[..read], offset)?;
        offset += read as u64;
    }
    Ok(())
}

/// Copies these bytes of a segment into a file of the quarantine, durably.
pub(super) fn quarantine_bytes(
    fs: &dyn Fs,
    quarantine: &Path,
    segment: &Surveyed,
    from: &dyn File,
    range: Range<u64>,
) -> Result<PathBuf, LogError> {
    make_quarantine(fs, quarantine)?;
    for attempt in 0..NAMES_MAX {
        let path = quarantine.join(torn_name(&segment.name(), range.start, attempt));
        let file = match fs.open(&path, OpenMode::CreateNew) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            opened => opened.map_err(LogError::io("create", &path))?,
        };
        copy(from, range, &*file).map_err(LogError::io("quarantine torn bytes in", &path))?;
        file.sync_data().map_err(LogError::io("sync", &path))?;
        fs.sync_dir(quarantine).map_err(LogError::io("sync directory", quarantine))?;
        return Ok(path);
    }
    Err(no_name_left(quarantine))
}

fn copy(from: &dyn File, range: Range<u64>, to: &dyn File) -> io::Result<()> {
    let mut buffer = vec![0; COPY_BYTES];
    let mut offset = range.start;
    while offset < range.end {
        let wanted = COPY_BYTES.min(usize::try_from(range.end - offset).unwrap_or(COPY_BYTES));
        let read = read_full_at(from, &mut buffer[..wanted], offset)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        write_all_at(to, &buffer[..read], offset - range.start)?;
        offset += read as u64;
    }
    Ok(())
}

/// Moves a whole file from the log's directory into the quarantine.
pub(super) fn quarantine_file(
    fs: &dyn Fs,
    quarantine: &Path,
    path: &Path,
) -> Result<PathBuf, LogError> {
    make_quarantine(fs, quarantine)?;
    let taken = fs.list(quarantine).map_err(LogError::io("list directory", quarantine))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let free = (0..NAMES_MAX)
        .map(|attempt| torn_name(&name, 0, attempt))
        .find(|name| !taken.iter().any(|taken| taken.to_str() == Some(name)));
    let to = quarantine.join(free.ok_or_else(|| no_name_left(quarantine))?);
    fs.rename(path, &to).map_err(LogError::io("set aside", path))?;
    fs.sync_dir(quarantine).map_err(LogError::io("sync directory", quarantine))?;
    let dir = parent_of(path);
    fs.sync_dir(dir).map_err(LogError::io("sync directory", dir))?;
    Ok(to)
}

fn make_quarantine(fs: &dyn Fs, quarantine: &Path) -> Result<(), LogError> {
    create_dir_durably(fs, quarantine).map_err(LogError::io("make directory", quarantine))
}

fn torn_name(segment: &str, offset: u64, attempt: u32) -> String {
    let segment = segment.trim_end_matches(".seg");
    match attempt {
        0 => format!("{segment}-{offset}.torn"),
        _ => format!("{segment}-{offset}.{attempt}.torn"),
    }
}

fn no_name_left(quarantine: &Path) -> LogError {
    LogError::io("find a free name in", quarantine)(io::ErrorKind::AlreadyExists.into())
}
