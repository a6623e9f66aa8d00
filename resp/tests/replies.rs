//! Replies: what is understood and refused, each limit at its edge, and that it does not matter how
//! the bytes arrive.

#[path = "common/pieces.rs"]
mod pieces;
#[path = "common/reply_feed.rs"]
mod reply_feed;

use bytes::Bytes;
use larder_resp::{Protocol, ProtocolError, Replies, ReplyLimits, ReplyWriter, Value};
use pieces::pieces;
use proptest::prelude::*;
use reply_feed::{SMALL_REPLIES, decode_reply_pieces};

fn decode(bytes: &[u8], limits: ReplyLimits) -> (Vec<Value>, Option<ProtocolError>) {
    let at_once = decode_reply_pieces([bytes], limits);
    let one_by_one = decode_reply_pieces(pieces(bytes, &[1]), limits);
    assert_eq!(format!("{at_once:?}"), format!("{one_by_one:?}"), "{}", bytes.escape_ascii());
    at_once
}

fn bulk(text: &'static str) -> Value {
    Value::Bulk(Bytes::from_static(text.as_bytes()))
}

#[test]
fn each_type_is_understood() {
    let table: Vec<(&str, Value)> = vec![
        ("+OK\r\n", Value::Simple(Bytes::from_static(b"OK"))),
        ("+\r\n", Value::Simple(Bytes::new())),
        ("-ERR no\r\n", Value::Error("ERR no".into())),
        (":-5\r\n", Value::Integer(-5)),
        ("$2\r\nab\r\n", bulk("ab")),
        ("$4\r\n\r\n\r\n\r\n", bulk("\r\n\r\n")),
        ("$0\r\n\r\n", bulk("")),
        ("$-1\r\n", Value::Null),
        ("*-1\r\n", Value::Null),
        ("_\r\n", Value::Null),
        ("*0\r\n", Value::Array(vec![])),
        ("*2\r\n*1\r\n:1\r\n$1\r\na\r\n", {
            Value::Array(vec![Value::Array(vec![Value::Integer(1)]), bulk("a")])
        }),
        ("%1\r\n$1\r\na\r\n:1\r\n", Value::Map(vec![(bulk("a"), Value::Integer(1))])),
        ("%0\r\n", Value::Map(vec![])),
        ("~1\r\n#t\r\n", Value::Set(vec![Value::Boolean(true)])),
        (">1\r\n#f\r\n", Value::Push(vec![Value::Boolean(false)])),
        (",3.25\r\n", Value::Double(3.25)),
        (",1e+17\r\n", Value::Double(1e17)),
        (",-inf\r\n", Value::Double(f64::NEG_INFINITY)),
        ("(-123456789012345678901\r\n", {
            Value::BigNumber(Bytes::from_static(b"-123456789012345678901"))
        }),
        ("!6\r\nERR\r\nx\r\n", Value::Error("ERR\r\nx".into())),
        ("=8\r\ntxt:text\r\n", {
            Value::Verbatim { format: *b"txt", text: Bytes::from_static(b"text") }
        }),
        ("|1\r\n+ttl\r\n:3\r\n:7\r\n", Value::Integer(7)),
        ("*2\r\n|0\r\n:1\r\n|1\r\n+a\r\n*1\r\n:9\r\n:2\r\n", {
            Value::Array(vec![Value::Integer(1), Value::Integer(2)])
        }),
    ];
    for (bytes, expected) in &table {
        let decoded = decode(bytes.as_bytes(), ReplyLimits::DEFAULT);
        assert_eq!(decoded, (vec![expected.clone()], None), "{bytes:?}");
    }
    let all: String = table.iter().map(|(bytes, _)| *bytes).collect();
    let expected: Vec<Value> = table.into_iter().map(|(_, value)| value).collect();
    assert_eq!(decode(all.as_bytes(), ReplyLimits::DEFAULT), (expected, None));
}

#[test]
fn what_is_no_reply_is_refused() {
    for bytes in [
        "x\r\n",
        "\r\n",
        "\n",
        "+OK\n",
        ":\r\n",
        ":x\r\n",
        ":01\r\n",
        "$-2\r\n",
        "$x\r\n",
        "$?\r\n",
        "*-2\r\n",
        "*?\r\n",
        "%-1\r\n",
        "_x\r\n",
        "#\r\n",
        "#x\r\n",
        ",\r\n",
        ",x\r\n",
        "(\r\n",
        "(1x\r\n",
        "=3\r\ntxt\r\n",
        "=4\r\ntxtx\r\n",
        "=-1\r\n",
        "$1\r\nabc",
        "$9223372036854775808\r\n",
        "HTTP/1.1 400 Bad Request\r\n",
    ] {
        let (replies, error) = decode(bytes.as_bytes(), ReplyLimits::DEFAULT);
        assert!(matches!(error, Some(ProtocolError::InvalidReply { .. })), "{bytes:?} {replies:?}");
    }
}

#[test]
fn depth_is_bounded_at_the_limit_and_one_beyond() {
    let nested = |depth: usize| format!("{}:1\r\n", "*1\r\n".repeat(depth));
    let limits = ReplyLimits::DEFAULT;
    for (depth, refused) in [(31, false), (32, false), (33, true), (100_000, true)] {
        let expected = refused.then_some(ProtocolError::TooDeepReply { depth_max: 32 });
        assert_eq!(decode(nested(depth).as_bytes(), limits).1, expected, "{depth}");
    }
}

