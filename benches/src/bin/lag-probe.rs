//! How late a client at a slave sees what a client at the master wrote, beyond what the line takes.
//!
//! One key holds the number of the newest probe: it is written at the master at an even pace, and
//! each slave is asked for it from when the next probe can be there until it is, with pauses. A
//! reply that shows number n shows all up to n. All clocks are this process' own.
//!
//! Every figure is an upper bound: a probe counts as seen when the reply that shows it has come,
//! which is up to a pause and a round trip after it could be read. Both are measured and printed.

use std::{
    net::SocketAddr,
    str::FromStr,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow, bail};
use clap::Parser;
use larder_benches::{
    client::{Client, Replies, Requests},
    figures::Spread,
    timer::{be_punctual, sleep_until},
};
use larder_resp::Value;
use serde::Serialize;

/// A reply that takes longer means that a server stands.
const REPLY_TIMEOUT: Duration = Duration::from_secs(20);
/// How long to go on asking for a probe after its write was due.
const UNSEEN: Duration = Duration::from_secs(10);
/// Asking begins so long before a probe can be there: a line that is too short is noticed.
const LEAD: Duration = Duration::from_micros(500);
/// Probes that are written first and not counted.
const WARM_UP: Duration = Duration::from_secs(1);
/// Probes in all.
const PROBES_MAX: f64 = 10e6;

/// Measures how late a slave is.
#[derive(Parser)]
struct Args {
    /// Where the master's clients connect.
    #[arg(long, value_name = "HOST:PORT")]
    master: SocketAddr,
    /// A slave, and what the line to it takes one way, milliseconds. May be given several times.
    #[arg(long = "slave", value_name = "HOST:PORT=MS", required = true)]
    slaves: Vec<Slave>,
    /// Probes a second.
    #[arg(long, value_name = "N", default_value_t = 500.0)]
    rate: f64,
    /// How long, seconds.
    #[arg(long, value_name = "S", default_value_t = 10.0)]
    seconds: f64,
    /// The pause between two questions to a slave, microseconds.
    #[arg(long, value_name = "US", default_value_t = 200)]
    pause_us: u64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy)]
struct Slave {
    address: SocketAddr,
    one_way: Duration,
}

impl FromStr for Slave {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (address, ms) = text.split_once('=').context("HOST:PORT=MS")?;
        let one_way = Duration::try_from_secs_f64(ms.parse::<f64>()? / 1e3)?;
        Ok(Self { address: address.parse()?, one_way })
    }
}

/// The schedule, and when each probe was sent and acknowledged: nanoseconds since it began, 0 as
/// long as it was not.
struct Probes {
    key: String,
    began: Instant,
    period: Duration,
    sent: Vec<AtomicU64>,
    acknowledged: Vec<AtomicU64>,
}

/// What one slave showed.
struct Seen {
    /// Nanoseconds since the schedule began; `None`: not in time.
    at: Vec<Option<u64>>,
    /// What each question took, milliseconds.
    questions_ms: Vec<f64>,
}

/// The figures, milliseconds.
#[derive(Serialize)]
struct Report {
    probes: usize,
    rate: f64,
    seconds: f64,
    pause_us: u64,
    /// From sending to the master's reply.
    acknowledged_ms: Spread,
    slaves: Vec<SlaveReport>,
}

#[derive(Serialize)]
struct SlaveReport {
    address: SocketAddr,
    one_way_ms: f64,
    /// From the master's reply to the reply that shows it, less the line.
    lag_ms: Spread,
    /// From sending to the reply that shows it, less the line.
    lag_from_sending_ms: Spread,
    unseen: usize,
    /// What a question took; with the pause, how much later than it could be a probe is seen.
    question_ms: Spread,
    questions_per_second: f64,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let count = (args.rate * (args.seconds + WARM_UP.as_secs_f64())).ceil();
    if !(1.0..=PROBES_MAX).contains(&count) {
        bail!("--rate times --seconds must be 1 to {PROBES_MAX} probes");
    }
    let pause = Duration::from_micros(args.pause_us);
    let (requests, replies) = Client::connect(args.master, REPLY_TIMEOUT)?.split();
    let readers: Vec<_> =
        args.slaves.iter().map(|slave| reader(*slave)).collect::<Result<_, _>>()?;
    let probes = Probes::new(count as usize, Duration::from_secs_f64(1.0 / args.rate));
    let seen: Vec<Seen> = thread::scope(|scope| {
        let writing = scope.spawn(|| probes.write(requests));
        let hearing = scope.spawn(|| probes.hear(replies));
        let reading: Vec<_> = readers
            .into_iter()
            .zip(&args.slaves)
            .map(|(client, slave)| scope.spawn(|| probes.watch(client, slave.one_way, pause)))
            .collect();
        joined(writing)?;
        joined(hearing)?;
        reading.into_iter().map(joined).collect::<anyhow::Result<_>>()
    })?;
    let report = report(&args, &probes, &seen);
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print(&report);
    }
    Ok(())
}

fn joined<T>(thread: thread::ScopedJoinHandle<'_, anyhow::Result<T>>) -> anyhow::Result<T> {
    thread.join().map_err(|_| anyhow!("a thread panicked"))?
}

/// A connection that may read at a slave. Servers without READONLY, and those that need none,
/// answer it with an error.
fn reader(slave: Slave) -> anyhow::Result<Client> {
    let mut client = Client::connect(slave.address, REPLY_TIMEOUT)?;
    client.call(&[b"READONLY"])?;
    Ok(client)
}

