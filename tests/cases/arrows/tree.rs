//! The repository's files as text.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result};

/// Directories whose contents are not ours to judge: what builds leave, and frozen formats.
const SKIPPED: [&str; 2] = ["target", "fixtures"];
/// Files that are read.
const KINDS: [&str; 4] = ["rs", "md", "toml", "sh"];

/// Files by their path from the repository's root, with `/` between its parts.
pub(crate) struct Tree(BTreeMap<String, String>);

impl Tree {
    /// The files of this repository.
    pub(crate) fn of_the_repository() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("tests has a parent")?;
        let mut files = BTreeMap::new();
        read(root, "", &mut files)?;
        Ok(Self(files))
    }

    /// Files made up for a test of a check.
    pub(crate) fn of(files: &[(&str, &str)]) -> Self {
        Self(files.iter().map(|(path, text)| ((*path).into(), (*text).into())).collect())
    }

    /// The text of one file.
    pub(crate) fn file(&self, path: &str) -> Result<&str> {
        self.0.get(path).map(String::as_str).with_context(|| format!("there is no {path}"))
    }

    /// Whether there is such a file, or a directory with files.
    pub(crate) fn has(&self, path: &str) -> bool {
        let inside = format!("{path}/");
        path.is_empty() || self.0.keys().any(|file| file == path || file.starts_with(&inside))
    }

    /// Path and text of every file whose name ends like this.
    pub(crate) fn ending<'a>(
        &'a self,
        ending: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a str)> {
        let files = self.0.iter().map(|(path, text)| (path.as_str(), text.as_str()));
        files.filter(move |(path, _)| path.ends_with(ending))
    }
}

fn read(dir: &Path, prefix: &str, files: &mut BTreeMap<String, String>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') || SKIPPED.contains(&name.as_str()) {
            continue;
        }
        let (path, below) = (entry.path(), format!("{prefix}{name}"));
        if entry.file_type()?.is_dir() {
            read(&path, &format!("{below}/"), files)?;
        } else if is_read(&name) {
            let text =
                fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
            files.insert(below, text);
        }
    }
    Ok(())
}

fn is_read(name: &str) -> bool {
    name == "LICENSE" || name.rsplit_once('.').is_some_and(|(_, kind)| KINDS.contains(&kind))
}
