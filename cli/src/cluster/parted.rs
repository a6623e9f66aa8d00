//! `kv log parted`: records that a node wrote and that the log of its cluster does not have.

use serde_json::{Value as Json, json};

use super::cell;
use crate::admin::{Admin, segment};
use crate::args::{Format, Parted, Target};
use crate::failure::Failure;
use crate::output;

/// Fields that are shown as points in time: milliseconds since 1970.
const MOMENTS: [&str; 1] = ["at_ms"];

/// Runs `kv log parted`.
///
/// # Errors
/// What [`Admin`] fails with.
pub(crate) async fn parted(target: &Target, parted: &Parted) -> Result<(), Failure> {
    let admin = Admin::of(target)?;
    let (answer, rows) = match parted {
        Parted::List => {
            let answer = admin.get("/replication/parted").await?;
            let rows = answer.clone();
            (answer, rows)
        }
        Parted::Show { name } => {
            let answer = admin.get(&format!("/replication/parted/{}", segment(name))).await?;
            let rows = answer["records"].clone();
            (answer, rows)
        }
        Parted::Reapply { name, dry_run, force } => {
            let path = format!("/replication/parted/{}/reapply", segment(name));
            let asked = json!({"dry_run": dry_run, "force": force});
            let answer = admin.patient().post(&path, &asked).await?;
            let rows = Json::Array(vec![answer.clone()]);
            (answer, rows)
        }
    };
    if target.output == Format::Json {
        return Ok(output::print_json(&answer)?);
    }
    let rows = rows.as_array().ok_or_else(|| {
        Failure::Refused("the answer about parted records has another form".to_owned())
    })?;
    print_rows(rows)
}

/// Columns that stand first, in this order; others follow by name.
const COLUMNS: [&str; 9] =
    ["name", "seq", "from", "to", "epoch", "at_ms", "key", "records", "bytes"];

/// Prints objects as a table, a column a field.
fn print_rows(rows: &[Json]) -> Result<(), Failure> {
    let objects = || rows.iter().filter_map(Json::as_object);
    let mut columns: Vec<&str> =
        objects().flat_map(|object| object.keys().map(String::as_str)).collect();
    let place = |column: &str| COLUMNS.iter().position(|c| *c == column).unwrap_or(COLUMNS.len());
    columns.sort_unstable_by_key(|column| (place(column), *column));
    columns.dedup();
    if columns.is_empty() {
        return Ok(output::print_line("none")?);
    }
    let header: Vec<String> = columns.iter().map(|c| output::for_line(c.as_bytes())).collect();
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    let mut table = output::table(&header, header.len());
    for object in objects() {
        table.add_row(columns.iter().map(|column| match object.get(*column) {
            Some(value) if MOMENTS.contains(column) => moment(value),
            Some(value) => cell(value),
            None => String::new(),
        }));
    }
    Ok(output::print_line(&table.to_string())?)
}

fn moment(value: &Json) -> String {
    value.as_u64().map_or_else(|| cell(value), output::utc)
}
