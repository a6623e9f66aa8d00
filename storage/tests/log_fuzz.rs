//! Mutated logs, as many as fit into `LARDER_FUZZ_SECONDS`, from `LARDER_FUZZ_SEED` on.
//!
//! Whatever the bytes: no panic, no record but those that were written, the same answer when
//! asked again, and nothing changed by reading.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod log_support;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use larder_storage::{
    fs::{
        create_dir_durably,
        testing::{Image, SimFs},
    },
    log::{
        self, OwnedRecord,
        format::{Header, HeaderRead, RECORD_HEADER_BYTES, Sums},
    },
};
use larder_types::HybridTime;
use log_support::{
    DATA, LOG, Random, append, commit, epoch, open, read_all, seq, setting, small_segments,
};

fn write(random: &mut Random) -> (Image, Vec<OwnedRecord>) {
    let fs = SimFs::default();
    create_dir_durably(&fs, Path::new(DATA)).unwrap();
    let (mut opened, _) = open(&fs, &small_segments(), seq(1)).unwrap();
    opened.appender.begin_epoch(epoch(1), HybridTime::ZERO);
    for _ in 0..4 + random.below(8) {
        for _ in 0..=random.below(3) {
            let length = random.below(120);
            let body = random.bytes(length);
            append(&mut opened, &body);
        }
        commit(&mut opened).unwrap();
        if random.below(4) == 0 {
            opened.syncer.mark_idle().unwrap();
        }
    }
    let records = read_all(&opened);
    (fs.image(), records)
}

fn some_file(image: &Image, random: &mut Random) -> Option<PathBuf> {
    let at = random.below(image.files.len().max(1));
    image.files.keys().nth(at).cloned()
}

/// Changes the disk somehow.
fn mutate(image: &mut Image, random: &mut Random) {
    let Some(path) = some_file(image, random) else { return };
    let mut bytes = image.files[&path].to_vec();
    let at = random.below(bytes.len() + 1);
    let length = random.below(bytes.len() - at + 1).min(1 + random.below(200));
    match random.below(10) {
        0 => bytes.truncate(at),
        1 => bytes.resize(bytes.len() + random.below(1000), 0),
        2 => bytes[at..at + length].fill(0),
        3 => {
            let noise = random.bytes(length);
            bytes[at..at + length].copy_from_slice(&noise);
        }
        4 => drop(bytes.drain(at..at + length)),
        5 => {
            let piece = bytes[at..at + length].to_vec();
            let to = random.below(bytes.len() + 1);
            bytes.splice(to..to, piece);
        }
        6 => {
            let Some(other) = some_file(image, random) else { return };
            image.files.insert(path, Arc::clone(&image.files[&other]));
            return;
        }
        7 => {
            image.files.remove(&path);
            return;
        }
        _ if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
        _ => {}
    }
    image.files.insert(path, Arc::new(bytes));
}

/// Changes a record's bytes and gives it the right checksum again, so that what lies behind the
/// checksum is reached too.
fn forge(image: &mut Image, random: &mut Random) {
    let Some(path) = some_file(image, random) else { return };
    let mut bytes = image.files[&path].to_vec();
    let HeaderRead::Valid(header) = Header::decode(&bytes) else { return };
    let sums = Sums::new(header.id);
    // Behind the header comes a mark, and behind that a record.
    let start = 96 + 48;
    let Some(length) = bytes.get(start..start + 4) else { return };
    let length = u32::from_le_bytes(length.try_into().unwrap()) as usize;
    let Some(frame) = bytes.get_mut(start..start + length) else { return };
    if frame.len() < RECORD_HEADER_BYTES {
        return;
    }
    frame[8 + random.below(length - 8)] = random.next() as u8;
    let crc = sums.record(frame);
    frame[4..8].copy_from_slice(&crc.to_le_bytes());
    image.files.insert(path, Arc::new(bytes));
}

/// Reads a disk in every way, twice; says how many records there were.
fn read(image: &Image, original: Option<&[OwnedRecord]>) -> usize {
    let fs = SimFs::new(image);
    let dumped = || {
        let records = log::dump(&fs, Path::new(LOG)).map(|dump| dump.collect::<Vec<_>>());
        format!("{records:?}")
    };
    assert_eq!(dumped(), dumped());
    let verified = log::verify(&fs, Path::new(LOG));
    assert_eq!(fs.image(), *image, "reading changes nothing");

    let opened = open(&fs, &small_segments(), seq(1));
    if verified.is_err() {
        assert!(opened.is_err(), "what verify refuses is not opened");
    }
    let Ok((opened, replayed)) = opened else { return 0 };
    assert_eq!(read_all(&opened), replayed);
    if let Some(original) = original {
        for record in &replayed {
            assert_eq!(*record, original[record.seq.as_u64() as usize - 1]);
        }
    }
    drop(opened);
    let (again, replayed_again) = open(&fs, &small_segments(), seq(1)).unwrap();
    assert_eq!((again.recovered.torn, replayed_again.len()), (None, replayed.len()));
    assert_eq!(replayed_again, replayed);
    replayed.len()
}

#[test]
fn mutated_logs_never_panic_never_lie_and_read_the_same_twice() {
    let budget = Duration::from_secs(setting("LARDER_FUZZ_SECONDS", 5));
    let first_seed = setting("LARDER_FUZZ_SEED", 1);
    let (began, mut seed, mut inputs, mut opened) = (Instant::now(), first_seed, 0_u64, 0_u64);
    while began.elapsed() < budget {
        println!("LARDER_FUZZ_SEED={seed}");
        let mut random = Random(seed);
        let (image, records) = write(&mut random);
        assert_eq!(read(&image, Some(&records)), records.len());
        for _ in 0..50 {
            let mut image = image.clone();
            let forged = random.below(4) == 0;
            for _ in 0..=random.below(3) {
                mutate(&mut image, &mut random);
            }
            if forged {
                forge(&mut image, &mut random);
            }
            opened += u64::from(read(&image, (!forged).then_some(&records)) > 0);
            inputs += 1;
        }
        seed += 1;
    }
    println!("log fuzz: {inputs} inputs, {opened} opened, seeds {first_seed}..{seed}");
    assert!(inputs > 50 && opened > 0);
}
