//! The matrix of LevelDB's `log_test`, by situation: what a log does with each kind of ending,
//! damage and reopening. On real files.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    convert::Infallible,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use larder_storage::{
    fs::RealFs,
    log::{
        self, AppendError, LogError, LogOptions, OpenedLog, OwnedRecord, ReadError, Record,
        RecordKind,
    },
};
use larder_types::{Epoch, HybridTime, RegionId, SequenceNumber};

struct Fixture {
    root: tempfile::TempDir,
    options: LogOptions,
    run: u32,
}

fn seq(number: u64) -> SequenceNumber {
    SequenceNumber::new(number).unwrap()
}

impl Fixture {
    fn new() -> Self {
        Self::with(LogOptions {
            segment_bytes: 1 << 20,
            reserve_bytes: 0,
            hot_tail_bytes: 0,
            origin: RegionId(3),
        })
    }

    fn with(options: LogOptions) -> Self {
        Self { root: tempfile::tempdir().unwrap(), options, run: 0 }
    }

    fn dir(&self) -> PathBuf {
        self.root.path().join("log")
    }

    fn quarantine(&self) -> PathBuf {
        self.root.path().join("quarantine")
    }

    /// Opens and returns what was replayed.
    fn open_from(&self, from: u64) -> Result<(OpenedLog, Vec<OwnedRecord>), LogError> {
        let mut records = Vec::new();
        let mut replay = |record: Record<'_>| {
            records.push(record.into());
            Ok::<(), Infallible>(())
        };
        let (fs, options) = (Arc::new(RealFs), self.options.clone());
        let opened =
            log::open(fs, &self.dir(), &self.quarantine(), options, seq(from), &mut replay)?;
        Ok((opened, records))
    }

    fn open(&self) -> Result<(OpenedLog, Vec<OwnedRecord>), LogError> {
        self.open_from(1)
    }

    /// Opens, begins an epoch, commits each of the batches, and closes.
    fn write(&mut self, batches: &[&[&str]]) -> OpenedLog {
        self.run += 1;
        let (mut opened, _) = self.open().unwrap();
        let epoch = Epoch { term: 1, run: self.run, id: 7 };
        opened.appender.begin_epoch(epoch, HybridTime::new(u64::from(self.run), 0));
        for batch in batches {
            commit(&mut opened, batch);
        }
        opened
    }

    fn segments(&self) -> Vec<PathBuf> {
        let mut names: Vec<_> =
            fs::read_dir(self.dir()).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.sort();
        names
    }

    fn last_segment(&self) -> PathBuf {
        self.segments().pop().unwrap()
    }

    /// A log of several small segments; none of its batches can be torn.
    fn in_segments() -> Self {
        let mut fixture = Self::with(LogOptions { segment_bytes: 300, ..Self::new().options });
        let body = "x".repeat(100);
        let opened = fixture.write(&[&[&body, "1"], &[&body, "2"], &[&body, "3"], &[&body]]);
        opened.syncer.close().unwrap();
        assert!(fixture.segments().len() >= 3);
        fixture
    }

    /// Opening is refused, and no file is changed by it.
    fn refused(&self) -> LogError {
        let contents = || {
            let read = |path| fs::read(&path).map(|bytes| (path, bytes)).unwrap();
            self.segments().into_iter().map(read).collect::<Vec<_>>()
        };
        let before = contents();
        let error = self.open().map(|_| ()).unwrap_err();
        assert_eq!(contents(), before);
        assert!(!self.quarantine().exists());
        error
    }
}

fn commit(opened: &mut OpenedLog, bodies: &[&str]) -> SequenceNumber {
    for body in bodies {
        let hybrid = HybridTime::new(1_000 + opened.appender.next_seq().as_u64(), 0);
        opened.appender.append(hybrid, |out| out.extend_from_slice(body.as_bytes())).unwrap();
    }
    let batch = opened.appender.take_batch().unwrap();
    opened.syncer.commit(batch).unwrap()
}

