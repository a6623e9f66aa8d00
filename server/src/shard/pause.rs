//! Closing the store for a while, so that its directory can be worked on: between whoever does that
//! and the thread that keeps the store.

use larder_types::LogId;
use parking_lot::{Condvar, Mutex};

/// Where the store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Open,
    /// It was asked to close.
    Closing,
    /// It is closed; the directory belongs to whoever asked.
    Closed,
    /// It was asked to open, with this log where the directory has none.
    Opening(Option<LogId>),
    /// The shard ends.
    Stopped,
}

/// The shard ends: its store neither closes nor opens any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the shard ends")]
pub struct Ending;

/// The two sides meet here.
pub(super) struct Pause {
    stage: Mutex<Stage>,
    changed: Condvar,
}

impl Default for Pause {
    fn default() -> Self {
        Self { stage: Mutex::new(Stage::Open), changed: Condvar::new() }
    }
}

impl Pause {
    /// Asks for the close; whoever asks then lets the threads end.
    pub(super) fn ask(&self) -> Result<(), Ending> {
        self.move_on(|stage| (stage == Stage::Open).then_some(Stage::Closing))
    }

    /// Waits until it is closed.
    pub(super) fn wait_until_closed(&self) -> Result<(), Ending> {
        self.wait_for(Stage::Closed)
    }

    /// Has it opened again, and waits for that.
    pub(super) fn open(&self, log: Option<LogId>) -> Result<(), Ending> {
        self.move_on(|stage| (stage == Stage::Closed).then_some(Stage::Opening(log)))?;
        self.wait_for(Stage::Open)
    }

    /// Whether the close was asked for.
    pub(super) fn is_asked(&self) -> bool {
        *self.stage.lock() == Stage::Closing
    }

    /// The keeper's side: says that it is closed, and waits until it is to be opened; `None` when
    /// the shard ends instead.
    pub(super) fn closed(&self) -> Option<Option<LogId>> {
        let mut stage = self.stage.lock();
        if *stage == Stage::Closing {
            *stage = Stage::Closed;
            self.changed.notify_all();
        }
        loop {
            match *stage {
                Stage::Opening(log) => return Some(log),
                Stage::Stopped => return None,
                Stage::Open | Stage::Closing | Stage::Closed => self.changed.wait(&mut stage),
            }
        }
    }

    /// The keeper's side: says that it is open.
    pub(super) fn opened(&self) {
        // Only the end of the shard keeps it from being so.
        let _ = self.move_on(|stage| matches!(stage, Stage::Opening(_)).then_some(Stage::Open));
    }

    /// The shard ends: nobody waits any longer.
    pub(super) fn stop(&self) {
        *self.stage.lock() = Stage::Stopped;
        self.changed.notify_all();
    }

    pub(super) fn is_stopped(&self) -> bool {
        *self.stage.lock() == Stage::Stopped
    }

    fn move_on(&self, next: impl FnOnce(Stage) -> Option<Stage>) -> Result<(), Ending> {
        let mut stage = self.stage.lock();
        *stage = next(*stage).ok_or(Ending)?;
        self.changed.notify_all();
        Ok(())
    }

    fn wait_for(&self, wanted: Stage) -> Result<(), Ending> {
        let mut stage = self.stage.lock();
        while *stage != wanted {
            if *stage == Stage::Stopped {
                return Err(Ending);
            }
            self.changed.wait(&mut stage);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, thread};

    use super::*;

    #[test]
    fn the_directory_is_handed_over_and_taken_back() {
        let pause = Arc::new(Pause::default());
        pause.ask().unwrap();
        let keeper = {
            let pause = pause.clone();
            thread::spawn(move || {
                let log = pause.closed();
                pause.opened();
                log
            })
        };
        pause.wait_until_closed().unwrap();
        let log = LogId::from_bytes([7; 16]);
        pause.open(Some(log)).unwrap();
        assert_eq!(keeper.join().unwrap(), Some(Some(log)));
    }

    #[test]
    fn the_end_of_the_shard_lets_both_sides_go() {
        let pause = Arc::new(Pause::default());
        pause.ask().unwrap();
        let keeper = {
            let pause = pause.clone();
            thread::spawn(move || pause.closed())
        };
        pause.wait_until_closed().unwrap();
        pause.stop();
        assert_eq!(keeper.join().unwrap(), None);
        assert_eq!(pause.open(None), Err(Ending));
        assert_eq!(pause.ask(), Err(Ending));
    }
}
