//! The load of one connection: sends what is due, takes replies, measures.
//!
//! One task both sends and receives, and never does one without being ready for the other: a server
//! that stops reading until its replies are taken cannot bring it to a halt.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use larder_resp::{ProtocolError, ReplyDecoder, Value};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::alarm::Alarm;
use super::samples::Samples;
use super::schedule::Schedule;
use super::workload::{Kind, Workload};
use crate::args::Target;
use crate::connection::{Connection, REPLY_LIMITS};
use crate::failure::{Failure, first_word};

/// Bytes to be sent beyond which no further request is made: bounds memory when values are large.
const OUTGOING_BYTES_MAX: usize = 1 << 20;

/// What one read may bring, bytes.
const READ_BYTES: usize = 64 << 10;

/// How long to wait before a lost connection is tried again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);

/// The code under which requests are counted whose connection was lost.
const LOST: &str = "LOST";

/// The moments of one run: `start <= measure_from <= end <= give_up`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Phase {
    /// The first request is due.
    pub(crate) start: Instant,
    /// Replies from here on are measured.
    pub(crate) measure_from: Instant,
    /// No request is due from here on; those that were due before and wait are still sent. Replies
    /// from here on count for latency, not throughput.
    pub(crate) end: Instant,
    /// Nothing is sent or waited for from here on.
    pub(crate) give_up: Instant,
}

/// Measurements which several connections add to.
pub(crate) type SharedSamples = Arc<Mutex<Samples>>;

/// What one connection is to do.
pub(crate) struct Task {
    /// Where to connect again.
    pub(crate) target: Arc<Target>,
    /// When.
    pub(crate) phase: Phase,
    /// When each request is due; `None`: as soon as the pipeline has room.
    pub(crate) schedule: Option<Schedule>,
    /// What to ask.
    pub(crate) workload: Workload,
    /// Requests without reply at most.
    pub(crate) pipeline: usize,
    /// Whether a lost connection is made again, until the end.
    pub(crate) reconnects: bool,
    /// Where to count.
    pub(crate) samples: SharedSamples,
}

/// A request that waits for its reply.
struct Flight {
    kind: Kind,
    /// When it was due, or without a schedule: sent.
    from: Instant,
}

enum Ended {
    Done,
    Lost,
}

/// A connection under load.
pub(crate) struct Load {
    task: Task,
    /// Requests made so far: the number of the next in the schedule.
    made: u64,
    /// Nothing is left to be made.
    exhausted: bool,
    /// Since when the pipeline has had room. What is late from then on is the generator's fault.
    room_since: Instant,
    in_flight: VecDeque<Flight>,
    outgoing: BytesMut,
    incoming: BytesMut,
    decoder: ReplyDecoder,
    alarm: Alarm,
}

impl Load {
    /// A load that has not begun.
    ///
    /// # Errors
    /// The system has no file descriptor left for a timer.
    pub(crate) fn new(task: Task) -> Result<Self, Failure> {
        Ok(Self {
            made: 0,
            exhausted: false,
            room_since: task.phase.start,
            in_flight: VecDeque::new(),
            outgoing: BytesMut::new(),
            incoming: BytesMut::new(),
            decoder: ReplyDecoder::new(REPLY_LIMITS),
            alarm: Alarm::new().map_err(timer_failed)?,
            task,
        })
    }

    /// Runs to the end of the phase, or until there is nothing left to ask. Lost connections are
    /// counted, and made again; requests that become due meanwhile stay due.
    ///
    /// # Errors
    /// The timer fails.
    pub(crate) async fn run(mut self, stream: TcpStream) -> Result<(), Failure> {
        let mut stream = Some(stream);
        while let Some(connected) = stream.take() {
            match self.exchange(connected).await? {
                Ended::Done => break,
                Ended::Lost => self.lose(),
            }
            if self.task.reconnects {
                stream = self.reconnect().await;
            }
        }
        if let Some(schedule) = self.task.schedule {
            let due = schedule.due_before(self.task.phase.end - self.task.phase.start);
            samples(&self.task).unsent += due.saturating_sub(self.made);
        }
        Ok(())
    }

