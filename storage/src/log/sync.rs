//! The syncer: all file I/O of writing. One write call and one fdatasync a batch.

use std::{io, path::Path, sync::Arc};

use larder_types::{Epoch, EpochStart, SequenceNumber};

use super::{
    ahead::{Prepared, ZEROS},
    append::{Batch, Pool},
    error::LogError,
    format::{ChainPoint, Footer, Header, MARK_BYTES, Mark},
    handle::Shared,
    segment::{IndexEntry, Segment},
};
use crate::fs::{File, Fs, OpenMode, write_all_at};

/// Room made ahead at a time. A sync of bytes within the file's length costs one write of the disk;
/// one that makes the file longer costs the file system's journal two or three more. All clients wait
/// while room is made: so little at a time that they hardly notice (docs/adr/0008-room-ahead.md).
const ROOM_BYTES: u64 = 256 << 10;
/// Batches above this lengthen the file themselves: for them the journal costs less than the zeros.
const ROOM_BATCH_BYTES: u64 = 64 << 10;

/// The next segment's file is asked for when this part of one has been written: a store that hardly
/// takes writes does not fill the disk with room.
const NEXT_WANTED_AT: u64 = 4;

/// A segment with this many epochs is sealed whatever its size: bounds the footer's table.
const SEGMENT_EPOCHS_MAX: usize = 1024;

/// Writes batches and makes them durable. One owner: the sync thread.
///
/// The first error poisons the log: after a failed sync the kernel may call lost pages clean, so
/// trying again would lie. End the process; recovery reads what is on disk.
#[derive(Debug)]
pub struct Syncer {
    shared: Arc<Shared>,
    pool: Arc<Pool>,
    active: Active,
    /// The chain after the last record written.
    written: ChainPoint,
    /// The chain after the last record synced.
    durable: ChainPoint,
}

/// The segment being written.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) segment: Arc<Segment>,
    pub(super) file: Arc<dyn File>,
    /// Where the next bytes go.
    pub(super) offset: u64,
    /// The file's length, at least `offset`: between them there are zeros, room made ahead.
    pub(super) length: u64,
    /// The epochs opened in this segment.
    pub(super) epochs: Vec<EpochStart>,
    /// Whether what was written last says that everything before it is durable.
    pub(super) marked: bool,
    /// Whether something was written since the last sync.
    pub(super) dirty: bool,
}

impl Syncer {
    pub(super) fn new(
        shared: Arc<Shared>,
        pool: Arc<Pool>,
        active: Active,
        tail: ChainPoint,
    ) -> Self {
        Self { shared, pool, active, written: tail, durable: tail }
    }

    /// Writes a batch and makes it durable: [`Syncer::write`], then [`Syncer::sync`]. Returns the
    /// last durable record.
    ///
    /// # Errors
    /// [`LogError::Io`] the first time something fails, [`LogError::Poisoned`] ever after. The
    /// batch must not be acknowledged; it may or may not be there after recovery.
    ///
    /// # Panics
    /// If the batch does not continue what was written before.
    pub fn commit(&mut self, batch: Batch) -> Result<SequenceNumber, LogError> {
        let last = self.write(batch)?;
        self.sync()?;
        Ok(last)
    }

    /// Hands a batch to the operating system, behind a mark that names the durable tail. It is
    /// not durable, and not seen by readers, until [`Syncer::sync`]. Returns its last record.
    ///
    /// # Errors
    /// As [`Syncer::commit`].
    ///
    /// # Panics
    /// As [`Syncer::commit`].
    pub fn write(&mut self, batch: Batch) -> Result<SequenceNumber, LogError> {
        self.guarded(|syncer| syncer.write_batch(batch))
    }

    /// Makes everything written durable, and returns the last durable record.
    ///
    /// # Errors
    /// As [`Syncer::commit`].
    pub fn sync(&mut self) -> Result<Option<SequenceNumber>, LogError> {
        self.guarded(Self::sync_written)
    }

