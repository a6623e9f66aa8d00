//! `kvd inspect log`: the records of a log, or a check of all of it.

use larder_storage::{
    Directory,
    effect::{Effect, effects},
    fs::RealFs,
    log::{self, OwnedRecord, RecordKind, SegmentReport, VerifyReport},
    row::{FieldRef, RowRef, RowValue},
};
use serde::Serialize;
use serde_json::{Value, json};

use super::{InspectError, Printer, Selection, escaped, shown};

/// Checks every byte and prints what the log looks like.
pub(super) fn verify(directory: &Directory, printer: &mut Printer<'_>) -> Result<(), InspectError> {
    let report = log::verify(&RealFs, &directory.log())?;
    printer.print(&summary(&report), || summary_text(&report))?;
    let mut records = log::dump(&RealFs, &directory.log())?;
    // The checksums were right, so a body that does not decode is a defect or of another version.
    records.try_for_each(|record| effects_of(&record?).map(drop))?;
    printer.heading("every record decodes")
}

fn summary(report: &VerifyReport) -> Value {
    json!({
        "log": report.id.map(|id| id.to_string()),
        "first": report.first.as_u64(),
        "tail": report.tail.as_u64(),
        "records": report.records,
        "last_hybrid": report.last_hybrid.to_string(),
        "epochs": report.epochs.iter().map(|(epoch, first)| {
            json!({"epoch": epoch.to_string(), "first": first.as_u64()})
        }).collect::<Vec<_>>(),
        "segments": report.segments.iter().map(segment).collect::<Vec<_>>(),
        "torn": report.torn.as_ref().map(|torn| {
            json!({"segment": torn.segment, "offset": torn.offset, "bytes": torn.bytes})
        }),
        "unborn": report.unborn,
    })
}

fn segment(report: &SegmentReport) -> Value {
    let SegmentReport { name, first, records, marks, bytes, sealed } = report;
    json!({
        "name": name, "first": first.as_u64(), "records": records, "marks": marks, "bytes": bytes,
        "sealed": sealed,
    })
}

fn summary_text(report: &VerifyReport) -> String {
    let id = report.id.map_or_else(|| "none".to_owned(), |id| id.to_string());
    let mut lines = vec![
        format!("log       {id}"),
        format!("records   {} (from {} to before {})", report.records, report.first, report.tail),
        format!("last time {}", report.last_hybrid),
    ];
    for (epoch, first) in &report.epochs {
        lines.push(format!("epoch     {epoch} from record {first}"));
    }
    for SegmentReport { name, first, records, marks, bytes, sealed } in &report.segments {
        let state = if *sealed { "sealed" } else { "open" };
        lines.push(format!(
            "segment   {name}: {records} records from {first}, {marks} marks, {bytes} bytes, {state}"
        ));
    }
    if let Some(torn) = &report.torn {
        lines.push(format!(
            "torn      {}: {} bytes from offset {}; the next start sets them aside",
            torn.segment, torn.bytes, torn.offset
        ));
    }
    if let Some(unborn) = &report.unborn {
        lines.push(format!("unborn    {unborn}: no whole header; the next start sets it aside"));
    }
    lines.join("\n")
}

#[derive(Serialize)]
struct RecordLine {
    seq: u64,
    epoch: String,
    hybrid: String,
    origin: u16,
    kind: &'static str,
    bytes: usize,
    effects: Vec<Value>,
}

/// Prints the selected records with their effects.
pub(super) fn dump(
    directory: &Directory,
    selection: Selection,
    printer: &mut Printer<'_>,
) -> Result<(), InspectError> {
    let from = selection.from.unwrap_or(0);
    let mut left = selection.limit.unwrap_or(u64::MAX);
    for record in log::dump(&RealFs, &directory.log())? {
        let record = record?;
        if record.seq.as_u64() < from {
            continue;
        }
        let Some(rest) = left.checked_sub(1) else { break };
        left = rest;
        let effects = effects_of(&record)?;
        let line = RecordLine {
            seq: record.seq.as_u64(),
            epoch: record.epoch.to_string(),
            hybrid: record.hybrid.to_string(),
            origin: record.origin.0,
            kind: kind_name(record.kind),
            bytes: record.body.len(),
            effects: effects.iter().map(effect_json).collect(),
        };
        printer.print(&line, || record_text(&line, &effects))?;
    }
    Ok(())
}

