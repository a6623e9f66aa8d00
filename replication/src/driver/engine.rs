//! The task that owns the core: inputs become events, and what the core asks for gets done.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use larder_net::{FrameReceiver, FrameSender};
use larder_storage::{Directory, Store, state::DatabaseOptions};
use larder_types::{Epoch, LogId, NodeId, Position, SequenceNumber};
use rand::Rng as _;
use tokio::{
    sync::{mpsc, oneshot},
    time::{MissedTickBehavior, interval},
};

use super::{
    Clock, DriverError, Port, Report,
    feed::{Feed, Feeds, Read, Wanted},
    handle::Shared,
    links::{Fresh, Links},
    log_state, packing,
    rewind::{Rewinding, Worked, marker_of},
    served::Served,
    snapshot::{Fetched, Gathering, Given, Pace},
    standing::Keeper,
    works::Works,
};
use crate::{
    core::{
        Action, Boot, Config, Core, Durable, Event, Link, LogState, Marker, Need, Outcome,
        ReadGate, Refusal, Request, RequestId, Session, Standing, Status, TICK, Tail, Time, Token,
    },
    message::Message,
};

/// Everything that reaches the driver.
pub(super) enum Input {
    Connected(Box<Fresh>),
    ConnectFailed(NodeId),
    Message(Link, Message),
    /// A connection failed, or its other end broke the rules.
    Broken(Link, String),
    SnapshotWanted {
        link: Link,
        session: Session,
        stream: Box<(FrameSender, FrameReceiver)>,
    },
    SnapshotMade {
        number: u64,
        made: Result<Given, String>,
    },
    SnapshotFetched {
        link: Link,
        log: LogId,
        fetched: Result<Box<Fetched>, String>,
    },
    Read {
        wanted: Wanted,
        read: Result<(Option<Feed>, Read), DriverError>,
    },
    KeysRead {
        link: Link,
        reply: Bytes,
        at: u64,
    },
    Worked(Box<Worked>),
    Stored(Token),
    Report(Report),
    Request {
        what: Request,
        answer: oneshot::Sender<Result<Outcome, Refusal>>,
    },
    Reach {
        written: Option<Position>,
        need: Need,
        deadline: Time,
        answer: oneshot::Sender<(bool, u32)>,
    },
    Status(oneshot::Sender<Status>),
    /// The process must end.
    Failed(DriverError),
    End(oneshot::Sender<()>),
}

/// What the core was told of the log last.
#[derive(Default)]
pub(super) struct Told {
    pub(super) durable: Option<SequenceNumber>,
    pub(super) epoch: Option<Epoch>,
    pub(super) set: Option<SequenceNumber>,
    visible: u64,
    applied: u64,
    first: Option<SequenceNumber>,
    /// In a rewind that is over, the state was a mixture up to this record.
    pub(super) mixed_upto: u64,
}

/// Why the store was closed: what comes next.
pub(super) enum Closed {
    Mark { parting: SequenceNumber },
    List,
    Install(Link, LogId, Box<Fetched>),
}

/// What comes once the store is open again.
pub(super) enum Opening {
    /// The log was cut.
    Cut,
    /// The keys of a rewind are in place.
    Rewound,
    /// A snapshot was installed, perhaps of nothing.
    Installed,
    /// Nothing was done after all: what the core is told of it.
    Unchanged(Event),
}

