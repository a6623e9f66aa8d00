//! Random commands over few keys, so that they meet: values of every shape, wrong types, expiry
//! long past, soon and far ahead, transactions, and now and then a flush of everything.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// A command and its arguments.
pub(crate) type Command = Vec<Vec<u8>>;

/// Keys beginning so expire within [`VOLATILE_AHEAD_MS`], and replies about them depend on when
/// they are asked for: they are only written, and compared when they are gone.
pub(crate) const VOLATILE: &[u8] = b"volatile:";
/// How far ahead those expire at most.
pub(crate) const VOLATILE_AHEAD_MS: u64 = 300;
/// Expiry far ahead: nothing expires in a test.
const FAR_AHEAD_MS: u64 = 10_000_000_000;
/// Distinct names of keys.
const KEYS: u32 = 150;
/// Distinct fields of a hash.
const FIELDS: u32 = 12;
/// One in so many commands drops everything.
const FLUSH_EVERY: u32 = 4_000;

/// Makes commands from a seed.
pub(crate) struct Generator {
    random: StdRng,
}

/// Makes a command of words of several types.
macro_rules! command {
    ($($word:expr),+ $(,)?) => { vec![$(Vec::<u8>::from($word)),+] };
}

impl Generator {
    /// The generator of a seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self { random: StdRng::seed_from_u64(seed) }
    }

    /// The next command; more than one where it is a transaction.
    pub(crate) fn commands(&mut self, now_ms: u64) -> Vec<Command> {
        if self.random.random_ratio(1, FLUSH_EVERY) {
            return vec![command!["FLUSHDB"]];
        }
        if self.random.random_ratio(1, 20) {
            let mut transaction = vec![command!["MULTI"]];
            for _ in 0..self.random.random_range(1..6) {
                transaction.push(self.command(now_ms));
            }
            transaction.push(if self.random.random_bool(0.9) {
                command!["EXEC"]
            } else {
                command!["DISCARD"]
            });
            return transaction;
        }
        vec![self.command(now_ms)]
    }

    fn command(&mut self, now_ms: u64) -> Command {
        match self.random.random_range(0..100) {
            0..45 => self.string_command(now_ms),
            45..75 => self.hash_command(),
            _ => self.key_command(now_ms),
        }
    }

    fn string_command(&mut self, now_ms: u64) -> Command {
        let (key, value) = (self.key(), self.value());
        match self.random.random_range(0..12) {
            0..3 => command!["SET", key, value],
            3 => command!["SET", key, value, "KEEPTTL"],
            4 => command!["SET", key, value, "PXAT", (now_ms + self.far()).to_string()],
            5 => {
                let name = self.random.random_range(0..KEYS).to_string();
                let at = now_ms + self.random.random_range(1..VOLATILE_AHEAD_MS);
                command!["SET", [VOLATILE, name.as_bytes()].concat(), value, "PXAT", at.to_string()]
            }
            6 => command!["SETNX", key, value],
            7 => command!["APPEND", key, value],
            8 => command!["INCR", key],
            9 => command!["INCRBY", key, self.random.random_range(-1_000..1_000).to_string()],
            10 => command!["GETDEL", key],
            _ => command!["GET", key],
        }
    }

    fn hash_command(&mut self) -> Command {
        let (key, field) = (self.key(), self.field());
        match self.random.random_range(0..10) {
            0..3 => command!["HSET", key, field, self.value()],
            3 => {
                let mut command = command!["HSET", key];
                for _ in 0..self.random.random_range(2..8) {
                    command.extend([self.field(), self.value()]);
                }
                command
            }
            4..6 => command!["HDEL", key, field, self.field()],
            6 => command!["HSETNX", key, field, self.value()],
            7 => command!["HINCRBY", key, field, self.random.random_range(-50..50).to_string()],
            8 => command!["HLEN", key],
            _ => command!["HGET", key, field],
        }
    }

    fn key_command(&mut self, now_ms: u64) -> Command {
        let key = self.key();
        match self.random.random_range(0..10) {
            0..3 => command!["DEL", key, self.key()],
            3..5 => command!["PEXPIREAT", key, (now_ms + self.far()).to_string()],
            // Deletes it.
            5 => command![
                "PEXPIREAT",
                key,
                (now_ms - self.random.random_range(1..9_999)).to_string()
            ],
            6 => command!["PERSIST", key],
            7 => command!["PEXPIRETIME", key],
            8 => command!["TYPE", key],
            _ => command!["EXISTS", key, self.key()],
        }
    }

    fn far(&mut self) -> u64 {
        FAR_AHEAD_MS + self.random.random_range(0..1_000_000)
    }

    fn key(&mut self) -> Vec<u8> {
        match self.random.random_range(0..KEYS) {
            0 => b"\x00\xff binary \r\n".to_vec(),
            1 => vec![b'k'; 700],
            number => format!("key:{number}").into_bytes(),
        }
    }

    fn field(&mut self) -> Vec<u8> {
        format!("f{}", self.random.random_range(0..FIELDS)).into_bytes()
    }

    fn value(&mut self) -> Vec<u8> {
        match self.random.random_range(0..20) {
            0..10 => self.random.random_range(-9_999_i64..9_999).to_string().into_bytes(),
            10 => Vec::new(),
            11 => i64::MAX.to_string().into_bytes(),
            19 => {
                let length = self.random.random_range(1_000..12_000);
                (0..length).map(|_| self.random.random()).collect()
            }
            _ => {
                let length = self.random.random_range(1..120);
                (0..length).map(|_| self.random.random_range(b' '..b'~')).collect()
            }
        }
    }
}
