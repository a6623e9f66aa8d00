//! The world of the stories: nodes with a log each, links that can be cut, a clock that is moved.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use larder_types::{AckLevel, DiskId, Epoch, EpochStart, LogId, NodeId, Position, SequenceNumber};

use crate::core::*;
use crate::message::{Message, decode, encode};

/// A record of a log: what tells it from every other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) position: Position,
    pub(super) crc: u32,
    pub(super) set: Option<ReplicaSet>,
}

/// A node: what is on its disk, and what its core said.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) config: Config,
    pub(super) core: Option<Core>,
    pub(super) log: Option<Vec<Record>>,
    /// Records trimmed from the front.
    pub(super) trimmed: u64,
    pub(super) standing: Standing,
    pub(super) marker: Option<Marker>,
    /// What a rewind has to take back.
    pub(super) scope: RewindScope,
    pub(super) committed: u64,
    /// The last record that the state holds, on the disk too.
    pub(super) applied: u64,
    /// Readers see nothing behind this record.
    pub(super) visible_max: Option<u64>,
    epoch: Option<Epoch>,
    pub(super) roles: Vec<Role>,
    pub(super) alerts: Vec<Alert>,
    pub(super) answers: BTreeMap<u64, Result<Outcome, Refusal>>,
    pub(super) reached: BTreeMap<u64, bool>,
    pub(super) retained: Option<SequenceNumber>,
    pub(super) paused: bool,
    /// What a master sends waits for room on the disk while this is set, until it is given up.
    pub(super) lacks_room: bool,
    waiting: Vec<Chunk>,
    /// Nothing becomes durable while this is set.
    pub(super) disk_hangs: bool,
    /// No standing reaches the disk while this is set.
    pub(super) persist_hangs: bool,
    persisting: Vec<(Standing, Token)>,
    /// The last record that was durable when the process ended.
    pub(super) synced: u64,
    /// What it answers to whoever fetches keys from it; nothing at all if `None`.
    pub(super) keys: Option<Bytes>,
    pub(super) fetches: u32,
    /// So many of the next replies with keys are of no use to it.
    pub(super) useless: u32,
    pub(super) snapshots: u32,
    /// Snapshots do not come to an end while this is set, unless their connection breaks.
    pub(super) snapshot_hangs: bool,
    hanging_over: Option<Link>,
    /// Over which it holds a snapshot for a slave.
    pub(super) serving: BTreeSet<Link>,
    /// The next snapshots that fail.
    pub(super) failing: u32,
    listed: bool,
    /// Each step of storage with the keys of a rewind comes to no end while this is set.
    pub(super) keys_hang: bool,
    /// What comes of the one that has come to none.
    pub(super) working: Option<Event>,
    /// Log and state are closed, until every key of a rewind is in place.
    closed: bool,
}

/// All of it.
#[derive(Debug)]
pub(super) struct World {
    pub(super) now: Time,
    pub(super) nodes: Vec<Node>,
    queue: VecDeque<(usize, Event)>,
    links: BTreeMap<Link, (usize, usize)>,
    next_link: u64,
    cuts: BTreeSet<(usize, usize)>,
    /// What was sent, for stories about messages.
    pub(super) sent: Vec<(usize, usize, Message)>,
    entropy: u64,
}

const LOG: LogId = LogId::from_bytes([7; 16]);

pub(super) fn sequence(number: u64) -> SequenceNumber {
    SequenceNumber::new(number).unwrap()
}

impl World {
    /// A cluster of blank nodes, one a region, the first of them its first master.
    pub(super) fn blank(count: usize, level: AckLevel) -> Self {
        let names: Vec<NodeId> =
            (0..count).map(|at| NodeId::new(&format!("n{at}")).unwrap()).collect();
        let nodes = (0..count).map(|at| Node::blank(at, &names, level)).collect();
        let (queue, links, cuts) = (VecDeque::new(), BTreeMap::new(), BTreeSet::new());
        let now = Time(1_000_000);
        let mut world =
            Self { now, nodes, queue, links, next_link: 1, cuts, sent: Vec::new(), entropy: 1 };
        (0..count).for_each(|at| world.start(at));
        world
    }

