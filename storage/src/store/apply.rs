//! Records that were not evaluated here, put into the layers of writes in flight: another node's,
//! and the log's own at a start.

use std::{collections::HashSet, sync::Arc};

use larder_types::SequenceNumber;

use crate::{
    effect::{Effect, EffectError, effects},
    inflight::{FieldChange, KeyRef, Layer},
    log::{Record, RecordKind},
    row::{FieldRef, RowError, RowRef, RowValue},
};

/// Why a record, whole as it is, cannot be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// Its body does not decode.
    #[error("record {seq}: {source}; it was written by a newer version, or there is a defect")]
    Effect {
        /// The record.
        seq: SequenceNumber,
        /// What does not decode.
        source: EffectError,
    },
    /// It puts a row that does not parse.
    #[error("record {seq}: {source}; it was written by a newer version, or there is a defect")]
    Row {
        /// The record.
        seq: SequenceNumber,
        /// What is wrong with the row.
        source: RowError,
    },
    /// It changes a field without putting its hash's row before.
    #[error(
        "record {seq}: changes a field of a key whose row it does not put; it was written by a newer version, or there is a defect"
    )]
    FieldWithoutRow {
        /// The record.
        seq: SequenceNumber,
    },
}

/// Whether `record` can be applied: [`put`] then takes each of its effects.
pub(super) fn check(record: &Record<'_>) -> Result<(), RecordError> {
    if record.kind != RecordKind::Data {
        return Ok(());
    }
    let seq = record.seq;
    // Most records put one hash at most: only those before the last are in a set.
    let (mut last, mut before) = (None, HashSet::new());
    for effect in effects(record.body) {
        match effect.map_err(|source| RecordError::Effect { seq, source })? {
            Effect::PutRow { key, row } => {
                let row = RowRef::parse(row).map_err(|source| RecordError::Row { seq, source })?;
                if matches!(row.value(), RowValue::Hash { .. }) {
                    before.extend(last.replace(key));
                }
            }
            Effect::PutField { key, row, .. } => {
                FieldRef::parse(row).map_err(|source| RecordError::Row { seq, source })?;
                if last != Some(key) && !before.contains(key) {
                    return Err(RecordError::FieldWithoutRow { seq });
                }
            }
            Effect::DeleteField { key, .. } if last != Some(key) && !before.contains(key) => {
                return Err(RecordError::FieldWithoutRow { seq });
            }
            Effect::DeleteRow { .. } | Effect::DeleteField { .. } => {}
            Effect::Clear => (last, before) = (None, HashSet::new()),
        }
    }
    Ok(())
}

/// Puts an effect of record `seq`, which was checked, into the layer `top`; no reader asks for less than
/// record `floor`. False, and nothing is done, for the deletion of every key that needs a layer of its
/// own: the caller begins it.
#[must_use]
pub(super) fn put(top: &Layer, seq: u64, floor: u64, effect: Effect<'_>) -> bool {
    let field = |key: &[u8], field: &[u8], change: FieldChange| {
        let put = top.put_field(KeyRef::new(key), seq, floor, field, change);
        assert!(put, "a record that was checked puts a hash's row before its fields");
    };
    match effect {
        Effect::PutRow { key, row } => {
            top.put_row(KeyRef::new(key), seq, floor, Some(Arc::from(row)));
        }
        Effect::DeleteRow { key } => top.put_row(KeyRef::new(key), seq, floor, None),
        Effect::PutField { key, generation, field: name, row } => {
            field(key, name, (generation, Some(Arc::from(row))));
        }
        Effect::DeleteField { key, generation, field: name } => {
            field(key, name, (generation, None));
        }
        Effect::Clear => return top.clear(seq),
    }
    true
}
