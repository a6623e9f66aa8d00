//! Replies whose contents are each server's own: what they must have in common all the same.

use std::collections::BTreeSet;

use crate::reply::Reply;

/// A list of at least so many is one of all commands, not one of those asked for.
const ALL_COMMANDS: usize = 60;

/// Where flags and categories are in the description of a command: sets of words.
const FLAGS_AT: usize = 2;
const CATEGORIES_AT: usize = 6;

/// What CLIENT SETINFO sets, and Redis prints from 7.2 on.
const FROM_SETINFO: [&str; 2] = ["lib-name", "lib-ver"];

type Verdict = Result<(), String>;

fn require(holds: bool, why: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(why()) }
}

/// Both are of one kind, and so are their elements, one by one.
pub(crate) fn same_kind(reference: &Reply, subject: &Reply) -> Verdict {
    require(reference.kind() == subject.kind(), || {
        "the replies are of different kinds".to_owned()
    })?;
    require(reference.items().len() == subject.items().len(), || {
        "the replies have different lengths".to_owned()
    })?;
    for (a, b) in reference.items().iter().zip(subject.items()) {
        same_kind(a, b)?;
    }
    let digits =
        |reply: &Reply| !reply.text().is_empty() && reply.text().iter().all(u8::is_ascii_digit);
    require(!digits(reference) || digits(subject), || "a number is expected".to_owned())
}

/// Both are of one kind and have as many elements.
pub(crate) fn same_count(reference: &Reply, subject: &Reply) -> Verdict {
    require(
        reference.kind() == subject.kind()
            && reference.is_null() == subject.is_null()
            && reference.items().len() == subject.items().len(),
        || "the replies differ in kind or in the number of elements".to_owned(),
    )?;
    for (a, b) in reference.items().iter().zip(subject.items()) {
        same_count(a, b)?;
    }
    Ok(())
}

/// A page of a scan: a cursor and an array of bulks.
pub(crate) fn scan(reference: &Reply, subject: &Reply) -> Verdict {
    let is_page = |reply: &Reply| match reply.items() {
        [cursor, Reply::Items { kind: b'*', items }] => {
            cursor.kind() == b'$'
                && !cursor.text().is_empty()
                && cursor.text().iter().all(u8::is_ascii_digit)
                && items.iter().all(|item| item.kind() == b'$' && !item.is_null())
        }
        _ => false,
    };
    require(is_page(reference) && is_page(subject), || {
        "a scan answers a cursor and an array of bulks".to_owned()
    })
}

/// HELLO: the same names; equal but for version, id and modules.
pub(crate) fn hello(reference: &Reply, subject: &Reply) -> Verdict {
    require(reference.kind() == subject.kind(), || "HELLO answers one kind".to_owned())?;
    require(reference.items().len() == subject.items().len(), || {
        "HELLO answers the same names".to_owned()
    })?;
    for (a, b) in reference.items().chunks(2).zip(subject.items().chunks(2)) {
        let ([name, value], [other_name, other_value]) = (a, b) else {
            return Err("HELLO answers pairs".to_owned());
        };
        require(name == other_name, || {
            format!("HELLO names {} here, not {}", name.describe(), other_name.describe())
        })?;
        let own = matches!(name.text(), b"id" | b"modules");
        if own {
            require(value.kind() == other_value.kind(), || {
                format!("HELLO's {} is of another kind", name.describe())
            })?;
        } else {
            require(value == other_value, || format!("HELLO's {} differs", name.describe()))?;
        }
    }
    Ok(())
}

/// The text of a bulk, or of a verbatim string without its format.
fn prose(reply: &Reply) -> Result<String, String> {
    let text = String::from_utf8_lossy(reply.text()).into_owned();
    if reply.kind() != b'=' {
        return Ok(text);
    }
    let stripped = text.strip_prefix("txt:").map(str::to_owned);
    stripped.ok_or_else(|| "a verbatim string begins with txt:".to_owned())
}

fn field_names(line: &str) -> BTreeSet<&str> {
    line.split(' ').filter_map(|pair| pair.split_once('=')).map(|(name, _)| name).collect()
}

