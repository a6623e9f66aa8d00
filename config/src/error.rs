//! What is wrong with a configuration, where, and what to do about it.

use std::{borrow::Cow, io, net::SocketAddr, path::PathBuf};

use crate::{
    known_keys,
    place::{key_of_value, line_and_column},
};

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
    /// Something in a file, other than its syntax.
    #[error("{name}:{line}:{column}: {error}")]
    Placed {
        /// The file.
        name: String,
        /// From 1.
        line: usize,
        /// From 1, in characters.
        column: usize,
        /// What is wrong there.
        error: Box<Self>,
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
    pub(crate) fn invalid(key: &'static str, reason: impl Into<Cow<'static, str>>) -> Self {
        Self::Invalid { key, reason: reason.into() }
    }

    /// The key that has to be changed, with its table; none where it is not one key.
    pub const fn key(&self) -> Option<&'static str> {
        match self {
            Self::Exposed { key, .. } | Self::Invalid { key, .. } => Some(key),
            _ => None,
        }
    }

    /// Where in `text` the parser stopped, at which key's value, and the known key that an unknown
    /// one was meant to be.
    pub(crate) fn syntax(name: &str, text: &str, error: &toml::de::Error) -> Self {
        let offset = error.span().map_or(0, |span| span.start);
        let (line, column) = line_and_column(text, offset);
        let mut message = error.message().to_owned();
        if let Some(suggestion) = suggestion(&message) {
            message = format!("{message}; did you mean {suggestion}?");
        }
        if let Some(key) = key_of_value(text, offset) {
            message = format!("{key}: {message}");
        }
        Self::Syntax { name: name.to_owned(), line, column, message }
    }
}

/// The known name most like the one that serde refused, and in which table it belongs where that is
/// another. Serde's messages quote the refused name and those expected with backticks, in this order.
fn suggestion(message: &str) -> Option<String> {
    let is_field = message.starts_with("unknown field");
    if !is_field && !message.starts_with("unknown variant") {
        return None;
    }
    let mut quoted = message.split('`').skip(1).step_by(2);
    let refused = quoted.next()?;
    let likeness = |known: &str| strsim::jaro_winkler(refused, known);
    let elsewhere = if is_field { known_keys() } else { Vec::new() };
    let elsewhere = elsewhere.iter().map(|(table, key)| {
        let named = match table.as_str() {
            "" => format!("`{key}`, above all tables"),
            table => format!("`{key}` in [{table}]"),
        };
        (likeness(key), named)
    });
    let here = quoted.map(|known| (likeness(known), format!("`{known}`")));
    elsewhere
        .chain(here)
        .filter(|(likeness, _)| *likeness >= SIMILARITY_MIN)
        // Of those equally like, the last: what is expected here.
        .max_by(|one, other| one.0.total_cmp(&other.0))
        .map(|(_, known)| known)
}
