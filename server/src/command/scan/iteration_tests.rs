//! Full iterations over a real store: nothing is left out, whatever COUNT, rows in flight, forgotten
//! cursors or other clients.

use std::collections::BTreeSet;

use larder_resp::Value;

use super::{
    FOUND_OVERHEAD_BYTES, Pattern, TOO_MANY_KEYS,
    cursors::{held, unit_of},
    fixture::Fixture,
    matching_keys,
};

/// Keys of one tag, and so of one unit.
const TAGGED_KEYS: usize = 1_500;
const SPREAD_KEYS: usize = 1_500;

/// Half of the rows folded into RocksDB, half in flight, some of both in one large unit; and one
/// key each that is deleted or expired in flight.
fn filled() -> (Fixture, BTreeSet<String>) {
    let mut fixture = Fixture::new();
    let mut keys = BTreeSet::new();
    for half in 0..2 {
        for number in (half..TAGGED_KEYS).step_by(2) {
            keys.insert(format!("{{tag}}{number}"));
        }
        for number in (half..SPREAD_KEYS).step_by(2) {
            keys.insert(format!("key:{number}"));
        }
        for key in &keys {
            fixture.run(&["SET", key, "value"]);
        }
        fixture.words("HSET hash field value");
        fixture.words("SET deleted value");
        fixture.words("SET expired value PX 1");
        if half == 0 {
            fixture.fold();
        }
    }
    fixture.words("DEL deleted");
    fixture.now_ms += 1;
    keys.insert("hash".to_owned());
    (fixture, keys)
}

fn text(value: &Value) -> String {
    String::from_utf8(value.as_bytes().unwrap().to_vec()).unwrap()
}

/// Cursor and keys of one call.
fn page(reply: &Value) -> (String, Vec<String>) {
    let [cursor, keys] = reply.as_values().unwrap() else { panic!("{reply:?}") };
    (text(cursor), keys.as_values().unwrap().iter().map(text).collect())
}

fn iterate(fixture: &mut Fixture, options: &str) -> Vec<String> {
    let (mut cursor, mut found) = ("0".to_owned(), Vec::new());
    for _ in 0..10_000 {
        let (next, keys) = page(&fixture.words(&format!("SCAN {cursor}{options}")));
        found.extend(keys);
        if next == "0" {
            return found;
        }
        assert!(next.parse::<u64>().unwrap() < 1 << 53);
        cursor = next;
    }
    panic!("SCAN{options} does not end");
}

#[test]
fn every_key_is_answered_once_whatever_count_says() {
    let (mut fixture, keys) = filled();
    for options in ["", " COUNT 1", " COUNT 7", " COUNT 100", " COUNT 1000", " COUNT 1000000000"] {
        let found = iterate(&mut fixture, options);
        assert_eq!(found.len(), keys.len(), "SCAN{options}");
        assert_eq!(BTreeSet::from_iter(found), keys, "SCAN{options}");
    }
}

#[test]
fn match_and_type_filter_what_is_answered() {
    let (mut fixture, keys) = filled();
    let found = iterate(&mut fixture, " MATCH key:*9 COUNT 50");
    let expected = keys.iter().filter(|key| key.starts_with("key:") && key.ends_with('9'));
    assert_eq!(BTreeSet::from_iter(&found), expected.collect());
    assert_eq!(iterate(&mut fixture, " TYPE HASH"), ["hash"]);
    assert_eq!(iterate(&mut fixture, " TYPE zset COUNT 500"), [""; 0]);
}

#[test]
fn forgotten_cursors_answer_keys_again_and_leave_none_out() {
    let (mut fixture, keys) = filled();
    let mut cursor = "0".to_owned();
    let mut found = BTreeSet::new();
    let mut inside_a_unit = 0;
    loop {
        let count = if inside_a_unit < 3 { 100 } else { 5_000 };
        let (next, keys) = page(&fixture.words(&format!("SCAN {cursor} COUNT {count}")));
        found.extend(keys);
        if next == "0" {
            break;
        }
        let unit = unit_of(next.parse().unwrap());
        inside_a_unit += usize::from(next != unit.to_string());
        // What is left of a cursor whose id is not known any more.
        cursor = unit.to_string();
    }
    assert!(inside_a_unit >= 3, "no call stopped within the large unit");
    assert_eq!(found, keys);
}

/// Fields of a hash that HSCAN does not answer whole.
const FIELDS: usize = 600;

fn hash() -> Fixture {
    let mut fixture = Fixture::new();
    let fields = (0..FIELDS).map(|number| format!(" field:{number} value"));
    fixture.words(&format!("HSET big{}", fields.collect::<String>()));
    fixture
}

