//! Why a command failed, and the exit code that says so to a script.

use std::io;

/// Why a command failed. The exit codes are part of what scripts rely on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// What was asked for is not there, or a condition does not hold: exit code 1.
    #[error("{0}")]
    Unmet(String),
    /// The server answered with an error: exit code 1.
    #[error("the server refused: {0}")]
    Refused(String),
    /// The arguments make no sense together: exit code 2.
    #[error("{0}")]
    Usage(String),
    /// No connection: exit code 3. Nothing was sent.
    #[error("cannot connect to {server}: {reason}")]
    Connect {
        /// The address as given.
        server: String,
        /// What went wrong.
        reason: String,
    },
    /// The connection failed after a request was sent: exit code 4. Whether a write took place is
    /// not known.
    #[error("lost the connection to {server}: {reason}; a write may or may not have taken place")]
    Lost {
        /// The address as given.
        server: String,
        /// What went wrong.
        reason: String,
    },
    /// The server wants other credentials: exit code 5.
    #[error("{0} (set LARDER_PASSWORD, and --user where the server knows users)")]
    Denied(String),
    /// A process of the playground could not be started, or was not ready in time: exit code 7.
    #[error("{0}")]
    Process(String),
    /// Certificates cannot be made: exit code 6.
    #[error("{}", causes(.0))]
    Certificates(#[from] larder_net::Error),
    /// Standard output, standard input or a file: exit code 6.
    #[error("{what}: {source}")]
    Local {
        /// What was being done.
        what: String,
        /// What the system said.
        source: io::Error,
    },
}

impl Failure {
    /// The process's exit code.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Unmet(_) | Self::Refused(_) => 1,
            Self::Usage(_) => 2,
            Self::Connect { .. } => 3,
            Self::Lost { .. } => 4,
            Self::Denied(_) => 5,
            Self::Local { .. } | Self::Certificates(_) => 6,
            Self::Process(_) => 7,
        }
    }

    /// The failure which an error reply means.
    pub(crate) fn from_reply(message: &str) -> Self {
        match first_word(message) {
            "NOAUTH" | "WRONGPASS" | "NOPERM" => Self::Denied(message.to_owned()),
            _ => Self::Refused(message.to_owned()),
        }
    }

    /// A file or directory that failed.
    pub(crate) fn local(what: impl Into<String>, source: io::Error) -> Self {
        Self::Local { what: what.into(), source }
    }

    /// Whether the reader of our output has closed it, as `head` does: no failure to speak of.
    pub(crate) fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Local { source, .. } if source.kind() == io::ErrorKind::BrokenPipe)
    }
}

impl From<io::Error> for Failure {
    fn from(source: io::Error) -> Self {
        Self::Local { what: "cannot write the output".to_owned(), source }
    }
}

/// An error and what caused it, on one line.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

/// The code that an error reply begins with, such as `ERR` or `MOVED`.
pub(crate) fn first_word(message: &str) -> &str {
    message.split_ascii_whitespace().next().unwrap_or("ERR")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_about_credentials_are_told_from_other_errors() {
        for message in ["NOAUTH Authentication required.", "WRONGPASS invalid", "NOPERM no"] {
            assert_eq!(Failure::from_reply(message).exit_code(), 5, "{message}");
        }
        for message in ["ERR syntax error", "OOM x", "", "NOAUTHX y"] {
            assert_eq!(Failure::from_reply(message).exit_code(), 1, "{message}");
        }
    }
}
