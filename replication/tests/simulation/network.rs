//! The links between nodes and the connections over them.
//!
//! A connection is what QUIC gives: on each of its streams messages arrive once and in order, or
//! the connection breaks. Lost packets only delay; a cut holds everything back until it heals or
//! an end gives up. Streams overtake one another. What is under way when a connection breaks may
//! still arrive, more than once, long after the next one began: a driver that hands over what it
//! had already read does that.

use std::collections::BTreeMap;

use crate::{
    queue::{MS, Time},
    random::Random,
};

/// A node's place in the lists of a run.
pub(crate) type NodeIndex = usize;

/// A connection's number.
pub(crate) type ConnectionId = u64;

/// The streams of a connection; each is ordered in itself.
pub(crate) const STREAMS: usize = 3;

/// How one direction between two nodes behaves.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Link {
    pub(crate) delay: Time,
    pub(crate) jitter: Time,
    /// Messages of 1,000 that have to be sent again.
    pub(crate) loss: u64,
    pub(crate) cut: bool,
}

/// One connection, seen from both ends; an end is 0 for who dialled, 1 for who accepted.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    pub(crate) nodes: [NodeIndex; 2],
    /// Which life of each node it belongs to.
    pub(crate) lives: [u64; 2],
    /// Whether that end still uses it.
    pub(crate) open: [bool; 2],
    /// When the last message sent by that end on that stream arrives.
    last: [[Time; STREAMS]; 2],
    /// The number of the last message of that end that was heard on that stream.
    heard: [[u64; STREAMS]; 2],
}

/// A message under way.
#[derive(Clone, Debug)]
pub(crate) struct Parcel<M> {
    pub(crate) connection: ConnectionId,
    /// The end that sent it.
    pub(crate) from: usize,
    pub(crate) message: M,
    /// Counts the messages of a run.
    pub(crate) number: u64,
    /// Whether it is a copy, which only a connection that is gone lets through.
    pub(crate) again: bool,
}

/// All links and connections.
pub(crate) struct Network<M> {
    links: Vec<Vec<Link>>,
    connections: BTreeMap<ConnectionId, Connection>,
    next: ConnectionId,
    /// Messages that were sent.
    pub(crate) sent: u64,
    held: Vec<(NodeIndex, NodeIndex, usize, Parcel<M>)>,
    /// Packets that were lost, and messages that overtook one of another stream.
    pub(crate) lost: u64,
    pub(crate) overtaken: u64,
    random: Random,
}

impl<M> Network<M> {
    pub(crate) fn new(links: Vec<Vec<Link>>, random: Random) -> Self {
        let (connections, held) = (BTreeMap::new(), Vec::new());
        Self { links, connections, next: 1, sent: 0, held, lost: 0, overtaken: 0, random }
    }

    pub(crate) fn link(&mut self, from: NodeIndex, to: NodeIndex) -> &mut Link {
        &mut self.links[from][to]
    }

    pub(crate) fn is_cut(&self, from: NodeIndex, to: NodeIndex) -> bool {
        self.links[from][to].cut
    }

    /// How long a packet takes now.
    pub(crate) fn travel(&mut self, from: NodeIndex, to: NodeIndex) -> Time {
        let link = self.links[from][to];
        let mut time = link.delay + self.random.between(0, link.jitter);
        while link.loss > 0 && self.random.chance(link.loss) {
            self.lost += 1;
            time += 2 * link.delay + self.random.between(10 * MS, 60 * MS);
        }
        time
    }

    /// A connection between two nodes in these lives, dialled by the first.
    pub(crate) fn connect(&mut self, nodes: [NodeIndex; 2], lives: [u64; 2]) -> ConnectionId {
        let id = self.next;
        self.next += 1;
        let (last, heard) = Default::default();
        let connection = Connection { nodes, lives, open: [true, true], last, heard };
        self.connections.insert(id, connection);
        id
    }

    pub(crate) fn connection(&self, id: ConnectionId) -> &Connection {
        &self.connections[&id]
    }

    /// The end stops using the connection; whether it did use it.
    pub(crate) fn close(&mut self, id: ConnectionId, end: usize) -> bool {
        let connection = self.connections.get_mut(&id).expect("connections are never forgotten");
        std::mem::replace(&mut connection.open[end], false)
    }

    /// Notes that a message is heard; whether it was heard before.
    pub(crate) fn hear(&mut self, stream: usize, parcel: &Parcel<M>) -> bool {
        let connection = self.connections.get_mut(&parcel.connection);
        let connection = connection.expect("connections are never forgotten");
        let heard = &mut connection.heard[parcel.from][stream];
        let again = parcel.number <= *heard;
        *heard = parcel.number.max(*heard);
        again
    }

    /// The connections that `node` uses, and its end of each.
    pub(crate) fn open_at(&self, node: NodeIndex) -> Vec<(ConnectionId, usize)> {
        let ends = self.connections.iter().flat_map(|(&id, connection)| {
            (0..2).map(move |end| (id, end, connection.nodes[end], connection.open[end]))
        });
        ends.filter(|&(_, _, at, open)| open && at == node)
            .map(|(id, end, _, _)| (id, end))
            .collect()
    }

    /// When a message sent now arrives, or `None` where a cut holds it back.
    pub(crate) fn send(&mut self, now: Time, stream: usize, parcel: Parcel<M>) -> Sent<M> {
        let Parcel { connection, from, .. } = parcel;
        let [source, target] = {
            let nodes = self.connections[&connection].nodes;
            [nodes[from], nodes[1 - from]]
        };
        if self.links[source][target].cut {
            self.held.push((source, target, stream, parcel));
            return Sent::Held;
        }
        let travel = self.travel(source, target);
        let connection = self.connections.get_mut(&connection).expect("it was looked up above");
        let arrives = (now + travel).max(connection.last[from][stream]);
        connection.last[from][stream] = arrives;
        let others = connection.last[from].iter();
        self.overtaken += u64::from(others.into_iter().any(|&last| last > arrives));
        Sent::Arrives(arrives, parcel)
    }

    /// Takes what a cut in this direction has held back, in the order in which it was sent.
    pub(crate) fn release(&mut self, from: NodeIndex, to: NodeIndex) -> Vec<(usize, Parcel<M>)> {
        let (released, held): (Vec<_>, Vec<_>) = std::mem::take(&mut self.held)
            .into_iter()
            .partition(|&(source, target, ..)| (source, target) == (from, to));
        self.held = held;
        released.into_iter().map(|(_, _, stream, parcel)| (stream, parcel)).collect()
    }
}

/// What becomes of a message.
pub(crate) enum Sent<M> {
    /// It arrives at that time.
    Arrives(Time, Parcel<M>),
    /// A cut holds it back.
    Held,
}
