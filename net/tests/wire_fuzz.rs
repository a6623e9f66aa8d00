//! Streams and hellos of any bytes, as many as fit into `LARDER_FUZZ_SECONDS`, from
//! `LARDER_FUZZ_SEED` on.
//!
//! Whatever the bytes and however they are cut: no panic, no frame but those that a plain reading
//! of the same bytes gives, no frame beyond its bound, and memory that follows what has arrived.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use bytes::Bytes;
use larder_net::{Error, Features, FrameDecoder, Hello, StreamKind, Versions};
use larder_types::ClusterId;
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng, seq::IndexedRandom as _};

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Frames of a stream, and how it ends.
type Reading = (Vec<Vec<u8>>, End);

#[derive(Debug, PartialEq, Eq)]
enum End {
    Whole,
    Within,
    TooLarge(usize),
}

/// What the format says, read without regard to memory or pieces.
fn plainly(kind: StreamKind, mut bytes: &[u8]) -> Reading {
    let mut frames = Vec::new();
    loop {
        let Some((length, rest)) = bytes.split_first_chunk() else {
            let end = if bytes.is_empty() { End::Whole } else { End::Within };
            return (frames, end);
        };
        let length = u32::from_le_bytes(*length) as usize;
        if length > kind.frame_bytes_max() {
            return (frames, End::TooLarge(length));
        }
        let Some(frame) = rest.get(..length) else { return (frames, End::Within) };
        frames.push(frame.to_vec());
        bytes = &rest[length..];
    }
}

/// The same by the decoder, in pieces of any size.
fn in_pieces(kind: StreamKind, bytes: &[u8], random: &mut SmallRng) -> Reading {
    let mut decoder = FrameDecoder::new(kind);
    let (mut frames, mut at) = (Vec::new(), 0);
    loop {
        match decoder.next_frame() {
            Ok(Some(frame)) => frames.push(frame.to_vec()),
            Ok(None) if at == bytes.len() => {
                let is_whole = decoder.is_between_frames();
                return (frames, if is_whole { End::Whole } else { End::Within });
            }
            Ok(None) => {
                for _ in 0..random.random_range(1..4) {
                    let size = *[0, 1, 2, 3, 4, 5, 17, 1200].choose(random).unwrap();
                    let end = bytes.len().min(at + size);
                    decoder.push(Bytes::copy_from_slice(&bytes[at..end]));
                    at = end;
                }
            }
            Err(Error::FrameTooLarge { bytes, .. }) => return (frames, End::TooLarge(bytes)),
            Err(other) => panic!("{other}"),
        }
    }
}

fn noise(random: &mut SmallRng, bytes_max: usize) -> Vec<u8> {
    let length = random.random_range(0..=bytes_max);
    (0..length).map(|_| random.random()).collect()
}

/// Frames as they should be, now and then with a length that lies, then changed somewhere.
fn stream(kind: StreamKind, random: &mut SmallRng) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..random.random_range(0..8) {
        let body = noise(random, 3000);
        let bound = kind.frame_bytes_max() as u32;
        let length = match random.random_range(0..20) {
            0 => bound + random.random_range(0..3) - 1,
            1 => random.random(),
            _ => body.len() as u32,
        };
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&body);
    }
    mutate(bytes, random)
}

fn mutate(mut bytes: Vec<u8>, random: &mut SmallRng) -> Vec<u8> {
    let at = random.random_range(0..=bytes.len());
    match random.random_range(0..6) {
        0 => bytes.truncate(at),
        1 => bytes.extend(noise(random, 50)),
        2 if at < bytes.len() => bytes[at] ^= 1 << random.random_range(0..8),
        3 => drop(bytes.splice(at..at, noise(random, 10)).collect::<Vec<_>>()),
        _ => {}
    }
    bytes
}

fn hello(random: &mut SmallRng) -> Hello {
    let min = random.random();
    let name: String = (0..random.random_range(1..=63)).map(|_| 'x').collect();
    Hello {
        versions: Versions { min, max: random.random_range(min..=u16::MAX) },
        features: Features(random.random()),
        cluster: ClusterId::new(&name).unwrap(),
    }
}

#[test]
fn streams_and_hellos_of_any_bytes_are_read_alike_or_refused() {
    let budget = Duration::from_secs(setting("LARDER_FUZZ_SECONDS", 3));
    let first_seed = setting("LARDER_FUZZ_SEED", 1);
    let (began, mut seed) = (Instant::now(), first_seed);
    let (mut inputs, mut frames, mut refused, mut hellos) = (0_u64, 0_u64, 0_u64, 0_u64);
    while began.elapsed() < budget {
        let mut random = SmallRng::seed_from_u64(seed);
        for _ in 0..100 {
            let kind = *StreamKind::ALL.choose(&mut random).unwrap();
            let bytes = stream(kind, &mut random);
            let expected = plainly(kind, &bytes);
            let found = in_pieces(kind, &bytes, &mut random);
            assert_eq!(found, expected, "LARDER_FUZZ_SEED={seed}");
            frames += found.0.len() as u64;
            refused += u64::from(matches!(found.1, End::TooLarge(_)));

            let said = hello(&mut random);
            assert_eq!(Hello::decode(&said.encode()).unwrap(), said, "LARDER_FUZZ_SEED={seed}");
            let heard = Hello::decode(&mutate(said.encode(), &mut random));
            if let Ok(heard) = heard {
                assert!(heard.versions.min <= heard.versions.max, "LARDER_FUZZ_SEED={seed}");
                assert_eq!(Hello::decode(&heard.encode()).unwrap(), heard);
                hellos += 1;
            }
            inputs += 2;
        }
        seed += 1;
    }
    println!(
        "wire fuzz: {inputs} inputs, {frames} frames, {refused} streams refused for a length, \
         {hellos} mutated hellos read, seeds {first_seed}..{seed}"
    );
    assert!(frames > 0 && refused > 0 && hellos > 0);
}
