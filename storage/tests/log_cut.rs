//! Cutting a parted log: what is kept is a prefix to the record, whatever a crash does to the cut.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod log_support;

use std::{collections::HashSet, path::Path};

use larder_storage::{
    fs::{create_dir_durably, testing::SimFs},
    log::{self, Cut, LogError, LogOptions, OwnedRecord},
};
use larder_types::{HybridTime, SequenceNumber};
use log_support::{
    DATA, LOG, QUARANTINE, Random, append, commit, epoch, open, read_all, seq, small_segments,
};

const RECORDS: u64 = 24;

/// A log of some segments, closed by a crash that lost nothing.
fn log_of(seed: u64) -> (SimFs, Vec<OwnedRecord>) {
    let fs = SimFs::default();
    create_dir_durably(&fs, Path::new(DATA)).unwrap();
    let mut random = Random(seed);
    let (mut opened, _) = open(&fs, &small_segments(), SequenceNumber::FIRST).unwrap();
    opened.appender.begin_epoch(epoch(1), HybridTime::ZERO);
    while opened.appender.next_seq() <= seq(RECORDS) {
        let length = random.below(120);
        let body = random.bytes(length);
        append(&mut opened, &body);
        if random.below(2) == 0 || opened.appender.next_seq() > seq(RECORDS) {
            commit(&mut opened).unwrap();
        }
        if random.below(4) == 0 {
            opened.syncer.mark_idle().unwrap();
        }
    }
    let records = read_all(&opened);
    // What a crash left behind is durable: the disk of the test begins here.
    (SimFs::new(&fs.image()), records)
}

fn cut(fs: &SimFs, after: u64) -> Result<Cut, LogError> {
    log::cut(fs, Path::new(LOG), Path::new(QUARANTINE), seq(after))
}

#[test]
fn a_cut_keeps_every_record_up_to_the_parting_point_and_the_log_goes_on_there() {
    for after in 1..=RECORDS {
        let (fs, records) = log_of(1);
        let done = cut(&fs, after).unwrap();
        assert_eq!(done.records, RECORDS - after);
        assert_eq!(done.bytes > 0, after < RECORDS);
        let (mut opened, replayed) = open(&fs, &small_segments(), SequenceNumber::FIRST).unwrap();
        assert_eq!(opened.recovered.torn, None);
        assert_eq!(replayed, records[..after as usize]);
        opened.appender.begin_epoch(epoch(9), HybridTime::ZERO);
        append(&mut opened, b"after the cut");
        commit(&mut opened).unwrap();
        drop(opened);
        let (_, again) = open(&fs, &small_segments(), SequenceNumber::FIRST).unwrap();
        assert_eq!(again.len() as u64, after + 2);
        assert_eq!(again[..after as usize], records[..after as usize]);
    }
}

#[test]
fn what_is_cut_lies_in_the_quarantine_byte_by_byte() {
    let (fs, records) = log_of(2);
    let done = cut(&fs, 5).unwrap();
    let image = fs.image();
    let cut_files = image.files.iter().filter(|(path, _)| path.starts_with(QUARANTINE));
    let files: Vec<_> = cut_files.map(|(_, bytes)| bytes.clone()).collect();
    assert_eq!(files.iter().map(|bytes| bytes.len() as u64).sum::<u64>(), done.bytes);
    for record in &records[5..] {
        let body =
            |bytes: &[u8]| bytes.windows(record.body.len().max(1)).any(|w| *w == *record.body);
        assert!(record.body.is_empty() || files.iter().any(|bytes| body(bytes)));
    }
}

#[test]
fn a_cut_beyond_the_tail_or_before_the_first_record_kept_is_refused_and_changes_nothing() {
    let (fs, _) = log_of(3);
    let (opened, _) = open(&fs, &small_segments(), SequenceNumber::FIRST).unwrap();
    opened.log.trim(seq(15)).unwrap();
    let first = opened.log.first().as_u64();
    drop(opened);
    let before = fs.image();
    assert!(first > 3);
    assert!(matches!(cut(&fs, first - 2), Err(LogError::Gap { .. })));
    assert!(matches!(cut(&fs, RECORDS + 1), Err(LogError::Gap { .. })));
    assert_eq!(fs.image(), before);
    // All of what is kept may go: the log then continues the record before.
    cut(&fs, first - 1).unwrap();
    let (opened, replayed) = open(&fs, &small_segments(), seq(first)).unwrap();
    assert!(replayed.is_empty());
    assert_eq!(opened.recovered.tail, seq(first));
    assert!(opened.log.record_at(seq(first - 1)).is_ok());
}

#[test]
fn whatever_a_power_cut_leaves_of_a_cut_opens_and_cutting_again_ends_it() {
    let mut distinct = HashSet::new();
    for (seed, after) in (1..RECORDS).map(|after| (after + 100, after)) {
        let (fs, records) = log_of(seed);
        cut(&fs, after).unwrap();
        let crashes = fs.crashes();
        for point in 0..=crashes.points() {
            crashes.each(point, &mut |variant, image| {
                if !distinct.insert((seed, image.digest())) {
                    return;
                }
                let context = format!("seed {seed}, cut after {point} operations, {variant:?}");
                let opened = open(&SimFs::new(&image), &small_segments(), SequenceNumber::FIRST);
                let (_, kept) = opened.unwrap_or_else(|error| panic!("{context}: {error:?}"));
                assert!(kept.len() as u64 >= after, "{context}");
                assert_eq!(kept, records[..kept.len()], "{context}");
                let fs = SimFs::new(&image);
                cut(&fs, after).unwrap_or_else(|error| panic!("{context}: {error:?}"));
                let (_, kept) = open(&fs, &small_segments(), SequenceNumber::FIRST).unwrap();
                assert_eq!(kept, records[..after as usize], "{context}");
            });
        }
    }
    println!("crash images of cuts: {}", distinct.len());
    assert!(distinct.len() > 100);
}

#[test]
fn of_the_room_made_ahead_nothing_is_copied_and_of_a_record_that_ends_in_zeros_all_is() {
    let fs = SimFs::default();
    create_dir_durably(&fs, Path::new(DATA)).unwrap();
    let wide = LogOptions { segment_bytes: 64 << 10, ..small_segments() };
    let (mut opened, _) = open(&fs, &wide, SequenceNumber::FIRST).unwrap();
    opened.appender.begin_epoch(epoch(1), HybridTime::ZERO);
    append(&mut opened, b"kept");
    append(&mut opened, &[0; 500]);
    commit(&mut opened).unwrap();
    let frames: u64 = opened.log.segments().iter().map(|segment| segment.bytes).sum();
    drop(opened);
    let length = |fs: &SimFs, dir: &str| -> u64 {
        let image = fs.image();
        let files = image.files.iter().filter(|(path, _)| path.starts_with(dir));
        files.map(|(_, bytes)| bytes.len() as u64).sum()
    };
    assert_eq!(length(&fs, LOG), 64 << 10, "there is room");

    let done = cut(&fs, 2).unwrap();
    assert_eq!(done.records, 1);
    assert_eq!(length(&fs, QUARANTINE), done.bytes);
    assert_eq!(length(&fs, LOG) + done.bytes, frames);
}
