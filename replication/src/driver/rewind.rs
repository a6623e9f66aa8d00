//! What is done to the directory of a closed store: a rewind, step by step, or a snapshot put in
//! place. The steps run on a thread that may block, one after the other.

use std::{
    sync::atomic::Ordering,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use larder_storage::{
    FileError,
    rewind::{self, Rewind, RewindError, Scope},
    snapshot::{SnapshotError, install_nothing},
};
use larder_types::{LogId, SequenceNumber};
use tokio::task::spawn_blocking;

use super::{
    DriverError, Order,
    engine::{Closed, Engine, Input, Opening},
    log_state,
    snapshot::Fetched,
};
use crate::core::{Event, Link, LogState, Marker, RewindScope};

/// Bytes of one request for keys: it goes over the control stream.
const REQUEST_BYTES_MAX: usize = 256 << 10;
/// Bytes of one reply, unless a key alone is larger.
const REPLY_BYTES: usize = 1 << 20;
/// Bytes of a key: it goes over the log stream, whose frames are at most 16 MiB.
const WHOLE_KEY_BYTES_MAX: usize = 16 << 20;
/// What clients are told while a log is rewound.
pub const REWINDING: &str = "LOADING Larder is taking back records that parted from the master's \
     log, key by key or by a snapshot; try again later";
/// What they are told while a snapshot is put in place.
const INSTALLING: &str = "LOADING this node takes a snapshot from the master; try again";

/// What came of work on the directory.
pub(super) enum Worked {
    Marked(Result<Rewind, RewindError>),
    Cut(Result<(Rewind, LogState), DriverError>),
    /// Named the next keys, or put those that came in place: the rewind goes on also where that
    /// was not to be done.
    Listed(Rewind, Result<Option<Vec<u8>>, RewindError>),
    Applied(Rewind, Result<(), RewindError>),
    Ended(Result<(), FileError>),
    /// With the log to be made, where nothing was put in place.
    Installed(Link, Result<Option<LogId>, SnapshotError>),
}

/// A rewind under way: storage's part, which is away while a thread works with it.
pub(super) struct Rewinding {
    pub(super) rewind: Option<Rewind>,
}

/// What the core is told of a marker.
pub(super) fn marker_of(rewind: &Rewind) -> Marker {
    let marker = rewind.marker();
    Marker { parting: marker.parting, scope: scope_of(marker.scope), cut: marker.cut }
}

const fn scope_of(scope: Scope) -> RewindScope {
    match scope {
        Scope::Log => RewindScope::Log,
        Scope::Keys => RewindScope::Keys,
        Scope::Everything => RewindScope::Everything,
    }
}

impl Engine {
    /// Closes the store, marks what has to be taken back, and exports what parted.
    pub(super) fn start_rewind(&mut self, parting: SequenceNumber) {
        self.shared.stats.rewinds.fetch_add(1, Ordering::Relaxed);
        self.rewinding = Some(Rewinding { rewind: None });
        self.close(Closed::Mark { parting }, REWINDING);
    }

    /// Puts a snapshot in place of log and state.
    pub(super) fn install(&mut self, link: Link, log: LogId, fetched: Box<Fetched>) {
        self.close(Closed::Install(link, log, fetched), INSTALLING);
    }

    /// Has the store closed for this; does it at once where it is closed already.
    fn close(&mut self, what: Closed, why: &'static str) {
        self.feeds.clear();
        self.served.clear();
        self.ending = None;
        self.closed = Some(what);
        if self.store.take().is_some() {
            (self.port.order)(Order::Close(why.into()));
        } else {
            self.store_closed();
        }
    }

    /// The store is closed: does what it was closed for.
    pub(super) fn store_closed(&mut self) {
        let (directory, database) = (self.directory.clone(), self.database.clone());
        match self.closed.take() {
            Some(Closed::Mark { parting }) => self.work(move || {
                Worked::Marked(Rewind::mark(&directory, &database, parting, unix_ms()))
            }),
            Some(Closed::List) => self.list_keys(true),
            Some(Closed::Install(link, log, fetched)) => {
                let name = format!("before-snapshot-{}", unix_ms());
                self.work(move || match *fetched {
                    Fetched::State(incoming, _turn) => {
                        let installed = incoming.install(&directory, &database, &name);
                        Worked::Installed(link, installed.map(|()| None))
                    }
                    Fetched::Nothing(_turn) => {
                        let installed = install_nothing(&directory, &name);
                        Worked::Installed(link, installed.map(|()| Some(log)))
                    }
                });
            }
            None => {}
        }
    }

    fn work(&self, work: impl FnOnce() -> Worked + Send + 'static) {
        let inputs = self.inputs.clone();
        self.works.add(move || {
            // Where nobody takes it, the driver has ended; a start finds what was done.
            let _ = inputs.blocking_send(Input::Worked(Box::new(work())));
        });
    }

    fn take_rewind(&mut self) -> Option<Rewind> {
        self.rewinding.as_mut()?.rewind.take()
    }

    pub(super) fn worked(&mut self, worked: Worked) {
        let (rewind, event) = match worked {
            Worked::Marked(Ok(rewind)) => {
                let scope = scope_of(rewind.marker().scope);
                (rewind, Some(Event::RewindMarked { scope }))
            }
            Worked::Cut(Ok((rewind, log))) => match rewind.marker().scope {
                Scope::Log => {
                    self.opening = Some(Opening::Cut);
                    (self.port.order)(Order::Open(None));
                    (rewind, None)
                }
                Scope::Keys | Scope::Everything => {
                    self.know(Some(&log));
                    (rewind, Some(Event::LogCut(log)))
                }
            },
            Worked::Listed(rewind, Ok(Some(request))) => {
                let settles_at = rewind.marker().settles_at();
                (rewind, Some(Event::KeysListed { request: request.into(), settles_at }))
            }
            Worked::Listed(rewind, Ok(None)) => {
                self.opening = Some(Opening::Rewound);
                (self.port.order)(Order::Open(None));
                (rewind, None)
            }
            Worked::Applied(rewind, Ok(())) => (rewind, Some(Event::KeysApplied)),
            Worked::Listed(rewind, Err(error)) | Worked::Applied(rewind, Err(error))
                if error.is_of_keys() =>
            {
                tracing::warn!(%error, "fetched keys were of no use, and are asked for again");
                (rewind, Some(Event::KeysUseless))
            }
            Worked::Ended(Ok(())) => return,
            Worked::Installed(_, Ok(log)) => {
                self.rewinding = None;
                self.opening = Some(Opening::Installed);
                return (self.port.order)(Order::Open(log));
            }
            // Nobody can tell what log and state are meanwhile: a start goes on with it.
            Worked::Installed(_, Err(error @ SnapshotError::Halfway(_))) => {
                return self.fail(error.into());
            }
            Worked::Installed(link, Err(error)) => {
                return self.install_failed(link, error.to_string());
            }
            Worked::Cut(Err(error)) => return self.fail(error),
            Worked::Marked(Err(error))
            | Worked::Listed(_, Err(error))
            | Worked::Applied(_, Err(error)) => return self.fail(error.into()),
            Worked::Ended(Err(error)) => return self.fail(RewindError::from(error).into()),
        };
        self.rewinding = Some(Rewinding { rewind: Some(rewind) });
        self.events.extend(event);
    }

    /// What was there before is there still, unless a rewind had taken it apart. The core is told
    /// once it is open: what it asks for next is done to the directory.
    fn install_failed(&mut self, link: Link, why: String) {
        let failed = Event::SnapshotFailed { link, why };
        let rewind = self.rewinding.as_ref().map(|it| it.rewind.as_ref());
        if rewind.is_none_or(|it| it.is_some_and(|rewind| rewind.marker().is_whole())) {
            self.opening = Some(Opening::Unchanged(failed));
            (self.port.order)(Order::Open(None));
        } else {
            self.events.push_back(failed);
        }
    }

    /// Removes what parted from the log.
    pub(super) fn cut_log(&mut self) {
        let Some(mut rewind) = self.take_rewind() else { return };
        let (directory, database) = (self.directory.clone(), self.database.clone());
        self.work(move || {
            Worked::Cut(match rewind.cut(&directory) {
                Ok(()) => log_state::at_rest(&directory, &database)
                    .and_then(|log| log.ok_or(RewindError::NoLog.into()))
                    .map(|log| (rewind, log)),
                Err(error) => Err(error.into()),
            })
        });
    }

    /// Names the next keys to fetch. Once all are in place, the store is opened.
    pub(super) fn list_keys(&mut self, restart: bool) {
        if self.store.is_some() {
            // The master has changed after the keys of another were in place.
            return self.close(Closed::List, REWINDING);
        }
        let Some(mut rewind) = self.take_rewind() else { return };
        let directory = self.directory.clone();
        self.work(move || {
            let listed = rewind.next_keys(&directory, restart, REQUEST_BYTES_MAX);
            Worked::Listed(rewind, listed)
        });
    }

    /// Puts fetched keys in place.
    pub(super) fn apply_keys(&mut self, reply: Bytes) {
        let Some(mut rewind) = self.take_rewind() else { return };
        let directory = self.directory.clone();
        self.work(move || {
            let applied = rewind.apply(&directory, &reply);
            Worked::Applied(rewind, applied)
        });
    }

    /// The rewind is over. Its marker goes once all that is applied now is persisted: a state from
    /// before would be a mixture without it.
    pub(super) fn end_rewind(&mut self) {
        let Some(store) = &self.store else { return self.remove_marker() };
        store.request_flush();
        let applied = store.watermarks().applied;
        (self.ending, self.told.mixed_upto) = (Some(applied), applied);
        self.end_flushed();
    }

    pub(super) fn end_flushed(&mut self) {
        let Some(store) = &self.store else { return };
        let persisted = store.watermarks().persisted;
        if self.ending.take_if(|applied| *applied <= persisted).is_some() {
            self.remove_marker();
        }
    }

    fn remove_marker(&mut self) {
        self.rewinding = None;
        let directory = self.directory.clone();
        self.work(move || Worked::Ended(rewind::end(&directory)));
    }

    /// At the master: reads keys whole for a slave. An empty reply says that they
    /// cannot be given, and that a snapshot is needed.
    pub(super) fn read_keys(&self, link: Link, request: Bytes) {
        let Some(store) = self.store.clone() else { return };
        let inputs = self.inputs.clone();
        spawn_blocking(move || {
            let input = match store.read_keys(&request, REPLY_BYTES, WHOLE_KEY_BYTES_MAX) {
                Ok((reply, at)) => Input::KeysRead { link, reply: reply.into(), at },
                Err(error) => {
                    tracing::warn!(%error, "a slave that rewinds cannot be given its keys");
                    let at = store.watermarks().visible;
                    Input::KeysRead { link, reply: Bytes::new(), at }
                }
            };
            let _ = inputs.blocking_send(input);
        });
    }

    pub(super) fn keys_read(&mut self, link: Link, reply: Bytes, at: u64) {
        let Some(store) = &self.store else { return };
        let at = match SequenceNumber::new(at).map(|seq| log_state::joint(store, seq)) {
            None => None,
            Some(Ok(joint)) => joint.last,
            // Trimmed meanwhile: the slave asks again.
            Some(Err(_)) => return self.disconnect(link, "the keys are out of date"),
        };
        self.events.push_back(Event::KeysRead { link, reply, at });
    }

    /// Has what came since the keys were put in place folded: only then the rewind is over.
    pub(super) fn hurry_rewind(&self) {
        if let (Some(_), Some(store)) = (&self.rewinding, &self.store) {
            let marks = store.watermarks();
            if marks.applied < marks.visible {
                (self.port.order)(Order::Flush);
            }
        }
    }
}

/// For names of files and for people alone.
fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
