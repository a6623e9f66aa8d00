//! Requests: what is understood, what is refused and with which words, each limit at its edge, and
//! that it does not matter how the bytes arrive.

#[path = "common/model.rs"]
mod model;
#[path = "common/pieces.rs"]
mod pieces;
#[path = "common/request_feed.rs"]
mod request_feed;

use std::time::{Duration, Instant};

use bytes::BytesMut;
use larder_resp::{Decoder, Limits, ProtocolError, encode_request};
use model::Args;
use pieces::pieces;
use proptest::prelude::*;
use request_feed::{SMALL, decode_pieces, owned};

fn decode(bytes: &[u8], limits: Limits) -> (Vec<Args>, Option<ProtocolError>) {
    let at_once = decode_pieces([bytes], limits, 100);
    assert_eq!(at_once, model::requests(bytes, &limits), "model of {}", bytes.escape_ascii());
    let one_by_one = decode_pieces(pieces(bytes, &[1]), limits, 100);
    assert_eq!(at_once, one_by_one, "byte by byte {}", bytes.escape_ascii());
    at_once
}

fn args(words: &[&str]) -> Args {
    words.iter().map(|word| word.as_bytes().to_vec()).collect()
}

fn request_of(words: &[&[u8]]) -> Vec<u8> {
    let mut out = BytesMut::new();
    encode_request(&mut out, words);
    out.to_vec()
}

/// The text after `-ERR ` for `bytes`, or `None` if they are accepted.
fn refusal(bytes: &[u8], limits: Limits) -> Option<String> {
    decode(bytes, limits).1.map(|error| error.to_string())
}

#[test]
fn arrays_inline_requests_and_nothings_follow_each_other() {
    let bytes =
        b"\r\n*0\r\n*-1\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n  \r\nSET k \"a b\"\n*-9\r\nPING\r\n\
        *1\r\n$0\r\n\r\n''\r\n*1\r\n$4\r\nPING\r\n*0\r\n";
    let expected = vec![
        args(&["GET", "k"]),
        args(&["SET", "k", "a b"]),
        args(&["PING"]),
        args(&[""]),
        args(&[""]),
        args(&["PING"]),
    ];
    assert_eq!(decode(bytes, Limits::AFTER_AUTH), (expected, None));
}

#[test]
fn refusals_have_the_words_of_redis() {
    for (bytes, expected) in [
        (&b"*3\r\n$3\r\nSET\r\n$1\r\nx\r\nfooz\r\n"[..], "expected '$', got 'f'"),
        (b"*1\r\n\x00\r\n", "expected '$', got '\\x00'"),
        (b"*1\r\n\r\n", "expected '$', got '\\r'"),
        (b"*x\r\n", "invalid multibulk length"),
        (b"*\r\n", "invalid multibulk length"),
        (b"*01\r\n", "invalid multibulk length"),
        (b"*+1\r\n", "invalid multibulk length"),
        (b"*2147483648\r\n", "invalid multibulk length"),
        (b"*20000000\r\n", "invalid multibulk length"),
        (b"*99999999999999999999\r\n", "invalid multibulk length"),
        (b"*1\r\n$-1\r\n", "invalid bulk length"),
        (b"*1\r\n$\r\n", "invalid bulk length"),
        (b"*1\r\n$04\r\n", "invalid bulk length"),
        (b"*1\r\n$4 \r\n", "invalid bulk length"),
        (b"*1\r\n$2000000000\r\n", "invalid bulk length"),
        (b"*1\r\n$9223372036854775807\r\n", "invalid bulk length"),
        (b"PING \"a\"b\r\n", "unbalanced quotes in request"),
        (b"PING \"a\r\n", "unbalanced quotes in request"),
    ] {
        let text = refusal(bytes, Limits::AFTER_AUTH);
        let expected = format!("Protocol error: {expected}");
        assert_eq!(text.as_deref(), Some(expected.as_str()), "{}", bytes.escape_ascii());
    }
}

