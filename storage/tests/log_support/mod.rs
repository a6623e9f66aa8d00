//! What the tests of the log share: a log on a disk in memory, and random numbers from a seed.

#![allow(dead_code, clippy::allow_attributes, reason = "each test uses some of it")]

use std::{convert::Infallible, path::Path, sync::Arc};

use larder_storage::{
    fs::Fs,
    log::{self, LogError, LogOptions, OpenedLog, OwnedRecord, Record},
};
use larder_types::{Epoch, HybridTime, RegionId, SequenceNumber};

pub(crate) const DATA: &str = "/data";
pub(crate) const LOG: &str = "/data/log";
pub(crate) const QUARANTINE: &str = "/data/quarantine";

pub(crate) fn seq(number: u64) -> SequenceNumber {
    SequenceNumber::new(number).unwrap()
}

pub(crate) fn epoch(run: u32) -> Epoch {
    Epoch { term: 1, run, id: u64::from(run) * 77 }
}

pub(crate) fn small_segments() -> LogOptions {
    LogOptions { segment_bytes: 700, reserve_bytes: 0, hot_tail_bytes: 300, origin: RegionId(3) }
}

/// Opens the log in [`LOG`] and collects what is replayed.
pub(crate) fn open(
    fs: &(impl Fs + Clone),
    options: &LogOptions,
    from: SequenceNumber,
) -> Result<(OpenedLog, Vec<OwnedRecord>), LogError> {
    let mut records = Vec::new();
    let mut replay = |record: Record<'_>| {
        records.push(record.into());
        Ok::<(), Infallible>(())
    };
    let fs = Arc::new(fs.clone());
    let (dir, quarantine) = (Path::new(LOG), Path::new(QUARANTINE));
    let opened = log::open(fs, dir, quarantine, options.clone(), from, &mut replay)?;
    Ok((opened, records))
}

/// Appends a data record stamped with its own number.
pub(crate) fn append(opened: &mut OpenedLog, body: &[u8]) -> SequenceNumber {
    let hybrid = HybridTime::new(opened.appender.next_seq().as_u64(), 0);
    opened.appender.append(hybrid, |out| out.extend_from_slice(body)).unwrap()
}

/// Commits what was appended.
pub(crate) fn commit(opened: &mut OpenedLog) -> Result<SequenceNumber, LogError> {
    opened.syncer.commit(opened.appender.take_batch().unwrap())
}

/// Every durable record that the log still keeps.
pub(crate) fn read_all(opened: &OpenedLog) -> Vec<OwnedRecord> {
    let mut cursor = opened.log.read(opened.log.first()).unwrap();
    let mut records = Vec::new();
    while let Some(record) = cursor.next().unwrap() {
        records.push(record);
    }
    records
}

/// SplitMix64: numbers from a seed, the same every run.
#[derive(Clone, Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub(crate) fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }
}

/// A number from the environment, for longer runs.
pub(crate) fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}
