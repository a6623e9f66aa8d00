//! Valid requests that ask for too much.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::super::{Ongoing, Target};
use super::{read_some, write_some};
use crate::client::encoded;

/// Between two hostile commands of one connection.
const INTERVAL: Duration = Duration::from_millis(2);
const GLOB_KEYS: usize = 40;
const GLOB_KEY_BYTES: usize = 300;
/// More than a reply that is small.
const ECHOED_BYTES: usize = 40 << 10;
/// A class of so many characters takes a quarter of a millisecond to try on the names of all settings. A write of
/// the well-behaved client comes behind four such pieces: were they much longer, it would fall behind what it is due to
/// send.
const CLASS_BYTES: usize = 50;
const LONG_COMMANDS: usize = 400;
/// Of some microseconds each: several milliseconds together.
const SHORT_COMMANDS: usize = 2_000;
const LONG_INTERVAL: Duration = Duration::from_millis(50);
const TRANSACTIONS: usize = 4;
const QUEUED_VALUE_BYTES: usize = 4096;
/// 512 WATCHes of 256 KiB each.
const WATCH_ROUNDS: usize = 512;
const WATCHED_KEYS: usize = 64;
const WATCHED_KEY_BYTES: usize = 4 << 10;

/// Sends `commands` in turn over one connection, reading each reply, which may be an error.
fn repeat(ongoing: &mut Ongoing, target: &Target, login: bool, commands: Vec<Vec<String>>) {
    let target = target.clone();
    ongoing.spawn(move |part| {
        let connect = || if login { target.member() } else { target.stranger() };
        let mut client = connect()?;
        for command in commands.iter().cycle() {
            if !part.goes_on() {
                break;
            }
            // Cut off, as it may be after too many wrong passwords: it comes again.
            if client.call(command).is_err() {
                client = connect()?;
            }
            part.paced_act(INTERVAL);
        }
        Ok(())
    });
}

