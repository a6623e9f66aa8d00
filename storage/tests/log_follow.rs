//! A follower's log: frames go from one log to another of the same identity, byte by byte.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod log_support;

use std::{collections::HashSet, path::Path};

use larder_storage::{
    fs::{create_dir_durably, testing::SimFs},
    log::{
        self, AppendError, Frames, LogOptions, OpenedLog, OwnedRecord, ReadError, RecordKind,
        format::{ChainPoint, Header},
    },
};
use larder_types::{Epoch, EpochStart, HybridTime, RegionId, SequenceNumber};
use log_support::{
    DATA, LOG, Random, append, commit, epoch, open, read_all, seq, setting, small_segments,
};

fn fresh() -> SimFs {
    let fs = SimFs::default();
    create_dir_durably(&fs, Path::new(DATA)).unwrap();
    fs
}

/// A master with 40 records of two epochs in several segments.
fn master(options: &LogOptions) -> OpenedLog {
    let (mut opened, _) = open(&fresh(), options, SequenceNumber::FIRST).unwrap();
    for run in 1..=2 {
        opened.appender.begin_epoch(epoch(run), HybridTime::ZERO);
        for number in 0..19 {
            append(&mut opened, format!("body {number} of run {run}").as_bytes());
            if number % 3 == 1 {
                commit(&mut opened).unwrap();
            }
        }
        commit(&mut opened).unwrap();
    }
    opened
}

/// An empty log of the same identity as `master`'s.
fn follower(fs: &SimFs, master: &OpenedLog, options: &LogOptions) -> OpenedLog {
    let header = Header { id: master.log.id(), origin: options.origin, chain: ChainPoint::START };
    log::create(fs, Path::new(LOG), &header).unwrap();
    open(fs, options, SequenceNumber::FIRST).unwrap().0
}

fn accept(opened: &mut OpenedLog, frames: &[u8]) -> SequenceNumber {
    let checked = opened.appender.check(frames).unwrap();
    let last = opened.appender.accept(&checked);
    commit(opened).unwrap();
    last
}

fn all_frames(opened: &OpenedLog, from: SequenceNumber, bytes_max: usize) -> Vec<Frames> {
    let mut cursor = opened.log.read(from).unwrap();
    let mut chunks = Vec::new();
    while let Some(frames) = cursor.next_frames(bytes_max).unwrap() {
        chunks.push(frames);
    }
    chunks
}

#[test]
fn a_follower_that_accepts_every_frame_holds_the_same_records() {
    for (hot, bytes_max) in
        [(0, 1), (0, 150), (0, 100_000), (300, 150), (100_000, 150), (100_000, 1 << 20)]
    {
        let options = LogOptions { hot_tail_bytes: hot, ..small_segments() };
        let master = master(&options);
        let fs = fresh();
        // Segments of another size: frames do not know which segment they are in.
        let options = LogOptions { segment_bytes: 1_100, ..options };
        let mut follower = follower(&fs, &master, &options);
        for frames in all_frames(&master, SequenceNumber::FIRST, bytes_max) {
            assert!(frames.first == frames.last || frames.bytes.len() <= bytes_max);
            assert_eq!(accept(&mut follower, &frames.bytes), frames.last);
            let crc = follower.log.record_at(frames.last).unwrap();
            assert_eq!(crc, (frames.last_epoch, frames.last_crc));
        }
        let expected = read_all(&master);
        assert_eq!(expected.len(), 40);
        assert_eq!(read_all(&follower), expected);
        assert_eq!(follower.log.epochs(), master.log.epochs());
        drop(follower);
        let (reopened, replayed) = open(&fs, &options, SequenceNumber::FIRST).unwrap();
        assert_eq!(replayed, expected);
        assert_eq!(reopened.log.epochs(), master.log.epochs());
        assert_eq!(reopened.recovered.id, master.log.id());
    }
}

#[test]
fn chunks_join_without_a_gap_and_as_many_records_as_fit_are_in_each() {
    for hot in [0, 100_000] {
        let options = LogOptions { hot_tail_bytes: hot, ..small_segments() };
        let master = master(&options);
        let chunks = all_frames(&master, seq(3), 400);
        assert_eq!(chunks[0].first, seq(3));
        for pair in chunks.windows(2) {
            assert_eq!(pair[0].last.next(), pair[1].first);
            assert_eq!(pair[0].last_crc, pair[1].prev_crc);
        }
        assert_eq!(chunks.last().unwrap().last, seq(40));
        let in_one = all_frames(&master, SequenceNumber::FIRST, 1 << 20);
        let expected = if hot == 0 { master.log.segments().len() } else { 1 };
        assert_eq!(in_one.len(), expected, "one chunk a segment from disk, one from memory");
    }
}

