//! Writing a file of parted records.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::PathBuf,
};

use larder_types::{Epoch, LogId, SequenceNumber};
use serde::Serialize;

use super::{FORMAT, PartedError, PartedInfo, PartedRecord, SUFFIX};
use crate::{
    Directory,
    fs::{Fs, RealFs, create_dir_durably},
    log::{Log, Record},
};

/// The records of a log from one on, to be exported.
pub(crate) struct Export {
    pub(crate) log: LogId,
    pub(crate) from: SequenceNumber,
    pub(crate) to: SequenceNumber,
    /// The last record's.
    pub(crate) epoch: Epoch,
    pub(crate) bytes: u64,
    pub(crate) at_ms: u64,
    /// See [`PartedInfo::in_common`].
    pub(crate) in_common: bool,
}

impl Export {
    /// Of the same records always the same name.
    pub(crate) fn name(&self) -> String {
        let Epoch { term, run, id } = self.epoch;
        let (from, to) = (self.from.as_u64(), self.to.as_u64());
        format!("{from:020}-{to:020}-{term}.{run}-{id:016x}")
    }

    /// Writes the file, durably, unless it is there: then it is whole, for it got its name last.
    pub(crate) fn write(&self, directory: &Directory, log: &Log) -> Result<(), PartedError> {
        let dir = directory.parted();
        let path = dir.join(format!("{}{SUFFIX}", self.name()));
        let temporary = dir.join(format!("{}.tmp", self.name()));
        if path.exists() {
            return Ok(());
        }
        let at = |path: &PathBuf| {
            let path = path.clone();
            move |source| PartedError::Io { path, source }
        };
        create_dir_durably(&RealFs, &dir).map_err(at(&dir))?;
        let file = File::create(&temporary).map_err(at(&temporary))?;
        let mut out = BufWriter::new(file);
        write_line(&mut out, &self.info()).map_err(at(&temporary))?;
        let mut cursor = log.read(self.from)?;
        while cursor.position() <= self.to {
            let Some(record) = cursor.next()? else { break };
            let record = Record {
                seq: record.seq,
                epoch: record.epoch,
                hybrid: record.hybrid,
                origin: record.origin,
                kind: record.kind,
                body: &record.body,
                crc: record.crc,
            };
            write_line(&mut out, &PartedRecord::of(&record)?).map_err(at(&temporary))?;
        }
        let file = out.into_inner().map_err(|error| at(&temporary)(error.into_error()))?;
        file.sync_all().map_err(at(&temporary))?;
        RealFs.rename(&temporary, &path).map_err(at(&path))?;
        RealFs.sync_dir(&dir).map_err(at(&dir))?;
        Ok(())
    }

    fn info(&self) -> PartedInfo {
        PartedInfo {
            format: FORMAT,
            name: self.name(),
            log: self.log.to_string(),
            from: self.from,
            to: self.to,
            epoch: self.epoch,
            records: self.to.as_u64() - self.from.as_u64() + 1,
            bytes: self.bytes,
            at_ms: self.at_ms,
            in_common: self.in_common,
        }
    }
}

fn write_line(out: &mut impl Write, line: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    out.write_all(b"\n")
}
