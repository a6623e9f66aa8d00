//! A TCP proxy that makes the way to a server as long as wanted, in both directions, for servers
//! that cannot do so themselves. Only the making of a connection is as quick as it is.
//!
//! Each connection has two threads a direction: one reads and stamps, one waits and writes. That
//! makes the delay exact to some tens of microseconds while the machine has a processor free.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::Parser;
use larder_benches::{delay::Line, timer::be_punctual};

/// Bytes that are read at a time.
const READ_BYTES: usize = 64 << 10;
/// Connections at once. One more is closed at once.
const CONNECTIONS_MAX: usize = 64;

/// Makes the way to a server longer.
#[derive(Parser)]
struct Args {
    /// Where to listen; the address is printed.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: String,
    /// The server.
    #[arg(long, value_name = "HOST:PORT")]
    to: String,
    /// What each direction takes, milliseconds.
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(f64))]
    delay_ms: f64,
    /// What may be under way in each direction of a connection: bandwidth times delay, and more.
    #[arg(long, value_name = "BYTES", default_value_t = 32 << 20)]
    buffer_bytes: usize,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let delay = Duration::try_from_secs_f64(args.delay_ms / 1e3).context("--delay-ms")?;
    let listener = TcpListener::bind(&args.listen).context("bind the address")?;
    println!("{}", listener.local_addr()?);
    let open = Arc::new(AtomicUsize::new(0));
    loop {
        let (client, _) = listener.accept().context("accept a connection")?;
        if open.load(Ordering::Relaxed) >= CONNECTIONS_MAX {
            continue;
        }
        let server = match TcpStream::connect(&args.to) {
            Ok(server) => server,
            Err(error) => {
                eprintln!("{}: {error}", args.to);
                continue;
            }
        };
        open.fetch_add(1, Ordering::Relaxed);
        let (open, bytes_max) = (Arc::clone(&open), args.buffer_bytes);
        thread::spawn(move || {
            if let Err(error) = join(&client, &server, delay, bytes_max) {
                eprintln!("a connection ended: {error}");
            }
            open.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

/// Carries both directions until both have ended.
fn join(
    client: &TcpStream,
    server: &TcpStream,
    delay: Duration,
    bytes_max: usize,
) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let there = Line::new(delay, bytes_max);
    let back = Line::new(delay, bytes_max);
    thread::scope(|scope| {
        scope.spawn(|| read_into(&there, client));
        scope.spawn(|| write_from(&there, client, server));
        scope.spawn(|| read_into(&back, server));
        scope.spawn(|| write_from(&back, server, client));
    });
    Ok(())
}

fn read_into(line: &Line, mut from: &TcpStream) {
    let mut buffer = vec![0; READ_BYTES];
    // A connection that is reset has ended like one that is closed.
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if !line.put(Instant::now(), buffer[..count].to_vec()) {
            return;
        }
    }
    line.end();
}

fn write_from(line: &Line, from: &TcpStream, mut to: &TcpStream) {
    if let Err(error) = be_punctual() {
        eprintln!("delays are a little longer than asked: {error}");
    }
    while let Some(piece) = line.take() {
        if to.write_all(&piece).is_err() {
            line.abandon();
            // Wakes whoever reads there. It may be closed already.
            let _ = from.shutdown(Shutdown::Both);
            return;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
