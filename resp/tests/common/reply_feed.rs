//! Feeds replies to the decoder in pieces and watches its bounds.

use bytes::BytesMut;
use larder_resp::{ProtocolError, ReplyDecoder, ReplyLimits, Value};

/// Reply limits that small inputs reach.
pub(crate) const SMALL_REPLIES: ReplyLimits =
    ReplyLimits { depth_max: 3, elements_max: 12, bytes_max: 100 };

/// Feeds `pieces` to a reply decoder and gives every reply and the error that ended it, if any.
/// Asserts that no reply is beyond the limits.
pub(crate) fn decode_reply_pieces<'a>(
    pieces: impl IntoIterator<Item = &'a [u8]>,
    limits: ReplyLimits,
) -> (Vec<Value>, Option<ProtocolError>) {
    let mut decoder = ReplyDecoder::new(limits);
    let mut buffer = BytesMut::new();
    let mut replies = Vec::new();
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut buffer) {
                Ok(Some(reply)) => {
                    let size = Size::of(&reply);
                    assert!(size.depth <= limits.depth_max, "{size:?}");
                    assert!(size.elements <= limits.elements_max, "{size:?}");
                    assert!(size.text_bytes <= 3 * limits.bytes_max, "{size:?}");
                    replies.push(reply);
                }
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(decoder.decode(&mut buffer), Err(error.clone()));
                    return (replies, Some(error));
                }
            }
        }
    }
    (replies, None)
}

/// How large a reply is.
#[derive(Debug, Default)]
struct Size {
    depth: usize,
    elements: usize,
    /// An error's text may be three times as long as sent, when all of it is no UTF-8.
    text_bytes: usize,
}

impl Size {
    fn of(value: &Value) -> Self {
        let inner: Vec<Self> = match value {
            Value::Map(pairs) => {
                pairs.iter().flat_map(|(key, value)| [Self::of(key), Self::of(value)]).collect()
            }
            Value::Error(text) => {
                return Self { depth: 0, elements: 1, text_bytes: text.len() };
            }
            value => value.as_values().unwrap_or_default().iter().map(Self::of).collect(),
        };
        let nested = usize::from(!inner.is_empty());
        Self {
            depth: nested + inner.iter().map(|size| size.depth).max().unwrap_or(0),
            elements: 1 + inner.iter().map(|size| size.elements).sum::<usize>(),
            text_bytes: value.as_bytes().map_or(0, <[u8]>::len)
                + inner.iter().map(|size| size.text_bytes).sum::<usize>(),
        }
    }
}
