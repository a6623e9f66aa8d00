//! Records that parted from the master's history, kept in files that people can read.
//!
//! `parted/NAME.jsonl`: one line about the file, then one line a record, oldest first. Bytes that are
//! UTF-8 are text, others `{"hex": ".."}`. A file is there whole or not at all.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use larder_types::{Epoch, HybridTime, SequenceNumber};
use serde::{Deserialize, Serialize};

use crate::{
    Directory, Txn, TxnError,
    effect::{Effect, EffectError, effects},
    log::{ReadError, Record, RecordKind},
    row::{FieldRef, RowError, RowRef, RowValue},
};

mod export;

pub(crate) use export::Export;

/// The version of the files.
const FORMAT: u32 = 1;
/// The end of their names.
const SUFFIX: &str = ".jsonl";
/// A line: the smallest effect is one byte in the log and about twenty in words.
const LINE_BYTES_MAX: u64 = 20 * larder_types::limits::RECORD_BYTES_MAX as u64 + 4096;

/// Bytes that are text where they are UTF-8.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum Readable {
    Text(String),
    Hex { hex: String },
}

impl From<&[u8]> for Readable {
    fn from(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Hex { hex: to_hex(bytes) },
        }
    }
}

impl Readable {
    fn bytes(&self) -> Option<Vec<u8>> {
        match self {
            Self::Text(text) => Some(text.as_bytes().to_vec()),
            Self::Hex { hex } => from_hex(hex),
        }
    }
}

pub(crate) fn to_hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

pub(crate) fn from_hex(hex: &str) -> Option<Vec<u8>> {
    let digits = hex.as_bytes();
    let value = |digit: u8| (digit as char).to_digit(16);
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let byte = |pair: &[u8]| Some((value(pair[0])? << 4 | value(pair[1])?) as u8);
    digits.chunks_exact(2).map(byte).collect()
}

/// What a file of parted records is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartedInfo {
    /// The version of the file.
    pub format: u32,
    /// The file's name, without its end.
    pub name: String,
    /// The log's identity.
    pub log: String,
    /// The first record.
    pub from: SequenceNumber,
    /// The last record.
    pub to: SequenceNumber,
    /// The epoch of the last record.
    pub epoch: Epoch,
    /// How many records there are.
    pub records: u64,
    /// Bytes that they took in the log.
    pub bytes: u64,
    /// When they were exported, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// Whether this log and the master's were seen to have records in common, and so to have parted
    /// behind them. Where not, or where a file does not say, nobody can tell whether the master's
    /// log has these records too.
    #[serde(default)]
    pub in_common: bool,
}

/// One parted record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartedRecord {
    /// Its number.
    pub seq: SequenceNumber,
    /// The epoch that wrote it.
    pub epoch: Epoch,
    /// Its stamp.
    pub hybrid: HybridTime,
    /// Its kind.
    kind: Kind,
    /// What it did, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    effects: Vec<PartedEffect>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Data,
    Epoch,
    Replicas,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "effect", rename_all = "kebab-case")]
enum PartedEffect {
    PutString { key: Readable, value: Readable, expiry_ms: Option<u64> },
    PutHash { key: Readable, fields: u64, expiry_ms: Option<u64> },
    PutField { key: Readable, field: Readable, value: Readable },
    DeleteField { key: Readable, field: Readable },
    Delete { key: Readable },
    Clear,
}