pub(super) struct Engine {
    pub(super) core: Core,
    pub(super) config: Config,
    pub(super) clock: Clock,
    pub(super) shared: Arc<Shared>,
    pub(super) inputs: mpsc::Sender<Input>,
    pub(super) events: VecDeque<Event>,
    pub(super) actions: Vec<Action>,
    pub(super) links: Links,
    pub(super) feeds: Feeds,
    pub(super) packer: packing::Packer,
    pub(super) unpacker: packing::Unpacker,
    pub(super) port: Port,
    pub(super) directory: Arc<Directory>,
    pub(super) database: DatabaseOptions,
    /// `None` while it is closed.
    pub(super) store: Option<Store>,
    pub(super) standing: Standing,
    pub(super) keeper: Keeper,
    /// What is done to the directory of a closed store, and to the marker of a rewind.
    pub(super) works: Works,
    pub(super) told: Told,
    pub(super) committed: Option<Position>,
    /// What is kept for others: everything, until the core says what they need.
    pub(super) retain_from: Option<SequenceNumber>,
    /// The last record before the pause that was asked for, until it is durable.
    pub(super) pausing: Option<u64>,
    /// Pauses that were asked for; the last of them is the one that counts.
    pub(super) pauses: u64,
    pub(super) closed: Option<Closed>,
    pub(super) opening: Option<Opening>,
    pub(super) rewinding: Option<Rewinding>,
    /// The last record that has to be persisted before the marker of a rewind goes.
    pub(super) ending: Option<u64>,
    pub(super) served: Served,
    pub(super) pace: Pace,
    pub(super) gathering: Gathering,
    /// The link of the snapshot that the present core waits for.
    pub(super) fetching: Option<Link>,
    /// The first turn of frames of which none was refused.
    pub(super) wanted_from: u64,
    /// Frames that were refused: the last record that was appended before, and what is wrong with them.
    pub(super) refused: Option<(u64, Option<String>)>,
    pub(super) asked: u64,
    pub(super) requests: HashMap<RequestId, oneshot::Sender<Result<Outcome, Refusal>>>,
    pub(super) reaches: HashMap<RequestId, oneshot::Sender<(bool, u32)>>,
    /// What ended the driver before it was asked to.
    pub(super) failure: Option<DriverError>,
}

impl Engine {
    /// Runs until it is asked to end, or cannot go on.
    pub(super) async fn run(
        mut self,
        mut inputs: mpsc::Receiver<Input>,
    ) -> Result<(), DriverError> {
        let shared = self.shared.clone();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let ended = loop {
            tokio::select! {
                () = shared.durable.notified() => self.durable(),
                input = inputs.recv() => match input {
                    Some(Input::End(ended)) => break Some(ended),
                    Some(input) => self.take(input),
                    None => break None,
                },
                _ = ticks.tick() => self.tick(),
            }
            self.settle();
            if self.failure.is_some() {
                break None;
            }
        };
        self.links.end().await;
        drop(inputs);
        if let Some(ended) = ended {
            let _ = ended.send(());
        }
        self.failure.map_or(Ok(()), Err)
    }

    /// Handles what there is until nothing comes of it any more.
    pub(super) fn settle(&mut self) {
        loop {
            for action in std::mem::take(&mut self.actions) {
                self.perform(action);
            }
            let Some(event) = self.events.pop_front() else { break };
            self.core.handle(self.clock.now(), event, &mut self.actions);
        }
        self.shared.set_fresh_at(self.core.fresh_as_of());
    }

    /// Something failed that nobody here can mend.
    pub(super) fn fail(&mut self, error: DriverError) {
        self.failure.get_or_insert(error);
    }

    fn tick(&mut self) {
        self.events.push_back(Event::Tick);
        let Some(store) = &self.store else { return };
        let first = store.log().first();
        self.served.expire(self.clock.now(), first);
        if self.told.first.replace(first) != Some(first) {
            self.events.push_back(Event::Trimmed { first });
        }
        self.progress();
        self.hurry_rewind();
        self.end_flushed();
        self.digest();
    }

    /// More is durable: tells the core what, and shows it to readers as far as it is committed.
    fn durable(&mut self) {
        let Some(store) = self.store.clone() else { return };
        match self.newly_durable(&store) {
            Ok(Some(durable)) => self.events.push_back(Event::Durable(durable)),
            Ok(None) => {}
            Err(error) => return self.fail(error),
        }
        self.commit();
        for wanted in self.feeds.take_waiting() {
            self.read(wanted);
        }
        self.paused();
        self.tell_refused();
    }

    fn newly_durable(&mut self, store: &Store) -> Result<Option<Durable>, DriverError> {
        let told = &mut self.told;
        let Some(durable) = store.log().durable().filter(|seq| Some(*seq) > told.durable) else {
            return Ok(None);
        };
        let tail = log_state::joint(store, durable)?;
        let epoch = tail.last.map(|last| last.epoch);
        let epochs = if told.epoch == epoch {
            Vec::new()
        } else {
            let is_new = |first| Some(first) > told.durable && first <= durable;
            store.log().epochs().into_iter().filter(|start| is_new(start.first)).collect()
        };
        let mut new = store.replicas_behind(told.set);
        new.retain(|record| record.position.seq <= durable);
        let sets = log_state::sets(&new)?;
        told.set = sets.last().map(|placed| placed.seq).or(told.set);
        (told.durable, told.epoch) = (Some(durable), epoch);
        Ok(Some(Durable { tail, epochs, sets }))
    }