/// The bodies of the data records.
fn bodies(records: &[OwnedRecord]) -> Vec<String> {
    let data = records.iter().filter(|record| record.kind == RecordKind::Data);
    data.map(|record| String::from_utf8(record.body.to_vec()).unwrap()).collect()
}

/// Takes bytes off a file's end.
fn cut(path: &Path, bytes: u64) {
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(written(path).len() as u64 - bytes).unwrap();
}

/// What was written to a file: all of it but the room behind.
fn written(path: &Path) -> Vec<u8> {
    let mut bytes = fs::read(path).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
    bytes.truncate(end);
    bytes
}

/// Changes a file's bytes.
fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

/// Where `piece` begins in a file.
fn find(path: &Path, piece: &[u8]) -> usize {
    let bytes = fs::read(path).unwrap();
    bytes.windows(piece.len()).position(|window| window == piece).unwrap()
}

#[test]
fn an_empty_log_has_no_records_and_begins_at_one() {
    let fixture = Fixture::new();
    let (opened, records) = fixture.open().unwrap();
    assert!(records.is_empty() && opened.recovered.created);
    assert_eq!(opened.log.durable(), None);
    assert_eq!((opened.log.first(), opened.recovered.tail), (seq(1), seq(1)));
    assert_eq!(opened.log.read(seq(1)).unwrap().next().unwrap(), None);
    assert!(matches!(opened.log.read(seq(2)), Err(ReadError::Beyond { tail }) if tail == seq(1)));
}

#[test]
fn what_was_written_is_read_again_after_a_reopen() {
    let mut fixture = Fixture::new();
    let opened = fixture.write(&[&["a", "bb"], &["", "ccc"]]);
    let id = opened.log.id();
    assert_eq!(opened.log.durable(), Some(seq(5)));
    opened.syncer.close().unwrap();
    let (opened, records) = fixture.open().unwrap();
    assert_eq!(bodies(&records), ["a", "bb", "", "ccc"]);
    assert_eq!(
        records.iter().map(|record| record.seq.as_u64()).collect::<Vec<_>>(),
        [1, 2, 3, 4, 5]
    );
    assert!(records.iter().all(|record| record.origin == RegionId(3)));
    assert_eq!(records[0].kind, RecordKind::Epoch);
    let recovered = &opened.recovered;
    assert_eq!((recovered.id, recovered.tail, recovered.replayed), (id, seq(6), 5));
    assert_eq!(recovered.last_hybrid, HybridTime::new(1_005, 0));
    let epoch = Epoch { term: 1, run: 1, id: 7 };
    assert_eq!(recovered.epochs, [(epoch, seq(1))]);
    assert_eq!((recovered.last_epoch, &recovered.torn), (Some(epoch), &None));
}

#[test]
fn records_of_every_size_up_to_the_limit_come_back() {
    let fixture = Fixture::new();
    let (mut opened, _) = fixture.open().unwrap();
    opened.appender.begin_epoch(Epoch { term: 1, run: 1, id: 7 }, HybridTime::ZERO);
    let largest = larder_types::limits::RECORD_BYTES_MAX - 48;
    let sizes = [0, 1, 511, 512, 65_535, 300_000, largest];
    for size in sizes {
        opened.appender.append(HybridTime::ZERO, |out| out.resize(out.len() + size, 7)).unwrap();
    }
    let before = opened.appender.pending_bytes();
    let too_large = |out: &mut Vec<u8>| out.resize(out.len() + largest + 1, 7);
    let refused = opened.appender.append(HybridTime::ZERO, too_large).unwrap_err();
    assert!(matches!(refused, AppendError::TooLarge { bytes, .. } if bytes == largest + 49));
    assert_eq!(opened.appender.pending_bytes(), before, "nothing is left behind");
    commit(&mut opened, &["after it"]);
    drop(opened);
    let (_, records) = fixture.open().unwrap();
    let lengths: Vec<_> = records[1..].iter().map(|record| record.body.len()).collect();
    assert_eq!(lengths, [0, 1, 511, 512, 65_535, 300_000, largest, 8]);
}

