//! One attack, measured.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::probe::window;
use super::resident::{PeakSampler, resident_bytes};
use crate::client::Client;
use crate::process::Server;

/// The windows with and without the attack come by turns, so many of each. The median of five
/// survives two that something else on the machine has spoilt.
const ROUNDS: usize = 5;
/// Latencies beyond the bound are measured anew, and must then be within it so often in a row, or whenever the machine
/// lets that be judged: one that others share stalls for seconds at times. Nothing else is tried again.
const ANEW: usize = 3;
/// Of all trials of a run, so many are measured anew at most.
const TRIALS_ANEW_MAX: usize = 3;
/// How many were.
static TRIALS_ANEW: AtomicUsize = AtomicUsize::new(0);
/// Connections of others, which must outlive the attack.
const BYSTANDERS: usize = 20;
/// The well-behaved client's p99 may grow to this multiple.
const LATENCY_FACTOR: u32 = 5;
/// A quiet p99 below this counts as this: from one window to the next it differs as much.
const QUIET_LEAST: Duration = Duration::from_micros(500);
/// What a machine takes for so much new memory says how quick it is to give any.
const NEW_BYTES: usize = 4 << 20;
/// A quick one takes half of that. Where it takes longer (some 40 ms, at times), latencies that are too long are
/// of the machine: the same server stays within its bound on it in another hour.
const NEW_MEMORY_MAX: Duration = Duration::from_millis(2);

/// Who is attacked.
#[derive(Clone, Debug)]
pub struct Target {
    /// Where it serves RESP.
    pub address: SocketAddr,
    /// Its password.
    pub password: &'static str,
}

impl Target {
    /// A connection that has not authenticated.
    ///
    /// # Errors
    /// When it is refused.
    pub fn stranger(&self) -> Result<Client> {
        Client::connect(self.address)
    }

    /// A connection that has.
    ///
    /// # Errors
    /// When it, or the password, is refused.
    pub fn member(&self) -> Result<Client> {
        let mut client = self.stranger()?;
        client.expect_ok(&["AUTH", self.password])?;
        Ok(client)
    }
}

/// What an attack may cost.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Growth of the server's resident memory over what it was before, in bytes.
    pub memory_bytes: u64,
    /// The attack must have done at least so many hostile acts, or nothing is proved.
    pub acts_least: u64,
    /// A quiet p99 below this counts as this.
    pub quiet_least: Duration,
}

impl Bounds {
    /// These, and what latencies are compared with as [`QUIET_LEAST`] says.
    pub const fn of(memory_bytes: u64, acts_least: u64) -> Self {
        Self { memory_bytes, acts_least, quiet_least: QUIET_LEAST }
    }
}

/// How an attack begins. It returns once it is under way, and goes on until [`Ongoing::end`].
pub type Attack = fn(&Target) -> Result<Ongoing>;

/// An attack under way.
#[derive(Debug, Default)]
pub struct Ongoing {
    stop: Arc<AtomicBool>,
    acts: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Result<()>>>,
    held: Vec<Client>,
}

/// What an attacker's thread sees of its attack.
#[derive(Clone, Debug)]
pub struct Part {
    stop: Arc<AtomicBool>,
    acts: Arc<AtomicU64>,
}

impl Part {
    /// Whether to go on.
    pub fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// Counts a hostile act.
    pub fn act(&self) {
        self.acts.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a hostile act, and holds the next one back to keep a pace: an attacker that merely
    /// takes the processor away from the server would measure the machine.
    pub fn paced_act(&self, interval: Duration) {
        self.act();
        let due = Instant::now() + interval;
        while self.goes_on()
            && let Some(wait) = due.checked_duration_since(Instant::now())
        {
            std::thread::park_timeout(wait);
        }
    }
}

impl Ongoing {
    /// Adds a thread, which ends when [`Part::goes_on`] says so.
    pub fn spawn(&mut self, body: impl FnOnce(Part) -> Result<()> + Send + 'static) {
        let part = Part { stop: Arc::clone(&self.stop), acts: Arc::clone(&self.acts) };
        self.threads.push(std::thread::spawn(move || body(part)));
    }