#[test]
fn lines_are_bounded_at_the_limit_and_one_beyond() {
    for limits in [Limits::BEFORE_AUTH, Limits::AFTER_AUTH] {
        let max = limits.inline_bytes_max;
        for (prefix, what) in [
            ("", "too big inline request"),
            ("*", "too big mbulk count string"),
            ("*1\r\n$", "too big bulk count string"),
        ] {
            let line_start = prefix.trim_start_matches("*1\r\n").len();
            let line = |bytes: usize| format!("{prefix}{}", "1".repeat(bytes - line_start));
            let expected = format!("Protocol error: {what}");
            for (bytes, outcome) in [(max - 1, None), (max, None), (max + 1, Some(expected))] {
                assert_eq!(refusal(line(bytes).as_bytes(), limits), outcome, "{what} {bytes}");
            }
        }
        let word = |bytes: usize| format!("{}\r\n", "w".repeat(bytes - 1));
        for bytes in [max - 1, max] {
            assert_eq!(decode(word(bytes).as_bytes(), limits).0.len(), 1, "{bytes}");
        }
        assert!(refusal(word(max + 1).as_bytes(), limits).is_some());
    }
}

#[test]
fn before_authentication_ten_arguments_of_16_kib_are_the_most() {
    let limits = Limits::BEFORE_AUTH;
    for (count, refused) in [(9, false), (10, false), (11, true), (2_147_483_647, true)] {
        let text = refusal(format!("*{count}\r\n").as_bytes(), limits);
        let expected = refused.then(|| "Protocol error: unauthenticated multibulk length".into());
        assert_eq!(text, expected, "{count}");
    }
    for (bytes, refused) in [(16_383, false), (16_384, false), (16_385, true), (1 << 29, true)] {
        let text = refusal(format!("*1\r\n${bytes}\r\n").as_bytes(), limits);
        let expected = refused.then(|| "Protocol error: unauthenticated bulk length".into());
        assert_eq!(text, expected, "{bytes}");
    }
    let invalid = refusal(b"*1\r\n$536870913\r\n", limits);
    assert_eq!(invalid.as_deref(), Some("Protocol error: invalid bulk length"));
    let largest = vec![vec![b'a'; 16_384]; 10];
    let largest: Vec<&[u8]> = largest.iter().map(Vec::as_slice).collect();
    assert_eq!(decode_pieces([&request_of(&largest)[..]], limits, 1).0.len(), 1);
    let words = |count| format!("{}\r\n", "w ".repeat(count));
    assert_eq!(refusal(words(10).as_bytes(), limits), None);
    assert!(refusal(words(11).as_bytes(), limits).is_some());
}

#[test]
fn after_authentication_each_limit_holds_at_its_edge() {
    let limits = Limits::AFTER_AUTH;
    let header = |count: usize| format!("*{count}\r\n");
    assert_eq!(refusal(header(limits.args_max - 1).as_bytes(), limits), None);
    assert_eq!(refusal(header(limits.args_max).as_bytes(), limits), None);
    assert!(refusal(header(limits.args_max + 1).as_bytes(), limits).is_some());
    let bulk = |bytes: usize| format!("*1\r\n${bytes}\r\n");
    assert_eq!(refusal(bulk(limits.bulk_bytes_max - 1).as_bytes(), limits), None);
    assert_eq!(refusal(bulk(limits.bulk_bytes_max).as_bytes(), limits), None);
    assert!(refusal(bulk(limits.bulk_bytes_max + 1).as_bytes(), limits).is_some());
}

#[test]
fn a_request_is_bounded_as_a_whole_at_the_limit_and_one_beyond() {
    let limits = Limits { bulk_bytes_max: 1000, request_bytes_max: 1500, ..Limits::AFTER_AUTH };
    let request = |bytes: usize| request_of(&[&vec![b'a'; 1000], &vec![b'b'; bytes - 1021]]);
    for (bytes, refused) in [(1499, false), (1500, false), (1501, true)] {
        let request = request(bytes);
        assert_eq!(request.len(), bytes);
        let expected = refused.then_some(ProtocolError::TooBigRequest { bytes_max: 1500 });
        assert_eq!(decode(&request, limits).1, expected, "{bytes}");
        let twice = [&request[..], &request[..]].concat();
        assert_eq!(decode(&twice, limits).0.len(), if refused { 0 } else { 2 });
    }
}

#[test]
fn the_largest_request_is_taken_and_one_byte_more_refused() {
    let limits = Limits::AFTER_AUTH;
    let bytes_max = limits.request_bytes_max;
    let whole = vec![b'a'; limits.bulk_bytes_max];
    // Of the lengths and line ends of both arguments.
    let framing = request_of(&[&whole, &whole]).len() - 2 * whole.len();
    for (bytes, refused) in [(bytes_max - 1, false), (bytes_max, false), (bytes_max + 1, true)] {
        let request = request_of(&[&whole, &whole[..bytes - whole.len() - framing]]);
        assert_eq!(request.len(), bytes);
        let (requests, error) = decode_pieces(request.chunks(1 << 20), limits, 1);
        assert_eq!(requests.len(), usize::from(!refused), "{bytes}");
        assert_eq!(error, refused.then_some(ProtocolError::TooBigRequest { bytes_max }), "{bytes}");
    }
}

