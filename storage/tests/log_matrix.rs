//! The matrix of LevelDB's `log_test`, by situation: what a log does with each kind of ending,
//! damage and reopening. On real files.

use std::{convert::Infallible, fs, path::PathBuf, sync::Arc};

use larder_storage::{
    fs::RealFs,
    log::{self, LogError, LogOptions, OpenedLog, OwnedRecord, ReadError, Record, RecordKind},
};
use larder_types::{Epoch, HybridTime, LogId, RegionId, SequenceNumber};

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

    fn last_segment(&self) -> PathBuf {
        let mut names: Vec<_> =
            fs::read_dir(self.dir()).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.sort();
        names.pop().unwrap()
    }

    fn segments(&self) -> Vec<PathBuf> {
        let mut names: Vec<_> =
            fs::read_dir(self.dir()).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.sort();
        names
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

fn cut(path: &PathBuf, bytes: u64) {
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    let len = file.metadata().unwrap().len();
    file.set_len(len - bytes).unwrap();
}

fn change(path: &PathBuf, at: usize, change: impl FnOnce(&mut u8)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes[at]);
    fs::write(path, bytes).unwrap();
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
