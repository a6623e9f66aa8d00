//! A disk that fails: EIO, ENOSPC, short writes and failed syncs at each operation in turn.
//!
//! After a failure nothing is acknowledged until a restart, nothing that was acknowledged before
//! is lost, and what a restart reports is on the disk and not only in the kernel's memory.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod log_support;

use std::path::Path;

use larder_storage::{
    fs::{
        create_dir_durably,
        testing::{Fault, FaultKind, Image, SimFs},
    },
    log::{LogError, OpenedLog, OwnedRecord},
};
use larder_types::{HybridTime, SequenceNumber};
use log_support::{DATA, append, commit, epoch, open, read_all, seq, small_segments};

const BATCHES: u32 = 12;

fn fresh() -> SimFs {
    let fs = SimFs::default();
    create_dir_durably(&fs, Path::new(DATA)).unwrap();
    fs
}

/// Commits batches until one fails; returns the last acknowledged record and the failure.
fn write_until_failure(opened: &mut OpenedLog, run: u32) -> (u64, Option<LogError>) {
    opened.appender.begin_epoch(epoch(run), HybridTime::ZERO);
    let mut acked = 0;
    for batch in 0..BATCHES {
        append(opened, format!("run {run} batch {batch} ").repeat(6).as_bytes());
        match commit(opened) {
            Ok(last) => acked = last.as_u64(),
            Err(error) => return (acked, Some(error)),
        }
        if let Err(error) = opened.preparer.prepare() {
            assert!(matches!(error, LogError::Io { .. }), "{error:?}");
            assert!(!opened.log.poisoned(), "nothing of the log was touched");
        }
        if batch % 4 == 3
            && let Err(error) = opened.syncer.mark_idle()
        {
            return (acked, Some(error));
        }
    }
    (acked, None)
}

fn reopen(fs: &SimFs) -> (OpenedLog, Vec<OwnedRecord>) {
    open(fs, &small_segments(), SequenceNumber::FIRST).unwrap()
}

/// The disk if the power fails now and every operation that was not synced is lost.
fn after_power_cut(fs: &SimFs) -> Image {
    let crashes = fs.crashes();
    let mut durable = None;
    crashes.each(crashes.points(), &mut |_, image| {
        durable.get_or_insert(image);
    });
    durable.unwrap()
}

/// How many operations the workload takes when nothing fails.
fn operations() -> u64 {
    let fs = fresh();
    let (mut opened, _) = reopen(&fs);
    let before = fs.operations();
    let (_, failure) = write_until_failure(&mut opened, 1);
    assert!(failure.is_none());
    (fs.operations() - before) as u64
}

#[test]
fn after_any_failed_operation_nothing_is_acknowledged_and_nothing_acknowledged_is_lost() {
    let (mut cases, mut without_room) = (0, 0);
    let mut kinds_seen = 0;
    for kind in [FaultKind::Io, FaultKind::Full] {
        for lasting in [false, true] {
            for after in 0..operations() {
                let fs = fresh();
                let (mut opened, _) = reopen(&fs);
                fs.set_fault(Some(Fault { after, kind, lasting }));
                let (acked, failure) = write_until_failure(&mut opened, 1);
                let Some(failure) = failure else {
                    // Only room could not be made ahead: batches found what they needed.
                    assert!(!lasting);
                    assert_eq!(reopen(&SimFs::new(&after_power_cut(&fs))).1.len() as u64, acked);
                    without_room += 1;
                    continue;
                };
                assert!(matches!(failure, LogError::Io { .. }), "{failure:?}");
                assert!(failure.is_io() && opened.log.poisoned());

                fs.set_fault(None);
                assert_eq!(opened.log.durable().map_or(0, SequenceNumber::as_u64), acked);
                append(&mut opened, b"after the failure");
                let refused = commit(&mut opened).unwrap_err();
                assert!(matches!(refused, LogError::Poisoned { .. }), "{refused:?}");
                assert!(matches!(opened.syncer.mark_idle(), Err(LogError::Poisoned { .. })));
                assert!(matches!(opened.syncer.close(), Err(LogError::Poisoned { .. })));

                // The process restarts on the same kernel, reports what it found, and goes on.
                let (mut opened, found) = reopen(&fs);
                assert!(found.len() as u64 >= acked, "acknowledged {acked}, {}", found.len());
                let (acked_later, failure) = write_until_failure(&mut opened, 2);
                assert!(failure.is_none(), "{failure:?}");

                // Then the power fails: what was reported and acknowledged is on the disk.
                let cut = SimFs::new(&after_power_cut(&fs));
                let (opened, after_cut) = reopen(&cut);
                assert_eq!(after_cut.len() as u64, acked_later);
                assert_eq!(after_cut[..found.len()], found);
                assert_eq!(read_all(&opened), after_cut);
                cases += 1;
            }
            kinds_seen += 1;
        }
    }
    println!("fault cases: {cases}; room not made: {without_room}");
    assert!(without_room > 0);
    assert!(kinds_seen == 4 && cases > 100, "{cases}");
}