    /// The same after it has run: the first node is the master, all are admitted.
    pub(super) fn running(count: usize, level: AckLevel) -> Self {
        let mut world = Self::blank(count, level);
        world.run(Duration::from_secs(8));
        assert_eq!(world.masters(), [0]);
        assert_eq!(world.set_at(0).members.len(), count);
        world
    }

    /// The first node wrote what nobody else has, and another one was promoted by force.
    pub(super) fn parted() -> Self {
        let second = Duration::from_secs(1);
        let mut world = Self::running(3, AckLevel::Local);
        world.write(0, 3);
        world.run(second);
        world.cut(0, 1);
        world.cut(0, 2);
        world.write(0, 4);
        world.run(4 * second);
        world.ask(1, 1, Request::Promote { force_term: Some(2) });
        world.run(8 * second);
        assert_eq!(world.masters(), [0, 1]);
        world.write(1, 2);
        world.run(second);
        world
    }

    /// The first node has been reached again, and has every key, but no record that came since.
    pub(super) fn rewinding() -> Self {
        let mut world = Self::parted();
        world.nodes[0].disk_hangs = true;
        world.heal();
        world.run_until(Duration::from_secs(5), |world| world.nodes[0].fetches == 1);
        world
    }

    pub(super) fn start(&mut self, at: usize) {
        self.entropy += 1;
        let node = &self.nodes[at];
        let boot = Boot {
            standing: node.standing.clone(),
            log: node.state(),
            marker: node.marker,
            entropy: self.entropy,
        };
        let mut out = Vec::new();
        let core = Core::new(node.config.clone(), boot, self.now, &mut out);
        let node = &mut self.nodes[at];
        node.core = Some(core);
        node.committed = 0;
        node.closed = node.marker.is_some();
        self.perform(at, out);
        self.settle();
    }

    /// Ends a node's process; its disk stays.
    pub(super) fn kill(&mut self, at: usize) {
        let now = self.now;
        let node = &mut self.nodes[at];
        if let Some(core) = node.core.take() {
            node.synced = core.status(now).durable.map_or(0, |durable| durable.seq.as_u64());
        }
        self.nodes[at].epoch = None;
        self.nodes[at].persisting.clear();
        self.nodes[at].working = None;
        self.queue.retain(|(to, _)| *to != at);
        self.unlink(|ends| ends.0 == at || ends.1 == at);
        self.settle();
    }

    /// Gives a node a blank disk.
    pub(super) fn replace_disk(&mut self, at: usize) {
        self.kill(at);
        self.entropy += 1;
        let node = &mut self.nodes[at];
        node.standing = Standing::fresh(DiskId(1_000 + self.entropy));
        node.log = None;
        node.applied = 0;
        node.marker = None;
        self.start(at);
    }

    /// Nothing gets through between two nodes any more, and they learn of it by silence only.
    pub(super) fn cut(&mut self, one: usize, other: usize) {
        self.cuts.extend([(one, other), (other, one)]);
    }

    /// What two nodes say gets through again.
    pub(super) fn mend(&mut self, one: usize, other: usize) {
        self.cuts.retain(|ends| *ends != (one, other) && *ends != (other, one));
    }

    /// What the first says does not reach the second any more.
    pub(super) fn cut_back(&mut self, from: usize, to: usize) {
        self.cuts.insert((from, to));
    }

    /// A message arrives once more, over the link that stands.
    pub(super) fn send_again(&mut self, from: usize, to: usize, message: Message) {
        let joins = |ends: &(usize, usize)| *ends == (from, to) || *ends == (to, from);
        let link = self.links.iter().find(|(_, ends)| joins(ends)).map(|(link, _)| *link);
        self.tell(to, Event::Message { link: link.unwrap(), message });
    }

