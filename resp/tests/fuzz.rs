//! Mutation fuzzing of both decoders on the stable toolchain, from a corpus and a seed.
//!
//! `LARDER_FUZZ_SECONDS` (5) bounds each of the two; `LARDER_FUZZ_SEED` begins with the input that
//! a failure named. Each input is fed at once, in random pieces and byte by byte; for requests a
//! plain model of the rules reads it as well. No panic, the same outcome, memory within bounds.

#[path = "common/model.rs"]
mod model;
#[path = "common/pieces.rs"]
mod pieces;
#[path = "common/reply_feed.rs"]
mod reply_feed;
#[path = "common/request_feed.rs"]
mod request_feed;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use larder_resp::{Limits, ReplyLimits, encode_request};
use pieces::pieces;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use reply_feed::{SMALL_REPLIES, decode_reply_pieces};
use request_feed::{SMALL, decode_pieces};

/// What decoders look at, and numbers at the edges of what they accept.
const TOKENS: &[&str] = &[
    "\r\n",
    "\r",
    "\n",
    "*",
    "$",
    ":",
    "+",
    "-",
    "%",
    "~",
    ">",
    "|",
    "!",
    "=",
    "_\r\n",
    "#t\r\n",
    "(1\r\n",
    ",inf\r\n",
    "0",
    "-1",
    "1",
    "5",
    "6",
    "10",
    "11",
    "40",
    "41",
    "120",
    "16384",
    "16385",
    "1048576",
    "1048577",
    "8388608",
    "8388609",
    "2147483647",
    "2147483648",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775808",
    "00",
    "*1\r\n",
    "*0\r\n",
    "*-1\r\n",
    "$0\r\n\r\n",
    "$3\r\nGET\r\n",
    "\"",
    "'",
    "\\",
    "\\x4",
    "\\\"",
    " ",
    "\t",
    "\x0b",
    "\0",
    "POST",
    "Host:",
    "txt:",
    "PING\r\n",
];
/// Longest input, so that executions stay short.
const INPUT_BYTES_MAX: usize = 4096;

/// Names the input that was being tried if the test fails.
struct Attempt(u64);

impl Drop for Attempt {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("replay with LARDER_FUZZ_SEED={}", self.0);
        }
    }
}

fn corpus(kind: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(kind);
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
        .expect("a folder");
    files.sort();
    assert!(files.len() > 5, "the corpus of {kind} is missing");
    files.iter().map(|file| fs::read(file).expect("a file")).collect()
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a whole number"))
}

/// Runs `attempt` with a generator for each seed until the time is up.
fn fuzz(name: &str, mut attempt: impl FnMut(&mut SmallRng)) {
    let first =
        from_environment("LARDER_FUZZ_SEED").unwrap_or_else(|| SmallRng::from_os_rng().random());
    let seconds = from_environment("LARDER_FUZZ_SECONDS").unwrap_or(5);
    println!("{name}: first seed {first}");
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut executions = 0_u64;
    while executions == 0 || Instant::now() < end {
        let seed = first.wrapping_add(executions);
        let _named_on_failure = Attempt(seed);
        attempt(&mut SmallRng::seed_from_u64(seed));
        executions += 1;
    }
    println!("{name}: {executions} executions in {seconds} s");
}

fn noise(rng: &mut SmallRng, bytes_max: usize) -> Vec<u8> {
    let mut bytes = vec![0; rng.random_range(0..=bytes_max)];
    rng.fill(&mut bytes[..]);
    bytes
}

fn token(rng: &mut SmallRng) -> &'static [u8] {
    TOKENS[rng.random_range(0..TOKENS.len())].as_bytes()
}

fn random_request(rng: &mut SmallRng) -> Vec<u8> {
    let count = rng.random_range(0..7);
    let args: Vec<Vec<u8>> = (0..count)
        .map(|_| {
            let bytes_max = if rng.random_bool(0.05) { 600 } else { 45 };
            noise(rng, bytes_max)
        })
        .collect();
    let mut out = BytesMut::new();
    encode_request(&mut out, &args);
    out.to_vec()
}