#[test]
fn a_record_without_an_epoch_is_refused() {
    let mut fixture = Fixture::new();
    fixture.write(&[&["a"]]).syncer.close().unwrap();
    let (mut opened, _) = fixture.open().unwrap();
    let refused = opened.appender.append(HybridTime::ZERO, |_| {}).unwrap_err();
    assert_eq!(refused, AppendError::NoEpoch);
    assert_eq!(opened.appender.epoch(), Epoch { term: 1, run: 1, id: 7 });
    assert!(opened.appender.take_batch().is_none());
}

#[test]
#[should_panic(expected = "does not come after")]
fn an_epoch_is_never_begun_twice() {
    let mut fixture = Fixture::new();
    let mut opened = fixture.write(&[&["a"]]);
    opened.appender.begin_epoch(Epoch { term: 1, run: 1, id: 8 }, HybridTime::ZERO);
}

#[test]
fn a_truncated_tail_is_cut_quarantined_and_reported() {
    let mut fixture = Fixture::new();
    fixture.write(&[&["a", "b"], &["charlie", "torn"]]);
    let segment = fixture.last_segment();
    cut(&segment, 2);
    let torn_at = find(&segment, b"charlie") + 7;
    let left = fs::read(&segment).unwrap();

    let (opened, records) = fixture.open().unwrap();
    assert_eq!(bodies(&records), ["a", "b", "charlie"]);
    let torn = opened.recovered.torn.unwrap();
    assert_eq!((torn.offset, torn.bytes), (torn_at as u64, (left.len() - torn_at) as u64));
    assert_eq!(torn.segment, "00000000000000000001.seg");
    let quarantined = fixture.quarantine().join(format!("00000000000000000001-{torn_at}.torn"));
    assert_eq!(torn.quarantined_to, quarantined);
    assert_eq!(fs::read(quarantined).unwrap(), left[torn_at..]);
    assert_eq!(fs::read(&segment).unwrap(), left[..torn_at]);

    let (opened, records) = fixture.open().unwrap();
    assert_eq!((opened.recovered.torn, bodies(&records).len()), (None, 3));
}

#[test]
fn a_log_goes_on_behind_what_was_cut() {
    let mut fixture = Fixture::new();
    fixture.write(&[&["a"], &["torn"]]);
    cut(&fixture.last_segment(), 1);
    fixture.write(&[&["b"]]);
    cut(&fixture.last_segment(), 1);
    fixture.write(&[&["c"]]);
    let (opened, records) = fixture.open().unwrap();
    assert_eq!(bodies(&records), ["a", "c"]);
    let runs: Vec<_> = opened.recovered.epochs.iter().map(|(epoch, _)| epoch.run).collect();
    assert_eq!(runs, [1, 2, 3], "the epoch's record was before the cut");
    assert_eq!(records.len(), 5);
}

#[test]
fn a_bad_checksum_in_the_last_batch_is_torn() {
    let mut fixture = Fixture::new();
    fixture.write(&[&["a"], &["damaged", "behind it"]]);
    let segment = fixture.last_segment();
    let at = find(&segment, b"damaged");
    change(&segment, |bytes| bytes[at] ^= 1);
    let (opened, records) = fixture.open().unwrap();
    assert_eq!(bodies(&records), ["a"]);
    assert!(opened.recovered.torn.is_some());
}

#[test]
fn a_bad_checksum_below_a_mark_is_damage_and_nothing_is_cut() {
    let mut fixture = Fixture::new();
    let mut opened = fixture.write(&[&["a"], &["damaged"]]);
    opened.syncer.mark_idle().unwrap();
    let segment = fixture.last_segment();
    let at = find(&segment, b"damaged");
    change(&segment, |bytes| bytes[at] ^= 1);
    let error = fixture.refused();
    let offset = (at - 48) as u64;
    assert!(
        matches!(&error, LogError::Corrupt { segment, offset: found, expected, .. }
            if segment == "00000000000000000001.seg" && *found == offset
                && expected.contains("checksum") && expected.contains("record 3")),
        "{error:?}"
    );
}

