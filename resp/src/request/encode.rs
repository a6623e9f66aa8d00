//! Writes requests, for a client.

use bytes::BytesMut;

use crate::number::NumberLine;

/// Appends one request to `out`, as an array of bulk strings.
pub fn encode_request<I, A>(out: &mut BytesMut, args: I)
where
    I: IntoIterator<Item = A>,
    I::IntoIter: ExactSizeIterator,
    A: AsRef<[u8]>,
{
    let args = args.into_iter();
    out.extend_from_slice(NumberLine::unsigned(b'*', args.len() as u64).as_bytes());
    for arg in args {
        let arg = arg.as_ref();
        out.reserve(arg.len().saturating_add(16));
        out.extend_from_slice(NumberLine::unsigned(b'$', arg.len() as u64).as_bytes());
        out.extend_from_slice(arg);
        out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_an_array_of_bulk_strings() {
        let mut out = BytesMut::new();
        encode_request(&mut out, ["SET", "k", ""]);
        encode_request(&mut out, [b"PING"]);
        assert_eq!(&out[..], b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$0\r\n\r\n*1\r\n$4\r\nPING\r\n");
    }
}
