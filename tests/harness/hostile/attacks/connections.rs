//! Connections that are many, slow, or speak something else.

use std::time::Duration;

use anyhow::Result;

use super::super::{Ongoing, Target};
use super::{read_some, write_some};
use crate::client::Client;
use crate::deadline::Deadline;

const IDLE_CONNECTIONS: usize = 10_000;
const SLOW_CONNECTIONS: usize = 1_000;
/// Ten thousand connections are opened and accepted within this.
const OPENING_DEADLINE: Duration = Duration::from_secs(15);
const GARBAGE_INTERVAL: Duration = Duration::from_millis(2);

/// Ten thousand connections that say nothing. Half of them have authenticated.
///
/// # Errors
/// When a connection is refused.
pub fn idle_connections(target: &Target) -> Result<Ongoing> {
    let mut ongoing = Ongoing::default();
    let deadline = Deadline::after(OPENING_DEADLINE);
    for i in 0..IDLE_CONNECTIONS {
        anyhow::ensure!(!deadline.has_passed(), "only {i} connections after {deadline:?}");
        let client = if i % 2 == 0 { target.member()? } else { target.stranger()? };
        ongoing.hold(client);
    }
    Ok(ongoing)
}

/// A thousand connections, each of which sends one byte of a valid request a second.
///
/// # Errors
/// When a connection is refused.
pub fn one_byte_a_second(target: &Target) -> Result<Ongoing> {
    let mut ongoing = Ongoing::default();
    let mut slow: Vec<Client> = Vec::new();
    for i in 0..SLOW_CONNECTIONS {
        let client = if i % 2 == 0 { target.member()? } else { target.stranger()? };
        client.stream().set_nonblocking(true)?;
        slow.push(client);
    }
    ongoing.spawn(move |part| {
        let request = b"*3\r\n$3\r\nSET\r\n$4\r\nslow\r\n$5\r\nvalue\r\n";
        let pace = Duration::from_secs(1) / SLOW_CONNECTIONS as u32;
        for at in (0..request.len()).cycle() {
            for client in &slow {
                if !part.goes_on() {
                    return Ok(());
                }
                // A server may cut one that takes too long before it has authenticated.
                write_some(client.stream(), &request[at..=at])?;
                part.paced_act(pace);
            }
        }
        Ok(())
    });
    Ok(ongoing)
}

/// What is not RESP at all.
fn garbage_pieces() -> Vec<Vec<u8>> {
    vec![
        b"POST / HTTP/1.1\r\nHost: localhost:6379\r\nContent-Length: 20\r\n\r\nSET injected 1\r\n"
            .to_vec(),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        vec![b'x'; 200_000],
        vec![0; 70_000],
        b"\r\n".repeat(20_000),
        b"\"unbalanced\r\n".repeat(10),
        (0..=255).cycle().take(5_000).collect(),
        b"*1\r\n".repeat(5_000),
        b"*-1\r\n*0\r\n".repeat(5_000),
        b" \t \t ".repeat(10_000),
    ]
}

/// HTTP, TLS, zeros, endless lines, from strangers and members by turns.
///
/// # Errors
/// None of its own.
pub fn garbage(target: &Target) -> Result<Ongoing> {
    let mut ongoing = Ongoing::default();
    let target = target.clone();
    ongoing.spawn(move |part| {
        let pieces = garbage_pieces();
        for i in 0.. {
            if !part.goes_on() {
                break;
            }
            let client = if i % 2 == 0 { target.stranger()? } else { target.member()? };
            client.stream().set_nonblocking(true)?;
            write_some(client.stream(), &pieces[i % pieces.len()])?;
            let mut answer = [0; 4096];
            read_some(client.stream(), &mut answer)?;
            part.paced_act(GARBAGE_INTERVAL);
        }
        Ok(())
    });
    Ok(ongoing)
}
