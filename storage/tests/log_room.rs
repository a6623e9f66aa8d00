//! Room made ahead in the last segment, where the process that made it could not take it back.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod log_support;

use std::path::Path;

use larder_storage::{
    fs::{
        create_dir_durably,
        testing::{Fault, FaultKind, SimFs},
    },
    log::LogOptions,
};
use larder_types::{HybridTime, SequenceNumber};
use log_support::{DATA, append, commit, epoch, open, read_all, small_segments};

/// What a close does before the sync that makes the cut of its room durable: a mark, and the cut.
const BEFORE_THE_LAST_SYNC: u64 = 2;

#[test]
fn room_whose_cut_was_never_synced_does_not_lie_behind_the_footer_of_the_next_run() {
    let fs = SimFs::default();
    create_dir_durably(&fs, Path::new(DATA)).unwrap();
    let wide = LogOptions { segment_bytes: 64 << 10, ..small_segments() };
    let (mut opened, _) = open(&fs, &wide, SequenceNumber::FIRST).unwrap();
    opened.appender.begin_epoch(epoch(1), HybridTime::ZERO);
    append(&mut opened, b"before the cut");
    let mut acked = vec![(fs.operations(), 0)];
    let last = commit(&mut opened).unwrap();
    acked.push((fs.operations(), last.as_u64()));
    fs.set_fault(Some(Fault { after: BEFORE_THE_LAST_SYNC, kind: FaultKind::Io, lasting: false }));
    opened.syncer.close().unwrap_err();
    fs.set_fault(None);

    // The process restarts on the same kernel, to which the file ends where its frames do, with
    // segments so short that the next batch seals it there.
    let narrow = LogOptions { segment_bytes: 1, ..small_segments() };
    let (mut opened, _) = open(&fs, &narrow, SequenceNumber::FIRST).unwrap();
    opened.appender.begin_epoch(epoch(2), HybridTime::ZERO);
    append(&mut opened, b"in the next segment");
    let last = commit(&mut opened).unwrap();
    acked.push((fs.operations(), last.as_u64()));
    assert_eq!(opened.log.segments().len(), 2, "the first was sealed");
    let written = read_all(&opened);

    let crashes = fs.crashes();
    let mut images = 0;
    for point in acked[0].0..=crashes.points() {
        let promised = acked.iter().filter(|(at, _)| *at <= point).map(|&(_, last)| last).max();
        crashes.each(point, &mut |variant, image| {
            let context = format!("cut after {point} operations, {variant:?}");
            let opened = open(&SimFs::new(&image), &narrow, SequenceNumber::FIRST);
            let (_, kept) = opened.unwrap_or_else(|error| panic!("{context}: {error:?}"));
            assert!(kept.len() as u64 >= promised.unwrap(), "{context}");
            assert_eq!(kept, written[..kept.len()], "{context}");
            images += 1;
        });
    }
    assert!(images > 20, "only {images} images");
}
