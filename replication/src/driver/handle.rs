//! The handle on a driver, for everyone else on the node.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use larder_types::{Position, SequenceNumber};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot};

use super::{Clock, Report, engine::Input};
use crate::core::{Need, Outcome, ReadGate, Refusal, Request, Status, Time};

/// Alerts that are remembered; older ones are only in the log.
const ALERTS_MAX: usize = 64;

/// The driver ends, or has begun anew because the store was opened again: nothing more is known of
/// what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "replication ended or began anew on this node: whether what was asked is done is not known; look \
     with `kv replica list`, then ask again"
)]
pub struct Ending;

/// A handle; cheap to clone.
#[derive(Clone)]
pub struct Driver {
    pub(super) inputs: mpsc::Sender<Input>,
    pub(super) shared: Arc<Shared>,
}

/// What the driver shows without being asked.
pub(super) struct Shared {
    pub(super) clock: Clock,
    /// Wakes the driver when more is durable.
    pub(super) durable: Notify,
    pub(super) appends: Appends,
    reads: AtomicU64,
    /// Whether the shard opens the state again by itself and the core does not know it yet: what the core
    /// said of reads was said of another state.
    renews: AtomicBool,
    fresh_at: AtomicU64,
    alerts: Mutex<VecDeque<String>>,
    pub(super) stats: StatsCounted,
}

/// [`Shared::reads`] for a gate that is open without end.
const OPEN: u64 = u64::MAX;

/// Which of a master's frames are still wanted. They come in turns; those of one go on from each other.
#[derive(Default)]
pub(super) struct Appends {
    /// The present turn: those before it are given up.
    turn: AtomicU64,
}

impl Appends {
    pub(super) fn turn(&self) -> u64 {
        self.turn.load(Ordering::Acquire)
    }

    /// Nobody waits any more for what has not been appended. Answers the turn that begins.
    pub(super) fn give_up(&self) -> u64 {
        self.turn.fetch_add(1, Ordering::AcqRel) + 1
    }
}

#[derive(Default)]
pub(super) struct StatsCounted {
    pub(super) sent_bytes: Arc<AtomicU64>,
    pub(super) rewinds: AtomicU64,
    pub(super) snapshots_served: AtomicU64,
    pub(super) snapshots_taken: AtomicU64,
    pub(super) alerts: AtomicU64,
}

/// What was done since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Bytes of frames sent to other nodes, as packed.
    pub sent_bytes: u64,
    /// Logs that parted and were rewound.
    pub rewinds: u64,
    /// Snapshots given to slaves.
    pub snapshots_served: u64,
    /// Snapshots installed here.
    pub snapshots_taken: u64,
    /// What a human had to know.
    pub alerts: u64,
}

impl Shared {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            clock,
            durable: Notify::new(),
            appends: Appends::default(),
            reads: AtomicU64::new(0),
            renews: AtomicBool::new(false),
            fresh_at: AtomicU64::new(0),
            alerts: Mutex::default(),
            stats: StatsCounted::default(),
        }
    }

    pub(super) fn set_reads(&self, gate: ReadGate) {
        let until = match gate {
            ReadGate::Closed => 0,
            ReadGate::Until(Time(until)) => until.min(OPEN - 1),
            ReadGate::Open => OPEN,
        };
        self.reads.store(until, Ordering::Release);
    }

    /// The core knows the state that was opened: it says from now on whether that may be read.
    pub(super) fn renewed(&self) {
        self.renews.store(false, Ordering::SeqCst);
    }

    pub(super) fn set_fresh_at(&self, at: Option<Time>) {
        self.fresh_at.store(at.map_or(0, |at| at.0), Ordering::Release);
    }

    pub(super) fn alert(&self, text: String) {
        tracing::error!(alert = text, "a human must know");
        self.stats.alerts.fetch_add(1, Ordering::Relaxed);
        let mut alerts = self.alerts.lock();
        if alerts.back() == Some(&text) {
            return;
        }
        alerts.push_back(text);
        if alerts.len() > ALERTS_MAX {
            alerts.pop_front();
        }
    }
}

impl Driver {
    /// Everything up to this record is on disk here. Never blocks.
    pub fn durable(&self, _: SequenceNumber) {
        self.shared.durable.notify_one();
    }

    /// The shard is about to open the state again, because it failed. Readers of that see what was flushed
    /// last: none is answered until the core has begun anew. To be told before any reader can see it.
    pub fn renews(&self) {
        self.shared.renews.store(true, Ordering::SeqCst);
    }

    /// Tells what the shard has done. Blocks while the driver is busy; false once it has ended.
    pub fn report(&self, report: Report) -> bool {
        self.inputs.blocking_send(Input::Report(report)).is_ok()
    }

    /// Whether a master's frames of this turn are not to wait for room any longer.
    pub fn gives_up(&self, turn: u64) -> bool {
        turn < self.shared.appends.turn()
    }