    /// The disk of a node that does not run forgets what was never synced.
    pub(super) fn lose_unsynced(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        assert!(node.core.is_none(), "only a power cut loses what was written");
        node.log.as_mut().unwrap().truncate(node.synced as usize);
    }

    /// The same nodes with their configuration, all blank.
    pub(super) fn restarted_blank(world: Self) -> Self {
        let level = world.nodes[0].config.level;
        let mut blank = Self::blank(0, level);
        let names: Vec<_> = world.nodes.iter().map(|node| node.config.node.clone()).collect();
        for (at, old) in world.nodes.into_iter().enumerate() {
            let mut node = Node::blank(at, &names, level);
            node.config = old.config;
            blank.nodes.push(node);
        }
        (0..names.len()).for_each(|at| blank.start(at));
        blank
    }

    pub(super) fn heal(&mut self) {
        self.cuts.clear();
    }

    fn unlink(&mut self, gone: impl Fn(&(usize, usize)) -> bool) {
        let lost: Vec<_> = self.links.iter().filter(|(_, ends)| gone(ends)).collect();
        let lost: Vec<_> = lost.into_iter().map(|(link, ends)| (*link, *ends)).collect();
        for (link, (one, other)) in lost {
            self.links.remove(&link);
            self.queue.extend([one, other].map(|to| (to, Event::Disconnected { link })));
            for at in [one, other] {
                self.nodes[at].serving.remove(&link);
                if self.nodes[at].hanging_over.take_if(|over| *over == link).is_some() {
                    let why = "the connection broke".into();
                    self.queue.push_back((at, Event::SnapshotFailed { link, why }));
                }
            }
        }
    }

    /// Lets time pass, in steps of 10 ms.
    pub(super) fn run(&mut self, span: Duration) {
        let end = self.now + span;
        while self.now < end {
            self.now = self.now + Duration::from_millis(10);
            (0..self.nodes.len()).for_each(|at| self.queue.push_back((at, Event::Tick)));
            self.settle();
        }
    }

    /// Lets time pass until something holds.
    pub(super) fn run_until(
        &mut self,
        within: Duration,
        holds: impl Fn(&Self) -> bool,
    ) -> Duration {
        let begin = self.now;
        while !holds(self) {
            assert!(self.now.since(begin) < within, "it did not come about");
            self.run(Duration::from_millis(10));
        }
        self.now.since(begin)
    }

    pub(super) fn tell(&mut self, at: usize, event: Event) {
        self.queue.push_back((at, event));
        self.settle();
    }

    pub(super) fn ask(&mut self, at: usize, request: u64, what: Request) {
        self.tell(at, Event::Request { request: RequestId(request), what });
    }

    /// An operator has a master hand the log to another node.
    pub(super) fn switch(&mut self, from: usize, to: usize, request: u64) {
        let to = self.name(to);
        self.ask(from, request, Request::Switchover { to });
    }

    /// Writes records at a master.
    pub(super) fn write(&mut self, at: usize, count: usize) {
        (0..count).for_each(|_| self.append(at, None));
        self.settle();
    }

    fn settle(&mut self) {
        while let Some((at, event)) = self.queue.pop_front() {
            let mut out = Vec::new();
            let Some(core) = &mut self.nodes[at].core else { continue };
            core.handle(self.now, event, &mut out);
            self.perform(at, out);
        }
    }

    fn append(&mut self, at: usize, set: Option<ReplicaSet>) {
        let node = &mut self.nodes[at];
        assert!(!node.closed, "a log that is closed takes nothing");
        let epoch = node.epoch.expect("a master appends");
        let log = node.log.get_or_insert_default();
        let seq = sequence(log.len() as u64 + 1);
        let crc = log.last().map_or(0, |last| last.crc) ^ (epoch.id as u32) ^ (seq.as_u64() as u32);
        log.push(Record { position: Position { epoch, seq }, crc, set });
        self.sync(at);
    }