#[test]
fn a_bad_length_below_a_mark_is_damage() {
    for length in [0_u32, 47, 49, 17 << 20, u32::MAX] {
        let mut fixture = Fixture::new();
        fixture.write(&[&["alpha"], &["b"]]);
        let segment = fixture.last_segment();
        let frame = find(&segment, b"alpha") - 48;
        change(&segment, |bytes| bytes[frame..frame + 4].copy_from_slice(&length.to_le_bytes()));
        let error = fixture.refused();
        assert!(matches!(error, LogError::Corrupt { offset, .. } if offset == frame as u64));
    }
}

#[test]
fn a_bad_length_at_the_end_is_torn() {
    for length in [0_u32, 47, 60, 17 << 20, u32::MAX] {
        let mut fixture = Fixture::new();
        fixture.write(&[&["a"], &["bravo"]]);
        let segment = fixture.last_segment();
        let frame = find(&segment, b"bravo") - 48;
        change(&segment, |bytes| bytes[frame..frame + 4].copy_from_slice(&length.to_le_bytes()));
        let (opened, records) = fixture.open().unwrap();
        assert_eq!(bodies(&records), ["a"]);
        assert!(opened.recovered.torn.is_some());
    }
}

#[test]
fn a_torn_record_header_is_cut() {
    let mut fixture = Fixture::new();
    fixture.write(&[&["a"], &["b"]]);
    let segment = fixture.last_segment();
    cut(&segment, 40);
    let (opened, records) = fixture.open().unwrap();
    assert_eq!(bodies(&records), ["a"]);
    assert_eq!(opened.recovered.torn.unwrap().bytes, 9);
}

#[test]
fn zeros_behind_the_last_frame_are_room_and_nothing_is_lost_with_them() {
    for zeros in [1, 7, 48, 4096, 1 << 20] {
        let mut fixture = Fixture::new();
        fixture.write(&[&["a"]]).syncer.close().unwrap();
        change(&fixture.last_segment(), |bytes| bytes.resize(bytes.len() + zeros, 0));
        let (opened, records) = fixture.open().unwrap();
        assert_eq!(bodies(&records), ["a"]);
        assert_eq!(opened.recovered.torn, None);
    }
}

#[test]
fn a_torn_batch_is_told_from_the_room_behind_it() {
    let mut fixture = Fixture::new();
    fixture.write(&[&["a"]]).syncer.close().unwrap();
    change(&fixture.last_segment(), |bytes| {
        bytes.extend_from_slice(b"half a frame");
        bytes.resize(bytes.len() + 4096, 0);
    });
    let (opened, records) = fixture.open().unwrap();
    assert_eq!(bodies(&records), ["a"]);
    let torn = opened.recovered.torn.unwrap();
    assert_eq!(fs::read(torn.quarantined_to).unwrap(), b"half a frame");
}

#[test]
fn an_empty_file_is_set_aside_and_made_again() {
    let fixture = Fixture::new();
    fs::create_dir(fixture.dir()).unwrap();
    fs::write(fixture.dir().join("00000000000000000001.seg"), b"").unwrap();
    let (opened, _) = fixture.open().unwrap();
    let aside = fixture.quarantine().join("00000000000000000001-0.torn");
    assert_eq!(opened.recovered.set_aside, Some(aside.clone()));
    assert!(aside.exists() && opened.recovered.created);
}

