//! Tests of the extended precision numbers: known cases, laws, and Redis itself.

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use proptest::prelude::*;
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::LongDouble;

/// Pairs that are compared with Redis in one run.
const PAIRS: usize = 20_000;

fn text_of(text: &str) -> Option<String> {
    LongDouble::parse(text.as_bytes()).map(LongDouble::to_text)
}

fn sum_of(left: &str, right: &str) -> Option<String> {
    let right = LongDouble::parse(right.as_bytes())?;
    LongDouble::parse(left.as_bytes())?.checked_add(right).map(LongDouble::to_text)
}

#[test]
fn sums_are_those_of_redis() {
    assert_eq!(sum_of("0.1", "0.2").as_deref(), Some("0.3"));
    assert_eq!(sum_of("10.50", "0.1").as_deref(), Some("10.6"));
    assert_eq!(sum_of("5.0e3", "2.0e2").as_deref(), Some("5200"));
    assert_eq!(sum_of("1", "-1").as_deref(), Some("0"));
    assert_eq!(sum_of("1e4932", "1e4932"), None);
    assert_eq!(sum_of("inf", "1"), None);
    assert_eq!(sum_of("inf", "-inf"), None);
}

#[test]
fn texts_are_read_and_written_as_the_c_library_does() {
    for (text, expected) in [
        ("0x10", "16"),
        ("0X1p-3", "0.125"),
        ("0x.8", "0.5"),
        ("+5", "5"),
        (".5", "0.5"),
        ("5.", "5"),
        ("3.0e3", "3000"),
        ("1E2", "100"),
        ("-0", "0"),
        ("-1e-30", "0"),
        ("1e-4940", "0"),
        ("3e-4951", "0"),
        ("0e99999999999999999999", "0"),
        ("-1.5", "-1.5"),
        ("1111111111111111111111111111111111111111", "1111111111111111111111671891239418986496"),
        ("18446744073709551615", "18446744073709551615"),
        ("18446744073709551617", "18446744073709551616"),
        ("-INFINITY", "-inf"),
    ] {
        assert_eq!(text_of(text).as_deref(), Some(expected), "{text}");
    }
}

#[test]
fn what_is_no_number_or_out_of_range_is_refused() {
    for text in [
        "",
        ".",
        "-",
        "+",
        " 5",
        "5 ",
        "1e",
        "1e+",
        "0x",
        "0x1.8p",
        "0x1g",
        "nan",
        "NaN(12)",
        "infx",
        "1_0",
        "1\0",
        "1e-5000",
        "1e-4951",
        "1e4933",
        "1e4940",
        "1e99999999999999999999",
        "0x1p16384",
        "0x1p-16500",
        "1.2.3",
        "--1",
    ] {
        assert_eq!(text_of(text), None, "{text:?}");
    }
    assert_eq!(text_of(&"1".repeat(5_120)), None);
}

#[test]
fn rounding_is_to_the_nearest_and_ties_go_to_even() {
    let two_to_64 = "18446744073709551616";
    assert_eq!(sum_of(two_to_64, "1").as_deref(), Some(two_to_64));
    assert_eq!(sum_of(two_to_64, "3").as_deref(), Some("18446744073709551620"));
    assert_eq!(sum_of(two_to_64, "1.0000000001").as_deref(), Some("18446744073709551618"));
}

proptest! {
    #[test]
    fn integers_add_exactly(left in -(1i64 << 62)..(1i64 << 62), right in -(1i64 << 62)..(1i64 << 62)) {
        let expected = (left + right).to_string();
        prop_assert_eq!(sum_of(&left.to_string(), &right.to_string()), Some(expected));
    }

    #[test]
    fn arbitrary_bytes_never_panic(left: Vec<u8>, right in "[-+]?[0-9x.]{0,20}[ep]?[-+]?[0-9]{0,6}") {
        let left = LongDouble::parse(&left).unwrap_or(LongDouble::ZERO);
        if let Some(sum) = LongDouble::parse(right.as_bytes()).and_then(|right| left.checked_add(right)) {
            prop_assert!(sum.is_finite());
            prop_assert!(LongDouble::parse(sum.to_text().as_bytes()).is_some());
        }
    }
}

