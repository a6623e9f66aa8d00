//! Logs written by every released version of the format, kept in `fixtures/`, are read as they
//! were written. `LARDER_BLESS=1` writes the fixture of the current version where there is none.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod log_support;

use std::{
    convert::Infallible,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use larder_storage::{
    fs::RealFs,
    log::{self, LogOptions, OpenedLog, OwnedRecord, Record, RecordKind, format::VERSION},
};
use larder_types::{HybridTime, RegionId, SequenceNumber};
use log_support::{append, commit, epoch, seq};

const RECORDS: u64 = 14;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/log-v1")
}

fn options() -> LogOptions {
    LogOptions { segment_bytes: 600, reserve_bytes: 0, hot_tail_bytes: 0, origin: RegionId(3) }
}

fn open(root: &Path) -> (OpenedLog, Vec<OwnedRecord>) {
    let mut records = Vec::new();
    let mut replay = |record: Record<'_>| {
        records.push(record.into());
        Ok::<(), Infallible>(())
    };
    let (dir, quarantine) = (root.join("log"), root.join("quarantine"));
    let fs = Arc::new(RealFs);
    let opened = log::open(fs, &dir, &quarantine, options(), SequenceNumber::FIRST, &mut replay);
    (opened.unwrap(), records)
}

/// The body of data record `number`.
fn body(number: u64) -> Vec<u8> {
    format!("record {number} ").repeat(number as usize).into_bytes()
}

/// Two runs: records 1 and 8 open epochs, the others are data.
fn write(root: &Path) {
    for run in 1..=2 {
        let (mut opened, _) = open(root);
        opened.appender.begin_epoch(epoch(run), HybridTime::ZERO);
        for _ in 0..3 {
            for _ in 0..2 {
                let number = opened.appender.next_seq().as_u64();
                append(&mut opened, &body(number));
            }
            commit(&mut opened).unwrap();
        }
        if run == 1 {
            opened.syncer.close().unwrap();
        }
    }
}

fn check(records: &[OwnedRecord]) {
    for (record, number) in records.iter().zip(1..) {
        let (kind, run) = match number {
            1 => (RecordKind::Epoch, 1),
            8 => (RecordKind::Epoch, 2),
            _ => (RecordKind::Data, 1 + u32::from(number > 8)),
        };
        assert_eq!((record.seq, record.kind, record.epoch), (seq(number), kind, epoch(run)));
        assert_eq!(record.origin, RegionId(3));
        match (kind, number) {
            (RecordKind::Epoch, 1) => assert!(record.body.is_empty()),
            (RecordKind::Epoch, _) => assert_eq!(record.body[..], epoch(1).encode()),
            _ => {
                assert_eq!(record.body[..], body(number));
                assert_eq!(record.hybrid, HybridTime::new(number, 0));
            }
        }
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Writes `fixtures/log-v1/{clean,torn}` once; a released fixture is never written again.
fn bless() {
    assert_eq!(VERSION, 1, "another version gets another directory");
    let root = tempfile::tempdir().unwrap();
    write(root.path());
    for variant in ["clean", "torn"] {
        copy(&root.path().join("log"), &fixtures().join(variant));
    }
    let mut names: Vec<_> = fs::read_dir(fixtures().join("torn")).unwrap().collect();
    names.sort_by_key(|entry| entry.as_ref().unwrap().file_name());
    let last = names.pop().unwrap().unwrap().path();
    let bytes = fs::read(&last).unwrap();
    fs::write(&last, &bytes[..bytes.len() - 5]).unwrap();
}

#[test]
fn a_log_of_version_1_is_read_and_continued() {
    if std::env::var_os("LARDER_BLESS").is_some() && !fixtures().exists() {
        bless();
    }
    let root = tempfile::tempdir().unwrap();
    copy(&fixtures().join("clean"), &root.path().join("log"));
    let report = log::verify(&RealFs, &root.path().join("log")).unwrap();
    assert_eq!((report.records, report.torn), (RECORDS, None));
    assert!(report.segments.len() > 2);

    let (mut opened, records) = open(root.path());
    assert_eq!(records.len() as u64, RECORDS);
    check(&records);
    assert_eq!(opened.recovered.epochs, [(epoch(1), seq(1)), (epoch(2), seq(8))]);
    opened.appender.begin_epoch(epoch(3), HybridTime::ZERO);
    commit(&mut opened).unwrap();
    drop(opened);
    assert_eq!(open(root.path()).1.len() as u64, RECORDS + 1);
}

#[test]
fn a_torn_log_of_version_1_is_cut_before_its_last_record() {
    let root = tempfile::tempdir().unwrap();
    copy(&fixtures().join("torn"), &root.path().join("log"));
    let (opened, records) = open(root.path());
    assert_eq!(records.len() as u64, RECORDS - 1);
    check(&records);
    let torn = opened.recovered.torn.unwrap();
    assert_eq!(torn.bytes, 48 + body(RECORDS).len() as u64 - 5);
    assert_eq!(fs::read(torn.quarantined_to).unwrap().len() as u64, torn.bytes);
}

#[test]
fn what_is_written_today_has_the_bytes_of_the_fixture() {
    let root = tempfile::tempdir().unwrap();
    write(root.path());
    let files = |dir: &Path| {
        let mut names: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|path| (path.file_name().unwrap().to_owned(), fs::read(path).unwrap()))
            .collect();
        names.sort();
        names
    };
    let (today, fixture) = (files(&root.path().join("log")), files(&fixtures().join("clean")));
    assert_eq!(today.len(), fixture.len());
    for ((name, today), (fixture_name, fixture)) in today.iter().zip(&fixture) {
        let (today, room) = today.split_at(fixture.len());
        assert_eq!(name, fixture_name);
        assert!(room.iter().all(|byte| *byte == 0));
        // The identity is drawn at random and changes every checksum; all else is the same.
        let differing = today.iter().zip(fixture).filter(|(today, then)| today != then).count();
        assert_eq!(today[..16], fixture[..16]);
        assert_eq!(today[32..48], fixture[32..48]);
        let frames = today.len() / 48;
        assert!(differing <= 16 + 4 + 4 + 8 * frames, "{differing} bytes differ");
    }
}
