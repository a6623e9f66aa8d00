//! Opening a log: survey, repair, replay, in this order.
//!
//! The survey changes nothing and refuses damage. Only then is a torn tail cut, and only what is
//! durable by then is replayed: the state never gets ahead of the log.

use std::{error::Error, path::Path, sync::Arc};

use larder_types::{EpochStart, LogId, SequenceNumber};
use rand::{TryRngCore, rngs::OsRng};

use super::{
    LogOptions, OpenedLog, Recovered,
    ahead::{self, Preparer},
    append::{Appender, Pool},
    error::LogError,
    format::{ChainPoint, Header},
    frames::Record,
    handle::{Log, Shared},
    repair::{quarantine_file, repair_tail},
    segment::{IndexEntry, Segment},
    survey::{Place, Survey, Surveyed, TailScan},
    sync::{Active, Syncer, create_segment},
};
use crate::fs::{Fs, OpenMode, create_dir_durably};

type Replay<'a> = &'a mut dyn FnMut(Record<'_>) -> Result<(), LogError>;

/// Opens the log in `dir`, or makes one if there is none, and gives every record from
/// `replay_from` on to `replay`, in order; every one of them is durable by then.
///
/// Segments that end before `replay_from` are checked by header and footer only; [`super::verify`]
/// reads everything. A torn tail is moved into `quarantine`, which is made when it is needed and
/// has to be on the same file system.
///
/// # Errors
/// Any [`LogError`] but `Poisoned`. Nothing has been changed then, except after
/// [`LogError::Replay`] and [`LogError::Io`]: a torn tail may have been cut and quarantined.
pub fn open<E: Into<Box<dyn Error + Send + Sync>>>(
    fs: Arc<dyn Fs>,
    dir: &Path,
    quarantine: &Path,
    options: LogOptions,
    replay_from: SequenceNumber,
    replay: &mut dyn FnMut(Record<'_>) -> Result<(), E>,
) -> Result<OpenedLog, LogError> {
    let mut replayed = 0;
    let mut replay = |record: Record<'_>| {
        if record.seq < replay_from {
            return Ok(());
        }
        replayed += 1;
        let seq = record.seq;
        replay(record).map_err(|error| LogError::Replay { seq, source: error.into() })
    };
    let mut opening = Opening::survey(fs, dir, replay_from)?;
    opening.repair(quarantine)?;
    opening.replay(replay_from, &mut replay)?;
    let mut opened = opening.finish(&options)?;
    opened.recovered.replayed = replayed;
    Ok(opened)
}

/// A log on its way to being open.
struct Opening<'a> {
    fs: Arc<dyn Fs>,
    dir: &'a Path,
    survey: Survey,
    /// The end of the last segment, unless that is sealed.
    tail: Option<TailScan>,
    /// The chain after the last record.
    chain: ChainPoint,
    recovered: Recovered,
    /// One for each of `survey.segments`.
    segments: Vec<Arc<Segment>>,
}

impl<'a> Opening<'a> {
    fn survey(
        fs: Arc<dyn Fs>,
        dir: &'a Path,
        replay_from: SequenceNumber,
    ) -> Result<Self, LogError> {
        let survey = Survey::of(&*fs, dir)?;
        let (mut tail, mut chain) = (None, ChainPoint::START);
        if let Some(last) = survey.segments.last() {
            match last.chain_after() {
                Some(after) => chain = after,
                None => {
                    let scan = last.scan_tail(&*fs)?;
                    chain = scan.chain;
                    tail = Some(scan);
                }
            }
        }
        let first = survey.segments.first().map_or(chain.next, Surveyed::base);
        if replay_from < first || replay_from > chain.next {
            return Err(LogError::Gap { wanted: replay_from, first, tail: chain.next });
        }
        let recovered = Recovered {
            id: match survey.id() {
                Some(id) => id,
                None => random_id(dir)?,
            },
            created: survey.segments.is_empty(),
            first,
            tail: chain.next,
            last_epoch: None,
            last_hybrid: chain.hybrid,
            epochs: Vec::new(),
            replayed: 0,
            torn: None,
            set_aside: None,
        };
        Ok(Self { fs, dir, survey, tail, chain, recovered, segments: Vec::new() })
    }

