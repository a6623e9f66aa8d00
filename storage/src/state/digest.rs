//! A digest of the state: equal on all replicas that have applied the same record.
//!
//! It covers what can be read: rows that the record's hybrid time has not expired, and the
//! elements that belong to them. What compactions have given back on one replica and not yet on
//! another is left out, and so is how RocksDB keeps it.

use larder_types::{Position, UNITS, Unit};
use rocksdb::{DB, DBRawIteratorWithThreadMode, ReadOptions, Snapshot};
use sha2::{Digest as _, Sha256};

use super::{Applied, Database, StateError};
use crate::{
    keys::{self, StorageKey},
    row::{Generation, RowRef, RowValue},
};

/// What the state amounts to after a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    /// The record.
    pub position: Position,
    /// The digest.
    pub hash: [u8; 32],
    /// Keys covered.
    pub keys: u64,
}

type Iterator<'a> = DBRawIteratorWithThreadMode<'a, DB>;

impl Database {
    /// The digest of the state as it is now, which is after `applied`; calls `held` once the state
    /// cannot change under it any more. `None` where `go_on` was answered with no.
    ///
    /// # Errors
    /// When RocksDB cannot be read or holds what does not parse.
    pub(crate) fn digest(
        &self,
        applied: Applied,
        held: impl FnOnce(),
        go_on: &dyn Fn() -> bool,
    ) -> Result<Option<Digest>, StateError> {
        let snapshot = self.db.snapshot();
        let mut digester = Digester {
            path: self.path(),
            now_ms: applied.hybrid.millis(),
            hash: Sha256::new(),
            keys: 0,
            rows: iterator(&snapshot, keys::all_units_range().1),
            elements: iterator(&snapshot, keys::all_units_range().1),
        };
        // From here on the iterators keep also what compactions drop, whatever snapshot it is in.
        held();
        for unit in (0..UNITS).filter_map(Unit::new) {
            if !go_on() {
                return Ok(None);
            }
            digester.unit(unit)?;
        }
        let Digester { hash, keys, .. } = digester;
        Ok(Some(Digest { position: applied.position, hash: hash.finalize().into(), keys }))
    }
}

fn iterator<'a>(snapshot: &'a Snapshot<'a>, end: [u8; 2]) -> Iterator<'a> {
    let mut options = ReadOptions::default();
    options.set_iterate_upper_bound(end);
    options.fill_cache(false);
    snapshot.raw_iterator_opt(options)
}

struct Digester<'a> {
    path: &'a std::path::Path,
    /// What has expired by then is left out.
    now_ms: u64,
    hash: Sha256,
    keys: u64,
    rows: Iterator<'a>,
    elements: Iterator<'a>,
}

impl Digester<'_> {
    fn unit(&mut self, unit: Unit) -> Result<(), StateError> {
        let mut from = Vec::new();
        keys::row_key_in(unit, b"", &mut from);
        self.rows.seek(&from);
        while let Some((stored, row)) = self.rows.item() {
            let key = match keys::parse(stored)? {
                StorageKey::Row { unit: found, key } if found == unit => key,
                _ => return Ok(()),
            };
            let parsed = RowRef::parse(row)?;
            if !parsed.is_expired(self.now_ms) {
                self.keys += 1;
                add(&mut self.hash, key);
                add(&mut self.hash, row);
                if let RowValue::Hash { generation, .. } = parsed.value() {
                    add_elements(&mut self.hash, &mut self.elements, key, generation);
                    let ended = self.elements.status();
                    ended.map_err(StateError::at("digest", self.path))?;
                }
            }
            self.rows.next();
        }
        self.rows.status().map_err(StateError::at("digest", self.path))
    }
}

fn add_elements(
    hash: &mut Sha256,
    elements: &mut Iterator<'_>,
    key: &[u8],
    generation: Generation,
) {
    let mut prefix = Vec::new();
    keys::element_prefix(key, generation, &mut prefix);
    elements.seek(&prefix);
    while let Some((stored, row)) = elements.item()
        && let Some(field) = stored.strip_prefix(&*prefix)
    {
        add(hash, field);
        add(hash, row);
        elements.next();
    }
}

/// Length first, so that no two contents run together.
fn add(hash: &mut Sha256, bytes: &[u8]) {
    hash.update((bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}