fn field<'l>(line: &'l str, name: &str) -> Option<&'l str> {
    line.trim_end().split(' ').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

/// CLIENT LIST and CLIENT INFO: lines of name=value. A name that Redis does not print, or a line
/// without the ones that tools read, is a difference; how many clients there are is not. Where there
/// is one only, it says the same of what it does.
pub(crate) fn client_lines(reference: &Reply, subject: &Reply) -> Verdict {
    require(reference.kind() == subject.kind(), || {
        "the replies are of different kinds".to_owned()
    })?;
    let (a, b) = (prose(reference)?, prose(subject)?);
    require(a.is_empty() == b.is_empty(), || "only one of the lists is empty".to_owned())?;
    require(a.ends_with('\n') == b.ends_with('\n'), || "each line ends in LF".to_owned())?;
    let known = a.lines().next().map(field_names).unwrap_or_default();
    for line in b.lines() {
        let names = field_names(line);
        if let Some(name) = names.difference(&known).find(|name| !FROM_SETINFO.contains(name)) {
            return Err(format!("{name}= is not a name that Redis prints"));
        }
        for name in ["id", "addr", "name", "age", "idle", "db", "cmd", "resp"] {
            require(names.contains(name), || format!("{name}= is missing from {line:?}"))?;
        }
    }
    if a.lines().count() == 1 && b.lines().count() == 1 {
        for name in ["name", "multi", "cmd", "resp"] {
            let (one, other) = (field(&a, name), field(&b, name));
            require(one == other, || format!("{name}= is {other:?}, not {one:?}"))?;
        }
    }
    Ok(())
}

/// COMMAND and COMMAND INFO: what the subject lists is listed by the reference with the same
/// description. The list of all has no order.
pub(crate) fn command_entries(reference: &Reply, subject: &Reply) -> Verdict {
    let (a, b) = (reference.items(), subject.items());
    if a.len() < ALL_COMMANDS {
        require(a.len() == b.len(), || format!("{} were asked for", a.len()))?;
        return a.iter().zip(b).try_for_each(|(left, right)| command_entry(left, right));
    }
    require(b.len() >= ALL_COMMANDS, || format!("only {} commands are listed", b.len()))?;
    among_entries(a, b)
}

/// Each of the subject's entries that can be is described by the reference in the same way.
fn among_entries(reference: &[Reply], subject: &[Reply]) -> Verdict {
    for right in subject {
        let name = right.items().first();
        if name.is_some_and(|name| is_own_command(name.text())) {
            continue;
        }
        let left = reference.iter().find(|left| left.items().first() == name);
        let Some(left) = left else {
            return Err(format!("Redis has no command {}", right.describe()));
        };
        command_entry(left, right)?;
    }
    Ok(())
}

/// What Redis 7.0 does not have.
fn is_own_command(name: &[u8]) -> bool {
    name.starts_with(b"kv.") || name == b"client|setinfo"
}

/// One command: its own nine elements are equal, but for the order within sets; its subcommands
/// are among those of the reference.
fn command_entry(reference: &Reply, subject: &Reply) -> Verdict {
    if reference == subject {
        return Ok(());
    }
    let ([own @ .., subcommands], [own2 @ .., subcommands2]) = (reference.items(), subject.items())
    else {
        return Err(format!("{} against {}", reference.describe(), subject.describe()));
    };
    let label = reference.items()[0].describe();
    require(own.len() == own2.len(), || format!("{label} has another number of elements"))?;
    for (at, (a, b)) in own.iter().zip(own2).enumerate() {
        let unordered = |reply: &Reply| reply.items().iter().cloned().collect::<BTreeSet<_>>();
        let of_words = matches!(at, FLAGS_AT | CATEGORIES_AT);
        let are_equal = a == b || of_words && a.kind() == b.kind() && unordered(a) == unordered(b);
        require(are_equal, || {
            format!("element {at} of {label}: {} against {}", a.describe(), b.describe())
        })?;
    }
    require(subcommands.kind() == subcommands2.kind(), || {
        format!("the kind of the subcommands of {label}")
    })?;
    among_entries(subcommands.items(), subcommands2.items())
}