    fn repair(&mut self, quarantine: &Path) -> Result<(), LogError> {
        create_dir_durably(&*self.fs, self.dir)
            .map_err(LogError::io("make directory", self.dir))?;
        if let Some(unborn) = &self.survey.unborn {
            self.recovered.set_aside = Some(quarantine_file(&*self.fs, quarantine, unborn)?);
        }
        if let Some(last) = self.survey.segments.last() {
            self.recovered.torn = repair_tail(&*self.fs, quarantine, last, self.tail.as_ref())?;
        }
        ahead::remove_left(&*self.fs, self.dir)?;
        // The run that made a name may have ended before it synced the directory.
        self.fs.sync_dir(self.dir).map_err(LogError::io("sync directory", self.dir))?;
        Ok(())
    }

    fn replay(&mut self, from: SequenceNumber, replay: Replay<'_>) -> Result<(), LogError> {
        for surveyed in &self.survey.segments {
            let segment = Segment::found(self.dir, surveyed.header.chain);
            let mut each = |place: Place, record: Record<'_>| {
                let Place { offset, chain } = place;
                segment.note(IndexEntry { seq: record.seq, offset, prev_crc: chain.crc });
                replay(record)
            };
            match (&surveyed.footer, &self.tail) {
                (Some(footer), _) => {
                    if footer.last >= from {
                        surveyed.scan_sealed(&*self.fs, &mut each)?;
                    }
                    segment.set_last(footer.last);
                    segment.set_bytes(surveyed.bytes);
                    segment.set_sealed();
                }
                (None, Some(scan)) => {
                    surveyed.replay_tail(&*self.fs, scan, &mut each)?;
                    segment.set_bytes(scan.end);
                    if scan.chain.next > segment.base() {
                        segment.set_last(scan.chain.next.prev().expect("it is above the base"));
                    }
                }
                (None, None) => unreachable!("a segment without a footer has been scanned"),
            }
            self.segments.push(Arc::new(segment));
        }
        Ok(())
    }

    /// Makes the segment that is written next, if the last one is sealed or there is none.
    fn finish(mut self, options: &LogOptions) -> Result<OpenedLog, LogError> {
        let epochs = self.epochs();
        self.chain.epoch = epochs.last().copied();
        let active = match (self.tail.take(), self.segments.last()) {
            (Some(scan), Some(segment)) => {
                let file = self.fs.open(&segment.path, OpenMode::Write);
                let file = file.map_err(LogError::io("open log segment", &segment.path))?;
                let length = file.len();
                Active {
                    length: length.map_err(LogError::io("read the length of", &segment.path))?,
                    file,
                    segment: Arc::clone(segment),
                    offset: scan.end,
                    epochs: scan.epochs,
                    marked: scan.marked,
                    dirty: false,
                }
            }
            _ => {
                let id = self.recovered.id;
                let header = Header { id, origin: options.origin, chain: self.chain };
                let active = create_segment(&*self.fs, self.dir, &header, None)?;
                self.segments.push(Arc::clone(&active.segment));
                active
            }
        };
        let recovered = Recovered {
            last_epoch: self.chain.epoch.map(|start| start.epoch),
            last_hybrid: self.chain.hybrid,
            epochs: epochs.iter().map(|start| (start.epoch, start.first)).collect(),
            ..self.recovered
        };
        let dir = self.dir.to_owned();
        let tail = self.chain.next;
        let shared = Shared::new(self.fs, dir, recovered.id, options, self.segments, epochs, tail);
        let (shared, pool) = (Arc::new(shared), Arc::new(Pool::default()));
        Ok(OpenedLog {
            appender: Appender::new(Arc::clone(&shared), Arc::clone(&pool), self.chain),
            syncer: Syncer::new(Arc::clone(&shared), pool, active, self.chain),
            preparer: Preparer::new(Arc::clone(&shared)),
            log: Log { shared },
            recovered,
        })
    }

    fn epochs(&self) -> Vec<EpochStart> {
        let before = self.survey.segments.first().and_then(|first| first.header.chain.epoch);
        let sealed = self.survey.segments.iter().filter_map(|segment| segment.footer.as_ref());
        let sealed = sealed.flat_map(|footer| footer.epochs.iter().copied());
        let tail = self.tail.iter().flat_map(|scan| scan.epochs.iter().copied());
        before.into_iter().chain(sealed).chain(tail).collect()
    }
}

fn random_id(dir: &Path) -> Result<LogId, LogError> {
    let mut bytes = [0; 16];
    OsRng
        .try_fill_bytes(&mut bytes)
        .map_err(|error| LogError::io("draw an identity for", dir)(std::io::Error::other(error)))?;
    Ok(LogId::from_bytes(bytes))
}
