//! The next segment's file, made ahead by a thread that nobody waits for.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod log_support;

use std::{path::Path, thread};

use larder_storage::{
    fs::{
        Fs, create_dir_durably,
        testing::{Fault, FaultKind, SimFs},
    },
    log::{LogOptions, OpenedLog},
};
use larder_types::{HybridTime, SequenceNumber};
use log_support::{DATA, LOG, append, commit, epoch, open, read_all, seq, small_segments};

const NEXT: &str = "next.room";
const TRIMMED: &str = "trimmed.room";
/// More than a segment of [`small_segments`] with each record.
const BODY: [u8; 800] = [7; 800];

fn fresh() -> (SimFs, OpenedLog) {
    fresh_with(&small_segments())
}

fn fresh_with(options: &LogOptions) -> (SimFs, OpenedLog) {
    let fs = SimFs::default();
    create_dir_durably(&fs, Path::new(DATA)).unwrap();
    let opened = begin(&fs, options, SequenceNumber::FIRST, 1);
    (fs, opened)
}

fn begin(fs: &SimFs, options: &LogOptions, from: SequenceNumber, run: u32) -> OpenedLog {
    let (mut opened, _) = open(fs, options, from).unwrap();
    opened.appender.begin_epoch(epoch(run), HybridTime::ZERO);
    opened
}

/// A batch that fills a segment: the next one begins another.
fn fill_segment(opened: &mut OpenedLog) {
    append(opened, &BODY);
    commit(opened).unwrap();
}

fn rooms(fs: &SimFs) -> Vec<String> {
    let names = fs.list(Path::new(LOG)).unwrap().into_iter();
    let mut rooms: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
    rooms.retain(|name| name.ends_with(".room"));
    rooms.sort();
    rooms
}

fn length_of(fs: &SimFs, path: &Path) -> u64 {
    fs.image().files[path].len() as u64
}

#[test]
fn the_next_segment_is_made_ahead_once_a_part_of_this_one_is_written_and_not_before() {
    let (fs, mut opened) = fresh();
    opened.preparer.prepare().unwrap();
    assert!(rooms(&fs).is_empty(), "nobody has written anything");
    fill_segment(&mut opened);
    opened.preparer.prepare().unwrap();
    assert_eq!(rooms(&fs), [NEXT]);

    append(&mut opened, b"in the next segment");
    commit(&mut opened).unwrap();
    assert!(rooms(&fs).is_empty(), "it is a segment now");
    let active = opened.log.segments().pop().unwrap();
    assert!(active.bytes < small_segments().segment_bytes);
    assert_eq!(length_of(&fs, &active.path), small_segments().segment_bytes, "with its room");
    let written = read_all(&opened);
    drop(opened);
    let (opened, replayed) = open(&fs, &small_segments(), SequenceNumber::FIRST).unwrap();
    assert_eq!(replayed, written);
    assert_eq!(opened.recovered.torn, None, "room is no torn batch");
}

#[test]
fn a_trimmed_segment_is_written_over_and_becomes_the_next_but_one() {
    let (fs, mut opened) = fresh();
    fill_segment(&mut opened);
    fill_segment(&mut opened);
    opened.log.trim(seq(3)).unwrap();
    assert_eq!(rooms(&fs), [TRIMMED]);
    opened.preparer.prepare().unwrap();
    assert_eq!(rooms(&fs), [NEXT]);
    let next = Path::new(LOG).join(NEXT);
    assert_eq!(length_of(&fs, &next), small_segments().segment_bytes, "and no longer");
    assert!(fs.image().files[&next].iter().all(|byte| *byte == 0), "nothing of it is left");

    fill_segment(&mut opened);
    assert!(rooms(&fs).is_empty());
    let written = read_all(&opened);
    drop(opened);
    let (_, replayed) = open(&fs, &small_segments(), seq(3)).unwrap();
    assert_eq!(replayed, written);
}

