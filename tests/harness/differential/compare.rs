//! The rules by which two replies count as equal.

use super::draw::ABSOLUTE_FROM_SECONDS;
use super::shape;
use crate::reply::Reply;

/// How far two clocks may be apart when each server has stamped its own, in milliseconds.
const CLOCK_TOLERANCE_MS: i64 = 3_000;

/// How a command's replies are compared. Errors are always compared byte for byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Byte for byte.
    Exact,
    /// The same elements in any order.
    Multiset,
    /// The same pairs in any order.
    Pairs,
    /// One page of a scan: its shape. What scans yield is compared when they run to their end.
    Scan,
    /// Elements that the server chose: their shape and number; whether each exists is asked
    /// afterwards.
    Member,
    /// EXEC: each element by the rule of the command it answers.
    Exec,
    /// TTL.
    RemainingSeconds,
    /// PTTL.
    RemainingMs,
    /// EXPIRETIME: equal where the expiry was given absolutely.
    UntilSeconds,
    /// PEXPIRETIME, likewise.
    UntilMs,
    /// The same kinds of elements: ids and clocks.
    SameKind,
    /// HELLO.
    HelloMap,
    /// CLIENT LIST and CLIENT INFO.
    ClientLines,
    /// COMMAND and COMMAND INFO.
    CommandEntries,
    /// COMMAND LIST.
    CommandNames,
    /// COMMAND COUNT.
    CommandCount,
    /// INFO.
    InfoText,
    /// CONFIG GET.
    ConfigPairs,
    /// ROLE.
    RoleState,
    /// BGSAVE: started, or one is running already.
    Background,
}

/// Compares two replies to one command.
///
/// # Errors
/// Why they differ.
pub(crate) fn compare(rule: Rule, reference: &Reply, subject: &Reply) -> Result<(), String> {
    if reference == subject {
        return Ok(());
    }
    if rule == Rule::Background {
        return shape::background(reference, subject);
    }
    if reference.is_error() || subject.is_error() {
        return Err("the replies differ, and one is an error".to_owned());
    }
    match rule {
        Rule::Exact | Rule::Exec | Rule::Background => Err("the replies differ".to_owned()),
        Rule::Multiset => multiset(reference, subject, 1),
        Rule::Pairs => multiset(reference, subject, 2),
        Rule::Scan => shape::scan(reference, subject),
        Rule::Member => shape::same_count(reference, subject),
        Rule::RemainingSeconds => moments(reference, subject, CLOCK_TOLERANCE_MS / 1000, i64::MAX),
        Rule::RemainingMs => moments(reference, subject, CLOCK_TOLERANCE_MS, i64::MAX),
        Rule::UntilSeconds => {
            moments(reference, subject, CLOCK_TOLERANCE_MS / 1000, ABSOLUTE_FROM_SECONDS)
        }
        Rule::UntilMs => {
            moments(reference, subject, CLOCK_TOLERANCE_MS, ABSOLUTE_FROM_SECONDS * 1000)
        }
        Rule::SameKind => shape::same_kind(reference, subject),
        Rule::HelloMap => shape::hello(reference, subject),
        Rule::ClientLines => shape::client_lines(reference, subject),
        Rule::CommandEntries => shape::command_entries(reference, subject),
        Rule::CommandNames => shape::command_names(reference, subject),
        Rule::CommandCount => shape::same_kind(reference, subject),
        Rule::InfoText => shape::info(reference, subject),
        Rule::ConfigPairs => shape::config_pairs(reference, subject),
        Rule::RoleState => shape::role(reference, subject),
    }
}

fn multiset(reference: &Reply, subject: &Reply, group: usize) -> Result<(), String> {
    let (Reply::Items { kind: left, items: a }, Reply::Items { kind: right, items: b }) =
        (reference, subject)
    else {
        return Err("the replies are of different kinds".to_owned());
    };
    if left != right {
        return Err("the replies are different aggregates".to_owned());
    }
    let mut a: Vec<&[Reply]> = a.chunks(group).collect();
    let mut b: Vec<&[Reply]> = b.chunks(group).collect();
    a.sort();
    b.sort();
    if a == b { Ok(()) } else { Err("the replies hold different elements".to_owned()) }
}

/// Two times or durations. Negative ones are answers of their own, and must be equal; so must
/// those from `exact_from` on.
fn moments(
    reference: &Reply,
    subject: &Reply,
    tolerance: i64,
    exact_from: i64,
) -> Result<(), String> {
    let (Some(a), Some(b)) = (reference.integer(), subject.integer()) else {
        return Err("the replies are of different kinds".to_owned());
    };
    if a < 0 || b < 0 || a >= exact_from || b >= exact_from {
        return Err("the replies must be equal here".to_owned());
    }
    if a.abs_diff(b) > tolerance.unsigned_abs() {
        return Err(format!("the replies are more than {tolerance} apart"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(wire: &str) -> Reply {
        Reply::parse(wire.as_bytes()).unwrap().unwrap().0
    }

    #[test]
    fn order_is_free_only_where_the_rule_says_so() {
        let (a, b) = (reply("*2\r\n+x\r\n+y\r\n"), reply("*2\r\n+y\r\n+x\r\n"));
        assert!(compare(Rule::Multiset, &a, &b).is_ok());
        assert!(compare(Rule::Exact, &a, &b).is_err());
        assert!(compare(Rule::Pairs, &a, &b).is_err());
    }

    #[test]
    fn a_repeated_element_counts() {
        let (a, b) = (reply("*2\r\n+x\r\n+x\r\n"), reply("*1\r\n+x\r\n"));
        assert!(compare(Rule::Multiset, &a, &b).is_err());
    }

    #[test]
    fn an_error_never_passes_for_a_shape() {
        let (a, b) = (reply(":12\r\n"), reply("-ERR no\r\n"));
        assert!(compare(Rule::SameKind, &a, &b).is_err());
        assert!(compare(Rule::RemainingMs, &a, &b).is_err());
    }

    #[test]
    fn absolute_expiries_must_be_equal_and_relative_ones_nearly_so() {
        let far = (ABSOLUTE_FROM_SECONDS + 5) * 1000;
        let (a, b) = (reply(&format!(":{far}\r\n")), reply(&format!(":{}\r\n", far + 1)));
        assert!(compare(Rule::UntilMs, &a, &b).is_err());
        assert!(compare(Rule::UntilMs, &reply(":1000000\r\n"), &reply(":1000900\r\n")).is_ok());
        assert!(compare(Rule::RemainingMs, &reply(":-1\r\n"), &reply(":0\r\n")).is_err());
    }
}
