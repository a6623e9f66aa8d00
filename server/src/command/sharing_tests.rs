//! Which values a reply shares with the store, and which it copies.

use larder_resp::Replies;

use super::{REPLY_BYTES_MAX, SHARED_BYTES_MIN, scan::fixture::Fixture};

const COMMANDS: [&str; 14] = [
    "GET key",
    "MGET absent key hash",
    "GETRANGE key 0 -1",
    "GETSET key other",
    "GETEX key PERSIST",
    "SET key other GET",
    "GETDEL key",
    "KV.GETV key",
    "HGET hash field",
    "HMGET hash absent field",
    "HVALS hash",
    "HGETALL hash",
    "HSCAN hash 0",
    "HRANDFIELD hash 1 WITHVALUES",
];

fn replies(fixture: &mut Fixture, command: &str) -> Replies {
    fixture.replies(REPLY_BYTES_MAX, &command.split(' ').collect::<Vec<_>>())
}

/// A copy has the length of the value before it in the same piece.
fn is_shared(replies: &Replies, value: &[u8]) -> bool {
    let sent = replies.to_vec();
    assert!(sent.windows(value.len()).any(|window| window == value));
    replies.pieces().any(|piece| piece == value)
}

#[test]
fn values_are_shared_from_the_bound_on_and_copied_below_it() {
    let mut fixture = Fixture::new();
    for bytes in [SHARED_BYTES_MIN - 1, SHARED_BYTES_MIN, SHARED_BYTES_MIN + 1] {
        let value: String =
            (0_u8..26).cycle().map(|nth| char::from(b'a' + nth)).take(bytes).collect();
        for fold in [false, true] {
            for command in COMMANDS {
                fixture.run(&["SET", "key", &value]);
                fixture.run(&["HSET", "hash", "field", &value]);
                if fold {
                    fixture.fold();
                }
                let replies = replies(&mut fixture, command);
                let is_large = bytes >= SHARED_BYTES_MIN;
                assert_eq!(is_shared(&replies, value.as_bytes()), is_large, "{command} {bytes}");
            }
        }
    }
}

#[test]
fn a_part_that_is_less_than_half_of_a_large_value_does_not_keep_all_of_it() {
    const VALUE_BYTES: usize = 100_000;
    /// What the row has beside the value, at most.
    const HEADER_BYTES: usize = 17;
    let mut fixture = Fixture::new();
    let value = "v".repeat(VALUE_BYTES);
    fixture.run(&["SET", "key", &value]);
    let half = VALUE_BYTES / 2;
    for (part, expected) in [(half - 1, false), (half + HEADER_BYTES, true)] {
        assert!(part > SHARED_BYTES_MIN);
        let replies = replies(&mut fixture, &format!("GETRANGE key 10 {}", part + 9));
        assert_eq!(is_shared(&replies, &value.as_bytes()[..part]), expected, "{part}");
    }
}
