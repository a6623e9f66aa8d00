//! Hashes.

use super::{Spec, Spoiling};
use crate::differential::compare::Rule::{Exact, Member, Multiset, Pairs, Scan};
use crate::differential::draw::{Args, Draw, args};

pub(super) static SPECS: &[Spec] = &[
    Spec::data("HSET", Exact, pairs).weight(40),
    Spec::data("HMSET", Exact, pairs),
    Spec::data("HSETNX", Exact, |d| args![d.hash_key(), d.field(), d.value()]),
    Spec::data("HGET", Exact, |d| args![d.hash_key(), d.field()]),
    Spec::data("HMGET", Exact, fields),
    Spec::data("HGETALL", Pairs, |d| args![d.hash_key()]),
    Spec::data("HKEYS", Multiset, |d| args![d.hash_key()]),
    Spec::data("HVALS", Multiset, |d| args![d.hash_key()]),
    Spec::data("HLEN", Exact, |d| args![d.hash_key()]),
    Spec::data("HEXISTS", Exact, |d| args![d.hash_key(), d.field()]),
    Spec::data("HDEL", Exact, fields),
    Spec::data("HINCRBY", Exact, |d| args![d.hash_key(), d.field(), d.integer().to_string()]),
    Spec::data("HINCRBYFLOAT", Exact, |d| args![d.hash_key(), d.field(), d.float()]),
    Spec::data("HSTRLEN", Exact, |d| args![d.hash_key(), d.field()]),
    Spec::data("HRANDFIELD", Member, hrandfield).spoiling(Spoiling::Count),
    Spec::data("HSCAN", Scan, hscan),
];

fn pairs(draw: &mut Draw) -> Args {
    let mut args = args![draw.hash_key()];
    args.extend(draw.many(4, |d| args![d.field(), d.value()]));
    args
}

fn fields(draw: &mut Draw) -> Args {
    let mut args = args![draw.hash_key()];
    args.extend(draw.many(4, |d| args![d.field()]));
    args
}

fn hrandfield(draw: &mut Draw) -> Args {
    let mut args = args![draw.hash_key()];
    if draw.chance(70) {
        let count = draw.pick(&[
            "0",
            "1",
            "3",
            "100",
            "-1",
            "-4",
            "-20",
            "abc",
            "-9223372036854775808",
            "9223372036854775808",
        ]);
        args.extend(args![count]);
        if draw.chance(40) {
            args.extend(args![draw.pick(&["WITHVALUES", "withvalues", "WITHVALUE"])]);
        }
    }
    args
}

fn hscan(draw: &mut Draw) -> Args {
    let mut args = args![draw.hash_key(), draw.pick(&["0", "0", "0", "12", "abc", "-1"])];
    if draw.chance(30) {
        args.extend(args!["MATCH", draw.pick(&["f*", "*", "f[1-3]", "nosuch*"])]);
    }
    if draw.chance(30) {
        args.extend(args!["COUNT", draw.pick(&["1", "10", "0", "-1", "x"])]);
    }
    args
}
