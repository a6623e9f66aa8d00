//! How bytes, JSON and tables are printed.
//!
//! Bytes from a server reach a terminal only with control characters escaped: a value must not be
//! able to steer the terminal.

use std::io::{self, IsTerminal, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};
use serde_json::{Map, Value as Json};

/// Text for a terminal: what is UTF-8 and printable as it is, line ends and tabs too, everything
/// else as `\xNN` or `\u{N}`.
pub(crate) fn for_terminal(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\n' | '\t' => text.push(character),
                c if c.is_control() || is_direction(c) => text.extend(c.escape_unicode()),
                c => text.push(c),
            }
        }
        text.extend(chunk.invalid().escape_ascii().map(char::from));
    }
    text
}

/// As [`for_terminal`], on one line.
pub(crate) fn for_line(bytes: &[u8]) -> String {
    for_terminal(bytes).replace('\n', "\\n").replace('\t', "\\t")
}

/// Characters that change the order in which a terminal shows others.
fn is_direction(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Adds bytes to a JSON object: under `name` as text when they are UTF-8, otherwise under
/// `name_base64`, standard base64 with padding.
pub(crate) fn insert_bytes(object: &mut Map<String, Json>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => object.insert(name.to_owned(), text.into()),
        Err(_) => object.insert(format!("{name}_base64"), STANDARD.encode(bytes).into()),
    };
}

/// Writes one JSON value on one line of standard output.
///
/// # Errors
/// Standard output fails.
pub(crate) fn print_json(value: &Json) -> io::Result<()> {
    print_line(&value.to_string())
}

/// Writes one line to standard output. Unlike `println!` it does not panic when nobody reads.
///
/// # Errors
/// Standard output fails.
pub(crate) fn print_line(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(line.as_bytes())?;
    out.write_all(b"\n")?;
    out.flush()
}

/// Writes bytes to standard output: on a terminal escaped and with a line end, unless `raw`;
/// elsewhere as they are.
///
/// # Errors
/// Standard output fails.
pub(crate) fn print_bytes(bytes: &[u8], raw: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if out.is_terminal() && !raw {
        out.write_all(for_terminal(bytes).as_bytes())?;
        out.write_all(b"\n")?;
    } else {
        out.write_all(bytes)?;
    }
    out.flush()
}

/// A line for people on standard error. Where nobody reads it, it is dropped.
pub(crate) fn note(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// A point in time, milliseconds since 1970, for people: UTC, to the second.
pub(crate) fn utc(ms: u64) -> String {
    let seconds = ms / 1000;
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    // Days are counted from 1 March of year 0, in eras of 400 years, so that a leap day is the last
    // day of its year.
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}Z")
}

/// An empty table in the style of all tables here, columns from `right_from` on aligned right.
pub(crate) fn table(header: &[&str], right_from: usize) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(header.iter().map(Cell::new).collect::<Vec<_>>());
    for column in right_from..header.len() {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_gets_no_control_characters() {
        let hostile = b"a\x1b[2Jb\n\xff\xc2\x9b\t\xe2\x80\xae\xc3\xa9";
        let shown = for_terminal(hostile);
        assert_eq!(shown, "a\\u{1b}[2Jb\n\\xff\\u{9b}\t\\u{202e}\u{e9}");
        assert_eq!(for_line(b"a\nb\tc"), "a\\nb\\tc");
    }

    #[test]
    fn bytes_are_text_or_base64_in_json() {
        let mut object = Map::new();
        insert_bytes(&mut object, "key", "gr\u{fc}n\n".as_bytes());
        insert_bytes(&mut object, "value", &[0xff, 0]);
        assert_eq!(Json::Object(object).to_string(), r#"{"key":"grün\n","value_base64":"/wA="}"#);
    }

    #[test]
    fn points_in_time_are_told_in_utc() {
        for (ms, text) in [
            (0, "1970-01-01 00:00:00Z"),
            (951_782_400_000, "2000-02-29 00:00:00Z"),
            (1_764_362_644_999, "2025-11-28 20:44:04Z"),
            (4_107_542_399_000, "2100-02-28 23:59:59Z"),
            (4_107_542_400_000, "2100-03-01 00:00:00Z"),
        ] {
            assert_eq!(utc(ms), text);
        }
        assert!(utc(u64::MAX).ends_with('Z'));
    }

    #[test]
    fn numbers_stand_at_the_right() {
        let mut table = table(&["name", "count"], 1);
        table.add_row(["a", "5"]);
        assert!(table.to_string().contains("    5 "), "{table}");
    }
}