#[test]
fn a_torn_segment_header_is_set_aside_and_the_log_goes_on() {
    for length in [0, 1, 95] {
        let mut fixture = Fixture::in_segments();
        seal(&mut fixture);
        let sealed = fixture.open().unwrap().1;
        change(&fixture.last_segment(), |bytes| bytes.truncate(length));
        let (opened, again) = fixture.open().unwrap();
        assert!(opened.recovered.set_aside.as_ref().is_some_and(|path| path.exists()));
        assert_eq!(again, sealed);
        drop(opened);
        fixture.run = 5;
        fixture.write(&[&["goes on"]]);
        assert_eq!(bodies(&fixture.open().unwrap().1).last().unwrap(), "goes on");
    }
}

/// Fills the last segment so that it is sealed and an empty one follows.
fn seal(fixture: &mut Fixture) {
    let options = fixture.options.clone();
    fixture.options.segment_bytes = 1;
    fixture.run += 1;
    fixture.write(&[&["fills"]]);
    fixture.options = options;
    let last = fixture.last_segment();
    let length = fs::metadata(&last).unwrap().len();
    // The last segment's records go, as if the power had failed right after it was made.
    cut(&last, length - 96);
}

#[test]
fn a_damaged_header_of_a_segment_with_records_is_damage() {
    let mut fixture = Fixture::new();
    fixture.write(&[&["a"]]);
    change(&fixture.last_segment(), |bytes| bytes[40] ^= 1);
    assert!(matches!(fixture.refused(), LogError::Corrupt { offset: 0, .. }));
}

#[test]
fn a_damaged_header_where_earlier_segments_were_trimmed_is_damage() {
    let mut fixture = Fixture::in_segments();
    seal(&mut fixture);
    let segments = fixture.segments();
    segments[..segments.len() - 1].iter().for_each(|path| fs::remove_file(path).unwrap());
    change(&fixture.last_segment(), |bytes| bytes[40] ^= 1);
    assert!(matches!(fixture.refused(), LogError::Corrupt { offset: 0, .. }));
}

#[test]
fn a_missing_segment_is_a_gap_and_refused() {
    let fixture = Fixture::in_segments();
    let segments = fixture.segments();
    fs::remove_file(&segments[1]).unwrap();
    let error = fixture.refused();
    assert!(matches!(error, LogError::MissingSegment { .. }), "{error:?}");
}

#[test]
fn a_segment_without_its_footer_before_another_is_damage() {
    let fixture = Fixture::in_segments();
    cut(&fixture.segments()[0], 1);
    let error = fixture.refused();
    assert!(matches!(&error, LogError::Corrupt { expected, .. } if expected.contains("footer")));
}

#[test]
fn a_copy_of_a_segment_under_another_name_is_refused() {
    let fixture = Fixture::in_segments();
    let segments = fixture.segments();
    fs::copy(&segments[0], &segments[1]).unwrap();
    assert!(matches!(fixture.refused(), LogError::Corrupt { offset: 0, .. }));

    let fixture = Fixture::in_segments();
    fs::copy(&fixture.segments()[0], fixture.dir().join("1.seg")).unwrap();
    let error = fixture.open().map(|_| ()).unwrap_err();
    assert!(matches!(error, LogError::UnexpectedFile { .. }), "{error:?}");
}

#[test]
fn a_segment_of_another_log_is_refused() {
    let (one, other) = (Fixture::in_segments(), Fixture::in_segments());
    fs::copy(&other.segments()[1], &one.segments()[1]).unwrap();
    let error = one.refused();
    assert!(matches!(error, LogError::Foreign { .. }), "{error:?}");
}

#[test]
fn a_frame_of_another_log_never_passes() {
    let (mut one, mut other) = (Fixture::new(), Fixture::new());
    one.write(&[&["a"]]);
    other.write(&[&["b"]]);
    let (mine, foreign) = (one.last_segment(), fs::read(other.last_segment()).unwrap());
    change(&mine, |bytes| bytes[96..].copy_from_slice(&foreign[96..]));
    let (opened, records) = one.open().unwrap();
    assert!(records.is_empty() && opened.recovered.torn.is_some());
}

