//! The tuning parameters of Redis that mean nothing here: CONFIG SET accepts and remembers them,
//! checked as Redis checks them, so that tools which set them work; CONFIG GET answers them.
//!
//! Names, kinds, bounds and defaults are those of Redis 7.0.15. `appendonly` and `appendfsync`
//! start as what the log does whatever they say.

use std::borrow::Cow;

use Kind::{Alias, Bytes, Immutable, Integer, OneOf, SavePoints, Text, YesNo};

/// A value that is remembered as it was written: as long as the node runs, and no part of what
/// requests and replies may take.
pub const TEXT_BYTES_MAX: usize = 1 << 10;

const I32_MAX: i64 = i32::MAX as i64;
const I32_MIN: i64 = i32::MIN as i64;

/// What values a parameter takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Another name of the parameter that it names.
    Alias(&'static str),
    /// A number of bytes, with a unit or without.
    Bytes,
    /// Cannot be set.
    Immutable,
    /// An integer between two bounds, both included.
    Integer(i64, i64),
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// Pairs of seconds and changes, or nothing.
    SavePoints,
    /// Anything.
    Text,
    /// `yes` or `no`.
    YesNo,
}

impl Kind {
    /// The value as it is remembered and answered.
    ///
    /// # Errors
    /// Redis' reason for refusing it; or that it is longer than is remembered.
    pub fn accept(self, value: &str) -> Result<String, Cow<'static, str>> {
        match self {
            Alias(_) | Text => expect_short(value.to_owned()),
            Bytes => bytes(value)
                .map(|count| count.to_string())
                .ok_or_else(|| "argument must be a memory value".into()),
            Immutable => Err("can't set immutable config".into()),
            Integer(least, most) => integer(value, least, most),
            OneOf(words) => one_of(value, words),
            SavePoints => save_points(value).and_then(expect_short),
            YesNo => match value.to_ascii_lowercase().as_str() {
                word @ ("yes" | "no") => Ok(word.to_owned()),
                _ => Err("argument must be 'yes' or 'no'".into()),
            },
        }
    }
}

fn expect_short(value: String) -> Result<String, Cow<'static, str>> {
    let bytes = value.len();
    if bytes > TEXT_BYTES_MAX {
        return Err(format!(
            "a value of {bytes} bytes is larger than the limit of {TEXT_BYTES_MAX}"
        )
        .into());
    }
    Ok(value)
}

fn integer(value: &str, least: i64, most: i64) -> Result<String, Cow<'static, str>> {
    let canonical = value.parse::<i64>().ok().filter(|number| number.to_string() == value);
    let Some(number) = canonical else {
        return Err("argument couldn't be parsed into an integer".into());
    };
    if (least..=most).contains(&number) {
        Ok(number.to_string())
    } else {
        Err(format!("argument must be between {least} and {most} inclusive").into())
    }
}

fn one_of(value: &str, words: &[&str]) -> Result<String, Cow<'static, str>> {
    match words.iter().find(|word| word.eq_ignore_ascii_case(value)) {
        Some(word) => Ok((*word).to_owned()),
        None => {
            let words = words.join(", ");
            Err(format!("argument(s) must be one of the following: {words}").into())
        }
    }
}

fn save_points(value: &str) -> Result<String, Cow<'static, str>> {
    let numbers: Vec<&str> = value.split_ascii_whitespace().collect();
    let valid = |pair: &[&str]| match pair {
        [seconds, changes] => {
            seconds.parse::<u32>().is_ok_and(|seconds| seconds >= 1)
                && changes.parse::<u32>().is_ok()
        }
        _ => false,
    };
    if numbers.chunks(2).all(valid) {
        Ok(numbers.join(" "))
    } else {
        Err("Invalid save parameters".into())
    }
}

/// A number of bytes in Redis' notation: `k`, `m` and `g` are powers of 1000, `kb`, `mb` and `gb`
/// of 1024.
fn bytes(value: &str) -> Option<u64> {
    let digits = value.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = value.split_at(digits);
    let scale = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" => 1_000,
        "kb" => 1 << 10,
        "m" => 1_000_000,
        "mb" => 1 << 20,
        "g" => 1_000_000_000,
        "gb" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(scale)
}