    /// Reports what has become durable.
    pub(super) fn sync(&mut self, at: usize) {
        let node = &self.nodes[at];
        if node.disk_hangs {
            return;
        }
        let known = node.core.as_ref().map_or(0, |core| {
            core.status(self.now).durable.map_or(0, |durable| durable.seq.as_u64())
        });
        let state = node.state().expect("there is a log");
        let epochs = state.epochs.into_iter().filter(|start| start.first.as_u64() > known);
        let sets = state.sets.into_iter().filter(|placed| placed.seq.as_u64() > known);
        let durable = Durable { tail: state.tail, epochs: epochs.collect(), sets: sets.collect() };
        if durable.tail.number() > known {
            self.tell(at, Event::Durable(durable));
        }
    }

    /// Puts on the disk what waits for it.
    fn store(&mut self, at: usize) {
        if !self.nodes[at].persist_hangs {
            for (standing, token) in std::mem::take(&mut self.nodes[at].persisting) {
                self.nodes[at].standing = standing;
                self.queue.push_back((at, Event::Stored { token }));
            }
        }
    }

    /// The disk takes standings again.
    pub(super) fn release_persist(&mut self, at: usize) {
        self.nodes[at].persist_hangs = false;
        self.store(at);
        self.settle();
    }

    fn perform(&mut self, at: usize, actions: Vec<Action>) {
        actions.into_iter().for_each(|action| self.act(at, action));
    }

    fn act(&mut self, at: usize, action: Action) {
        match action {
            Action::Connect { peer } => self.connect(at, &peer),
            Action::Send { link, message } => self.send(at, link, message),
            Action::Close { link, .. } => {
                let ends = self.links.get(&link).copied();
                self.unlink(|other| Some(*other) == ends);
            }
            Action::Read { link, session, from, .. } => self.read(at, link, session, from),
            Action::Append { chunk } if self.nodes[at].lacks_room => {
                self.nodes[at].waiting.push(chunk);
            }
            Action::GiveUpAppending => {
                if !std::mem::take(&mut self.nodes[at].waiting).is_empty() {
                    self.queue.push_back((at, Event::AppendRefused { why: None }));
                }
            }
            Action::Append { chunk } => self.accept(at, &chunk),
            Action::BeginEpoch { epoch } => {
                self.nodes[at].epoch = Some(epoch);
                self.append(at, None);
            }
            Action::AppendReplicaSet { set } => self.append(at, Some(set)),
            Action::Commit { position } => {
                // Appends are durable at once, so that a later commit may get here before this one.
                let node = &mut self.nodes[at];
                node.committed = node.committed.max(position.seq.as_u64());
                node.applied = node.applied.max(node.committed);
                let seen = SequenceNumber::new(node.committed);
                self.queue.push_back((at, Event::Progress { visible: seen, applied: seen }));
            }
            Action::Persist { standing, token } => {
                self.nodes[at].persisting.push((standing, token));
                self.store(at);
            }
            Action::CreateLog => {
                self.nodes[at].log = Some(Vec::new());
                self.queue.push_back((at, Event::LogCreated { log: LOG }));
            }
            Action::PauseWrites => {
                self.nodes[at].paused = true;
                self.queue.push_back((at, Event::WritesPaused));
            }
            Action::ServeSnapshot { link, session } => {
                let at_record = self.nodes[at].state().and_then(|state| state.tail.last);
                let event = Event::SnapshotServed { link, session, at: at_record };
                self.nodes[at].serving.insert(link);
                self.queue.push_back((at, event));
            }
            Action::StartSnapshot { link, .. } => self.install(at, link),
            other => self.note(at, other),
        }
    }

    fn accept(&mut self, at: usize, chunk: &Chunk) {
        assert!(!self.nodes[at].closed, "a log that is closed takes nothing");
        let records = self.unpack(&chunk.frames);
        self.nodes[at].log.get_or_insert_default().extend(records);
        self.sync(at);
    }

    /// There is room on the disk again.
    pub(super) fn make_room(&mut self, at: usize) {
        self.nodes[at].lacks_room = false;
        for chunk in std::mem::take(&mut self.nodes[at].waiting) {
            self.accept(at, &chunk);
        }
        self.settle();
    }

