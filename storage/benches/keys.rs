//! The cost of naming and laying out what is stored: once for every read and every write.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use larder_storage::{
    keys,
    row::{self, Generation, RowRef},
};
use larder_types::{Epoch, HybridTime, Position, SequenceNumber};

const KEY: &[u8] = b"key:000000123456";
const FIELD: &[u8] = b"field:01";

fn generation() -> Generation {
    let epoch = Epoch { term: 1, run: 2, id: 3 };
    Generation { position: Position { epoch, seq: SequenceNumber::FIRST }, ordinal: 0 }
}

fn keys_of_the_database(c: &mut Criterion) {
    let mut group = c.benchmark_group("keys");
    group.throughput(Throughput::Elements(1));
    let mut out = Vec::new();
    group.bench_function("row, write", |b| {
        b.iter(|| keys::key_row_key(black_box(KEY), &mut out));
    });
    group.bench_function("element, write", |b| {
        b.iter(|| keys::element_key(black_box(KEY), generation(), black_box(FIELD), &mut out));
    });
    keys::key_row_key(KEY, &mut out);
    group.bench_function("row, parse", |b| b.iter(|| keys::parse(black_box(&out)).is_ok()));
    keys::element_key(KEY, generation(), FIELD, &mut out);
    group.bench_function("element, parse", |b| b.iter(|| keys::parse(black_box(&out)).is_ok()));
    group.finish();
}

fn rows(c: &mut Criterion) {
    let mut group = c.benchmark_group("rows");
    let version = HybridTime::new(1, 2);
    for bytes in [64, 1_024] {
        let value = vec![7; bytes];
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(format!("string of {bytes} B, write"), |b| {
            b.iter(|| row::string_row(version, None, black_box(&value)));
        });
    }
    group.throughput(Throughput::Elements(1));
    group.bench_function("hash, write", |b| {
        b.iter(|| row::hash_row(version, None, black_box(generation()), 3));
    });
    let string = row::string_row(version, Some(9), &[7; 64]);
    group.bench_function("string, parse", |b| b.iter(|| RowRef::parse(black_box(&string)).is_ok()));
    let hash = row::hash_row(version, Some(9), generation(), 3);
    group.bench_function("hash, parse", |b| b.iter(|| RowRef::parse(black_box(&hash)).is_ok()));
    group.finish();
}

criterion_group!(benches, keys_of_the_database, rows);
criterion_main!(benches);
