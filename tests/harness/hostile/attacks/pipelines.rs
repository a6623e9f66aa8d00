//! Replies that nobody reads.

use std::time::Duration;

use anyhow::Result;

use super::super::{Ongoing, Target};
use super::{read_some, write_some};
use crate::client::{Client, encode_into, encoded};

/// Commands that each connection of an unread pipeline tries to send.
const COMMANDS: usize = 1_000_000;
/// Connections of members that do so side by side.
const CONNECTIONS: usize = 4;
/// How long to leave a socket that takes nothing.
const BLOCKED_INTERVAL: Duration = Duration::from_millis(2);
/// The value that is asked for again and again: 16 connections times 1,000 requests for it would
/// be 16 GB of replies.
const BIG_VALUE_BYTES: usize = 1 << 20;
const BIG_READERS: usize = 16;
const BIG_REQUESTS: usize = 1_000;
/// A connection asks so often for twice that at once: the system's buffers take the first.
const NEVER_READ_REQUESTS: usize = 4;
const NEVER_READERS: usize = 100;
const NEVER_READ_INTERVAL: Duration = Duration::from_millis(10);

/// Writes all of `wire` as far as the server takes it, and never reads.
fn write_and_never_read(ongoing: &mut Ongoing, client: Client, wire: Vec<u8>) -> Result<()> {
    client.stream().set_nonblocking(true)?;
    ongoing.spawn(move |part| {
        let mut sent = 0;
        while part.goes_on() {
            match write_some(client.stream(), &wire[sent..])? {
                None => break,
                Some(0) => part.paced_act(BLOCKED_INTERVAL),
                Some(written) => {
                    sent += written;
                    part.act();
                }
            }
        }
        Ok(())
    });
    Ok(())
}

/// Four connections that each send a million GETs of a 1 KiB value and never read a reply.
///
/// # Errors
/// When a connection is refused.
pub fn pipelines_unread(target: &Target) -> Result<Ongoing> {
    let mut ongoing = Ongoing::default();
    target.member()?.expect_ok(&["SET", "kib", &"v".repeat(1024)])?;
    let wire = encoded(&["GET", "kib"]).repeat(COMMANDS);
    for _ in 0..CONNECTIONS {
        write_and_never_read(&mut ongoing, target.member()?, wire.clone())?;
    }
    Ok(ongoing)
}

/// One connection of a stranger that does the same: each command is refused, and the refusals are
/// not read.
///
/// # Errors
/// When a connection is refused.
pub fn pipelines_unread_before_auth(target: &Target) -> Result<Ongoing> {
    let mut ongoing = Ongoing::default();
    let wire = encoded(&["GET", "k"]).repeat(COMMANDS);
    write_and_never_read(&mut ongoing, target.stranger()?, wire)?;
    Ok(ongoing)
}

/// Sixteen connections that ask a thousand times for 1 MiB and read 64 bytes a millisecond.
///
/// # Errors
/// When a connection is refused.
pub fn big_replies_unread(target: &Target) -> Result<Ongoing> {
    let mut ongoing = Ongoing::default();
    target.member()?.expect_ok(&["SET", "mib", &"v".repeat(BIG_VALUE_BYTES)])?;
    let mut wire = Vec::new();
    for _ in 0..BIG_REQUESTS {
        encode_into(&mut wire, &["GET", "mib"]);
    }
    let mut readers = Vec::new();
    for _ in 0..BIG_READERS {
        let client = target.member()?;
        client.stream().set_nonblocking(true)?;
        write_some(client.stream(), &wire)?;
        readers.push(client);
    }
    ongoing.spawn(move |part| {
        let mut buffer = [0; 64];
        while part.goes_on() {
            for reader in &readers {
                read_some(reader.stream(), &mut buffer)?;
            }
            part.paced_act(Duration::from_millis(1));
        }
        Ok(())
    });
    Ok(ongoing)
}

/// A hundred connections that ask for 2 MiB a few times, never read, and come again when they are
/// closed.
///
/// # Errors
/// When a connection is refused.
pub fn big_replies_never_read(target: &Target) -> Result<Ongoing> {
    let mut ongoing = Ongoing::default();
    target.member()?.expect_ok(&["SET", "big", &"v".repeat(2 * BIG_VALUE_BYTES)])?;
    let wire = encoded(&["GET", "big"]).repeat(NEVER_READ_REQUESTS);
    let target = target.clone();
    ongoing.spawn(move |part| {
        let connect = || -> Result<Client> {
            let client = target.member()?;
            client.stream().set_nonblocking(true)?;
            Ok(client)
        };
        let mut readers = Vec::new();
        for at in (0..NEVER_READERS).cycle() {
            if !part.goes_on() {
                break;
            }
            if readers.len() < NEVER_READERS {
                readers.push(connect()?);
            }
            if write_some(readers[at].stream(), &wire)?.is_none() {
                readers[at] = connect()?;
            }
            part.paced_act(NEVER_READ_INTERVAL);
        }
        Ok(())
    });
    Ok(ongoing)
}
