//! How two logs join, by their tables of epochs.

use std::time::Duration;

use larder_types::{AckLevel, DiskId, Epoch, EpochStart, LogId, NodeId, Position, SequenceNumber};

use super::world::sequence;
use crate::{
    core::{
        Config, LogState, Tail,
        handshake::{Joint, judge},
        log_view::LogView,
    },
    message::{Follow, RefusedWhy},
};

const LOG: LogId = LogId::from_bytes([1; 16]);

/// Epochs as (term, id, first record), and the number of the last record.
type History<'a> = (&'a [(u32, u64, u64)], u64);

fn epochs(history: History<'_>) -> Vec<EpochStart> {
    let start = |&(term, id, first): &(u32, u64, u64)| EpochStart {
        epoch: Epoch { term, run: 0, id },
        first: sequence(first),
    };
    history.0.iter().map(start).collect()
}

fn tail(history: History<'_>, crc: u32) -> Tail {
    let epoch = epochs(history).last().unwrap().epoch;
    Tail { last: Some(Position { epoch, seq: sequence(history.1) }), crc }
}

fn follow(history: History<'_>, crc: u32) -> Follow {
    Follow {
        attempt: 1,
        disk: DiskId(1),
        log: Some(LOG),
        tail: tail(history, crc),
        epochs: epochs(history),
        snapshot: false,
        aside: false,
    }
}

fn join(master: History<'_>, first: u64, slave: &Follow) -> Joint {
    let config = Config {
        node: NodeId::new("n0").unwrap(),
        region: "one".into(),
        peers: Vec::new(),
        first_master: NodeId::new("n0").unwrap(),
        level: AckLevel::Local,
        lease: Duration::from_secs(3),
        window_bytes: 1,
        #[cfg(feature = "planted-bugs")]
        planted: None,
    };
    let log = LogView::new(LogState {
        id: LOG,
        first: sequence(first),
        tail: tail(master, 7),
        epochs: epochs(master),
        sets: Vec::new(),
        applied: None,
    });
    judge(&config, &log, epochs(master).last().unwrap().epoch, slave)
}

#[test]
fn a_beginning_of_the_masters_log_goes_on_while_it_is_kept() {
    let master: History<'_> = (&[(1, 1, 1), (2, 2, 11)], 20);
    for slave in [(&[(1, 1, 1)][..], 5), (&[(1, 1, 1)], 10), (&[(1, 1, 1), (2, 2, 11)], 15)] {
        assert_eq!(join(master, 1, &follow(slave, 0)), Joint::Continue);
    }
    assert_eq!(join(master, 7, &follow((&[(1, 1, 1)], 6), 0)), Joint::Continue);
    assert_eq!(join(master, 7, &follow((&[(1, 1, 1)], 5), 0)), Joint::Snapshot);
}

#[test]
fn a_log_is_cut_where_the_masters_goes_on_with_another_epoch() {
    let master: History<'_> = (&[(1, 1, 1), (3, 3, 11)], 20);
    let parted = |slave, at| {
        assert_eq!(join(master, 1, &follow(slave, 0)), Joint::Parted(sequence(at)));
    };
    parted((&[(1, 1, 1)], 15), 11);
    parted((&[(1, 1, 1), (2, 2, 6)], 8), 6);
    parted((&[(1, 1, 1), (2, 2, 14)], 18), 11);
    // After two quick failovers: an epoch that the master never saw, which begins where its own does.
    parted((&[(1, 1, 1), (2, 2, 11)], 12), 11);
}

#[test]
fn a_master_that_merely_ends_proves_nothing() {
    let master: History<'_> = (&[(1, 1, 1)], 10);
    assert_eq!(join(master, 1, &follow((&[(1, 1, 1)], 15), 0)), Joint::Wait);
    let newer = follow((&[(1, 1, 1), (2, 2, 11)], 15), 0);
    assert_eq!(join(master, 1, &newer), Joint::Refused(RefusedWhy::Stale));
}

#[test]
fn equal_numbers_with_other_ids_are_not_the_same() {
    let master: History<'_> = (&[(1, 1, 1), (2, 2, 11)], 20);
    let other = follow((&[(1, 1, 1), (2, 9, 11)], 15), 0);
    assert_eq!(join(master, 1, &other), Joint::Refused(RefusedWhy::SameNumber));
    let older = follow((&[(1, 9, 1)], 15), 0);
    assert_eq!(join(master, 1, &older), Joint::Parted(SequenceNumber::FIRST));
}

#[test]
fn epochs_that_the_master_no_longer_knows_prove_nothing_before_the_oldest_it_knows() {
    let master: History<'_> = (&[(2, 2, 100), (3, 3, 150)], 200);
    let first = Joint::Parted(SequenceNumber::FIRST);
    assert_eq!(join(master, 150, &follow((&[(1, 1, 1)], 80), 0)), first);
    assert_eq!(join(master, 150, &follow((&[(1, 1, 1)], 99), 0)), first);
    let beyond = follow((&[(1, 1, 1)], 120), 0);
    assert_eq!(join(master, 150, &beyond), Joint::Parted(sequence(100)), "another epoch is there");
    let late = follow((&[(1, 1, 110)], 120), 0);
    assert_eq!(join(master, 150, &late), first, "its own table does not reach back so far");
}

#[test]
fn the_same_end_with_another_checksum_and_another_log_are_refused() {
    let master: History<'_> = (&[(1, 1, 1)], 10);
    assert_eq!(join(master, 1, &follow(master, 7)), Joint::Continue);
    assert_eq!(join(master, 1, &follow(master, 8)), Joint::Refused(RefusedWhy::Differs));
    let other = Follow { log: Some(LogId::from_bytes([2; 16])), ..follow(master, 7) };
    assert_eq!(join(master, 1, &other), Joint::Refused(RefusedWhy::OtherLog));
}
