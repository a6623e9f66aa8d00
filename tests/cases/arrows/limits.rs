//! The table of limits names every bound of `larder_types::limits`, and says of each constant it
//! names what the code says.

use anyhow::Result;

use crate::{none, reported, table, tree::Tree};

const TABLE: &str = "docs/operating/limits.md";
const LIMITS: &str = "types/src/limits.rs";

fn violations(tree: &Tree) -> Vec<String> {
    let (Ok(text), Ok(limits)) = (tree.file(TABLE), tree.file(LIMITS)) else {
        return vec![format!("{TABLE} or {LIMITS} is not there")];
    };
    let mut found = Vec::new();
    let mut named = Vec::new();
    for cells in table::rows(text) {
        let [_, bound, origin, ..] = cells.as_slice() else { continue };
        for (path, name) in table::spans(origin).filter_map(|span| span.split_once(".rs::")) {
            let path = format!("{path}.rs");
            match tree.file(&path).ok().and_then(|code| constant(code, name)) {
                None => found.push(format!("{TABLE}: {path} has no constant {name}")),
                Some(value) => match shown(name, value) {
                    Some(shown) if bound.contains(&shown) => {}
                    Some(shown) => found.push(format!("{TABLE}: {name} is {shown}, not {bound}")),
                    None => found.push(format!("{TABLE}: {name} = {value} cannot be compared")),
                },
            }
            named.push(name.to_owned());
        }
    }
    let constants = limits.lines().filter_map(|line| line.strip_prefix("pub const "));
    for name in constants.filter_map(|line| line.split(':').next()) {
        if !named.iter().any(|known| known == name) {
            found.push(format!("{TABLE}: {name} of {LIMITS} is missing"));
        }
    }
    found
}

/// What stands behind `const NAME: type =`.
fn constant<'a>(code: &'a str, name: &str) -> Option<&'a str> {
    let declared = format!("const {name}: ");
    let line = code.lines().find(|line| line.contains(&declared))?;
    line.split(" = ").nth(1)?.strip_suffix(';')
}

/// A constant's value as people write it: bytes in KiB and MiB, durations with their unit, numbers
/// with commas.
fn shown(name: &str, value: &str) -> Option<String> {
    for (constructor, unit) in [("from_secs", "s"), ("from_millis", "ms")] {
        let inner = value.strip_prefix(&format!("Duration::{constructor}("));
        if let Some(inner) = inner.and_then(|inner| inner.strip_suffix(')')) {
            return Some(format!("{} {unit}", commas(number(inner)?)));
        }
    }
    let value = number(value)?;
    if !name.contains("BYTES") {
        return Some(commas(value));
    }
    let unit = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let fit = unit.iter().find(|(_, shift)| value >= 1 << shift && value % (1 << shift) == 0);
    Some(fit.map_or_else(|| commas(value), |(unit, shift)| format!("{} {unit}", value >> shift)))
}

/// A number, or one shifted by another.
fn number(text: &str) -> Option<u64> {
    let plain = |text: &str| text.trim().replace('_', "").parse::<u64>().ok();
    match text.split_once("<<") {
        Some((value, shift)) => plain(value)?.checked_shl(u32::try_from(plain(shift)?).ok()?),
        None => plain(text),
    }
}

fn commas(value: u64) -> String {
    let digits = value.to_string();
    let mut shown = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

#[test]
fn every_bound_is_in_the_table_as_the_code_has_it() -> Result<()> {
    none(&violations(&Tree::of_the_repository()?))
}

#[test]
fn a_bound_that_is_missing_or_wrong_is_reported() -> Result<()> {
    let rows = "| key | 64 KiB | `types/src/limits.rs::KEY_BYTES_MAX` |\n\
                | value | 8 MiB | `types/src/limits.rs::VALUE_BYTES_MAX` |\n\
                | x | 1 s | `a.rs::GONE` |\n| y | 30 s | `a.rs::PATIENCE` |\n| z | 10,000 | `a.rs::MANY` |\n";
    let limits = "pub const KEY_BYTES_MAX: usize = 64 << 10;\n\
                  pub const VALUE_BYTES_MAX: usize = 16 << 20;\n\
                  pub const FIELD_BYTES_MAX: usize = 5;\n";
    let code = "const PATIENCE: Duration = Duration::from_secs(30);\npub(crate) const MANY: u32 = 10_000;\n";
    let found = violations(&Tree::of(&[(TABLE, rows), (LIMITS, limits), ("a.rs", code)]));
    reported(&found, "VALUE_BYTES_MAX is 16 MiB, not 8 MiB")?;
    reported(&found, "a.rs has no constant GONE")?;
    reported(&found, "FIELD_BYTES_MAX of types/src/limits.rs is missing")?;
    anyhow::ensure!(found.len() == 3, "{found:?}");
    Ok(())
}
