//! Doing what the core asks for.

use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};
use larder_net::StreamKind;
use larder_types::LogId;
use tokio::task::spawn_blocking;

use super::{
    DriverError, Order,
    engine::{Engine, Input},
    feed::{Feed, Now, Read, Wanted},
    packing,
    snapshot::{self, Fetched, Given},
};
use crate::{
    core::{Action, Alert, Chunk, Event, Link, Role, Session},
    message::{Message, Stream, encode, encode_set},
};

/// What a human is told.
fn text_of(alert: &Alert) -> String {
    match alert {
        Alert::Parted { from, to } => format!(
            "this node's log parted from the master's: records {from} to {to} are not in the log any \
             more, and exported; see `kv log parted list`"
        ),
        Alert::NothingInCommon { from, to } => format!(
            "the master no longer knows the epochs of this log: whether records {from} to {to} parted \
             cannot be told; they are exported, and a snapshot is taken; see `kv log parted list`"
        ),
        Alert::Detached { node } => format!(
            "{node} is further behind than the log is kept: it is detached, and comes back by a \
             snapshot"
        ),
        Alert::Conflict { node, what } => format!(
            "this node and {node} claim the same records with different content ({what}); nothing is \
             cut: decide which one is right, and resync the other"
        ),
        Alert::DigestDiffers { node, at } => format!(
            "the state of {node} differs from the master's at record {}: it is set aside; resync it",
            at.seq
        ),
        Alert::LostAcknowledged { node } => format!(
            "{node} lost records that it had acknowledged: it joins again as a new replica; see to its \
             disk"
        ),
        Alert::AppendRefused { why } => format!("records from the master were refused: {why}"),
        Alert::SnapshotFailed { why } => format!("a snapshot failed: {why}"),
    }
}

fn encoded(message: &Message) -> Bytes {
    let mut frame = BytesMut::new();
    encode(message, &mut frame);
    frame.freeze()
}

impl Engine {
    pub(super) fn perform(&mut self, action: Action) {
        match action {
            Action::Connect { peer } => self.links.dial(peer),
            Action::Send { link, message } => self.send(link, message),
            Action::Close { link, why } => self.disconnect(link, why),
            Action::Read { link, session, from, bytes_max } => {
                self.read(Wanted { link, session, from, bytes_max });
            }
            Action::Append { chunk } => self.append(chunk),
            Action::GiveUpAppending => _ = self.shared.appends.give_up(),
            Action::BeginEpoch { epoch } => self.order(Order::BeginEpoch(epoch)),
            Action::AppendReplicaSet { set } => {
                self.order(Order::AppendReplicas(encode_set(&set)));
            }
            Action::Commit { position } => {
                self.committed = Some(position);
                self.commit();
            }
            Action::Persist { standing, token } => {
                self.standing = standing.clone();
                // Where the thread has ended, it has said why.
                let _ = self.keeper.send((standing, token));
            }
            Action::RetainFrom { seq } => {
                self.retain_from = seq;
                if let Some(store) = &self.store {
                    store.retain_from(seq);
                }
            }
            Action::PauseWrites => {
                self.pausing = None;
                self.pauses += 1;
                self.order(Order::Pause(self.pauses));
            }
            Action::ResumeWrites => {
                self.pausing = None;
                // A report of it that comes late is of no pause.
                self.pauses += 1;
                self.order(Order::Resume);
            }
            Action::Become(role) => self.become_role(role),
            Action::Reads(gate) => self.shared.set_reads(gate),
            Action::CreateLog => {
                // The store has made an empty log with an identity of its own.
                if let Some(store) = &self.store {
                    let log = store.log().id();
                    self.events.push_back(Event::LogCreated { log });
                }
            }
            Action::StartRewind { parting } => self.start_rewind(parting),
            Action::CutLog { .. } => self.cut_log(),
            Action::ListKeys { restart } => self.list_keys(restart),
            Action::ReadKeys { link, request } => self.read_keys(link, request),
            Action::ApplyKeys { reply } => self.apply_keys(reply),
            Action::EndRewind => self.end_rewind(),
            Action::ServeSnapshot { link, session } => self.make_snapshot(link, session),
            Action::EndSnapshot { link } => {
                if let Some(slave) = self.links.peer(link) {
                    self.served.forget(link, slave);
                }
            }
            Action::StartSnapshot { link, session, log } => self.fetch_snapshot(link, session, log),
            Action::Reached { request, reached, replicas } => {
                if let Some(answer) = self.reaches.remove(&request) {
                    let _ = answer.send((reached, replicas));
                }
            }
            Action::Answer { request, outcome } => {
                if let Some(answer) = self.requests.remove(&request) {
                    let _ = answer.send(outcome);
                }
            }
            Action::Alert(alert) => self.perform_alert(&alert),
        }
    }