#[test]
fn a_short_write_is_finished_by_a_second_one() {
    let mut cases = 0;
    for after in 0..operations() {
        let fs = fresh();
        let (mut opened, _) = reopen(&fs);
        fs.set_fault(Some(Fault { after, kind: FaultKind::ShortWrite, lasting: false }));
        let (acked, failure) = write_until_failure(&mut opened, 1);
        assert!(failure.is_none(), "{failure:?}");
        let cut = SimFs::new(&after_power_cut(&fs));
        assert_eq!(reopen(&cut).1.len() as u64, acked);
        cases += 1;
    }
    assert!(cases > 20, "{cases}");
}

#[test]
fn a_failed_operation_while_opening_is_reported_and_a_retry_finds_everything() {
    let fs = fresh();
    let (mut opened, _) = reopen(&fs);
    let (acked, _) = write_until_failure(&mut opened, 1);
    append(&mut opened, b"torn off by the cut");
    let batch = opened.appender.take_batch().unwrap();
    opened.syncer.write(batch).unwrap();
    let crashes = fs.crashes();
    let mut failed = 0;
    crashes.each(crashes.points(), &mut |_, image| {
        for kind in [FaultKind::Io, FaultKind::Full] {
            for after in 0..6 {
                let fs = SimFs::new(&image);
                fs.set_fault(Some(Fault { after, kind, lasting: true }));
                match open(&fs, &small_segments(), SequenceNumber::FIRST) {
                    Err(error) => assert!(error.is_io(), "{error:?}"),
                    Ok(_) => continue,
                }
                failed += 1;
                fs.set_fault(None);
                let cut = SimFs::new(&after_power_cut(&fs));
                for disk in [fs, cut] {
                    assert!(reopen(&disk).1.len() as u64 >= acked);
                }
            }
        }
    });
    assert!(failed > 50, "{failed}");
}

#[test]
fn a_batch_whose_sync_failed_is_written_again_before_it_is_reported() {
    let fs = fresh();
    let (mut opened, _) = reopen(&fs);
    opened.appender.begin_epoch(epoch(1), HybridTime::ZERO);
    append(&mut opened, b"in the kernel's memory, never on the disk");
    // Room is made and the batch written, and its sync fails: the kernel calls the pages clean.
    fs.set_fault(Some(Fault { after: 2, kind: FaultKind::Io, lasting: false }));
    commit(&mut opened).unwrap_err();
    assert_eq!(reopen(&SimFs::new(&after_power_cut(&fs))).1.len(), 0, "the disk has nothing");

    let (_, found) = reopen(&fs);
    assert_eq!(found.len(), 2, "the restarted process sees the kernel's memory");
    assert_eq!(reopen(&SimFs::new(&after_power_cut(&fs))).1, found, "and has put it on the disk");
}

#[test]
fn writes_are_refused_before_the_disk_is_full_and_taken_again_when_there_is_room() {
    let fs = fresh();
    let options = larder_storage::log::LogOptions { reserve_bytes: 1000, ..small_segments() };
    fs.set_available(1000);
    let (opened, _) = open(&fs, &options, seq(1)).unwrap();
    opened.log.writable(|| 0).unwrap();
    fs.set_available(999);
    let refused = wait_for(|| opened.log.writable(|| 0).err());
    assert_eq!((refused.available, refused.reserve), (999, 1000));
    fs.set_available(1 << 40);
    wait_for(|| opened.log.writable(|| 0).ok());
}

#[test]
fn the_reserve_is_looked_at_again_after_much_was_written() {
    let fs = fresh();
    let options = larder_storage::log::LogOptions {
        reserve_bytes: 1000,
        segment_bytes: 1 << 30,
        ..small_segments()
    };
    let (mut opened, _) = open(&fs, &options, seq(1)).unwrap();
    opened.appender.begin_epoch(epoch(1), HybridTime::ZERO);
    append(&mut opened, &vec![1; (16 << 20) - 100]);
    opened.log.writable(|| 0).unwrap();
    fs.set_available(0);
    commit(&mut opened).unwrap();
    // The batch is as large as the bound, so no time has to pass.
    append(&mut opened, &[1; 200]);
    commit(&mut opened).unwrap();
    opened.log.writable(|| 0).unwrap_err();
}

/// Asks until there is an answer; fails after ten seconds.
fn wait_for<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(std::time::Instant::now() < deadline, "no answer within ten seconds");
        std::thread::yield_now();
    }
}
