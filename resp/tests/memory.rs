//! What hostile clients can make the decoder take, measured at the allocator. One test, because
//! the measure is of the whole process.

use bytes::BytesMut;
use larder_resp::{Decoder, Limits, Pipeline, ReplyDecoder, ReplyLimits, encode_request};
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Bytes that may be taken beside what is in proportion to the input.
const SLACK: usize = 64 << 10;

/// The largest number of bytes allocated at once during `work`, beyond those before it.
fn peak_bytes<T>(work: impl FnOnce() -> T) -> usize {
    ALLOCATOR.reset_peak_usage();
    let before = ALLOCATOR.current_usage();
    let kept = work();
    let peak = ALLOCATOR.peak_usage();
    drop(kept);
    peak - before
}

/// Reads `input` as a server does: in reads of at most 16 KiB, or more where the decoder wants so.
fn serve(decoder: &mut Decoder, input: &[u8]) -> usize {
    let mut buffer = BytesMut::new();
    let mut rest = input;
    let mut requests = 0;
    while !rest.is_empty() {
        let room = decoder.wanted().clamp(16 << 10, rest.len().max(16 << 10));
        let (read, after) = rest.split_at(room.min(rest.len()));
        rest = after;
        buffer.reserve(room);
        buffer.extend_from_slice(read);
        loop {
            let pipeline = decoder.decode(&mut buffer, 1024).expect("valid requests");
            requests += pipeline.len();
            if pipeline.is_empty() {
                break;
            }
        }
    }
    requests
}

fn after_auth(input: &[u8]) -> (usize, usize) {
    let mut requests = 0;
    let peak = peak_bytes(|| {
        let mut decoder = Decoder::new(Limits::AFTER_AUTH);
        requests = serve(&mut decoder, input);
        decoder
    });
    (requests, peak)
}

#[test]
fn memory_follows_what_arrives_and_never_what_is_declared() {
    let (_, peak) = after_auth(b"*1048576\r\n$8388608\r\n");
    assert!(peak < SLACK, "two declared lengths took {peak} bytes");

    let peak = peak_bytes(|| {
        (0..10_000)
            .map(|_| {
                let mut decoder = Decoder::new(Limits::BEFORE_AUTH);
                let mut buffer = BytesMut::from(&b"*10\r\n$16384\r\n"[..]);
                assert!(decoder.decode(&mut buffer, 16).unwrap().is_empty());
                (decoder, buffer)
            })
            .collect::<Vec<_>>()
    });
    assert!(peak < 10_000 * 512, "10,000 connections that wait took {peak} bytes");

    let mut large = BytesMut::new();
    encode_request(&mut large, [b"SET", b"key", &vec![b'v'; 8 << 20][..]]);
    let (requests, peak) = after_auth(&large);
    assert_eq!(requests, 1);
    assert!(peak < 3 * large.len() + SLACK, "a value of 8 MiB took {peak} bytes");

    let many = ["*1000000\r\n", &"$0\r\n\r\n".repeat(1_000_000)].concat();
    let (requests, peak) = after_auth(many.as_bytes());
    assert_eq!(requests, 1);
    assert!(peak < 6 * many.len() + SLACK, "{} bytes of nothing took {peak}", many.len());

    let mut ping = BytesMut::from("*1\r\n$4\r\nPING\r\n");
    let ping = Decoder::new(Limits::AFTER_AUTH).decode(&mut ping, 1).expect("a request");
    let keep = || Pipeline::of(ping.request(0));
    let peak = peak_bytes(|| (0..10_000).map(|_| keep()).collect::<Vec<_>>());
    assert!(peak < 10_000 * 128, "10,000 requests that are kept took {peak} bytes");

    let words = "w ".repeat(32_000) + "\r\n";
    let (requests, peak) = after_auth(words.repeat(20).as_bytes());
    assert_eq!(requests, 20);
    assert!(peak < 2 << 20, "inline words took {peak} bytes");

    let peak = peak_bytes(|| {
        let mut decoder = ReplyDecoder::new(ReplyLimits::DEFAULT);
        let mut buffer = BytesMut::from(&b"*1000000\r\n*40000\r\n$200000000\r\n"[..]);
        assert_eq!(decoder.decode(&mut buffer), Ok(None));
        decoder
    });
    assert!(peak < SLACK, "declared replies took {peak} bytes");
}
