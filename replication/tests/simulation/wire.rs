//! How what a core says reaches another.

use larder_replication::core::{Event, Link};
use larder_replication::message::{Message, Stream};

use crate::{
    cluster::{Cluster, Happening, Local, link},
    marks::Mark,
    network::{ConnectionId, NodeIndex, Parcel, Sent},
    queue::{MS, SECOND},
};

impl Cluster {
    /// Dials. It takes a round trip, and half of one until the other end knows.
    pub(crate) fn dial(&mut self, from: NodeIndex, to: NodeIndex) {
        let there = self.network.travel(from, to) + self.network.travel(from, to);
        let travel = there + self.network.travel(to, from);
        let life = self.nodes[from].life;
        self.queue.after(travel, Happening::Dialled { from, life, to });
    }

    pub(crate) fn dialled(&mut self, from: NodeIndex, life: u64, to: NodeIndex) {
        if self.nodes[from].life != life {
            return;
        }
        let stands = self.nodes[to].process.is_some()
            && self.nodes[to].paused_until <= self.now()
            && !self.network.is_cut(from, to)
            && !self.network.is_cut(to, from);
        if !stands {
            let peer = self.nodes[to].name.clone();
            let wait = self.random.between(100 * MS, SECOND);
            self.later(from, wait, Local::Event(Event::ConnectFailed { peer }));
            return;
        }
        let connection = self.network.connect([from, to], [life, self.nodes[to].life]);
        for (node, peer) in [(from, to), (to, from)] {
            let peer = self.nodes[peer].name.clone();
            let process = self.nodes[node].process.as_mut();
            process.map(|process| process.links.insert(link(connection), peer.clone()));
            self.later(node, 0, Local::Event(Event::Connected { link: link(connection), peer }));
        }
    }

    /// Sends a message to the other end of a connection, unless this end has left it.
    pub(crate) fn send(&mut self, node: NodeIndex, to: Link, message: Message) {
        let connection = to.0;
        let from = self.end_of(connection, node);
        if !self.network.connection(connection).open[from] {
            return;
        }
        self.network.sent += 1;
        let number = self.network.sent;
        self.put(stream_of(&message), Parcel { connection, from, message, number, again: false });
    }

    fn put(&mut self, stream: usize, parcel: Parcel<Message>) {
        if let Sent::Arrives(at, parcel) = self.network.send(self.now(), stream, parcel) {
            if self.random.chance(self.options.faults.late) {
                let late = at + self.random.between(0, 4 * SECOND);
                self.queue.at(late, Happening::Arrive(Parcel { again: true, ..parcel.clone() }));
            }
            self.queue.at(at, Happening::Arrive(parcel));
        }
    }

    /// Lets a cut direction carry again what it held back.
    pub(crate) fn mend(&mut self, from: NodeIndex, to: NodeIndex) {
        self.network.link(from, to).cut = false;
        for (stream, parcel) in self.network.release(from, to) {
            self.put(stream, parcel);
        }
    }

    /// A message reaches an end. One whose connection that end has left is late: its node hears
    /// it all the same if it hears late messages at all, and what belongs to a session even as if it
    /// had come over the connection that took its place. One that comes again on a connection
    /// that stands is dropped, as QUIC does.
    pub(crate) fn arrive(&mut self, parcel: Parcel<Message>) {
        let Parcel { connection, from, ref message, again, .. } = parcel;
        let (end, about) = (1 - from, self.network.connection(connection));
        let node = about.nodes[end];
        if self.nodes[node].process.is_none() || self.nodes[node].life != about.lives[end] {
            return;
        }
        if self.nodes[node].paused_until > self.now() {
            let at = self.nodes[node].paused_until;
            self.queue.at(at, Happening::Arrive(parcel));
            return;
        }
        let open = about.open[end];
        if open == again || (!open && !self.random.chance(self.options.faults.late.max(1))) {
            return;
        }
        let (mut on, peer) = (connection, about.nodes[from]);
        if self.network.hear(stream_of(message), &parcel) {
            self.marks.reach(Mark::Repeated);
        }
        if !open {
            self.marks.reach(Mark::LateMessage);
            let of_session = matches!(message, Message::Ack { .. } | Message::Records(_));
            on = self.newer_connection(node, peer).filter(|_| of_session).unwrap_or(connection);
        }
        let event = Event::Message { link: link(on), message: message.clone() };
        self.tell(node, event);
    }

    /// The connection that two nodes use now.
    fn newer_connection(&self, node: NodeIndex, peer: NodeIndex) -> Option<ConnectionId> {
        let open = self.network.open_at(node).into_iter().rev();
        let mut to_peer =
            open.filter(|&(id, end)| self.network.connection(id).nodes[1 - end] == peer);
        to_peer.next().map(|(id, _)| id)
    }

    /// Leaves a connection; the other end notices when it is told, or by the silence.
    pub(crate) fn leave(&mut self, node: NodeIndex, connection: ConnectionId) {
        let end = self.end_of(connection, node);
        if !self.network.close(connection, end) {
            return;
        }
        self.forget(node, connection);
        let other = self.network.connection(connection).nodes[1 - end];
        let notice = if self.network.is_cut(node, other) {
            self.random.between(3 * SECOND, 10 * SECOND)
        } else {
            self.network.travel(node, other)
        };
        self.queue.after(notice, Happening::Broken { connection, end: 1 - end });
    }

    /// An end notices that its connection is gone.
    pub(crate) fn broken(&mut self, connection: ConnectionId, end: usize) {
        let about = self.network.connection(connection);
        let (node, life) = (about.nodes[end], about.lives[end]);
        if self.network.close(connection, end) && self.nodes[node].life == life {
            self.forget(node, connection);
        }
    }

    fn forget(&mut self, node: NodeIndex, connection: ConnectionId) {
        let link = link(connection);
        if let Some(process) = self.nodes[node].process.as_mut() {
            process.links.remove(&link);
        }
        self.later(node, 0, Local::Event(Event::Disconnected { link }));
        self.break_snapshot(node, connection);
    }

    /// Breaks a connection for both ends, each of which notices in its time.
    pub(crate) fn disconnect(&mut self, connection: ConnectionId) {
        for end in 0..2 {
            let notice = self.random.between(0, SECOND);
            self.queue.after(notice, Happening::Broken { connection, end });
        }
    }

    fn end_of(&self, connection: ConnectionId, node: NodeIndex) -> usize {
        usize::from(self.network.connection(connection).nodes[1] == node)
    }
}

fn stream_of(message: &Message) -> usize {
    usize::from(message.stream() == Stream::Log)
}
