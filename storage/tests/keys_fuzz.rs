//! Seeded, bounded fuzzing of the key and row codecs: whatever the bytes are, they are parsed or
//! refused, and what is parsed is written back as the same bytes.
//!
//! `LARDER_FUZZ_SECONDS` bounds the time (default 3); `LARDER_FUZZ_SEED` repeats a run.

use std::{
    env,
    time::{Duration, Instant},
};

use larder_storage::{
    keys::{self, StorageKey},
    row::{self, FieldRef, RowRef, RowValue},
};
use rand::{Rng, RngCore, SeedableRng, rngs::SmallRng};

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().expect("a whole number"))
}

/// Bytes at random, or a valid key or row with some bytes changed, cut or added: random bytes
/// alone almost never get past the first check.
fn input(random: &mut SmallRng, seeds: &[Vec<u8>]) -> Vec<u8> {
    if random.random_ratio(1, 4) {
        let mut bytes = vec![0; random.random_range(0..96)];
        random.fill_bytes(&mut bytes);
        return bytes;
    }
    let mut bytes = seeds[random.random_range(0..seeds.len())].clone();
    for _ in 0..random.random_range(0..4) {
        let at = random.random_range(0..=bytes.len());
        match random.random_range(0..4) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, random.random()),
            _ if at < bytes.len() => bytes[at] = random.random(),
            _ => {}
        }
    }
    bytes
}

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![Vec::new(); 3];
    keys::key_row_key(b"user:1", &mut seeds[0]);
    keys::own_key(b"applied", &mut seeds[1]);
    let position = larder_types::Position {
        epoch: larder_types::Epoch { term: 1, run: 2, id: 3 },
        seq: larder_types::SequenceNumber::FIRST,
    };
    let generation = row::Generation { position, ordinal: 4 };
    keys::element_key(b"user:2", generation, b"name", &mut seeds[2]);
    let version = larder_types::HybridTime::new(5, 6);
    for expiry in [None, Some(7)] {
        seeds.push(row::string_row(version, expiry, b"value").to_vec());
        seeds.push(row::hash_row(version, expiry, generation, 8).to_vec());
    }
    seeds.push(row::field_row(version, b"value").to_vec());
    seeds
}

/// Returns whether `bytes` were a key that Larder itself would have written.
fn check_key(bytes: &[u8], out: &mut Vec<u8>) -> bool {
    let Ok(parsed) = keys::parse(bytes) else { return false };
    if !parsed.is_in_its_unit() {
        return false;
    }
    match parsed {
        StorageKey::Row { key, .. } => keys::key_row_key(key, out),
        StorageKey::Element { key, generation, field, .. } => {
            keys::element_key(key, generation, field, out);
        }
        StorageKey::Own { name } => keys::own_key(name, out),
    }
    assert_eq!(out.as_slice(), bytes);
    true
}

/// Returns whether `bytes` were a row.
fn check_row(bytes: &[u8]) -> bool {
    let key_row = RowRef::parse(bytes);
    let field = FieldRef::parse(bytes);
    assert!(key_row.is_err() || field.is_err(), "no bytes are both a key row and a field");
    if let Ok(row) = key_row {
        let written = match row.value() {
            RowValue::String(value) => row::string_row(row.version(), row.expiry(), value),
            RowValue::Hash { generation, fields } => {
                row::hash_row(row.version(), row.expiry(), generation, fields)
            }
        };
        assert_eq!(&written[..], bytes);
    }
    if let Ok(field) = field {
        assert_eq!(&row::field_row(field.version(), field.value())[..], bytes);
    }
    key_row.is_ok() || field.is_ok()
}

#[test]
fn arbitrary_bytes_are_refused_or_read_back_whole() {
    let seed = number("LARDER_FUZZ_SEED").unwrap_or_else(|| SmallRng::from_os_rng().random());
    let budget = Duration::from_secs(number("LARDER_FUZZ_SECONDS").unwrap_or(3));
    println!("LARDER_FUZZ_SEED={seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let seeds = seeds();
    let (mut inputs, mut parsed_keys, mut parsed_rows) = (0u64, 0u64, 0u64);
    let mut out = Vec::new();
    let start = Instant::now();
    while inputs == 0 || start.elapsed() < budget {
        for _ in 0..1_000 {
            let bytes = input(&mut random, &seeds);
            parsed_keys += u64::from(check_key(&bytes, &mut out));
            parsed_rows += u64::from(check_row(&bytes));
            inputs += 1;
        }
    }
    println!("{inputs} inputs, of them {parsed_keys} keys and {parsed_rows} rows");
    assert!(parsed_keys > 0 && parsed_rows > 0, "the inputs never got past the first check");
}