#[test]
fn elements_are_bounded_when_declared_at_the_limit_and_one_beyond() {
    let limits = ReplyLimits { elements_max: 10, ..ReplyLimits::DEFAULT };
    for (declared, refused) in [
        ("*8", false),
        ("*9", false),
        ("*10", true),
        ("%4", false),
        ("%5", true),
        ("|5", true),
        ("%9223372036854775807", true),
    ] {
        let expected = refused.then_some(ProtocolError::TooManyElements { elements_max: 10 });
        let bytes = format!("{declared}\r\n");
        assert_eq!(decode(bytes.as_bytes(), limits).1, expected, "{declared}");
    }
    let attributes = "|1\r\n+a\r\n+b\r\n".repeat(4);
    assert!(decode(attributes.as_bytes(), limits).1.is_some());
    assert_eq!(decode(":1\r\n".repeat(50).as_bytes(), limits).0.len(), 50);
}

#[test]
fn bytes_are_bounded_when_declared_at_the_limit_and_one_beyond() {
    let limits = ReplyLimits { bytes_max: 100, ..ReplyLimits::DEFAULT };
    let beyond = Some(ProtocolError::TooBigReply { bytes_max: 100 });
    for (length, refused) in [(92, false), (93, false), (94, true), (1_000_000, true)] {
        let bytes = format!("${length}\r\n");
        assert_eq!(decode(bytes.as_bytes(), limits).1.is_some(), refused, "{length}");
    }
    for (text, refused) in [(96, false), (97, false), (98, true)] {
        let bytes = format!("+{}\r\n", "t".repeat(text));
        let expected = if refused { beyond.clone() } else { None };
        assert_eq!(decode(bytes.as_bytes(), limits).1, expected, "{text}");
    }
    let two = |text: usize| format!("*2\r\n$40\r\n{}\r\n${text}\r\n", "t".repeat(40));
    assert_eq!(decode(two(42).as_bytes(), limits).1, None);
    assert_eq!(decode(two(43).as_bytes(), limits).1, beyond);
    let endless = "+".repeat(101);
    assert_eq!(decode(endless.as_bytes(), limits).1, beyond);
}

fn value() -> impl Strategy<Value = Value> {
    let text = || prop::collection::vec(any::<u8>(), 0..30).prop_map(Bytes::from);
    let leaf = prop_oneof![
        "[ -~]{0,20}".prop_map(|text| Value::Simple(text.into())),
        "[ -~]{0,20}".prop_map(Value::Error),
        any::<i64>().prop_map(Value::Integer),
        text().prop_map(Value::Bulk),
        Just(Value::Null),
        any::<f64>()
            .prop_filter("NaN is not equal to itself", |value| !value.is_nan())
            .prop_map(Value::Double),
        any::<bool>().prop_map(Value::Boolean),
        "\\PC{0,20}".prop_map(|text| Value::Verbatim { format: *b"txt", text: text.into() }),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        let values = || prop::collection::vec(inner.clone(), 0..6);
        prop_oneof![
            values().prop_map(Value::Array),
            values().prop_map(Value::Set),
            values().prop_map(Value::Push),
            prop::collection::vec((inner.clone(), inner.clone()), 0..4).prop_map(Value::Map),
        ]
    })
}

fn write(writer: &mut ReplyWriter<'_>, value: &Value) {
    match value {
        Value::Simple(text) => {
            writer.simple(std::str::from_utf8(text).expect("generated from a string"))
        }
        Value::Error(message) => writer.error(message),
        Value::Integer(value) => writer.integer(*value),
        Value::Bulk(bytes) => writer.bulk(bytes),
        Value::Null => writer.null(),
        Value::Double(value) => writer.double(*value),
        Value::Boolean(value) => writer.boolean(*value),
        Value::Verbatim { text, .. } => {
            writer.verbatim(std::str::from_utf8(text).expect("generated from a string"))
        }
        Value::Map(pairs) => {
            writer.map(pairs.len());
            for (key, value) in pairs {
                write(writer, key);
                write(writer, value);
            }
        }
        Value::Array(values) | Value::Set(values) | Value::Push(values) => {
            match value {
                Value::Array(_) => writer.array(values.len()),
                Value::Set(_) => writer.set(values.len()),
                _ => writer.push(values.len()),
            }
            for value in values {
                write(writer, value);
            }
        }
        other => panic!("not generated: {other:?}"),
    }
}

proptest! {
    // A failing case is printed whole; there is no file of them beside an integration test.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_written_is_read_however_it_arrives(
        values in prop::collection::vec(value(), 1..6),
        lengths in prop::collection::vec(1_usize..60, 1..8),
    ) {
        let mut out = Replies::default();
        let mut writer = ReplyWriter::new(&mut out, Protocol::Resp3);
        for value in &values {
            write(&mut writer, value);
        }
        let decoded = decode_reply_pieces(pieces(&out.to_vec(), &lengths), ReplyLimits::DEFAULT);
        prop_assert_eq!(decoded, (values, None));
    }

    #[test]
    fn random_bytes_never_go_beyond_the_limits(
        bytes in "[*%~>|$!=+:_#,(0-9a-z\r\n-]{0,80}",
        lengths in prop::collection::vec(1_usize..20, 1..8),
    ) {
        let at_once = decode_reply_pieces([bytes.as_bytes()], SMALL_REPLIES);
        let in_pieces = decode_reply_pieces(pieces(bytes.as_bytes(), &lengths), SMALL_REPLIES);
        prop_assert_eq!(format!("{at_once:?}"), format!("{in_pieces:?}"));
    }
}