/// Why parted records were not exported, listed, read or applied again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PartedError {
    /// The operating system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Its answer.
        source: io::Error,
    },
    /// A line does not read as it should.
    #[error("{path}: line {line} is damaged or of another version: {what}")]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What is wrong.
        what: String,
    },
    /// There is no such file.
    #[error("there are no parted records named {name:?}: list them first")]
    Unknown {
        /// The name.
        name: String,
    },
    /// The log could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A record's body does not decode.
    #[error(transparent)]
    Effect(#[from] EffectError),
    /// A record's row does not parse.
    #[error(transparent)]
    Row(#[from] RowError),
    /// An effect cannot be applied again.
    #[error("record {seq} cannot be applied again: {source}")]
    Reapply {
        /// The record.
        seq: SequenceNumber,
        /// Why.
        source: TxnError,
    },
    /// A value in a record is no bytes.
    #[error("record {seq}: a value is neither text nor hexadecimal")]
    Value {
        /// The record.
        seq: SequenceNumber,
    },
}

impl PartedRecord {
    pub(crate) fn of(record: &Record<'_>) -> Result<Self, PartedError> {
        let Record { seq, epoch, hybrid, .. } = *record;
        let (kind, mut parted) = match record.kind {
            RecordKind::Data => (Kind::Data, Vec::new()),
            RecordKind::Epoch => (Kind::Epoch, Vec::new()),
            RecordKind::Replicas => (Kind::Replicas, Vec::new()),
        };
        if kind == Kind::Data {
            for effect in effects(record.body) {
                parted.push(PartedEffect::of(effect?)?);
            }
        }
        Ok(Self { seq, epoch, hybrid, kind, effects: parted })
    }

    /// Puts what the record did into `txn`, as new writes. Values that were changed since are
    /// overwritten; nothing is done for records that hold no data.
    ///
    /// # Errors
    /// When an effect is refused, such as a field's where the key now holds another type. Those before it
    /// are in `txn` then.
    pub fn reapply(&self, txn: &mut Txn<'_>) -> Result<(), PartedError> {
        // It was one record before.
        txn.lift_changes_max();
        let mut expiries = Vec::new();
        for run in self.effects.chunk_by(PartedEffect::goes_with) {
            reapply_run(run, self.seq, txn, &mut expiries)?;
        }
        for (key, expiry) in expiries {
            let set = txn.set_expiry(&key, expiry);
            set.map_err(|source| PartedError::Reapply { seq: self.seq, source })?;
        }
        Ok(())
    }
}

impl PartedEffect {
    fn of(effect: Effect<'_>) -> Result<Self, PartedError> {
        Ok(match effect {
            Effect::PutRow { key, row } => {
                let (row, key) = (RowRef::parse(row)?, key.into());
                let expiry_ms = row.expiry();
                match row.value() {
                    RowValue::String(value) => {
                        Self::PutString { key, value: value.into(), expiry_ms }
                    }
                    RowValue::Hash { fields, .. } => Self::PutHash { key, fields, expiry_ms },
                }
            }
            Effect::DeleteRow { key } => Self::Delete { key: key.into() },
            Effect::PutField { key, field, row, .. } => Self::PutField {
                key: key.into(),
                field: field.into(),
                value: FieldRef::parse(row)?.value().into(),
            },
            Effect::DeleteField { key, field, .. } => {
                Self::DeleteField { key: key.into(), field: field.into() }
            }
            Effect::Clear => Self::Clear,
        })
    }

    /// Whether both put fields into one hash, or both delete some of it.
    fn goes_with(&self, next: &Self) -> bool {
        match (self, next) {
            (Self::PutField { key, .. }, Self::PutField { key: other, .. })
            | (Self::DeleteField { key, .. }, Self::DeleteField { key: other, .. }) => key == other,
            _ => false,
        }
    }
}

/// Applies effects that go with one another, at once: by themselves each field would put its hash's row
/// again. A hash's expiry is set once its fields are there.
fn reapply_run(
    run: &[PartedEffect],
    seq: SequenceNumber,
    txn: &mut Txn<'_>,
    expiries: &mut Vec<(Vec<u8>, Option<u64>)>,
) -> Result<(), PartedError> {
    let bytes = |value: &Readable| value.bytes().ok_or(PartedError::Value { seq });
    let [effect, ..] = run else { return Ok(()) };
    let done = match effect {
        PartedEffect::PutString { key, value, expiry_ms } => {
            txn.put_string(&bytes(key)?, &bytes(value)?, *expiry_ms)
        }
        PartedEffect::PutHash { key, expiry_ms, .. } => {
            expiries.push((bytes(key)?, *expiry_ms));
            Ok(())
        }
        PartedEffect::PutField { key, .. } => {
            let mut pairs = Vec::with_capacity(run.len());
            for effect in run {
                if let PartedEffect::PutField { field, value, .. } = effect {
                    pairs.push((bytes(field)?, bytes(value)?));
                }
            }
            let pairs: Vec<_> = pairs.iter().map(|(field, value)| (&**field, &**value)).collect();
            txn.hash_put(&bytes(key)?, &pairs).map(|_| ())
        }
        PartedEffect::DeleteField { key, .. } => {
            let mut fields = Vec::with_capacity(run.len());
            for effect in run {
                if let PartedEffect::DeleteField { field, .. } = effect {
                    fields.push(bytes(field)?);
                }
            }
            let fields: Vec<_> = fields.iter().map(|field| &**field).collect();
            txn.hash_delete(&bytes(key)?, &fields).map(|_| ())
        }
        PartedEffect::Delete { key } => txn.delete(&bytes(key)?).map(|_| ()),
        PartedEffect::Clear => txn.clear(),
    };
    done.map_err(|source| PartedError::Reapply { seq, source })
}

/// The files of parted records, oldest first.
///
/// # Errors
/// When the directory cannot be read, or a file is not one of parted records.
pub fn list(directory: &Directory) -> Result<Vec<PartedInfo>, PartedError> {
    let dir = directory.parted();
    let at = |source| PartedError::Io { path: dir.clone(), source };
    let entries = match std::fs::read_dir(&dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(at)?,
    };
    let mut infos = Vec::new();
    for entry in entries {
        let name = entry.map_err(at)?.file_name();
        if let Some(name) = name.to_str().and_then(|name| name.strip_suffix(SUFFIX)) {
            infos.push(read(directory, name)?.info);
        }
    }
    infos.sort_by_key(|info| (info.at_ms, info.from));
    Ok(infos)
}

/// The parted records of one file, oldest first; ends after the first error.
#[derive(Debug)]
pub struct PartedRecords {
    /// What the file is about.
    pub info: PartedInfo,
    path: PathBuf,
    lines: BufReader<File>,
    line: u64,
    /// Bytes of the lines read.
    bytes: u64,
    failed: bool,
}

impl PartedRecords {
    /// The next record, and as many more as make up `bytes_enough` in the file; none at the end.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged.
    pub fn some(&mut self, bytes_enough: u64) -> Result<Vec<PartedRecord>, PartedError> {
        let (until, mut records) = (self.bytes + bytes_enough, Vec::new());
        while self.bytes < until {
            let Some(record) = self.next() else { break };
            records.push(record?);
        }
        Ok(records)
    }
}

/// Opens the file of this name, as [`list`] tells it.
///
/// # Errors
/// When there is none, or its first line is not what it should be.
pub fn read(directory: &Directory, name: &str) -> Result<PartedRecords, PartedError> {
    let unknown = || PartedError::Unknown { name: name.to_owned() };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-".contains(&byte);
    if !name.bytes().all(plain) {
        return Err(unknown());
    }
    let path = directory.parted().join(format!("{name}{SUFFIX}"));
    let file = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(unknown()),
        opened => opened.map_err(|source| PartedError::Io { path: path.clone(), source })?,
    };
    let mut lines = BufReader::new(file);
    let (info, bytes): (PartedInfo, _) = read_line(&mut lines, &path, 1)?
        .ok_or_else(|| damaged(&path, 1, "the file is empty".into()))?;
    if info.format != FORMAT {
        return Err(damaged(&path, 1, format!("format {}, not {FORMAT}", info.format)));
    }
    Ok(PartedRecords { info, path, lines, line: 1, bytes, failed: false })
}

