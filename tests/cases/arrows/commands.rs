//! The list of commands for users has every command of the table of the server.

use anyhow::{Result, ensure};

use crate::{none, reported, table, tree::Tree};

const LIST: &str = "docs/operating/commands.md";
const TABLES: &str = "server/src/command/";
/// What begins a row of a family's table.
const ROWS: [&str; 3] = ["    row(", "    command(", "        name:"];

fn violations(tree: &Tree) -> Vec<String> {
    let Ok(text) = tree.file(LIST) else { return vec![format!("there is no {LIST}")] };
    let known = commands(tree);
    // `KV.GETV key` is documented with its arguments.
    let listed: Vec<_> = table::rows(text)
        .flat_map(|cells| table::spans(&cells[0]).map(first_word).collect::<Vec<_>>())
        .collect();
    known
        .iter()
        .filter(|name| !listed.contains(*name))
        .map(|name| format!("{LIST}: {name} is not in a table's first column"))
        .collect()
}

fn first_word(span: &str) -> String {
    span.split(' ').next().unwrap_or_default().to_owned()
}

/// Names of the table's rows, in upper case. A row may go over several lines.
fn commands(tree: &Tree) -> Vec<String> {
    let families = tree.ending(".rs").filter(|(path, _)| path.starts_with(TABLES));
    let mut names = Vec::new();
    for (_, text) in families {
        for row in ROWS {
            let rows =
                text.split(row).skip(1).filter_map(|rest| rest.trim_start().strip_prefix('"'));
            let named = rows.filter_map(|rest| rest.split('"').next());
            names.extend(named.map(str::to_ascii_uppercase));
        }
    }
    names
}

#[test]
fn every_command_is_documented() -> Result<()> {
    let tree = Tree::of_the_repository()?;
    let known = commands(&tree);
    ensure!(known.len() > 80, "the table's rows were not recognised: {known:?}");
    none(&violations(&tree))
}

#[test]
fn a_command_without_a_line_is_reported() -> Result<()> {
    let code =
        "    row(\n        \"get\", 2),\n    command(\"kv.getv\", 2),\n    row(\"set\", 3),\n";
    let list = "| `GET` | |\n| `KV.GETV key` | |\n| x | like `SET` |\n";
    let family = format!("{TABLES}strings.rs");
    let found = violations(&Tree::of(&[(LIST, list), (&family, code)]));
    reported(&found, "SET is not")?;
    ensure!(found.len() == 1, "{found:?}");
    Ok(())
}
