//! Every command of the server's table is compared, or named here with the reason why it is not.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use larder_tests::{
    client::Client,
    differential::compared,
    process::{skip, start_kvd},
};

const OWN: &str = "Redis has no such command";
const HELP: &str = "its text names what there is, which is less here";
const CLUSTER: &str = "Redis refuses it without cluster, as what Larder is here for";
const FUNCTIONS: &str = "there are no functions: it is refused";

/// What is not compared. A command that has subcommands is not: they are, each by itself.
const NOT_COMPARED: [(&str, &str); 20] = [
    ("CLIENT HELP", HELP),
    ("COMMAND DOCS", "Redis' documentation is not carried: it knows no command"),
    ("COMMAND HELP", HELP),
    ("CONFIG HELP", HELP),
    ("FUNCTION DELETE", FUNCTIONS),
    ("FUNCTION DUMP", FUNCTIONS),
    ("FUNCTION HELP", HELP),
    ("FUNCTION KILL", FUNCTIONS),
    ("FUNCTION LIST", FUNCTIONS),
    ("FUNCTION LOAD", FUNCTIONS),
    ("FUNCTION RESTORE", FUNCTIONS),
    ("FUNCTION STATS", FUNCTIONS),
    ("KV.ACK", OWN),
    ("KV.AFTER", OWN),
    ("KV.CAS", OWN),
    ("KV.GETV", OWN),
    ("KV.MAXLAG", OWN),
    ("KV.TOKEN", OWN),
    ("READONLY", CLUSTER),
    ("READWRITE", CLUSTER),
];

/// What the server says it has: commands, and of those that have subcommands these, in capitals.
fn table(client: &mut Client) -> Result<BTreeSet<String>> {
    let mut table = BTreeSet::new();
    for entry in client.call(&["COMMAND"])?.items() {
        let [name, .., subcommands] = entry.items() else {
            continue;
        };
        let rows = subcommands.items().iter().filter_map(|row| row.items().first());
        let before = table.len();
        table.extend(rows.map(|name| in_capitals(name.text())));
        if table.len() == before {
            table.insert(in_capitals(name.text()));
        }
    }
    Ok(table)
}

/// `client|id` as `CLIENT ID`.
fn in_capitals(name: &[u8]) -> String {
    String::from_utf8_lossy(name).to_uppercase().replace('|', " ")
}

/// What is wrong with the lists, given what the server has.
fn violations(table: &BTreeSet<String>, compared: &[&str], not: &[(&str, &str)]) -> Vec<String> {
    let is_excused = |name: &str| not.iter().any(|(excused, _)| *excused == name);
    let mut found = Vec::new();
    for name in table {
        match (compared.contains(&name.as_str()), is_excused(name)) {
            (false, false) => found.push(format!("{name} is not compared")),
            (true, true) => found.push(format!("{name} is compared, and excused from it")),
            _ => {}
        }
    }
    let gone = not.iter().filter(|(name, _)| !table.contains(*name));
    found.extend(gone.map(|(name, _)| format!("{name} is excused, and no command")));
    found
}

#[test]
fn every_command_that_the_server_has_is_compared_or_excused() -> Result<()> {
    let binaries = match crate::binaries() {
        Ok(binaries) => binaries,
        Err(missing) => {
            skip("differential, coverage", &missing);
            return Ok(());
        }
    };
    // With another redis-server in its place there is no table of Larder's to cover.
    let Some(kvd) = binaries.kvd else { return Ok(()) };
    let server = start_kvd(&kvd)?;
    let table = table(&mut server.client()?).context("COMMAND")?;
    ensure!(table.len() > 100, "the table was not understood: {table:?}");
    let compared: Vec<_> = compared().collect();
    let found = violations(&table, &compared, &NOT_COMPARED);
    ensure!(found.is_empty(), "\n{}", found.join("\n"));
    Ok(())
}

#[test]
fn a_command_that_is_neither_compared_nor_excused_is_reported() {
    let table = ["GET", "SET", "KV.CAS"].map(str::to_owned).into();
    let found = violations(&table, &["GET", "KV.CAS"], &[("KV.CAS", OWN), ("KV.GONE", OWN)]);
    assert_eq!(
        found,
        [
            "KV.CAS is compared, and excused from it",
            "SET is not compared",
            "KV.GONE is excused, and no command"
        ]
    );
}
