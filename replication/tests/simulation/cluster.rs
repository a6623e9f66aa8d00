//! The cluster that is simulated: its nodes, the network between them, and what will happen.

use std::collections::BTreeSet;

use larder_replication::core::{Action, Config, Core, Event, Link, Peer, Planted, ReadGate, Role};
use larder_replication::message::Message;
use larder_types::{DiskId, NodeId};

use crate::{
    book::Book,
    clients::Clients,
    disk::Disk,
    history::Fact,
    marks::{Mark, Marks},
    network::{ConnectionId, Link as Wire, Network, NodeIndex, Parcel},
    node::{Clock, Node, Process},
    operator::Operator,
    options::Options,
    queue::{MS, Queue, SECOND, Time},
    random::Random,
    snapshots::Snapshots,
    steps::Step,
    trace::Trace,
    world::Turn,
};

/// Something that will happen.
#[derive(Debug)]
pub(crate) enum Happening {
    /// Something at a node, unless it has died before.
    Local { node: NodeIndex, life: u64, what: Local },
    /// A message reaches the other end.
    Arrive(Parcel<Message>),
    /// A dialled connection stands, or does not.
    Dialled { from: NodeIndex, life: u64, to: NodeIndex },
    /// An end notices that its connection is gone.
    Broken { connection: ConnectionId, end: usize },
    /// Somebody outside does something.
    World(Turn),
}

/// Something at a node.
#[derive(Clone, Debug)]
pub(crate) enum Local {
    Tick,
    /// The core is told.
    Event(Event),
    /// Its storage has done something.
    Step(Step),
}

/// Everything there is.
pub(crate) struct Cluster {
    pub(crate) options: Options,
    pub(crate) planted: Option<Planted>,
    pub(crate) random: Random,
    pub(crate) queue: Queue<Happening>,
    pub(crate) network: Network<Message>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) book: Book,
    pub(crate) snapshots: Snapshots,
    pub(crate) clients: Clients,
    pub(crate) operator: Operator,
    /// Disks that were taken away, and the node they were in.
    pub(crate) lost_disks: Vec<(NodeIndex, Disk)>,
    /// Terms that an operator typed in.
    pub(crate) forced_terms: BTreeSet<u32>,
    /// What happened since the invariants last looked.
    pub(crate) facts: Vec<Fact>,
    pub(crate) marks: Marks,
    pub(crate) trace: Trace,
}

impl Cluster {
    pub(crate) fn new(seed: u64, planted: Option<Planted>, trace: Trace) -> Self {
        let mut random = Random::new(seed);
        let options = Options::draw(&mut random.fork());
        let nodes = options.regions.iter().enumerate().map(|(index, &region)| Node {
            name: name(index),
            region,
            clock: Clock { started: 0, origin: 0, fast: 0, stood: 0 },
            disk: Disk::new(DiskId(random.bits())),
            life: 0,
            paused_until: 0,
            process: None,
        });
        let nodes: Vec<_> = nodes.collect();
        let network = Network::new(links(&options, &mut random), random.fork());
        Self {
            network,
            nodes,
            planted,
            queue: Queue::new(),
            book: Book::default(),
            snapshots: Snapshots::default(),
            clients: Clients::new(seed),
            operator: Operator::default(),
            lost_disks: Vec::new(),
            forced_terms: BTreeSet::new(),
            facts: Vec::new(),
            marks: Marks::default(),
            trace,
            random,
            options,
        }
    }

    /// The marks that were reached, those of the network among them.
    pub(crate) fn all_marks(&self) -> Marks {
        let mut marks = self.marks.clone();
        marks.reach_often(Mark::PacketLost, self.network.lost);
        marks.reach_often(Mark::Overtaken, self.network.overtaken);
        marks
    }

    pub(crate) fn now(&self) -> Time {
        self.queue.now()
    }

    pub(crate) fn node_named(&self, name: &NodeId) -> NodeIndex {
        self.nodes.iter().position(|node| node.name == *name).expect("the core names no others")
    }

    /// Plans something at a node, in its present life.
    pub(crate) fn later(&mut self, node: NodeIndex, delay: Time, what: Local) {
        let life = self.nodes[node].life;
        self.queue.after(delay, Happening::Local { node, life, what });
    }

    /// Tells a node's core something, and does what it asks for.
    pub(crate) fn tell(&mut self, node: NodeIndex, event: Event) {
        let now = self.nodes[node].clock.read(self.queue.now());
        let Some(process) = &mut self.nodes[node].process else { return };
        self.trace.event(self.queue.now(), node, &event);
        let mut actions = Vec::new();
        process.core.handle(now, event, &mut actions);
        self.perform_all(node, actions);
    }

    fn perform_all(&mut self, node: NodeIndex, actions: Vec<Action>) {
        for action in actions {
            self.trace.action(self.queue.now(), node, &action);
            self.perform(node, action);
        }
    }

