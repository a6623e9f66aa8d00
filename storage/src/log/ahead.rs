//! The next segment's file, made ahead of its time by a thread of its own: zeros to a segment's
//! size, synced, under a name that no log reads.
//!
//! A batch written over zeros is one write of the disk and nothing for the file system, where one that
//! makes its file longer waits for both (docs/adr/0013-the-next-segment.md). The file is one that was
//! trimmed, where there is one: removing it costs what making another does. Nobody waits for it: where
//! it is not there in time, the syncer makes one. It holds nothing before it gets a segment's name, so
//! whoever opens the log next removes it.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::{Condvar, Mutex};

use super::{error::LogError, handle::Shared, segment::Segment};
use crate::fs::{File, Fs, OpenMode, write_all_at};

/// The file that is being made. Recovery passes over both names: they are not those of segments.
const NEXT: &str = "next.room";
/// A segment that was trimmed, to be written over.
const TRIMMED: &str = "trimmed.room";
/// Zeros written and synced at a time, for a batch has to wait for as many: with 8 MiB the p99 of SET
/// was a third higher than with 1, with a whole segment three times as high.
const PIECE_BYTES: usize = 1 << 20;
/// Segments that must fit on the disk, beside the reserve, where one is made or kept.
const FREE_SEGMENTS: u64 = 2;
pub(super) static ZEROS: [u8; PIECE_BYTES] = [0; PIECE_BYTES];

/// A file of zeros that is on the disk.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) path: PathBuf,
    pub(super) file: Arc<dyn File>,
    pub(super) length: u64,
}

#[derive(Debug, Default)]
enum Next {
    #[default]
    Unwanted,
    Wanted,
    Making,
    Ready(Prepared),
    /// It could not be made: not tried again before the next segment.
    GivenUp,
    /// The syncer has ended.
    Closed,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Trimmed {
    #[default]
    None,
    /// Being renamed, or written over.
    Busy,
    /// Its new name is durable: a crash does not bring it back into the log.
    There,
}

/// What the syncer, the preparer and trimming agree on: one file of each kind.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    next: Mutex<Next>,
    changed: Condvar,
    trimmed: Mutex<Trimmed>,
}

impl Ahead {
    /// Asks for a file, if there is none and nobody is at it.
    pub(super) fn want(&self) {
        let mut next = self.next.lock();
        if matches!(*next, Next::Unwanted) {
            *next = Next::Wanted;
            self.changed.notify_one();
        }
    }

    /// The file, if it is ready. A segment begins with it or without.
    pub(super) fn take(&self) -> Option<Prepared> {
        let mut next = self.next.lock();
        match std::mem::take(&mut *next) {
            Next::Ready(prepared) => Some(prepared),
            Next::GivenUp => None,
            other => {
                *next = other;
                None
            }
        }
    }

    /// Whether there was a file, which is not any more.
    fn give_up(&self) -> bool {
        let mut next = self.next.lock();
        let ready = matches!(*next, Next::Ready(_));
        if ready {
            *next = Next::GivenUp;
        }
        ready
    }

    pub(super) fn close(&self) {
        *self.next.lock() = Next::Closed;
        self.changed.notify_one();
    }

    fn is_closed(&self) -> bool {
        matches!(*self.next.lock(), Next::Closed)
    }

    /// Waits until a file is wanted; `false` once the syncer has ended.
    fn wait(&self) -> bool {
        let mut next = self.next.lock();
        self.changed.wait_while(&mut next, |next| !matches!(next, Next::Wanted | Next::Closed));
        matches!(*next, Next::Wanted)
    }

    fn begin(&self) -> bool {
        let mut next = self.next.lock();
        let wanted = matches!(*next, Next::Wanted);
        if wanted {
            *next = Next::Making;
        }
        wanted
    }

    /// Ends what [`Ahead::begin`] began, with a file or without.
    fn end(&self, prepared: Option<Prepared>) {
        let mut next = self.next.lock();
        if matches!(*next, Next::Making) {
            *next = prepared.map_or(Next::GivenUp, Next::Ready);
        }
    }

    /// Whether the trimmed file was as said, and now is as said.
    fn change(&self, from: Trimmed, to: Trimmed) -> bool {
        let mut trimmed = self.trimmed.lock();
        let was = *trimmed == from;
        if was {
            *trimmed = to;
        }
        was
    }
}