    async fn exchange(&mut self, mut stream: TcpStream) -> Result<Ended, Failure> {
        let (mut reader, mut writer) = stream.split();
        let give_up = tokio::time::sleep_until(self.task.phase.give_up.into());
        tokio::pin!(give_up);
        loop {
            let next_due = self.fill(Instant::now());
            if let Some(due) = next_due {
                self.alarm.set(due).map_err(timer_failed)?;
            }
            let over = self.exhausted || Instant::now() >= self.sends_until();
            if over && self.in_flight.is_empty() {
                return Ok(Ended::Done);
            }
            self.incoming.reserve(READ_BYTES);
            tokio::select! {
                biased;
                written = writer.write_buf(&mut self.outgoing), if !self.outgoing.is_empty() => {
                    if written.is_err() {
                        return Ok(Ended::Lost);
                    }
                }
                read = reader.read_buf(&mut self.incoming) => {
                    if !matches!(read, Ok(1..)) || self.take_replies(Instant::now()).is_err() {
                        return Ok(Ended::Lost);
                    }
                }
                rung = self.alarm.wait(), if next_due.is_some() => rung.map_err(timer_failed)?,
                () = &mut give_up => {
                    samples(&self.task).unanswered += self.in_flight.len() as u64;
                    return Ok(Ended::Done);
                }
            }
        }
    }

    /// Until when requests are sent. Leaving out those that were due before the end and had to wait
    /// would make the percentiles better than the truth.
    fn sends_until(&self) -> Instant {
        let Phase { end, give_up, .. } = self.task.phase;
        if self.task.schedule.is_some() { give_up } else { end }
    }

    /// Makes all requests that are due and for which there is room. Says when the next is due, if
    /// nothing but time stands in its way.
    fn fill(&mut self, now: Instant) -> Option<Instant> {
        let phase = self.task.phase;
        if now < phase.start {
            return Some(phase.start);
        }
        while self.in_flight.len() < self.task.pipeline
            && self.outgoing.len() < OUTGOING_BYTES_MAX
            && now < self.sends_until()
            && !self.exhausted
        {
            let from = self.task.schedule.map_or(now, |s| phase.start + s.due(self.made));
            if from >= phase.end {
                self.exhausted = true;
                return None;
            }
            if from > now {
                return Some(from);
            }
            let Some(kind) = self.task.workload.encode_next(&mut self.outgoing) else {
                self.exhausted = true;
                return None;
            };
            self.made += 1;
            self.in_flight.push_back(Flight { kind, from });
            if self.task.schedule.is_some() && now >= phase.measure_from {
                let could_be_sent = from.max(self.room_since);
                samples(&self.task).record_late(now.saturating_duration_since(could_be_sent));
            }
        }
        None
    }

    /// Takes the replies that have arrived, all at `now`.
    fn take_replies(&mut self, now: Instant) -> Result<(), ProtocolError> {
        let phase = self.task.phase;
        let mut samples = samples(&self.task);
        if self.in_flight.len() >= self.task.pipeline {
            self.room_since = now;
        }
        while let Some(reply) = self.decoder.decode(&mut self.incoming)? {
            if matches!(reply, Value::Push(_)) {
                continue;
            }
            let Some(flight) = self.in_flight.pop_front() else {
                return Err(ProtocolError::InvalidReply { what: "request before it" });
            };
            if now < phase.measure_from {
                continue;
            }
            if let Some(message) = reply.as_error() {
                samples.record_errors(first_word(message), 1);
                continue;
            }
            samples.record(flight.kind, now.saturating_duration_since(flight.from));
            samples.completed += u64::from(now < phase.end);
            samples.missing += u64::from(flight.kind == Kind::Read && reply.is_null());
        }
        Ok(())
    }

    /// Counts the requests whose connection was lost, and forgets what belonged to it.
    fn lose(&mut self) {
        let mut samples = samples(&self.task);
        samples.lost += 1;
        samples.record_errors(LOST, self.in_flight.len() as u64);
        self.in_flight.clear();
        self.outgoing.clear();
        self.incoming.clear();
        self.decoder = ReplyDecoder::new(REPLY_LIMITS);
    }

    /// Tries until there is a connection, or the phase is over. Time without a connection is the
    /// server's fault, as time with a full pipeline is.
    async fn reconnect(&mut self) -> Option<TcpStream> {
        while Instant::now() < self.sends_until() && !self.exhausted {
            if let Ok(connection) = Connection::open(&self.task.target).await {
                self.room_since = Instant::now();
                return Some(connection.into_stream());
            }
            tokio::time::sleep(RECONNECT_PAUSE).await;
        }
        None
    }
}

fn samples(task: &Task) -> MutexGuard<'_, Samples> {
    // Each update leaves counters that make sense by themselves.
    task.samples.lock().unwrap_or_else(PoisonError::into_inner)
}

fn timer_failed(source: std::io::Error) -> Failure {
    Failure::Local {
        what: "cannot use a timer (is the limit of open files too low?)".into(),
        source,
    }
}