#[test]
fn another_version_is_refused_by_name() {
    let mut fixture = Fixture::new();
    fixture.write(&[&["a"]]);
    change(&fixture.last_segment(), |bytes| {
        bytes[8..12].copy_from_slice(&2_u32.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..92]);
        bytes[92..96].copy_from_slice(&crc.to_le_bytes());
    });
    let error = fixture.refused();
    assert!(matches!(error, LogError::UnsupportedVersion { found: 2, supported: 1, .. }));
}

#[test]
fn reopening_and_appending_keeps_one_chain_over_many_runs() {
    let mut fixture = Fixture::with(LogOptions { segment_bytes: 400, ..Fixture::new().options });
    let mut wanted = Vec::new();
    for run in 0..8 {
        let body = format!("run {run} ").repeat(9);
        let opened = fixture.write(&[&[&body], &[&body]]);
        if run % 2 == 0 {
            opened.syncer.close().unwrap();
        }
        wanted.extend([body.clone(), body]);
    }
    let (opened, records) = fixture.open().unwrap();
    assert_eq!(bodies(&records), wanted);
    assert_eq!(opened.recovered.epochs.len(), 8);
    let firsts: Vec<_> = opened.recovered.epochs.iter().map(|(_, first)| first.as_u64()).collect();
    assert_eq!(firsts, [1, 4, 7, 10, 13, 16, 19, 22]);
    // The table is the same where the segments are not read.
    let tail = opened.recovered.tail.as_u64();
    let (unread, none) = fixture.open_from(tail).unwrap();
    assert_eq!((&unread.recovered.epochs, none.len()), (&opened.recovered.epochs, 0));
    let report = log::verify(&RealFs, &fixture.dir()).unwrap();
    assert_eq!(report.epochs, unread.recovered.epochs);
    assert_eq!((report.records, report.torn), (24, None));
    assert_eq!(report.segments.len(), opened.log.segments().len());
}

#[test]
fn replay_begins_where_the_state_ends() {
    let fixture = Fixture::in_segments();
    let all = fixture.open().unwrap().1;
    for from in 1..=all.len() as u64 + 1 {
        let (opened, records) = fixture.open_from(from).unwrap();
        assert_eq!(records, all[from as usize - 1..]);
        assert_eq!(opened.recovered.replayed, records.len() as u64);
    }
    let beyond = fixture.open_from(all.len() as u64 + 2).map(|_| ()).unwrap_err();
    assert!(matches!(beyond, LogError::Gap { .. }), "{beyond:?}");
}

#[test]
fn a_state_without_its_log_is_a_gap_and_no_log_is_made() {
    let fixture = Fixture::new();
    let error = fixture.open_from(2).map(|_| ()).unwrap_err();
    assert!(matches!(error, LogError::Gap { .. }), "{error:?}");
    assert!(!fixture.dir().exists());
}

#[test]
fn a_caller_that_refuses_a_record_is_told_which() {
    let fixture = Fixture::in_segments();
    let mut replay = |record: Record<'_>| if record.seq == seq(3) { Err("no") } else { Ok(()) };
    let (fs, options) = (Arc::new(RealFs), fixture.options.clone());
    let (dir, quarantine) = (fixture.dir(), fixture.quarantine());
    let opened = log::open(fs, &dir, &quarantine, options, seq(1), &mut replay);
    let error = opened.map(|_| ()).unwrap_err();
    assert!(matches!(error, LogError::Replay { seq: at, .. } if at == seq(3)), "{error:?}");
}