    fn note(&mut self, at: usize, action: Action) {
        let node = &mut self.nodes[at];
        match action {
            Action::Become(role) => {
                if !matches!(role, Role::Master { .. }) {
                    node.epoch = None;
                }
                node.paused = false;
                node.roles.push(role);
            }
            Action::Alert(alert) => node.alerts.push(alert),
            Action::ResumeWrites => node.paused = false,
            Action::RetainFrom { seq } => node.retained = seq,
            Action::EndRewind => node.marker = None,
            Action::EndSnapshot { link } => {
                node.serving.remove(&link);
            }
            Action::Answer { request, outcome } => {
                node.answers.insert(request.0, outcome);
            }
            Action::Reached { request, reached, .. } => {
                node.reached.insert(request.0, reached);
            }
            Action::StartRewind { parting } => {
                let scope = node.scope;
                node.closed = true;
                node.marker = Some(Marker { parting, scope, cut: false });
                self.queue.push_back((at, Event::RewindMarked { scope }));
            }
            Action::CutLog { parting } => {
                let marker = node.marker.as_mut().expect("a rewind is marked first");
                assert_ne!(marker.scope, RewindScope::Everything, "such a log is never cut");
                marker.cut = true;
                node.closed = marker.scope == RewindScope::Keys;
                let log = node.log.as_mut().expect("what is cut is there");
                log.truncate(parting.as_u64() as usize - 1);
                let end = log.len() as u64;
                // Where keys were touched, the state had come to the parting point at least.
                let keys = marker.scope == RewindScope::Keys;
                node.applied = if keys { end } else { node.applied.min(end) };
                node.committed = node.committed.min(end);
                let state = node.state().expect("the log is there");
                self.queue.push_back((at, Event::LogCut(state)));
            }
            Action::ListKeys { restart } => {
                node.listed &= !restart;
                node.closed = !node.listed;
                let event = if std::mem::replace(&mut node.listed, true) {
                    Event::KeysInPlace
                } else {
                    let settles_at = SequenceNumber::new(node.applied);
                    Event::KeysListed { request: Bytes::from_static(b"which"), settles_at }
                };
                self.worked(at, event);
            }
            Action::ReadKeys { link, .. } => {
                let position = node.visible();
                if let Some(reply) = node.keys.clone() {
                    self.queue.push_back((at, Event::KeysRead { link, reply, at: position }));
                }
            }
            Action::ApplyKeys { .. } if node.useless > 0 => {
                node.useless -= 1;
                // What they were asked for is asked for again.
                node.listed = false;
                self.worked(at, Event::KeysUseless);
            }
            Action::ApplyKeys { .. } => {
                node.fetches += 1;
                self.worked(at, Event::KeysApplied);
            }
            _ => {}
        }
    }

    fn worked(&mut self, at: usize, event: Event) {
        if self.nodes[at].keys_hang {
            self.nodes[at].working = Some(event);
        } else {
            self.queue.push_back((at, event));
        }
    }

    /// Storage comes to the end of a step with the keys of a rewind.
    pub(super) fn release_keys(&mut self, at: usize) {
        let worked = self.nodes[at].working.take().expect("it works at them");
        self.tell(at, worked);
    }

    fn connect(&mut self, at: usize, peer: &NodeId) {
        let to = self.nodes.iter().position(|node| node.config.node == *peer).unwrap();
        if self.nodes[to].core.is_none() || self.cuts.contains(&(at, to)) {
            let peer = peer.clone();
            return self.queue.push_back((at, Event::ConnectFailed { peer }));
        }
        let link = Link(self.next_link);
        self.next_link += 1;
        self.links.insert(link, (at, to));
        for (one, other) in [(at, to), (to, at)] {
            let peer = self.nodes[other].config.node.clone();
            self.queue.push_back((one, Event::Connected { link, peer }));
        }
    }