    /// Says in the file that everything is durable, if the last thing there does not say so yet.
    /// For when no batch is waiting: damage to the last batch can then be told from a torn one.
    /// The mark is not synced: it is as durable as what the system does by itself.
    ///
    /// # Errors
    /// As [`Syncer::commit`].
    pub fn mark_idle(&mut self) -> Result<(), LogError> {
        self.guarded(|syncer| {
            if syncer.active.marked || syncer.written != syncer.durable {
                return Ok(());
            }
            let mark = syncer.mark_bytes();
            syncer.write_active(&mark, "write a mark to")?;
            syncer.active.marked = true;
            Ok(())
        })
    }

    /// Syncs, marks the tail as durable, cuts the room that was made ahead, and syncs that: nothing
    /// is left that can be torn.
    ///
    /// # Errors
    /// As [`Syncer::commit`].
    pub fn close(mut self) -> Result<(), LogError> {
        self.sync()?;
        self.mark_idle()?;
        self.guarded(|syncer| {
            syncer.cut_room()?;
            syncer.sync_active()
        })
    }

    fn guarded<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, LogError>,
    ) -> Result<T, LogError> {
        self.shared.check_poison()?;
        work(self).inspect_err(|error| self.shared.poison(error))
    }

    fn write_batch(&mut self, mut batch: Batch) -> Result<SequenceNumber, LogError> {
        assert_eq!(batch.first(), self.written.next, "batches are written in order");
        let full = self.active.offset >= self.shared.segment_bytes
            || self.active.epochs.len() >= SEGMENT_EPOCHS_MAX;
        if full && self.written.next > self.active.segment.base() {
            self.rotate()?;
        }
        let offset = self.active.offset;
        let mark = self.mark_bytes();
        batch.bytes[..MARK_BYTES].copy_from_slice(&mark);
        self.make_room(batch.bytes.len() as u64)?;
        self.write_active(&batch.bytes, "append to")?;
        self.active.marked = false;
        self.shared.add_epochs(&batch.epochs);
        self.active.epochs.append(&mut batch.epochs);
        for place in &batch.places {
            self.active.segment.note(IndexEntry { offset: offset + place.offset, ..*place });
        }
        self.written = batch.chain;
        if self.active.offset >= self.shared.segment_bytes / NEXT_WANTED_AT {
            self.shared.ahead.want();
        }
        let last = batch.last();
        self.shared.hot.push(batch.first(), batch.chain, &batch.bytes[MARK_BYTES..]);
        self.pool.give(batch.bytes);
        Ok(last)
    }

    fn sync_written(&mut self) -> Result<Option<SequenceNumber>, LogError> {
        if self.written != self.durable {
            self.sync_active()?;
            self.durable = self.written;
            let last = self.durable.next.prev().expect("something was written");
            self.active.segment.set_last(last);
            self.shared.advance_durable(last);
        }
        Ok(self.durable.next.prev())
    }

    /// Seals the segment and begins the next. The footer is durable before the next file exists,
    /// and the next file's header and name are durable before it holds a record.
    fn rotate(&mut self) -> Result<(), LogError> {
        self.sync_written()?;
        if self.cut_room()? || self.active.dirty {
            // The footer is found from the file's end, where there must be no room by then. An idle
            // mark that is lost while the footer behind it is not would look like damage.
            self.sync_active()?;
        }
        let segment = Arc::clone(&self.active.segment);
        let last = self.durable.next.prev().expect("a segment is sealed after its first record");
        let footer = Footer {
            count: self.durable.next.as_u64() - segment.base().as_u64(),
            last,
            crc: self.durable.crc,
            hybrid: self.durable.hybrid,
            epochs: std::mem::take(&mut self.active.epochs),
        };
        let bytes = footer.encode(self.shared.sums, segment.base(), self.active.offset);
        self.write_active(&bytes, "seal")?;
        self.sync_active()?;
        segment.set_sealed();
        let header = Header { id: self.shared.id, origin: self.shared.origin, chain: self.durable };
        let Shared { fs, dir, ahead, .. } = &*self.shared;
        // Whoever removes files by hand costs the log speed, not its end.
        let prepared = ahead.take().filter(|next| fs.open(&next.path, OpenMode::Read).is_ok());
        self.active = create_segment(&**fs, dir, &header, prepared)?;
        self.shared.segments.write().push(Arc::clone(&self.active.segment));
        Ok(())
    }

    /// Makes room for a small batch, and for those after it, if it does not fit into the file.
    fn make_room(&mut self, batch_bytes: u64) -> Result<(), LogError> {
        let Active { file, segment, offset, length, .. } = &mut self.active;
        let end = *offset + batch_bytes;
        if end <= *length || batch_bytes > ROOM_BATCH_BYTES {
            return Ok(());
        }
        let room_end = (end + ROOM_BYTES).min(self.shared.segment_bytes);
        while *length < room_end {
            let zeros = (room_end - *length).min(ZEROS.len() as u64);
            match write_all_at(&**file, &ZEROS[..zeros as usize], *length) {
                Ok(()) => *length += zeros,
                // There may still be enough for the batch itself. A part may have been written.
                Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                    let found = file.len();
                    *length = found.map_err(LogError::io("read the length of", &segment.path))?;
                    return Ok(());
                }
                Err(error) => return Err(LogError::io("make room in", &segment.path)(error)),
            }
        }
        Ok(())
    }

    /// Ends the file where what was written ends; says whether there was room behind it.
    fn cut_room(&mut self) -> Result<bool, LogError> {
        let Active { file, segment, offset, length, .. } = &mut self.active;
        if *length == *offset {
            return Ok(false);
        }
        file.truncate(*offset).map_err(LogError::io("cut the room behind", &segment.path))?;
        *length = *offset;
        Ok(true)
    }

    fn mark_bytes(&self) -> [u8; MARK_BYTES] {
        let durable = &self.durable;
        let mark = Mark {
            durable: durable.next.prev(),
            crc: durable.crc,
            epoch: durable.epoch.map_or(Epoch { term: 0, run: 0, id: 0 }, |start| start.epoch),
            hybrid: durable.hybrid,
        };
        mark.encode(self.shared.sums, self.active.segment.base(), self.active.offset)
    }

    fn write_active(&mut self, bytes: &[u8], operation: &'static str) -> Result<(), LogError> {
        let Active { file, segment, offset, length, dirty, .. } = &mut self.active;
        *dirty = true;
        write_all_at(&**file, bytes, *offset).map_err(LogError::io(operation, &segment.path))?;
        *offset += bytes.len() as u64;
        *length = (*length).max(*offset);
        segment.set_bytes(*offset);
        self.shared.add_written(bytes.len() as u64);
        Ok(())
    }

    fn sync_active(&mut self) -> Result<(), LogError> {
        let Active { file, segment, .. } = &self.active;
        file.sync_data().map_err(LogError::io("sync", &segment.path))?;
        self.active.dirty = false;
        Ok(())
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        self.shared.ahead.close();
    }
}

