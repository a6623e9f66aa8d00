//! What appending, committing and reading a log cost.

use std::{
    convert::Infallible,
    hint::black_box,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use larder_storage::{
    fs::RealFs,
    log::{self, LogOptions, OpenedLog, Record},
};
use larder_types::{Epoch, HybridTime, SequenceNumber};

const BODY: [u8; 150 - 48] = [7; 102];

fn open(dir: &Path, hot_tail_bytes: usize) -> OpenedLog {
    let options = LogOptions { hot_tail_bytes, ..LogOptions::default() };
    let (fs, quarantine) = (Arc::new(RealFs), dir.join("quarantine"));
    let mut ignore = |_: Record<'_>| Ok::<(), Infallible>(());
    let opened =
        log::open(fs, &dir.join("log"), &quarantine, options, SequenceNumber::FIRST, &mut ignore);
    let mut opened = opened.expect("a new log opens");
    opened.appender.begin_epoch(Epoch { term: 1, run: 1, id: 1 }, HybridTime::ZERO);
    opened
}

/// Encoding alone: 1,000 records of 150 bytes a batch, never written.
fn append(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut opened = open(dir.path(), 0);
    let mut group = criterion.benchmark_group("append");
    group.throughput(Throughput::Elements(1_000));
    group.bench_function("1000 records of 150 B and a commit without sync", |bencher| {
        bencher.iter(|| {
            for counter in 0..1_000 {
                let hybrid = HybridTime::new(1, counter);
                let body = |body: &mut Vec<u8>| body.extend_from_slice(&BODY);
                black_box(opened.appender.append(hybrid, body).expect("it fits"));
            }
            let batch = opened.appender.take_batch().expect("records were appended");
            opened.syncer.write(batch).expect("the disk takes it");
        });
    });
    group.bench_function("1000 records of 150 B, encoding only", |bencher| {
        bencher.iter_custom(|rounds| {
            let mut encoding = Duration::ZERO;
            for _ in 0..rounds {
                let began = Instant::now();
                for counter in 0..1_000 {
                    let hybrid = HybridTime::new(1, counter);
                    let body = |body: &mut Vec<u8>| body.extend_from_slice(&BODY);
                    black_box(opened.appender.append(hybrid, body).expect("it fits"));
                }
                encoding += began.elapsed();
                let batch = opened.appender.take_batch().expect("records were appended");
                opened.syncer.write(batch).expect("the disk takes it");
            }
            encoding
        });
    });
    group.finish();
}

/// One batch, one write, one fdatasync: what a group of waiting writes pays.
fn commit(criterion: &mut Criterion) {
    let dir = tempfile::tempdir_in(".").expect("a temporary directory");
    let mut opened = open(dir.path(), 8 << 20);
    let mut group = criterion.benchmark_group("commit");
    for records in [1_u64, 50, 800] {
        group.throughput(Throughput::Elements(records));
        group.bench_function(format!("{records} records of 150 B"), |bencher| {
            bencher.iter(|| {
                for _ in 0..records {
                    let body = |body: &mut Vec<u8>| body.extend_from_slice(&BODY);
                    opened.appender.append(HybridTime::ZERO, body).expect("it fits");
                }
                let batch = opened.appender.take_batch().expect("records were appended");
                opened.syncer.commit(batch).expect("the disk takes it")
            });
        });
    }
    group.finish();
}

/// Reading 10,000 records from disk and from the hot tail.
fn read(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("read");
    group.throughput(Throughput::Elements(10_000));
    for (name, hot_tail_bytes) in [("disk", 0), ("hot tail", 8 << 20)] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut opened = open(dir.path(), hot_tail_bytes);
        for _ in 0..10_000 {
            let body = |body: &mut Vec<u8>| body.extend_from_slice(&BODY);
            opened.appender.append(HybridTime::ZERO, body).expect("it fits");
        }
        let batch = opened.appender.take_batch().expect("records were appended");
        opened.syncer.commit(batch).expect("the disk takes it");
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut cursor = opened.log.read(SequenceNumber::FIRST).expect("it is kept");
                let mut count = 0;
                while let Some(record) = cursor.next().expect("it is whole") {
                    count += record.body.len();
                }
                count
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3));
    targets = append, commit, read
}
criterion_main!(benches);
