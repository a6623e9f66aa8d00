//! The rules of the sources that neither the compiler nor clippy holds.

use anyhow::{Result, ensure};

use crate::{none, reported, tree::Tree};

const LINES_MAX: usize = 800;
/// What a source may not hold. Written in two parts, so that this file does not hold it either.
const FORBIDDEN: [&str; 4] = [
    concat!("todo", "!("),
    concat!("unimplemented", "!("),
    concat!("#[ig", "nore"),
    concat!("dbg", "!("),
];
/// Where only one machine has its files.
const PRIVATE: [&str; 4] =
    [concat!("/ho", "me/"), concat!("/ro", "ot/"), concat!("/Us", "ers/"), concat!("/wo", "rk/")];
/// What lets a thread wait for the clock.
const SLEEPS: [&str; 2] = [concat!("sle", "ep("), concat!("park_time", "out(")];
/// Parts of tests that may wait for the clock, and why.
const SLEEPING_TESTS: [(&str, &str); 5] = [
    (
        "server/tests/process/support.rs",
        "looks at a process, which cannot wake it, until a deadline",
    ),
    (
        "tests/harness/deadline.rs",
        "looks at what cannot wake it, such as a process, until a deadline",
    ),
    ("tests/harness/hostile/probe.rs", "sends requests at an even rate"),
    ("tests/harness/hostile/resident.rs", "samples the memory of a process"),
    ("tests/harness/hostile/trial.rs", "sends requests at an even rate"),
];

fn violations(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in tree.ending(".rs") {
        if !text.starts_with("//!") {
            found.push(format!("{path}: does not begin with what it is for (//!)"));
        }
        let lines = text.lines().count();
        if lines > LINES_MAX {
            found.push(format!("{path}: {lines} lines, at most {LINES_MAX} are allowed"));
        }
        found.extend(held(path, text, &FORBIDDEN));
        let may_sleep = SLEEPING_TESTS.iter().any(|(allowed, _)| *allowed == path);
        let test = tests_of(path, text);
        if !may_sleep && SLEEPS.iter().any(|sleep| test.contains(sleep)) {
            found.push(format!("{path}: a test sleeps; wait for a condition, with a deadline"));
        }
    }
    for kind in [".rs", ".md", ".toml", ".sh"] {
        found.extend(tree.ending(kind).flat_map(|(path, text)| held(path, text, &PRIVATE)));
    }
    found.extend(members(tree));
    found
}

fn held<'a>(
    path: &'a str,
    text: &'a str,
    needles: &'a [&str],
) -> impl Iterator<Item = String> + use<'a> {
    let held = needles.iter().filter(|needle| text.contains(**needle));
    held.map(move |needle| format!("{path}: holds {needle}"))
}

/// What of a file is test: all of it in a folder of tests, else what follows `#[cfg(test)]`.
fn tests_of<'a>(path: &str, text: &'a str) -> &'a str {
    if path.starts_with("tests/") || path.contains("/tests/") || path.ends_with("tests.rs") {
        return text;
    }
    let module = concat!("#[cfg(te", "st)]\nmod tests {");
    text.find(module).map_or("", |at| &text[at..])
}

/// Every member takes the lints and the versions of the workspace.
fn members(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in tree.ending("/Cargo.toml") {
        if !text.contains("[lints]\nworkspace = true") {
            found.push(format!("{path}: lacks [lints] workspace = true"));
        }
        let mut in_dependencies = false;
        for line in text.lines() {
            if line.starts_with('[') {
                in_dependencies = line.ends_with("dependencies]");
            } else if in_dependencies && line.contains('=') && !line.contains("workspace = true") {
                found.push(format!("{path}: a version of its own: {line}"));
            }
        }
    }
    found
}

#[test]
fn sources_keep_the_rules() -> Result<()> {
    let tree = Tree::of_the_repository()?;
    ensure!(tree.ending(".rs").count() > 100, "the sources were not found");
    ensure!(tree.ending("/Cargo.toml").count() >= 7, "the members were not found");
    none(&violations(&tree))
}

#[test]
fn a_broken_rule_is_reported() -> Result<()> {
    let long = format!("//! Long.\n{}", "\n".repeat(LINES_MAX));
    let module = concat!("#[cfg(te", "st)]\nmod tests {");
    let sleepy = format!("//! x\n{module}\n thread::{}x) }}", SLEEPS[0]);
    let dozing = format!("//! x\nfn f() {{ {}x) }}", SLEEPS[1]);
    let asleep = format!("//! No test.\nfn f() {{ {}x) }}", SLEEPS[0]);
    let private = format!("see {}me", PRIVATE[0]);
    let unfinished = format!("//! x\nfn f() {{ {}) }}", FORBIDDEN[0]);
    let found = violations(&Tree::of(&[
        ("a/src/bare.rs", "fn f() {}"),
        ("a/src/long.rs", &long),
        ("a/src/sleepy.rs", &sleepy),
        ("a/src/asleep.rs", &asleep),
        ("a/tests/dozing.rs", &dozing),
        ("a/src/unfinished.rs", &unfinished),
        ("docs/private.md", &private),
        ("a/Cargo.toml", "[dev-dependencies]\nserde = \"1\"\n"),
    ]));
    for what in [
        "bare.rs: does not begin",
        "long.rs: 801 lines",
        "sleepy.rs: a test sleeps",
        "dozing.rs: a test sleeps",
        "unfinished.rs: holds",
        "private.md: holds",
        "lacks [lints]",
        "a version of its own: serde",
    ] {
        reported(&found, what)?;
    }
    ensure!(found.len() == 8, "{found:?}");
    Ok(())
}