#[test]
fn a_segment_that_somebody_still_reads_is_removed_and_not_written_over() {
    let (fs, mut opened) = fresh_with(&LogOptions { hot_tail_bytes: 0, ..small_segments() });
    for _ in 0..3 {
        fill_segment(&mut opened);
    }
    let before = read_all(&opened);
    let mut reader = opened.log.read(SequenceNumber::FIRST).unwrap();
    opened.log.trim(seq(3)).unwrap();
    assert_eq!(opened.log.first(), seq(3), "it left the log");
    assert!(rooms(&fs).is_empty());
    opened.preparer.prepare().unwrap();
    assert_eq!(reader.next().unwrap().as_ref(), Some(&before[0]), "as it was");

    drop(reader);
    opened.log.trim(seq(4)).unwrap();
    assert_eq!(rooms(&fs), [NEXT, TRIMMED], "nobody reads this one");
}

#[test]
fn what_was_found_at_the_start_is_removed_for_readers_of_the_run_before_may_hold_it() {
    let (fs, mut opened) = fresh();
    fill_segment(&mut opened);
    fill_segment(&mut opened);
    drop(opened);
    let mut opened = begin(&fs, &small_segments(), SequenceNumber::FIRST, 2);
    fill_segment(&mut opened);
    opened.log.trim(seq(3)).unwrap();
    assert_eq!(opened.log.first(), seq(3));
    assert!(rooms(&fs).is_empty());
}

#[test]
fn a_power_cut_at_any_point_of_it_leaves_every_acknowledged_record() {
    let (fs, mut opened) = fresh();
    let mut acked = vec![(fs.operations(), 0)];
    let mut written = Vec::new();
    let mut floors = vec![(0, SequenceNumber::FIRST)];
    for batch in 0..6_u64 {
        fill_segment(&mut opened);
        acked.push((fs.operations(), opened.log.durable().unwrap().as_u64()));
        let known = written.len();
        written.extend(read_all(&opened).into_iter().filter(|r| r.seq.as_u64() > known as u64));
        if batch >= 1 {
            floors.push((fs.operations(), seq(batch + 1)));
            opened.log.trim(seq(batch + 1)).unwrap();
        }
        opened.preparer.prepare().unwrap();
    }

    let crashes = fs.crashes();
    let mut images = 0;
    for point in acked[0].0..=crashes.points() {
        let promised = acked.iter().filter(|(at, _)| *at <= point).map(|&(_, last)| last).max();
        let from = floors.iter().rev().find(|(at, _)| *at <= point).unwrap().1;
        crashes.each(point, &mut |variant, image| {
            let context = format!("cut after {point} operations, {variant:?}");
            let opened = open(&SimFs::new(&image), &small_segments(), from);
            let (_, kept) = opened.unwrap_or_else(|error| panic!("{context}: {error:?}"));
            let end = kept.last().map_or(from.as_u64() - 1, |record| record.seq.as_u64());
            assert!(end >= promised.unwrap(), "{context}: ends with {end}");
            assert_eq!(kept, written[end as usize - kept.len()..end as usize], "{context}");
            images += 1;
        });
    }
    println!("crash images of segments made ahead: {images}");
    assert!(images > 200, "only {images} images");
}

#[test]
fn room_that_cannot_be_made_costs_the_log_nothing() {
    let mut failures = 0;
    for trims in [false, true] {
        for kind in [FaultKind::Io, FaultKind::Full] {
            for after in 0..8 {
                let (fs, mut opened) = fresh();
                fill_segment(&mut opened);
                fill_segment(&mut opened);
                if trims {
                    opened.log.trim(seq(3)).unwrap();
                }
                fs.set_fault(Some(Fault { after, kind, lasting: true }));
                let made = opened.preparer.prepare();
                fs.set_fault(None);
                failures += usize::from(made.is_err());
                assert!(!opened.log.poisoned(), "nothing of the log was touched");

                for _ in 0..3 {
                    fill_segment(&mut opened);
                    opened.preparer.prepare().unwrap();
                }
                let written = read_all(&opened);
                drop(opened);
                let (_, replayed) = open(&fs, &small_segments(), seq(3)).unwrap();
                assert_eq!(replayed[..], written[written.len() - replayed.len()..]);
                assert_eq!(replayed.last(), written.last());
            }
        }
    }
    assert!(failures > 10, "only {failures} failures");
}

