//! What comes from outside: clients, the operator, and everything that breaks.

use larder_replication::core::{Planted, Request};
use larder_types::DiskId;

use crate::{
    book::RecordId,
    cluster::{Cluster, Happening},
    disk::Disk,
    marks::Mark,
    network::NodeIndex,
    node::newest_set,
    queue::{MS, SECOND, Time},
};

/// One thing from outside. Those that come again and again plan their next turn themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    Write,
    Read,
    GiveUp(usize),
    Crash,
    Strike(NodeIndex),
    Restart(NodeIndex),
    Coup,
    PromoteAt(NodeIndex),
    Blackout,
    ReplaceDisk,
    Pause,
    Cut,
    Isolate,
    Mend { from: NodeIndex, to: NodeIndex },
    Disconnect,
    Promote,
    Switchover,
    Membership,
    Resync,
}

impl Cluster {
    /// Powers everything on, and lets clients, operator and faults loose.
    pub(crate) fn begin(&mut self) {
        for node in 0..self.nodes.len() {
            self.start(node);
        }
        self.queue.after(0, Happening::World(Turn::Write));
        self.queue.after(0, Happening::World(Turn::Read));
        for turn in [
            Turn::Crash,
            Turn::Blackout,
            Turn::ReplaceDisk,
            Turn::Pause,
            Turn::Cut,
            Turn::Isolate,
            Turn::Coup,
            Turn::Disconnect,
            Turn::Promote,
            Turn::Switchover,
            Turn::Membership,
            Turn::Resync,
        ] {
            self.again(turn);
        }
    }

    /// Plans a turn's next coming, if it comes in this run.
    fn again(&mut self, turn: Turn) {
        let faults = &self.options.faults;
        let every = match turn {
            Turn::Write => Some(self.options.write_every),
            Turn::Read => Some(self.options.read_every),
            Turn::Crash => faults.crash,
            Turn::Blackout => faults.blackout,
            Turn::ReplaceDisk => faults.disk_replaced,
            Turn::Pause => faults.pause,
            Turn::Cut => faults.cut,
            Turn::Isolate => faults.isolate,
            Turn::Coup => faults.coup,
            Turn::Disconnect => faults.disconnect,
            Turn::Promote => faults.promote,
            Turn::Switchover => faults.switchover,
            Turn::Membership => faults.membership,
            Turn::Resync => faults.resync,
            Turn::GiveUp(_)
            | Turn::Strike(_)
            | Turn::Restart(_)
            | Turn::PromoteAt(_)
            | Turn::Mend { .. } => None,
        };
        if let Some(every) = every {
            let next = self.random.around(every);
            self.queue.after(next, Happening::World(turn));
        }
    }

    pub(crate) fn turn(&mut self, turn: Turn) {
        let client = matches!(turn, Turn::Write | Turn::Read);
        if self.now() < self.options.faulty || client && !self.clients.resting {
            self.again(turn);
        }
        match turn {
            Turn::Write if !self.clients.resting => self.write(),
            Turn::Write => {}
            Turn::Read => {
                self.read();
                self.wait();
            }
            Turn::GiveUp(write) => self.give_up(write),
            Turn::Restart(node) if self.nodes[node].process.is_none() => {
                self.marks.reach(Mark::Restarted);
                self.start(node);
            }
            Turn::Restart(_) => {}
            Turn::Mend { from, to } => self.mend(from, to),
            _ if self.now() >= self.options.faulty => {}
            Turn::Crash => {
                let node = self.any_node();
                self.crash_for_a_while(node, SECOND);
            }
            Turn::Blackout => {
                self.marks.reach(Mark::Blackout);
                (0..self.nodes.len()).for_each(|node| self.crash_for_a_while(node, SECOND));
            }
            Turn::Strike(node) => self.crash_for_a_while(node, SECOND),
            Turn::Coup => self.coup(),
            Turn::PromoteAt(node) => self.request(node, Request::Promote { force_term: None }),
            Turn::ReplaceDisk => self.replace_disk(),
            Turn::Pause => {
                let node = self.any_node();
                let time = self.random.between(100 * MS, 2 * self.options.lease);
                let end = (self.now() + time).min(self.options.faulty);
                let (now, this) = (self.now(), &mut self.nodes[node]);
                if self.planted == Some(Planted::ClockStandsStill) {
                    this.clock.stood += end.saturating_sub(this.paused_until.max(now));
                }
                this.paused_until = end;
                if end > now + self.options.lease {
                    self.marks.reach(Mark::StoodBeyondLease);
                }
            }
            Turn::Cut => {
                let (from, to) = (self.any_node(), self.any_node());
                let time = self.random.around(2 * SECOND);
                self.cut(from, to, time);
                if from != to && !self.network.is_cut(to, from) {
                    self.marks.reach(Mark::CutOneWay);
                }
            }
            Turn::Isolate => {
                let node = self.any_node();
                let time = self.random.around(4 * SECOND);
                self.marks.reach(Mark::Isolated);
                for other in 0..self.nodes.len() {
                    self.cut(node, other, time);
                    self.cut(other, node, time);
                }
            }
            Turn::Disconnect => {
                let node = self.any_node();
                for (connection, _) in self.network.open_at(node) {
                    if self.random.chance(500) {
                        self.disconnect(connection);
                    }
                }
            }
            Turn::Promote => self.ask_promotion(),
            Turn::Switchover => self.ask_switchover(),
            Turn::Membership => self.ask_membership(),
            Turn::Resync => self.ask_resync(),
        }
    }

