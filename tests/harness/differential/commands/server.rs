//! The server itself: COMMAND, INFO, CONFIG and the like.

use super::{Spec, Spoiling};
use crate::differential::compare::Rule::{
    Background, CommandCount, CommandEntries, CommandNames, ConfigPairs, Exact, InfoText,
    RoleState, SameKind,
};
use crate::differential::draw::{Args, Draw, args};

/// Names that CONFIG GET is asked for.
const CONFIG_NAMES: [&str; 13] = [
    "MaxMemory",
    "*-announce*",
    "notify-keyspace-events",
    "maxmemory",
    "appendonly",
    "save",
    "databases",
    "timeout",
    "appendfsync",
    "max*",
    "hash-max-*",
    "nosuch*",
    "proto-max-bulk-len",
];
/// Tuning that means nothing to a store of another build, with values that Redis takes or refuses. None
/// of them has either server do anything else.
const TUNING: [(&str, &[&str]); 15] = [
    ("active-defrag-ignore-bytes", &["0", "1", "5m", "kb", "1KB"]),
    (
        "client-output-buffer-limit",
        &[
            "replica 1mb 512kb +60",
            "slave 1 x 1",
            "pubsub 1",
            "PubSub 32m 8MB 60",
            "master 0 0 0",
            "",
        ],
    ),
    ("hash-max-listpack-entries", &["128", "64", "512"]),
    ("hash-max-listpack-value", &["64", "32"]),
    ("hz", &["0", "501", "10"]),
    ("lazyfree-lazy-expire", &["yes", "no", "YES", "maybe"]),
    ("maxmemory-clients", &["0", "0%", "5%", "101%", "-1%"]),
    ("notify-keyspace-events", &["", "Ex", "KEA", "g$lshzxetd", "mn", "xyz"]),
    ("oom-score-adj-values", &["0 200 800", "+1 02 -3", "1 2", "0 0 2001", " 0 1 2"]),
    ("repl-backlog-size", &["1", "16385", "1mb", "0", "-1"]),
    // With a save point FLUSHALL would have Redis write a file, and wait for the disk.
    ("save", &["", "60", "0 1", "60  1", "1 -1"]),
    ("shutdown-on-sigterm", &["default", "now nosave", "save nosave", "force default", "later"]),
    ("slave-priority", &["100", "0", "-1"]),
    ("slowlog-log-slower-than", &["10000", "-1", "-2"]),
    ("stream-node-max-bytes", &["4096", "4kb", "17179869184gb"]),
];
/// Names that no value is taken for.
const FIXED: [&str; 5] = ["DataBases", "dbfilename", "daemonize", "aclfile", "dir"];

pub(super) static SPECS: &[Spec] = &[
    Spec::other("COMMAND", CommandEntries, |_| args![]).weight(1).spoiling(Spoiling::Never),
    Spec::other("COMMAND COUNT", CommandCount, |_| args![]),
    Spec::other("COMMAND INFO", CommandEntries, command_info).spoiling(Spoiling::Never),
    Spec::other("COMMAND LIST", CommandNames, command_list).spoiling(Spoiling::Never),
    Spec::other("INFO", InfoText, |d| match d.below(6) {
        0 | 1 => args![],
        2 => args!["nosuch"],
        3 => args!["server", "memory"],
        4 => args!["everything"],
        _ => args![d.pick(&["server", "clients", "keyspace", "REPLICATION", "stats", "all"])],
    })
    .spoiling(Spoiling::Never),
    Spec::other("CONFIG GET", ConfigPairs, |d| d.many(3, |d| args![d.pick(&CONFIG_NAMES)]))
        .spoiling(Spoiling::Never),
    Spec::other("CONFIG SET", Exact, config_set).spoiling(Spoiling::Count),
    Spec::other("CONFIG RESETSTAT", Exact, |_| args![]),
    Spec::other("CONFIG REWRITE", Exact, |_| args![]),
    Spec::other("TIME", SameKind, |_| args![]),
    Spec::other("LASTSAVE", SameKind, |_| args![]),
    Spec::other("ROLE", RoleState, |_| args![]),
    Spec::other("BGSAVE", Background, |d| match d.below(4) {
        0 => args!["SCHEDULE"],
        1 => args![],
        _ => args![d.pick(&["now", "SCHEDULED", ""])],
    })
    .spoiling(Spoiling::Count)
    .weight(1),
    Spec::other("WAIT", Exact, |d| match d.below(5) {
        0 => args!["0", "0"],
        1 => args!["1", "1"],
        2 => args!["-1", "0"],
        3 => args!["x", "0"],
        _ => args!["0", d.pick(&["-1", "x", "10"])],
    })
    .spoiling(Spoiling::Count),
    Spec::other("FUNCTION FLUSH", Exact, |d| {
        if d.chance(50) { args![] } else { args![d.pick(&["ASYNC", "sync", "now"])] }
    }),
    Spec::other("SHUTDOWN", Exact, |d| match d.below(4) {
        0 => args![d.pick(&["ABORT", "abort\0"])],
        1 => args!["nosuch"],
        2 => args!["NOSAVE", "SAVE"],
        _ => args!["ABORT", "NOW"],
    })
    .spoiling(Spoiling::Never),
];

fn command_info(draw: &mut Draw) -> Args {
    draw.many(4, |d| match d.below(8) {
        0 => args!["nosuchcommand"],
        1 => args![d.letters(3)],
        2 => {
            args![d.pick(&["config|get", "CLIENT|List", "function|flush", "get|x", "config|", "|"])]
        }
        _ => {
            let all: Vec<&str> = super::specs()
                .map(|spec| spec.name)
                .filter(|name| !name.contains(' ') && *name != "NOSUCHCOMMAND")
                .collect();
            args![d.pick(&all).to_lowercase()]
        }
    })
}

fn command_list(draw: &mut Draw) -> Args {
    match draw.below(6) {
        0 => args![],
        1 => args!["FILTERBY", "MODULE", "json"],
        2 => args!["filterby", "ACLCAT", draw.pick(&["read", "Hash", "transaction", "@read", "x"])],
        3 => args!["FILTERBY", "pattern", draw.pick(&["h*", "CONFIG|*", "nosuch*", ""])],
        4 => args!["FILTERBY", draw.pick(&["x", "MODULE", "ACLCAT"])],
        _ => args![draw.pick(&["FILTERBY", "x", "MODULE"]), "x", "y"],
    }
}

fn config_set(draw: &mut Draw) -> Args {
    let (name, values) = TUNING[draw.below(TUNING.len())];
    match draw.below(12) {
        0 => args![draw.unknown(), "1"],
        1 => args![name, "1", name.to_uppercase(), "1"],
        2 => args!["hash-max-listpack-entries", "128", draw.unknown(), "1"],
        3 => args!["hash-max-listpack-entries", "x", draw.pick(&FIXED), "1", draw.unknown(), "1"],
        4 => args!["hash-max-listpack-entries", "64", name, draw.pick(values)],
        5 | 6 => args![name, draw.junk()],
        _ => args![name, draw.pick(values)],
    }
}