    /// Starts a node's process on what its disk holds.
    pub(crate) fn start(&mut self, node: NodeIndex) {
        let config = self.config(node);
        let (drift, now) = (self.options.drift, self.now());
        let fast = self.random.between(0, 2 * drift) as i64 - drift as i64;
        let origin = self.random.below(1_000 * SECOND);
        let entropy = self.random.bits();
        let this = &mut self.nodes[node];
        this.life += 1;
        this.paused_until = 0;
        this.clock = Clock { started: now, origin, fast, stood: 0 };
        if fast != 0 {
            self.marks.reach(Mark::ClockDrifts);
        }
        if this.disk.rewind.is_some() {
            self.marks.reach(Mark::RewindInterrupted);
        }
        let boot = this.boot(&self.book, entropy);
        self.trace.note(now, node, || format!("starts with {boot:?}"));
        let mut actions = Vec::new();
        let core = Core::new(config, boot, this.clock.read(now), &mut actions);
        let (state, durable) = (this.disk.flushed, this.disk.log.last_durable());
        this.process = Some(Process::new(core, state, durable));
        self.later(node, 0, Local::Tick);
        self.later(node, self.options.trim_every, Local::Step(Step::Trim));
        self.perform_all(node, actions);
    }

    fn config(&self, node: NodeIndex) -> Config {
        let voters = self.nodes.len() - self.options.learners;
        let peers = self.nodes.iter().enumerate().filter(|&(index, _)| index != node);
        Config {
            node: self.nodes[node].name.clone(),
            region: self.nodes[node].region.to_owned(),
            peers: peers
                .map(|(index, peer)| Peer {
                    node: peer.name.clone(),
                    region: peer.region.to_owned(),
                    voter: index < voters,
                })
                .collect(),
            first_master: name(0),
            level: self.options.level,
            lease: std::time::Duration::from_micros(self.options.lease),
            window_bytes: self.options.window_bytes,
            planted: self.planted,
        }
    }

    /// Ends a node's process, and leaves on its disk what a crash leaves.
    pub(crate) fn crash(&mut self, node: NodeIndex) {
        let now = self.now();
        if self.nodes[node].process.is_none() {
            return;
        }
        self.trace.note(now, node, || "crashes".to_owned());
        self.unanswer(node, Mark::WriteUnknown);
        let mut random = self.random.fork();
        for (connection, end) in self.network.open_at(node) {
            self.network.close(connection, end);
            self.break_snapshot(node, connection);
            let notice = random.between(MS, 5 * SECOND);
            self.queue.after(notice, Happening::Broken { connection, end: 1 - end });
        }
        let this = &mut self.nodes[node];
        this.process = None;
        this.life += 1;
        let appended = this.disk.log.last();
        this.disk.crash(&mut random);
        self.marks.reach(Mark::Crashed);
        if this.disk.log.last() != appended {
            self.marks.reach(Mark::UnsyncedLost);
        }
        if self.planted == Some(Planted::RewindWithoutMarker) {
            this.disk.rewind = None;
        }
    }

    /// Lets one thing happen, unless the next is later than `end`.
    pub(crate) fn step(&mut self, end: Time) -> bool {
        let Some(happening) = self.queue.next_until(end) else { return false };
        match happening {
            Happening::Local { node, life, what } => {
                if self.nodes[node].life != life || self.nodes[node].process.is_none() {
                    return true;
                }
                if self.nodes[node].paused_until > self.now() {
                    let at = self.nodes[node].paused_until;
                    self.queue.at(at, Happening::Local { node, life, what });
                    return true;
                }
                self.local(node, what);
            }
            Happening::Arrive(parcel) => self.arrive(parcel),
            Happening::Dialled { from, life, to } => self.dialled(from, life, to),
            Happening::Broken { connection, end } => self.broken(connection, end),
            Happening::World(turn) => self.turn(turn),
        }
        true
    }

    fn local(&mut self, node: NodeIndex, what: Local) {
        match what {
            Local::Tick => {
                let tick = self.random.between(20 * MS, 50 * MS);
                self.later(node, tick, Local::Tick);
                self.tell(node, Event::Tick);
            }
            Local::Event(event) => self.tell(node, event),
            Local::Step(step) => self.storage_step(node, step),
        }
    }
}

impl Process {
    fn new(core: Core, state: crate::disk::State, durable: Option<crate::book::RecordId>) -> Self {
        Self {
            core,
            links: Default::default(),
            role: Role::Joining,
            gate: ReadGate::Closed,
            epoch: None,
            writes_paused: false,
            pausing: false,
            state,
            committed: None,
            reported: durable,
            syncing: false,
            folding: false,
            rewinding: false,
            retain: None,
            waiting: Default::default(),
            asked: Default::default(),
        }
    }

    /// Whether it takes writes.
    pub(crate) fn writable(&self) -> bool {
        matches!(self.role, Role::Master { .. }) && self.epoch.is_some() && !self.writes_paused
    }
}

fn name(index: NodeIndex) -> NodeId {
    NodeId::new(&format!("node-{index}")).expect("it is a good name")
}

fn links(options: &Options, random: &mut Random) -> Vec<Vec<Wire>> {
    let far = |one: usize, other: usize| options.regions[one] != options.regions[other];
    let count = options.regions.len();
    let mut link = |from, to| {
        let delay = if far(from, to) { random.around(options.distance) } else { MS / 4 };
        Wire { delay, jitter: options.jitter, loss: options.loss, cut: false }
    };
    (0..count).map(|from| (0..count).map(|to| link(from, to)).collect()).collect()
}

/// The link that a node knows a connection by.
pub(crate) fn link(connection: ConnectionId) -> Link {
    Link(connection)
}
