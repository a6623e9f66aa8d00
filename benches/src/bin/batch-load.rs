//! A load of SETs in batches: each connection sends a pipeline, waits for all its replies, and
//! sends the next, as `redis-benchmark -P` does. Beyond that it can end each batch with `WAIT`, so
//! that Redis too answers only when a replica has the writes; write values that look like JSON; and
//! write each key once. SIGTERM ends it early, with its report.
//!
//! With a rate the batches are due in one even schedule, and each counts from when it was due: when
//! the server stands, what was due meanwhile waits too.

use std::{
    cell::RefCell,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use bytes::BytesMut;
use clap::{Parser, ValueEnum};
use larder_benches::{
    document::write_order,
    figures::Spread,
    timer::{be_punctual, sleep_until},
};
use larder_resp::{ReplyDecoder, ReplyLimits, Value, encode_request};
use rand::{Rng as _, RngCore as _, SeedableRng as _, rngs::SmallRng};
use serde::Serialize;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    task::JoinSet,
    time::timeout,
};

/// A batch that takes longer means that the server stands.
const BATCH_TIMEOUT: Duration = Duration::from_secs(30);
/// Random values are cut out of so many random bytes beyond their own length.
const POOL_BYTES: usize = 1 << 20;
/// Batches that may wait for one connection.
const TURNS_MAX: usize = 4096;

/// Loads a server with SETs.
#[derive(Clone, Parser)]
struct Args {
    /// Where clients connect.
    #[arg(long, value_name = "HOST:PORT")]
    server: String,
    /// Connections.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
    /// SETs of a batch.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pipeline: u32,
    /// SETs a second, all connections together; as many as possible without.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// How long to measure, seconds.
    #[arg(long, value_name = "S", default_value_t = 10)]
    seconds: u64,
    /// How long to load before that, seconds.
    #[arg(long, value_name = "S", default_value_t = 1)]
    warmup_seconds: u64,
    /// End each batch with WAIT for so many replicas.
    #[arg(long, value_name = "N")]
    wait: Option<u32>,
    /// What values are like.
    #[arg(long, value_name = "KIND", default_value = "random")]
    values: Kind,
    /// Bytes of each random value.
    #[arg(long, value_name = "BYTES", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=16_000_000))]
    value_bytes: u32,
    /// How many different keys, key:000000000000 and up, chosen at random.
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    keys: u64,
    /// Write each key once, in order, as fast as possible, and end.
    #[arg(long, conflicts_with = "rate")]
    fill: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    /// Bytes that no compression helps with.
    Random,
    /// Orders of about 450 bytes.
    Json,
}

/// What was done.
#[derive(Serialize)]
struct Report {
    /// All SETs, those before the measuring too.
    requests: u64,
    /// Bytes of their keys and values.
    written_bytes: u64,
    /// From the first to the last, seconds.
    elapsed_seconds: f64,
    /// SETs a second while it was measured.
    per_second: f64,
    /// A batch from sending, or from when it was due, to its last reply, milliseconds.
    batch_ms: Spread,
    /// Batches that fewer replicas had than WAIT asked for.
    short_waits: u64,
}

/// What all connections add up.
#[derive(Default)]
struct Tally {
    next_key: u64,
    requests: u64,
    measured: u64,
    written_bytes: u64,
    batches_ms: Vec<f64>,
    short_waits: u64,
}

/// When things begin and end.
struct Times {
    began: Instant,
    measured_from: Instant,
    ends: Instant,
    /// It was told to end early.
    is_stopped: AtomicBool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let mut pool = vec![0; POOL_BYTES + args.value_bytes as usize];
    SmallRng::seed_from_u64(1).fill_bytes(&mut pool);
    let began = Instant::now();
    let measured_from = began + Duration::from_secs(args.warmup_seconds);
    let ends = measured_from + Duration::from_secs(args.seconds);
    let times = Arc::new(Times { began, measured_from, ends, is_stopped: AtomicBool::new(false) });
    let shared = Rc::new(Shared { args, tally: RefCell::default(), pool, times });
    let local = tokio::task::LocalSet::new();
    local.run_until(load(&shared)).await?;
    println!("{}", serde_json::to_string(&report(&shared))?);
    Ok(())
}

/// Runs all connections to their end.
async fn load(shared: &Rc<Shared>) -> anyhow::Result<()> {
    let mut stop = signal(SignalKind::terminate()).context("await SIGTERM")?;
    let times = Arc::clone(&shared.times);
    tokio::task::spawn_local(async move {
        stop.recv().await;
        times.is_stopped.store(true, Ordering::Relaxed);
    });
    let mut connections = JoinSet::new();
    let mut turns = Vec::new();
    for number in 0..shared.args.connections {
        let (turn, due) = mpsc::channel(TURNS_MAX);
        turns.push(turn);
        let connection = Connection {
            shared: Rc::clone(shared),
            due: shared.args.rate.map(|_| due),
            random: SmallRng::seed_from_u64(u64::from(number) + 2),
            order: String::new(),
        };
        connections.spawn_local(connection.run());
    }
    if let Some(rate) = shared.args.rate {
        let period = Duration::from_secs_f64(f64::from(shared.args.pipeline) / f64::from(rate));
        let times = Arc::clone(&shared.times);
        thread::spawn(move || pace(&times, period, &turns));
    }
    while let Some(ended) = connections.join_next().await {
        ended??;
    }
    Ok(())
}

