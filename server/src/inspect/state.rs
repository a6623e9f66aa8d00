//! `kvd inspect state`: the rows of the state, or a check of all of it.

use larder_storage::{
    Directory, StateError,
    row::{FieldRef, RowRef, RowValue},
    state::{Database, DatabaseOptions, VerifyReport},
};
use larder_types::Unit;
use serde_json::{Value, json};

use super::{
    InspectError, Printer, Selection, escaped,
    log::{row_json, row_text},
    shown,
};

/// An inspection reads once from front to back, which no cache makes faster.
const CACHE_BYTES: usize = 8 << 20;

fn open(directory: &Directory) -> Result<Database, StateError> {
    Database::open_read_only(&directory.state(), &DatabaseOptions::new(CACHE_BYTES, CACHE_BYTES))
}

/// Checks every block and prints what the state looks like.
pub(super) fn verify(directory: &Directory, printer: &mut Printer<'_>) -> Result<(), InspectError> {
    let report = open(directory)?.verify()?;
    printer.print(&summary(&report), || summary_text(&report))?;
    if report.is_sound() {
        return printer.heading("everything that can be checked is right");
    }
    Err(InspectError::Damaged(format!(
        "the state has {} defects: restore it from a checkpoint or a replica",
        report.defects
    )))
}

fn summary(report: &VerifyReport) -> Value {
    json!({
        "applied": report.applied.map(|applied| applied.position.to_string()),
        "hybrid": report.applied.map(|applied| applied.hybrid.to_string()),
        "strings": report.strings,
        "hashes": report.hashes,
        "fields": report.fields,
        "dropped_elements": report.dropped_elements,
        "bytes": report.bytes,
        "defects": report.defects,
        "described": report.described,
    })
}

fn summary_text(report: &VerifyReport) -> String {
    let applied = report.applied.map_or_else(
        || "nothing yet".to_owned(),
        |applied| format!("{}, of {}", applied.position, applied.hybrid),
    );
    let mut lines = vec![
        format!("applied   {applied}"),
        format!("rows      {} strings, {} hashes", report.strings, report.hashes),
        format!(
            "fields    {}, and {} of hashes dropped or expired",
            report.fields, report.dropped_elements
        ),
        format!("read      {} bytes", report.bytes),
        format!("defects   {}", report.defects),
    ];
    lines.extend(report.described.iter().map(|defect| format!("  {defect}")));
    lines.join("\n")
}

/// Prints the selected rows, hashes with their fields.
pub(super) fn dump(
    directory: &Directory,
    selection: Selection,
    printer: &mut Printer<'_>,
) -> Result<(), InspectError> {
    let database = open(directory)?;
    let first = selection.from.unwrap_or(0);
    let Some(start) = u16::try_from(first).ok().and_then(Unit::new) else { return Ok(()) };
    let mut left = selection.limit.unwrap_or(u64::MAX);
    for row in database.rows_from(start, None) {
        let Some(rest) = left.checked_sub(1) else { break };
        left = rest;
        let (unit, key, row) = row?;
        let line = json!({"unit": unit.as_u16(), "key": escaped(&key), "row": row_json(&row)});
        printer.print(&line, || format!("{unit:>6}  \"{}\": {}", shown(&key), row_text(&row)))?;
        let parsed = RowRef::parse(&row).map_err(StateError::from)?;
        if let RowValue::Hash { generation, .. } = parsed.value() {
            for element in database.elements(&key, generation) {
                let (field, value) = element?;
                print_field(&key, &field, &value, printer)?;
            }
        }
    }
    Ok(())
}

fn print_field(
    key: &[u8],
    field: &[u8],
    row: &[u8],
    printer: &mut Printer<'_>,
) -> Result<(), InspectError> {
    let row = FieldRef::parse(row).map_err(StateError::from)?;
    let line = json!({
        "field": escaped(field), "of": escaped(key), "version": row.version().as_u64(),
        "value": escaped(row.value()),
    });
    printer.print(&line, || format!("          \"{}\": \"{}\"", shown(field), shown(row.value())))
}
