//! The attacks. Each is bounded in time by its trial and in rate by itself.

mod commands;
mod connections;
mod declared;
mod pipelines;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use anyhow::Result;

pub use commands::{
    fields_without_end, giant_offsets, glob_bombs, long_work_behind_a_large_reply,
    transactions_without_end, watches_without_end, wrong_passwords,
};
pub use connections::{garbage, idle_connections, one_byte_a_second};
pub use declared::{declared_gigabytes_after_auth, declared_gigabytes_before_auth};
pub use pipelines::{
    big_replies_never_read, big_replies_unread, pipelines_unread, pipelines_unread_before_auth,
};

/// Writes what the socket takes without waiting; `Ok(None)` once the server has cut it.
pub(crate) fn write_some(mut stream: &TcpStream, bytes: &[u8]) -> Result<Option<usize>> {
    match stream.write(bytes) {
        Ok(written) => Ok(Some(written)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Some(0)),
        Err(error) if is_cut(error.kind()) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Reads at most `buffer` without waiting; `Ok(None)` once the server has cut it.
pub(crate) fn read_some(mut stream: &TcpStream, buffer: &mut [u8]) -> Result<Option<usize>> {
    match stream.read(buffer) {
        Ok(0) => Ok(None),
        Ok(read) => Ok(Some(read)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Some(0)),
        Err(error) if is_cut(error.kind()) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn is_cut(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::NotConnected)
}
