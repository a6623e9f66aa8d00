//! Feeds requests to the decoder in pieces and watches its bounds.

use bytes::BytesMut;
use larder_resp::{Decoder, Limits, Pipeline, ProtocolError};

use crate::model::Args;

/// Limits that small inputs reach.
pub(crate) const SMALL: Limits = Limits {
    args_max: 5,
    bulk_bytes_max: 40,
    request_bytes_max: 120,
    inline_bytes_max: 36,
    authenticated: true,
};

/// Memory that a decoder may hold whatever it was fed: one pipeline's worth of inline words.
const DECODER_SLACK: usize = 512 << 10;

/// Feeds `pieces` to a decoder and gives every request and the error that ended it, if any.
/// Asserts the memory bounds on the way.
pub(crate) fn decode_pieces<'a>(
    pieces: impl IntoIterator<Item = &'a [u8]>,
    limits: Limits,
    commands_max: usize,
) -> (Vec<Args>, Option<ProtocolError>) {
    let mut decoder = Decoder::new(limits);
    let mut buffer = BytesMut::new();
    let mut requests = Vec::new();
    let mut fed = 0;
    for piece in pieces {
        buffer.extend_from_slice(piece);
        fed += piece.len();
        loop {
            let pipeline = match decoder.decode(&mut buffer, commands_max) {
                Ok(pipeline) => pipeline,
                Err(error) => {
                    assert_eq!(decoder.decode(&mut buffer, 1).err(), Some(error.clone()));
                    return (requests, Some(error));
                }
            };
            assert!(pipeline.len() <= commands_max);
            assert!(decoder.wanted() <= buffer.len().max(64 << 10));
            assert!(decoder.memory_bytes() <= 2 * fed + DECODER_SLACK);
            assert!(pipeline.memory_bytes() <= 3 * fed + DECODER_SLACK);
            if pipeline.is_empty() {
                break;
            }
            requests.extend(owned(&pipeline));
            decoder.recycle(pipeline);
        }
    }
    (requests, None)
}

/// The requests of a pipeline, copied, by each way there is to read them.
pub(crate) fn owned(pipeline: &Pipeline) -> Vec<Args> {
    let requests: Vec<Args> =
        pipeline.iter().map(|request| request.iter().map(<[u8]>::to_vec).collect()).collect();
    for (index, args) in requests.iter().enumerate() {
        let request = pipeline.request(index);
        assert_eq!(request.len(), args.len());
        assert!(!args.is_empty());
        assert!((0..args.len()).all(|arg| request.arg(arg) == args[arg]));
        assert!(request.get(args.len()).is_none());
    }
    requests
}
