//! What the writers write. Each connection (a *lane*) has keys of its own, so that what they hold
//! is a function of how many of its operations took effect; every operation changes them, so that
//! this number can be told. The keys shared by all lanes tie their orders together.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::client::encode_into;
use crate::faults::contents::{Contents, Stored, Value};

/// Counted up by every [`Operation::Count`], whichever lane sent it.
pub const COUNT_KEY: &[u8] = b"shared:count";
/// What the keys begin with to which [`Operation::Chain`] appends.
pub const CHAIN_PREFIX: &[u8] = b"shared:chain:";
/// Expiry times are this far ahead or more (year 2100), so that nothing expires in a test.
const EXPIRY_BASE_MS: u64 = 4_102_444_800_000;
/// Keys of a lane that are overwritten again and again.
const OVERWRITTEN_KEYS: u64 = 16;
/// Fields of the hash of a lane.
const HASH_FIELDS: u64 = 64;

/// One operation of a lane: one command, or one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// `SET key value [PXAT expires_at]`.
    Set {
        /// A key of the lane.
        key: Vec<u8>,
        /// A value that no other operation writes.
        value: Vec<u8>,
        /// Milliseconds since 1970.
        expires_at: Option<u64>,
    },
    /// `DEL key`, of a key that is there.
    Delete {
        /// A key of the lane.
        key: Vec<u8>,
    },
    /// `HSET key field value`.
    SetField {
        /// The hash of the lane.
        key: Vec<u8>,
        /// One of few fields.
        field: Vec<u8>,
        /// A value that no other operation writes.
        value: Vec<u8>,
    },
    /// A transaction that sets two keys to the same value: half of it is never seen.
    Pair {
        /// The two keys.
        keys: [Vec<u8>; 2],
        /// A value that no other operation writes.
        value: Vec<u8>,
    },
    /// A transaction of `INCR` of [`COUNT_KEY`] and `SET key value`.
    Count {
        /// The lane's own witness.
        key: Vec<u8>,
        /// A value that no other operation writes.
        value: Vec<u8>,
    },
    /// A transaction of `APPEND chain value;` and `SET key value`.
    Chain {
        /// The chain of this round, to which all lanes append.
        chain: Vec<u8>,
        /// The lane's own witness.
        key: Vec<u8>,
        /// A value that no other operation writes.
        value: Vec<u8>,
    },
}

impl Operation {
    /// Appends its commands to `wire`.
    pub fn encode(&self, wire: &mut Vec<u8>) {
        match self {
            Self::Set { key, value, expires_at: None } => {
                encode_into(wire, &[b"SET".as_slice(), key, value]);
            }
            Self::Set { key, value, expires_at: Some(at) } => {
                let at = at.to_string();
                encode_into(wire, &[b"SET".as_slice(), key, value, b"PXAT", at.as_bytes()]);
            }
            Self::Delete { key } => encode_into(wire, &[b"DEL".as_slice(), key]),
            Self::SetField { key, field, value } => {
                encode_into(wire, &[b"HSET".as_slice(), key, field, value]);
            }
            Self::Pair { keys: [one, two], value } => transaction(
                wire,
                &[&[b"SET".as_slice(), one, value], &[b"SET".as_slice(), two, value]],
            ),
            Self::Count { key, value } => transaction(
                wire,
                &[&[b"INCR".as_slice(), COUNT_KEY], &[b"SET".as_slice(), key, value]],
            ),
            Self::Chain { chain, key, value } => {
                let entry = [value.as_slice(), b";"].concat();
                transaction(
                    wire,
                    &[&[b"APPEND".as_slice(), chain, &entry], &[b"SET".as_slice(), key, value]],
                );
            }
        }
    }

    /// How many replies it is answered with. The last one acknowledges it.
    pub fn replies(&self) -> usize {
        match self {
            Self::Set { .. } | Self::Delete { .. } | Self::SetField { .. } => 1,
            Self::Pair { .. } | Self::Count { .. } | Self::Chain { .. } => 4,
        }
    }

    /// Does to a lane's contents what the operation does. What all lanes share is left out.
    pub fn apply(&self, lane: &mut Contents) {
        let text =
            |value: &Vec<u8>, expires_at| Stored { value: Value::Text(value.clone()), expires_at };
        match self {
            Self::Set { key, value, expires_at } => {
                lane.insert(key.clone(), text(value, *expires_at));
            }
            Self::Delete { key } => {
                lane.remove(key);
            }
            Self::SetField { key, field, value } => {
                let stored = lane.entry(key.clone()).or_insert_with(|| Stored {
                    value: Value::Hash(BTreeMap::new()),
                    expires_at: None,
                });
                if let Value::Hash(fields) = &mut stored.value {
                    fields.insert(field.clone(), value.clone());
                }
            }
            Self::Pair { keys: [one, two], value } => {
                lane.insert(one.clone(), text(value, None));
                lane.insert(two.clone(), text(value, None));
            }
            Self::Count { key, value } | Self::Chain { key, value, .. } => {
                lane.insert(key.clone(), text(value, None));
            }
        }
    }