#[test]
fn a_follower_at_the_tail_is_told_nothing_until_more_is_durable() {
    let options = LogOptions { hot_tail_bytes: 1 << 20, ..small_segments() };
    let mut master = master(&options);
    let mut cursor = master.log.read(seq(41)).unwrap();
    assert_eq!(cursor.next_frames(1 << 20).unwrap(), None);
    append(&mut master, b"new");
    let batch = master.appender.take_batch().unwrap();
    master.syncer.write(batch).unwrap();
    assert_eq!(cursor.next_frames(1 << 20).unwrap(), None, "written is not durable");
    master.syncer.sync().unwrap();
    assert_eq!(cursor.next_frames(1 << 20).unwrap().unwrap().last, seq(41));
}

#[test]
fn frames_that_do_not_continue_the_log_are_refused_and_leave_it_as_it_was() {
    let options = small_segments();
    let master = master(&options);
    let frames = all_frames(&master, SequenceNumber::FIRST, 100_000);
    let fs = fresh();
    let mut follower = follower(&fs, &master, &options);
    let refused = |follower: &OpenedLog, bytes: &[u8]| {
        follower.appender.check(bytes).expect_err("refused").to_string()
    };
    assert!(refused(&follower, &frames[1].bytes).contains("expected record 1"));
    assert!(refused(&follower, b"").contains("a whole frame"));
    accept(&mut follower, &frames[0].bytes);
    assert!(refused(&follower, &frames[0].bytes).contains("found record 1"));
    let whole = &frames[1].bytes;
    assert!(refused(&follower, &whole[..whole.len() - 1]).contains("a whole frame"));
    for bit in 0..whole.len() * 8 {
        let mut damaged = whole.to_vec();
        damaged[bit / 8] ^= 1 << (bit % 8);
        follower.appender.check(&damaged).expect_err("a flipped bit is refused");
    }
    assert_eq!(accept(&mut follower, whole), frames[1].last);
}

#[test]
fn frames_of_another_log_never_pass() {
    let options = small_segments();
    let (one, two) = (master(&options), master(&options));
    let frames = all_frames(&one, SequenceNumber::FIRST, 100_000);
    let follower = follower(&fresh(), &two, &options);
    let refused = follower.appender.check(&frames[0].bytes).unwrap_err();
    assert!(refused.to_string().contains("checksum"), "{refused}");
}

#[test]
fn records_of_an_epoch_that_does_not_come_after_are_refused() {
    let options = small_segments();
    let (mut one, _) = open(&fresh(), &options, SequenceNumber::FIRST).unwrap();
    one.appender.begin_epoch(epoch(3), HybridTime::ZERO);
    commit(&mut one).unwrap();
    let mut two = follower(&fresh(), &one, &options);
    let frames = all_frames(&one, SequenceNumber::FIRST, 100_000);
    accept(&mut two, &frames[0].bytes);
    // Both go on from the same record, and only the other's epoch is lower than what follows.
    two.appender.begin_epoch(epoch(5), HybridTime::ZERO);
    commit(&mut two).unwrap();
    append(&mut one, b"of epoch 3");
    commit(&mut one).unwrap();
    let parted = all_frames(&one, seq(2), 100_000);
    let refused = two.appender.check(&parted[0].bytes).unwrap_err();
    assert!(refused.to_string().contains("expected record 3"), "{refused}");
}

#[test]
fn an_epoch_that_no_log_reaches_is_not_taken_from_another_node() {
    let (options, most) = (small_segments(), Epoch::REACHABLE_MAX);
    for (term, run) in [(most + 1, 0), (u32::MAX, 0), (1, most + 1), (1, u32::MAX)] {
        let (mut master, _) = open(&fresh(), &options, SequenceNumber::FIRST).unwrap();
        master.appender.begin_epoch(Epoch { term, run, id: 7 }, HybridTime::ZERO);
        commit(&mut master).unwrap();
        let frames = all_frames(&master, SequenceNumber::FIRST, 100_000);
        let follower = follower(&fresh(), &master, &options);
        let refused = follower.appender.check(&frames[0].bytes).expect_err("refused").to_string();
        assert!(refused.contains("an epoch that a log reaches"), "{refused}");
    }
}

