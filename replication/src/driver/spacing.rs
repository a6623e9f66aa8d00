//! How often a slave is sent a few records: each chunk costs both ends some CPU, whatever is in it.
//!
//! Where many clients write, the log has something more every fraction of a millisecond. A slave that has
//! just been sent little is sent the rest once some more has gathered.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use super::feed::Wanted;
use crate::core::Link;

/// From one small chunk to the next. Less than the millisecond that a slave may be late where hardly
/// anything is written.
const APART: Duration = Duration::from_micros(700);
/// A chunk from here on is worth what it costs: who is behind is not held up.
const LARGE_BYTES: usize = 16 << 10;

/// What is to be read for slaves in a moment.
#[derive(Default)]
pub(super) struct Spacing {
    /// When a slave that was sent a small chunk may be sent the next.
    due: HashMap<Link, Instant>,
    waiting: Vec<Wanted>,
}

impl Spacing {
    /// Notes that a chunk of so many bytes goes to a slave.
    pub(super) fn sent(&mut self, link: Link, bytes: usize, now: Instant) {
        if bytes < LARGE_BYTES {
            self.due.insert(link, now + APART);
        } else {
            self.due.remove(&link);
        }
    }

    /// Takes what is not due yet, and gives back what is.
    pub(super) fn put_off(&mut self, wanted: Wanted, now: Instant) -> Option<Wanted> {
        if self.is_due(wanted, now) {
            return Some(wanted);
        }
        self.waiting.push(wanted);
        None
    }

    /// When the first is due of what was put off.
    pub(super) fn next(&self) -> Option<Instant> {
        self.waiting.iter().filter_map(|wanted| self.due.get(&wanted.link)).min().copied()
    }

    /// What was put off and is due.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<Wanted> {
        let waiting = std::mem::take(&mut self.waiting);
        let (due, waiting) = waiting.into_iter().partition(|wanted| self.is_due(*wanted, now));
        self.waiting = waiting;
        due
    }

    /// All that was put off.
    pub(super) fn take_all(&mut self) -> Vec<Wanted> {
        std::mem::take(&mut self.waiting)
    }

    pub(super) fn forget(&mut self, link: Link) {
        self.due.remove(&link);
        self.waiting.retain(|wanted| wanted.link != link);
    }

    fn is_due(&self, wanted: Wanted, now: Instant) -> bool {
        self.due.get(&wanted.link).is_none_or(|due| *due <= now)
    }
}

#[cfg(test)]
mod tests {
    use larder_types::SequenceNumber;

    use super::*;
    use crate::core::Session;

    const SLAVE: Link = Link(1);

    fn wanted(link: Link) -> Wanted {
        Wanted { link, session: Session(1), from: SequenceNumber::FIRST, bytes_max: 1 << 20 }
    }

    #[test]
    fn a_slave_that_was_just_sent_little_is_sent_the_rest_in_a_moment() {
        let (mut spacing, now) = (Spacing::default(), Instant::now());
        assert!(spacing.put_off(wanted(SLAVE), now).is_some(), "it was sent nothing yet");
        spacing.sent(SLAVE, 100, now);
        assert!(spacing.put_off(wanted(SLAVE), now).is_none());
        assert!(spacing.put_off(wanted(Link(2)), now).is_some(), "another slave was sent nothing");
        assert_eq!(spacing.next(), Some(now + APART));
        assert!(spacing.take_due(now).is_empty());
        assert_eq!(spacing.take_due(now + APART).len(), 1);
        assert_eq!(spacing.next(), None);
        assert!(spacing.put_off(wanted(SLAVE), now + APART).is_some());
    }

    #[test]
    fn a_slave_that_is_behind_is_sent_one_chunk_after_the_other() {
        let (mut spacing, now) = (Spacing::default(), Instant::now());
        spacing.sent(SLAVE, 100, now);
        spacing.sent(SLAVE, LARGE_BYTES, now);
        assert!(spacing.put_off(wanted(SLAVE), now).is_some());
    }

    #[test]
    fn what_was_put_off_is_read_at_once_for_whoever_waits_and_never_for_a_link_that_is_gone() {
        let (mut spacing, now) = (Spacing::default(), Instant::now());
        spacing.sent(SLAVE, 100, now);
        assert!(spacing.put_off(wanted(SLAVE), now).is_none());
        assert_eq!(spacing.take_all().len(), 1);
        assert!(spacing.put_off(wanted(SLAVE), now).is_none());
        spacing.forget(SLAVE);
        assert!(spacing.take_all().is_empty() && spacing.next().is_none());
    }
}