/// Runs `work` as a connection of its own would.
fn as_another_client(
    mut fixture: Fixture,
    work: impl FnOnce(&mut Fixture) + Send + 'static,
) -> Fixture {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let working = runtime.spawn(async move {
        work(&mut fixture);
        fixture
    });
    runtime.block_on(working).unwrap()
}

#[test]
fn a_client_that_begins_scans_without_end_does_not_keep_another_from_ending_its_own() {
    let mut fixture = hash();
    let (mut cursor, mut found) = ("0".to_owned(), 0);
    for _ in 0..10 {
        let (next, elements) = page(&fixture.words(&format!("HSCAN big {cursor} COUNT 200")));
        found += elements.len() / 2;
        cursor = next;
        if cursor == "0" {
            break;
        }
        fixture = as_another_client(fixture, |fixture| {
            for _ in 0..5_000 {
                assert_ne!(page(&fixture.words("HSCAN big 0 COUNT 1")).0, "0");
            }
        });
    }
    assert_eq!((cursor.as_str(), found), ("0", FIELDS));
}

#[test]
fn a_scan_has_two_places_whatever_it_has_passed_and_none_once_it_has_ended() {
    let mut fixture = hash();
    for number in 0..TAGGED_KEYS {
        fixture.run(&["SET", &format!("{{tag:{}}}{number}", number % 50), "value"]);
    }
    as_another_client(fixture, |fixture| {
        for scan in ["SCAN", "HSCAN big"] {
            let (mut cursor, mut most) = ("0".to_owned(), 0);
            loop {
                cursor = page(&fixture.words(&format!("{scan} {cursor} COUNT 7"))).0;
                most = most.max(held());
                if cursor == "0" {
                    break;
                }
            }
            assert_eq!((most, held()), (2, 0), "{scan}");
        }
        let cursor = page(&fixture.words("HSCAN big 0 COUNT 7")).0;
        fixture.words("DEL big");
        assert_eq!(
            (page(&fixture.words(&format!("HSCAN big {cursor}"))).0.as_str(), held()),
            ("0", 0)
        );
    });
}

#[test]
fn a_cursor_works_from_every_connection() {
    let mut fixture = hash();
    let (cursor, elements) = page(&fixture.words("HSCAN big 0 COUNT 599"));
    assert_eq!(elements.len(), 2 * (FIELDS - 1));
    as_another_client(fixture, move |fixture| {
        let (end, elements) = page(&fixture.words(&format!("HSCAN big {cursor} COUNT 599")));
        assert_eq!((end.as_str(), elements.len()), ("0", 2));
    });
}

#[test]
fn keys_answers_what_matches_and_randomkey_what_is_there() {
    let (mut fixture, keys) = filled();
    let all: BTreeSet<_> = fixture.words("KEYS *").as_values().unwrap().iter().map(text).collect();
    assert_eq!(all, keys);
    let some = fixture.words("KEYS {tag}1[0-4]?");
    assert_eq!(some.as_values().unwrap().len(), 50);
    let random: BTreeSet<_> = (0..100).map(|_| text(&fixture.words("RANDOMKEY"))).collect();
    assert!(random.is_subset(&keys) && random.len() > 5, "{random:?}");
    fixture.words("FLUSHALL");
    assert!(fixture.words("RANDOMKEY").is_null());
    assert_eq!(fixture.words("KEYS *").as_values().unwrap().len(), 0);
    assert_eq!(page(&fixture.words("SCAN 0")), ("0".to_owned(), vec![]));
}

#[test]
fn keys_that_take_more_than_their_bound_are_refused() {
    let mut fixture = Fixture::new();
    for key in ["a1", "a2", "other"] {
        fixture.run(&["SET", key, "value"]);
    }
    let takes = 2 * (2 + FOUND_OVERHEAD_BYTES);
    let within = |bytes_max: usize| {
        let pattern = Pattern::new(b"a*");
        let found = matching_keys(&fixture.view(), pattern, bytes_max);
        found.map(|found| found.ends.len()).map_err(|refusal| refusal.to_string())
    };
    for bytes_max in [takes + 1, takes] {
        assert_eq!(within(bytes_max), Ok(2));
    }
    assert_eq!(within(takes - 1), Err(TOO_MANY_KEYS.to_string()));
}

#[test]
fn a_pattern_that_takes_too_long_is_refused() {
    let mut fixture = Fixture::new();
    let key = "a".repeat(60_000);
    fixture.run(&["SET", &key, "value"]);
    let pattern = format!("*{}b", "a".repeat(4_000));
    for request in [vec!["SCAN", "0", "MATCH", &pattern], vec!["KEYS", &pattern]] {
        let refusal = fixture.run(&request);
        assert!(refusal.as_error().unwrap().contains("too many steps"), "{refusal:?}");
    }
}