fn command(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// KEYS, SCAN and HSCAN by patterns that take a backtracking matcher for ever.
///
/// # Errors
/// When the keys to match cannot be written.
pub fn glob_bombs(target: &Target) -> Result<Ongoing> {
    let mut client = target.member()?;
    for i in 0..GLOB_KEYS {
        let key = format!("{}{i}", "a".repeat(GLOB_KEY_BYTES));
        client.expect_ok(&["SET", &key, "v"])?;
        client.expect_ok(&["HSET", "hash", &key, "v"])?;
    }
    let stars = format!("{}b", "a*".repeat(30));
    let classes = format!("{}b", "*[a-z]".repeat(20));
    let unclosed = "[".repeat(60_000);
    let many_stars = format!("{}b", "*".repeat(60_000));
    let mut ongoing = Ongoing::default();
    let commands = vec![
        command(&["KEYS", &stars]),
        command(&["SCAN", "0", "MATCH", &stars]),
        command(&["HSCAN", "hash", "0", "MATCH", &stars]),
        command(&["KEYS", &classes]),
        command(&["KEYS", &unclosed]),
        command(&["SCAN", "0", "MATCH", &many_stars, "COUNT", "9223372036854775807"]),
        command(&["CONFIG", "GET", &stars]),
    ];
    repeat(&mut ongoing, target, true, commands);
    Ok(ongoing)
}

/// Pipelines and transactions of commands that take long, each by itself or all together, behind a reply that
/// is not small.
///
/// # Errors
/// When a connection is refused.
pub fn long_work_behind_a_large_reply(target: &Target) -> Result<Ongoing> {
    let (echoed, class) = ("e".repeat(ECHOED_BYTES), format!("*[{}", "x".repeat(CLASS_BYTES)));
    let work = [
        encoded(&["ECHO", &echoed]),
        encoded(&["CONFIG", "GET", &class]).repeat(LONG_COMMANDS),
        encoded(&["CONFIG", "SET", "requirepass", target.password]).repeat(SHORT_COMMANDS),
    ];
    let commands = 1 + LONG_COMMANDS + SHORT_COMMANDS;
    let wire = [encoded(&["MULTI"]), work.concat(), encoded(&["EXEC"]), work.concat()].concat();
    // MULTI, what is queued, EXEC, and what follows.
    let replies = 1 + commands + 1 + commands;
    let mut ongoing = Ongoing::default();
    let mut client = target.member()?;
    ongoing.spawn(move |part| {
        while part.goes_on() {
            client.send_raw(&wire)?;
            for _ in 0..replies {
                client.reply()?;
            }
            part.paced_act(LONG_INTERVAL);
        }
        Ok(())
    });
    Ok(ongoing)
}

/// Offsets, counts and increments at the ends of their range.
///
/// # Errors
/// When one of them is not refused.
pub fn giant_offsets(target: &Target) -> Result<Ongoing> {
    let mut client = target.member()?;
    client.expect_ok(&["SET", "short", "value"])?;
    let mut commands = Vec::new();
    let offsets = ["8388608", "536870911", "4294967295", "4294967296", "9223372036854775807", "-1"];
    for offset in offsets {
        commands.push(command(&["SETRANGE", "short", offset, "x"]));
        commands.push(command(&["SETRANGE", "absent", offset, "x"]));
    }
    for hostile in &commands {
        let reply = client.call(hostile)?;
        ensure!(reply.is_error(), "SETRANGE to {} was answered {}", hostile[2], reply.describe());
    }
    for (first, last) in [("-9223372036854775808", "9223372036854775807"), ("0", "-1")] {
        commands.push(command(&["GETRANGE", "short", first, last]));
    }
    commands.push(command(&["INCRBY", "short", "9223372036854775807"]));
    commands.push(command(&["DECRBY", "absent", "-9223372036854775808"]));
    commands.push(command(&["PEXPIRE", "short", "9223372036854775807"]));
    commands.push(command(&["EXPIRE", "short", "-9223372036854775808", "XX"]));
    commands.push(command(&["SET", "short", "v", "EX", "9223372036854775807"]));
    let mut ongoing = Ongoing::default();
    for _ in 0..2 {
        repeat(&mut ongoing, target, true, commands.clone());
    }
    Ok(ongoing)
}

/// HRANDFIELD with a negative count repeats fields: a few bytes ask for terabytes. The replies are
/// not read, since Redis itself would send them.
///
/// # Errors
/// When the hash cannot be written.
pub fn fields_without_end(target: &Target) -> Result<Ongoing> {
    target.member()?.expect_ok(&["HSET", "few", "field", "value", "other", "value"])?;
    let mut ongoing = Ongoing::default();
    let target = target.clone();
    ongoing.spawn(move |part| {
        let counts = ["-100000000", "-4611686018427387903", "-9223372036854775807"];
        for count in counts.iter().cycle() {
            if !part.goes_on() {
                break;
            }
            let client = target.member()?;
            client.stream().set_nonblocking(true)?;
            write_some(client.stream(), &encoded(&["HRANDFIELD", "few", count, "WITHVALUES"]))?;
            part.paced_act(INTERVAL * 50);
            read_some(client.stream(), &mut [0; 4096])?;
        }
        Ok(())
    });
    Ok(ongoing)
}

/// Transactions that are queued for ever and never executed.
///
/// # Errors
/// When a connection is refused.
pub fn transactions_without_end(target: &Target) -> Result<Ongoing> {
    let mut ongoing = Ongoing::default();
    for _ in 0..TRANSACTIONS {
        let mut client = target.member()?;
        client.expect_ok(&["MULTI"])?;
        client.stream().set_nonblocking(true)?;
        let piece = encoded(&["SET", "queued", &"v".repeat(QUEUED_VALUE_BYTES)]).repeat(16);
        ongoing.spawn(move |part| {
            let (mut at, mut answers) = (0, vec![0; 64 << 10]);
            while part.goes_on() {
                let Some(written) = write_some(client.stream(), &piece[at..])? else {
                    break;
                };
                at = (at + written) % piece.len();
                if read_some(client.stream(), &mut answers)?.is_none() {
                    break;
                }
                part.paced_act(INTERVAL);
            }
            Ok(())
        });
    }
    Ok(ongoing)
}

/// Keys watched for ever, each other than those before.
///
/// # Errors
/// None of its own.
pub fn watches_without_end(target: &Target) -> Result<Ongoing> {
    let mut ongoing = Ongoing::default();
    let long = "x".repeat(WATCHED_KEY_BYTES);
    let watch = |round: usize| {
        let keys = (0..WATCHED_KEYS).map(|key| format!("{round}:{key}:{long}"));
        std::iter::once("WATCH".to_owned()).chain(keys).collect()
    };
    repeat(&mut ongoing, target, true, (0..WATCH_ROUNDS).map(watch).collect());
    Ok(ongoing)
}

/// Guessing, by HELLO and by AUTH, with short and with long passwords.
///
/// # Errors
/// None of its own.
pub fn wrong_passwords(target: &Target) -> Result<Ongoing> {
    let mut ongoing = Ongoing::default();
    let long = "x".repeat(16_000);
    let commands = vec![
        command(&["HELLO", "3", "AUTH", "default", "wrong"]),
        command(&["AUTH", "wrong"]),
        command(&["AUTH", &long]),
        command(&["HELLO", "3", "AUTH", "default", &long]),
        command(&["HELLO", "3", "AUTH", &long, "wrong", "SETNAME", &long]),
    ];
    for _ in 0..8 {
        repeat(&mut ongoing, target, false, commands.clone());
    }
    Ok(ongoing)
}
