//! Between the driver and the threads of the shard: what each asks of the other.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use larder_storage::Store;
use larder_types::{Epoch, LogId};

use crate::core::Role;

/// What the driver asks of the shard. Done one after the other, in order, on a thread that may block.
#[derive(Debug)]
pub enum Order {
    /// Append a master's frames. [`Report::Refused`] follows where they do not continue the log, or wait
    /// for room while [`Driver::gives_up`](super::Driver::gives_up) their turn; what else comes in that
    /// turn is then dropped.
    Accept {
        /// Whole records.
        frames: Bytes,
        /// Frames that go on from each other have the same.
        turn: u64,
    },
    /// Begin an epoch.
    BeginEpoch(Epoch),
    /// Append a replica set.
    AppendReplicas(Bytes),
    /// Take no writes of clients for a moment. [`Report::Paused`] follows with the same number.
    Pause(u64),
    /// Take writes of clients again.
    Resume,
    /// This node's part has changed: see to it that clients are served so.
    Become(Role),
    /// Have everything up to now folded and flushed.
    Flush,
    /// Close the store, so that its directory can be worked on, and tell clients why they are not
    /// served. [`Report::Closed`] follows.
    Close(Cow<'static, str>),
    /// Open the store as a follower; with this log where the directory has none.
    /// [`Report::Opened`] follows.
    Open(Option<LogId>),
}

/// What the shard tells the driver.
pub enum Report {
    /// The store is open, after an [`Order::Open`] or because the shard opened it again by itself:
    /// as a follower that is closed to clients.
    Opened(Store),
    /// The store is closed.
    Closed,
    /// Clients' writes are paused; this was the last record appended.
    Paused {
        /// The number of the [`Order::Pause`] that this answers.
        pause: u64,
        /// The record's number; 0 for none.
        appended: u64,
    },
    /// Frames were refused, and those behind them are.
    Refused {
        /// Their turn.
        turn: u64,
        /// The last record that was appended before; 0 for none.
        appended: u64,
        /// Why; `None` where they were given up.
        why: Option<String>,
    },
}

/// The driver's side of the shard.
pub struct Port {
    /// Takes orders. Never blocks: what is under way is bounded by the core's windows.
    pub order: Arc<dyn Fn(Order) + Send + Sync>,
    /// Told, after each commit, up to which record readers see the log.
    pub visible: Arc<dyn Fn(u64) + Send + Sync>,
}