    /// Keeps a connection open until the end; counts as an act.
    pub fn hold(&mut self, client: Client) {
        self.acts.fetch_add(1, Ordering::Relaxed);
        self.held.push(client);
    }

    /// Ends it and returns how many hostile acts there were.
    ///
    /// # Errors
    /// The first error of a thread, other than that its connection was cut.
    pub fn end(mut self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.thread().unpark();
            thread.join().map_err(|_| anyhow::anyhow!("an attacker panicked"))??;
        }
        Ok(self.acts.load(Ordering::Relaxed))
    }
}

/// What a trial found.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Median p99 of the windows without the attack.
    pub quiet: Duration,
    /// Median p99 of the windows with it.
    pub attacked: Duration,
    /// What new memory takes on this machine, median.
    pub new_memory: Duration,
    /// Growth of resident memory at its peak, in bytes.
    pub memory_growth: u64,
    /// Hostile acts.
    pub acts: u64,
}

/// Runs an attack against `server`.
///
/// # Errors
/// When the server ended, somebody else's connection was cut, or a bound was exceeded; that of latencies
/// in the first few trials only when it is exceeded again.
pub fn trial(
    name: &str,
    server: &mut Server,
    target: &Target,
    attack: Attack,
    bounds: Bounds,
) -> Result<Verdict> {
    let mut verdict = measure(name, server, target, attack, bounds)?;
    verdict.expect_cheap(bounds)?;
    let Err(mut slow) = verdict.expect_unnoticed(bounds) else { return Ok(verdict) };
    if verdict.is_of_the_machine() {
        // It may be quicker by now.
        verdict = measure(name, server, target, attack, bounds)?;
        verdict.expect_cheap(bounds)?;
        match verdict.expect_unnoticed(bounds) {
            Ok(()) => return Ok(verdict),
            Err(_) if verdict.is_of_the_machine() => {
                say_skipped(name);
                return Ok(verdict);
            }
            Err(again) => slow = again,
        }
    }
    if TRIALS_ANEW.fetch_add(1, Ordering::Relaxed) >= TRIALS_ANEW_MAX {
        return Err(slow.context(format!("and {TRIALS_ANEW_MAX} trials were measured anew before")));
    }
    println!("hostile: {name}: {slow}; measured anew");
    let mut is_judged = false;
    for _ in 0..ANEW {
        verdict = measure(name, server, target, attack, bounds)?;
        verdict.expect_cheap(bounds)?;
        if !verdict.is_of_the_machine() {
            verdict.expect_unnoticed(bounds)?;
            is_judged = true;
        }
    }
    if !is_judged {
        say_skipped(name);
    }
    Ok(verdict)
}

fn say_skipped(name: &str) {
    println!(
        "hostile: {name}: SKIPPED the bound of latencies: the machine gives no memory in time"
    );
}

fn measure(
    name: &str,
    server: &mut Server,
    target: &Target,
    attack: Attack,
    bounds: Bounds,
) -> Result<Verdict> {
    let mut bystanders =
        (0..BYSTANDERS).map(|_| target.member()).collect::<Result<Vec<Client>>>()?;
    let mut prober = target.member()?;
    window(target, &mut prober).context("warming up")?;
    let before = resident_bytes(server.pid())?;
    let sampler = PeakSampler::start(server.pid());
    let (mut quiet, mut attacked, mut acts) = (Vec::new(), Vec::new(), 0);
    let mut new_memory = Vec::new();
    for _ in 0..ROUNDS {
        quiet.push(window(target, &mut prober).context("without the attack")?.p99());
        new_memory.push(take_new_memory());
        let ongoing = attack(target).context("the attack could not begin")?;
        let latencies = window(target, &mut prober);
        acts += ongoing.end().context("the attack broke off")?;
        server.expect_alive()?;
        attacked.push(latencies.context("under attack")?.p99());
    }
    let memory_growth = sampler.peak().saturating_sub(before);
    for bystander in &mut bystanders {
        let reply = bystander.call(&["PING"]).context("a bystander was cut off")?;
        ensure!(reply.is_simple("PONG"), "a bystander was answered {}", reply.describe());
    }
    server.expect_alive()?;
    let (quiet, attacked) = (median(&mut quiet), median(&mut attacked));
    let new_memory = median(&mut new_memory);
    let verdict = Verdict { quiet, attacked, new_memory, memory_growth, acts };
    println!(
        "hostile: {name}: {acts} acts; p99 {:.2} ms quiet, {:.2} ms under attack; new memory takes \
         {:.2} ms; memory +{:.1} MiB of {} allowed",
        quiet.as_secs_f64() * 1e3,
        attacked.as_secs_f64() * 1e3,
        new_memory.as_secs_f64() * 1e3,
        memory_growth as f64 / f64::from(1 << 20),
        bounds.memory_bytes >> 20,
    );
    Ok(verdict)
}