fn kind_name(kind: RecordKind) -> &'static str {
    match kind {
        RecordKind::Data => "data",
        RecordKind::Epoch => "epoch",
        RecordKind::Replicas => "replicas",
    }
}

fn effects_of(record: &OwnedRecord) -> Result<Vec<Effect<'_>>, InspectError> {
    if record.kind != RecordKind::Data {
        return Ok(Vec::new());
    }
    effects(&record.body)
        .collect::<Result<_, _>>()
        .map_err(|error| InspectError::Damaged(format!("record {}: {error}", record.seq)))
}

fn effect_json(effect: &Effect<'_>) -> Value {
    match *effect {
        Effect::PutRow { key, row } => json!({"put": escaped(key), "row": row_json(row)}),
        Effect::DeleteRow { key } => json!({"delete": escaped(key)}),
        Effect::PutField { key, generation, field, row } => json!({
            "put_field": escaped(field), "of": escaped(key), "generation": generation.to_string(),
            "value": FieldRef::parse(row).ok().map(|row| escaped(row.value())),
        }),
        Effect::DeleteField { key, generation, field } => json!({
            "delete_field": escaped(field), "of": escaped(key),
            "generation": generation.to_string(),
        }),
        Effect::Clear => json!("clear"),
    }
}

/// A row, or null where it does not parse.
pub(super) fn row_json(row: &[u8]) -> Value {
    let Ok(row) = RowRef::parse(row) else { return Value::Null };
    let (version, expiry) = (row.version().as_u64(), row.expiry());
    match row.value() {
        RowValue::String(value) => json!({
            "kind": "string", "version": version, "expiry_ms": expiry, "value": escaped(value),
        }),
        RowValue::Hash { generation, fields } => json!({
            "kind": "hash", "version": version, "expiry_ms": expiry,
            "generation": generation.to_string(), "fields": fields,
        }),
    }
}

/// A row on one line.
pub(super) fn row_text(row: &[u8]) -> String {
    let row = match RowRef::parse(row) {
        Ok(row) => row,
        Err(error) => return format!("unreadable: {error}"),
    };
    let value = match row.value() {
        RowValue::String(value) => format!("string \"{}\"", shown(value)),
        RowValue::Hash { generation, fields } => format!("hash of {fields} fields, {generation}"),
    };
    let expiry = row.expiry().map_or_else(String::new, |expiry| format!(", expires at {expiry}"));
    format!("{value}, version {}{expiry}", row.version())
}

fn record_text(line: &RecordLine, effects: &[Effect<'_>]) -> String {
    let mut text = format!(
        "{:>12}  {}  {}  {}, {} bytes",
        line.seq, line.epoch, line.hybrid, line.kind, line.bytes
    );
    for effect in effects {
        text.push_str("\n              ");
        text.push_str(&match *effect {
            Effect::PutRow { key, row } => format!("put \"{}\": {}", shown(key), row_text(row)),
            Effect::DeleteRow { key } => format!("delete \"{}\"", shown(key)),
            Effect::PutField { key, field, row, .. } => {
                let value = FieldRef::parse(row).map_or_else(
                    |error| format!("unreadable: {error}"),
                    |row| format!("\"{}\"", shown(row.value())),
                );
                format!("put field \"{}\" of \"{}\": {value}", shown(field), shown(key))
            }
            Effect::DeleteField { key, field, .. } => {
                format!("delete field \"{}\" of \"{}\"", shown(field), shown(key))
            }
            Effect::Clear => "delete every key".to_owned(),
        });
    }
    text
}