#[test]
fn browsers_are_turned_away() {
    for bytes in [&b"POST / HTTP/1.1\r\n"[..], b"post\n", b"PING\r\nHost: kv\r\n", b" hOST: x\r\n"]
    {
        assert_eq!(decode(bytes, Limits::AFTER_AUTH).1, Some(ProtocolError::CrossProtocol));
    }
    assert_eq!(decode(b"HOST kv\r\nPOSTS\r\n", Limits::AFTER_AUTH).1, None);
}

#[test]
fn requests_before_an_error_are_returned_first() {
    let mut decoder = Decoder::new(Limits::AFTER_AUTH);
    let mut buffer =
        BytesMut::from(&b"PING\r\nECHO \"\\x41\"\r\n*1\r\n$2\r\nGO\r\n*1\r\nx\r\n"[..]);
    let pipeline = decoder.decode(&mut buffer, 100).unwrap();
    assert_eq!(owned(&pipeline), [args(&["PING"]), args(&["ECHO", "A"]), args(&["GO"])]);
    let error = ProtocolError::ExpectedDollar { found: b'x' };
    assert_eq!(decoder.decode(&mut buffer, 100).unwrap_err(), error);
    buffer.extend_from_slice(b"\r\nPING\r\n");
    assert_eq!(decoder.decode(&mut buffer, 100).unwrap_err(), error);
}

#[test]
fn a_quoted_line_refused_behind_a_request_keeps_its_error() {
    let bytes = b"PING\r\n'a' \"b\" c\\'d' 1 2 3 4\r\n";
    assert_eq!(decode(bytes, SMALL).1, Some(ProtocolError::InvalidMultibulkLength));
}

#[test]
fn what_follows_auth_in_a_pipeline_is_held_to_the_new_limits() {
    let large = request_of(&[b"SET", b"k", &[b'v'; 20_000]]);
    for split in [0, 1, 10, large.len() - 1] {
        let mut decoder = Decoder::new(Limits::BEFORE_AUTH);
        let mut buffer = BytesMut::from(&b"*2\r\n$4\r\nAUTH\r\n$1\r\np\r\n"[..]);
        buffer.extend_from_slice(&large[..split]);
        assert_eq!(owned(&decoder.decode(&mut buffer, 100).unwrap()), [args(&["AUTH", "p"])]);
        decoder.set_limits(Limits::AFTER_AUTH);
        buffer.extend_from_slice(&large[split..]);
        let pipeline = decoder.decode(&mut buffer, 100).unwrap();
        assert_eq!(pipeline.request(0).arg(2).len(), 20_000);
        assert_eq!(pipeline.wire_bytes(), large.len());
        assert!(buffer.is_empty());
    }
}

#[test]
fn lowered_limits_hold_for_a_request_that_has_begun() {
    let mut decoder = Decoder::new(Limits::AFTER_AUTH);
    let mut buffer = BytesMut::from(&b"*11\r\n$1\r\na\r\n"[..]);
    assert!(decoder.decode(&mut buffer, 1).unwrap().is_empty());
    decoder.set_limits(Limits::BEFORE_AUTH);
    let error = decoder.decode(&mut buffer, 1).unwrap_err();
    assert_eq!(error, ProtocolError::UnauthenticatedMultibulkLength);
}

#[test]
fn a_pipeline_holds_at_most_as_many_requests_as_asked_for() {
    let mut decoder = Decoder::new(Limits::AFTER_AUTH);
    let mut buffer = BytesMut::from("PING\r\n".repeat(5).as_bytes());
    let lens: Vec<usize> = (0..4).map(|_| decoder.decode(&mut buffer, 2).unwrap().len()).collect();
    assert_eq!(lens, [2, 2, 1, 0]);
}

