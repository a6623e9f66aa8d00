//! What a command refuses with, in Redis' words.

use std::borrow::Cow;

use larder_resp::ReplyWriter;
use larder_storage::{StateError, TxnError};

use super::{REPLY_BYTES_MAX, pattern::c_text};

/// A refusal. Its `Display` is the text after the `-` of the reply, code included.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// The number of arguments does not fit; the command's lower-case name.
    #[error("ERR wrong number of arguments for '{0}' command")]
    Arity(Cow<'static, str>),
    /// A refusal that has its own text; the code (`ERR`, `NOAUTH`...) is part of it.
    #[error("{0}")]
    Message(Cow<'static, str>),
    /// Not a floating point number.
    #[error("ERR value is not a valid float")]
    NotFloat,
    /// Not a 64 bit integer.
    #[error("ERR value is not an integer or out of range")]
    NotInteger,
    /// A refusal that quotes what the client sent, byte for byte.
    #[error("{}", String::from_utf8_lossy(.0))]
    Quoting(Vec<u8>),
    /// There is no room for the reply.
    #[error(
        "ERR the reply would be larger than {REPLY_BYTES_MAX} bytes, with those before it in the same \
         transaction; ask for less at once"
    )]
    ReplyTooLarge,
    /// The state could not be read.
    #[error("ERR the state could not be read: {0}; see the log of the server")]
    State(#[from] StateError),
    /// Options that do not fit together, or an unknown one.
    #[error("ERR syntax error")]
    Syntax,
    /// The effects do not fit.
    #[error("ERR {0}")]
    TooLarge(String),
    /// Matching a glob pattern would take too long.
    #[error(
        "ERR matching the pattern takes too many steps; use fewer '*', or fewer or shorter patterns"
    )]
    TooManySteps,
    /// The key holds another type.
    #[error("WRONGTYPE Operation against a key holding the wrong kind of value")]
    WrongType,
}

impl CommandError {
    /// Writes the refusal as an error reply.
    pub fn reply(&self, writer: &mut ReplyWriter<'_>) {
        match self {
            Self::Quoting(message) => writer.error_bytes(message),
            other => writer.error(&other.to_string()),
        }
    }

    /// A refusal that quotes `text`, as far as C reads it, between these words.
    pub(super) fn quoting(before: &str, text: &[u8], after: &str) -> Self {
        Self::Quoting([before.as_bytes(), c_text(text), after.as_bytes()].concat())
    }

    /// A refusal with a fixed text, code included.
    pub const fn message(text: &'static str) -> Self {
        Self::Message(Cow::Borrowed(text))
    }
}

impl From<TxnError> for CommandError {
    fn from(error: TxnError) -> Self {
        match error {
            TxnError::State(state) => Self::State(state),
            TxnError::WrongType => Self::WrongType,
            too_large => Self::TooLarge(too_large.to_string()),
        }
    }
}
