//! The table of traps: every trap has a row, and every test that a row names exists.

use std::collections::BTreeMap;

use anyhow::Result;

use crate::{none, reported, table, tree::Tree};

const TABLE: &str = "docs/traps.md";
/// Begins the last cell of a row without a test.
const CANNOT_OCCUR: &str = "cannot occur: ";
/// How many traps there are of each kind, numbered from 1.
const KINDS: [(&str, u32); 2] = [("T", 17), ("REL-", 19)];

fn violations(tree: &Tree) -> Vec<String> {
    let Ok(text) = tree.file(TABLE) else { return vec![format!("there is no {TABLE}")] };
    let mut found = Vec::new();
    let mut rows: BTreeMap<String, u32> = BTreeMap::new();
    for cells in table::rows(text) {
        let (Some(id), Some(guard)) = (cells.first(), cells.last()) else { continue };
        if !KINDS.iter().any(|(kind, _)| is_numbered(id, kind)) {
            continue;
        }
        *rows.entry(id.clone()).or_default() += 1;
        found.extend(guard_violations(tree, id, guard));
    }
    for (kind, count) in KINDS {
        for number in 1..=count {
            match rows.get(&format!("{kind}{number}")).or(rows.get(&format!("{kind}{number:02}"))) {
                None => found.push(format!("{TABLE}: {kind}{number} has no row")),
                Some(1) => {}
                Some(_) => found.push(format!("{TABLE}: {kind}{number} has several rows")),
            }
        }
    }
    found
}

fn is_numbered(id: &str, kind: &str) -> bool {
    let number = id.strip_prefix(kind).unwrap_or_default();
    !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
}

fn guard_violations(tree: &Tree, id: &str, guard: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut tests = 0;
    for (path, test) in table::spans(guard).filter_map(|span| span.split_once(".rs::")) {
        tests += 1;
        let path = format!("{path}.rs");
        match tree.file(&path) {
            Err(_) => found.push(format!("{id}: there is no {path}")),
            Ok(text) if !has_test(text, test) => {
                found.push(format!("{id}: {path} has no test {test}"));
            }
            Ok(_) => {}
        }
    }
    let reason = guard.strip_prefix(CANNOT_OCCUR).is_some_and(|reason| reason.len() > 20);
    if tests == 0 && !reason {
        found.push(format!("{id}: neither a test nor \"{CANNOT_OCCUR}\" and a reason"));
    }
    found
}

/// Whether the text has a function of this name with a test's attribute over it.
fn has_test(text: &str, name: &str) -> bool {
    let lines: Vec<_> = text.lines().map(str::trim).collect();
    let signatures = [format!("fn {name}("), format!("async fn {name}(")];
    let begins = |line: &&str| signatures.iter().any(|signature| line.starts_with(signature));
    let Some(at) = lines.iter().position(begins) else { return false };
    let above = lines[..at].iter().rev().take_while(|line| line.starts_with(['#', '/']));
    above.into_iter().any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"))
}

#[test]
fn every_trap_has_a_guard_that_exists() -> Result<()> {
    none(&violations(&Tree::of_the_repository()?))
}

#[test]
fn a_missing_guard_is_reported() -> Result<()> {
    let rows = "| T1 | x | `a.rs::guarded`, `a.rs::helper` |\n| T2 | x | `gone.rs::guarded` |\n\
                | T3 | x | cannot occur: |\n| T4 | x | `a.rs::missing` |\n\
                | T5 | x | cannot occur: there is one writer and no other |\n| T5 | x | `a.rs::guarded` |\n";
    let code = "#[test]\n#[cfg(unix)]\nfn guarded() {}\n\nfn helper() {}\n";
    let found = violations(&Tree::of(&[(TABLE, rows), ("a.rs", code)]));
    for what in [
        "T1: a.rs has no test helper",
        "T2: there is no gone.rs",
        "T3: neither",
        "T4: a.rs has no test missing",
        "T5 has several rows",
        "T6 has no row",
        "REL-19 has no row",
    ] {
        reported(&found, what)?;
    }
    anyhow::ensure!(found.len() == 5 + 12 + 19, "{found:?}");
    Ok(())
}