#[test]
fn the_wish_for_bytes_follows_what_has_arrived() {
    let mut decoder = Decoder::new(Limits::AFTER_AUTH);
    let mut buffer = BytesMut::from(&b"*1\r\n$8388608\r\n"[..]);
    assert!(decoder.decode(&mut buffer, 1).unwrap().is_empty());
    assert_eq!(decoder.wanted(), 64 << 10);
    buffer.extend_from_slice(&vec![b'v'; 1 << 20]);
    assert!(decoder.decode(&mut buffer, 1).unwrap().is_empty());
    assert_eq!(decoder.wanted(), buffer.len());
    buffer.extend_from_slice(&vec![b'v'; (7 << 20) - 10]);
    assert!(decoder.decode(&mut buffer, 1).unwrap().is_empty());
    assert_eq!(decoder.wanted(), 12);
    buffer.extend_from_slice(b"vvvvvvvvvv\r\n");
    assert_eq!(decoder.decode(&mut buffer, 1).unwrap().request(0).arg(0).len(), 8 << 20);
    assert_eq!(decoder.wanted(), 0);
}

/// Feeds pieces of `piece_bytes` and gives the number of arguments of the one request there is.
fn fed_slowly(bytes: &[u8], piece_bytes: usize) -> usize {
    let mut decoder = Decoder::new(Limits::AFTER_AUTH);
    let mut buffer = BytesMut::new();
    let mut args = 0;
    for piece in bytes.chunks(piece_bytes) {
        buffer.extend_from_slice(piece);
        let pipeline = decoder.decode(&mut buffer, 1).expect("a valid request");
        args += pipeline.iter().map(|request| request.len()).sum::<usize>();
    }
    args
}

#[test]
fn a_request_that_arrives_slowly_is_not_read_again_and_again() {
    let begun = Instant::now();
    let large = request_of(&[b"SET", b"k", &vec![b'v'; 1 << 20]]);
    assert_eq!(fed_slowly(&large, 1), 3);
    let many = ["*200000\r\n", &"$0\r\n\r\n".repeat(200_000)].concat();
    assert_eq!(fed_slowly(many.as_bytes(), 5), 200_000);
    let behind = [&b"PING\r\n"[..], many.as_bytes()].concat();
    assert_eq!(fed_slowly(&behind, 7), 200_001);
    // Well under 2 s; reading all of it anew at each piece would take many minutes.
    assert!(begun.elapsed() < Duration::from_secs(30), "took {:?}", begun.elapsed());
}

#[test]
fn a_request_of_very_many_arguments_is_the_same_in_pieces_and_behind_another() {
    let words: Vec<String> = (0..30_000).map(|number: u32| number.to_string()).collect();
    let words: Vec<&[u8]> = words.iter().map(String::as_bytes).collect();
    let wire = [request_of(&[b"PING"]), request_of(&words), request_of(&[b"PING"])].concat();
    let (requests, error) = decode(&wire, Limits::AFTER_AUTH);
    assert_eq!((requests.len(), error), (3, None));
    assert_eq!(requests[1], words);
}

/// Bytes that are requests, nearly requests, or neither.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let request =
        prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..6).prop_map(|args| {
            let args: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
            request_of(&args)
        });
    let token = prop::sample::select(vec![
        "\r\n",
        "\n",
        "*",
        "$",
        "*1\r\n",
        "$3\r\n",
        "*-1\r\n",
        "*6\r\n",
        "$41\r\n",
        "PING\r\n",
        "SET a 'b c'\r\n",
        "ECHO \"\\x00\\n\"\n",
        "\"",
        "'",
        "\\",
        " ",
        "host: x\n",
    ])
    .prop_map(|token| token.as_bytes().to_vec());
    let noise = prop::collection::vec(any::<u8>(), 0..8);
    let part = prop_oneof![6 => request, 3 => token, 1 => noise];
    prop::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
}

proptest! {
    // A failing case is printed whole; there is no file of them beside an integration test.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_split_gives_what_the_model_reads_at_once(
        bytes in stream(),
        lengths in prop::collection::vec(1_usize..40, 1..8),
        commands_max in 1_usize..5,
        small in any::<bool>(),
    ) {
        let limits = if small { SMALL } else { Limits::AFTER_AUTH };
        let expected = model::requests(&bytes, &limits);
        prop_assert_eq!(&decode_pieces([&bytes[..]], limits, 100), &expected);
        prop_assert_eq!(decode_pieces(pieces(&bytes, &lengths), limits, commands_max), expected);
    }

    #[test]
    fn what_was_encoded_is_decoded(
        requests in prop::collection::vec(
            prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..10),
            1..20,
        ),
        lengths in prop::collection::vec(1_usize..300, 1..8),
    ) {
        let mut out = BytesMut::new();
        for request in &requests {
            encode_request(&mut out, request);
        }
        let decoded = decode_pieces(pieces(&out, &lengths), Limits::AFTER_AUTH, 3);
        prop_assert_eq!(decoded, (requests, None));
    }
}
