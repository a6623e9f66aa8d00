//! Every outcome here is what redis-server 7.0.15 answered.

use crate::tuning::{TEXT_BYTES_MAX, TUNING, find};

use super::*;

/// What a parameter is after it was set for the first time, or why it is not.
fn set(name: &str, value: &str) -> Result<String, String> {
    let (_, kind, default) = find(name).expect("the parameter is in the table");
    kind.accept(value.as_bytes(), default).map_err(Cow::into_owned)
}

/// Each value with what is answered for it afterwards.
fn accepts(name: &str, outcomes: &[(&str, &str)]) {
    for &(value, answered) in outcomes {
        assert_eq!(set(name, value), Ok(answered.to_owned()), "{name} {value:?}");
    }
}

fn refuses(name: &str, reason: &str, values: &[&str]) {
    for value in values {
        assert_eq!(set(name, value), Err(reason.to_owned()), "{name} {value:?}");
    }
}

#[test]
fn a_number_of_bytes_has_a_unit_or_none() {
    accepts(
        "maxmemory",
        &[
            ("", "0"),
            ("mb", "0"),
            ("1KB", "1024"),
            ("1k", "1000"),
            ("1kb\0x", "1024"),
            ("99999999999999999999", "18446744073709551615"),
            ("17179869184gb", "0"),
            ("99999999999999gb", "14131891009335853056"),
        ],
    );
    let long = "1".repeat(DIGITS_MAX + 1);
    refuses("maxmemory", "argument must be a memory value", &["-1", "+1", "1 ", "1x", &long]);
    assert_eq!(set("maxmemory", &long[1..]), Ok(u64::MAX.to_string()));
}

#[test]
fn a_number_of_bytes_is_between_its_bounds() {
    let refusal = "argument must be between 1048576 and 9223372036854775807 inclusive";
    refuses("proto-max-bulk-len", refusal, &["0", "1048575", "9223372036854775808"]);
    accepts(
        "proto-max-bulk-len",
        &[
            ("1048576", "1048576"),
            ("1048577", "1048577"),
            ("9223372036854775807", "9223372036854775807"),
        ],
    );
}

#[test]
fn some_numbers_are_brought_between_bounds() {
    accepts("hz", &[("0", "1"), ("1", "1"), ("2", "2"), ("500", "500"), ("501", "500")]);
    refuses("hz", "argument couldn't be parsed into an integer", &["", "1\0", "-0", "01", "1e3"]);
    let sizes = [("1", "16384"), ("16383", "16384"), ("16384", "16384"), ("16385", "16385")];
    accepts("repl-backlog-size", &sizes);
    let refusal = "argument must be between 1 and 9223372036854775807 inclusive";
    refuses("repl-backlog-size", refusal, &["0", "18446744073709551615"]);
}

#[test]
fn a_percentage_is_at_most_100() {
    let name = "maxmemory-clients";
    let percents = [("5%", "5%"), ("0%", "0"), ("100%", "100%"), ("18446744073709551615", "1%")];
    accepts(name, &percents);
    let refusal = "percentage argument must be less or equal to 100";
    refuses(name, refusal, &["101%", "9223372036854775807%", "9223372036854775808"]);
    let refusal = "argument must be a memory or percent value";
    refuses(name, refusal, &["%", "1%%", "-1%", "01%", "+5%", "-0%"]);
}

#[test]
fn save_points_are_pairs_of_numbers_between_single_spaces() {
    accepts(
        "save",
        &[
            ("", ""),
            ("60 0", "60 0"),
            ("060 +1 1 2", "60 1 1 2"),
            ("9223372036854775808 1", "9223372036854775807 1"),
            ("1 2147483648", "1 -2147483648"),
            ("60 1\0", "60 1"),
        ],
    );
    let bad =
        ["60", "60  1", " 60 1", "60 1 ", "0 1", "-1 1", "1 -1", "a 1", "60\t1", "1.5 1", " "];
    refuses("save", "Invalid save parameters", &bad);
}

#[test]
fn limits_of_buffers_are_changed_for_the_classes_that_are_named() {
    let name = "client-output-buffer-limit";
    accepts(
        name,
        &[
            ("", "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60"),
            (
                "replica 1mb 512kb 60 PUBSUB 1 2 +3",
                "normal 0 0 0 slave 1048576 524288 60 pubsub 1 2 3",
            ),
            (
                "normal 0 0 0 normal 1 mb 4294967297",
                "normal 1 0 1 slave 268435456 67108864 60 pubsub 33554432 8388608 60",
            ),
        ],
    );
    let refusal = "Wrong number of arguments in buffer limit configuration.";
    refuses(name, refusal, &["normal", "normal 0 0", "normal 0 0 0 foo"]);
    let refusal = "Invalid client class specified in buffer limit configuration.";
    refuses(name, refusal, &["foo a b c", "master 0 0 0"]);
    let refusal = "Error in hard, soft or soft_seconds setting in buffer limit configuration.";
    refuses(name, refusal, &["normal -1 0 0", "normal 0 a 0", "normal 0 0 -1", "normal 0 0 1s"]);
    refuses(name, refusal, &["normal 0 0 2147483648"]);
}

