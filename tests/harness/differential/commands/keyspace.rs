//! Keys of any type, expiry, scans, transactions.

use super::strings::{absolute_ms, absolute_seconds, relative_ms, relative_seconds};
use super::{Spec, Spoiling};
use crate::differential::compare::Rule::{
    self, Exact, Member, Multiset, RemainingMs, RemainingSeconds, Scan, UntilMs, UntilSeconds,
};
use crate::differential::draw::{Args, Draw, args};

/// The patterns that KEYS and SCAN are asked for.
pub(crate) const PATTERNS: [&str; 16] = [
    "*", "k*", "k[1-3]", "?1", "[^k]*", "\\*", "nosuch*", "", "[a", "k[3-1]", "h\\\\*", "*\"*",
    "{t}?", "k[\\1]", "**1", "[hk][!1]",
];

pub(super) static SPECS: &[Spec] = &[
    Spec::data("DEL", Exact, keys),
    Spec::data("UNLINK", Exact, keys),
    Spec::data("EXISTS", Exact, keys),
    Spec::data("TYPE", Exact, |d| args![d.key()]),
    Spec::data("TTL", RemainingSeconds, |d| args![d.key()]),
    Spec::data("PTTL", RemainingMs, |d| args![d.key()]),
    Spec::data("EXPIRE", Exact, |d| expiry(d, relative_seconds)),
    Spec::data("PEXPIRE", Exact, |d| expiry(d, relative_ms)),
    Spec::data("EXPIREAT", Exact, |d| expiry(d, absolute_seconds)),
    Spec::data("PEXPIREAT", Exact, |d| expiry(d, absolute_ms)),
    Spec::data("EXPIRETIME", UntilSeconds, |d| args![d.key()]),
    Spec::data("PEXPIRETIME", UntilMs, |d| args![d.key()]),
    Spec::data("PERSIST", Exact, |d| args![d.key()]),
    Spec::data("KEYS", Multiset, |d| args![d.pick(&PATTERNS)]),
    Spec::data("SCAN", Scan, scan),
    Spec::data("RANDOMKEY", Member, |_| args![]),
    Spec::data("DBSIZE", Exact, |_| args![]),
    flush("FLUSHDB"),
    flush("FLUSHALL"),
    Spec::other("MULTI", Exact, |_| args![]),
    Spec::other("EXEC", Rule::Exec, |_| args![]),
    Spec::other("DISCARD", Exact, |_| args![]),
    Spec::other("WATCH", Exact, keys).weight(10),
    Spec::other("UNWATCH", Exact, |_| args![]),
];

const fn flush(name: &'static str) -> Spec {
    Spec::data(name, Exact, |d| match d.below(6) {
        0 => args![],
        1 => args!["ASYNC"],
        2 => args!["sync"],
        3 => args!["SYNC", "ASYNC"],
        _ => args![d.pick(&["now", "", "ALL"])],
    })
    .weight(2)
    .spoiling(Spoiling::Never)
}

fn keys(draw: &mut Draw) -> Args {
    draw.many(4, |d| args![d.key()])
}

fn expiry(draw: &mut Draw, moment: fn(&mut Draw) -> String) -> Args {
    let mut args = args![draw.key(), moment(draw)];
    if draw.chance(35) {
        args.extend(args![draw.pick(&["NX", "XX", "GT", "LT", "gt", "xy"])]);
    }
    if draw.chance(8) {
        args.extend(args![draw.pick(&["NX", "XX", "GT", "LT"])]);
    }
    args
}

fn scan(draw: &mut Draw) -> Args {
    let mut args = args![draw.pick(&["0", "0", "0", "12", "abc", "-1", ""])];
    if draw.chance(30) {
        args.extend(args!["MATCH", draw.pick(&PATTERNS)]);
    }
    if draw.chance(30) {
        args.extend(args!["COUNT", draw.pick(&["1", "10", "0", "-1", "x"])]);
    }
    if draw.chance(20) {
        args.extend(args!["TYPE", draw.pick(&["string", "hash", "HASH", "nosuch"])]);
    }
    args
}
