//! How a slave's log joins its master's: the rules of Kafka's KIP-101 and KIP-279, on whole tables
//! of epochs.
//!
//! Epochs carry random ids, so an epoch that begins at the same record in both tables means the
//! same history up to there. Behind the last such epoch the logs agree to where either leaves it.
//! A log is cut only where the master's history goes on with another epoch than the slave's: a
//! master that merely ends there proves nothing.

use std::cmp::Ordering;

use larder_types::{Epoch, SequenceNumber};

use super::{Config, log_view::LogView, planted::planted};
use crate::message::{Follow, RefusedWhy};

/// How two logs join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Joint {
    /// The slave's log is the beginning of the master's.
    Continue,
    /// They differ from this record on. From their first one, which no two logs of one identity do:
    /// nothing in the tables shows that they have anything in common, and trimmed epochs may be why.
    Parted(SequenceNumber),
    /// The slave has more of the same epoch.
    Wait,
    /// The slave has no log, or lacks what the master no longer keeps.
    Snapshot,
    /// They do not join.
    Refused(RefusedWhy),
}

/// Compares a slave's log with that of the master, which writes `epoch`.
pub(super) fn judge(config: &Config, master: &LogView, epoch: Epoch, slave: &Follow) -> Joint {
    let Some(log) = slave.log else { return Joint::Snapshot };
    if log != master.id {
        return Joint::Refused(RefusedWhy::OtherLog);
    }
    let Some(last) = slave.tail.last else {
        return kept(master, SequenceNumber::FIRST);
    };
    if planted!(config, PositionWithoutEpoch) && last.seq.as_u64() <= master.tail.number() {
        return kept(master, last.seq.next());
    }
    match last.epoch.order(epoch) {
        None => return Joint::Refused(RefusedWhy::SameNumber),
        Some(Ordering::Greater) => return Joint::Refused(RefusedWhy::Stale),
        Some(Ordering::Less | Ordering::Equal) => {}
    }
    let same_place = |first| master.epochs.binary_search_by_key(&first, |start| start.first).ok();
    let common = slave.epochs.iter().enumerate().rev().find_map(|(mine, start)| {
        let theirs = same_place(start.first)?;
        (master.epochs[theirs].epoch == start.epoch).then_some((mine, theirs))
    });
    let Some((mine, theirs)) = common else { return nothing_in_common(master, slave) };
    let slave_ends = slave.epochs.get(mine + 1).map(|start| start.first);
    let master_ends = master.epochs.get(theirs + 1).map(|start| start.first);
    match (slave_ends, master_ends) {
        (None, None) if slave.tail.next() <= master.tail.next() => joined(master, slave),
        (None, None) => Joint::Wait,
        (None, Some(end)) if slave.tail.next() <= end => joined(master, slave),
        (None, Some(end)) => Joint::Parted(end),
        (Some(end), Some(other)) => Joint::Parted(end.min(other)),
        // The slave left the master's own epoch for one that is not newer: its table has no order.
        (Some(_), None) => Joint::Refused(RefusedWhy::SameNumber),
    }
}

/// Where the oldest epoch begins that the master knows, the slave's log has another one, if it
/// reaches so far: it is another log from there on. Of what comes before, nothing can be told.
fn nothing_in_common(master: &LogView, slave: &Follow) -> Joint {
    let known = master.epochs.first().map(|start| start.first);
    let certain = known.filter(|known| {
        let begins = slave.epochs.first().is_some_and(|start| start.first <= *known);
        begins && *known < slave.tail.next()
    });
    Joint::Parted(certain.unwrap_or(SequenceNumber::FIRST))
}

/// The slave's log is a beginning of the master's, by the tables; at equal tails also by checksum.
fn joined(master: &LogView, slave: &Follow) -> Joint {
    if slave.tail.last == master.tail.last && slave.tail.crc != master.tail.crc {
        return Joint::Refused(RefusedWhy::Differs);
    }
    kept(master, slave.tail.next())
}

/// The slave goes on with `from`, if the master still keeps it.
fn kept(master: &LogView, from: SequenceNumber) -> Joint {
    if from < master.first { Joint::Snapshot } else { Joint::Continue }
}