impl Probes {
    fn new(count: usize, period: Duration) -> Self {
        let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
        Self {
            key: format!("lag-probe:{}:{}", std::process::id(), since.as_nanos()),
            began: Instant::now() + Duration::from_millis(10),
            period,
            sent: (0..count).map(|_| AtomicU64::new(0)).collect(),
            acknowledged: (0..count).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    fn due(&self, number: usize) -> Instant {
        self.began + self.period.mul_f64(number as f64)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX).max(1)
    }

    fn write(&self, mut requests: Requests) -> anyhow::Result<()> {
        be_punctual()?;
        for (number, sent) in self.sent.iter().enumerate() {
            sleep_until(self.due(number));
            sent.store(self.now(), Ordering::Release);
            requests.send(&[b"SET", self.key.as_bytes(), number.to_string().as_bytes()])?;
        }
        Ok(())
    }

    fn hear(&self, mut replies: Replies) -> anyhow::Result<()> {
        for acknowledged in &self.acknowledged {
            let reply = replies.read().context("at the master")?;
            acknowledged.store(self.now(), Ordering::Release);
            if let Some(error) = reply.as_error() {
                bail!("the master answered: {error}");
            }
        }
        Ok(())
    }

    /// Asks for each probe from when it can be there until it is.
    fn watch(
        &self,
        mut client: Client,
        one_way: Duration,
        pause: Duration,
    ) -> anyhow::Result<Seen> {
        be_punctual()?;
        let mut seen = Seen { at: vec![None; self.sent.len()], questions_ms: Vec::new() };
        let mut next = 0;
        while next < self.sent.len() {
            let can_be_there = self.due(next) + one_way;
            sleep_until(can_be_there.checked_sub(LEAD).unwrap_or(can_be_there));
            loop {
                let asked = Instant::now();
                let reply = client.call(&[b"GET", self.key.as_bytes()]).context("at a slave")?;
                seen.questions_ms.push(ms(asked.elapsed()));
                let newest = newest(&reply)?.filter(|newest| *newest >= next);
                if let Some(newest) = newest {
                    let now = self.now();
                    let shown = seen.at.get_mut(next..=newest).context("a number of no probe")?;
                    shown.fill(Some(now));
                    next = newest + 1;
                    break;
                }
                if can_be_there.elapsed() > UNSEEN {
                    next += 1;
                    break;
                }
                thread::sleep(pause);
            }
        }
        Ok(seen)
    }
}

/// The number that a slave shows, if any probe has reached it.
fn newest(reply: &Value) -> anyhow::Result<Option<usize>> {
    if let Some(error) = reply.as_error() {
        bail!("a slave answered: {error}");
    }
    let Some(bytes) = reply.as_bytes() else { return Ok(None) };
    Ok(Some(std::str::from_utf8(bytes)?.parse()?))
}

fn ms(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}

/// Milliseconds from one moment to a later or an earlier one.
fn between_ms(from: u64, to: u64) -> f64 {
    (to as f64 - from as f64) / 1e6
}

fn report(args: &Args, probes: &Probes, seen: &[Seen]) -> Report {
    let first = (args.rate * WARM_UP.as_secs_f64()) as usize;
    let load = |times: &[AtomicU64]| -> Vec<u64> {
        times.iter().map(|time| time.load(Ordering::Acquire)).collect()
    };
    let (sent, acknowledged) = (load(&probes.sent), load(&probes.acknowledged));
    let counted = first..sent.len();
    let slaves = args.slaves.iter().zip(seen).map(|(slave, seen)| {
        let late = |from: &[u64]| {
            let of = |n: usize| Some(between_ms(from[n], seen.at[n]?) - ms(slave.one_way));
            Spread::of(counted.clone().filter_map(of).collect())
        };
        SlaveReport {
            address: slave.address,
            one_way_ms: ms(slave.one_way),
            lag_ms: late(&acknowledged),
            lag_from_sending_ms: late(&sent),
            unseen: seen.at[counted.clone()].iter().filter(|at| at.is_none()).count(),
            question_ms: Spread::of(seen.questions_ms.clone()),
            questions_per_second: seen.questions_ms.len() as f64 * args.rate / sent.len() as f64,
        }
    });
    Report {
        probes: counted.len(),
        rate: args.rate,
        seconds: args.seconds,
        pause_us: args.pause_us,
        slaves: slaves.collect(),
        acknowledged_ms: Spread::of(
            counted.clone().map(|n| between_ms(sent[n], acknowledged[n])).collect(),
        ),
    }
}

fn print(report: &Report) {
    let Report { probes, rate, pause_us, acknowledged_ms: acknowledged, .. } = report;
    println!("{probes} probes, {rate} a second; milliseconds: p50, p99, greatest");
    let line = |what: &str, Spread { p50, p99, max, .. }: &Spread| {
        println!("  {what:<44} {p50:>8.2} {p99:>8.2} {max:>8.2}");
    };
    line("acknowledged by the master", acknowledged);
    for slave in &report.slaves {
        println!(
            "slave {}, {} ms one way, not seen: {}",
            slave.address, slave.one_way_ms, slave.unseen
        );
        line("seen after the acknowledgement, less the line", &slave.lag_ms);
        line("seen after sending, less the line", &slave.lag_from_sending_ms);
        line("a question (part of the above)", &slave.question_ms);
        println!(
            "  {:.0} questions a second, {pause_us} us after the reply before",
            slave.questions_per_second
        );
    }
}
