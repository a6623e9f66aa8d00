//! One flipped bit, anywhere in any file of a log.
//!
//! What may come of it: the log is refused; or everything is there all the same; or, where no
//! mark vouches for it yet, the last batch is cut and reported. Never another record than the one
//! that was written, and never less without a report.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod log_support;

use std::{collections::BTreeMap, path::Path, sync::Arc};

use larder_storage::{
    fs::testing::{Image, SimFs},
    fs::{Fs, create_dir_durably},
    log::{self, LogError, LogOptions, OpenedLog, OwnedRecord, ReadError},
};
use larder_types::{HybridTime, SequenceNumber};
use log_support::{DATA, LOG, append, commit, epoch, open, read_all, seq, setting, small_segments};

/// How the log was left.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Ending {
    Killed,
    Idle,
    Closed,
    Sealed,
}

struct Written {
    image: Image,
    records: Vec<OwnedRecord>,
    /// The last record before the last batch.
    before_last_batch: u64,
    ending: Ending,
}

fn options() -> LogOptions {
    LogOptions { hot_tail_bytes: 0, ..small_segments() }
}

fn write(ending: Ending) -> Written {
    let fs = SimFs::default();
    create_dir_durably(&fs, Path::new(DATA)).unwrap();
    let (mut opened, _) = open(&fs, &options(), seq(1)).unwrap();
    opened.appender.begin_epoch(epoch(1), HybridTime::ZERO);
    let mut before_last_batch = 0;
    for batch in 0..7_u8 {
        before_last_batch = opened.appender.next_seq().as_u64() - 1;
        for record in 0..=batch % 3 {
            append(&mut opened, &vec![batch * 16 + record; 30 + 9 * usize::from(record)]);
        }
        commit(&mut opened).unwrap();
    }
    let records = read_all(&opened);
    match ending {
        Ending::Killed | Ending::Sealed => {}
        Ending::Idle => opened.syncer.mark_idle().unwrap(),
        Ending::Closed => opened.syncer.close().unwrap(),
    }
    let mut image = fs.image();
    if ending == Ending::Sealed {
        // As if the power had failed between a footer and the next segment.
        let last = image.files.keys().next_back().unwrap().clone();
        image.files.remove(&last);
        let rest = SimFs::new(&image);
        let dumped = log::dump(&rest, Path::new(LOG)).unwrap();
        let records = dumped.collect::<Result<Vec<_>, _>>().unwrap();
        let before_last_batch = records.len() as u64;
        return Written { image, records, before_last_batch, ending };
    }
    assert!(image.files.len() > 2, "the log has several segments");
    Written { image, records, before_last_batch, ending }
}

#[derive(Debug, Default)]
struct Outcomes(BTreeMap<&'static str, u64>);

impl Outcomes {
    fn count(&mut self, outcome: &'static str) {
        *self.0.entry(outcome).or_default() += 1;
    }
}

impl Written {
    /// Gives the disk with each bit flipped in turn, or every `step`th.
    fn each_flip(&self, step: u64, each: &mut dyn FnMut(&str, Image)) {
        for (path, bytes) in &self.image.files {
            for bit in (0..bytes.len() as u64 * 8).step_by(step as usize) {
                let mut changed = bytes.to_vec();
                changed[bit as usize / 8] ^= 1 << (bit % 8);
                let mut image = self.image.clone();
                image.files.insert(path.clone(), Arc::new(changed));
                each(&format!("{:?}: {} bit {bit}", self.ending, path.display()), image);
            }
        }
    }

    /// What opening and reading everything made of a disk.
    fn check(&self, place: &str, image: &Image) -> &'static str {
        let fs = SimFs::new(image);
        let opened = match open(&fs, &options(), seq(1)) {
            Ok((opened, replayed)) => {
                assert_eq!(replayed, read_all(&opened), "{place}");
                opened
            }
            Err(error) => {
                assert!(error.is_corruption(), "{place}: {error:?}");
                assert_eq!(fs.image(), *image, "{place}: damage changes nothing");
                return "refused";
            }
        };
        let found = read_all(&opened);
        assert_eq!(found, self.records[..found.len()], "{place}: wrong data");
        if found.len() == self.records.len() {
            return "repaired";
        }
        let torn = opened.recovered.torn.as_ref();
        let torn = torn.unwrap_or_else(|| panic!("{place}: records vanished without a report"));
        assert!(found.len() as u64 >= self.before_last_batch, "{place}: more than the last batch");
        assert_eq!(self.ending, Ending::Killed, "{place}: a mark vouches for every record");
        assert!(quarantined(&fs, torn) == torn.bytes, "{place}: what was cut is kept");
        "torn in the last batch"
    }
}