impl Iterator for PartedRecords {
    type Item = Result<PartedRecord, PartedError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        self.line += 1;
        let read = read_line(&mut self.lines, &self.path, self.line).transpose()?;
        self.failed = read.is_err();
        Some(read.map(|(record, bytes)| {
            self.bytes += bytes;
            record
        }))
    }
}

fn damaged(path: &Path, line: u64, what: String) -> PartedError {
    PartedError::Line { path: path.to_path_buf(), line, what }
}

/// What a line holds, and its bytes; `None` at the end.
fn read_line<T: serde::de::DeserializeOwned>(
    lines: &mut BufReader<File>,
    path: &Path,
    line: u64,
) -> Result<Option<(T, u64)>, PartedError> {
    let mut bytes = Vec::new();
    let read = lines.take(LINE_BYTES_MAX).read_until(b'\n', &mut bytes);
    let read = read.map_err(|source| PartedError::Io { path: path.to_path_buf(), source })?;
    if read == 0 {
        return Ok(None);
    }
    let parsed = serde_json::from_slice(&bytes);
    let parsed = parsed.map_err(|error| damaged(path, line, error.to_string()))?;
    Ok(Some((parsed, read as u64)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_text_are_written_as_hexadecimal_and_read_back() {
        for bytes in [&b"text"[..], b"", &[0xff, 0x00, 0x7f], "日本".as_bytes()] {
            let written = serde_json::to_string(&Readable::from(bytes)).unwrap();
            let read: Readable = serde_json::from_str(&written).unwrap();
            assert_eq!(read.bytes().unwrap(), bytes);
        }
        for wrong in ["0", "0g", "é0"] {
            assert_eq!(from_hex(wrong), None);
        }
    }
}
