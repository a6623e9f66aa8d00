//! The pages for operators name every key of the configuration with its default, every metric and
//! every exit code.

use anyhow::{Result, ensure};

use crate::{none, reported, table, tree::Tree};

const EXAMPLE: &str = "deploy/kvd.toml";
const CONFIGURATION: &str = "docs/operating/configuration.md";
const METRICS: &str = "server/src/metrics.rs";
const MONITORING: &str = "docs/operating/monitoring.md";
const MAIN: &str = "server/src/main.rs";
const EXIT_CODES: &str = "docs/operating/exit-codes.md";

fn violations(tree: &Tree) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let rows: Vec<_> = table::rows(tree.file(CONFIGURATION)?).collect();
    for (key, default) in keys(tree.file(EXAMPLE)?) {
        let row = rows.iter().find(|cells| table::spans(&cells[0]).any(|span| span == key));
        match row {
            None => found.push(format!("{CONFIGURATION}: {key} has no row")),
            Some(cells) if !cells.get(1).is_some_and(|cell| says(cell, &default)) => {
                found.push(format!("{CONFIGURATION}: the default of {key} is {default}"));
            }
            Some(_) => {}
        }
    }
    let monitoring = tree.file(MONITORING)?;
    let described: Vec<_> = table::rows(monitoring)
        .flat_map(|cells| table::spans(&cells[0]).map(str::to_owned).collect::<Vec<_>>())
        .collect();
    for metric in metrics(tree.file(METRICS)?) {
        // Labels follow the name.
        if !described.iter().any(|known| known.split('{').next() == Some(&metric)) {
            found.push(format!("{MONITORING}: {metric} has no row"));
        }
    }
    let codes: Vec<_> = table::rows(tree.file(EXIT_CODES)?).map(|cells| cells[0].clone()).collect();
    for code in exit_codes(tree.file(MAIN)?) {
        if !codes.contains(&code) {
            found.push(format!("{EXIT_CODES}: {code} has no row"));
        }
    }
    Ok(found)
}

/// Whether a cell has this default, and not one that merely begins or ends like it.
fn says(cell: &str, default: &str) -> bool {
    default.is_empty() || cell == default || table::spans(cell).any(|span| span == default)
}

/// Keys with their tables, and their defaults as the example has them; for a key that is commented
/// out, which has none, nothing. A table may be commented out as a whole.
fn keys(example: &str) -> Vec<(String, String)> {
    let mut table = String::new();
    let mut keys = Vec::new();
    for line in example.lines() {
        let (unset, line) = line.strip_prefix("# ").map_or((false, line), |rest| (true, rest));
        if line.starts_with('[') && line.ends_with(']') {
            table = format!("{}.", line.trim_matches(['[', ']']));
            continue;
        }
        let Some((key, value)) = line.split_once(" = ") else { continue };
        if key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') {
            let default = if unset { String::new() } else { value.trim_matches('"').to_owned() };
            keys.push((format!("{table}{key}"), default));
        }
    }
    keys
}

/// Names as they are scraped: the encoder puts `larder_` before them and `_total` behind counters.
fn metrics(code: &str) -> Vec<String> {
    let mut names = Vec::new();
    for call in code.split("out.").skip(1) {
        let Some((method, rest)) = call.split_once('(') else { continue };
        let rest = rest.trim_start();
        let Some(name) = rest.strip_prefix('"').and_then(|rest| rest.split('"').next()) else {
            continue;
        };
        let statement = rest.split(';').next().unwrap_or_default();
        let counts = method.starts_with("counter") || statement.contains("ConstCounter");
        names.push(format!("larder_{name}{}", if counts { "_total" } else { "" }));
    }
    names
}

fn exit_codes(code: &str) -> Vec<String> {
    let constants =
        code.lines().filter(|line| line.starts_with("const ") && line.contains(": u8 = "));
    let values = constants.filter_map(|line| line.split(" = ").nth(1)?.strip_suffix(';'));
    values.map(str::to_owned).chain(["0".to_owned()]).collect()
}

#[test]
fn operators_are_told_every_key_metric_and_exit_code() -> Result<()> {
    let tree = Tree::of_the_repository()?;
    ensure!(keys(tree.file(EXAMPLE)?).len() > 15, "the example's keys were not recognised");
    ensure!(metrics(tree.file(METRICS)?).len() > 35, "the metrics were not recognised");
    ensure!(exit_codes(tree.file(MAIN)?).len() > 5, "the exit codes were not recognised");
    none(&violations(&tree)?)
}

#[test]
fn what_operators_are_not_told_is_reported() -> Result<()> {
    let metrics = "fn m(out: &mut Out) {\n out.gauge(\"up\", \"x\", 1)?;\n\
                   out.counters(\n    \"asked\",\n \"x\")?;\n out.gauge(\"down\", \"x\", 1)\n}";
    let found = violations(&Tree::of(&[
        (EXAMPLE, "# Words = words.\na = 7\n# b = \"x\"\n[t]\nc = \"64 MiB\"\nd = 2\n"),
        (CONFIGURATION, "| `a` | 17 | |\n| `b` | none | |\n| `t.c` | `64 MiB` | |\n"),
        (METRICS, metrics),
        (MONITORING, "| `larder_up` | |\n| `larder_asked_total{command}` | |\n"),
        (MAIN, "const USAGE: u8 = 64;\nconst DAMAGED: u8 = 65;\n"),
        (EXIT_CODES, "| 0 | fine |\n| 64 | usage |\n"),
    ]))?;
    reported(&found, "the default of a is 7")?;
    reported(&found, "t.d has no row")?;
    reported(&found, "larder_down has no row")?;
    reported(&found, "65 has no row")?;
    ensure!(found.len() == 4, "{found:?}");
    Ok(())
}
