//! Strings and counters.

use super::Spec;
use crate::differential::compare::Rule::Exact;
use crate::differential::draw::{Args, Draw, args};

pub(super) static SPECS: &[Spec] = &[
    Spec::data("GET", Exact, |d| args![d.string_key()]),
    Spec::data("SET", Exact, set).weight(40),
    Spec::data("SETNX", Exact, |d| args![d.string_key(), d.value()]),
    Spec::data("SETEX", Exact, |d| args![d.string_key(), relative_seconds(d), d.value()]),
    Spec::data("PSETEX", Exact, |d| args![d.string_key(), relative_ms(d), d.value()]),
    Spec::data("GETSET", Exact, |d| args![d.string_key(), d.value()]),
    Spec::data("GETDEL", Exact, |d| args![d.string_key()]),
    Spec::data("GETEX", Exact, getex),
    Spec::data("MGET", Exact, |d| d.many(5, |d| args![d.key()])),
    Spec::data("MSET", Exact, |d| d.many(4, |d| args![d.string_key(), d.value()])),
    Spec::data("MSETNX", Exact, |d| d.many(3, |d| args![d.string_key(), d.value()])),
    Spec::data("APPEND", Exact, |d| args![d.string_key(), d.value()]),
    Spec::data("STRLEN", Exact, |d| args![d.string_key()]),
    Spec::data("GETRANGE", Exact, |d| args![d.string_key(), d.index(), d.index()]),
    Spec::data("SUBSTR", Exact, |d| args![d.string_key(), d.index(), d.index()]),
    Spec::data("SETRANGE", Exact, |d| args![d.string_key(), d.below(200).to_string(), d.value()]),
    Spec::data("INCR", Exact, |d| args![d.string_key()]),
    Spec::data("DECR", Exact, |d| args![d.string_key()]),
    Spec::data("INCRBY", Exact, |d| args![d.string_key(), d.integer().to_string()]),
    Spec::data("DECRBY", Exact, |d| args![d.string_key(), d.integer().to_string()]),
    Spec::data("INCRBYFLOAT", Exact, |d| args![d.string_key(), d.float()]),
];

pub(super) fn relative_seconds(draw: &mut Draw) -> String {
    match draw.below(12) {
        0 => "0".to_owned(),
        1 => "-5".to_owned(),
        _ => draw.relative_seconds().to_string(),
    }
}

pub(super) fn relative_ms(draw: &mut Draw) -> String {
    match draw.below(12) {
        0 => "0".to_owned(),
        1 => "-5000".to_owned(),
        _ => (draw.relative_seconds() * 1000 + 7).to_string(),
    }
}

pub(super) fn absolute_seconds(draw: &mut Draw) -> String {
    match draw.below(12) {
        0 => "1".to_owned(),
        1 => "0".to_owned(),
        _ => draw.absolute_seconds().to_string(),
    }
}

pub(super) fn absolute_ms(draw: &mut Draw) -> String {
    match draw.below(12) {
        0 => "1000".to_owned(),
        1 => "-1".to_owned(),
        _ => (draw.absolute_seconds() * 1000 + 123).to_string(),
    }
}

fn expiry_option(draw: &mut Draw) -> Args {
    match draw.below(4) {
        0 => args!["EX", relative_seconds(draw)],
        1 => args!["px", relative_ms(draw)],
        2 => args!["EXAT", absolute_seconds(draw)],
        _ => args!["PXAT", absolute_ms(draw)],
    }
}

fn set(draw: &mut Draw) -> Args {
    let mut args = args![draw.string_key(), draw.value()];
    if draw.chance(25) {
        args.extend(expiry_option(draw));
    }
    if draw.chance(8) {
        args.push(b"KEEPTTL".to_vec());
    }
    if draw.chance(20) {
        args.extend(args![draw.pick(&["NX", "XX", "xx"])]);
    }
    if draw.chance(15) {
        args.push(b"GET".to_vec());
    }
    if draw.chance(3) {
        args.extend(expiry_option(draw));
    }
    if draw.chance(2) {
        args.push(b"NX".to_vec());
    }
    args
}

fn getex(draw: &mut Draw) -> Args {
    let mut args = args![draw.string_key()];
    match draw.below(4) {
        0 => args.push(b"PERSIST".to_vec()),
        1 | 2 => args.extend(expiry_option(draw)),
        _ => {}
    }
    args
}
