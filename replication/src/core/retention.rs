//! Which records a log keeps for others: the members of the replica set, and the snapshots under
//! way. Detaching a replica lets the log go on without it, and changes nothing else.

use std::time::Duration;

use larder_types::{NodeId, SequenceNumber};

use super::{
    Action, Alert, Config, Core, Part,
    log_view::LogView,
    master::Leading,
    planted::planted,
    sender::{Slave, Stage},
};

/// What is kept for a node that is no member ends so long after it was last connected.
const FORGET_AFTER: Duration = Duration::from_secs(600);

/// From which record on the log is kept for others.
#[derive(Debug, Default)]
pub(super) struct Retained {
    /// As last asked for; `None` before.
    asked: Option<Option<SequenceNumber>>,
}

impl Retained {
    /// The first record that is kept, if any is for others' sake.
    pub(super) fn floor(&self) -> Option<SequenceNumber> {
        self.asked.flatten()
    }

    fn ask(&mut self, seq: Option<SequenceNumber>, out: &mut Vec<Action>) {
        if self.asked != Some(seq) {
            self.asked = Some(seq);
            out.push(Action::RetainFrom { seq });
        }
    }
}

impl Leading {
    /// The first record that a slave needs, which is not a member or is.
    fn needs(slave: &Slave, log: &LogView) -> SequenceNumber {
        let streaming = slave.stage == Stage::Streaming;
        let next = match slave.acked {
            Some(acked) => acked.seq.next(),
            None if streaming => SequenceNumber::FIRST.max(next(slave.reached())),
            None => log.first,
        };
        slave.pin.map_or(next, |pin| pin.min(next))
    }

    /// The least record that anybody needs.
    fn floor(&self, config: &Config, log: &LogView) -> Option<SequenceNumber> {
        if planted!(config, TrimPastSlave) {
            return None;
        }
        let members = log.set().map_or(&[][..], |placed| &placed.set.members);
        let others = members.iter().filter(|member| member.id.node != self.me.node);
        let registered = others.filter_map(|member| match self.slave_of(config, member) {
            Some(slave) if slave.detached => None,
            Some(slave) => Some(Self::needs(slave, log)),
            None if self.gone.contains(&member.id.node) => None,
            // Nothing is known yet of what it has.
            None => Some(log.first),
        });
        let connected =
            self.slaves.values().filter(|slave| slave.link.is_some() && !slave.detached);
        let guests = connected.map(|slave| Self::needs(slave, log));
        let pinned = self.slaves.values().filter_map(|slave| slave.pin);
        registered.chain(guests).chain(pinned).min()
    }
}

impl Core {
    /// At a master: asks for what is to be kept, and forgets guests that are long gone.
    pub(super) fn retain(&mut self) {
        let now = self.now;
        let (Some(log), Part::Leading(leading)) = (&self.log, &mut self.part) else { return };
        let set = log.set().map(|placed| &placed.set);
        leading.slaves.retain(|node, slave| {
            slave.link.is_some()
                || set.is_some_and(|set| set.on_node(node).is_some())
                || now.since(slave.since) < FORGET_AFTER
        });
        let floor = leading.floor(&self.config, log);
        self.retained.ask(floor, &mut self.out);
    }

    /// At a slave: keeps what the master keeps, for whoever follows this node next.
    pub(super) fn retain_for_others(&mut self, seq: Option<SequenceNumber>) {
        self.retained.ask(seq, &mut self.out);
    }

    /// The log begins at `first` now.
    pub(super) fn on_trimmed(&mut self, first: SequenceNumber) {
        let Some(log) = &mut self.log else { return };
        let Part::Leading(leading) = &mut self.part else {
            log.first = log.first.max(first);
            return;
        };
        let mut alert = |node: &NodeId| {
            self.out.push(Action::Alert(Alert::Detached { node: node.clone() }));
        };
        let members = log.set().map_or(&[][..], |placed| &placed.set.members);
        for member in members.iter().filter(|member| member.id.node != leading.me.node) {
            let node = &member.id.node;
            match leading.slaves.get_mut(node) {
                Some(slave) if !slave.detached && Leading::needs(slave, log) < first => {
                    slave.detached = true;
                    slave.pin = None;
                    alert(node);
                }
                None if self.retained.floor().is_some_and(|floor| floor < first)
                    && leading.gone.insert(node.clone()) =>
                {
                    alert(node);
                }
                _ => {}
            }
        }
        let guests = leading.slaves.values_mut();
        guests.for_each(|slave| slave.pin = slave.pin.filter(|pin| *pin >= first));
        log.first = log.first.max(first);
        self.close_stale_snapshots();
        self.retain();
    }
}

fn next(number: u64) -> SequenceNumber {
    SequenceNumber::new(number).map_or(SequenceNumber::FIRST, SequenceNumber::next)
}