    fn send(&mut self, at: usize, link: Link, message: Message) {
        let Some((one, other)) = self.links.get(&link).copied() else { return };
        let to = if at == one { other } else { one };
        self.sent.push((at, to, message.clone()));
        if self.cuts.contains(&(at, to)) {
            return;
        }
        let mut bytes = BytesMut::new();
        encode(&message, &mut bytes);
        let message = decode(bytes.freeze()).unwrap();
        self.queue.push_back((to, Event::Message { link, message }));
    }

    fn read(&mut self, at: usize, link: Link, session: Session, from: SequenceNumber) {
        let node = &self.nodes[at];
        let log = node.log.as_ref().unwrap();
        let begin = from.as_u64() as usize - 1;
        if (begin as u64) < node.trimmed {
            let first = sequence(node.trimmed + 1);
            return self.queue.push_back((at, Event::ReadTrimmed { link, session, first }));
        }
        let durable = node.core.as_ref().unwrap().status(self.now).durable.unwrap();
        let records = &log[begin..durable.seq.as_u64() as usize];
        let last = records.last().unwrap();
        let mut frames = BytesMut::new();
        records.iter().for_each(|record| {
            frames.put_u64(at as u64);
            frames.put_u64(record.position.seq.as_u64());
        });
        let prev = begin.checked_sub(1).map(|prev| &log[prev]);
        let chunk = Chunk {
            prev: prev.map_or(Tail::EMPTY, Record::tail),
            last: last.position,
            last_crc: last.crc,
            frames: frames.freeze(),
        };
        self.queue.push_back((at, Event::Records { link, session, chunk }));
    }

    fn unpack(&self, frames: &[u8]) -> Vec<Record> {
        let number = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().unwrap()) as usize;
        let records = frames.chunks(16).map(|frame| (number(&frame[..8]), number(&frame[8..])));
        records.map(|(node, seq)| self.nodes[node].log.as_ref().unwrap()[seq - 1].clone()).collect()
    }

    fn install(&mut self, at: usize, link: Link) {
        assert_eq!(self.nodes[at].working, None, "two threads would work with one directory");
        if self.nodes[at].snapshot_hangs {
            self.nodes[at].hanging_over = Some(link);
            return;
        }
        if let Some(left) = self.nodes[at].failing.checked_sub(1) {
            self.nodes[at].failing = left;
            let why = "it was damaged on its way".into();
            return self.queue.push_back((at, Event::SnapshotFailed { link, why }));
        }
        let (one, other) = self.links[&link];
        let from = if at == one { other } else { one };
        let log = self.nodes[from].log.clone();
        let node = &mut self.nodes[at];
        node.log = log;
        node.marker = None;
        node.closed = false;
        node.snapshots += 1;
        node.trimmed = node.log.as_ref().map_or(0, |log| log.len() as u64);
        (node.applied, node.committed) = (node.trimmed, node.trimmed);
        let state = node.state().expect("a snapshot has a log");
        self.queue.push_back((at, Event::SnapshotInstalled(state)));
    }

    pub(super) fn masters(&self) -> Vec<usize> {
        let master = |at: &usize| {
            let core = self.nodes[*at].core.as_ref();
            core.is_some_and(|core| matches!(core.role(), Role::Master { .. }))
        };
        (0..self.nodes.len()).filter(master).collect()
    }

    pub(super) fn core(&self, at: usize) -> &Core {
        self.nodes[at].core.as_ref().unwrap()
    }

    pub(super) fn name(&self, at: usize) -> NodeId {
        self.nodes[at].config.node.clone()
    }

    /// The newest replica set in a node's log.
    pub(super) fn set_at(&self, at: usize) -> ReplicaSet {
        let state = self.nodes[at].state().unwrap();
        state.sets.last().map(|placed| placed.set.clone()).unwrap_or_default()
    }

    pub(super) fn tail(&self, at: usize) -> u64 {
        self.nodes[at].log.as_ref().map_or(0, |log| log.len() as u64)
    }

    /// The last record of a node's log.
    pub(super) fn last(&self, at: usize) -> Option<Position> {
        let log = self.nodes[at].log.as_ref()?;
        log.last().map(|last| last.position)
    }

    pub(super) fn term(&self, at: usize) -> u32 {
        self.core(at).status(self.now).epoch.map_or(0, |epoch| epoch.term)
    }

    pub(super) fn answer(&self, at: usize, request: u64) -> Option<&Result<Outcome, Refusal>> {
        self.nodes[at].answers.get(&request)
    }

    /// Whether a node may answer reads now.
    pub(super) fn reads(&self, at: usize) -> bool {
        match self.core(at).reads() {
            ReadGate::Closed => false,
            ReadGate::Until(end) => self.now < end,
            ReadGate::Open => true,
        }
    }

    pub(super) fn same_logs(&self) -> bool {
        self.nodes.iter().all(|node| node.log == self.nodes[0].log)
    }
}

