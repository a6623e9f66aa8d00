//! Power cuts at every operation: small workloads run on a recording file system, and every disk
//! that a cut could leave is opened again.
//!
//! Whatever the cut left: every acknowledged record is there, what is there is a prefix of what
//! was appended, bit by bit, and opening a second time finds nothing to do.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod log_support;

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use larder_storage::{
    fs::{
        File, Fs, OpenMode, create_dir_durably, read_full_at,
        testing::{Image, SimFs},
        write_atomic,
    },
    log::{LogOptions, OpenedLog, OwnedRecord, RecordKind},
};
use larder_types::{HybridTime, RegionId, SequenceNumber};
use log_support::{DATA, LOG, Random, append, commit, epoch, open, read_all, seq, setting};

/// Distinct images a run has to reach, unless `LARDER_CRASH_IMAGES` says otherwise.
const IMAGES: u64 = 50_000;
/// The epoch that a check begins: after every one of a workload.
const CHECK_RUN: u32 = 1_000;

/// What a workload does wrong on purpose.
#[derive(Clone, Copy, PartialEq)]
enum Bug {
    None,
    /// Acknowledges when the system has the batch, not when the disk has it.
    AckBeforeSync,
    /// Never syncs a directory.
    NoDirectorySync,
}

/// A workload, and what was promised at each point of it.
struct Story {
    fs: SimFs,
    options: LogOptions,
    random: Random,
    bug: Bug,
    opened: Option<OpenedLog>,
    run: u32,
    /// Every record ever handed to the syncer, and how many operations had been done by then.
    appended: Vec<(usize, RecordKind, u32, Vec<u8>)>,
    /// (operations done, promise), each in order.
    acked: Vec<(usize, u64)>,
    floors: Vec<(usize, SequenceNumber)>,
    manifests: Vec<(usize, usize, String)>,
}

impl Story {
    fn run(seed: u64, bug: Bug) -> Self {
        let fs = SimFs::default();
        create_dir_durably(&fs, Path::new(DATA)).unwrap();
        if bug == Bug::NoDirectorySync {
            fs.skip_dir_syncs();
        }
        let mut random = Random(seed);
        let options = LogOptions {
            segment_bytes: 300 + random.below(700) as u64,
            reserve_bytes: 0,
            hot_tail_bytes: random.below(2) * 400,
            origin: RegionId(3),
        };
        let mut story = Self {
            fs,
            options,
            random,
            bug,
            opened: None,
            run: 0,
            appended: Vec::new(),
            acked: Vec::new(),
            floors: Vec::new(),
            manifests: Vec::new(),
        };
        story.open();
        for _ in 0..7 {
            story.step();
        }
        story
    }

    fn step(&mut self) {
        match self.random.below(15) {
            0 => self.trim(),
            1 => self.opened().syncer.mark_idle().unwrap(),
            2 => {
                if self.random.below(2) == 0 {
                    self.opened.take().unwrap().syncer.close().unwrap();
                }
                self.open();
            }
            3 => self.write_manifest(),
            4..=6 => self.opened().preparer.prepare().unwrap(),
            _ => self.commit_some(),
        }
    }

    fn opened(&mut self) -> &mut OpenedLog {
        self.opened.as_mut().unwrap()
    }

    fn open(&mut self) {
        self.opened = None;
        let from = self.floors.last().map_or(SequenceNumber::FIRST, |&(_, first)| first);
        let (opened, _) = open(&self.fs, &self.options, from).unwrap();
        assert_eq!(opened.recovered.torn, None, "nothing crashed");
        // What was never handed to the syncer is gone.
        self.appended.truncate(opened.recovered.tail.as_u64() as usize - 1);
        // What is replayed has been made durable.
        self.acked.push((self.fs.operations(), opened.recovered.tail.as_u64() - 1));
        self.opened = Some(opened);
        self.run += 1;
        let run = self.run;
        self.opened().appender.begin_epoch(epoch(run), HybridTime::ZERO);
        self.note(RecordKind::Epoch, Vec::new());
    }

    fn note(&mut self, kind: RecordKind, body: Vec<u8>) {
        self.appended.push((self.fs.operations(), kind, self.run, body));
    }

    fn commit_some(&mut self) {
        for _ in 0..=self.random.below(3) {
            let length = match self.random.below(8) {
                0 => 600 + self.random.below(900),
                _ => self.random.below(90),
            };
            let body = self.random.bytes(length);
            append(self.opened(), &body);
            self.note(RecordKind::Data, body);
        }
        let last = if self.bug == Bug::AckBeforeSync {
            let batch = self.opened().appender.take_batch().unwrap();
            self.opened().syncer.write(batch).unwrap()
        } else {
            commit(self.opened()).unwrap()
        };
        self.acked.push((self.fs.operations(), last.as_u64()));
    }

