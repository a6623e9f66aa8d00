//! Snapshots that slaves may fetch. One outlives a break of the connection, so that the slave goes on
//! where it was: another snapshot would have other files.

use std::{collections::HashMap, time::Duration};

use super::snapshot::{Given, Stream};
use crate::core::{Link, Session, Time};

/// How long a snapshot is kept for a slave that is gone. The log is kept from it on as long.
const KEPT: Duration = Duration::from_secs(300);

/// Snapshots that slaves may fetch, and those that wait for one that is being made.
#[derive(Default)]
pub(super) struct Served {
    by_link: HashMap<Link, (Session, Given)>,
    /// The last that a connection broke over, and until when it is kept.
    broken: Option<(Given, Time)>,
    /// Those that the one under way is for.
    wanted: HashMap<Link, Session>,
    /// A slave may ask before its snapshot is there.
    waiting: HashMap<Link, (Session, Stream)>,
}

impl Served {
    /// One that is being fetched, or was: several slaves share it.
    pub(super) fn any(&self) -> Option<&Given> {
        let fetched = self.by_link.values().next().map(|(_, given)| given);
        fetched.or(self.broken.as_ref().map(|(given, _)| given))
    }

    /// Notes that this slave is to have one; false where one is being made already, which then is
    /// for this slave too.
    pub(super) fn want(&mut self, link: Link, session: Session) -> bool {
        let is_first = self.wanted.is_empty();
        self.wanted.insert(link, session);
        is_first
    }

    /// Whom the one is for that has been made, or was not.
    pub(super) fn take_wanted(&mut self) -> Vec<(Link, Session)> {
        self.wanted.drain().collect()
    }

    /// Answers the stream of this slave, where it waits already.
    pub(super) fn add(&mut self, link: Link, session: Session, given: Given) -> Option<Stream> {
        self.broken = None;
        self.by_link.insert(link, (session, given));
        let (of, stream) = self.waiting.remove(&link)?;
        (of == session).then_some(stream)
    }

    /// Lets a slave wait whose snapshot is being made; false where none is.
    pub(super) fn wait(&mut self, link: Link, session: Session, stream: Stream) -> bool {
        let is_wanted = self.wanted.get(&link) == Some(&session);
        if is_wanted {
            self.waiting.insert(link, (session, stream));
        }
        is_wanted
    }

    pub(super) fn of(&self, link: Link, session: Session) -> Option<&Given> {
        self.by_link.get(&link).filter(|(of, _)| *of == session).map(|(_, given)| given)
    }

    /// The slave needs no snapshot any more.
    pub(super) fn forget(&mut self, link: Link) {
        self.by_link.remove(&link);
        self.waiting.remove(&link);
    }

    /// The connection broke: what the slave was fetching is kept for a while.
    pub(super) fn broke(&mut self, link: Link, now: Time) {
        if let Some((_, given @ Given::State(_))) = self.by_link.remove(&link) {
            self.broken = Some((given, now + KEPT));
        }
        self.waiting.remove(&link);
    }

    /// Lets go of what has been kept for long enough.
    pub(super) fn expire(&mut self, now: Time) {
        drop(self.broken.take_if(|(_, until)| *until <= now));
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}
