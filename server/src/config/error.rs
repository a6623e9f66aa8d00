//! What is wrong with a configuration, where, and what to do about it.

use std::{borrow::Cow, io, net::SocketAddr, path::PathBuf};

/// Names less alike than this are not suggested (Jaro-Winkler, 0 to 1).
const SIMILARITY_MIN: f64 = 0.75;

/// Why a configuration is refused. The process ends with code 78.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// An address that others can reach, and no password.
    #[error(
        "{key} = \"{address}\": others can reach this address and no password is set; set \
         requirepass or requirepass_file, or listen on 127.0.0.1"
    )]
    Exposed {
        /// The key of the address.
        key: &'static str,
        /// The address.
        address: SocketAddr,
    },
    /// A value that does not fit.
    #[error("{key}: {reason}")]
    Invalid {
        /// The key, with its table.
        key: &'static str,
        /// What is wrong.
        reason: Cow<'static, str>,
    },
    /// Others can read the password's file.
    #[error(
        "{}: mode {mode:03o} lets others than its owner read the password; run `chmod 600` on it",
        path.display()
    )]
    PasswordFileMode {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file does not parse.
    #[error("{name}:{line}:{column}: {message}")]
    Syntax {
        /// The file.
        name: String,
        /// From 1.
        line: usize,
        /// From 1, in characters.
        column: usize,
        /// What is wrong, with a suggestion where there is one.
        message: String,
    },
    /// The file is too large to be a configuration.
    #[error("{}: larger than {bytes_max} bytes; this is not a configuration", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The bound.
        bytes_max: u64,
    },
}

impl ConfigError {
    pub(super) fn invalid(key: &'static str, reason: impl Into<Cow<'static, str>>) -> Self {
        Self::Invalid { key, reason: reason.into() }
    }

    /// Where in `text` the parser stopped, and the known key that an unknown one was meant to be.
    pub(super) fn syntax(name: &str, text: &str, error: &toml::de::Error) -> Self {
        let offset = error.span().map_or(0, |span| span.start);
        let (line, column) = place(text, offset);
        let mut message = error.message().to_owned();
        if let Some(suggestion) = suggestion(&message) {
            message = format!("{message}; did you mean `{suggestion}`?");
        }
        Self::Syntax { name: name.to_owned(), line, column, message }
    }
}

/// Line and column, both from 1, of a byte in a text.
fn place(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// The expected name most like the one that serde refused: its messages quote both with backticks,
/// the refused one first.
fn suggestion(message: &str) -> Option<&str> {
    if !message.starts_with("unknown field") && !message.starts_with("unknown variant") {
        return None;
    }
    let mut quoted = message.split('`').skip(1).step_by(2);
    let refused = quoted.next()?;
    quoted
        .map(|known| (strsim::jaro_winkler(refused, known), known))
        .filter(|(similarity, _)| *similarity >= SIMILARITY_MIN)
        .max_by(|one, other| one.0.total_cmp(&other.0))
        .map(|(_, known)| known)
}