impl Record {
    fn tail(&self) -> Tail {
        Tail { last: Some(self.position), crc: self.crc }
    }
}

impl Node {
    fn blank(at: usize, names: &[NodeId], level: AckLevel) -> Self {
        let region = |at: usize| format!("region-{at}");
        let others = names.iter().enumerate().filter(|(other, _)| *other != at);
        let peers = others
            .map(|(other, node)| Peer { node: node.clone(), region: region(other), voter: true })
            .collect();
        let config = Config {
            node: names[at].clone(),
            region: region(at),
            peers,
            first_master: names[0].clone(),
            level,
            lease: Duration::from_secs(3),
            window_bytes: 1 << 20,
            #[cfg(feature = "planted-bugs")]
            planted: None,
        };
        Self {
            config,
            core: None,
            log: None,
            trimmed: 0,
            standing: Standing::fresh(DiskId(100 + at as u64)),
            marker: None,
            scope: RewindScope::Keys,
            committed: 0,
            applied: 0,
            visible_max: None,
            epoch: None,
            roles: Vec::new(),
            alerts: Vec::new(),
            answers: BTreeMap::new(),
            reached: BTreeMap::new(),
            retained: None,
            paused: false,
            lacks_room: false,
            waiting: Vec::new(),
            disk_hangs: false,
            persist_hangs: false,
            persisting: Vec::new(),
            synced: 0,
            keys: Some(Bytes::from_static(b"keys")),
            fetches: 0,
            useless: 0,
            snapshots: 0,
            snapshot_hangs: false,
            serving: BTreeSet::new(),
            hanging_over: None,
            failing: 0,
            listed: false,
            keys_hang: false,
            working: None,
            closed: false,
        }
    }

    fn state(&self) -> Option<LogState> {
        let log = self.log.as_ref()?;
        let mut epochs: Vec<EpochStart> = Vec::new();
        for Record { position: Position { epoch, seq }, .. } in log {
            if epochs.last().is_none_or(|last| last.epoch != *epoch) {
                epochs.push(EpochStart { epoch: *epoch, first: *seq });
            }
        }
        // As a start finds them: of what was trimmed, the epoch in effect before the first record.
        let before = epochs.partition_point(|start| start.first.as_u64() <= self.trimmed);
        epochs.drain(..before.saturating_sub(1));
        let placed = |record: &Record| {
            Some(PlacedSet { seq: record.position.seq, set: record.set.clone()? })
        };
        Some(LogState {
            id: LOG,
            first: sequence(self.trimmed + 1),
            tail: log.last().map_or(Tail::EMPTY, Record::tail),
            epochs,
            sets: log.iter().filter_map(placed).collect(),
            applied: SequenceNumber::new(self.applied),
        })
    }

    /// The last record that readers see.
    fn visible(&self) -> Option<Position> {
        let committed = self.core.as_ref()?.committed()?.seq.as_u64();
        let visible = committed.min(self.visible_max.unwrap_or(u64::MAX));
        let index = usize::try_from(visible).ok()?.checked_sub(1)?;
        self.log.as_ref()?.get(index).map(|record| record.position)
    }
}
