//! What a fold and a point read cost in RocksDB, with its flushes and compactions
//! (`docs/adr/0003-folding.md`).

use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use larder_storage::{
    keys, row,
    state::{Applied, Database, DatabaseOptions, FoldBatch},
};
use larder_types::{Epoch, HybridTime, Position, SequenceNumber};
use rand::{Rng, RngCore, SeedableRng, rngs::SmallRng};

const KEYS: u64 = 1_000_000;
const VALUE_BYTES: usize = 64;

fn key(number: u64) -> Vec<u8> {
    format!("key:{number:012}").into_bytes()
}

/// Random keys in the order of the database, with random values.
fn changes(random: &mut SmallRng, count: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut changes: Vec<_> = (0..count)
        .map(|_| {
            let key = key(random.random_range(0..KEYS));
            let mut place = Vec::new();
            keys::key_row_key(&key, &mut place);
            let mut value = vec![0; VALUE_BYTES];
            random.fill_bytes(&mut value);
            (place, key, value)
        })
        .collect();
    changes.sort_unstable();
    changes.into_iter().map(|(_, key, value)| (key, value)).collect()
}

fn fold(database: &Database, seq: &mut SequenceNumber, changes: &[(Vec<u8>, Vec<u8>)]) {
    let mut batch = FoldBatch::with_capacity(changes.len() * 128);
    let version = HybridTime::new(seq.as_u64(), 0);
    for (key, value) in changes {
        batch.put_row(key, &row::string_row(version, None, value));
    }
    let position = Position { epoch: Epoch { term: 1, run: 1, id: 1 }, seq: *seq };
    database.fold(batch, Applied { position, hybrid: version }).expect("the disk is writable");
    *seq = seq.next();
}

fn folds(c: &mut Criterion) {
    let mut group = c.benchmark_group("fold");
    group.sample_size(10).measurement_time(Duration::from_secs(8));
    for count in [10_000, 400_000] {
        let directory = tempfile::tempdir().expect("a directory for the database");
        let options = DatabaseOptions::new(256 << 20, 256 << 20);
        let database = Database::open(directory.path(), &options).expect("a new database");
        let (mut random, mut seq) = (SmallRng::seed_from_u64(1), SequenceNumber::FIRST);
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(format!("{count} sorted keys, with flushes as they fall due"), |b| {
            b.iter_custom(|rounds| {
                let mut spent = Duration::ZERO;
                for _ in 0..rounds {
                    let changes = changes(&mut random, count);
                    let start = Instant::now();
                    fold(&database, &mut seq, &changes);
                    spent += start.elapsed();
                }
                spent
            });
        });
    }
    group.finish();
}

fn reads(c: &mut Criterion) {
    let directory = tempfile::tempdir().expect("a directory for the database");
    let options = DatabaseOptions::new(512 << 20, 256 << 20);
    let database = Database::open(directory.path(), &options).expect("a new database");
    let (mut random, mut seq) = (SmallRng::seed_from_u64(1), SequenceNumber::FIRST);
    for _ in 0..6 {
        fold(&database, &mut seq, &changes(&mut random, 400_000));
    }
    database.compact().expect("the disk is writable");
    let mut group = c.benchmark_group("read");
    group.throughput(Throughput::Elements(1));
    group.bench_function("a row, from the block cache", |b| {
        b.iter_batched(
            || key(random.random_range(0..KEYS)),
            |key| database.row(&key).expect("the database reads"),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(benches, folds, reads);
criterion_main!(benches);
