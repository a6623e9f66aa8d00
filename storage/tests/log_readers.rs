//! Readers, trimming and writing at once, from several threads, on real files.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    convert::Infallible,
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use larder_storage::{
    fs::RealFs,
    log::{self, Appender, Log, LogOptions, OpenedLog, ReadError, Record, RecordKind},
};
use larder_types::{Epoch, HybridTime, RegionId, SequenceNumber};

const RECORDS: u64 = 30_000;
const DEADLINE: Duration = Duration::from_secs(60);

fn seq(number: u64) -> SequenceNumber {
    SequenceNumber::new(number).unwrap()
}

fn open(root: &Path, options: LogOptions, each: &mut dyn FnMut()) -> OpenedLog {
    let mut replay = |_: Record<'_>| {
        each();
        Ok::<(), Infallible>(())
    };
    let (dir, quarantine) = (root.join("log"), root.join("quarantine"));
    log::open(Arc::new(RealFs), &dir, &quarantine, options, SequenceNumber::FIRST, &mut replay)
        .unwrap()
}

fn begin(appender: &mut Appender) {
    appender.begin_epoch(Epoch { term: 1, run: 1, id: 1 }, HybridTime::ZERO);
}

/// The body of a record tells its number and has a length of its own.
fn append(appender: &mut Appender) {
    let number = appender.next_seq().as_u64();
    let body = |out: &mut Vec<u8>| {
        out.extend_from_slice(&number.to_le_bytes());
        out.resize(out.len() + (number % 91) as usize, number as u8);
    };
    appender.append(HybridTime::new(number, 0), body).unwrap();
}

/// Follows the log to its end, beginning again where it was trimmed; returns the records read.
fn follow(log: &Log, slow: bool) -> (u64, u64) {
    let (mut cursor, mut read, mut trimmed) = (log.read(log.first()), 0, 0);
    let began = Instant::now();
    loop {
        assert!(began.elapsed() < DEADLINE, "the writer does not get on");
        let mut current = match cursor {
            Ok(current) => current,
            Err(ReadError::Trimmed { first }) => {
                trimmed += 1;
                cursor = log.read(first);
                continue;
            }
            Err(other) => panic!("{other:?}"),
        };
        let expected = current.position();
        match current.next() {
            Ok(Some(record)) => {
                assert_eq!(record.seq, expected);
                if record.kind == RecordKind::Data {
                    assert_eq!(record.body[..8], record.seq.as_u64().to_le_bytes());
                    assert_eq!(record.body.len() as u64, 8 + record.seq.as_u64() % 91);
                }
                read += 1;
                if record.seq.as_u64() == RECORDS {
                    return (read, trimmed);
                }
                // A slow reader looks its place up anew each time.
                cursor = if slow { log.read(current.position()) } else { Ok(current) };
            }
            Ok(None) => {
                thread::yield_now();
                cursor = Ok(current);
            }
            Err(error) => cursor = Err(error),
        }
    }
}

#[test]
fn readers_never_skip_while_segments_are_sealed_and_trimmed_under_them() {
    let root = tempfile::tempdir().unwrap();
    let options = LogOptions {
        segment_bytes: 100_000,
        reserve_bytes: 0,
        hot_tail_bytes: 40_000,
        origin: RegionId(0),
    };
    let OpenedLog { mut appender, mut syncer, preparer, log, .. } =
        open(root.path(), options, &mut || {});
    begin(&mut appender);
    let (stop, lowest) = (AtomicBool::new(false), AtomicU64::new(1));
    thread::scope(|scope| {
        // Writes over what was trimmed and nobody reads.
        let preparing = scope.spawn(|| preparer.run());
        let follower = scope.spawn(|| follow(&log, false));
        let slow = scope.spawn(|| follow(&log, true));
        let trimmer = scope.spawn(|| {
            while !stop.load(Ordering::Acquire) {
                let durable = log.durable().map_or(0, SequenceNumber::as_u64);
                log.trim(seq(durable.saturating_sub(4_000).max(1))).unwrap();
                let first = log.first().as_u64();
                assert!(lowest.swap(first, Ordering::AcqRel) <= first);
                thread::yield_now();
            }
        });
        while appender.next_seq() <= seq(RECORDS) {
            for _ in 0..60 {
                append(&mut appender);
            }
            let batch = appender.take_batch().unwrap();
            syncer.commit(batch).unwrap();
        }
        let (read, trimmed) = follower.join().unwrap();
        let (slowly_read, slowly_trimmed) = slow.join().unwrap();
        stop.store(true, Ordering::Release);
        trimmer.join().unwrap();
        syncer.close().unwrap();
        preparing.join().unwrap();
        println!("followed {read} ({trimmed} times trimmed), {slowly_read} ({slowly_trimmed})");
        assert!(trimmed > 0 || read == RECORDS, "what was not trimmed was read");
    });
    assert!(lowest.load(Ordering::Acquire) > 1, "segments were trimmed");
}

#[test]
fn a_log_of_many_segments_is_opened_with_few_files() {
    let root = tempfile::tempdir().unwrap();
    let options =
        LogOptions { segment_bytes: 1, reserve_bytes: 0, hot_tail_bytes: 0, origin: RegionId(0) };
    let mut opened = open(root.path(), options.clone(), &mut || {});
    begin(&mut opened.appender);
    for _ in 0..300 {
        append(&mut opened.appender);
        let batch = opened.appender.take_batch().unwrap();
        opened.syncer.commit(batch).unwrap();
    }
    assert_eq!(opened.log.segments().len(), 300);
    drop(opened);
    let mut most = 0;
    open(root.path(), options, &mut || {
        most = most.max(fs::read_dir("/proc/self/fd").unwrap().count());
    });
    assert!((1..100).contains(&most), "{most} files are open");
}