#[test]
fn trimming_removes_whole_segments_below_the_floor_and_frees_their_bytes() {
    let fixture = Fixture::in_segments();
    let (opened, all) = fixture.open().unwrap();
    let segments = opened.log.segments();
    let (bytes, second) = (opened.log.bytes(), segments[1].clone());
    assert_eq!(opened.log.trim(segments[0].last.unwrap()).unwrap(), 0, "its last record is kept");
    assert_eq!(opened.log.trim(second.first).unwrap(), segments[0].bytes);
    assert_eq!(opened.log.bytes(), bytes - segments[0].bytes);
    assert!(!segments[0].path.exists() && opened.log.first() == second.first);
    let trimmed = opened.log.read(seq(1)).map(|_| ()).unwrap_err();
    assert!(matches!(trimmed, ReadError::Trimmed { first } if first == second.first));

    opened.log.trim(seq(1_000)).unwrap();
    assert_eq!(opened.log.segments().len(), 1, "the segment being written stays");
    drop(opened);
    let first = fixture.segments()[0].clone();
    let first: u64 = first.file_stem().unwrap().to_str().unwrap().parse().unwrap();
    let gap = fixture.open().map(|_| ()).unwrap_err();
    assert!(matches!(gap, LogError::Gap { .. }), "{gap:?}");
    let (opened, rest) = fixture.open_from(first).unwrap();
    assert_eq!(rest, all[first as usize - 1..]);
    assert_eq!(opened.recovered.last_epoch, Some(all[0].epoch));
    assert_eq!(opened.recovered.epochs, [(all[0].epoch, seq(1))]);
}

#[test]
fn the_bytes_from_a_record_on_are_those_of_its_segment_and_all_behind_it() {
    let fixture = Fixture::in_segments();
    let (opened, _) = fixture.open().unwrap();
    let (log, segments) = (&opened.log, opened.log.segments());
    let header = log.bytes() - log.bytes_from(seq(1));
    assert!(header < segments[0].bytes, "all but what precedes the first record");
    for (at, segment) in segments.iter().enumerate() {
        let from: u64 = segments[at..].iter().map(|segment| segment.bytes).sum();
        assert_eq!(log.bytes_from(segment.first), from - header, "{at}");
    }
    let end = segments.last().unwrap();
    assert!(
        log.bytes_from(seq(1_000_000)) <= end.bytes,
        "nothing is behind the end but its segment"
    );
}

#[test]
fn a_reader_keeps_the_segment_that_is_trimmed_under_it_and_then_is_told() {
    let fixture = Fixture::in_segments();
    let (opened, all) = fixture.open().unwrap();
    let mut cursor = opened.log.read(seq(1)).unwrap();
    assert_eq!(cursor.next().unwrap().as_ref(), Some(&all[0]));
    let segments = opened.log.segments();
    opened.log.trim(segments[2].first).unwrap();
    let mut read = 1;
    let end = loop {
        match cursor.next() {
            Ok(Some(record)) => {
                assert_eq!(record, all[read]);
                read += 1;
            }
            other => break other,
        }
    };
    assert_eq!(read as u64, segments[0].last.unwrap().as_u64(), "the whole first segment");
    assert!(matches!(end, Err(ReadError::Trimmed { first }) if first == segments[2].first));
}

#[test]
fn the_hot_tail_gives_the_same_records_as_the_disk() {
    let options = |hot_tail_bytes| LogOptions {
        segment_bytes: 2_000,
        hot_tail_bytes,
        ..Fixture::new().options
    };
    for hot in [0, 500, 3_000, 1 << 20] {
        let mut fixture = Fixture::with(options(hot));
        let mut opened = fixture.write(&[]);
        let mut follower = opened.log.read(seq(1)).unwrap();
        let mut followed = Vec::new();
        for batch in 0..40 {
            let body = format!("batch {batch} ").repeat(batch % 7);
            commit(&mut opened, &[&body, "second", &body]);
            while let Some(record) = follower.next().unwrap() {
                followed.push(record);
            }
        }
        let mut cursor = opened.log.read(seq(1)).unwrap();
        let mut read = Vec::new();
        while let Some(record) = cursor.next().unwrap() {
            read.push(record);
        }
        assert_eq!(followed, read);
        for from in (1..=121).rev().step_by(7) {
            let mut cursor = opened.log.read(seq(from)).unwrap();
            assert_eq!(cursor.next().unwrap().as_ref(), Some(&read[from as usize - 1]));
        }
        drop(opened);
        assert_eq!(fixture.open().unwrap().1, read, "with a hot tail of {hot} bytes");
    }
}