    /// Whether reads may be answered now. To be asked before a read, and after it too where the
    /// answer must still have been right when it was read.
    pub fn may_read(&self) -> bool {
        if self.shared.renews.load(Ordering::SeqCst) {
            return false;
        }
        match self.shared.reads.load(Ordering::Acquire) {
            OPEN => true,
            until => self.shared.clock.now().0 < until,
        }
    }

    /// How stale reads of this slave may be; `None` where nobody knows.
    pub fn staleness(&self) -> Option<Duration> {
        match self.shared.fresh_at.load(Ordering::Acquire) {
            0 => None,
            at => Some(self.shared.clock.now().since(Time(at))),
        }
    }

    /// What humans must know, oldest first.
    pub fn alerts(&self) -> Vec<String> {
        self.shared.alerts.lock().iter().cloned().collect()
    }

    /// What was done since the start.
    pub fn stats(&self) -> Stats {
        let stats = &self.shared.stats;
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            sent_bytes: load(&stats.sent_bytes),
            rewinds: load(&stats.rewinds),
            snapshots_served: load(&stats.snapshots_served),
            snapshots_taken: load(&stats.snapshots_taken),
            alerts: load(&stats.alerts),
        }
    }

    /// Does what an operator asks for.
    ///
    /// # Errors
    /// [`Ending`] when that ends or begins anew meanwhile; inside, why it was refused.
    pub async fn request(&self, what: Request) -> Result<Result<Outcome, Refusal>, Ending> {
        let (answer, answered) = oneshot::channel();
        self.send(Input::Request { what, answer }).await?;
        answered.await.map_err(|_| Ending)
    }

    /// Waits until a record, any for `None`, has got far enough, for at most `patience`. Answers whether
    /// it has, and how many replicas beside the master are known to have it: of a record that was
    /// taken back, none.
    ///
    /// # Errors
    /// [`Ending`] when the node ends meanwhile.
    pub async fn reach(
        &self,
        written: Option<Position>,
        need: Need,
        patience: Duration,
    ) -> Result<(bool, u32), Ending> {
        let (answer, answered) = oneshot::channel();
        let deadline = self.shared.clock.now() + patience;
        self.send(Input::Reach { written, need, deadline, answer }).await?;
        answered.await.map_err(|_| Ending)
    }

    /// How things stand.
    ///
    /// # Errors
    /// [`Ending`] when the node ends meanwhile.
    pub async fn status(&self) -> Result<Status, Ending> {
        let (answer, answered) = oneshot::channel();
        self.send(Input::Status(answer)).await?;
        answered.await.map_err(|_| Ending)
    }

    /// Ends the driver: other nodes are told, and nothing is asked of the shard any more.
    pub async fn end(&self) {
        let (answer, ended) = oneshot::channel();
        if self.send(Input::End(answer)).await.is_ok() {
            let _ = ended.await;
        }
    }

    async fn send(&self, input: Input) -> Result<(), Ending> {
        self.inputs.send(input).await.map_err(|_| Ending)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_are_answered_while_the_lease_lasts() {
        let shared = Arc::new(Shared::new(Clock::start()));
        let (inputs, _) = mpsc::channel(1);
        let driver = Driver { inputs, shared: shared.clone() };
        assert!(!driver.may_read());
        shared.set_reads(ReadGate::Until(shared.clock.now() + Duration::from_secs(60)));
        assert!(driver.may_read());
        shared.set_reads(ReadGate::Until(shared.clock.now() - Duration::from_secs(1)));
        assert!(!driver.may_read());
        shared.set_reads(ReadGate::Open);
        assert!(driver.may_read());
        shared.set_reads(ReadGate::Closed);
        assert!(!driver.may_read());
    }

    /// How long the machine of these tests was suspended, in seconds.
    static SUSPENDED: AtomicU64 = AtomicU64::new(0);

    fn since_boot() -> Duration {
        Duration::from_secs(1_000 + SUSPENDED.load(Ordering::Acquire))
    }

    #[test]
    fn who_wakes_on_a_suspended_machine_has_lost_its_lease_and_knows_how_stale_it_is() {
        let clock = Clock::told_by(since_boot);
        let shared = Arc::new(Shared::new(clock));
        let (inputs, _) = mpsc::channel(1);
        let driver = Driver { inputs, shared: shared.clone() };
        shared.set_reads(ReadGate::Until(clock.now() + Duration::from_secs(3)));
        shared.set_fresh_at(Some(clock.now()));
        assert!(driver.may_read());
        assert_eq!(driver.staleness(), Some(Duration::ZERO));
        SUSPENDED.store(60, Ordering::Release);
        // The driver has not run yet.
        assert!(!driver.may_read());
        assert_eq!(driver.staleness(), Some(Duration::from_secs(60)));
    }

    #[test]
    fn the_newest_alerts_are_remembered_once_each() {
        let shared = Shared::new(Clock::start());
        for n in 0..=ALERTS_MAX {
            shared.alert(format!("alert {n}"));
            shared.alert(format!("alert {n}"));
        }
        let alerts = shared.alerts.lock();
        assert_eq!((alerts.len(), alerts[0].as_str()), (ALERTS_MAX, "alert 1"));
    }
}
