//! Reading: one view for those who read what is visible and for the writer, who reads the newest.
//!
//! A key is looked up in the layers of writes in flight from the top down, then in the hot rows,
//! then in RocksDB. What was found for a key is consistent within one call: the row and the
//! fields of a hash are those of one record. A steady view is consistent as long as it lives.

use std::{
    ops::{ControlFlow, Deref},
    sync::Arc,
};

use arc_swap::Guard;
use bytes::Bytes;
use larder_types::{HybridTime, UNITS, Unit};

use crate::{
    StateError,
    cache::RowId,
    inflight::{BLOCKS, Found, KeyRef, Lowest, RowBytes, Sight, Stack, UNITS_PER_BLOCK},
    row::{FieldRef, Generation, RowRef, generation_of},
    store::Shared,
};

/// Rows in flight that a scan takes from a block at first. A scan that goes on takes more at a time,
/// because for each page all of the block is looked at.
const PAGE_ROWS: usize = 256;
const PAGE_GROWTH: usize = 4;

/// What a field's name that was read takes beside its bytes: a pointer of 16 bytes to it, the 16 of its two
/// counts, what the allocator adds, and, in a reply, its length and line ends.
pub(crate) const NAME_OVERHEAD_BYTES: usize = 48;
/// The same of a name together with its value, whose row has pointer and counts of its own.
pub(crate) const FIELD_OVERHEAD_BYTES: usize = 100;

/// The memory of a row that was read, which the cache and others may hold, too; cheap to clone.
#[derive(Clone, Debug)]
pub struct RowMemory(Arc<[u8]>);

impl RowMemory {
    /// How many bytes are kept as long as any part of it is.
    pub fn bytes(&self) -> usize {
        self.0.len()
    }

    /// A part of it, which must lie in it, as bytes that keep it.
    pub fn share(&self, part: &[u8]) -> Bytes {
        Bytes::from_owner(self.clone()).slice_ref(part)
    }
}

impl AsRef<[u8]> for RowMemory {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// A row that was read; cheap to clone.
#[derive(Clone, Debug)]
pub struct Row(RowMemory);

impl Row {
    fn parse(bytes: Arc<[u8]>) -> Result<Self, StateError> {
        RowRef::parse(&bytes)?;
        Ok(Self(RowMemory(bytes)))
    }

    /// The row as it is stored.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.0.as_ref()
    }

    /// What its parts lie in.
    pub const fn memory(&self) -> &RowMemory {
        &self.0
    }

    /// The row's parts.
    pub fn as_ref(&self) -> RowRef<'_> {
        RowRef::parse(self.bytes()).expect("checked when the row was read")
    }
}

/// A hash field's value that was read; cheap to clone.
#[derive(Clone, Debug)]
pub struct FieldValue(RowMemory);

impl FieldValue {
    fn parse(bytes: Arc<[u8]>) -> Result<Self, StateError> {
        FieldRef::parse(&bytes)?;
        Ok(Self(RowMemory(bytes)))
    }

    /// The version that the field was written with.
    pub fn version(&self) -> HybridTime {
        self.parts().version()
    }

    /// The field's row as it is stored.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.0.as_ref()
    }

    /// What the value lies in.
    pub const fn memory(&self) -> &RowMemory {
        &self.0
    }

    fn parts(&self) -> FieldRef<'_> {
        FieldRef::parse(self.bytes()).expect("checked when the field was read")
    }
}

impl Deref for FieldValue {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.parts().value()
    }
}

/// A field's name and value.
pub type NamedField = (Arc<[u8]>, FieldValue);
/// A row and, in the order asked for, the fields of it; `None` for those that it has not.
pub type RowAndFields = (Row, Vec<Option<FieldValue>>);

/// Where a scan goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScanPosition {
    /// The unit to look at first.
    pub unit: u16,
    /// Only keys of that unit beyond this one.
    pub after: Option<Vec<u8>>,
}

/// What a request reads; made for one request.
pub struct View<'a> {
    shared: &'a Shared,
    stack: Guard<Arc<Stack>>,
    sight: Sight<'a>,
    now_ms: u64,
}

impl<'a> View<'a> {
    pub(crate) fn visible(shared: &'a Shared, now_ms: u64) -> Self {
        Self::of(shared, Sight::Visible(shared.visible_watermark()), now_ms)
    }

    /// A view up to record `seq`, which is visible and held.
    pub(crate) fn upto(shared: &'a Shared, seq: u64, now_ms: u64) -> Self {
        Self::of(shared, Sight::Upto(seq), now_ms)
    }

