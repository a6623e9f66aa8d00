//! Records for slaves: from memory at once, from the disk on a blocking thread.

use std::{collections::HashMap, time::Duration};

use larder_storage::{
    Store,
    log::{Cursor, ReadError},
};
use larder_types::{Position, SequenceNumber};
use tokio::time::{Instant, sleep_until};

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

/// Slaves that are near the tail are not fed more often than this: what gathers meanwhile costs both
/// ends one message, one fsync and one acknowledgement.
const PACE: Duration = Duration::from_millis(1);
/// Where every slave is at least so far away, so that the pace is a small part of the way.
const PACED_ROUND_TRIP: Duration = Duration::from_millis(10);

/// The places of all slaves.
#[derive(Default)]
pub(super) struct Feeds {
    places: HashMap<Link, Feed>,
    /// What nothing was durable for.
    waiting: Vec<Wanted>,
    /// When those that wait were last fed.
    fed: Option<Instant>,
    /// When they are to be fed next, if more is durable.
    due: Option<Instant>,
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

    /// Notes that more is durable; says whether what waits is to be tried again at once, else it is
    /// due soon. `round_trip` is the shortest to any slave.
    pub(super) fn more_is_durable(&mut self, now: Instant, round_trip: Duration) -> bool {
        let next = match self.fed {
            Some(fed) if round_trip >= PACED_ROUND_TRIP => fed + PACE,
            _ => now,
        };
        if next > now && !self.waiting.is_empty() {
            self.due = Some(next);
        }
        next <= now
    }

    /// Done when what waits is to be tried again; never, while nothing is due.
    pub(super) async fn are_due(&self) {
        match self.due {
            Some(due) => sleep_until(due).await,
            None => std::future::pending().await,
        }
    }

    /// What is to be tried again.
    pub(super) fn take_waiting(&mut self, now: Instant) -> Vec<Wanted> {
        (self.fed, self.due) = (Some(now), None);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting() -> Feeds {
        let wanted = Wanted {
            link: Link(1),
            session: Session(1),
            from: SequenceNumber::FIRST,
            bytes_max: 1 << 20,
        };
        Feeds { waiting: vec![wanted], ..Feeds::default() }
    }

    #[test]
    fn far_slaves_are_fed_at_once_after_a_rest_and_then_at_the_pace() {
        let (mut feeds, now) = (waiting(), Instant::now());
        assert!(feeds.more_is_durable(now, PACED_ROUND_TRIP));
        feeds.take_waiting(now);
        let mut feeds = Feeds { fed: feeds.fed, ..waiting() };
        assert!(!feeds.more_is_durable(now + PACE / 2, PACED_ROUND_TRIP));
        assert_eq!(feeds.due, Some(now + PACE), "what is durable is not forgotten");
        assert_eq!(feeds.take_waiting(now + PACE).len(), 1);
        assert_eq!(feeds.due, None);
        assert!(feeds.more_is_durable(now + 2 * PACE, PACED_ROUND_TRIP));
    }

    #[test]
    fn a_slave_nearby_never_waits_for_the_pace() {
        let (mut feeds, now) = (waiting(), Instant::now());
        feeds.take_waiting(now);
        assert!(feeds.more_is_durable(now, PACED_ROUND_TRIP / 2));
    }
}