    /// Shows readers what is committed and durable.
    pub(super) fn commit(&mut self) {
        let Some(store) = &self.store else { return };
        if let Some(committed) = self.committed {
            store.commit(committed.seq);
        }
        self.progress();
    }

    /// Tells the core how far readers see, and those that wait for it.
    fn progress(&mut self) {
        let Some(store) = &self.store else { return };
        let marks = store.watermarks();
        if (self.told.visible, self.told.applied) == (marks.visible, marks.applied) {
            return;
        }
        if self.told.visible != marks.visible {
            (self.port.visible)(marks.visible);
        }
        (self.told.visible, self.told.applied) = (marks.visible, marks.applied);
        self.events.push_back(Event::Progress {
            visible: SequenceNumber::new(marks.visible),
            applied: SequenceNumber::new(marks.applied),
        });
    }

    /// Tells the core of each digest of the state that was finished, but of none that a rewind made
    /// the state a mixture at: keys were fetched that are ahead of its records.
    fn digest(&mut self) {
        let Some(store) = &self.store else { return };
        let (finished, mixed_upto) = (store.take_digests(), self.told.mixed_upto);
        if self.rewinding.is_some() {
            return;
        }
        for digest in finished {
            let at = digest.position;
            if at.seq.as_u64() > mixed_upto {
                self.events.push_back(Event::Digested { at, digest: digest.hash });
            }
        }
    }

    /// Ends a pause of writes once the last of them is durable and was told.
    pub(super) fn paused(&mut self) {
        let durable = self.told.durable.map_or(0, SequenceNumber::as_u64);
        if self.pausing.is_some_and(|last| last <= durable) {
            self.pausing = None;
            self.events.push_back(Event::WritesPaused);
        }
    }

    /// Tells the core of frames that were refused once those before them are durable: only then nothing is
    /// on its way into the log.
    pub(super) fn tell_refused(&mut self) {
        let durable = self.told.durable.map_or(0, SequenceNumber::as_u64);
        if let Some((_, why)) = self.refused.take_if(|(appended, _)| *appended <= durable) {
            self.events.push_back(Event::AppendRefused { why });
        }
    }

    pub(super) fn take(&mut self, input: Input) {
        match input {
            Input::Connected(fresh) => {
                let (link, peer) = self.links.open(*fresh);
                self.events.push_back(Event::Connected { link, peer });
            }
            Input::ConnectFailed(peer) => self.events.push_back(Event::ConnectFailed { peer }),
            Input::Message(link, message) => self.message(link, message),
            Input::Broken(link, why) => self.disconnect(link, &why),
            Input::SnapshotWanted { link, session, stream } => {
                self.give_snapshot(link, session, *stream);
            }
            Input::SnapshotMade { number, made } => self.snapshot_made(number, made),
            Input::SnapshotFetched { link, log, fetched } => {
                self.snapshot_fetched(link, log, fetched);
            }
            Input::Read { wanted, read } => self.was_read(wanted, read),
            Input::KeysRead { link, reply, at } => self.keys_read(link, reply, at),
            Input::Worked(worked) => self.worked(*worked),
            Input::Stored(token) => self.events.push_back(Event::Stored { token }),
            Input::Report(report) => self.report(report),
            Input::Request { what, answer } => {
                let request = self.next_request();
                self.requests.insert(request, answer);
                self.events.push_back(Event::Request { request, what });
            }
            Input::Reach { written, need, deadline, answer } => {
                let request = self.next_request();
                self.reaches.insert(request, answer);
                self.events.push_back(Event::Await { request, written, need, deadline });
            }
            Input::Status(answer) => {
                let _ = answer.send(self.core.status(self.clock.now()));
            }
            Input::Failed(error) => self.fail(error),
            // The loop takes it.
            Input::End(_) => {}
        }
    }

