//! A proxy that alters one reply: the proof that the comparison can fail.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use anyhow::Result;

use crate::reply::Reply;

/// Stands before a server, passes everything on, and adds one to one integer reply.
#[derive(Debug)]
pub struct Flipper {
    address: SocketAddr,
    flipped: Arc<AtomicBool>,
}

/// What the proxy's threads share.
#[derive(Clone)]
struct Shared {
    remaining: Arc<AtomicI64>,
    flipped: Arc<AtomicBool>,
}

impl Flipper {
    /// Alters the integer reply after `spared` others, counted over all connections.
    ///
    /// # Errors
    /// When no port is free.
    pub fn start(server: SocketAddr, spared: i64) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let flipped = Arc::new(AtomicBool::new(false));
        let shared =
            Shared { remaining: Arc::new(AtomicI64::new(spared)), flipped: Arc::clone(&flipped) };
        // Ends with the process: a listener cannot be interrupted, and holds nothing else.
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if let Ok(server) = TcpStream::connect(server) {
                    // A connection that cannot be proxied shows as a missing reply.
                    let _ = proxy(client, server, &shared);
                }
            }
        });
        Ok(Self { address, flipped })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether it has altered its reply.
    pub fn has_flipped(&self) -> bool {
        self.flipped.load(Ordering::SeqCst)
    }
}

fn proxy(client: TcpStream, server: TcpStream, shared: &Shared) -> Result<()> {
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Write);
    });
    let shared = shared.clone();
    std::thread::spawn(move || {
        let _ = relay_replies(server, &client, &shared);
        let _ = client.shutdown(Shutdown::Both);
    });
    Ok(())
}

fn relay_replies(mut server: TcpStream, mut client: &TcpStream, shared: &Shared) -> Result<()> {
    let mut pending = Vec::new();
    let mut piece = [0; 16 << 10];
    loop {
        let read = server.read(&mut piece)?;
        if read == 0 {
            return Ok(());
        }
        pending.extend_from_slice(&piece[..read]);
        while let Some((reply, used)) = Reply::parse(&pending)? {
            let rest = pending.split_off(used);
            let is_due =
                reply.integer().is_some() && shared.remaining.fetch_sub(1, Ordering::SeqCst) == 0;
            match reply.integer() {
                Some(value) if is_due => {
                    // Before it is sent: whoever sees the altered reply may ask at once.
                    shared.flipped.store(true, Ordering::SeqCst);
                    client.write_all(format!(":{}\r\n", value.wrapping_add(1)).as_bytes())?;
                }
                _ => client.write_all(&pending)?,
            }
            pending = rest;
        }
    }
}
