//! `kvd inspect`: looks into a data directory that no process has open. Changes nothing in it.

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
    // Opening a directory would make it one.
    if !root.join("FORMAT").is_file() {
        return Err(InspectError::Absent { path: root.to_owned() });
    }
    let directory = Directory::open(root)?;
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
    use super::*;

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
        assert_eq!(std::fs::read_dir(root.path()).expect("it is readable").count(), 0);
    }
}
