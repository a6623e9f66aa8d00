//! What a seed decides: keys, values and numbers, and how a command is spoilt.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

/// A command's words, its name first.
pub(crate) type Args = Vec<Vec<u8>>;

/// Absolute expiries are drawn from here on (2100-01-01), relative ones end long before it: so a
/// reply shows by itself which of the two it is, and only absolute ones must be equal.
pub(crate) const ABSOLUTE_FROM_SECONDS: i64 = 4_102_444_800;
/// Relative expiries stay between these: none runs out during a run.
const RELATIVE_SECONDS: std::ops::Range<i64> = 10_000..100_000_000;

const STRING_KEYS: [&[u8]; 7] = [b"k1", b"k2", b"k3", b"k4", b"{t}a", b"", b"k\x00\xff\r\n\"'*"];
const HASH_KEYS: [&[u8]; 5] = [b"h1", b"h2", b"h3", b"{t}h", b"h\\4"];
const FIELDS: [&[u8]; 10] =
    [b"f1", b"f2", b"f3", b"f4", b"f5", b"f6", b"f7", b"", b"f\x00\xfe\r\n", b"10"];
/// Replace an argument to make it wrong. None is a small positive number: as an expiry that would
/// be a race, as a SETRANGE offset it would not be wrong. None lies between one and 512 MiB.
const JUNK: [&[u8]; 19] = [
    b"abc",
    b"",
    b"1.5",
    b" 1",
    b"1 ",
    b"9223372036854775807",
    b"9223372036854775808",
    b"-9223372036854775808",
    b"-9223372036854775809",
    b"-1",
    b"0",
    b"+1",
    b"01",
    b"0x10",
    b"nan",
    b"inf",
    b"-inf",
    b"1e3",
    b"\xff\x00",
];

/// Words that no command knows, as errors quote them.
const UNKNOWN: [&[u8]; 5] = [b"nosuch", b"", b"\r\nno\nsuch\t", b"\xffno such\xc3", b"no\x00such"];

/// The source of everything random in a run.
pub(crate) struct Draw {
    rng: StdRng,
}

impl Draw {
    pub(crate) fn new(seed: u64) -> Self {
        Self { rng: StdRng::seed_from_u64(seed) }
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.rng.random_range(0..bound)
    }

    pub(crate) fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_ratio(percent, 100)
    }

    pub(crate) fn pick<'t>(&mut self, choices: &[&'t str]) -> &'t str {
        choices.choose(&mut self.rng).copied().unwrap_or_default()
    }

    fn pick_bytes(&mut self, choices: &[&[u8]]) -> Vec<u8> {
        choices.choose(&mut self.rng).map_or_else(Vec::new, |bytes| bytes.to_vec())
    }

    /// Mostly a key that holds strings; sometimes one that holds a hash, and so the wrong type.
    pub(crate) fn string_key(&mut self) -> Vec<u8> {
        if self.chance(18) { self.pick_bytes(&HASH_KEYS) } else { self.pick_bytes(&STRING_KEYS) }
    }

    /// The other way round.
    pub(crate) fn hash_key(&mut self) -> Vec<u8> {
        if self.chance(18) { self.pick_bytes(&STRING_KEYS) } else { self.pick_bytes(&HASH_KEYS) }
    }

    /// Any key, now and then one that was never written.
    pub(crate) fn key(&mut self) -> Vec<u8> {
        match self.below(20) {
            0 => b"nosuchkey".to_vec(),
            1 => vec![b'L'; 300],
            2..=11 => self.pick_bytes(&STRING_KEYS),
            _ => self.pick_bytes(&HASH_KEYS),
        }
    }

    pub(crate) fn field(&mut self) -> Vec<u8> {
        self.pick_bytes(&FIELDS)
    }

    pub(crate) fn value(&mut self) -> Vec<u8> {
        match self.below(12) {
            0..=3 => self.integer().to_string().into_bytes(),
            4..=5 => self.float(),
            6 => Vec::new(),
            7 => b"a\r\nb\x00\xff\"quoted\"".to_vec(),
            8 => self.pick_bytes(&JUNK),
            9 => {
                let length = self.below(3000);
                self.letters(length)
            }
            10 if self.chance(10) => {
                let length = 10_000 + self.below(30_000);
                self.letters(length)
            }
            _ => {
                let length = self.below(24);
                self.letters(length)
            }
        }
    }

    pub(crate) fn letters(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| b'a' + self.rng.random_range(0..26u8)).collect()
    }

    pub(crate) fn integer(&mut self) -> i64 {
        match self.below(10) {
            0 => i64::MAX - 3,
            1 => i64::MIN + 3,
            2 => 0,
            3..=6 => self.rng.random_range(-20..20),
            _ => self.rng.random_range(-1_000_000_000..1_000_000_000),
        }
    }

    pub(crate) fn float(&mut self) -> Vec<u8> {
        match self.below(10) {
            0 => b"3.0e3".to_vec(),
            1 => b"-0".to_vec(),
            2 => b"1e17".to_vec(),
            3 => b"0.1".to_vec(),
            4 => b".5".to_vec(),
            5 => b"5.".to_vec(),
            6 => self.integer().to_string().into_bytes(),
            7 => format!("{:.6}", self.rng.random_range(-1000.0..1000.0f64)).into_bytes(),
            8 => format!("{:e}", self.rng.random_range(-1000.0..1000.0f64)).into_bytes(),
            _ => format!("{:.2}", self.rng.random_range(-10.0..10.0f64)).into_bytes(),
        }
    }

    /// An index as GETRANGE takes them.
    pub(crate) fn index(&mut self) -> String {
        self.rng.random_range(-30..30i64).to_string()
    }

    /// A relative expiry far enough away never to run out during a run.
    pub(crate) fn relative_seconds(&mut self) -> i64 {
        self.rng.random_range(RELATIVE_SECONDS)
    }

    /// An absolute expiry in or after the year 2100.
    pub(crate) fn absolute_seconds(&mut self) -> i64 {
        ABSOLUTE_FROM_SECONDS + self.rng.random_range(0..1_000_000i64)
    }

    pub(crate) fn junk(&mut self) -> Vec<u8> {
        self.pick_bytes(&JUNK)
    }

    /// A word that no command knows.
    pub(crate) fn unknown(&mut self) -> Vec<u8> {
        self.pick_bytes(&UNKNOWN)
    }

    /// Any byte but this one and NUL, which Redis takes for the end of what has come.
    pub(crate) fn byte_but(&mut self, other: u8) -> u8 {
        let byte = self.rng.random_range(1..u8::MAX);
        if byte < other { byte } else { byte + 1 }
    }

    /// `count` of whatever `one` draws, laid end to end.
    pub(crate) fn many(&mut self, most: usize, mut one: impl FnMut(&mut Self) -> Args) -> Args {
        let count = 1 + self.below(most);
        (0..count).flat_map(|_| one(self)).collect()
    }

    /// `word` in random case.
    pub(crate) fn cased(&mut self, word: &[u8]) -> Vec<u8> {
        if self.chance(70) {
            return word.to_vec();
        }
        word.iter()
            .map(|byte| if self.chance(50) { byte.to_ascii_lowercase() } else { *byte })
            .collect()
    }
}

/// Bytes of anything that has some, so that argument lists read plainly.
pub(crate) fn bytes(part: impl AsRef<[u8]>) -> Vec<u8> {
    part.as_ref().to_vec()
}

/// An argument list of strings and byte strings mixed.
macro_rules! args {
    ($($part:expr),* $(,)?) => { vec![$($crate::differential::draw::bytes($part)),*] };
}
pub(crate) use args;