    fn next_request(&mut self) -> RequestId {
        self.asked += 1;
        RequestId(self.asked)
    }

    fn message(&mut self, link: Link, mut message: Message) {
        if !self.links.is_open(link) {
            return;
        }
        if let Message::Records(records) = &mut message
            && let Err(why) = self.unpacker.unpack(link, records)
        {
            return self.disconnect(link, &why);
        }
        self.events.push_back(Event::Message { link, message });
    }

    /// A connection is gone, or is to be.
    pub(super) fn disconnect(&mut self, link: Link, why: &str) {
        if self.links.close(link, why) {
            self.feeds.forget(link);
            self.packer.forget(link);
            self.unpacker.forget(link);
            self.served.broke(link, self.clock.now());
            self.events.push_back(Event::Disconnected { link });
        }
    }

    fn report(&mut self, report: Report) {
        match report {
            Report::Opened(store) => self.opened(store),
            Report::Closed => self.store_closed(),
            // An earlier one was undone, or another took its place.
            Report::Paused { pause, .. } if pause != self.pauses => {}
            Report::Paused { appended, .. } => {
                self.pausing = Some(appended);
                self.paused();
            }
            Report::Refused { turn, appended, why } => {
                // What was asked for since is refused as well: it goes on from what is not there. The core
                // is told once, or it would take for over what it asked for after that.
                if turn >= self.wanted_from {
                    self.wanted_from = self.shared.appends.give_up();
                    self.refused = Some((appended, why));
                    self.tell_refused();
                }
            }
        }
    }

    /// The store is open: after what was done to its directory, or, where nothing was, because the
    /// state failed. Then replication begins anew, as after a start.
    fn opened(&mut self, store: Store) {
        if self.closed.is_some() {
            // The state failed just before it was to be closed: it is closed next.
            return;
        }
        let log = match log_state::of(&store) {
            Ok(log) => log,
            Err(error) => return self.fail(error),
        };
        self.feeds.clear();
        self.know(log.as_ref());
        store.retain_from(self.retain_from);
        let id = store.log().id();
        self.store = Some(store);
        match (self.opening.take(), log) {
            (Some(Opening::Cut), Some(log)) => self.events.push_back(Event::LogCut(log)),
            (Some(Opening::Installed), log) => {
                let log = log.unwrap_or_else(|| log_state::empty(id));
                self.events.push_back(Event::SnapshotInstalled(log));
            }
            (Some(Opening::Rewound), Some(_)) => {
                // First where the state stands now: by that the core tells whether the rewind is over.
                self.progress();
                self.events.push_back(Event::KeysInPlace);
            }
            (Some(Opening::Unchanged(failed)), _) => self.events.push_back(failed),
            (_, log) => {
                let rewind = self.rewinding.as_ref().and_then(|it| it.rewind.as_ref());
                let marker = rewind.map(marker_of);
                self.begin_again(log, marker);
            }
        }
        self.shared.renewed();
        self.commit();
    }

    /// Notes what the core knows of the log from here on.
    pub(super) fn know(&mut self, log: Option<&LogState>) {
        let tail = log.map_or(Tail::EMPTY, |log| log.tail);
        self.told = Told {
            durable: tail.last.map(|last| last.seq),
            epoch: tail.last.map(|last| last.epoch),
            set: log.and_then(|log| log.sets.last()).map(|placed| placed.seq),
            ..Told::default()
        };
        self.committed = None;
    }

    pub(super) fn begin_again(&mut self, log: Option<LogState>, marker: Option<Marker>) {
        self.links.close_all("the state was opened again");
        self.packer.clear();
        self.unpacker.clear();
        self.served.clear();
        self.events.clear();
        self.requests.clear();
        self.reaches.clear();
        self.pausing = None;
        self.ending = None;
        self.fetching = None;
        // What waits for room was asked for by the core before.
        self.wanted_from = self.shared.appends.give_up();
        self.refused = None;
        let entropy = rand::rng().random();
        let boot = Boot { standing: self.standing.clone(), log, marker, entropy };
        let (config, now) = (self.config.clone(), self.clock.now());
        // As the new core has it, which says what changes.
        self.shared.set_reads(ReadGate::Closed);
        self.core = Core::new(config, boot, now, &mut self.actions);
    }
}
