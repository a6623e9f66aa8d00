//! What is done to the directory of a closed store: a rewind, key by key, or a snapshot put in place.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use larder_storage::{
    rewind::{self, Rewind},
    snapshot::SnapshotError,
};
use larder_types::{Position, SequenceNumber};
use tokio::task::spawn_blocking;

use super::{
    DriverError, Order,
    engine::{Closed, Engine, Input, Opening},
    keys, log_state,
};
use crate::core::{Alert, Event, Link, LogState, RewindScope, Tail};

/// What clients are told meanwhile.
const REWINDING: &str = "LOADING this node's log parted from the master's and is being rewound; try again";
const INSTALLING: &str = "LOADING this node takes a snapshot from the master; try again";
const WITHOUT_STATE: &str = "a key is too large to be fetched by itself";

/// What came of work on the directory.
pub(super) enum Worked {
    RewindBegun(Result<rewind::Outcome, rewind::RewindError>),
    KeysApplied(Result<Rewind, rewind::RewindError>),
    /// A key cannot be fetched whole: a snapshot is needed.
    KeyTooLarge(Rewind),
    RewindFinished(Result<(), rewind::RewindError>),
    Installed(Result<(), SnapshotError>),
}

/// A rewind under way.
pub(super) struct Rewinding {
    /// Away while a thread works on it.
    pub(super) rewind: Option<Rewind>,
    /// Keys of [`Rewind::keys`] that were fetched and applied.
    applied: usize,
    /// Of those after them, how many were asked for.
    asked: usize,
    /// The log as it is after the cut.
    log: Option<LogState>,
    is_cut_alone: bool,
}

impl Rewinding {
    /// One that a start found begun.
    pub(super) fn found(rewind: Rewind) -> Self {
        Self { rewind: Some(rewind), applied: 0, asked: 0, log: None, is_cut_alone: false }
    }
}

impl Engine {
    /// Closes the store and begins a rewind.
    pub(super) fn start_rewind(&mut self, parting: SequenceNumber) {
        let cut = match self.log_after_cut(parting) {
            Ok(cut) => cut,
            Err(error) => return self.fail(error),
        };
        let before = self.rewinding.take();
        let log = cut.or_else(|| before.and_then(|before| before.log));
        self.rewinding = Some(Rewinding {
            rewind: None,
            applied: 0,
            asked: 0,
            log,
            is_cut_alone: false,
        });
        self.close(Closed::Rewind { parting }, REWINDING);
    }

    fn log_after_cut(&self, parting: SequenceNumber) -> Result<Option<LogState>, DriverError> {
        let Some(store) = &self.store else { return Ok(None) };
        let Some(log) = log_state::of(store)? else { return Ok(None) };
        let tail = match parting.prev() {
            Some(seq) if log.first <= parting => log_state::joint(store, seq)?,
            _ => Tail::EMPTY,
        };
        Ok(Some(log_state::cut(log, parting, tail)))
    }

