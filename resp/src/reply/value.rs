//! A reply, as a client sees it.

use bytes::Bytes;

/// One reply, whichever protocol version it came in. Text shares the memory it was read into.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// A status such as `OK`.
    Simple(Bytes),
    /// An error, its code first. Bytes that are no UTF-8 are replaced.
    Error(String),
    /// An integer.
    Integer(i64),
    /// A string of any bytes.
    Bulk(Bytes),
    /// Nothing there, of any form.
    Null,
    /// Values in order.
    Array(Vec<Self>),
    /// Keys and values, in the order sent.
    Map(Vec<(Self, Self)>),
    /// Values without order, in the order sent.
    Set(Vec<Self>),
    /// A floating point number.
    Double(f64),
    /// A truth value.
    Boolean(bool),
    /// The decimal digits of an integer of any size.
    BigNumber(Bytes),
    /// Text for people.
    Verbatim {
        /// What the text is: `txt` or `mkd`.
        format: [u8; 3],
        /// The text.
        text: Bytes,
    },
    /// A message that answers no request.
    Push(Vec<Self>),
}

impl Value {
    /// The text of a status, string, number of any size or verbatim text.
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Simple(text)
            | Self::Bulk(text)
            | Self::BigNumber(text)
            | Self::Verbatim { text, .. } => Some(text),
            _ => None,
        }
    }

    /// The number of an integer reply.
    pub fn as_integer(&self) -> Option<i64> {
        match self {
            Self::Integer(value) => Some(*value),
            _ => None,
        }
    }

    /// The message of an error reply.
    pub fn as_error(&self) -> Option<&str> {
        match self {
            Self::Error(message) => Some(message),
            _ => None,
        }
    }

    /// The values of an array, set or push message.
    pub fn as_values(&self) -> Option<&[Self]> {
        match self {
            Self::Array(values) | Self::Set(values) | Self::Push(values) => Some(values),
            _ => None,
        }
    }

    /// Whether this is the null reply.
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }
}