#[test]
fn events_are_answered_in_one_order() {
    accepts(
        "notify-keyspace-events",
        &[
            ("", ""),
            ("Ex", "xE"),
            ("KEAn", "AKE"),
            ("EKg$lshzxetdm", "AKEm"),
            ("mnd", "dnm"),
            ("K\0E", "K"),
        ],
    );
    let refusal = "Invalid event class character. Use 'Ag$lshzxeKEtmdn'.";
    refuses("notify-keyspace-events", refusal, &["xyz", "K "]);
}

#[test]
fn scores_are_three_numbers() {
    accepts("oom-score-adj-values", &[("00 +1 2000", "0 1 2000"), ("-2000 0 2", "-2000 0 2")]);
    refuses("oom-score-adj-values", "wrong number of arguments", &["", "1 2", " 0  1 2"]);
    let refusal = "Invalid oom-score-adj-values, elements must be between -2000 and 2000.";
    refuses("oom-score-adj-values", refusal, &["a b c", "0 0 2001", "-2001 0 0"]);
    accepts("oom-score-adj", &[("RELATIVE", "yes"), ("absolute", "absolute"), ("no\0x", "no")]);
}

#[test]
fn words_of_a_shutdown_are_answered_in_one_order() {
    let answers = [("now NOSAVE", "nosave now"), ("default now", "now"), ("default", "default")];
    accepts("shutdown-on-sigterm", &answers);
    let refusal = "shutdown options SAVE and NOSAVE can't be used simultaneously";
    refuses("shutdown-on-sigterm", refusal, &["save nosave"]);
    let refusal = "argument(s) must be one of the following: default, save, nosave, now, force";
    refuses("shutdown-on-sigterm", refusal, &["", "now ", "now  force", "later"]);
}

#[test]
fn percentiles_are_answered_without_trailing_zeros() {
    accepts(
        "latency-tracking-info-percentiles",
        &[("", ""), ("50 99.90", "50 99.9"), (".5 1e1", "0.5 10"), ("99.9999999 -0", "100 -0")],
    );
    let refusal = "Invalid latency-tracking-info-percentiles parameters";
    refuses("latency-tracking-info-percentiles", refusal, &["nan", "50  99", "abc", "50\0"]);
    let refusal = "latency-tracking-info-percentiles parameters should sit between [0.0,100.0]";
    refuses("latency-tracking-info-percentiles", refusal, &["-0.1", "100.1", "inf"]);
}

#[test]
fn words_have_no_case_and_end_at_a_nul() {
    accepts("activerehashing", &[("YES\0x", "yes"), ("no", "no")]);
    refuses("activerehashing", "argument must be 'yes' or 'no'", &["no ", "", "1"]);
    accepts("appendfsync", &[("ALWAYS\0", "always")]);
    let refusal = "argument(s) must be one of the following: everysec, always, no";
    refuses("appendfsync", refusal, &["x", "", "always no"]);
    refuses("databases", "can't set immutable config", &["1"]);
    refuses("dbfilename", "can't set protected config", &["x"]);
}

#[test]
fn text_is_remembered_where_it_is_utf_8_and_no_longer_than_its_bound() {
    let too_long = format!("a value of 1025 bytes is larger than the limit of {TEXT_BYTES_MAX}");
    for &(name, _, _) in TUNING.iter().filter(|(_, kind, _)| *kind == Kind::Text) {
        for bytes in [TEXT_BYTES_MAX - 1, TEXT_BYTES_MAX] {
            let text = "x".repeat(bytes);
            accepts(name, &[(&text, &text)]);
        }
        refuses(name, &too_long, &[&"x".repeat(TEXT_BYTES_MAX + 1)]);
    }
    let refusal = "a value that is no UTF-8 is not remembered";
    assert_eq!(Kind::Text.accept(b"\xff", ""), Err(refusal.into()));
    // 256 pairs of three bytes, with a space between two of them.
    let pairs = vec!["1 1"; (TEXT_BYTES_MAX + 1) / 4].join(" ");
    let longer = |first: &str| pairs.replacen("1 1", first, 1);
    for accepted in [longer("1 1"), longer("1 11")] {
        accepts("save", &[(&accepted, &accepted)]);
    }
    refuses("save", &too_long, &[&longer("11 11")]);
    // Before it is read, which would take far more than its bytes.
    let spaces = " ".repeat(TEXT_BYTES_MAX + 1);
    for &(name, kind, _) in TUNING.iter().filter(|(_, kind, _)| kind.fixed().is_none()) {
        assert_eq!(kind.accept(spaces.as_bytes(), ""), Err(too_long.clone().into()), "{name}");
    }
}
