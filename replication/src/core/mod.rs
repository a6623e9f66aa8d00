//! The pure core: one for each replica of one log on one node.
//!
//! [`Core::handle`] takes what happened and gives what is to be done. There is no I/O, no clock and
//! no randomness in here: time is passed in, ids come from [`Boot::entropy`]. The same events give
//! the same actions, which is what the simulator rests on.
//!
//! A file a duty. At a master: `sender` (each slave), `commit` (levels), `lease`, `replicas` (the
//! set), `retention`, `switchover`. At a slave: `following` (what it knows), `asking`, `receiver`,
//! `rewind`. At all: `links`, `heartbeat`, `handshake` (how two logs join), `fence` and `promotion`,
//! `standing` (what has to be on the disk first).

mod action;
mod asking;
mod boot;
mod commit;
mod digest;
mod event;
mod fence;
mod following;
mod handshake;
mod heartbeat;
mod lease;
mod links;
mod log_view;
mod master;
mod planted;
mod promotion;
mod receiver;
mod replica_set;
mod replicas;
mod retention;
mod rewind;
mod sender;
mod standing;
mod start;
mod status;
mod switchover;
#[cfg(test)]
mod tests;
mod time;

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use bytes::Bytes;
use larder_types::{Epoch, NodeId, Position};

pub use action::{Action, Alert, Outcome, ReadGate, Refusal, Role};
pub use boot::{Boot, Config, LogState, Marker, Peer, RewindScope, Standing, Tail};
pub use commit::AWAITS_MAX;
pub use event::{Durable, Event, Need, Request};
pub use heartbeat::{PING_EVERY, SILENT_MAX};
#[cfg(feature = "planted-bugs")]
pub use planted::Planted;
pub use replica_set::{Member, PlacedSet, ReplicaSet};
pub use sender::CHUNK_BYTES_MAX;
pub use status::{MemberState, MemberStatus, Status};
pub use switchover::SWITCHOVER_PAUSE_MAX;
pub use time::Time;

use self::{
    fence::Owed,
    following::{Following, Upstream},
    lease::Grants,
    links::{Conn, Dial},
    log_view::LogView,
    master::Leading,
    promotion::Promotion,
    retention::Retained,
    standing::After,
    start::Ids,
    switchover::Handing,
};
use crate::message::Message;

/// The longest time between two [`Event::Tick`]s.
pub const TICK: Duration = Duration::from_millis(50);

/// A connection between two nodes, as the driver numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Link(pub u64);

/// One stretch of a slave following a master: drawn by the master, named in all that belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Session(pub u64);

/// Joins a question of the driver with its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Joins an [`Action::Persist`] with its [`Event::Stored`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// Whole records in a row, as their frames are in the log. The core never looks into them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// The record before the first: the joint to compare.
    pub prev: Tail,
    /// The last record.
    pub last: Position,
    /// The last record's checksum.
    pub last_crc: u32,
    /// The frames.
    pub frames: Bytes,
}

/// One replica's part in one log. [`Core::handle`] is all there is to drive it.
#[derive(Debug)]
pub struct Core {
    config: Config,
    ids: Ids,
    now: Time,
    out: Vec<Action>,
    /// As it is to be on the disk; `storing` tells whether it is.
    standing: Standing,
    tokens: u64,
    storing: VecDeque<(Token, After)>,
    log: Option<LogView>,
    /// What this node knows to be committed.
    committed: Option<Position>,
    part: Part,
    /// What was last said of it.
    role: Role,
    gate: ReadGate,
    links: BTreeMap<Link, Conn>,
    dials: Vec<Dial>,
    grants: Grants,
    /// The newest term heard of.
    heard_term: u32,
    /// The greatest tail heard of a master.
    heard_tail: Option<Position>,
    /// The newest term taken before the latest promise.
    known_before: u32,
    owed: Option<Owed>,
    promotion: Option<Promotion>,
    handing: Option<Handing>,
    retained: Retained,
    creating_log: bool,
}