#[test]
fn who_follows_appends_nothing_until_it_begins_an_epoch_that_comes_after() {
    let options = small_segments();
    let master = master(&options);
    let mut follower = follower(&fresh(), &master, &options);
    follower.appender.begin_epoch(epoch(0), HybridTime::ZERO);
    let refused = follower.appender.append(HybridTime::ZERO, |_| {});
    assert!(refused.is_ok(), "it began an epoch");
    let fs = fresh();
    let mut follower = self::follower(&fs, &master, &options);
    for frames in all_frames(&master, SequenceNumber::FIRST, 100_000) {
        accept(&mut follower, &frames.bytes);
    }
    assert_eq!(follower.appender.append(HybridTime::ZERO, |_| {}), Err(AppendError::NoEpoch));
    let replicas = follower.appender.append_replicas(HybridTime::ZERO, |_| {});
    assert_eq!(replicas, Err(AppendError::NoEpoch));
    let begun = follower.appender.begin_epoch(epoch(3), HybridTime::ZERO);
    assert_eq!(begun, seq(41));
    append(&mut follower, b"as master");
    commit(&mut follower).unwrap();
    assert_eq!(follower.log.epochs().last(), Some(&EpochStart { epoch: epoch(3), first: begun }));
}

#[test]
fn a_record_of_the_replica_set_travels_and_reads_back() {
    let options = small_segments();
    let mut master = master(&options);
    master.appender.append_replicas(HybridTime::ZERO, |out| out.extend(b"members")).unwrap();
    commit(&mut master).unwrap();
    let record: OwnedRecord = master.log.read(seq(41)).unwrap().next().unwrap().unwrap();
    assert_eq!((record.kind, &*record.body), (RecordKind::Replicas, &b"members"[..]));
    assert_eq!(record.epoch, epoch(2));
}

#[test]
fn the_record_before_the_first_kept_is_known_by_epoch_and_checksum() {
    let options = LogOptions { hot_tail_bytes: 0, ..small_segments() };
    let fs = fresh();
    let master = master(&options);
    let mut copy = follower(&fs, &master, &options);
    for frames in all_frames(&master, SequenceNumber::FIRST, 100_000) {
        accept(&mut copy, &frames.bytes);
    }
    copy.log.trim(seq(20)).unwrap();
    let first = copy.log.first();
    assert!(first > SequenceNumber::FIRST && first <= seq(20));
    let before = first.prev().unwrap();
    assert_eq!(copy.log.record_at(before).unwrap(), master.log.record_at(before).unwrap());
    let trimmed = copy.log.record_at(before.prev().unwrap());
    assert!(matches!(trimmed, Err(ReadError::Trimmed { .. })), "{trimmed:?}");
    let beyond = copy.log.record_at(seq(41));
    assert!(matches!(beyond, Err(ReadError::Beyond { .. })), "{beyond:?}");
    assert!(matches!(copy.log.record_at(seq(42)), Err(ReadError::Beyond { .. })));
}

#[test]
fn a_log_made_to_continue_a_record_takes_the_next_one_and_no_other() {
    let options = small_segments();
    let master = master(&options);
    let at = seq(25);
    let (found, crc) = master.log.record_at(at).unwrap();
    let start = *master.log.epochs().iter().rfind(|start| start.first <= at).unwrap();
    assert_eq!(start.epoch, found);
    let chain =
        ChainPoint { next: at.next(), crc, epoch: Some(start), hybrid: HybridTime::new(25, 0) };
    let fs = fresh();
    let header = Header { id: master.log.id(), origin: RegionId(3), chain };
    log::create(&fs, Path::new(LOG), &header).unwrap();
    assert_eq!(log::head(&fs, Path::new(LOG)).unwrap(), Some(header));
    let (mut opened, replayed) = open(&fs, &options, at.next()).unwrap();
    assert!(replayed.is_empty() && !opened.recovered.created);
    assert_eq!(opened.log.record_at(at).unwrap(), (found, crc));
    assert_eq!(opened.log.epochs(), [start]);
    assert!(opened.appender.check(&all_frames(&master, seq(27), 9_000)[0].bytes).is_err());
    for frames in all_frames(&master, at.next(), 9_000) {
        accept(&mut opened, &frames.bytes);
    }
    assert_eq!(read_all(&opened), read_all(&master)[25..]);
}