impl Verdict {
    /// Compares what the attack cost the server with the bounds.
    ///
    /// # Errors
    /// The bound that is exceeded.
    pub fn expect_cheap(&self, bounds: Bounds) -> Result<()> {
        ensure!(self.acts >= bounds.acts_least, "only {} hostile acts happened", self.acts);
        ensure!(
            self.memory_growth <= bounds.memory_bytes,
            "resident memory grew by {} bytes, {} are allowed",
            self.memory_growth,
            bounds.memory_bytes
        );
        Ok(())
    }

    /// Whether latencies say more of the machine than of the server.
    pub fn is_of_the_machine(&self) -> bool {
        self.new_memory > NEW_MEMORY_MAX
    }

    /// Compares what others noticed with what they may.
    ///
    /// # Errors
    /// By how much they noticed more.
    pub fn expect_unnoticed(&self, bounds: Bounds) -> Result<()> {
        let allowed = self.quiet.max(bounds.quiet_least) * LATENCY_FACTOR;
        ensure!(
            self.attacked <= allowed,
            "the p99 of a well-behaved client is {:?} under attack, {allowed:?} is allowed",
            self.attacked
        );
        Ok(())
    }
}

/// Has the system give [`NEW_BYTES`], and answers how long that took.
fn take_new_memory() -> Duration {
    // So much is never what the allocator has kept: it is mapped anew, and only what is written is there.
    let mut memory = vec![0_u8; 16 * NEW_BYTES];
    let began = Instant::now();
    for page in memory[..NEW_BYTES].chunks_mut(4 << 10) {
        page[0] = 1;
    }
    let took = began.elapsed();
    std::hint::black_box(memory);
    took
}

fn median(values: &mut [Duration]) -> Duration {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds::of(100, 1);

    fn verdict() -> Verdict {
        let ms = Duration::from_millis;
        let new_memory = ms(1);
        Verdict { quiet: ms(2), attacked: ms(10), new_memory, memory_growth: 100, acts: 1 }
    }

    #[test]
    fn a_verdict_at_its_bounds_passes() {
        verdict().expect_cheap(BOUNDS).unwrap();
        verdict().expect_unnoticed(BOUNDS).unwrap();
    }

    #[test]
    fn a_verdict_beyond_any_bound_fails() {
        let ms = Duration::from_millis;
        assert!(Verdict { attacked: ms(11), ..verdict() }.expect_unnoticed(BOUNDS).is_err());
        let us = Duration::from_micros;
        let quick = Verdict { quiet: us(100), ..verdict() };
        assert!(Verdict { attacked: us(2500), ..quick }.expect_unnoticed(BOUNDS).is_ok());
        assert!(Verdict { attacked: us(2501), ..quick }.expect_unnoticed(BOUNDS).is_err());
        let patient = Bounds { quiet_least: ms(5), ..BOUNDS };
        assert!(Verdict { attacked: ms(25), ..verdict() }.expect_unnoticed(patient).is_ok());
        assert!(Verdict { attacked: ms(26), ..verdict() }.expect_unnoticed(patient).is_err());
        let slow = Verdict { new_memory: ms(3), ..verdict() };
        assert!(slow.is_of_the_machine() && !verdict().is_of_the_machine());
        assert!(Verdict { memory_growth: 101, ..verdict() }.expect_cheap(BOUNDS).is_err());
        assert!(Verdict { acts: 0, ..verdict() }.expect_cheap(BOUNDS).is_err());
    }
}
