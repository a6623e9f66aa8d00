//! Reading what parted: exporting it, and listing the keys it touched.

use std::{collections::BTreeSet, sync::Arc};

use larder_types::{Epoch, Position, SequenceNumber};

use super::{RewindError, Scope, marker::KEYS_BYTES_MAX};
use crate::{
    Applied, Directory,
    effect::{Effect, effects},
    fs::RealFs,
    log::{self, Extent, LogOptions, Record, RecordKind},
    parted::{Export, PartedError},
};

/// What was found in a log from a parting point on.
pub(super) struct Scan {
    pub(super) scope: Scope,
    pub(super) touched: BTreeSet<Vec<u8>>,
    /// The record before the parting point; `None` if the log does not know it any more.
    pub(super) before: Option<Applied>,
    /// The name of the export; empty where there is no record to export.
    pub(super) exported: String,
}

/// What is gathered while records go by.
struct Gathering {
    parting: SequenceNumber,
    /// The last record that the state has folded.
    folded: Option<SequenceNumber>,
    before: Option<Applied>,
    touched: BTreeSet<Vec<u8>>,
    touched_bytes: usize,
    everything: bool,
    bytes: u64,
    last_epoch: Epoch,
}

impl Scan {
    /// Scans the log from `parting` on and exports what it finds. Of the records up to `folded` the
    /// touched keys are listed.
    pub(super) fn of(
        directory: &Directory,
        parting: SequenceNumber,
        folded: Option<SequenceNumber>,
        at_ms: u64,
    ) -> Result<Self, RewindError> {
        let extent = log::extent(&RealFs, &directory.log())?.ok_or(RewindError::NoLog)?;
        let Extent { head, tail } = extent;
        if tail <= parting {
            return Err(RewindError::NothingParted { parting });
        }
        let first = head.chain.next;
        let mut gathering = Gathering {
            parting,
            folded,
            before: before_first(&extent, parting),
            touched: BTreeSet::new(),
            touched_bytes: 0,
            // What was trimmed, or lies under a snapshot, is not there to tell.
            everything: first > parting,
            bytes: 0,
            last_epoch: Epoch { term: 0, run: 0, id: 0 },
        };
        let from = parting.prev().unwrap_or(parting).max(first);
        let opened = log::open(
            Arc::new(RealFs),
            &directory.log(),
            &directory.quarantine(),
            LogOptions::default(),
            from,
            &mut |record: Record<'_>| gathering.record(&record),
        )?;
        let export = Export {
            log: head.id,
            from: parting.max(first),
            to: tail.prev().unwrap_or(parting),
            epoch: gathering.last_epoch,
            bytes: gathering.bytes,
            at_ms,
            in_common: parting > SequenceNumber::FIRST,
        };
        let mut scan = gathering.finish();
        // Else all that parted lies under a snapshot.
        if export.from < tail {
            export.write(directory, &opened.log)?;
            scan.exported = export.name();
        }
        Ok(scan)
    }
}

/// The record before the parting point, where that is the one which the first segment continues.
fn before_first(extent: &Extent, parting: SequenceNumber) -> Option<Applied> {
    let chain = extent.head.chain;
    let (epoch, seq) = (chain.epoch?.epoch, parting.prev()?);
    let position = Position { epoch, seq };
    (chain.next == parting).then_some(Applied { position, hybrid: chain.hybrid })
}

impl Gathering {
    fn record(&mut self, record: &Record<'_>) -> Result<(), PartedError> {
        if record.seq < self.parting {
            let position = Position { epoch: record.epoch, seq: record.seq };
            self.before = Some(Applied { position, hybrid: record.hybrid });
            return Ok(());
        }
        self.bytes += (log::format::RECORD_HEADER_BYTES + record.body.len()) as u64;
        self.last_epoch = record.epoch;
        if record.kind == RecordKind::Data && Some(record.seq) <= self.folded && !self.everything {
            for effect in effects(record.body) {
                self.touch(effect?);
            }
        }
        Ok(())
    }

    fn touch(&mut self, effect: Effect<'_>) {
        match effect {
            Effect::Clear => self.everything = true,
            Effect::PutRow { key, .. }
            | Effect::DeleteRow { key }
            | Effect::PutField { key, .. }
            | Effect::DeleteField { key, .. } => {
                if !self.touched.contains(key) {
                    self.touched.insert(key.to_vec());
                    self.touched_bytes += key.len() + 1;
                    self.everything |= self.touched_bytes > KEYS_BYTES_MAX;
                }
            }
        }
    }

    fn finish(self) -> Scan {
        let nothing_folded = self.folded < Some(self.parting);
        let scope = match self {
            _ if nothing_folded && self.before.is_some() => Scope::Log,
            Self { everything: true, .. } | Self { before: None, .. } => Scope::Everything,
            _ => Scope::Keys,
        };
        let touched = if scope == Scope::Keys { self.touched } else { BTreeSet::new() };
        Scan { scope, touched, before: self.before, exported: String::new() }
    }
}