    pub(crate) fn newest(shared: &'a Shared, now_ms: u64) -> Self {
        Self::of(shared, Sight::Newest, now_ms)
    }

    /// A view of what is visible, expired or not: only what compactions may have dropped is hidden. What
    /// has expired for a record that is not visible yet may have been prolonged by one before it.
    pub(crate) fn of_kept(shared: &'a Shared) -> Result<Self, StateError> {
        let now_ms = shared.database()?.filter_clock_ms();
        Ok(Self { now_ms, ..Self::visible(shared, now_ms) })
    }

    fn of(shared: &'a Shared, sight: Sight<'a>, now_ms: u64) -> Self {
        // What has expired for a record has for whoever reads: transactions take it for gone, and
        // compaction drops it.
        let now_ms = now_ms.max(shared.stamped_ms());
        Self { shared, stack: shared.inflight.stack(), sight, now_ms }
    }

    /// The time of this request, in milliseconds since the Unix epoch: the wall clock's, and not before
    /// any record's.
    pub const fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// The live row of `key`: `None` where it is absent or expired.
    ///
    /// # Errors
    /// When RocksDB cannot be read or holds a row that does not parse.
    pub fn row(&self, key: &[u8]) -> Result<Option<Row>, StateError> {
        let key = KeyRef::new(key);
        let mut sight = self.sight;
        for layer in self.stack.iter() {
            let (found, seq) = layer.row(key, sight);
            sight = Sight::Upto(seq);
            if let Found::Row(row) = found {
                return self.live(row);
            }
            if layer.cleared_by(seq) {
                return Ok(None);
            }
        }
        self.live(self.stored_row(key.key)?)
    }

    /// The live row of `key` and, if it is a hash, these fields of it.
    ///
    /// # Errors
    /// As [`View::row`].
    pub fn row_and_fields(
        &self,
        key: &[u8],
        fields: &[&[u8]],
    ) -> Result<Option<RowAndFields>, StateError> {
        self.row_and_fields_within(key, fields, usize::MAX)
    }

    /// As [`View::row_and_fields`], for at most `bytes_max` of fields' rows: answers fewer fields than
    /// were asked for where they take more.
    ///
    /// # Errors
    /// As [`View::row`].
    pub fn row_and_fields_within(
        &self,
        key: &[u8],
        fields: &[&[u8]],
        bytes_max: usize,
    ) -> Result<Option<RowAndFields>, StateError> {
        let mut wanted: Vec<Option<RowBytes>> = vec![None; fields.len()];
        let Some(Gathered { row, generation, reach, reached }) =
            self.gather(key, |changes, generation| {
                for (field, slot) in fields.iter().zip(&mut wanted) {
                    if slot.is_none() {
                        *slot = changes.change(&generation, field).cloned();
                    }
                }
            })?
        else {
            return Ok(None);
        };
        let Some(generation) = generation else { return Ok(Some((row, vec![None; fields.len()]))) };
        let mut found = Vec::with_capacity(fields.len());
        let mut room = bytes_max;
        for (field, change) in fields.iter().zip(wanted) {
            let bytes = match (change, reach) {
                (Some(change), _) => change,
                (None, Reach::Stored) => self.stored_element(key, generation, field)?,
                (None, Reach::Cleared) => None,
            };
            let Some(left) = room.checked_sub(bytes.as_ref().map_or(0, |bytes| bytes.len())) else {
                break;
            };
            room = left;
            found.push(bytes.map(FieldValue::parse).transpose()?);
        }
        if self.stored_is_beyond(reached) {
            return self.renewed().row_and_fields_within(key, fields, bytes_max);
        }
        Ok(Some((row, found)))
    }

    /// The live row of `key` and, if it is a hash, all of its fields in field order.
    ///
    /// # Errors
    /// As [`View::row`].
    pub fn row_and_all_fields(
        &self,
        key: &[u8],
    ) -> Result<Option<(Row, Vec<NamedField>)>, StateError> {
        let found = self.fields_within(key, None, usize::MAX, usize::MAX, named_field)?;
        Ok(found.map(|found| (found.row, found.fields)))
    }