    /// The lane's keys that it changes.
    pub fn keys(&self) -> Vec<&Vec<u8>> {
        match self {
            Self::Set { key, .. }
            | Self::Delete { key }
            | Self::SetField { key, .. }
            | Self::Count { key, .. }
            | Self::Chain { key, .. } => vec![key],
            Self::Pair { keys: [one, two], .. } => vec![one, two],
        }
    }
}

fn transaction(wire: &mut Vec<u8>, commands: &[&[&[u8]]; 2]) {
    encode_into(wire, &[b"MULTI"]);
    for command in commands {
        encode_into(wire, command);
    }
    encode_into(wire, &[b"EXEC"]);
}

/// What the keys of lane `id` begin with.
pub fn lane_prefix(id: usize) -> Vec<u8> {
    format!("{id}:").into_bytes()
}

/// Makes the operations of one lane, from a seed.
#[derive(Debug)]
pub struct Generator {
    id: usize,
    random: StdRng,
    /// Number of the next operation; part of every value, which makes them unique.
    next: u64,
    chain: Vec<u8>,
    /// Keys that are there if everything sent so far takes effect, and may be deleted.
    deletable: Vec<Vec<u8>>,
}

impl Generator {
    /// The generator of lane `id`.
    pub fn new(id: usize, seed: u64) -> Self {
        let random = StdRng::seed_from_u64(seed.wrapping_add(id as u64));
        Self { id, random, next: 0, chain: Vec::new(), deletable: Vec::new() }
    }

    /// Begins a round on what the last one left behind, so that deletions find their keys.
    pub fn begin_round(&mut self, round: usize, lane: &Contents) {
        self.chain = [CHAIN_PREFIX, round.to_string().as_bytes()].concat();
        let unique = self.key("u");
        self.deletable = lane.keys().filter(|key| key.starts_with(&unique)).cloned().collect();
    }

    /// The next operation.
    pub fn operation(&mut self) -> Operation {
        let number = self.next;
        self.next += 1;
        let name = format!("{}/{number}", self.id).into_bytes();
        match self.random.random_range(0..100) {
            0..40 => self.set_unique(&name, number),
            40..60 => {
                let chosen = self.random.random_range(0..OVERWRITTEN_KEYS);
                Operation::Set {
                    key: self.key(&format!("o:{chosen}")),
                    expires_at: self.random.random_bool(0.2).then_some(EXPIRY_BASE_MS + number),
                    value: self.padded(&name),
                }
            }
            60..75 => Operation::SetField {
                key: self.key("h"),
                field: format!("f{}", self.random.random_range(0..HASH_FIELDS)).into_bytes(),
                value: name,
            },
            75..82 => Operation::Pair { keys: [self.key("a"), self.key("b")], value: name },
            82..87 => Operation::Count { key: self.key("w"), value: name },
            87..90 => {
                Operation::Chain { chain: self.chain.clone(), key: self.key("w"), value: name }
            }
            _ if self.deletable.is_empty() => self.set_unique(&name, number),
            _ => {
                let chosen = self.random.random_range(0..self.deletable.len());
                Operation::Delete { key: self.deletable.swap_remove(chosen) }
            }
        }
    }

    /// How many operations the next burst holds.
    pub fn burst(&mut self) -> usize {
        self.random.random_range(1..=32)
    }

    fn set_unique(&mut self, name: &[u8], number: u64) -> Operation {
        let key = self.key(&format!("u:{number}"));
        self.deletable.push(key.clone());
        Operation::Set { key, value: self.padded(name), expires_at: None }
    }

    fn key(&self, rest: &str) -> Vec<u8> {
        [lane_prefix(self.id).as_slice(), rest.as_bytes()].concat()
    }

    /// Mostly short values, now and then one that spans several pages.
    fn padded(&mut self, name: &[u8]) -> Vec<u8> {
        let length = match self.random.random_range(0..100) {
            0..90 => self.random.random_range(0..300),
            90..99 => self.random.random_range(300..3_000),
            _ => self.random.random_range(3_000..20_000),
        };
        let mut value = name.to_vec();
        value.push(b' ');
        value.extend((0..length).map(|i| b'a' + (i % 26) as u8));
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_changes_what_its_lane_holds() {
        let mut generator = Generator::new(3, 1);
        let mut lane = Contents::new();
        generator.begin_round(0, &lane);
        for _ in 0..5_000 {
            let before = lane.clone();
            let operation = generator.operation();
            operation.apply(&mut lane);
            assert_ne!(before, lane, "{operation:?}");
            assert!(operation.keys().iter().any(|key| before.get(*key) != lane.get(*key)));
        }
    }
}
