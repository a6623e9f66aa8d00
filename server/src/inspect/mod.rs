//! `kvd inspect`: looks into a data directory that no process has open. Changes nothing in it, and
//! needs no right to.

mod log;
mod state;

use std::{
    fmt::Display,
    io::{self, Write},
    path::{Path, PathBuf},
    str::FromStr,
};

use larder_storage::{Directory, DirectoryError, LogError, StateError};
use serde::Serialize;

/// Bytes of a key, field or value that a table shows.
const SHOWN_BYTES_MAX: usize = 48;

/// How the findings are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Output {
    /// One JSON object a line.
    Json,
    /// For people.
    #[default]
    Table,
}

impl FromStr for Output {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "json" => Ok(Self::Json),
            "table" => Ok(Self::Table),
            _ => Err(format!("{text:?} is neither \"table\" nor \"json\"")),
        }
    }
}

/// What to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The log's records.
    Log,
    /// The state's rows.
    State,
}

/// What to print of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Selection {
    /// The first record, or the first unit.
    pub from: Option<u64>,
    /// How many records or rows at most.
    pub limit: Option<u64>,
    /// Check everything and print a summary, instead of the records or rows.
    pub verify: bool,
}

/// Why an inspection ended early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InspectError {
    /// There is no data directory.
    #[error("{}: not a data directory of Larder (there is no FORMAT file in it)", path.display())]
    Absent {
        /// What was looked at.
        path: PathBuf,
    },
    /// What was found contradicts itself.
    #[error("{0}")]
    Damaged(String),
    /// The directory was refused.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The log is damaged or cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The findings could not be written.
    #[error("cannot write what was found: {0}")]
    Output(#[from] io::Error),
    /// The state is damaged or cannot be read.
    #[error(transparent)]
    State(#[from] StateError),
}

/// Looks into the data directory `root` and prints what is selected to `out`.
///
/// # Errors
/// When there is nothing to look at, a process has it open, or it is damaged.
pub fn inspect(
    root: &Path,
    subject: Subject,
    selection: Selection,
    output: Output,
    out: &mut dyn Write,
) -> Result<(), InspectError> {
    if !root.join("FORMAT").is_file() {
        return Err(InspectError::Absent { path: root.to_owned() });
    }
    let directory = Directory::open_to_look(root)?;
    let mut printer = Printer { output, out };
    match subject {
        Subject::Log if selection.verify => log::verify(&directory, &mut printer),
        Subject::Log => log::dump(&directory, selection, &mut printer),
        Subject::State if selection.verify => state::verify(&directory, &mut printer),
        Subject::State => state::dump(&directory, selection, &mut printer),
    }
}

/// Prints findings, each as a line of text or a JSON object.
struct Printer<'a> {
    output: Output,
    out: &'a mut dyn Write,
}

impl Printer<'_> {
    fn print(
        &mut self,
        object: &impl Serialize,
        line: impl FnOnce() -> String,
    ) -> Result<(), InspectError> {
        match self.output {
            Output::Json => {
                serde_json::to_writer(&mut *self.out, object).map_err(io::Error::from)?;
                self.out.write_all(b"\n")?;
            }
            Output::Table => writeln!(self.out, "{}", line())?,
        }
        Ok(())
    }

    /// A line that only people need.
    fn heading(&mut self, line: impl Display) -> Result<(), InspectError> {
        if self.output == Output::Table {
            writeln!(self.out, "{line}")?;
        }
        Ok(())
    }
}

/// Bytes as text, with escapes for what is not printable ASCII.
fn escaped(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

/// The same, cut where a table would become too wide.
fn shown(bytes: &[u8]) -> String {
    if bytes.len() <= SHOWN_BYTES_MAX {
        return escaped(bytes);
    }
    format!("{}... ({} bytes)", bytes[..SHOWN_BYTES_MAX].escape_ascii(), bytes.len())
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        fs::{self, Permissions},
        os::unix::fs::PermissionsExt,
        time::SystemTime,
    };

    use super::*;

    /// What is under `dir`: lengths, and when each was changed.
    fn listed(dir: &Path, into: &mut BTreeMap<PathBuf, (u64, SystemTime)>) {
        let about = fs::metadata(dir).expect("it is there");
        into.insert(dir.to_owned(), (about.len(), about.modified().expect("it has a time")));
        if about.is_dir() {
            for entry in fs::read_dir(dir).expect("it is readable") {
                listed(&entry.expect("an entry").path(), into);
            }
        }
    }

    /// A copy of a data directory that lacks some names, and that nobody but root may write to.
    fn backup(without: &[&str]) -> tempfile::TempDir {
        fn copy(from: &Path, to: &Path, without: &[&str]) {
            for entry in fs::read_dir(from).expect("it is readable") {
                let entry = entry.expect("an entry");
                let (from, to) = (entry.path(), to.join(entry.file_name()));
                if without.iter().any(|name| entry.file_name() == **name) {
                    continue;
                }
                if from.is_dir() {
                    fs::create_dir(&to).expect("made");
                    copy(&from, &to, without);
                    fs::set_permissions(&to, Permissions::from_mode(0o500)).expect("set");
                } else {
                    fs::copy(&from, &to).expect("copied");
                    fs::set_permissions(&to, Permissions::from_mode(0o400)).expect("set");
                }
            }
        }
        let to = tempfile::tempdir().expect("a directory");
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../storage/tests/fixtures/data-v1");
        copy(&from, to.path(), without);
        fs::set_permissions(to.path(), Permissions::from_mode(0o500)).expect("set");
        to
    }

    #[test]
    fn a_backup_that_may_not_be_written_is_looked_into_and_stays_as_it_is() {
        for without in [&["quarantine"][..], &["quarantine", "LOCK"], &["log", "quarantine"]] {
            let root = backup(without);
            let (mut before, mut after) = (BTreeMap::new(), BTreeMap::new());
            listed(root.path(), &mut before);
            for (subject, verify) in [
                (Subject::Log, false),
                (Subject::Log, true),
                (Subject::State, false),
                (Subject::State, true),
            ] {
                let selection = Selection { verify, ..Selection::default() };
                let mut out = Vec::new();
                inspect(root.path(), subject, selection, Output::Table, &mut out)
                    .unwrap_or_else(|why| panic!("{without:?}, {subject:?}: {why}"));
                assert!(!out.is_empty() || without.contains(&"log"), "{without:?}, {subject:?}");
            }
            listed(root.path(), &mut after);
            assert_eq!(before, after, "{without:?}");
            for (path, _) in before.iter().filter(|(path, _)| path.is_dir()) {
                // So that it can be removed.
                fs::set_permissions(path, Permissions::from_mode(0o700)).expect("set");
            }
        }
    }

    #[test]
    fn long_and_binary_values_are_cut_and_escaped() {
        assert_eq!(shown(b"plain"), "plain");
        assert_eq!(shown(b"a\0\xff\n"), "a\\x00\\xff\\n");
        let long = shown(&[b'x'; 100]);
        assert!(long.ends_with("... (100 bytes)") && long.len() < 70, "{long}");
    }

    #[test]
    fn a_directory_that_is_none_of_larders_is_left_as_it_is() {
        let root = tempfile::tempdir().expect("a directory");
        let selection = Selection::default();
        let refused = inspect(root.path(), Subject::Log, selection, Output::Table, &mut Vec::new());
        assert!(matches!(refused, Err(InspectError::Absent { .. })));
        assert_eq!(fs::read_dir(root.path()).expect("it is readable").count(), 0);
    }
}