    /// Has the store closed for this; does it at once where it is closed already.
    fn close(&mut self, what: Closed, why: &'static str) {
        self.feeds.clear();
        self.served.clear();
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
            Some(Closed::Rewind { parting }) => {
                let Some(at) = self.parting_point(parting) else {
                    // Nothing is shared: everything has to be taken back.
                    return self.events.push_back(Event::RewindMarked {
                        scope: RewindScope::Everything,
                    });
                };
                self.work(move || {
                    Worked::RewindBegun(rewind::begin(&directory, &database, at, unix_ms()))
                });
            }
            Some(Closed::Install(incoming)) => {
                let name = format!("before-snapshot-{}", unix_ms());
                self.work(move || Worked::Installed(incoming.install(&name)));
            }
            None => {}
        }
    }

    /// The last record that both logs share.
    fn parting_point(&self, parting: SequenceNumber) -> Option<Position> {
        let log = self.rewinding.as_ref()?.log.as_ref()?;
        log.tail.last.filter(|last| last.seq.next() == parting)
    }

    fn work(&self, work: impl FnOnce() -> Worked + Send + 'static) {
        let inputs = self.inputs.clone();
        spawn_blocking(move || {
            // Where nobody takes it, the driver has ended; a start finds what was done.
            let _ = inputs.blocking_send(Input::Worked(Box::new(work())));
        });
    }

    pub(super) fn worked(&mut self, worked: Worked) {
        match worked {
            Worked::RewindBegun(begun) => self.rewind_begun(begun),
            Worked::KeysApplied(Ok(rewind)) => {
                if let Some(rewinding) = &mut self.rewinding {
                    rewinding.applied += std::mem::take(&mut rewinding.asked);
                    rewinding.rewind = Some(rewind);
                    self.events.push_back(Event::KeysApplied);
                }
            }
            Worked::KeyTooLarge(rewind) => {
                if let Some(rewinding) = &mut self.rewinding {
                    rewinding.rewind = Some(rewind);
                }
                tracing::warn!("{WITHOUT_STATE}; this node takes a snapshot instead");
                let scope = RewindScope::Everything;
                self.events.push_back(Event::RewindMarked { scope });
            }
            Worked::RewindFinished(Ok(())) => {
                self.rewinding = None;
                self.opening = Some(Opening::Rewound);
                (self.port.order)(Order::Open(None));
            }
            Worked::Installed(Ok(())) => {
                self.rewinding = None;
                self.opening = Some(Opening::Installed);
                (self.port.order)(Order::Open(None));
            }
            Worked::KeysApplied(Err(error)) | Worked::RewindFinished(Err(error)) => {
                self.fail(error.into());
            }
            Worked::Installed(Err(error)) => self.install_failed(error.to_string()),
        }
    }

    /// What was there is there still, unless a rewind had taken it apart.
    fn install_failed(&mut self, why: String) {
        if self.rewinding.is_none() {
            (self.port.order)(Order::Open(None));
        }
        self.events.push_back(Event::SnapshotFailed { link: Link(0), why });
    }

    fn rewind_begun(&mut self, begun: Result<rewind::Outcome, rewind::RewindError>) {
        let Some(rewinding) = &mut self.rewinding else { return };
        let scope = match begun {
            Err(error) => return self.fail(error.into()),
            Ok(rewind::Outcome::Done) => {
                rewinding.is_cut_alone = true;
                RewindScope::Log
            }
            Ok(rewind::Outcome::Fetch(rewind)) => {
                rewinding.rewind = Some(rewind);
                RewindScope::Keys
            }
            Ok(rewind::Outcome::SnapshotNeeded { why }) => {
                tracing::warn!(%why, "keys do not suffice for this rewind");
                RewindScope::Everything
            }
        };
        self.shared.stats.rewinds.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.events.push_back(Event::RewindMarked { scope });
    }

    /// The log was cut together with the marker.
    pub(super) fn cut_log(&mut self) {
        let Some(rewinding) = &mut self.rewinding else { return };
        if rewinding.is_cut_alone {
            self.rewinding = None;
            self.opening = Some(Opening::Cut);
            (self.port.order)(Order::Open(None));
            return;
        }
        if let Some(log) = rewinding.log.clone() {
            self.know(Some(&log));
            self.events.push_back(Event::LogCut(log));
        }
    }

    /// Names the next keys to fetch, or puts the store in order once all are there.
    pub(super) fn list_keys(&mut self, restart: bool) {
        let Some(rewinding) = &mut self.rewinding else {
            // All of them are fetched, and the store is open again.
            return self.events.push_back(Event::KeysListed { request: None });
        };
        let Some(rewind) = &rewinding.rewind else { return };
        if restart {
            rewinding.applied = 0;
        }
        let rest = rewind.keys().get(rewinding.applied..).unwrap_or_default();
        if !rest.is_empty() {
            let (request, count) = keys::request(rest);
            rewinding.asked = count;
            return self.events.push_back(Event::KeysListed { request: Some(request) });
        }
        if let Some(rewind) = rewinding.rewind.take() {
            self.work(move || Worked::RewindFinished(rewind.finish()));
        }
    }

    /// Puts fetched keys in place.
    pub(super) fn apply_keys(&mut self, reply: Bytes) {
        let Some(rewinding) = &mut self.rewinding else { return };
        let given = match keys::given(reply) {
            Ok(given) if given.keys.len() <= rewinding.asked => given,
            Ok(_) => return self.bad_keys("more keys than were asked for".to_owned()),
            Err(why) => return self.bad_keys(why),
        };
        rewinding.asked = given.keys.len();
        let Some(mut rewind) = rewinding.rewind.take() else { return };
        self.work(move || {
            let at = SequenceNumber::new(given.at).unwrap_or(SequenceNumber::FIRST);
            for key in given.keys {
                let Some(key) = key else { return Worked::KeyTooLarge(rewind) };
                if let Err(error) = rewind.apply(&key, at) {
                    return Worked::KeysApplied(Err(error));
                }
            }
            Worked::KeysApplied(Ok(rewind))
        });
    }

    fn bad_keys(&mut self, why: String) {
        self.perform_alert(&Alert::SnapshotFailed { why });
        self.events.push_back(Event::RewindMarked { scope: RewindScope::Everything });
    }

    /// At the master: reads keys whole for a slave.
    pub(super) fn read_keys(&mut self, link: Link, request: Bytes) {
        let Some(store) = self.store.clone() else { return };
        let Some(keys) = keys::requested(request) else {
            return self.disconnect(link, "a request of keys that does not decode");
        };
        let inputs = self.inputs.clone();
        spawn_blocking(move || {
            let (mut reply, mut at) = (keys::Reply::default(), 0);
            for key in keys {
                if !reply.has_room() {
                    break;
                }
                match store.whole_key(&key) {
                    Ok((whole, read_at)) => {
                        reply.add(Some(&whole.encode()));
                        at = read_at.as_u64();
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a key was not given to a slave that rewinds");
                        reply.add(None);
                    }
                }
            }
            let reply = reply.finish(at);
            let _ = inputs.blocking_send(Input::KeysRead { link, reply, at });
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

    /// Puts a snapshot in place of log and state.
    pub(super) fn install(&mut self, incoming: Box<larder_storage::snapshot::Incoming>) {
        self.close(Closed::Install(incoming), INSTALLING);
    }
}

/// For names of files and for people alone.
pub(super) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
