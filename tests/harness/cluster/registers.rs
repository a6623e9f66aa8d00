//! Clients that read and write few keys at once at whichever node leads, and record the history of
//! each key.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::target::{Attempt, Target};
use crate::deadline::Deadline;
use crate::linearizability::{Action, Operation};
use crate::reply::Reply;

/// How long no node may serve a client.
const SERVED_DEADLINE: Duration = Duration::from_secs(30);

/// The histories, by key.
pub type Histories = BTreeMap<String, Vec<Operation>>;

/// A key, and what one client did with it.
type History = (String, Vec<Operation>);

/// Clients at work.
#[derive(Debug)]
pub struct Registers {
    threads: Vec<JoinHandle<Result<History>>>,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
}

impl Registers {
    /// Starts `clients` clients for each of `keys` keys.
    pub fn start(nodes: &[SocketAddr], keys: usize, clients: usize, seed: u64) -> Self {
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let (next_value, began) = (Arc::new(AtomicU64::new(1)), Instant::now());
        let threads = (0..keys * clients).map(|number| {
            let client = Client {
                // A slave sends whoever says this to the master, also for reads.
                target: Target::new(nodes.to_vec(), vec!["READWRITE"]),
                key: format!("register:{}", number % keys),
                random: StdRng::seed_from_u64(seed.wrapping_add(number as u64)),
                next_value: next_value.clone(),
                began,
                stop: stop.clone(),
                answered: answered.clone(),
                history: Vec::new(),
            };
            std::thread::spawn(move || client.run())
        });
        Self { threads: threads.collect(), stop, answered }
    }

    /// Waits until `more` operations have been answered from now on.
    ///
    /// # Errors
    /// When they are not within `allowed`.
    pub fn wait_for_more(&self, more: usize, allowed: Duration) -> Result<()> {
        let goal = self.answered.load(Ordering::Relaxed) + more;
        Deadline::after(allowed).wait_for("answers", || {
            if self.threads.iter().any(JoinHandle::is_finished) {
                bail!("a client has ended");
            }
            Ok((self.answered.load(Ordering::Relaxed) >= goal).then_some(()))
        })
    }

    /// Stops, and returns what was seen.
    ///
    /// # Errors
    /// When a client was served by no node, or was answered with nonsense.
    pub fn finish(self) -> Result<Histories> {
        self.stop.store(true, Ordering::Relaxed);
        let mut histories = Histories::new();
        for thread in self.threads {
            let (key, history) = thread.join().map_err(|_| anyhow!("a client panicked"))??;
            histories.entry(key).or_default().extend(history);
        }
        Ok(histories)
    }
}

struct Client {
    target: Target,
    key: String,
    random: StdRng,
    next_value: Arc<AtomicU64>,
    began: Instant,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    history: Vec<Operation>,
}

impl Client {
    fn run(mut self) -> Result<History> {
        while !self.stop.load(Ordering::Relaxed) {
            Deadline::after(SERVED_DEADLINE).wait_for("a node that serves", || {
                let goes_on = self.operate()? || self.stop.load(Ordering::Relaxed);
                Ok(goes_on.then_some(()))
            })?;
        }
        Ok((self.key, self.history))
    }

    /// Reads or writes once. Returns whether it was answered.
    fn operate(&mut self) -> Result<bool> {
        let writes = self.random.random_bool(0.5);
        let called = self.now();
        let (action, answered) = if writes {
            let value = self.next_value.fetch_add(1, Ordering::Relaxed);
            match self.target.attempt(&["SET", &self.key, &value.to_string()]) {
                Attempt::Done(_) => (Action::Write(value), Some(self.now())),
                Attempt::Unknown(_) => (Action::Write(value), None),
                Attempt::Refused(_) | Attempt::NotSent => return Ok(false),
            }
        } else {
            match self.target.attempt(&["GET", &self.key]) {
                Attempt::Done(reply) => (Action::Read(value_of(&reply)?), Some(self.now())),
                _ => return Ok(false),
            }
        };
        self.history.push(Operation { action, called, answered });
        self.answered.fetch_add(usize::from(answered.is_some()), Ordering::Relaxed);
        Ok(answered.is_some())
    }

    /// Nanoseconds since the clients began: one clock for all of them.
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

fn value_of(reply: &Reply) -> Result<Option<u64>> {
    if reply.is_null() {
        return Ok(None);
    }
    let text = std::str::from_utf8(reply.text()).ok().and_then(|text| text.parse().ok());
    text.map(Some).with_context(|| format!("a register holds {}", reply.describe()))
}
