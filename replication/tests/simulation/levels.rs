//! What really is where: what a level promises, asked of the disks themselves and not of any core.

use std::collections::BTreeSet;

use larder_replication::core::{Member, ReplicaSet};
use larder_types::AckLevel;

use crate::{
    book::{Body, RecordId},
    cluster::Cluster,
    history::{Reply, Write},
    network::NodeIndex,
};

impl Cluster {
    /// Whether a replica has the record on its disk, or had it there and lost it since. A replica
    /// is a node's disk by its name: another disk of the same node is another replica.
    fn has_held(&self, member: &Member, record: RecordId) -> bool {
        let present = self.nodes.iter().map(|node| &node.disk);
        let disks = present.chain(self.lost_disks.iter().map(|(_, disk)| disk));
        let of_member = disks.filter(|disk| disk.ids.contains(&member.id.disk));
        of_member.into_iter().any(|disk| disk.ever_held(&self.book, record))
    }

    /// Whether a record is where a level wants it, by the replica set in effect at its master, or
    /// by the one before, which a change under way may still count by.
    pub(crate) fn is_held(&self, level: AckLevel, record: RecordId, master: NodeIndex) -> bool {
        self.nodes[master].disk.ever_held(&self.book, record)
            && self.sets(record, master).any(|set| self.is_held_by(level, record, master, set))
    }

    /// How many replicas beside the master have a record, by one of the same two sets.
    pub(crate) fn holders(&self, record: RecordId, master: NodeIndex) -> usize {
        let has = |member: &&Member| {
            member.id.node != self.nodes[master].name && self.has_held(member, record)
        };
        let counts = self.sets(record, master).map(|set| set.members.iter().filter(has).count());
        counts.max().unwrap_or(0)
    }

    /// The replica set in effect at a master, and the one before.
    fn sets(&self, record: RecordId, master: NodeIndex) -> impl Iterator<Item = &ReplicaSet> {
        let tip = self.nodes[master].disk.log.last().max(Some(record));
        let sets = self.book.path(tip).filter_map(|id| match &self.book.get(id).body {
            Body::Replicas(set) => Some(set),
            _ => None,
        });
        sets.take(2)
    }

    fn is_held_by(
        &self,
        level: AckLevel,
        record: RecordId,
        master: NodeIndex,
        set: &ReplicaSet,
    ) -> bool {
        let has = |member: &&Member| {
            member.id.node == self.nodes[master].name || self.has_held(member, record)
        };
        let with: Vec<_> = set.voters().filter(has).collect();
        let near = |member: &&&Member| {
            member.region == self.nodes[master].region && member.id.node != self.nodes[master].name
        };
        let regions: BTreeSet<_> = with.iter().map(|member| &member.region).collect();
        match level {
            AckLevel::Local => true,
            AckLevel::Near => with.iter().any(|member| near(&member)),
            AckLevel::Majority => with.len() > set.voters().count() / 2 && regions.len() > 1,
            AckLevel::All => with.len() == set.voters().count(),
        }
    }

    /// Whether a promotion that an operator forced made a record and a log part: an epoch with a
    /// term that was typed in lies on one of their ways from where they are still one.
    pub(crate) fn forced_between(&self, record: RecordId, tip: Option<RecordId>) -> bool {
        let joint = self.book.joint(Some(record), tip);
        [Some(record), tip].into_iter().any(|end| {
            self.book
                .path(end)
                .take_while(|&id| Some(id) != joint)
                .any(|id| self.forced_terms.contains(&self.book.position(id).epoch.term))
        })
    }

    /// Whether one log holds both records, or an operator forced a promotion between them.
    pub(crate) fn on_one_line(&self, one: RecordId, other: RecordId) -> bool {
        self.book.holds(Some(one), other)
            || self.book.holds(Some(other), one)
            || self.forced_between(one, Some(other))
    }

    /// Whether a log of another node holds the record.
    pub(crate) fn is_on_another_log(&self, node: NodeIndex, record: RecordId) -> bool {
        let others = self.nodes.iter().enumerate().filter(|&(index, _)| index != node);
        others.into_iter().any(|(_, it)| self.book.holds(it.disk.log.last_durable(), record))
    }

    /// The writes that clients were told are there.
    pub(crate) fn acknowledged(&self) -> impl Iterator<Item = &Write> {
        self.clients.writes.iter().filter(|write| write.reply == Reply::Acknowledged)
    }
}