/// Tells connections by turns that a batch is due. A thread of its own, because the runtime's
/// timers are no finer than a millisecond. One that has too many waiting is waited for.
fn pace(times: &Times, period: Duration, turns: &[mpsc::Sender<Instant>]) {
    if let Err(error) = be_punctual() {
        eprintln!("batches are a little later than due: {error}");
    }
    let mut due = times.began;
    for turn in turns.iter().cycle() {
        sleep_until(due);
        if times.are_over() || turn.blocking_send(due).is_err() {
            return;
        }
        due += period;
    }
}

impl Times {
    fn are_over(&self) -> bool {
        Instant::now() >= self.ends || self.is_stopped.load(Ordering::Relaxed)
    }
}

fn report(shared: &Shared) -> Report {
    let Shared { args, tally, times, .. } = shared;
    let tally = tally.take();
    let now = Instant::now();
    let elapsed_seconds = (now - times.began).as_secs_f64();
    let measured = now.min(times.ends).saturating_duration_since(times.measured_from);
    let (count, seconds) = if args.fill {
        (tally.requests, elapsed_seconds)
    } else {
        (tally.measured, measured.as_secs_f64())
    };
    Report {
        requests: tally.requests,
        written_bytes: tally.written_bytes,
        elapsed_seconds,
        per_second: count as f64 / seconds,
        batch_ms: Spread::of(tally.batches_ms),
        short_waits: tally.short_waits,
    }
}

struct Shared {
    args: Args,
    tally: RefCell<Tally>,
    /// Where random values are cut from.
    pool: Vec<u8>,
    times: Arc<Times>,
}

struct Connection {
    shared: Rc<Shared>,
    /// When its batches are due, where there is a schedule.
    due: Option<mpsc::Receiver<Instant>>,
    random: SmallRng,
    order: String,
}

impl Connection {
    async fn run(mut self) -> anyhow::Result<()> {
        let mut stream = TcpStream::connect(&self.shared.args.server).await.context("connect")?;
        stream.set_nodelay(true)?;
        let mut decoder = ReplyDecoder::new(ReplyLimits::DEFAULT);
        let (mut requests, mut replies) = (BytesMut::new(), BytesMut::new());
        while let Some(due) = self.next_batch().await {
            requests.clear();
            let count = self.write_batch(&mut requests);
            if count == 0 {
                break;
            }
            let exchange = async {
                stream.write_all(&requests).await?;
                self.hear(&mut stream, &mut decoder, &mut replies, count).await
            };
            timeout(BATCH_TIMEOUT, exchange).await.context("no reply in time")??;
            self.shared.count(count, due);
        }
        Ok(())
    }

    /// When the next batch was to be sent; `None`: there is none.
    async fn next_batch(&mut self) -> Option<Instant> {
        let due = match &mut self.due {
            Some(due) => due.recv().await?,
            None => Instant::now(),
        };
        let times = &self.shared.times;
        let goes_on = self.shared.args.fill && !times.is_stopped.load(Ordering::Relaxed);
        (goes_on || !times.are_over()).then_some(due)
    }

    /// Writes a batch; how many SETs it has.
    fn write_batch(&mut self, out: &mut BytesMut) -> u64 {
        let Shared { args, tally, pool, .. } = &*self.shared;
        let mut tally = tally.borrow_mut();
        let mut count = 0;
        for _ in 0..args.pipeline {
            let key = if args.fill {
                if tally.next_key == args.keys {
                    break;
                }
                tally.next_key += 1;
                tally.next_key - 1
            } else {
                self.random.random_range(0..args.keys)
            };
            let key = format!("key:{key:012}");
            let value = match args.values {
                Kind::Random => {
                    let from = self.random.random_range(0..POOL_BYTES);
                    &pool[from..from + args.value_bytes as usize]
                }
                Kind::Json => {
                    write_order(&mut self.order, &mut self.random);
                    self.order.as_bytes()
                }
            };
            encode_request(out, [&b"SET"[..], key.as_bytes(), value]);
            tally.written_bytes += (key.len() + value.len()) as u64;
            count += 1;
        }
        if let Some(wait) = args.wait.filter(|_| count > 0) {
            encode_request(out, ["WAIT", &wait.to_string(), "5000"]);
        }
        count
    }

    /// Reads the replies to a batch of so many SETs.
    async fn hear(
        &self,
        stream: &mut TcpStream,
        decoder: &mut ReplyDecoder,
        buffer: &mut BytesMut,
        count: u64,
    ) -> anyhow::Result<()> {
        let mut left = count + u64::from(self.shared.args.wait.is_some());
        while left > 0 {
            let Some(reply) = decoder.decode(buffer)? else {
                buffer.reserve(16 << 10);
                if stream.read_buf(buffer).await? == 0 {
                    bail!("the server closed the connection");
                }
                continue;
            };
            left -= 1;
            match reply {
                Value::Integer(had) if had < i64::from(self.shared.args.wait.unwrap_or(0)) => {
                    self.shared.tally.borrow_mut().short_waits += 1;
                }
                reply => {
                    if let Some(error) = reply.as_error() {
                        bail!("the server answered: {error}");
                    }
                }
            }
        }
        Ok(())
    }
}

impl Shared {
    /// Counts a batch of so many SETs that was to be sent `due`, and has been answered now.
    fn count(&self, sets: u64, due: Instant) {
        let now = Instant::now();
        let mut tally = self.tally.borrow_mut();
        tally.requests += sets;
        if (self.times.measured_from..self.times.ends).contains(&now) {
            tally.measured += sets;
            tally.batches_ms.push((now - due).as_secs_f64() * 1e3);
        }
    }
}
