//! Records for slaves: from memory at once, from the disk on a blocking thread.

use std::collections::HashMap;

use larder_storage::{
    Store,
    log::{Cursor, ReadError},
};
use larder_types::{Position, SequenceNumber};

use super::{DriverError, log_state};
use crate::core::{Chunk, Link, Session, Tail};

/// One stretch of records that a slave is to be sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) link: Link,
    pub(super) session: Session,
    pub(super) from: SequenceNumber,
    pub(super) bytes_max: usize,
}

/// What reading came to.
pub(super) enum Read {
    Chunk(Chunk),
    Trimmed {
        first: SequenceNumber,
    },
    /// Nothing is durable there yet: to be tried again.
    NotYet,
}

/// A place in the log from which a slave is being sent records.
pub(super) struct Feed {
    cursor: Cursor,
    /// The joint before the cursor's next record.
    prev: Tail,
}

impl Feed {
    fn open(store: &Store, from: SequenceNumber) -> Result<Self, DriverError> {
        let prev = from.prev().map_or(Ok(Tail::EMPTY), |seq| log_state::joint(store, seq))?;
        Ok(Self { cursor: store.log().read(from)?, prev })
    }

    fn next(&mut self, bytes_max: usize) -> Result<Read, DriverError> {
        let Some(frames) = self.cursor.next_frames(bytes_max)? else { return Ok(Read::NotYet) };
        let last = Position { epoch: frames.last_epoch, seq: frames.last };
        let prev =
            std::mem::replace(&mut self.prev, Tail { last: Some(last), crc: frames.last_crc });
        let last_crc = frames.last_crc;
        Ok(Read::Chunk(Chunk { prev, last, last_crc, frames: frames.bytes }))
    }
}

/// The places of all slaves.
#[derive(Default)]
pub(super) struct Feeds {
    places: HashMap<Link, Feed>,
    /// What nothing was durable for.
    waiting: Vec<Wanted>,
}

impl Feeds {
    /// The place for this, where the next read from it needs no disk; else what to do on a thread
    /// that may block.
    pub(super) fn read(&mut self, store: &Store, wanted: Wanted) -> Result<Now, DriverError> {
        let place = self.places.remove(&wanted.link);
        let place = place.filter(|feed| feed.cursor.position() == wanted.from);
        match place {
            Some(mut feed) if feed.cursor.is_hot() => {
                let read = feed.next(wanted.bytes_max)?;
                self.put_back(wanted, feed, &read);
                Ok(Now::Done(read))
            }
            place => Ok(Now::Later(Later { store: store.clone(), place, wanted })),
        }
    }

    /// Keeps the place for the next read, and what is to be tried again.
    pub(super) fn put_back(&mut self, wanted: Wanted, feed: Feed, read: &Read) {
        self.places.insert(wanted.link, feed);
        if matches!(read, Read::NotYet) {
            self.waiting.push(wanted);
        }
    }

    /// What is to be tried again, now that more is durable.
    pub(super) fn take_waiting(&mut self) -> Vec<Wanted> {
        std::mem::take(&mut self.waiting)
    }

    pub(super) fn forget(&mut self, link: Link) {
        self.places.remove(&link);
        self.waiting.retain(|wanted| wanted.link != link);
    }

    /// The log is another one now.
    pub(super) fn clear(&mut self) {
        self.places.clear();
        self.waiting.clear();
    }
}

/// Whether a read was done at once.
pub(super) enum Now {
    Done(Read),
    Later(Later),
}

/// A read for a thread that may block.
pub(super) struct Later {
    store: Store,
    place: Option<Feed>,
    wanted: Wanted,
}

impl Later {
    /// Reads; answers with the place behind what was read.
    pub(super) fn read(self) -> Result<(Option<Feed>, Read), DriverError> {
        let Self { store, place, wanted } = self;
        let read = || {
            let mut feed = match place {
                Some(feed) => feed,
                None => Feed::open(&store, wanted.from)?,
            };
            let read = feed.next(wanted.bytes_max)?;
            Ok((Some(feed), read))
        };
        match read() {
            Err(DriverError::Read(ReadError::Trimmed { first })) => {
                Ok((None, Read::Trimmed { first }))
            }
            other => other,
        }
    }
}