#[test]
fn room_never_takes_what_the_reserve_is_for_and_is_given_back_for_it() {
    let options = LogOptions { reserve_bytes: 10_000, ..small_segments() };
    let enough = options.reserve_bytes + 2 * options.segment_bytes;
    for (available, expected) in [(enough - 1, [].as_slice()), (enough, &[NEXT, TRIMMED])] {
        let (fs, mut opened) = fresh_with(&options);
        fill_segment(&mut opened);
        fill_segment(&mut opened);
        fs.set_available(available);
        opened.preparer.prepare().unwrap();
        opened.log.trim(seq(3)).unwrap();
        assert_eq!(rooms(&fs), expected);

        fs.set_available(options.reserve_bytes - 1);
        opened.log.writable(|| 0).unwrap_err();
        assert!(rooms(&fs).is_empty(), "{available}: nothing is held while writes are refused");
        fs.set_available(enough);
        fill_segment(&mut opened);
        fill_segment(&mut opened);
        opened.preparer.prepare().unwrap();
        assert_eq!(rooms(&fs), [NEXT], "made again when there is room again");
    }
}

#[test]
fn what_could_not_be_made_is_not_tried_again_before_the_next_segment() {
    let wide = LogOptions { segment_bytes: 3_000, ..small_segments() };
    let (fs, mut opened) = fresh_with(&wide);
    fill_segment(&mut opened);
    fs.set_fault(Some(Fault { after: 1, kind: FaultKind::Full, lasting: false }));
    opened.preparer.prepare().unwrap_err();
    fs.set_fault(None);
    fill_segment(&mut opened);
    opened.preparer.prepare().unwrap();
    assert!(rooms(&fs).is_empty(), "the disk would be filled with every batch");
    for _ in 0..4 {
        fill_segment(&mut opened);
    }
    opened.preparer.prepare().unwrap();
    assert_eq!(rooms(&fs), [NEXT]);
}

#[test]
fn room_that_somebody_removed_by_hand_is_missed_by_nobody() {
    let (fs, mut opened) = fresh();
    fill_segment(&mut opened);
    opened.preparer.prepare().unwrap();
    fs.remove(&Path::new(LOG).join(NEXT)).unwrap();
    fill_segment(&mut opened);
    let written = read_all(&opened);
    drop(opened);
    assert_eq!(open(&fs, &small_segments(), SequenceNumber::FIRST).unwrap().1, written);
}

#[test]
fn what_is_prepared_is_removed_when_the_writer_ends_and_by_the_start_after_a_crash() {
    let (fs, mut opened) = fresh();
    fill_segment(&mut opened);
    opened.preparer.prepare().unwrap();
    fill_segment(&mut opened);
    opened.log.trim(seq(3)).unwrap();
    opened.preparer.prepare().unwrap();
    fill_segment(&mut opened);
    opened.log.trim(seq(4)).unwrap();
    assert_eq!(rooms(&fs), [TRIMMED]);
    drop(opened);

    let opened = begin(&fs, &small_segments(), seq(4), 2);
    assert!(rooms(&fs).is_empty(), "a crash had left it");
    let OpenedLog { mut appender, mut syncer, preparer, log, .. } = opened;
    let preparing = thread::spawn(move || preparer.run());
    for number in 0..20 {
        let hybrid = HybridTime::new(100 + number, 0);
        appender.append(hybrid, |out| out.extend_from_slice(&BODY)).unwrap();
        let last = syncer.commit(appender.take_batch().unwrap()).unwrap();
        log.trim(last).unwrap();
    }
    syncer.close().unwrap();
    preparing.join().unwrap();
    log.trim(log.durable().unwrap()).unwrap();
    assert!(rooms(&fs).is_empty(), "nobody would use it");
}
