//! The thread that does with the shard what the driver asks for: it may block, the driver may not.

use std::{
    cell::Cell,
    sync::{Arc, OnceLock, mpsc},
    thread,
    time::Duration,
};

use arc_swap::ArcSwap;
use larder_replication::driver::{Driver, Order, Report};
use larder_types::LogId;

use super::{Duty, loading::Loading};
use crate::shard::{Ending, OrderError, Shard, Task, Work};

/// How long frames wait before they are tried again while the fold is behind.
const ROOM_STEP: Duration = Duration::from_millis(2);
/// The same while the disk is nearly full.
const DISK_STEP: Duration = Duration::from_millis(100);

/// What the steward works with. The shard is missing while a rewind that a start found keeps its
/// store from being opened.
pub(super) struct Steward {
    pub(super) orders: mpsc::Receiver<Order>,
    pub(super) driver: Arc<OnceLock<Driver>>,
    pub(super) shard: Arc<OnceLock<Arc<Shard>>>,
    pub(super) duty: Arc<ArcSwap<Duty>>,
    pub(super) loading: Arc<Loading>,
    /// Opens the shard for the first time.
    pub(super) open: Box<dyn Fn() -> bool + Send>,
    /// Told that the log takes no epoch or replica set: a defect, or damage.
    pub(super) failed: Box<dyn Fn(OrderError) + Send>,
    /// The turn of the frames that were refused last.
    pub(super) refused: Cell<Option<u64>>,
}

impl Steward {
    /// Does what it is asked for until nobody asks any more.
    pub(super) fn run(self) {
        while let Ok(order) = self.orders.recv() {
            if self.follow(order).is_err() {
                return;
            }
        }
    }

    fn follow(&self, order: Order) -> Result<(), Ending> {
        let Some(shard) = self.shard.get() else { return self.follow_closed(order) };
        match order {
            Order::Accept { frames, turn } => self.accept(shard, &frames, turn),
            Order::BeginEpoch(epoch) => self.check(shard.begin_epoch(epoch).map(drop)),
            Order::AppendReplicas(body) => self.check(shard.append_replicas(&body).map(drop)),
            Order::Pause(pause) => {
                self.change(shard, Duty::paused);
                let appended = shard.store().watermarks().appended;
                self.report(Report::Paused { pause, appended })?;
            }
            Order::Resume => self.change(shard, Duty::resumed),
            Order::Become(role) => self.take_up(shard, Duty::of(&role)),
            Order::Flush => {
                drop(shard.submit(Work::of(Task::Seal), None));
                shard.commit_staged();
            }
            Order::Close(why) => {
                self.loading.begin(why.clone());
                shard.close_store(why)?;
                self.report(Report::Closed)?;
            }
            Order::Open(log) => self.open_again(shard, log)?,
        }
        Ok(())
    }

    /// Before the shard is there.
    fn follow_closed(&self, order: Order) -> Result<(), Ending> {
        match order {
            Order::Open(_) if !(self.open)() => return Err(Ending),
            Order::Open(_) => {
                let shard = self.shard.get().ok_or(Ending)?;
                let duty = Duty::clone(&self.duty.load());
                self.take_up(shard, duty);
                self.loading.end();
                self.report(Report::Opened((**shard.store()).clone()))?;
            }
            Order::Close(_) => self.report(Report::Closed)?,
            // Nothing is being appended.
            Order::Pause(pause) => self.report(Report::Paused { pause, appended: 0 })?,
            Order::Become(role) => self.duty.store(Arc::new(Duty::of(&role))),
            _ => {}
        }
        Ok(())
    }

    fn open_again(&self, shard: &Shard, log: Option<LogId>) -> Result<(), Ending> {
        shard.open_store(log)?;
        // The writer of the store that was opened is closed to clients.
        let duty = Duty::clone(&self.duty.load());
        self.take_up(shard, duty);
        self.loading.end();
        self.report(Report::Opened((**shard.store()).clone()))
    }

    /// Frames wait while the fold is behind, and with them the master, whose window is full; at most until
    /// the driver gives them up.
    fn accept(&self, shard: &Shard, frames: &[u8], turn: u64) {
        if self.refused.get() == Some(turn) {
            return;
        }
        let gives_up = || self.driver.get().is_some_and(|driver| driver.gives_up(turn));
        let mut told = false;
        let why = loop {
            match shard.accept(frames) {
                Err(OrderError::NoRoom | OrderError::Full(_)) if shard.is_ending() => return,
                Err(OrderError::NoRoom | OrderError::Full(_)) if gives_up() => break None,
                Err(OrderError::NoRoom) => thread::sleep(ROOM_STEP),
                Err(OrderError::Full(full)) => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::error!(%full, "records of the master wait for room on the disk");
                    }
                    thread::sleep(DISK_STEP);
                }
                // Whoever opens the store again begins from what is in it.
                Ok(_) | Err(OrderError::Closed) => return,
                Err(error) => break Some(error.to_string()),
            }
        };
        self.refused.set(Some(turn));
        let appended = shard.store().watermarks().appended;
        // Where nobody takes it, the driver has ended.
        let _ = self.report(Report::Refused { turn, appended, why });
    }

    fn check(&self, done: Result<(), OrderError>) {
        match done {
            Ok(()) | Err(OrderError::Closed) => {}
            Err(error) => (self.failed)(error),
        }
    }

    fn change(&self, shard: &Shard, change: fn(&Duty) -> Option<Duty>) {
        let changed = change(&self.duty.load());
        if let Some(duty) = changed {
            self.take_up(shard, duty);
        }
    }

    /// Serves clients as the duty wants. When this returns, what was let in before has its place.
    fn take_up(&self, shard: &Shard, duty: Duty) {
        let was_master = self.duty.load().is_master();
        let refusal = duty.refuses_writes().map(Into::into);
        let is_master = duty.is_master();
        tracing::info!(?duty, "this node's part");
        self.duty.store(Arc::new(duty));
        // Where the store is not open, it is closed to clients when it is opened.
        let _ = shard.admit_clients(refusal);
        if was_master && !is_master {
            shard.give_up();
        }
    }

    fn report(&self, report: Report) -> Result<(), Ending> {
        let driver = self.driver.get().ok_or(Ending)?;
        driver.report(report).then_some(()).ok_or(Ending)
    }
}
