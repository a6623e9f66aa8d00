//! The bounds on what a peer may send.

use larder_types::limits::{RECORD_BYTES_MAX, VALUE_BYTES_MAX};

/// Bounds on requests. They are tested when a length is declared, before the bytes arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Arguments in a request, the command's name included.
    pub args_max: usize,
    /// Bytes of one argument.
    pub bulk_bytes_max: usize,
    /// Bytes of one request as sent, lengths and line ends included. Above 1 GiB counts as 1 GiB.
    pub request_bytes_max: usize,
    /// Bytes of a line: an inline request, or a length after `*` or `$`. Below 32 counts as 32.
    pub inline_bytes_max: usize,
    /// Whether the client has authenticated; chooses between the errors that Redis has for the two.
    pub authenticated: bool,
}

impl Limits {
    /// What a client may send before it has authenticated: enough for `HELLO 3 AUTH user password`.
    /// Ten arguments of 16 KiB are Redis' numbers.
    pub const BEFORE_AUTH: Self = Self {
        args_max: 10,
        bulk_bytes_max: 16 << 10,
        request_bytes_max: 10 * (16 << 10) + 1024,
        inline_bytes_max: 16 << 10,
        authenticated: false,
    };

    /// What a client may send otherwise. A request's effects must fit into one log record, so a
    /// request is smaller than that by a slack for the record's own framing.
    pub const AFTER_AUTH: Self = Self {
        args_max: 1 << 20,
        bulk_bytes_max: VALUE_BYTES_MAX,
        request_bytes_max: RECORD_BYTES_MAX - (1 << 20),
        inline_bytes_max: 64 << 10,
        authenticated: true,
    };
}

/// Bounds on replies, for a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyLimits {
    /// Levels of arrays, maps and the like within each other.
    pub depth_max: usize,
    /// Values in one reply, those within others included. Each costs about 48 bytes of memory
    /// beside its text.
    pub elements_max: usize,
    /// Bytes of one reply as sent.
    pub bytes_max: usize,
}

impl ReplyLimits {
    /// Bounds which no reply to a sensible request reaches.
    pub const DEFAULT: Self = Self { depth_max: 32, elements_max: 1 << 20, bytes_max: 256 << 20 };
}

impl Default for ReplyLimits {
    fn default() -> Self {
        Self::DEFAULT
    }
}