    fn trim(&mut self) {
        let Some(durable) = self.opened().log.durable() else { return };
        let floor = seq(1 + self.random.below(durable.as_u64() as usize) as u64);
        let begun = self.fs.operations();
        self.opened().log.trim(floor).unwrap();
        let first = self.opened().log.first();
        self.floors.push((begun, first));
    }

    fn write_manifest(&mut self) {
        let value = format!("manifest {}", self.manifests.len()).repeat(40);
        let begun = self.fs.operations();
        write_atomic(&self.fs, Path::new(DATA), "MANIFEST", value.as_bytes()).unwrap();
        self.manifests.push((begun, self.fs.operations(), value));
    }

    /// What must hold of a disk cut after `point` operations.
    fn promise(&self, point: usize) -> Promise<'_> {
        let upto = |at: &usize| *at <= point;
        let manifests = || self.manifests.iter().enumerate();
        Promise {
            story: self,
            appended: self.appended.iter().take_while(|(at, ..)| upto(at)).count(),
            acked: self.acked.iter().filter(|(at, _)| upto(at)).map(|&(_, last)| last).max(),
            floor: self.floors.iter().filter(|(at, _)| upto(at)).map(|&(_, first)| first).max(),
            manifest_done: manifests().filter(|(_, (_, done, _))| upto(done)).map(|(i, _)| i).max(),
            manifest_begun: manifests()
                .filter(|(_, (begun, ..))| upto(begun))
                .map(|(i, _)| i)
                .max(),
        }
    }
}

struct Promise<'a> {
    story: &'a Story,
    appended: usize,
    acked: Option<u64>,
    floor: Option<SequenceNumber>,
    manifest_done: Option<usize>,
    manifest_begun: Option<usize>,
}

impl Promise<'_> {
    /// Two equal keys ask for the same.
    fn key(&self) -> (usize, Option<u64>, Option<SequenceNumber>, Option<usize>, Option<usize>) {
        (self.appended, self.acked, self.floor, self.manifest_done, self.manifest_begun)
    }

    /// Opens the disk twice, goes on writing, opens again. Returns the disk after the first
    /// opening, where that changed anything.
    fn check(&self, image: &Image) -> Result<SimFs, String> {
        let fs = SimFs::new(image);
        self.check_manifest(&fs)?;
        let from = self.floor.unwrap_or(SequenceNumber::FIRST);
        let first_open = fs.clone();
        let (opened, replayed) =
            open(&fs, &self.story.options, from).map_err(|error| format!("refused: {error:?}"))?;
        let kept = read_all(&opened);
        self.check_records(&kept, &opened)?;
        let suffix = kept.iter().filter(|record| record.seq >= from);
        if !suffix.eq(&replayed) {
            return Err("what is replayed is not what is read".into());
        }
        drop(opened);
        let recovery = SimFs::new(&fs.image());
        let (mut opened, _) = open(&recovery, &self.story.options, from)
            .map_err(|error| format!("refused when opened again: {error:?}"))?;
        if opened.recovered.torn.is_some() || opened.recovered.set_aside.is_some() {
            return Err(format!("opened again: {:?}", opened.recovered));
        }
        if read_all(&opened) != kept {
            return Err("other records when opened again".into());
        }
        opened.appender.begin_epoch(epoch(CHECK_RUN), HybridTime::ZERO);
        append(&mut opened, b"written after the crash");
        commit(&mut opened).map_err(|error| error.to_string())?;
        let (opened, _) = open(&recovery, &self.story.options, from)
            .map_err(|error| format!("refused after going on: {error:?}"))?;
        let after = read_all(&opened);
        if after.len() != kept.len() + 2 || after[..kept.len()] != kept {
            return Err("records changed by going on".into());
        }
        Ok(first_open)
    }

    fn check_records(&self, kept: &[OwnedRecord], opened: &OpenedLog) -> Result<(), String> {
        let first = opened.log.first();
        if self.floor.is_none_or(|floor| first > floor) && first != SequenceNumber::FIRST {
            return Err(format!("begins at {first}, trimmed to {:?}", self.floor));
        }
        let tail = opened.recovered.tail.as_u64();
        if tail <= self.acked.unwrap_or(0) {
            return Err(format!("ends before {tail}, but {:?} was acknowledged", self.acked));
        }
        if tail > self.appended as u64 + 1 || kept.len() as u64 != tail - first.as_u64() {
            return Err(format!("{} records from {first} to {tail}", kept.len()));
        }
        for (record, number) in kept.iter().zip(first.as_u64()..) {
            let (_, kind, run, body) = &self.story.appended[number as usize - 1];
            let same_body = *kind == RecordKind::Epoch || record.body[..] == body[..];
            let same_head = record.seq.as_u64() == number && record.origin == RegionId(3);
            if !same_body || !same_head || record.kind != *kind || record.epoch != epoch(*run) {
                return Err(format!("record {number} is not what was written"));
            }
        }
        Ok(())
    }

    fn check_manifest(&self, fs: &SimFs) -> Result<(), String> {
        let path = PathBuf::from(DATA).join("MANIFEST");
        let found = fs.open(&path, OpenMode::Read).ok().map(|file| read_whole(&*file));
        let values = &self.story.manifests;
        let value = |at: Option<usize>| at.map(|at| values[at].2.as_bytes().to_vec());
        if found != value(self.manifest_done) && found != value(self.manifest_begun) {
            return Err(format!("a manifest of {:?} bytes", found.map(|bytes| bytes.len())));
        }
        Ok(())
    }
}