/// COMMAND LIST: names that the reference lists too, in any order.
pub(crate) fn command_names(reference: &Reply, subject: &Reply) -> Verdict {
    require(reference.kind() == subject.kind(), || {
        "the replies are of different kinds".to_owned()
    })?;
    let known: BTreeSet<&Reply> = reference.items().iter().collect();
    let unknown =
        subject.items().iter().find(|name| !is_own_command(name.text()) && !known.contains(name));
    match unknown {
        Some(name) => Err(format!("Redis does not list {}", name.describe())),
        None => Ok(()),
    }
}

/// INFO: text of one kind, whose sections Redis has too.
pub(crate) fn info(reference: &Reply, subject: &Reply) -> Verdict {
    require(reference.kind() == subject.kind(), || {
        "the replies are of different kinds".to_owned()
    })?;
    let (a, b) = (prose(reference)?, prose(subject)?);
    require(a.is_empty() == b.is_empty(), || "only one of the texts is empty".to_owned())?;
    let mut any = false;
    for line in b.lines() {
        any |= line.starts_with("# ");
        let well_formed = line.is_empty() || line.starts_with("# ") || line.contains(':');
        require(well_formed, || format!("a line that INFO readers cannot read: {line:?}"))?;
    }
    require(b.is_empty() || any, || "INFO has sections".to_owned())?;
    // What client libraries and dashboards look for.
    for name in ["redis_version:", "role:", "connected_clients:"] {
        let lists = |text: &str| text.lines().any(|line| line.starts_with(name));
        require(!lists(&a) || lists(&b), || format!("{name} is missing"))?;
    }
    Ok(())
}

/// Parameters whose values are each server's own.
const OWN_VALUES: [&[u8]; 7] =
    [b"appendfsync", b"appendonly", b"bind", b"dir", b"maxclients", b"pidfile", b"port"];

/// CONFIG GET: names are a subset of Redis's for the same patterns, values are equal bulks.
pub(crate) fn config_pairs(reference: &Reply, subject: &Reply) -> Verdict {
    require(reference.kind() == subject.kind(), || {
        "the replies are of different kinds".to_owned()
    })?;
    let names = |reply: &Reply| {
        reply.items().chunks(2).map(|pair| pair[0].clone()).collect::<BTreeSet<_>>()
    };
    require(subject.items().len().is_multiple_of(2), || "CONFIG GET answers pairs".to_owned())?;
    if let Some(name) = names(subject).difference(&names(reference)).next() {
        return Err(format!("Redis does not answer {}", name.describe()));
    }
    require(subject.items().iter().all(|item| item.kind() == b'$' && !item.is_null()), || {
        "CONFIG GET answers bulks".to_owned()
    })?;
    let pairs: BTreeSet<&[Reply]> = reference.items().chunks(2).collect();
    let differs = |pair: &&[Reply]| {
        let is_own = OWN_VALUES.iter().any(|own| own.eq_ignore_ascii_case(pair[0].text()));
        !is_own && !pairs.contains(pair)
    };
    match subject.items().chunks(2).find(differs) {
        Some(pair) => Err(format!("{} is not {}", pair[0].describe(), pair[1].describe())),
        None => Ok(()),
    }
}

/// ROLE of a master without replicas: its offset is its own.
pub(crate) fn role(reference: &Reply, subject: &Reply) -> Verdict {
    let ([role, _, replicas], [role2, offset2, replicas2]) = (reference.items(), subject.items())
    else {
        return Err("ROLE answers three elements".to_owned());
    };
    require(role == role2 && replicas == replicas2 && offset2.integer().is_some(), || {
        "ROLE differs in more than the offset".to_owned()
    })
}

/// BGSAVE: each server either starts one or has one under way.
pub(crate) fn background(reference: &Reply, subject: &Reply) -> Verdict {
    let text = |reply: &Reply| String::from_utf8_lossy(reply.text()).into_owned();
    let accepted = |reply: &Reply| {
        text(reply).starts_with("Background saving") || text(reply).contains("already in progress")
    };
    require(accepted(reference) && accepted(subject), || "the replies differ".to_owned())
}
