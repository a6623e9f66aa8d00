//! What the codec costs a request, as a connection with pipelines of 16 uses it.

use std::hint::black_box;

use bytes::BytesMut;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use larder_resp::{
    Decoder, Limits, Protocol, Replies, ReplyDecoder, ReplyLimits, ReplyWriter, encode_request,
};

/// Requests in a pipeline.
const PIPELINE: usize = 16;
/// Bytes of a value.
const VALUE_BYTES: usize = 64;

fn sets() -> BytesMut {
    let value = vec![b'v'; VALUE_BYTES];
    let mut out = BytesMut::new();
    for index in 0..PIPELINE {
        let key = format!("key:{index:012}");
        encode_request(&mut out, [b"SET", key.as_bytes(), &value]);
    }
    out
}

fn requests(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("requests");
    group.throughput(Throughput::Elements(PIPELINE as u64));
    let bytes = sets();
    group.bench_function("decode 16 SET of 64 B", |bencher| {
        let mut decoder = Decoder::new(Limits::AFTER_AUTH);
        let mut buffer = BytesMut::with_capacity(64 << 10);
        bencher.iter(|| {
            buffer.reserve(16 << 10);
            buffer.extend_from_slice(&bytes);
            let pipeline = decoder.decode(&mut buffer, 1024).expect("valid requests");
            for request in &pipeline {
                black_box((request.arg(0), request.arg(1), request.arg(2)));
            }
            decoder.recycle(pipeline);
        });
    });
    group.bench_function("decode 16 SET of 64 B, vectors not recycled", |bencher| {
        let mut decoder = Decoder::new(Limits::AFTER_AUTH);
        let mut buffer = BytesMut::with_capacity(64 << 10);
        bencher.iter(|| {
            buffer.reserve(16 << 10);
            buffer.extend_from_slice(&bytes);
            black_box(decoder.decode(&mut buffer, 1024).expect("valid requests"));
        });
    });
    group.bench_function("decode 16 inline PING", |bencher| {
        let mut decoder = Decoder::new(Limits::AFTER_AUTH);
        let mut buffer = BytesMut::with_capacity(64 << 10);
        let bytes = b"PING\r\n".repeat(PIPELINE);
        bencher.iter(|| {
            buffer.reserve(16 << 10);
            buffer.extend_from_slice(&bytes);
            let pipeline = decoder.decode(&mut buffer, 1024).expect("valid requests");
            decoder.recycle(black_box(pipeline));
        });
    });
    group.bench_function("encode 16 SET of 64 B", |bencher| {
        let value = [b'v'; VALUE_BYTES];
        let mut out = BytesMut::with_capacity(16 << 10);
        bencher.iter(|| {
            out.clear();
            for _ in 0..PIPELINE {
                encode_request(&mut out, [b"SET", &b"key:000000000012"[..], &value]);
            }
            black_box(out.len())
        });
    });
    group.finish();
}

fn replies(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("replies");
    group.throughput(Throughput::Elements(PIPELINE as u64));
    let value = [b'v'; VALUE_BYTES];
    let write = |out: &mut Replies, reply: fn(&mut ReplyWriter<'_>, &[u8])| {
        out.clear();
        let mut writer = ReplyWriter::new(out, Protocol::Resp2);
        for _ in 0..PIPELINE {
            reply(&mut writer, black_box(&value));
        }
    };
    let mut out = Replies::default();
    group.bench_function("encode 16 OK", |bencher| {
        bencher.iter(|| write(&mut out, |writer, _| writer.simple("OK")));
    });
    group.bench_function("encode 16 integers", |bencher| {
        bencher.iter(|| write(&mut out, |writer, _| writer.integer(black_box(1_234_567))));
    });
    group.bench_function("encode 16 bulks of 64 B", |bencher| {
        bencher.iter(|| write(&mut out, |writer, value| writer.bulk(value)));
    });
    write(&mut out, |writer, value| writer.bulk(value));
    group.bench_function("decode 16 bulks of 64 B", |bencher| {
        let mut decoder = ReplyDecoder::new(ReplyLimits::DEFAULT);
        bencher.iter_batched(
            || BytesMut::from(&out.to_vec()[..]),
            |mut buffer| {
                while let Some(value) = decoder.decode(&mut buffer).expect("valid replies") {
                    black_box(value);
                }
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(benches, requests, replies);
criterion_main!(benches);