/// Makes a segment file with this header, durably, out of one that was prepared if there is one: its
/// header is on the disk before the name is.
pub(super) fn create_segment(
    fs: &dyn Fs,
    dir: &Path,
    header: &Header,
    prepared: Option<Prepared>,
) -> Result<Active, LogError> {
    let segment = Segment::made(dir, header.chain);
    let bytes = header.encode();
    let file = match &prepared {
        Some(prepared) => Arc::clone(&prepared.file),
        None => fs
            .open(&segment.path, OpenMode::CreateNew)
            .map_err(LogError::io("create log segment", &segment.path))?,
    };
    write_all_at(&*file, &bytes, 0).map_err(LogError::io("write the header of", &segment.path))?;
    file.sync_data().map_err(LogError::io("sync", &segment.path))?;
    if let Some(prepared) = &prepared {
        name_segment(fs, &prepared.path, &segment.path)?;
    }
    fs.sync_dir(dir).map_err(LogError::io("sync directory", dir))?;
    let offset = bytes.len() as u64;
    Ok(Active {
        segment: Arc::new(segment),
        file,
        offset,
        length: prepared.map_or(0, |prepared| prepared.length).max(offset),
        epochs: Vec::new(),
        marked: true,
        dirty: false,
    })
}

/// Gives a prepared file its name, which nothing may have yet: a rename would replace it.
fn name_segment(fs: &dyn Fs, from: &Path, to: &Path) -> Result<(), LogError> {
    let free = match fs.open(to, OpenMode::Read) {
        Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    };
    free.and_then(|()| fs.rename(from, to)).map_err(LogError::io("create log segment", to))
}
