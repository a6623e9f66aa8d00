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
    /// The session of the read that is under way.
    reading: HashMap<Link, Session>,
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
                self.keep(wanted, feed, &read);
                Ok(Now::Done(read))
            }
            place => {
                self.reading.insert(wanted.link, wanted.session);
                Ok(Now::Later(Later { store: store.clone(), place, wanted }))
            }
        }
    }

    /// Keeps the place behind a read that was done later, unless the slave has begun another session
    /// meanwhile, or is sent no records any more: it may be a place in a log that was replaced.
    pub(super) fn put_back(&mut self, wanted: Wanted, feed: Feed, read: &Read) {
        if self.reading.get(&wanted.link) == Some(&wanted.session) {
            self.reading.remove(&wanted.link);
            self.keep(wanted, feed, read);
        }
    }

    /// Keeps the place for the next read, and what is to be tried again.
    fn keep(&mut self, wanted: Wanted, feed: Feed, read: &Read) {
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
        self.reading.remove(&link);
        self.waiting.retain(|wanted| wanted.link != link);
    }

    /// The log is another one now.
    pub(super) fn clear(&mut self) {
        self.places.clear();
        self.reading.clear();
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

#[cfg(test)]
mod tests {
    use larder_storage::{Directory, OpenAs, StoreOptions, open_as, state::DatabaseOptions};

    use super::*;

    const LINK: Link = Link(1);

    fn wanted(session: u64) -> Wanted {
        let from = SequenceNumber::FIRST;
        Wanted { link: LINK, session: Session(session), from, bytes_max: 1 << 20 }
    }

    /// A read for a thread that may block, done.
    fn late(feeds: &mut Feeds, store: &Store, wanted: Wanted) -> (Feed, Read) {
        let Now::Later(later) = feeds.read(store, wanted).unwrap() else {
            panic!("there is a place already")
        };
        let (feed, read) = later.read().unwrap();
        (feed.unwrap(), read)
    }

    #[test]
    fn a_read_that_ends_late_gives_no_place_to_the_session_that_came_after_it() {
        let root = tempfile::tempdir().unwrap();
        let directory = Directory::open(root.path()).unwrap();
        let options = StoreOptions::new(DatabaseOptions::new(8 << 20, 8 << 20));
        let role = OpenAs::Master { wall_ms: 1, epoch_id: 1 };
        let mut opened = open_as(&directory, options, role).unwrap();
        let mut txn = opened.writer.transaction(1);
        txn.put_string(b"key", b"value", None).unwrap();
        txn.commit().unwrap();
        opened.syncer.commit(opened.writer.take_batch().unwrap()).unwrap();
        let (store, mut feeds) = (opened.store, Feeds::default());

        let (old, old_read) = late(&mut feeds, &store, wanted(1));
        let (new, new_read) = late(&mut feeds, &store, wanted(2));
        feeds.put_back(wanted(2), new, &new_read);
        let at = feeds.places[&LINK].cursor.position();
        assert!(at > SequenceNumber::FIRST);
        // Nothing was durable for the first, as it was.
        feeds.put_back(wanted(1), old, &Read::NotYet);
        assert!(feeds.take_waiting().is_empty());
        assert!(matches!(old_read, Read::Chunk(_)) && feeds.places.contains_key(&LINK));

        let (old, read) = late(&mut feeds, &store, wanted(3));
        feeds.forget(LINK);
        feeds.put_back(wanted(3), old, &read);
        assert!(feeds.places.is_empty(), "it is sent a snapshot, and no records");

        let (old, read) = late(&mut feeds, &store, wanted(4));
        feeds.clear();
        feeds.put_back(wanted(4), old, &read);
        assert!(feeds.places.is_empty(), "it is a place in a log that was replaced");
    }
}