/// The parameter with this name, whatever its case; an alias is followed.
pub fn find(name: &str) -> Option<(&'static str, Kind, &'static str)> {
    let name = name.to_ascii_lowercase();
    let position = TUNING.binary_search_by_key(&name.as_str(), |row| row.0).ok()?;
    match TUNING[position] {
        (_, Alias(other), _) => find(other),
        row => Some(row),
    }
}

/// Name, kind and default of every parameter, by name.
#[rustfmt::skip]
pub static TUNING: &[(&str, Kind, &str)] = &[
    ("acl-pubsub-default", OneOf(&["allchannels", "resetchannels"]), "resetchannels"),
    ("acllog-max-len", Integer(0, i64::MAX), "128"),
    ("active-defrag-cycle-max", Integer(1, 99), "25"),
    ("active-defrag-cycle-min", Integer(1, 99), "1"),
    ("active-defrag-ignore-bytes", Bytes, "104857600"),
    ("active-defrag-max-scan-fields", Integer(1, i64::MAX), "1000"),
    ("active-defrag-threshold-lower", Integer(0, 1000), "10"),
    ("active-defrag-threshold-upper", Integer(0, 1000), "100"),
    ("active-expire-effort", Integer(1, 10), "1"),
    ("activedefrag", YesNo, "no"),
    ("activerehashing", YesNo, "yes"),
    ("aof-disable-auto-gc", YesNo, "no"),
    ("aof-load-truncated", YesNo, "yes"),
    ("aof-rewrite-incremental-fsync", YesNo, "yes"),
    ("aof-timestamp-enabled", YesNo, "no"),
    ("appenddirname", Immutable, "appendonlydir"),
    ("appendfilename", Immutable, "appendonly.aof"),
    ("appendfsync", OneOf(&["everysec", "always", "no"]), "always"),
    ("appendonly", YesNo, "yes"),
    ("auto-aof-rewrite-min-size", Bytes, "67108864"),
    ("auto-aof-rewrite-percentage", Integer(0, I32_MAX), "100"),
    ("busy-reply-threshold", Integer(0, i64::MAX), "5000"),
    ("client-output-buffer-limit", Text, "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60"),
    ("client-query-buffer-limit", Bytes, "1073741824"),
    ("cluster-allow-pubsubshard-when-down", YesNo, "yes"),
    ("cluster-allow-reads-when-down", YesNo, "no"),
    ("cluster-allow-replica-migration", YesNo, "yes"),
    ("cluster-enabled", Immutable, "no"),
    ("cluster-link-sendbuf-limit", Bytes, "0"),
    ("cluster-migration-barrier", Integer(0, I32_MAX), "1"),
    ("cluster-node-timeout", Integer(0, i64::MAX), "15000"),
    ("cluster-preferred-endpoint-type", OneOf(&["ip", "hostname", "unknown-endpoint"]), "ip"),
    ("cluster-replica-no-failover", YesNo, "no"),
    ("cluster-replica-validity-factor", Integer(0, I32_MAX), "10"),
    ("cluster-require-full-coverage", YesNo, "yes"),
    ("cluster-slave-no-failover", Alias("cluster-replica-no-failover"), ""),
    ("cluster-slave-validity-factor", Alias("cluster-replica-validity-factor"), ""),
    ("crash-log-enabled", YesNo, "yes"),
    ("crash-memcheck-enabled", YesNo, "yes"),
    ("daemonize", Immutable, "no"),
    ("databases", Immutable, "1"),
    ("dbfilename", Immutable, "dump.rdb"),
    ("disable-thp", Immutable, "yes"),
    ("dynamic-hz", YesNo, "yes"),
    ("hash-max-listpack-entries", Integer(0, i64::MAX), "512"),
    ("hash-max-listpack-value", Bytes, "64"),
    ("hash-max-ziplist-entries", Alias("hash-max-listpack-entries"), ""),
    ("hash-max-ziplist-value", Alias("hash-max-listpack-value"), ""),
    ("hll-sparse-max-bytes", Bytes, "3000"),
    ("hz", Integer(0, I32_MAX), "10"),
    ("io-threads", Immutable, "1"),
    ("jemalloc-bg-thread", YesNo, "yes"),
    ("latency-monitor-threshold", Integer(0, i64::MAX), "0"),
    ("latency-tracking", YesNo, "yes"),
    ("lazyfree-lazy-eviction", YesNo, "no"),
    ("lazyfree-lazy-expire", YesNo, "no"),
    ("lazyfree-lazy-server-del", YesNo, "no"),
    ("lazyfree-lazy-user-del", YesNo, "no"),
    ("lazyfree-lazy-user-flush", YesNo, "no"),
    ("lfu-decay-time", Integer(0, I32_MAX), "1"),
    ("lfu-log-factor", Integer(0, I32_MAX), "10"),
    ("list-compress-depth", Integer(0, I32_MAX), "0"),
    ("list-max-listpack-size", Integer(I32_MIN, I32_MAX), "-2"),
    ("list-max-ziplist-size", Alias("list-max-listpack-size"), ""),
    ("logfile", Immutable, ""),
    ("loglevel", OneOf(&["debug", "verbose", "notice", "warning"]), "notice"),
    ("lua-time-limit", Alias("busy-reply-threshold"), ""),
    ("maxmemory", Bytes, "0"),
    ("maxmemory-clients", Bytes, "0"),
    ("maxmemory-eviction-tenacity", Integer(0, 100), "10"),
    ("maxmemory-policy", OneOf(&["volatile-lru", "volatile-lfu", "volatile-random", "volatile-ttl", "allkeys-lru", "allkeys-lfu", "allkeys-random", "noeviction"]), "noeviction"),
    ("maxmemory-samples", Integer(1, I32_MAX), "5"),
    ("min-replicas-max-lag", Integer(0, I32_MAX), "10"),
    ("min-replicas-to-write", Integer(0, I32_MAX), "0"),
    ("min-slaves-max-lag", Alias("min-replicas-max-lag"), ""),
    ("min-slaves-to-write", Alias("min-replicas-to-write"), ""),
    ("no-appendfsync-on-rewrite", YesNo, "no"),
    ("notify-keyspace-events", Text, ""),
    ("oom-score-adj", OneOf(&["no", "yes", "relative", "absolute"]), "no"),
    ("oom-score-adj-values", Text, "0 200 800"),
    ("pidfile", Immutable, ""),
    ("propagation-error-behavior", OneOf(&["ignore", "panic", "panic-on-replicas"]), "ignore"),
    ("protected-mode", YesNo, "yes"),
    ("proto-max-bulk-len", Bytes, "536870912"),
    ("rdb-del-sync-files", YesNo, "no"),
    ("rdb-save-incremental-fsync", YesNo, "yes"),
    ("rdbchecksum", Immutable, "yes"),
    ("rdbcompression", YesNo, "yes"),
    ("repl-backlog-size", Bytes, "1048576"),
    ("repl-backlog-ttl", Integer(0, i64::MAX), "3600"),
    ("repl-disable-tcp-nodelay", YesNo, "no"),
    ("repl-diskless-load", OneOf(&["disabled", "on-empty-db", "swapdb"]), "disabled"),
    ("repl-diskless-sync", YesNo, "yes"),
    ("repl-diskless-sync-delay", Integer(0, I32_MAX), "5"),
    ("repl-diskless-sync-max-replicas", Integer(0, I32_MAX), "0"),
    ("repl-ping-replica-period", Integer(1, I32_MAX), "10"),
    ("repl-ping-slave-period", Alias("repl-ping-replica-period"), ""),
    ("repl-timeout", Integer(1, I32_MAX), "60"),
    ("replica-ignore-disk-write-errors", YesNo, "no"),
    ("replica-ignore-maxmemory", YesNo, "yes"),
    ("replica-lazy-flush", YesNo, "no"),
    ("replica-priority", Integer(0, I32_MAX), "100"),
    ("replica-read-only", YesNo, "yes"),
    ("replica-serve-stale-data", YesNo, "yes"),
    ("sanitize-dump-payload", OneOf(&["no", "yes", "clients"]), "no"),
    ("save", SavePoints, ""),
    ("set-max-intset-entries", Integer(0, i64::MAX), "512"),
    ("shutdown-on-sigint", OneOf(&["default", "save", "nosave", "now", "force"]), "default"),
    ("shutdown-on-sigterm", OneOf(&["default", "save", "nosave", "now", "force"]), "default"),
    ("shutdown-timeout", Integer(0, I32_MAX), "10"),
    ("slave-ignore-maxmemory", Alias("replica-ignore-maxmemory"), ""),
    ("slave-lazy-flush", Alias("replica-lazy-flush"), ""),
    ("slave-priority", Alias("replica-priority"), ""),
    ("slave-read-only", Alias("replica-read-only"), ""),
    ("slave-serve-stale-data", Alias("replica-serve-stale-data"), ""),
    ("slowlog-log-slower-than", Integer(-1, i64::MAX), "10000"),
    ("slowlog-max-len", Integer(0, i64::MAX), "128"),
    ("stop-writes-on-bgsave-error", YesNo, "yes"),
    ("stream-node-max-bytes", Bytes, "4096"),
    ("stream-node-max-entries", Integer(0, i64::MAX), "100"),
    ("supervised", Immutable, "no"),
    ("tcp-backlog", Immutable, "511"),
    ("tcp-keepalive", Integer(0, I32_MAX), "300"),
    ("timeout", Integer(0, I32_MAX), "0"),
    ("tracking-table-max-keys", Integer(0, i64::MAX), "1000000"),
    ("unixsocket", Immutable, ""),
    ("zset-max-listpack-entries", Integer(0, i64::MAX), "128"),
    ("zset-max-listpack-value", Bytes, "64"),
    ("zset-max-ziplist-entries", Alias("zset-max-listpack-entries"), ""),
    ("zset-max-ziplist-value", Alias("zset-max-listpack-value"), ""),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_its_defaults_are_values_that_it_accepts() {
        assert!(TUNING.is_sorted_by(|one, next| one.0 < next.0));
        for &(name, kind, default) in TUNING {
            match kind {
                Alias(_) => assert!(find(name).is_some(), "{name}"),
                Immutable => {}
                _ => assert_eq!(kind.accept(default).as_deref(), Ok(default), "{name}"),
            }
        }
    }

    #[test]
    fn an_alias_leads_to_the_parameter_it_names() {
        assert_eq!(find("Hash-Max-Ziplist-Entries"), find("hash-max-listpack-entries"));
        assert!(find("no-such-parameter").is_none());
    }

    #[test]
    fn values_are_refused_in_redis_words() {
        let refusal = |name: &str, value: &str| {
            let (_, kind, _) = find(name).expect("the parameter is in the table");
            kind.accept(value).expect_err("the value is refused").into_owned()
        };
        assert_eq!(refusal("maxmemory", "-1"), "argument must be a memory value");
        assert_eq!(refusal("appendonly", "maybe"), "argument must be 'yes' or 'no'");
        assert_eq!(
            refusal("hash-max-listpack-entries", "-1"),
            "argument must be between 0 and 9223372036854775807 inclusive"
        );
        assert_eq!(refusal("hz", "1e3"), "argument couldn't be parsed into an integer");
        assert_eq!(refusal("save", "60"), "Invalid save parameters");
        assert_eq!(
            refusal("appendfsync", "x"),
            "argument(s) must be one of the following: everysec, always, no"
        );
    }

    #[test]
    fn a_value_may_be_as_long_as_its_bound_and_no_longer() {
        let too_long = "a value of 1025 bytes is larger than the limit of 1024";
        let texts = TUNING.iter().filter(|(_, kind, _)| *kind == Text);
        for &(name, kind, _) in texts {
            let text = |bytes: usize| kind.accept(&"x".repeat(bytes)).map(|text| text.len());
            assert_eq!(text(TEXT_BYTES_MAX - 1), Ok(TEXT_BYTES_MAX - 1), "{name}");
            assert_eq!(text(TEXT_BYTES_MAX), Ok(TEXT_BYTES_MAX), "{name}");
            assert_eq!(text(TEXT_BYTES_MAX + 1), Err(too_long.into()), "{name}");
        }
        // 256 pairs of three bytes, with a space between two of them.
        let pairs = vec!["1 1"; (TEXT_BYTES_MAX + 1) / 4].join(" ");
        let saves = |first: &str| SavePoints.accept(&pairs.replacen("1 1", first, 1));
        assert_eq!(saves("1 1").map(|value| value.len()), Ok(TEXT_BYTES_MAX - 1));
        assert_eq!(saves("1 11").map(|value| value.len()), Ok(TEXT_BYTES_MAX));
        assert_eq!(saves("11 11"), Err(too_long.into()));
    }

    #[test]
    fn bytes_take_decimal_and_binary_units_and_never_overflow() {
        assert_eq!(bytes("1mb"), Some(1 << 20));
        assert_eq!(bytes("2K"), Some(2_000));
        assert_eq!(bytes("99999999999999999999"), None);
        assert_eq!(bytes("99999999999999gb"), None);
        assert_eq!(bytes("mb"), None);
    }
}
