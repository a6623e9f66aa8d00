//! Iterators over rows and elements. Each reads the state as of its creation.

use std::{path::PathBuf, sync::Arc};

use larder_types::Unit;
use rocksdb::{DB, DBRawIterator, ReadOptions};

use crate::{
    keys::{self, StorageKey},
    row::Generation,
    state::StateError,
};

/// The elements of one generation of one key, in the order of their names.
pub struct Elements<'a> {
    iterator: DBRawIterator<'a>,
    prefix_bytes: usize,
    path: PathBuf,
    ended: bool,
}

impl<'a> Elements<'a> {
    pub(super) fn new(
        db: &'a DB,
        key: &[u8],
        generation: Generation,
        after: Option<&[u8]>,
    ) -> Self {
        let mut prefix = Vec::new();
        keys::element_prefix(key, generation, &mut prefix);
        let prefix_bytes = prefix.len();
        let mut end = prefix.clone();
        keys::after_prefix(&mut end);
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(end);
        let mut iterator = db.raw_iterator_opt(options);
        if let Some(after) = after {
            prefix.extend_from_slice(after);
            prefix.push(0);
        }
        iterator.seek(prefix);
        Self { iterator, prefix_bytes, path: db.path().to_owned(), ended: false }
    }
}

impl Iterator for Elements<'_> {
    /// The element's name and its row.
    type Item = Result<(Box<[u8]>, Arc<[u8]>), StateError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let Some((key, row)) = self.iterator.item() else {
            self.ended = true;
            return end(&self.iterator, &self.path);
        };
        let item = (Box::from(&key[self.prefix_bytes..]), Arc::from(row));
        self.iterator.next();
        Some(Ok(item))
    }
}

/// Key rows in (unit, key) order. The elements of each unit are stepped over as a whole.
pub struct Rows<'a> {
    iterator: DBRawIterator<'a>,
    path: PathBuf,
    ended: bool,
}

impl<'a> Rows<'a> {
    pub(super) fn new(db: &'a DB, start: Unit, after: Option<&[u8]>) -> Self {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(keys::all_units_range().1);
        let mut iterator = db.raw_iterator_opt(options);
        let mut from = Vec::new();
        keys::row_key_in(start, after.unwrap_or_default(), &mut from);
        if after.is_some() {
            from.push(0);
        }
        iterator.seek(from);
        Self { iterator, path: db.path().to_owned(), ended: false }
    }
}

impl Iterator for Rows<'_> {
    /// The unit, the user key and its row.
    type Item = Result<(Unit, Box<[u8]>, Arc<[u8]>), StateError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.ended {
            let Some((key, row)) = self.iterator.item() else {
                self.ended = true;
                return end(&self.iterator, &self.path);
            };
            match keys::parse(key) {
                Ok(StorageKey::Row { unit, key }) => {
                    let item = (unit, Box::from(key), Arc::from(row));
                    self.iterator.next();
                    return Some(Ok(item));
                }
                Ok(StorageKey::Element { unit, .. }) => {
                    let (_, next_unit) = keys::unit_range(unit);
                    self.iterator.seek(next_unit);
                }
                Ok(StorageKey::Own { .. }) => self.ended = true,
                Err(damaged) => {
                    self.ended = true;
                    return Some(Err(damaged.into()));
                }
            }
        }
        None
    }
}

/// An iterator that is no longer valid is at its end, or has failed.
fn end<T>(iterator: &DBRawIterator<'_>, path: &std::path::Path) -> Option<Result<T, StateError>> {
    iterator.status().map_err(StateError::at("scan", path)).err().map(Err)
}