    fn order(&self, order: Order) {
        (self.port.order)(order);
    }

    fn append(&self, chunk: Chunk) {
        self.order(Order::Accept { frames: chunk.frames, turn: self.shared.appends.turn() });
    }

    fn become_role(&mut self, role: Role) {
        if !matches!(role, Role::Master { .. }) {
            // Whoever was fetching one here asks the new master for its own.
            self.served.clear();
        }
        self.order(Order::Become(role));
    }

    pub(super) fn perform_alert(&self, alert: &Alert) {
        self.shared.alert(text_of(alert));
    }

    fn send(&mut self, link: Link, mut message: Message) {
        if let Message::Records(records) = &mut message
            && self.links.features(link).contain(packing::ZSTD)
        {
            self.packer.pack(link, records);
        }
        let kind = match message.stream() {
            Stream::Control => StreamKind::Control,
            Stream::Log => StreamKind::Log,
        };
        if self.links.is_open(link) && !self.links.send(link, kind, encoded(&message)) {
            self.disconnect(link, "it takes nothing");
        }
    }

    /// Reads records for a slave: at once from memory, else on a thread that may block.
    pub(super) fn read(&mut self, wanted: Wanted) {
        let Some(store) = &self.store else { return };
        match self.feeds.read(store, wanted) {
            Ok(Now::Done(read)) => self.has_read(wanted, read),
            Ok(Now::Later(later)) => {
                let inputs = self.inputs.clone();
                spawn_blocking(move || {
                    let _ = inputs.blocking_send(Input::Read { wanted, read: later.read() });
                });
            }
            Err(error) => self.read_failed(wanted, &error),
        }
    }

    pub(super) fn was_read(
        &mut self,
        wanted: Wanted,
        read: Result<(Option<Feed>, Read), DriverError>,
    ) {
        if !self.links.is_open(wanted.link) {
            return;
        }
        match read {
            Ok((feed, read)) => {
                if let Some(feed) = feed {
                    self.feeds.put_back(wanted, feed, &read);
                }
                self.has_read(wanted, read);
            }
            Err(error) => self.read_failed(wanted, &error),
        }
    }

    fn has_read(&mut self, wanted: Wanted, read: Read) {
        let Wanted { link, session, .. } = wanted;
        match read {
            Read::Chunk(chunk) => self.events.push_back(Event::Records { link, session, chunk }),
            Read::Trimmed { first } => {
                self.events.push_back(Event::ReadTrimmed { link, session, first });
            }
            Read::NotYet => {}
        }
    }

    /// The slave comes again, and then finds out whether it was the disk.
    fn read_failed(&mut self, wanted: Wanted, error: &DriverError) {
        tracing::error!(%error, from = %wanted.from, "records could not be read for a slave");
        self.disconnect(wanted.link, "the log could not be read");
    }

