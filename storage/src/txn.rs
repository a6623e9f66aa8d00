//! A transaction: the effects of one command, or of one MULTI, which become one log record.
//!
//! Effects go into the top layer at once, under the sequence number that the record will get, so
//! that what follows in the transaction sees them; nobody else does before the record commits.
//! There is no rollback: an effect that does not fit is refused before anything of it is done.

use hashbrown::HashSet;
use larder_types::{
    HybridTime, Position, SequenceNumber,
    limits::{
        FIELD_BYTES_MAX, KEY_BYTES_MAX, RECORD_BYTES_MAX, RECORD_CHANGES_MAX, VALUE_BYTES_MAX,
    },
};

use crate::{
    StateError,
    effect::{Effect, effects},
    inflight::KeyRef,
    row::{Generation, RowValue, field_row, hash_row, string_row},
    store::Writer,
    view::View,
};

/// Room in a record for its frame, beside the effects.
const FRAME_BYTES_MAX: usize = 256;

/// Why an effect was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TxnError {
    /// A field's name is too long.
    #[error("a field name of {bytes} bytes is larger than the limit of {FIELD_BYTES_MAX}")]
    FieldTooLarge {
        /// Its length.
        bytes: usize,
    },
    /// A key is too long.
    #[error("a key of {bytes} bytes is larger than the limit of {KEY_BYTES_MAX}")]
    KeyTooLarge {
        /// Its length.
        bytes: usize,
    },
    /// The effects of one transaction do not fit into one record.
    #[error(
        "the transaction's effects are larger than a log record's limit of {RECORD_BYTES_MAX} bytes; split it"
    )]
    RecordTooLarge,
    /// The state could not be read.
    #[error(transparent)]
    State(#[from] StateError),
    /// The transaction would change too much.
    #[error(
        "the transaction changes more rows and fields than the limit of {RECORD_CHANGES_MAX}; split it"
    )]
    TooManyChanges,
    /// A value is too long.
    #[error("a value of {bytes} bytes is larger than the limit of {VALUE_BYTES_MAX}")]
    ValueTooLarge {
        /// Its length.
        bytes: usize,
    },
    /// The key holds another type.
    #[error("the key holds another type")]
    WrongType,
}

/// What a transaction changed.
#[derive(Clone, Copy, Debug)]
pub enum Touched<'a> {
    /// This key.
    Key(&'a [u8]),
    /// Every key was deleted.
    All,
}

/// One log record in the making.
pub struct Txn<'a> {
    writer: &'a mut Writer,
    seq: SequenceNumber,
    stamp: HybridTime,
    now_ms: u64,
    /// No reader asks for less than this record.
    floor: u64,
    /// Composite values created so far, for their generations.
    created: u32,
    /// Rows and fields put or deleted so far.
    changes: u64,
    changes_max: u64,
}

impl<'a> Txn<'a> {
    pub(crate) fn begin(writer: &'a mut Writer, now_ms: u64) -> Self {
        let stamp = writer.clock.tick(now_ms);
        // Never less than an earlier record's stamp: compaction drops what has expired by those.
        let now_ms = now_ms.max(stamp.millis());
        let seq = writer.appender.next_seq();
        let floor = writer.shared.floor();
        debug_assert!(writer.body.is_empty());
        Self {
            writer,
            seq,
            stamp,
            now_ms,
            floor,
            created: 0,
            changes: 0,
            changes_max: RECORD_CHANGES_MAX,
        }
    }