fn input(rng: &mut SmallRng, corpus: &[Vec<u8>], requests: bool) -> Vec<u8> {
    let mut input = Vec::new();
    for _ in 0..rng.random_range(1..6) {
        match rng.random_range(0..10) {
            0 => input.extend(noise(rng, 30)),
            1 => {
                for _ in 0..rng.random_range(1..8) {
                    input.extend(token(rng));
                }
            }
            2..6 if requests => input.extend(random_request(rng)),
            _ => input.extend(&corpus[rng.random_range(0..corpus.len())]),
        }
    }
    if rng.random_bool(0.8) {
        for _ in 0..rng.random_range(1..5) {
            mutate(rng, &mut input);
        }
    }
    input.truncate(INPUT_BYTES_MAX);
    input
}

fn mutate(rng: &mut SmallRng, input: &mut Vec<u8>) {
    if input.is_empty() {
        return;
    }
    let at = rng.random_range(0..input.len());
    let to = rng.random_range(at..input.len().min(at + 24)) + 1;
    match rng.random_range(0..7) {
        0 => input[at] ^= 1 << rng.random_range(0..8),
        1 => input[at] = rng.random(),
        2 => drop(input.drain(at..to)),
        3 => {
            let repeated = input[at..to].repeat(rng.random_range(1..20));
            input.splice(at..at, repeated);
        }
        4 => {
            input.splice(at..at, token(rng).iter().copied());
        }
        5 => {
            input.splice(at..to, token(rng).iter().copied());
        }
        _ => input.truncate(at),
    }
}

fn piece_lengths(rng: &mut SmallRng) -> Vec<usize> {
    let largest = [3, 20, 300][rng.random_range(0..3)];
    (0..rng.random_range(1..20)).map(|_| rng.random_range(1..=largest)).collect()
}

#[test]
fn requests_are_read_alike_however_they_arrive() {
    let corpus = corpus("requests");
    let unauthenticated = Limits { authenticated: false, ..SMALL };
    let choices = [SMALL, unauthenticated, Limits::BEFORE_AUTH, Limits::AFTER_AUTH];
    let (mut read, mut refused) = (0_u64, 0_u64);
    fuzz("requests", |rng| {
        let limits = choices[rng.random_range(0..choices.len())];
        let input = input(rng, &corpus, true);
        let text = input.escape_ascii();
        let expected = model::requests(&input, &limits);
        assert_eq!(decode_pieces([&input[..]], limits, 1000), expected, "at once: {text}");
        let lengths = piece_lengths(rng);
        let commands_max = rng.random_range(1..6);
        let in_pieces = decode_pieces(pieces(&input, &lengths), limits, commands_max);
        assert_eq!(in_pieces, expected, "in {lengths:?}, by {commands_max}: {text}");
        assert_eq!(decode_pieces(pieces(&input, &[1]), limits, 2), expected, "bytes: {text}");
        read += expected.0.len() as u64;
        refused += u64::from(expected.1.is_some());
    });
    println!("requests: {read} read, {refused} streams refused");
}

#[test]
fn replies_are_read_alike_however_they_arrive() {
    let corpus = corpus("replies");
    let (mut read, mut refused) = (0_u64, 0_u64);
    fuzz("replies", |rng| {
        let limits = [SMALL_REPLIES, ReplyLimits::DEFAULT][rng.random_range(0..2)];
        let input = input(rng, &corpus, false);
        let text = input.escape_ascii();
        let at_once = decode_reply_pieces([&input[..]], limits);
        // NaN is not equal to itself, so the printed forms are compared.
        let expected = format!("{at_once:?}");
        let lengths = piece_lengths(rng);
        let in_pieces = decode_reply_pieces(pieces(&input, &lengths), limits);
        assert_eq!(format!("{in_pieces:?}"), expected, "in {lengths:?}: {text}");
        let bytewise = decode_reply_pieces(pieces(&input, &[1]), limits);
        assert_eq!(format!("{bytewise:?}"), expected, "bytes: {text}");
        read += at_once.0.len() as u64;
        refused += u64::from(at_once.1.is_some());
    });
    println!("replies: {read} read, {refused} streams refused");
}