#[test]
fn readers_see_a_batch_when_it_is_durable_and_not_before() {
    for hot_tail_bytes in [0, 1 << 20] {
        let mut fixture = Fixture::with(LogOptions { hot_tail_bytes, ..Fixture::new().options });
        let mut opened = fixture.write(&[&["a"]]);
        let mut cursor = opened.log.read(seq(3)).unwrap();
        opened.appender.append(HybridTime::ZERO, |out| out.push(b'b')).unwrap();
        let batch = opened.appender.take_batch().unwrap();
        opened.syncer.write(batch).unwrap();
        assert_eq!((cursor.next().unwrap(), opened.log.durable()), (None, Some(seq(2))));
        opened.syncer.sync().unwrap();
        assert_eq!(cursor.next().unwrap().unwrap().body[..], *b"b");
    }
}

#[test]
fn an_idle_mark_is_written_once() {
    let mut fixture = Fixture::new();
    let mut opened = fixture.write(&[&["a"]]);
    let before = opened.log.bytes();
    opened.syncer.mark_idle().unwrap();
    assert_eq!(opened.log.bytes(), before + 48);
    opened.syncer.mark_idle().unwrap();
    opened.syncer.close().unwrap();
    assert_eq!(opened.log.bytes(), before + 48);
    // Nor again by the next run.
    let (opened, _) = fixture.open().unwrap();
    opened.syncer.close().unwrap();
    assert_eq!(opened.log.bytes(), before + 48);
}

#[test]
fn a_copy_of_a_mark_inside_a_record_is_no_mark() {
    let mut fixture = Fixture::new();
    let mut opened = fixture.write(&[&["alpha"]]);
    opened.syncer.mark_idle().unwrap();
    let bytes = fs::read(fixture.last_segment()).unwrap();
    let end = opened.log.bytes() as usize;
    let mark = &bytes[end - 48..end];
    assert_eq!(&mark[..8], log::format::MARK_MAGIC);
    let append = |opened: &mut OpenedLog, body: &[u8]| {
        opened.appender.append(HybridTime::ZERO, |out| out.extend_from_slice(body)).unwrap();
        commit(opened, &[]);
    };
    append(&mut opened, mark);
    // Torn before the copy, which would name more than is left if it counted.
    let segment = fixture.last_segment();
    let at = find(&segment, b"alpha");
    let end = opened.log.bytes() as usize;
    change(&segment, |bytes| {
        bytes[at] ^= 1;
        bytes.drain(at + 2..end - 48);
    });
    let (opened, records) = fixture.open().unwrap();
    assert_eq!((records.len(), opened.recovered.torn.is_some()), (1, true));
}

#[test]
fn a_dump_ends_before_a_torn_tail_and_changes_nothing() {
    let mut fixture = Fixture::new();
    fixture.write(&[&["a"], &["torn"]]);
    cut(&fixture.last_segment(), 1);
    let before = fs::read(fixture.last_segment()).unwrap();
    let dumped = log::dump(&RealFs, &fixture.dir()).unwrap();
    let dumped: Vec<_> = dumped.map(|record| record.unwrap()).collect();
    assert_eq!(bodies(&dumped), ["a"]);
    let report = log::verify(&RealFs, &fixture.dir()).unwrap();
    assert_eq!(report.torn.unwrap().bytes, 48 + 3);
    assert_eq!(fs::read(fixture.last_segment()).unwrap(), before);
    assert!(!fixture.quarantine().exists());
}

#[test]
fn a_real_disk_says_how_much_room_it_has() {
    let mut fixture = Fixture::new();
    fixture.options.reserve_bytes = u64::MAX;
    let (opened, _) = fixture.open().unwrap();
    let refused = opened.log.writable(|| 0).unwrap_err();
    assert!(refused.available > 0 && refused.available < u64::MAX);
}
