//! What a reply may not grow beyond, whatever its command asks for.

use larder_resp::Value;
use larder_storage::row::field_row;
use larder_types::HybridTime;

use super::{REPLY_BYTES_MAX, scan::fixture::Fixture};

const MIB: usize = 1 << 20;
/// The largest value, and one more of them than a reply has room for.
const VALUE_BYTES: usize = 8 * MIB;
const TOO_MANY: usize = REPLY_BYTES_MAX / VALUE_BYTES + 1;

fn is_too_large(reply: &Value) -> bool {
    reply.as_error().is_some_and(|error| error.contains("larger than 67108864 bytes"))
}

fn asking_for(command: &[&str], name: &str, times: usize) -> Vec<String> {
    let words = command.iter().copied().chain(std::iter::repeat_n(name, times));
    words.map(str::to_owned).collect()
}

fn length(reply: &Value) -> Option<usize> {
    Some(reply.as_values()?.len())
}

#[test]
fn many_times_the_same_large_value_is_refused() {
    let mut fixture = Fixture::new();
    let value = "v".repeat(VALUE_BYTES);
    fixture.run(&["SET", "key", &value]);
    fixture.run(&["HSET", "hash", "field", &value]);
    for fold in [false, true] {
        if fold {
            fixture.fold();
        }
        for command in [&["MGET"][..], &["HMGET", "hash"]] {
            let name = if command.len() == 1 { "key" } else { "field" };
            assert!(is_too_large(&fixture.run(&asking_for(command, name, TOO_MANY))));
            assert!(is_too_large(&fixture.run(&asking_for(command, name, 500_000))));
            assert_eq!(length(&fixture.run(&asking_for(command, name, 2))), Some(2));
        }
        assert!(is_too_large(&fixture.words("HRANDFIELD hash -1000 WITHVALUES")));
        assert_eq!(length(&fixture.words("HRANDFIELD hash -2 WITHVALUES")), Some(4));
    }
}

#[test]
fn a_hash_larger_than_a_reply_is_answered_in_parts_only() {
    let mut fixture = Fixture::new();
    let value = "v".repeat(VALUE_BYTES);
    for number in 0..TOO_MANY {
        fixture.run(&["HSET", "hash", &format!("field:{number}"), &value]);
        if number == TOO_MANY / 2 {
            fixture.fold();
        }
    }
    for command in ["HGETALL hash", "HVALS hash", "HRANDFIELD hash 100 WITHVALUES"] {
        assert!(is_too_large(&fixture.words(command)), "{command}");
    }
    assert_eq!(length(&fixture.words("HKEYS hash")), Some(TOO_MANY));
    assert_eq!(length(&fixture.words("HRANDFIELD hash 100")), Some(TOO_MANY));
    assert_eq!(length(&fixture.words("HRANDFIELD hash 2 WITHVALUES")), Some(4));
    assert_eq!(length(&fixture.words("HMGET hash field:1 none field:2")), Some(3));
    fixture.words("HDEL hash field:0");
    fixture.words("HDEL hash field:1");
    assert_eq!(length(&fixture.words("HVALS hash")), Some(TOO_MANY - 2));
}

#[test]
fn a_hash_of_many_small_fields_takes_more_room_than_their_bytes() {
    let mut fixture = Fixture::new();
    fixture.words("HSET hash a 1 b 2 c 3");
    let row = field_row(HybridTime::new(fixture.now_ms, 0), b"1").len();
    let (names, fields) = (3 * (1 + 48), 3 * (1 + row + 100));
    for fold in [false, true] {
        if fold {
            fixture.fold();
        }
        for (command, takes) in [("HKEYS", names), ("HVALS", fields), ("HGETALL", fields)] {
            assert!(length(&fixture.run_within(takes, &[command, "hash"])).is_some(), "{command}");
            let refused = fixture.run_within(takes - 1, &[command, "hash"]);
            assert!(is_too_large(&refused), "{command}: {refused:?}");
        }
    }
}