/// A redis-server on a socket of its own; killed when dropped.
struct Redis {
    process: Child,
    stream: BufReader<UnixStream>,
    _directory: tempfile::TempDir,
}

impl Redis {
    /// `None` where no redis-server 7.0.15 is installed.
    fn start() -> Option<Self> {
        let version = Command::new("redis-server").arg("--version").output().ok()?;
        if !String::from_utf8_lossy(&version.stdout).contains("v=7.0.15") {
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("redis.sock");
        let process = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--unixsocket"])
            .arg(&socket)
            .arg("--dir")
            .arg(directory.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        let stream = loop {
            match UnixStream::connect(&socket) {
                Ok(stream) => break stream,
                Err(error) => assert!(Instant::now() < deadline, "redis-server: {error}"),
            }
            std::thread::yield_now();
        };
        Some(Self { process, stream: BufReader::new(stream), _directory: directory })
    }

    /// What INCRBYFLOAT answers for a key that holds `left`; `None` for an error.
    fn sum(&mut self, left: &str, right: &str) -> Option<String> {
        let request = format!(
            "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${}\r\n{left}\r\n*3\r\n$11\r\nINCRBYFLOAT\r\n$1\r\nk\r\n${}\r\n{right}\r\n",
            left.len(),
            right.len()
        );
        self.stream.get_mut().write_all(request.as_bytes()).unwrap();
        assert_eq!(self.line(), "+OK");
        let length = self.line().strip_prefix('$')?.parse::<usize>().unwrap();
        let mut bulk = vec![0; length + 2];
        self.stream.read_exact(&mut bulk).unwrap();
        bulk.truncate(length);
        Some(String::from_utf8(bulk).unwrap())
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn random_text(random: &mut StdRng) -> String {
    let sign = ["", "-", "+"][random.random_range(0..3)];
    let mut digits = |most: usize| -> String {
        let count = random.random_range(1..=most);
        (0..count).map(|_| char::from(random.random_range(b'0'..=b'9'))).collect()
    };
    let (whole, fraction) = (digits(25), digits(22));
    match random.random_range(0..12) {
        0..3 => format!("{sign}{}.{}", whole.len(), &fraction[..1]),
        3..6 => format!("{sign}{whole}.{fraction}"),
        6 => format!("{sign}{whole}"),
        7 => format!("{sign}{whole}.{fraction}e{}", random.random_range(-40..40)),
        8 => format!("{sign}{fraction}e{}", random.random_range(-5_000..5_000)),
        9 => format!(
            "{sign}0x{:x}.{:x}p{}",
            random.random::<u64>(),
            random.random::<u64>(),
            random.random_range(-70..70)
        ),
        // Near the middle between two neighbours.
        10 => format!(
            "{sign}{}",
            (u128::from(random.random::<u64>() | 1 << 63) << 3) + random.random_range(2..7)
        ),
        _ => format!("{sign}0.{}{fraction}", "0".repeat(random.random_range(0..20))),
    }
}

#[test]
fn thousands_of_random_sums_are_those_of_a_redis_server() {
    let Some(mut redis) = Redis::start() else {
        let reason = "redis-server 7.0.15 is not installed (apt-get install redis-server)";
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{reason}");
        // Not captured, as what is printed would be.
        let _ = writeln!(std::io::stderr(), "SKIPPED sums of a redis-server: {reason}");
        return;
    };
    let mut random = StdRng::seed_from_u64(0x1ad_d0b1e);
    let mut answered = 0;
    for _ in 0..PAIRS {
        let (left, right) = (random_text(&mut random), random_text(&mut random));
        let expected = redis.sum(&left, &right);
        answered += usize::from(expected.is_some());
        assert_eq!(sum_of(&left, &right), expected, "{left} + {right}");
    }
    assert!(answered > PAIRS / 2, "only {answered} pairs had a sum");
}