#[test]
fn a_log_is_never_made_where_one_is() {
    let options = small_segments();
    let fs = fresh();
    let (opened, _) = open(&fs, &options, SequenceNumber::FIRST).unwrap();
    let header = Header { id: opened.log.id(), origin: RegionId(3), chain: ChainPoint::START };
    let before = fs.image();
    log::create(&fs, Path::new(LOG), &header).unwrap_err();
    assert_eq!(fs.image(), before);
}

#[test]
fn random_batches_and_random_chunks_always_give_equal_logs() {
    for seed in 0..setting("LARDER_FOLLOW_SEEDS", 60) {
        let mut random = Random(seed);
        let options = LogOptions {
            segment_bytes: 300 + random.below(900) as u64,
            hot_tail_bytes: random.below(3) * 500,
            ..small_segments()
        };
        let (mut master, _) = open(&fresh(), &options, SequenceNumber::FIRST).unwrap();
        let fs = fresh();
        let mut copy = follower(&fs, &master, &options);
        let mut cursor = master.log.read(SequenceNumber::FIRST).unwrap();
        for run in 1..=3 {
            master.appender.begin_epoch(epoch(run), HybridTime::ZERO);
            for _ in 0..random.below(40) {
                let length = random.below(200);
                let body = random.bytes(length);
                append(&mut master, &body);
                if random.below(3) == 0 {
                    commit(&mut master).unwrap();
                }
                if random.below(5) == 0
                    && let Some(frames) = cursor.next_frames(1 + random.below(900)).unwrap()
                {
                    accept(&mut copy, &frames.bytes);
                }
            }
            if master.appender.pending_bytes() > 0 {
                commit(&mut master).unwrap();
            }
        }
        while let Some(frames) = cursor.next_frames(1 + random.below(900)).unwrap() {
            accept(&mut copy, &frames.bytes);
        }
        assert_eq!(read_all(&copy), read_all(&master), "LARDER_FOLLOW_SEEDS up to {seed}");
        drop(copy);
        assert_eq!(open(&fs, &options, SequenceNumber::FIRST).unwrap().1, read_all(&master));
    }
}

#[test]
fn whatever_a_power_cut_leaves_of_a_follower_is_a_prefix_with_all_that_it_acknowledged() {
    let options = LogOptions { hot_tail_bytes: 400, ..small_segments() };
    let master = master(&options);
    let expected = read_all(&master);
    let made = fresh();
    drop(follower(&made, &master, &options));
    let (mut images, mut acked) = (HashSet::new(), Vec::new());
    for bytes_max in [1, 250, 900] {
        // The empty log is durable: the disk of the test begins there.
        let fs = SimFs::new(&made.image());
        let (mut copy, _) = open(&fs, &options, SequenceNumber::FIRST).unwrap();
        acked.clear();
        for frames in all_frames(&master, SequenceNumber::FIRST, bytes_max) {
            accept(&mut copy, &frames.bytes);
            acked.push((fs.operations(), frames.last.as_u64()));
        }
        let crashes = fs.crashes();
        for point in 0..=crashes.points() {
            let promised = acked.iter().rev().find(|(at, _)| *at <= point);
            let promised = promised.map_or(0, |(_, last)| *last);
            crashes.each(point, &mut |variant, image| {
                if !images.insert((image.digest(), promised)) {
                    return;
                }
                let context = format!("chunks of {bytes_max}, cut after {point}, {variant:?}");
                let opened = open(&SimFs::new(&image), &options, SequenceNumber::FIRST);
                let (mut copy, kept) = opened.unwrap_or_else(|e| panic!("{context}: {e:?}"));
                assert!(kept.len() as u64 >= promised, "{context}: {} records", kept.len());
                assert_eq!(kept, expected[..kept.len()], "{context}");
                // It goes on where it is.
                if let Some(frames) = all_frames(&master, copy.appender.next_seq(), 1 << 20).first()
                {
                    accept(&mut copy, &frames.bytes);
                }
            });
        }
    }
    println!("crash images of followers: {}", images.len());
    assert!(images.len() > 500, "{}", images.len());
}
