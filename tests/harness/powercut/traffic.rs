//! Connections that write without pause, each by a thread that sends and one that receives, so
//! that many operations are in flight when the fault strikes. The journal is kept here, in the
//! memory of another process than the one that loses its disk.

use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use super::operation::{Generator, Operation};
use crate::client::Client;
use crate::deadline::Deadline;

/// Operations of one lane that may be unanswered at a time.
const IN_FLIGHT_MAX: usize = 256;
/// How long a sender waits at most before it looks whether it shall stop.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// How long a lane may take to end once its server has.
const END_DEADLINE: Duration = Duration::from_secs(15);

/// An operation and what became of it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What was sent.
    pub operation: Operation,
    /// Just before it was handed to the socket.
    pub sent: Instant,
    /// When its last reply was read, and the first error among its replies.
    pub answer: Option<(Instant, Option<String>)>,
}

impl Entry {
    /// When it was acknowledged, if it was and no later than `until`.
    pub fn acknowledged(&self, until: Instant) -> Option<Instant> {
        match &self.answer {
            Some((at, None)) if *at <= until => Some(*at),
            _ => None,
        }
    }
}

/// What one lane sent in a round, in that order.
pub type Journal = Vec<Entry>;

/// What the two threads of a lane share.
#[derive(Debug, Default)]
struct Lane {
    state: Mutex<LaneState>,
    answered: Condvar,
}

#[derive(Debug, Default)]
struct LaneState {
    journal: Journal,
    /// How many of the journal's operations have been answered.
    answered: usize,
    /// Set when the connection has ended.
    ended: bool,
}

impl Lane {
    fn state(&self) -> MutexGuard<'_, LaneState> {
        // A poisoned journal is still the record of what was sent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lanes at work on one server.
#[derive(Debug)]
pub struct Traffic {
    lanes: Vec<Arc<Lane>>,
    senders: Vec<JoinHandle<Generator>>,
    receivers: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
}

impl Traffic {
    /// Starts a lane for each generator.
    ///
    /// # Errors
    /// When a connection is refused.
    pub fn start(address: SocketAddr, generators: Vec<Generator>) -> Result<Self> {
        let mut traffic = Self {
            lanes: Vec::new(),
            senders: Vec::new(),
            receivers: Vec::new(),
            stop: Arc::default(),
            acknowledged: Arc::default(),
        };
        for generator in generators {
            let client = Client::connect(address)?;
            let stream = client.stream().try_clone().context("a second handle of the socket")?;
            let lane = Arc::new(Lane::default());
            let (sending, stop) = (Arc::clone(&lane), Arc::clone(&traffic.stop));
            traffic
                .senders
                .push(std::thread::spawn(move || send(&sending, stream, generator, &stop)));
            let (receiving, count) = (Arc::clone(&lane), Arc::clone(&traffic.acknowledged));
            traffic.receivers.push(std::thread::spawn(move || receive(&receiving, client, &count)));
            traffic.lanes.push(lane);
        }
        Ok(traffic)
    }

    /// Waits until `count` operations have been acknowledged.
    ///
    /// # Errors
    /// When they are not within `allowed`, or when a lane has ended before.
    pub fn wait_for_acknowledged(&self, count: usize, allowed: Duration) -> Result<()> {
        Deadline::after(allowed).wait_for("acknowledgements", || {
            if self.acknowledged.load(Ordering::Relaxed) >= count {
                return Ok(Some(()));
            }
            if let Some(lane) = self.lanes.iter().position(|lane| lane.state().ended) {
                return Err(anyhow!("the connection of lane {lane} ended under load"));
            }
            Ok(None)
        })
    }

    /// How many operations are sent and not answered now.
    pub fn in_flight(&self) -> usize {
        let unanswered = |lane: &Arc<Lane>| {
            let state = lane.state();
            state.journal.len() - state.answered
        };
        self.lanes.iter().map(unanswered).sum()
    }

    /// Sends no more, and waits until all that was sent is answered or the connections have ended.
    /// Returns the generators and the journals, lane by lane.
    ///
    /// # Errors
    /// When a lane neither gets its answers nor ends.
    pub fn finish(self) -> Result<(Vec<Generator>, Vec<Journal>)> {
        self.stop.store(true, Ordering::Relaxed);
        let mut generators = Vec::new();
        for sender in self.senders {
            generators.push(sender.join().map_err(|_| anyhow!("a sender panicked"))?);
        }
        let deadline = Deadline::after(END_DEADLINE);
        deadline.wait_for("the receivers", || {
            Ok(self.receivers.iter().all(JoinHandle::is_finished).then_some(()))
        })?;
        for receiver in self.receivers {
            receiver.join().map_err(|_| anyhow!("a receiver panicked"))?;
        }
        let journals = self.lanes.iter().map(|lane| std::mem::take(&mut lane.state().journal));
        Ok((generators, journals.collect()))
    }
}

fn send(
    lane: &Lane,
    mut stream: TcpStream,
    mut generator: Generator,
    stop: &AtomicBool,
) -> Generator {
    let mut wire = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let mut state = lane.state();
        if state.ended {
            break;
        }
        if state.journal.len() - state.answered >= IN_FLIGHT_MAX {
            // Woken by an answer; the bound is for the flag.
            let waited = lane.answered.wait_timeout(state, LOOK_INTERVAL);
            drop(waited);
            continue;
        }
        wire.clear();
        let sent = Instant::now();
        for _ in 0..generator.burst() {
            let operation = generator.operation();
            operation.encode(&mut wire);
            state.journal.push(Entry { operation, sent, answer: None });
        }
        drop(state);
        if stream.write_all(&wire).is_err() {
            break;
        }
    }
    // Tells the server that this is all, upon which it closes once everything is answered.
    let _ = stream.shutdown(Shutdown::Write);
    generator
}

fn receive(lane: &Lane, mut client: Client, acknowledged: &AtomicUsize) {
    for index in 0.. {
        // The first reply may come only after its operation is in the journal; until then, or
        // until the connection ends, this blocks in the first `reply`.
        let Ok(first) = client.reply() else { break };
        let replies = match lane.state().journal.get(index) {
            Some(entry) => entry.operation.replies(),
            None => break,
        };
        let mut error = first.reply.is_error().then(|| first.reply.describe());
        let mut last = first.reply;
        let mut whole = true;
        for _ in 1..replies {
            let Ok(reply) = client.reply() else {
                whole = false;
                break;
            };
            last = reply.reply;
            error = error.or_else(|| last.is_error().then(|| last.describe()));
        }
        if !whole {
            break;
        }
        // An EXEC that did nothing is answered with a null.
        error = error.or_else(|| last.is_null().then(|| last.describe()));
        if error.is_none() {
            acknowledged.fetch_add(1, Ordering::Relaxed);
        }
        let mut state = lane.state();
        state.journal[index].answer = Some((Instant::now(), error));
        state.answered = index + 1;
        lane.answered.notify_one();
    }
    lane.state().ended = true;
    lane.answered.notify_one();
}
