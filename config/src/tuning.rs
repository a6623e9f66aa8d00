//! The tuning parameters of Redis that mean nothing here: CONFIG SET accepts and remembers them,
//! so that tools which set them work; CONFIG GET answers them.
//!
//! Names, kinds, bounds and defaults are those of Redis 7.0.15. `appendonly` and `appendfsync`
//! start as what the log does whatever they say.

pub use crate::kind::Kind;
use Kind::{
    Alias, Answered, BufferLimits, Bytes, BytesOrPercent, Clamped, Events, Immutable, Integer,
    OneOf, OomScores, Percentiles, Protected, SavePoints, ShutdownWords, Text, YesNo,
};

/// A value as it is given. What is made of it is remembered as long as the node runs, and no part of what
/// requests and replies may take.
pub const TEXT_BYTES_MAX: usize = 1 << 10;

const I32_MAX: i64 = i32::MAX as i64;
const I32_MIN: i64 = i32::MIN as i64;
/// The most of a number of bytes that Redis keeps with a sign.
const SIGNED_MAX: u64 = i64::MAX as u64;

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
    ("aclfile", Immutable, ""),
    ("acllog-max-len", Integer(0, i64::MAX), "128"),
    ("active-defrag-cycle-max", Integer(1, 99), "25"),
    ("active-defrag-cycle-min", Integer(1, 99), "1"),
    ("active-defrag-ignore-bytes", Bytes(1, SIGNED_MAX), "104857600"),
    ("active-defrag-max-scan-fields", Integer(1, i64::MAX), "1000"),
    ("active-defrag-threshold-lower", Integer(0, 1000), "10"),
    ("active-defrag-threshold-upper", Integer(0, 1000), "100"),
    ("active-expire-effort", Integer(1, 10), "1"),
    ("activedefrag", YesNo, "no"),
    ("activerehashing", YesNo, "yes"),
    ("always-show-logo", Immutable, "no"),
    ("aof-disable-auto-gc", YesNo, "no"),
    ("aof-load-truncated", YesNo, "yes"),
    ("aof-rewrite-incremental-fsync", YesNo, "yes"),
    ("aof-timestamp-enabled", YesNo, "no"),
    ("aof-use-rdb-preamble", YesNo, "yes"),
    ("aof_rewrite_cpulist", Immutable, ""),
    ("appenddirname", Immutable, "appendonlydir"),
    ("appendfilename", Immutable, "appendonly.aof"),
    ("appendfsync", OneOf(&["everysec", "always", "no"]), "always"),
    ("appendonly", YesNo, "yes"),
    ("auto-aof-rewrite-min-size", Bytes(0, SIGNED_MAX), "67108864"),
    ("auto-aof-rewrite-percentage", Integer(0, I32_MAX), "100"),
    ("bgsave_cpulist", Immutable, ""),
    ("bio_cpulist", Immutable, ""),
    ("busy-reply-threshold", Integer(0, i64::MAX), "5000"),
    ("client-output-buffer-limit", BufferLimits, "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60"),
    ("client-query-buffer-limit", Bytes(1 << 20, SIGNED_MAX), "1073741824"),
    ("cluster-allow-pubsubshard-when-down", YesNo, "yes"),
    ("cluster-allow-reads-when-down", YesNo, "no"),
    ("cluster-allow-replica-migration", YesNo, "yes"),
    ("cluster-config-file", Immutable, "nodes.conf"),
    ("cluster-enabled", Immutable, "no"),
    ("cluster-link-sendbuf-limit", Bytes(0, u64::MAX), "0"),
    ("cluster-migration-barrier", Integer(0, I32_MAX), "1"),
    ("cluster-node-timeout", Integer(0, i64::MAX), "15000"),
    ("cluster-port", Immutable, "0"),
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
    ("dbfilename", Protected, "dump.rdb"),
    ("disable-thp", Immutable, "yes"),
    ("dynamic-hz", YesNo, "yes"),
    ("enable-debug-command", Immutable, "no"),
    ("enable-module-command", Immutable, "no"),
    ("enable-protected-configs", Immutable, "no"),
    ("hash-max-listpack-entries", Integer(0, i64::MAX), "512"),
    ("hash-max-listpack-value", Bytes(0, SIGNED_MAX), "64"),
    ("hash-max-ziplist-entries", Alias("hash-max-listpack-entries"), ""),
    ("hash-max-ziplist-value", Alias("hash-max-listpack-value"), ""),
    ("hll-sparse-max-bytes", Bytes(0, SIGNED_MAX), "3000"),
    ("hz", Clamped(&Integer(0, I32_MAX), 1, 500), "10"),
    ("ignore-warnings", Text, ""),
    ("io-threads", Immutable, "1"),
    ("io-threads-do-reads", Immutable, "no"),
    ("jemalloc-bg-thread", YesNo, "yes"),
    ("latency-monitor-threshold", Integer(0, i64::MAX), "0"),
    ("latency-tracking", YesNo, "yes"),
    ("latency-tracking-info-percentiles", Percentiles, "50 99 99.9"),
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
    ("masterauth", Text, ""),
    ("masteruser", Text, ""),
    ("maxmemory", Bytes(0, u64::MAX), "0"),
    ("maxmemory-clients", BytesOrPercent, "0"),
    ("maxmemory-eviction-tenacity", Integer(0, 100), "10"),
    ("maxmemory-policy", OneOf(&["volatile-lru", "volatile-lfu", "volatile-random", "volatile-ttl", "allkeys-lru", "allkeys-lfu", "allkeys-random", "noeviction"]), "noeviction"),
    ("maxmemory-samples", Integer(1, I32_MAX), "5"),
    ("min-replicas-max-lag", Integer(0, I32_MAX), "10"),
    ("min-replicas-to-write", Integer(0, I32_MAX), "0"),
    ("min-slaves-max-lag", Alias("min-replicas-max-lag"), ""),
    ("min-slaves-to-write", Alias("min-replicas-to-write"), ""),
    ("no-appendfsync-on-rewrite", YesNo, "no"),
    ("notify-keyspace-events", Events, ""),
    ("oom-score-adj", Answered(&OneOf(&["no", "yes", "relative", "absolute"]), "relative", "yes"), "no"),
    ("oom-score-adj-values", OomScores, "0 200 800"),
    ("pidfile", Immutable, ""),
    ("propagation-error-behavior", OneOf(&["ignore", "panic", "panic-on-replicas"]), "ignore"),
    ("protected-mode", YesNo, "yes"),
    ("proto-max-bulk-len", Bytes(1 << 20, SIGNED_MAX), "536870912"),
    ("rdb-del-sync-files", YesNo, "no"),
    ("rdb-save-incremental-fsync", YesNo, "yes"),
    ("rdbchecksum", Immutable, "yes"),
    ("rdbcompression", YesNo, "yes"),
    ("repl-backlog-size", Clamped(&Bytes(1, SIGNED_MAX), 16384, i64::MAX), "1048576"),
    ("repl-backlog-ttl", Integer(0, i64::MAX), "3600"),
    ("repl-disable-tcp-nodelay", YesNo, "no"),
    ("repl-diskless-load", OneOf(&["disabled", "on-empty-db", "swapdb"]), "disabled"),
    ("repl-diskless-sync", YesNo, "yes"),
    ("repl-diskless-sync-delay", Integer(0, I32_MAX), "5"),
    ("repl-diskless-sync-max-replicas", Integer(0, I32_MAX), "0"),
    ("repl-ping-replica-period", Integer(1, I32_MAX), "10"),
    ("repl-ping-slave-period", Alias("repl-ping-replica-period"), ""),
    ("repl-timeout", Integer(1, I32_MAX), "60"),
    ("replica-announce-ip", Text, ""),
    ("replica-announce-port", Integer(0, 65535), "0"),
    ("replica-announced", YesNo, "yes"),
    ("replica-ignore-disk-write-errors", YesNo, "no"),
    ("replica-ignore-maxmemory", YesNo, "yes"),
    ("replica-lazy-flush", YesNo, "no"),
    ("replica-priority", Integer(0, I32_MAX), "100"),
    ("replica-read-only", YesNo, "yes"),
    ("replica-serve-stale-data", YesNo, "yes"),
    ("sanitize-dump-payload", OneOf(&["no", "yes", "clients"]), "no"),
    ("save", SavePoints, ""),
    ("server_cpulist", Immutable, ""),
    ("set-max-intset-entries", Integer(0, i64::MAX), "512"),
    ("set-proc-title", Immutable, "no"),
    ("shutdown-on-sigint", ShutdownWords, "default"),
    ("shutdown-on-sigterm", ShutdownWords, "default"),
    ("shutdown-timeout", Integer(0, I32_MAX), "10"),
    ("slave-announce-ip", Alias("replica-announce-ip"), ""),
    ("slave-announce-port", Alias("replica-announce-port"), ""),
    ("slave-ignore-maxmemory", Alias("replica-ignore-maxmemory"), ""),
    ("slave-lazy-flush", Alias("replica-lazy-flush"), ""),
    ("slave-priority", Alias("replica-priority"), ""),
    ("slave-read-only", Alias("replica-read-only"), ""),
    ("slave-serve-stale-data", Alias("replica-serve-stale-data"), ""),
    ("slowlog-log-slower-than", Integer(-1, i64::MAX), "10000"),
    ("slowlog-max-len", Integer(0, i64::MAX), "128"),
    ("socket-mark-id", Immutable, "0"),
    ("stop-writes-on-bgsave-error", YesNo, "yes"),
    ("stream-node-max-bytes", Bytes(0, SIGNED_MAX), "4096"),
    ("stream-node-max-entries", Integer(0, i64::MAX), "100"),
    ("supervised", Immutable, "no"),
    ("syslog-enabled", Immutable, "no"),
    ("syslog-facility", Immutable, "local0"),
    ("syslog-ident", Immutable, "redis"),
    ("tcp-backlog", Immutable, "511"),
    ("tcp-keepalive", Integer(0, I32_MAX), "300"),
    ("timeout", Integer(0, I32_MAX), "0"),
    ("tracking-table-max-keys", Integer(0, i64::MAX), "1000000"),
    ("unixsocket", Immutable, ""),
    ("unixsocketperm", Immutable, "0"),
    ("zset-max-listpack-entries", Integer(0, i64::MAX), "128"),
    ("zset-max-listpack-value", Bytes(0, SIGNED_MAX), "64"),
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
                _ if kind.fixed().is_some() => {}
                _ => {
                    let accepted = kind.accept(default.as_bytes(), default);
                    assert_eq!(accepted.as_deref(), Ok(default), "{name}");
                }
            }
        }
    }

    #[test]
    fn an_alias_leads_to_the_parameter_it_names() {
        assert_eq!(find("Hash-Max-Ziplist-Entries"), find("hash-max-listpack-entries"));
        assert!(find("no-such-parameter").is_none());
    }
}
