//! What concerns the connection alone.

use super::{Spec, Spoiling};
use crate::differential::compare::Rule::{ClientLines, Exact, HelloMap, SameKind};
use crate::differential::draw::{Args, Draw, args};

pub(super) static SPECS: &[Spec] = &[
    Spec::other("PING", Exact, |d| if d.chance(50) { args![] } else { args![d.value()] }),
    Spec::other("ECHO", Exact, |d| args![d.value()]),
    Spec::other("HELLO", HelloMap, hello).spoiling(Spoiling::Count),
    Spec::other("AUTH", Exact, |d| match d.below(3) {
        0 => args![d.letters(5)],
        1 => args!["default", d.letters(5)],
        _ => args!["nosuchuser", d.letters(5)],
    }),
    Spec::other("SELECT", Exact, |d| args![d.pick(&["0", "0", "1", "16", "-1", "x"])]),
    Spec::other("QUIT", Exact, |_| args![]).spoiling(Spoiling::Never).weight(0),
    Spec::other("RESET", Exact, |_| args![]),
    Spec::other("CLIENT ID", SameKind, |_| args![]),
    Spec::other("CLIENT GETNAME", Exact, |_| args![]),
    Spec::other("CLIENT SETNAME", Exact, |d| {
        args![d.pick(&["worker", "w-1", "", "two words", "line\nbreak", "caf\u{e9}"])]
    }),
    Spec::other("CLIENT SETINFO", Exact, |d| {
        args![d.pick(&["LIB-NAME", "lib-ver"]), d.pick(&["redis-py", "1.2.3"])]
    })
    .spoiling(Spoiling::Never)
    .outside_transactions(),
    Spec::other("CLIENT LIST", ClientLines, client_list).spoiling(Spoiling::Never),
    Spec::other("CLIENT INFO", ClientLines, |_| args![]),
    Spec::other("CLIENT REPLY", Exact, |d| args![d.pick(&["ON", "on", "of", ""])])
        .spoiling(Spoiling::Never)
        .outside_transactions(),
    Spec::other("CLIENT NO-EVICT", Exact, |d| args![d.pick(&["ON", "off", "maybe"])]),
    Spec::other("CLIENT", Exact, |d| match d.below(3) {
        0 => args![],
        1 => args!["NOSUCH"],
        _ => args!["nosuch", d.value()],
    })
    .spoiling(Spoiling::Never),
    Spec::other("NOSUCHCOMMAND", Exact, |d| match d.below(3) {
        0 => args![],
        1 => args!["short", "words"],
        _ => d.many(5, |d| args![d.value()]),
    }),
];

fn hello(draw: &mut Draw) -> Args {
    let mut args = match draw.below(8) {
        0 => return args![],
        1 => args![draw.pick(&["1", "4", "abc", "", "-3"])],
        2..=4 => args!["2"],
        _ => args!["3"],
    };
    if draw.chance(20) {
        args.extend(args!["SETNAME", draw.pick(&["worker", "two words", "h-1"])]);
    }
    if draw.chance(10) {
        args.extend(args!["AUTH", draw.pick(&["default", "nosuchuser"]), "pw"]);
    }
    if draw.chance(5) {
        args.extend(args![draw.pick(&["SETNAM", "AUTH", "x"])]);
    }
    args
}

fn client_list(draw: &mut Draw) -> Args {
    match draw.below(8) {
        0 => args!["TYPE", "normal"],
        1 => args!["TYPE", draw.unknown()],
        2 => args!["TYPE", "replica"],
        3 => args!["ID", "abc"],
        4 => args!["ID", "999999999"],
        5 => args!["nosuch"],
        _ => args![],
    }
}
