//! What COMMAND INFO says of commands beside their rows in the table: what each does to its keys,
//! and the tips for clients of a cluster. The words and their order are those of Redis 7.0.15.

/// What commands do to their keys.
const KEY_FLAGS: &[(&[&str], &str)] = &[
    (&["OW", "insert"], "msetnx setnx"),
    (&["OW", "update"], "mset psetex setex"),
    (&["RM", "delete"], "del unlink"),
    (&["RO"], "exists hexists hlen hstrlen strlen type watch"),
    (
        &["RO", "access"],
        "expiretime get getrange hget hgetall hkeys hmget hrandfield hscan hvals kv.getv mget \
         pexpiretime pttl substr ttl",
    ),
    (&["RW", "access", "delete"], "getdel"),
    (
        &["RW", "access", "update"],
        "decr decrby getex getset hincrby hincrbyfloat incr incrby incrbyfloat kv.cas",
    ),
    (&["RW", "access", "update", "variable_flags"], "set"),
    (&["RW", "delete"], "hdel"),
    (&["RW", "insert"], "append hsetnx"),
    (&["RW", "update"], "expire expireat hmset hset persist pexpire pexpireat setrange"),
];

/// Why commands do that.
const NOTES: &[(&str, &str)] = &[
    ("RW and ACCESS due to the optional `GET` argument", "set"),
    ("RW and UPDATE because it changes the TTL", "getex"),
];

/// Tips.
const TIPS: &[(&[&str], &str)] = &[
    (
        &["nondeterministic_output"],
        "client|info client|list hrandfield hscan lastsave pttl time ttl",
    ),
    (&["nondeterministic_output", "request_policy:special"], "scan"),
    (
        &["nondeterministic_output", "request_policy:all_shards", "response_policy:special"],
        "function|stats info",
    ),
    (
        &["nondeterministic_output_order"],
        "command command|docs command|info command|list function|list hgetall hkeys hvals",
    ),
    (&["request_policy:all_nodes", "response_policy:all_succeeded"], "config|set"),
    (&["request_policy:all_shards", "nondeterministic_output"], "randomkey"),
    (&["request_policy:all_shards", "nondeterministic_output_order"], "keys"),
    (&["request_policy:all_shards", "response_policy:agg_min"], "wait"),
    (&["request_policy:all_shards", "response_policy:agg_sum"], "dbsize"),
    (
        &["request_policy:all_shards", "response_policy:all_succeeded"],
        "flushall flushdb function|delete function|flush function|load function|restore ping",
    ),
    (&["request_policy:all_shards", "response_policy:one_succeeded"], "function|kill"),
    (&["request_policy:multi_shard"], "mget"),
    (&["request_policy:multi_shard", "response_policy:agg_min"], "msetnx"),
    (&["request_policy:multi_shard", "response_policy:agg_sum"], "del exists unlink"),
    (&["request_policy:multi_shard", "response_policy:all_succeeded"], "mset"),
];

/// What the command does to its keys; empty where it has none.
pub(super) fn key_flags(command: &str) -> &'static [&'static str] {
    said_of(command, KEY_FLAGS).unwrap_or_default()
}

/// Why it does.
pub(super) fn note(command: &str) -> Option<&'static str> {
    said_of(command, NOTES)
}

/// Tips on the command, or on the subcommand `command|subcommand`.
pub(super) fn tips(command: &str) -> &'static [&'static str] {
    said_of(command, TIPS).unwrap_or_default()
}

fn said_of<T: Copy>(command: &str, table: &[(T, &str)]) -> Option<T> {
    let row = table.iter().find(|(_, names)| names.split(' ').any(|name| name == command));
    row.map(|(said, _)| *said)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::{super::table::table, *};

    #[test]
    fn exactly_the_commands_with_keys_say_what_they_do_to_them() {
        for command in table() {
            assert_eq!(
                command.first_key == 0,
                key_flags(command.name).is_empty(),
                "{}",
                command.name
            );
        }
    }

    #[test]
    fn nothing_is_said_twice_or_of_a_command_that_is_not_there() {
        let mut there: HashSet<String> = HashSet::new();
        for command in table() {
            there.insert(command.name.to_owned());
            let rows = command.subcommands().iter();
            there.extend(rows.map(|row| format!("{}|{}", command.name, row.name)));
        }
        let names = |said: &[&'static str]| {
            said.iter().flat_map(|names| names.split(' ')).collect::<Vec<_>>()
        };
        let of_keys: Vec<_> = KEY_FLAGS.iter().map(|(_, names)| *names).collect();
        let of_notes: Vec<_> = NOTES.iter().map(|(_, names)| *names).collect();
        let of_tips: Vec<_> = TIPS.iter().map(|(_, names)| *names).collect();
        for said in [of_keys, of_notes, of_tips] {
            let mut seen = HashSet::new();
            for name in names(&said) {
                assert!(there.contains(name), "{name}");
                assert!(seen.insert(name), "{name}");
            }
        }
    }
}