/// Takes the file of a trimmed segment out of the log, durably: keeps it to be written over, where
/// nobody reads it, none is kept yet and the disk has room, and removes it elsewhere.
///
/// # Errors
/// [`LogError::Io`]; a second call goes on from there.
pub(super) fn retire(shared: &Shared, segment: &Arc<Segment>) -> Result<(), LogError> {
    let Shared { fs, dir, ahead, .. } = shared;
    // It is in no index any more, so whoever could open it holds it already. What readers of an earlier
    // opening of the log hold is not known here: only what was made since is kept.
    let unread = segment.made_here && Arc::strong_count(segment) == 1;
    let keep = unread
        && !ahead.is_closed()
        && shared.has_room_for(FREE_SEGMENTS)
        && ahead.change(Trimmed::None, Trimmed::Busy);
    let kept = keep && fs.rename(&segment.path, &dir.join(TRIMMED)).is_ok();
    let gone = if kept { Ok(()) } else { remove(&**fs, &segment.path) };
    let gone = gone.and_then(|()| {
        fs.sync_dir(dir).map_err(LogError::io("sync the directory of", &segment.path))
    });
    if keep {
        // Only once its new name is durable: a crash must not bring it back, written over.
        let there = kept && gone.is_ok();
        ahead.change(Trimmed::Busy, if there { Trimmed::There } else { Trimmed::None });
        if there && ahead.is_closed() {
            release(shared);
        }
    }
    gone
}

/// Gives the disk back what nobody has used yet.
pub(super) fn release(shared: &Shared) {
    let Shared { fs, dir, ahead, .. } = shared;
    let mut left = Vec::new();
    if ahead.give_up() {
        left.push(NEXT);
    }
    if ahead.change(Trimmed::There, Trimmed::Busy) {
        left.push(TRIMMED);
    }
    for name in &left {
        if let Err(error) = remove(&**fs, &dir.join(name)) {
            tracing::warn!(%error, "room of the log is left behind; the next start removes it");
        }
    }
    if left.contains(&TRIMMED) {
        ahead.change(Trimmed::Busy, Trimmed::None);
    }
}

/// Makes the files of segments to come. One owner: a thread that may wait for the disk.
#[derive(Debug)]
pub struct Preparer {
    shared: Arc<Shared>,
}

impl Preparer {
    pub(super) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Makes a file whenever one is wanted, until the syncer has ended; then removes what is left.
    /// What goes wrong is logged and costs the log nothing but speed.
    pub fn run(self) {
        while self.shared.ahead.wait() {
            if let Err(error) = self.prepare() {
                tracing::warn!(%error, "the log's next segment is not made ahead");
            }
        }
        if let Err(error) = remove_left(&*self.shared.fs, &self.shared.dir) {
            tracing::warn!(%error, "room of the log is left behind; the next start removes it");
        }
    }

    /// Makes a file if one is wanted, and the disk has room for it beside the reserve.
    ///
    /// # Errors
    /// [`LogError::Io`]; the log is not poisoned, for nothing of it has been touched.
    pub fn prepare(&self) -> Result<(), LogError> {
        let ahead = &self.shared.ahead;
        if !ahead.begin() {
            return Ok(());
        }
        let trimmed = ahead.change(Trimmed::There, Trimmed::Busy);
        let made = self.make(trimmed);
        if !matches!(made, Ok(Some(_))) {
            // What there is of it must not take the place that the log itself may need.
            let _ = remove(&*self.shared.fs, &self.shared.dir.join(NEXT));
        }
        if trimmed {
            ahead.change(Trimmed::Busy, Trimmed::None);
        }
        let (prepared, outcome) = match made {
            Ok(prepared) => (prepared, Ok(())),
            Err(error) => (None, Err(error)),
        };
        ahead.end(prepared);
        outcome
    }

    /// `None` where there is no room for it, and where nobody needs it any more.
    fn make(&self, trimmed: bool) -> Result<Option<Prepared>, LogError> {
        let Shared { fs, dir, segment_bytes, .. } = &*self.shared;
        let path = dir.join(NEXT);
        let mode = if trimmed {
            let from = dir.join(TRIMMED);
            fs.rename(&from, &path).map_err(LogError::io("rename", from))?;
            OpenMode::Write
        } else if self.shared.has_room_for(FREE_SEGMENTS) {
            remove(&**fs, &path)?;
            OpenMode::CreateNew
        } else {
            return Ok(None);
        };
        let file = fs.open(&path, mode).map_err(LogError::io("open", &path))?;
        let mut length = 0;
        while length < *segment_bytes {
            if self.shared.ahead.is_closed() || !self.shared.has_room_for(1) {
                return Ok(None);
            }
            let piece = (segment_bytes - length).min(ZEROS.len() as u64);
            write_all_at(&*file, &ZEROS[..piece as usize], length)
                .and_then(|()| file.sync_data())
                .map_err(LogError::io("make room in", &path))?;
            length += piece;
        }
        if trimmed {
            // The last batch went beyond a segment's size.
            file.truncate(length)
                .and_then(|()| file.sync_data())
                .map_err(LogError::io("cut", &path))?;
        }
        Ok(Some(Prepared { path, file, length }))
    }
}

/// Removes the files that an earlier run has left in a log's directory, if there are any. Nobody has the
/// log open.
///
/// # Errors
/// [`LogError::Io`].
pub fn remove_left(fs: &dyn Fs, dir: &Path) -> Result<(), LogError> {
    remove(fs, &dir.join(NEXT))?;
    remove(fs, &dir.join(TRIMMED))
}

fn remove(fs: &dyn Fs, path: &Path) -> Result<(), LogError> {
    match fs.remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(LogError::io("remove log segment", path)(error))
        }
        _ => Ok(()),
    }
}