    /// The live row of `key` and its fields beyond `after`, in field order: at most `limit`, and as
    /// many as fit into `bytes_max`.
    ///
    /// # Errors
    /// As [`View::row`].
    pub fn row_and_fields_after(
        &self,
        key: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Option<WholeRow<NamedField>>, StateError> {
        self.fields_within(key, after, limit, bytes_max, |name, row| {
            let (bytes, field) = named_field(name, row)?;
            Ok((bytes + FIELD_OVERHEAD_BYTES, field))
        })
    }

    /// The live row of `key` and, if it is a hash, its fields in field order, as many as have at most
    /// `bytes_max` with their names, not counting what they take beside.
    ///
    /// # Errors
    /// As [`View::row`].
    pub(crate) fn whole_key(
        &self,
        key: &[u8],
        bytes_max: usize,
    ) -> Result<Option<WholeRow<NamedField>>, StateError> {
        self.fields_within(key, None, usize::MAX, bytes_max, named_field)
    }

    /// The live row of `key` and, if it is a hash, the names of its fields in order, as many as take
    /// at most `bytes_max`.
    ///
    /// # Errors
    /// As [`View::row`].
    pub fn row_and_names(
        &self,
        key: &[u8],
        bytes_max: usize,
    ) -> Result<Option<WholeRow<Arc<[u8]>>>, StateError> {
        let name = |name: Arc<[u8]>, _: Arc<[u8]>| Ok((name.len() + NAME_OVERHEAD_BYTES, name));
        self.fields_within(key, None, usize::MAX, bytes_max, name)
    }

    fn fields_within<T>(
        &self,
        key: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        bytes_max: usize,
        keep: Keep<T>,
    ) -> Result<Option<WholeRow<T>>, StateError> {
        let mut lowest: Lowest<Arc<[u8]>> = Lowest::new(limit);
        let Some(Gathered { row, generation, reach, reached }) =
            self.gather(key, |changes, generation| {
                changes.offer(generation, after, &mut lowest);
            })?
        else {
            return Ok(None);
        };
        let Some(generation) = generation else {
            return Ok(Some(WholeRow { row, fields: Vec::new(), complete: true }));
        };
        // Where changes are cut off, those before are enough to reach the limit.
        let (changed, cut) = lowest.take();
        let changed = changed.into_iter().peekable();
        let mut merged = Merge { changed, out: Vec::new(), limit, room: bytes_max, keep };
        let mut complete = true;
        if reach == Reach::Stored {
            let database = self.shared.database()?;
            let elements = database.elements_after(key, generation, after);
            if self.stored_is_beyond(reached) {
                return self.renewed().fields_within(key, after, limit, bytes_max, keep);
            }
            for element in elements {
                let (field, stored) = element?;
                complete = merged.stored(&field, &stored)?;
                if !complete {
                    break;
                }
            }
        }
        complete = complete && merged.rest()? && !cut;
        Ok(Some(WholeRow { row, fields: merged.out, complete }))
    }

    /// Visits live rows in (unit, key) order, from `from` on. When `visit` breaks, the scan stops
    /// after that row and answers where to go on; at the end of all rows it answers `None`.
    /// Rows written while the scan goes on may or may not be seen.
    ///
    /// # Errors
    /// As [`View::row`].
    pub fn scan(
        &self,
        from: ScanPosition,
        visit: &mut dyn FnMut(&[u8], RowRef<'_>) -> ControlFlow<()>,
    ) -> Result<Option<ScanPosition>, StateError> {
        let (mut from, mut rows_max) = (from, PAGE_ROWS);
        while from.unit < UNITS {
            let block = from.unit / UNITS_PER_BLOCK;
            from = match self.scan_page(block, &from, rows_max, visit)? {
                ControlFlow::Break(position) => return Ok(Some(position)),
                ControlFlow::Continue(Some(position)) => {
                    rows_max *= PAGE_GROWTH;
                    position
                }
                ControlFlow::Continue(None) => {
                    ScanPosition { unit: (block + 1) * UNITS_PER_BLOCK, after: None }
                }
            };
        }
        Ok(None)
    }

    /// How many live keys there are. Reads every row.
    ///
    /// # Errors
    /// As [`View::row`].
    pub fn count_keys(&self) -> Result<u64, StateError> {
        let mut keys = 0;
        self.scan(ScanPosition::default(), &mut |_, _| {
            keys += 1;
            ControlFlow::Continue(())
        })?;
        Ok(keys)
    }

    /// Visits the rows of a block from `from` on: up to its end, or to where `rows_max` changed rows
    /// end, which is answered to go on from. Breaks where `visit` does.
    fn scan_page(
        &self,
        block: u16,
        from: &ScanPosition,
        rows_max: usize,
        visit: &mut dyn FnMut(&[u8], RowRef<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<ScanPosition, Option<ScanPosition>>, StateError> {
        debug_assert!(block < BLOCKS);
        let (lowest, reach) = self.changed_rows_of_block(block, from, rows_max);
        let (changed, cut) = lowest.take();
        let last = if cut { changed.last_key_value().map(|(last, _)| last.clone()) } else { None };
        let mut changed = changed.into_iter().peekable();
        let mut emit = |unit: u16, key: &[u8], row: &[u8]| -> Result<_, StateError> {
            let row = RowRef::parse(row)?;
            if row.is_expired(self.now_ms) || visit(key, row).is_continue() {
                return Ok(None);
            }
            Ok(Some(ScanPosition { unit, after: Some(key.to_vec()) }))
        };
        if reach == Reach::Stored {
            let end = (block + 1) * UNITS_PER_BLOCK;
            let start = Unit::new(from.unit).expect("below the number of units");
            let database = self.shared.database()?;
            for stored in database.rows_from(start, from.after.as_deref()) {
                let (unit, key, row) = stored?;
                if unit.as_u16() >= end {
                    break;
                }
                let place = (unit.as_u16(), &*key);
                if last.as_ref().is_some_and(|(unit, key)| place > (*unit, &**key)) {
                    break;
                }
                while let Some(((unit, key), row)) =
                    changed.next_if(|((unit, key), _)| (*unit, &**key) < place)
                {
                    if let Some(row) = row
                        && let Some(position) = emit(unit, &key, &row)?
                    {
                        return Ok(ControlFlow::Break(position));
                    }
                }
                let newer = changed.next_if(|((unit, key), _)| (*unit, &**key) == place);
                let row = newer.map_or(Some(row), |(_, row)| row);
                if let Some(row) = row
                    && let Some(position) = emit(unit.as_u16(), &key, &row)?
                {
                    return Ok(ControlFlow::Break(position));
                }
            }
        }
        for ((unit, key), row) in changed {
            if let Some(row) = row
                && let Some(position) = emit(unit, &key, &row)?
            {
                return Ok(ControlFlow::Break(position));
            }
        }
        let go_on = last.map(|(unit, key)| ScanPosition { unit, after: Some(key.to_vec()) });
        Ok(ControlFlow::Continue(go_on))
    }

    fn changed_rows_of_block(
        &self,
        block: u16,
        from: &ScanPosition,
        rows_max: usize,
    ) -> (Lowest<Place>, Reach) {
        let is_beyond = |unit: u16, key: &[u8]| {
            unit > from.unit
                || unit == from.unit && from.after.as_deref().is_none_or(|after| key > after)
        };
        let mut lowest = Lowest::new(rows_max);
        let mut sight = self.sight;
        for layer in self.stack.iter() {
            let seq = layer.rows_of_block(block, sight, |unit, key, row| {
                let beyond_page = |(last, after): &Place| (*last, after) < (unit, key);
                if is_beyond(unit, key) && !lowest.passes_over(beyond_page) {
                    lowest.offer((unit, key.clone()), row);
                }
            });
            sight = Sight::Upto(seq);
            if layer.cleared_by(seq) {
                return (lowest, Reach::Cleared);
            }
        }
        (lowest, Reach::Stored)
    }

    /// Finds the live row of `key` and shows `collect` the changed fields of its generation, layer
    /// by layer from the newest, the first under the lock that the row was found under. Layers
    /// below the first never change, so that row and fields are those of one record. Answers as well
    /// up to which record it looked.
    fn gather(
        &self,
        key: &[u8],
        mut collect: impl FnMut(crate::inflight::FieldsAt<'_>, Generation),
    ) -> Result<Option<Gathered>, StateError> {
        let key = KeyRef::new(key);
        let (mut sight, mut reached) = (self.sight, 0);
        let mut row: Option<Arc<[u8]>> = None;
        let mut generation = None;
        let mut reach = Reach::Stored;
        for layer in self.stack.iter() {
            let (found, seq) = layer.look(key, sight, |changes, found| {
                if row.is_none()
                    && let Found::Row(Some(bytes)) = found
                {
                    generation = generation_of(bytes);
                }
                if let Some(generation) = generation {
                    collect(changes, generation);
                }
            });
            (sight, reached) = (Sight::Upto(seq), reached.max(seq));
            match found {
                Found::Row(None) if row.is_none() => return Ok(None),
                Found::Row(Some(bytes)) if row.is_none() => row = Some(bytes),
                _ => {}
            }
            if layer.cleared_by(seq) {
                reach = Reach::Cleared;
                break;
            }
        }
        if row.is_none() && reach == Reach::Stored {
            row = self.stored_row(key.key)?;
            generation = row.as_deref().and_then(generation_of);
        }
        Ok(self.live(row)?.map(|row| Gathered { row, generation, reach, reached }))
    }

    /// Whether RocksDB may hold something beyond record `seq`, up to which the layers were looked at;
    /// asked after it was read. Then what was read of several rows may be of different records,
    /// and is read again. It takes a fold that begins meanwhile.
    fn stored_is_beyond(&self, seq: u64) -> bool {
        self.shared.folding() > seq
    }

    fn renewed(&self) -> Self {
        Self { stack: self.shared.inflight.stack(), ..*self }
    }

    fn stored_row(&self, key: &[u8]) -> Result<RowBytes, StateError> {
        self.shared.cache.read(RowId::of_key(key), || self.shared.database()?.row(key))
    }

    fn stored_element(
        &self,
        key: &[u8],
        generation: Generation,
        name: &[u8],
    ) -> Result<RowBytes, StateError> {
        let id = RowId::of_element(key, generation, name);
        let load = || self.shared.database()?.element(key, generation, name);
        match self.sight {
            // The writer asks for what it is about to change: taking that in costs more than it saves.
            Sight::Newest => self.shared.cache.get(id).map_or_else(load, Ok),
            _ => self.shared.cache.read(id, load),
        }
    }

    fn live(&self, row: RowBytes) -> Result<Option<Row>, StateError> {
        let Some(bytes) = row else { return Ok(None) };
        let row = Row::parse(bytes)?;
        let expired = row.as_ref().is_expired(self.now_ms);
        Ok((!expired).then_some(row))
    }
}

/// A row's unit and key: scans go in this order.
type Place = (u16, Arc<[u8]>);

/// A live row and how it was found.
struct Gathered {
    row: Row,
    /// Of a hash.
    generation: Option<Generation>,
    reach: Reach,
    /// The record up to which the layers were looked at.
    reached: u64,
}

/// Whether what RocksDB holds is still in sight below the layers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    Stored,
    Cleared,
}

/// A row with what was asked for of its fields, or of the first of them.
#[derive(Debug)]
pub struct WholeRow<T> {
    /// The row.
    pub row: Row,
    /// Of each field, in field order.
    pub fields: Vec<T>,
    /// Whether no field was left out.
    pub complete: bool,
}

/// Makes of a field's name and row what is kept of it, and says how many bytes that takes.
type Keep<T> = fn(Arc<[u8]>, Arc<[u8]>) -> Result<(usize, T), StateError>;

fn named_field(name: Arc<[u8]>, row: Arc<[u8]>) -> Result<(usize, NamedField), StateError> {
    Ok((name.len() + row.len(), (name, FieldValue::parse(row)?)))
}

/// Merges stored fields with the changes above them, in field order, up to a limit.
struct Merge<I: Iterator<Item = (Arc<[u8]>, RowBytes)>, T> {
    changed: std::iter::Peekable<I>,
    out: Vec<T>,
    limit: usize,
    /// Bytes that may still be kept.
    room: usize,
    keep: Keep<T>,
}

impl<I: Iterator<Item = (Arc<[u8]>, RowBytes)>, T> Merge<I, T> {
    /// Takes a stored field, and the changes before it. False when the limit is reached.
    fn stored(&mut self, field: &[u8], row: &[u8]) -> Result<bool, StateError> {
        while let Some((name, change)) = self.changed.next_if(|(name, _)| **name < *field) {
            if !self.push(name, change)? {
                return Ok(false);
            }
        }
        match self.changed.next_if(|(name, _)| **name == *field) {
            Some((name, change)) => self.push(name, change),
            None => self.push(Arc::from(field), Some(Arc::from(row))),
        }
    }

    /// Takes the changes behind the last stored field. False when the limit is reached.
    fn rest(&mut self) -> Result<bool, StateError> {
        while let Some((name, change)) = self.changed.next() {
            if !self.push(name, change)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn push(&mut self, name: Arc<[u8]>, row: RowBytes) -> Result<bool, StateError> {
        if self.out.len() >= self.limit {
            return Ok(false);
        }
        if let Some(row) = row {
            let (bytes, kept) = (self.keep)(name, row)?;
            let Some(room) = self.room.checked_sub(bytes) else { return Ok(false) };
            self.room = room;
            self.out.push(kept);
        }
        Ok(true)
    }
}