    /// What the transaction sees: the newest of everything, its own effects included.
    pub fn view(&self) -> View<'_> {
        View::newest(&self.writer.shared, self.now_ms)
    }

    /// The wall clock of this request, in milliseconds since the Unix epoch.
    pub const fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// The version that rows written by this transaction get.
    pub const fn stamp(&self) -> HybridTime {
        self.stamp
    }

    /// Puts a string, whatever was there. Reads nothing.
    ///
    /// # Errors
    /// When key, value or record would be larger than their limits.
    pub fn put_string(
        &mut self,
        key: &[u8],
        value: &[u8],
        expiry: Option<u64>,
    ) -> Result<(), TxnError> {
        check_key(key)?;
        check_value(value)?;
        let row = string_row(self.stamp, expiry, value);
        let effect = Effect::PutRow { key, row: &row };
        self.check_room(1, effect.encoded_bytes_max())?;
        effect.encode(&mut self.writer.body);
        self.put_row(KeyRef::new(key), Some(row));
        Ok(())
    }

    /// Sets or removes the expiry, in milliseconds since the Unix epoch. False if `key` is absent.
    ///
    /// # Errors
    /// When the state cannot be read or the record would be too large.
    pub fn set_expiry(&mut self, key: &[u8], expiry: Option<u64>) -> Result<bool, TxnError> {
        let Some(row) = self.view().row(key)? else { return Ok(false) };
        match row.as_ref().value() {
            RowValue::String(value) => self.put_string(key, value, expiry)?,
            RowValue::Hash { generation, fields } => {
                self.check_room(1, hash_effect_bytes(key))?;
                self.put_hash(key, generation, fields, expiry);
            }
        }
        Ok(true)
    }

    /// Deletes `key` and all under it. False if it is absent.
    ///
    /// # Errors
    /// When the state cannot be read or the record would be too large.
    pub fn delete(&mut self, key: &[u8]) -> Result<bool, TxnError> {
        if self.view().row(key)?.is_none() {
            return Ok(false);
        }
        let effect = Effect::DeleteRow { key };
        self.check_room(1, effect.encoded_bytes_max())?;
        effect.encode(&mut self.writer.body);
        self.put_row(KeyRef::new(key), None);
        Ok(true)
    }

    /// Puts fields into the hash `key`, which is created where it is absent and keeps its expiry
    /// where it is not. Answers how many of the fields are new.
    ///
    /// # Errors
    /// When the key holds another type, the state cannot be read, or something is too large.
    pub fn hash_put(&mut self, key: &[u8], pairs: &[(&[u8], &[u8])]) -> Result<u64, TxnError> {
        check_key(key)?;
        let mut bytes = hash_effect_bytes(key);
        for (field, value) in pairs {
            check_field(field)?;
            check_value(value)?;
            bytes += key.len() + field.len() + value.len() + FIELD_EFFECT_BYTES;
        }
        self.check_room(1 + pairs.len(), bytes)?;
        let names: Vec<&[u8]> = pairs.iter().map(|(field, _)| *field).collect();
        let mut hash = self.hash(key, &names)?;
        let mut seen = HashSet::with_capacity(names.len());
        let absent = names.iter().zip(&hash.present).filter(|(_, present)| present.is_none());
        let added = absent.filter(|(name, _)| seen.insert(**name)).count() as u64;
        hash.fields += added;
        self.put_hash(key, hash.generation, hash.fields, hash.expiry);
        for (field, value) in pairs {
            let row = field_row(self.stamp, value);
            let generation = hash.generation;
            Effect::PutField { key, generation, field, row: &row }.encode(&mut self.writer.body);
            self.put_field(key, generation, field, Some(row));
        }
        Ok(added)
    }

    /// Deletes fields of the hash `key`, and the key itself when no field is left. Answers how
    /// many of them were there.
    ///
    /// # Errors
    /// As [`Txn::hash_put`].
    pub fn hash_delete(&mut self, key: &[u8], fields: &[&[u8]]) -> Result<u64, TxnError> {
        if self.view().row(key)?.is_none() {
            return Ok(0);
        }
        let bytes: usize = fields.iter().map(|f| key.len() + f.len() + FIELD_EFFECT_BYTES).sum();
        self.check_room(1 + fields.len(), hash_effect_bytes(key) + bytes)?;
        let hash = self.hash(key, fields)?;
        let present = fields.iter().zip(&hash.present).filter(|(_, present)| present.is_some());
        let gone: HashSet<&[u8]> = present.map(|(field, _)| *field).collect();
        let removed = gone.len() as u64;
        if removed == 0 {
            return Ok(0);
        }
        if removed == hash.fields {
            self.delete(key)?;
            return Ok(removed);
        }
        self.put_hash(key, hash.generation, hash.fields - removed, hash.expiry);
        for field in gone {
            let generation = hash.generation;
            Effect::DeleteField { key, generation, field }.encode(&mut self.writer.body);
            self.put_field(key, generation, field, None);
        }
        Ok(removed)
    }

    /// Deletes every key.
    ///
    /// # Errors
    /// When the record would be too large.
    pub fn clear(&mut self) -> Result<(), TxnError> {
        self.check_room(1, Effect::Clear.encoded_bytes_max())?;
        Effect::Clear.encode(&mut self.writer.body);
        self.changes += 1;
        if !self.writer.top.clear(self.seq.as_u64()) {
            self.writer.begin_layer(Some(self.seq));
        }
        Ok(())
    }

    /// Appends the record to the log's next batch. `None` where nothing was changed.
    pub fn commit(self) -> Option<Position> {
        if self.writer.body.is_empty() {
            return None;
        }
        self.writer.append(self.seq, self.stamp, self.changes);
        Some(self.writer.last())
    }

    /// Tells `tell` of every key that the transaction changed so far.
    pub fn touched(&self, mut tell: impl FnMut(Touched<'_>)) {
        for effect in effects(&self.writer.body) {
            match effect.expect("the transaction encoded it itself") {
                Effect::PutRow { key, .. } | Effect::DeleteRow { key } => tell(Touched::Key(key)),
                // The row of a field's key is put by the same transaction.
                Effect::PutField { .. } | Effect::DeleteField { .. } => {}
                Effect::Clear => tell(Touched::All),
            }
        }
    }

    /// Whether `changes` more rows and fields fit, whose effects take up to `bytes`. For whoever makes
    /// several changes of which all are to be done or none.
    ///
    /// # Errors
    /// [`TxnError::TooManyChanges`] or [`TxnError::RecordTooLarge`].
    pub fn check_room(&self, changes: usize, bytes: usize) -> Result<(), TxnError> {
        if self.changes + changes as u64 > self.changes_max {
            return Err(TxnError::TooManyChanges);
        }
        if self.writer.body.len() + bytes + FRAME_BYTES_MAX > RECORD_BYTES_MAX {
            return Err(TxnError::RecordTooLarge);
        }
        Ok(())
    }

    /// Lets the transaction change as much as a record's bytes hold.
    pub(crate) const fn lift_changes_max(&mut self) {
        self.changes_max = u64::MAX;
    }

    /// Whether the transaction changed anything so far.
    pub fn is_empty(&self) -> bool {
        self.writer.body.is_empty()
    }

    fn hash(&mut self, key: &[u8], fields: &[&[u8]]) -> Result<Hash, TxnError> {
        let found = self.view().row_and_fields(key, fields)?;
        let Some((row, present)) = found else {
            let position = Position { epoch: self.writer.appender.epoch(), seq: self.seq };
            let generation = Generation { position, ordinal: self.created };
            self.created += 1;
            let present = vec![None; fields.len()];
            return Ok(Hash { generation, fields: 0, expiry: None, present });
        };
        match row.as_ref().value() {
            RowValue::Hash { generation, fields } => {
                Ok(Hash { generation, fields, expiry: row.as_ref().expiry(), present })
            }
            RowValue::String(_) => Err(TxnError::WrongType),
        }
    }

    fn put_hash(&mut self, key: &[u8], generation: Generation, fields: u64, expiry: Option<u64>) {
        let row = hash_row(self.stamp, expiry, generation, fields);
        Effect::PutRow { key, row: &row }.encode(&mut self.writer.body);
        self.put_row(KeyRef::new(key), Some(row));
    }

    fn put_row(&mut self, key: KeyRef<'_>, row: crate::inflight::RowBytes) {
        self.changes += 1;
        self.writer.top.put_row(key, self.seq.as_u64(), self.floor, row);
    }

    fn put_field(
        &mut self,
        key: &[u8],
        generation: Generation,
        field: &[u8],
        row: crate::inflight::RowBytes,
    ) {
        self.changes += 1;
        let (key, seq) = (KeyRef::new(key), self.seq.as_u64());
        let put = self.writer.top.put_field(key, seq, self.floor, field, (generation, row));
        assert!(put, "a hash's row is put before its fields");
    }
}

impl Drop for Txn<'_> {
    fn drop(&mut self) {
        assert!(self.writer.body.is_empty(), "a transaction with effects is committed");
    }
}

struct Hash {
    generation: Generation,
    fields: u64,
    expiry: Option<u64>,
    present: Vec<Option<crate::view::FieldValue>>,
}

/// Beside key, field and value: op, lengths, generation and the field row's own header.
const FIELD_EFFECT_BYTES: usize = 64;

const fn hash_effect_bytes(key: &[u8]) -> usize {
    key.len() + 96
}

const fn check_key(key: &[u8]) -> Result<(), TxnError> {
    if key.len() > KEY_BYTES_MAX { Err(TxnError::KeyTooLarge { bytes: key.len() }) } else { Ok(()) }
}

const fn check_field(field: &[u8]) -> Result<(), TxnError> {
    let bytes = field.len();
    if bytes > FIELD_BYTES_MAX { Err(TxnError::FieldTooLarge { bytes }) } else { Ok(()) }
}

const fn check_value(value: &[u8]) -> Result<(), TxnError> {
    let bytes = value.len();
    if bytes > VALUE_BYTES_MAX { Err(TxnError::ValueTooLarge { bytes }) } else { Ok(()) }
}