    /// Makes a snapshot for a slave, or shares the one that another fetches or waits for.
    fn make_snapshot(&mut self, link: Link, session: Session) {
        // It is sent no records until it has it.
        self.feeds.forget(link);
        let (Some(store), Some(slave)) = (self.store.clone(), self.links.peer(link)) else {
            return;
        };
        let first = store.log().first();
        if let Some(shared) = self.served.any(slave, first).cloned() {
            return self.serve_snapshot(link, session, shared);
        }
        let Some(number) = self.served.want(link, slave.clone(), session) else { return };
        let (directory, inputs) = (self.directory.clone(), self.inputs.clone());
        let (order, flushes) = (self.port.order.clone(), store.clone());
        tokio::spawn(async move {
            let flush = || {
                order(Order::Flush);
                flushes.request_flush();
            };
            let made = snapshot::make(store, directory, flush).await;
            let _ = inputs.send(Input::SnapshotMade { number, made }).await;
        });
    }

    pub(super) fn snapshot_made(&mut self, number: u64, made: Result<Given, String>) {
        let wanted = self.served.take_wanted(number);
        if let Err(why) = &made {
            tracing::error!(why, "no snapshot could be made");
        }
        for (link, slave, session) in wanted {
            match &made {
                Ok(given) if !self.links.is_open(link) => {
                    self.served.keep(slave, given.clone(), self.clock.now());
                }
                Ok(given) => self.serve_snapshot(link, session, given.clone()),
                Err(why) => {
                    let why = why.clone();
                    self.events.push_back(Event::SnapshotFailed { link, why });
                }
            }
        }
    }

    fn serve_snapshot(&mut self, link: Link, session: Session, given: Given) {
        let Some(slave) = self.links.peer(link).cloned() else { return };
        let at = given.at();
        if let Some(stream) = self.served.add(link, slave, session, given) {
            self.give_snapshot(link, session, stream);
        }
        self.events.push_back(Event::SnapshotServed { link, session, at });
    }

    /// A slave has opened its stream.
    pub(super) fn give_snapshot(&mut self, link: Link, session: Session, stream: snapshot::Stream) {
        let Some(snapshot) = self.served.of(link, session).cloned() else {
            if !self.served.wait(link, session, stream) {
                // The stream ends unanswered, which the slave takes for a failure.
                tracing::warn!("a slave asks for a snapshot that is not there");
            }
            return;
        };
        self.shared.stats.snapshots_served.fetch_add(1, Ordering::Relaxed);
        let pace = self.pace.clone();
        tokio::spawn(async move {
            match snapshot::send(snapshot, stream, pace).await {
                Ok(()) => tracing::info!("a snapshot was sent"),
                Err(why) => tracing::warn!(why, "a snapshot was not sent to its end"),
            }
        });
    }

    fn fetch_snapshot(&mut self, link: Link, session: Session, log: LogId) {
        let Some(connection) = self.links.connection(link).cloned() else {
            // What the core asked for before this has shown that nothing can be sent any more.
            let why = "the connection was lost before it began".to_owned();
            return self.events.push_back(Event::SnapshotFailed { link, why });
        };
        self.fetching = Some(link);
        let place = (self.directory.clone(), self.gathering.clone());
        let inputs = self.inputs.clone();
        tokio::spawn(async move {
            let fetched = snapshot::fetch(connection, session, log, place).await;
            let fetched = fetched.map(Box::new);
            let _ = inputs.send(Input::SnapshotFetched { link, log, fetched }).await;
        });
    }

    pub(super) fn snapshot_fetched(
        &mut self,
        link: Link,
        log: LogId,
        fetched: Result<Box<Fetched>, String>,
    ) {
        if self.fetching.take_if(|fetching| *fetching == link).is_none() {
            // Replication began anew meanwhile, and asks for it again where it needs one.
            return;
        }
        match fetched {
            Ok(fetched) => {
                self.shared.stats.snapshots_taken.fetch_add(1, Ordering::Relaxed);
                self.install(link, log, fetched);
            }
            Err(why) => {
                tracing::warn!(why, "no snapshot could be fetched");
                self.events.push_back(Event::SnapshotFailed { link, why });
            }
        }
    }
}