/// What this node is to its log.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one of it a log")]
enum Part {
    /// A slave, or none yet.
    Following(Following),
    /// Led before its start, and asks briefly whether there is a newer term.
    Resuming { until: Time },
    /// Its epoch's first record is on its way to the disk.
    Beginning { epoch: Epoch, by: Option<Link> },
    /// The master.
    Leading(Box<Leading>),
}

impl Core {
    /// Takes in what happened at `now`, and appends to `out` what is to be done.
    pub fn handle(&mut self, now: Time, event: Event, out: &mut Vec<Action>) {
        self.now = self.now.max(now);
        std::mem::swap(&mut self.out, out);
        let begin = self.out.len();
        self.take_in(event);
        self.go_on();
        self.show_changes(begin);
        std::mem::swap(&mut self.out, out);
    }

    fn take_in(&mut self, event: Event) {
        match event {
            Event::Tick => self.on_tick(),
            Event::Connected { link, peer } => self.on_connected(link, peer),
            Event::ConnectFailed { peer } => self.on_connect_failed(&peer),
            Event::Disconnected { link } => self.on_disconnected(link),
            Event::Message { link, message } => self.on_message(link, message),
            Event::Durable(durable) => self.on_durable(&durable),
            Event::Records { link, session, chunk } => self.on_read(link, session, chunk),
            Event::ReadTrimmed { link, session, first } => {
                self.on_read_trimmed(link, session, first);
            }
            Event::AppendRefused { why } => self.on_append_refused(why),
            Event::Progress { visible, applied } => self.on_progress(visible, applied),
            Event::Trimmed { first } => self.on_trimmed(first),
            Event::Stored { token } => self.on_stored(token),
            Event::LogCreated { log } => self.on_log_created(log),
            Event::WritesPaused => self.on_writes_paused(),
            Event::RewindMarked { scope } => self.on_rewind_marked(scope),
            Event::LogCut(state) => self.on_log_cut(state),
            Event::KeysListed { request, settles_at } => self.on_keys_listed(request, settles_at),
            Event::KeysInPlace => self.on_keys_in_place(),
            Event::KeysRead { link, reply, at } => self.on_keys_read(link, reply, at),
            Event::KeysApplied => self.on_keys_applied(),
            Event::KeysUseless => self.on_keys_useless(),
            Event::SnapshotServed { link, session, at } => {
                self.on_snapshot_served(link, session, at);
            }
            Event::SnapshotInstalled(state) => self.on_snapshot_installed(state),
            Event::SnapshotFailed { link, why } => self.on_snapshot_failed(link, why),
            Event::Await { request, written, need, deadline } => {
                self.on_await(request, written, need, deadline);
            }
            Event::Request { request, what } => self.on_request(request, what),
            Event::Digested { at, digest } => self.on_digested(at, digest),
        }
    }

    fn on_message(&mut self, link: Link, message: Message) {
        let now = self.now;
        let Some(conn) = self.links.get_mut(&link) else { return };
        conn.last_heard = now;
        let peer = conn.peer.clone();
        match message {
            Message::Hello(hello) => self.on_hello(link, &hello),
            Message::Ping(ping) => self.on_ping(link, &ping),
            Message::Pong(pong) => self.on_pong(link, &pong),
            Message::Follow(follow) => self.on_follow(link, peer, &follow),
            Message::Verdict { attempt, verdict } => self.on_verdict(link, attempt, verdict),
            Message::Records(records) => self.on_records(link, records),
            Message::Ack { session, durable, counts } => {
                self.on_ack(link, &peer, session, durable, counts);
            }
            Message::Fence(fence) => self.on_fence(link, &peer, fence),
            Message::Fenced(answer) => self.on_answer(peer, answer),
            Message::Elect { term, at } => self.on_elect(link, &peer, term, at),
            Message::Elected { epoch } => self.on_elected(&peer, epoch),
            Message::SteppedDown { epoch, .. } => self.on_stepped_down(&peer, epoch),
            Message::TakeOver { epoch } => self.on_take_over(link, epoch),
            Message::Fetch { epoch, request } => self.on_fetch(link, epoch, request),
            Message::Fetched { epoch, at, reply } => self.on_fetched(link, epoch, at, reply),
            Message::Digest { at, digest } => self.on_digest(link, at, digest),
        }
    }

