//! Links between documents, and the files that documents name.

use anyhow::Result;

use crate::{none, reported, table, tree::Tree};

/// Endings of what is taken for a file's path between backticks.
const FILES: [&str; 4] = [".rs", ".md", ".toml", ".sh"];

fn violations(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in tree.ending(".md") {
        for target in targets(text) {
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let linked = if file.is_empty() { path.to_owned() } else { beside(path, file) };
            if !tree.has(linked.trim_end_matches('/')) {
                found.push(format!("{path}: links to {target}, which is not there"));
            } else if !heading.is_empty()
                && !tree.file(&linked).is_ok_and(|text| has_heading(text, heading))
            {
                found.push(format!("{path}: links to {target}, which has no such heading"));
            }
        }
        for named in table::spans(text).filter(|span| is_path(span)) {
            if !tree.has(named) && !tree.has(&beside(path, named)) {
                found.push(format!("{path}: names {named}, which is not there"));
            }
        }
    }
    found
}

/// What the links of a document lead to, but for other hosts.
fn targets(text: &str) -> impl Iterator<Item = &str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets.filter(|target| !target.contains("://") && !target.starts_with("mailto:"))
}

/// Whether a span is a path of this repository with a folder in it: not a pattern or an address.
fn is_path(span: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
    span.contains('/')
        && !span.starts_with(['/', '.'])
        && span.chars().all(plain)
        && FILES.iter().any(|ending| span.ends_with(ending))
}

/// The path from the root to what `target` is for a document at `path`.
fn beside(path: &str, target: &str) -> String {
    let mut parts: Vec<&str> = path.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "." => {}
            ".." => drop(parts.pop()),
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

/// Whether a heading of the document has this anchor, as GitHub makes them.
fn has_heading(text: &str, anchor: &str) -> bool {
    text.lines().filter(|line| line.starts_with('#')).any(|line| {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = title.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.collect::<String>().replace(' ', "-") == anchor
    })
}

#[test]
fn links_and_named_files_are_there() -> Result<()> {
    none(&violations(&Tree::of_the_repository()?))
}

#[test]
fn a_dead_link_is_reported() -> Result<()> {
    let text = "[a](b.md) [c](b.md#one-two) [d](b.md#three) [e](../README.md) [f](gone.md) \
                [g](https://x.y/z) `docs/b.md` `src/gone.rs`";
    let found = violations(&Tree::of(&[
        ("README.md", "[docs](docs/)"),
        ("docs/a.md", text),
        ("docs/b.md", "# One two\n"),
    ]));
    reported(&found, "links to b.md#three")?;
    reported(&found, "links to gone.md")?;
    reported(&found, "names src/gone.rs")?;
    anyhow::ensure!(found.len() == 3, "{found:?}");
    Ok(())
}