fn read_whole(file: &dyn File) -> Vec<u8> {
    let mut bytes = vec![0; file.len().unwrap() as usize];
    let read = read_full_at(file, &mut bytes, 0).unwrap();
    assert_eq!(read, bytes.len());
    bytes
}

/// Images met so far.
#[derive(Default)]
struct Tally {
    distinct: HashSet<u64>,
    cuts_in_recovery: u64,
}

/// Cuts a story everywhere, and where recovery changed something, recovery too.
fn cut_everywhere(story: &Story, tally: &mut Tally) -> Result<(), String> {
    let crashes = story.fs.crashes();
    let mut checked = HashSet::new();
    for point in 0..=crashes.points() {
        let promise = story.promise(point);
        let mut failure = None;
        crashes.each(point, &mut |variant, image| {
            let digest = image.digest();
            if failure.is_some() || !checked.insert((digest, promise.key())) {
                return;
            }
            let is_new = tally.distinct.insert(digest);
            let result = promise.check(&image).and_then(|recovered| {
                let repaired = recovered.operations() > 4 && digest % 16 == 0;
                if is_new && repaired { cut_recovery(&promise, &recovered, tally) } else { Ok(()) }
            });
            failure = result.err().map(|reason| format!("{variant:?}: {reason}"));
        });
        if let Some(failure) = failure {
            return Err(format!("cut after {point} of {} operations, {failure}", crashes.points()));
        }
    }
    Ok(())
}

fn cut_recovery(promise: &Promise<'_>, fs: &SimFs, tally: &mut Tally) -> Result<(), String> {
    let crashes = fs.crashes();
    let mut result = Ok(());
    for point in 0..=crashes.points() {
        crashes.each(point, &mut |variant, image| {
            if result.is_ok() && tally.distinct.insert(image.digest()) {
                tally.cuts_in_recovery += 1;
                let checked = promise.check(&image).map(|_| ());
                result = checked.map_err(|reason| format!("recovery cut, {variant:?}: {reason}"));
            }
        });
    }
    result
}

#[test]
fn whatever_a_power_cut_leaves_holds_every_acknowledged_record_and_nothing_else() {
    let wanted = setting("LARDER_CRASH_IMAGES", IMAGES) as usize;
    let mut tally = Tally::default();
    let mut seed = setting("LARDER_CRASH_SEED", 1);
    let mut stories = 0;
    while tally.distinct.len() < wanted {
        let story = Story::run(seed, Bug::None);
        if let Err(failure) = cut_everywhere(&story, &mut tally) {
            panic!("LARDER_CRASH_SEED={seed}: {failure}");
        }
        seed += 1;
        stories += 1;
    }
    println!(
        "crash images: {} distinct, {} of them cuts in recovery, from {stories} workloads",
        tally.distinct.len(),
        tally.cuts_in_recovery
    );
}

/// The check can fail: it finds planted bugs.
fn first_failure(bug: Bug) -> Option<String> {
    (1..20).find_map(|seed| cut_everywhere(&Story::run(seed, bug), &mut Tally::default()).err())
}

#[test]
fn acknowledging_before_the_sync_is_caught() {
    let failure = first_failure(Bug::AckBeforeSync).expect("the planted bug is found");
    assert!(failure.contains("was acknowledged"), "{failure}");
}

#[test]
fn not_syncing_directories_is_caught() {
    let failure = first_failure(Bug::NoDirectorySync).expect("the planted bug is found");
    assert!(failure.contains("was acknowledged") || failure.contains("refused"), "{failure}");
}

#[test]
fn a_log_that_crashed_while_it_was_made_is_made_again() {
    let story = Story::run(1, Bug::None);
    let crashes = story.fs.crashes();
    let mut made = 0;
    crashes.each(2, &mut |_, image| {
        assert!(image.files.keys().all(|path| path.starts_with(LOG)));
        story.promise(2).check(&image).unwrap();
        made += 1;
    });
    assert!(made > 0);
}