    fn any_node(&mut self) -> NodeIndex {
        self.random.below(self.nodes.len() as u64) as usize
    }

    fn crash_for_a_while(&mut self, node: NodeIndex, mean: Time) {
        if self.nodes[node].process.is_some() {
            self.crash(node);
            let down = self.random.around(mean);
            self.queue.after(down, Happening::World(Turn::Restart(node)));
        }
    }

    /// Cuts a master off while its slaves restart, and has one of them promoted at once: the lease
    /// that they granted still runs.
    fn coup(&mut self) {
        let masters = self.masters();
        if masters.is_empty() {
            return;
        }
        let master = self.random.pick(&masters);
        let cut = 2 * self.options.lease;
        for other in (0..self.nodes.len()).filter(|&other| other != master) {
            self.cut(master, other, cut);
            self.cut(other, master, cut);
            self.crash(other);
            let down = self.random.between(MS, 50 * MS);
            self.queue.after(down, Happening::World(Turn::Restart(other)));
            let soon = self.random.between(300 * MS, 600 * MS);
            self.queue.after(soon, Happening::World(Turn::PromoteAt(other)));
        }
    }

    fn cut(&mut self, from: NodeIndex, to: NodeIndex, time: Time) {
        if from != to && !self.network.is_cut(from, to) {
            self.trace.note(self.queue.now(), from, || format!("is not heard by {to}"));
            self.network.link(from, to).cut = true;
            self.queue.after(time, Happening::World(Turn::Mend { from, to }));
        }
    }

    /// Takes a node's disk away, or of a slave's the newest records with it, where that is no more
    /// than the levels promise to survive: what has been committed is on every other of three
    /// members or more, or the level is `local`.
    fn replace_disk(&mut self) {
        let node = self.any_node();
        let others = (0..self.nodes.len()).filter(|&other| other != node);
        let newest = self.newest_commit();
        // Its own log counts as well: what it wrote last may be on its way to others.
        let few = self.nodes.iter().any(|node| {
            let set = newest_set(&self.book, node.disk.log.last());
            set.is_some_and(|placed| placed.set.voters().count() < 3)
        });
        let local = self.options.level == larder_types::AckLevel::Local;
        let whole = others.clone().all(|other| {
            let this = &self.nodes[other];
            let tip = this.disk.log.last_durable();
            let holds = newest.is_some_and(|newest| self.book.holds(tip, newest));
            let set = newest_set(&self.book, tip);
            let all = set.is_some_and(|placed| {
                others.clone().all(|each| placed.set.member(&self.nodes[each].replica()).is_some())
            });
            this.disk.rewind.is_none() && all && (local || holds && !few)
        });
        if !whole {
            return;
        }
        self.crash(node);
        let down = self.random.around(SECOND);
        self.queue.after(down, Happening::World(Turn::Restart(node)));
        let led = self.nodes[node].disk.standing.read().is_some_and(|it| it.led > 0);
        if !led && self.random.chance(300) {
            self.nodes[node].disk.roll_back(&self.book, &mut self.random);
            if self.nodes[node].disk.rolled_back.is_some() {
                self.marks.reach(Mark::DiskRolledBack);
            }
            self.trace.note(self.queue.now(), node, || "loses what it had synced".to_owned());
            return;
        }
        self.marks.reach(Mark::DiskReplaced);
        self.trace.note(self.queue.now(), node, || "loses its disk".to_owned());
        let blank = Disk::new(DiskId(self.random.bits()));
        let lost = std::mem::replace(&mut self.nodes[node].disk, blank);
        self.lost_disks.push((node, lost));
    }

    /// The newest record that a client may have been told of.
    fn newest_commit(&self) -> Option<RecordId> {
        let committed = self.nodes.iter().filter_map(|node| node.running()?.committed);
        let mut newest = self.clients.writes.iter().rev();
        let acknowledged = newest.find(|write| write.committed).map(|write| write.record);
        committed.chain(acknowledged).max_by_key(|&id| self.book.number(Some(id)))
    }

    /// Ends every fault: all nodes run, all links carry.
    pub(crate) fn heal(&mut self) {
        self.options.faults.late = 0;
        self.options.raised = 0;
        for from in 0..self.nodes.len() {
            for to in 0..self.nodes.len() {
                self.network.link(from, to).loss = 0;
                if self.network.is_cut(from, to) {
                    self.mend(from, to);
                }
            }
            self.nodes[from].paused_until = 0;
            if self.nodes[from].process.is_none() {
                self.start(from);
            }
        }
    }
}