    fn on_request(&mut self, request: RequestId, what: Request) {
        match what {
            Request::Promote { force_term } => self.promote(request, force_term),
            Request::Switchover { to } => self.start_switchover(request, Some(to)),
            Request::StepDown => self.start_switchover(request, None),
            Request::AddReplica { node, voter } => self.add_replica(request, node, voter),
            Request::RemoveReplica { node } => self.remove_replica(request, node),
            Request::Resync { node } => self.resync(request, node),
        }
    }

    fn on_tick(&mut self) {
        self.heartbeat();
        self.dial();
        self.expire_awaits();
        self.retain();
        self.decide();
        self.go_on_switching();
        self.miss_successor();
    }

    /// What may have become possible, whatever happened.
    fn go_on(&mut self) {
        self.resume();
        self.bootstrap();
        self.go_on_rewinding();
        self.seek();
        self.take_snapshot();
        self.give_up_appending();
        self.pay_answer();
    }

    /// Says what has changed of role and reads: the role before all that follows from it, and
    /// reads that end before anything else leaves.
    fn show_changes(&mut self, begin: usize) {
        let gate = match &self.part {
            Part::Leading(leading) => self.master_gate(leading),
            Part::Following(following) if self.is_whole() && !following.fenced => ReadGate::Open,
            Part::Following(_) | Part::Resuming { .. } | Part::Beginning { .. } => ReadGate::Closed,
        };
        let role = self.present_role();
        if role != self.role {
            self.role = role.clone();
            self.out.insert(begin, Action::Become(role));
        }
        if gate != self.gate {
            self.gate = gate;
            let at = if gate == ReadGate::Closed { begin } else { self.out.len() };
            self.out.insert(at, Action::Reads(gate));
        }
    }

    fn present_role(&self) -> Role {
        match &self.part {
            Part::Leading(leading) => Role::Master { epoch: leading.epoch },
            Part::Following(following) if following.fenced => Role::Fenced,
            Part::Following(following) if self.log.is_none() || following.needs_snapshot => {
                Role::Joining
            }
            Part::Following(Following { upstream: Upstream::Streaming { link, .. }, .. }) => {
                let master = self.links.get(link).map(|conn| conn.peer.clone());
                Role::Slave { master }
            }
            Part::Following(_) | Part::Resuming { .. } | Part::Beginning { .. } => {
                Role::Slave { master: None }
            }
        }
    }

    fn answer(&mut self, request: RequestId, outcome: Result<Outcome, Refusal>) {
        self.out.push(Action::Answer { request, outcome });
    }

    /// Only a master can do it.
    fn refuse(&mut self, request: RequestId) {
        let master = self.master().cloned();
        self.answer(request, Err(Refusal::NotMaster { master }));
    }

    /// This node's part.
    pub fn role(&self) -> &Role {
        &self.role
    }

    /// The master, as far as this node knows: itself, or whom it follows.
    pub fn master(&self) -> Option<&NodeId> {
        match &self.role {
            Role::Master { .. } => Some(&self.config.node),
            Role::Slave { master } => master.as_ref(),
            Role::Joining | Role::Fenced => None,
        }
    }

    /// What this node knows to be committed; never beyond its own durable tail.
    pub fn committed(&self) -> Option<Position> {
        self.committed
    }

    /// When reads may be answered.
    pub fn reads(&self) -> ReadGate {
        self.gate
    }

    /// At a slave: its readers see everything that the master showed at this time of the slave's
    /// clock. `None` before the first probe, and at a master, which is never late.
    pub fn fresh_as_of(&self) -> Option<Time> {
        match &self.part {
            Part::Following(following) => following.freshness.as_of(),
            _ => None,
        }
    }
}