fn quarantined(fs: &SimFs, torn: &log::TornTail) -> u64 {
    let file = fs.open(&torn.quarantined_to, larder_storage::fs::OpenMode::Read).unwrap();
    file.len().unwrap()
}

#[test]
fn a_flipped_bit_is_refused_or_repaired_or_torn_in_the_last_batch() {
    let step = setting("LARDER_FLIP_STEP", 3);
    let mut outcomes = Outcomes::default();
    for ending in [Ending::Killed, Ending::Idle, Ending::Closed, Ending::Sealed] {
        let written = write(ending);
        assert_eq!(written.check("no flip", &written.image), "repaired");
        written.each_flip(step, &mut |place, image| outcomes.count(written.check(place, &image)));
    }
    println!("bit flips: {} ({:?})", outcomes.0.values().sum::<u64>(), outcomes.0);
    for outcome in ["refused", "repaired", "torn in the last batch"] {
        assert!(outcomes.0.get(outcome).is_some_and(|&count| count > 100), "{outcome}");
    }
}

/// Segments below the state's position are not read when the log is opened, so damage in them
/// shows when they are.
#[test]
fn damage_in_a_segment_that_was_not_read_at_the_start_is_found_by_readers_and_by_verify() {
    let written = write(Ending::Closed);
    let tail = seq(written.records.len() as u64 + 1);
    let mut outcomes = Outcomes::default();
    written.each_flip(29, &mut |place, image| {
        let fs = SimFs::new(&image);
        let verified = log::verify(&fs, Path::new(LOG));
        assert_eq!(fs.image(), image, "{place}: verifying changes nothing");
        match open(&fs, &options(), tail) {
            Err(error) => {
                assert!(error.is_corruption(), "{place}: {error:?}");
                assert!(verified.is_err_and(|error| error.is_corruption()), "{place}");
                outcomes.count("refused");
            }
            Ok((opened, _)) => match read_until_error(&opened, &written.records, place) {
                None => {
                    let cut = opened.recovered.torn.is_some();
                    assert!(verified.is_ok_and(|report| report.torn.is_some() == cut), "{place}");
                    outcomes.count("repaired");
                }
                Some(_) => {
                    assert!(verified.is_err_and(|error| error.is_corruption()), "{place}");
                    outcomes.count("found by a reader");
                }
            },
        }
    });
    assert!(outcomes.0["found by a reader"] > 100, "{outcomes:?}");
    println!("bit flips behind the state's position: {:?}", outcomes.0);
}

fn read_until_error(opened: &OpenedLog, records: &[OwnedRecord], place: &str) -> Option<LogError> {
    let mut cursor = opened.log.read(SequenceNumber::FIRST).unwrap();
    let mut read = 0;
    loop {
        match cursor.next() {
            Ok(Some(record)) => {
                assert_eq!(record, records[read], "{place}: wrong data");
                read += 1;
            }
            Ok(None) => {
                assert_eq!(read, records.len(), "{place}: records vanished");
                return None;
            }
            Err(ReadError::Log(error)) => {
                assert!(error.is_corruption(), "{place}: {error:?}");
                return Some(error);
            }
            Err(other) => panic!("{place}: {other:?}"),
        }
    }
}
