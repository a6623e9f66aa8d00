//! Reading all of the state and checking what can be checked: for offline inspection.

use rocksdb::{DB, ReadOptions};

use crate::{
    keys::{self, StorageKey},
    row::{FieldRef, Generation, RowRef, RowValue},
    state::{Applied, Database, StateError},
};

/// How many defects are described; more are only counted.
const DESCRIBED_MAX: usize = 100;

/// What a database holds, and what is wrong with it.
#[derive(Clone, Debug, Default)]
pub struct VerifyReport {
    /// The position of the state.
    pub applied: Option<Applied>,
    /// Rows of strings that have not expired by the position's time.
    pub strings: u64,
    /// Rows of hashes that have not.
    pub hashes: u64,
    /// Fields of live hashes.
    pub fields: u64,
    /// Elements of hashes that were dropped or have expired, which a compaction has yet to give back.
    pub dropped_elements: u64,
    /// Bytes of keys and values read.
    pub bytes: u64,
    /// How many defects there are.
    pub defects: u64,
    /// The first of the defects, in words.
    pub described: Vec<String>,
}

impl VerifyReport {
    /// Whether nothing is wrong.
    pub const fn is_sound(&self) -> bool {
        self.defects == 0
    }

    /// Whether a row has expired. Of such a hash compactions may have given back any elements before
    /// they come to the row.
    fn has_expired(&self, row: &RowRef<'_>) -> bool {
        self.applied.is_some_and(|applied| row.is_expired(applied.hybrid.millis()))
    }

    fn defect(&mut self, described: impl FnOnce() -> String) {
        self.defects += 1;
        if self.described.len() < DESCRIBED_MAX {
            self.described.push(described());
        }
    }
}

/// A run of elements of one generation of one key.
struct Run {
    key: Vec<u8>,
    generation: Generation,
    /// The number of fields the key row states, if the generation is the current one.
    stated: Option<u64>,
    found: u64,
}

/// Reads every block of every file, comparing checksums, and checks that keys and rows parse, lie
/// in the unit they belong to, and that each hash that has not expired has as many fields as its row
/// states.
pub(super) fn verify(database: &Database) -> Result<VerifyReport, StateError> {
    let db = database.rocksdb();
    let mut report = VerifyReport { applied: database.applied()?, ..VerifyReport::default() };
    let mut options = ReadOptions::default();
    options.set_verify_checksums(true);
    options.fill_cache(false);
    options.set_readahead_size(1 << 20);
    let mut iterator = db.raw_iterator_opt(options);
    iterator.seek_to_first();
    let mut run = None;
    let mut hashes_with_fields = 0;
    while let Some((key, value)) = iterator.item() {
        report.bytes += (key.len() + value.len()) as u64;
        check(db, &mut report, &mut run, &mut hashes_with_fields, key, value)?;
        iterator.next();
    }
    iterator.status().map_err(StateError::at("verify", db.path()))?;
    end_run(&mut report, run.take(), &mut hashes_with_fields);
    if report.hashes != hashes_with_fields {
        let (stated, found) = (report.hashes, hashes_with_fields);
        report.defect(|| format!("{stated} hashes have a row, but {found} of them have fields"));
    }
    Ok(report)
}

fn check(
    db: &DB,
    report: &mut VerifyReport,
    run: &mut Option<Run>,
    hashes_with_fields: &mut u64,
    bytes: &[u8],
    value: &[u8],
) -> Result<(), StateError> {
    let parsed = match keys::parse(bytes) {
        Ok(parsed) => parsed,
        Err(why) => {
            report.defect(|| format!("key {}: {why}", bytes.escape_ascii()));
            return Ok(());
        }
    };
    if !parsed.is_in_its_unit() {
        report.defect(|| format!("key {} lies in a foreign unit", bytes.escape_ascii()));
    }
    match parsed {
        StorageKey::Row { key, .. } => match RowRef::parse(value) {
            Ok(row) if report.has_expired(&row) => {}
            Ok(row) => match row.value() {
                RowValue::String(_) => report.strings += 1,
                RowValue::Hash { .. } => report.hashes += 1,
            },
            Err(why) => report.defect(|| format!("the row of {}: {why}", key.escape_ascii())),
        },
        StorageKey::Element { key, generation, field, .. } => {
            if let Err(why) = FieldRef::parse(value) {
                let (key, field) = (key.escape_ascii(), field.escape_ascii());
                report.defect(|| format!("field {field} of {key}: {why}"));
            }
            let same =
                run.as_ref().is_some_and(|run| run.key == key && run.generation == generation);
            if !same {
                end_run(report, run.take(), hashes_with_fields);
                let stated = stated_fields(db, report, key, generation)?;
                *run = Some(Run { key: key.to_vec(), generation, stated, found: 0 });
            }
            if let Some(run) = run {
                run.found += 1;
            }
        }
        StorageKey::Own { .. } => {}
    }
    Ok(())
}

fn end_run(report: &mut VerifyReport, run: Option<Run>, hashes_with_fields: &mut u64) {
    let Some(run) = run else { return };
    let Some(stated) = run.stated else {
        report.dropped_elements += run.found;
        return;
    };
    *hashes_with_fields += 1;
    report.fields += run.found;
    if stated != run.found {
        let (key, found) = (run.key.escape_ascii().to_string(), run.found);
        report.defect(|| format!("hash {key} has {found} fields, but its row states {stated}"));
    }
}

/// The number of fields the row of `key` states, if it has not expired and `generation` is its current
/// one.
fn stated_fields(
    db: &DB,
    report: &VerifyReport,
    key: &[u8],
    generation: Generation,
) -> Result<Option<u64>, StateError> {
    let mut row_key = Vec::new();
    keys::key_row_key(key, &mut row_key);
    let row = db.get_pinned(row_key).map_err(StateError::at("read", db.path()))?;
    let row = row.as_deref().map(RowRef::parse).and_then(Result::ok);
    let alive = row.filter(|row| !report.has_expired(row));
    Ok(alive.and_then(|row| match row.value() {
        RowValue::Hash { generation: current, fields } if current == generation => Some(fields),
        _ => None,
    }))
}
