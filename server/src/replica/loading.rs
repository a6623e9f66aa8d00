//! What clients are told while the store is closed, because its directory is worked on.

use std::{
    borrow::Cow,
    sync::atomic::{AtomicBool, Ordering},
};

use parking_lot::Mutex;

/// Whether the store is closed, and why.
#[derive(Default)]
pub(super) struct Loading {
    /// Beside the reason, because every command looks at it.
    is_closed: AtomicBool,
    why: Mutex<Cow<'static, str>>,
}

impl Loading {
    /// From now on commands that need the store are refused with this.
    pub(super) fn begin(&self, why: Cow<'static, str>) {
        *self.why.lock() = why;
        self.is_closed.store(true, Ordering::Release);
    }

    /// The store is open. Whoever sees this, sees the store too.
    pub(super) fn end(&self) {
        self.is_closed.store(false, Ordering::Release);
    }

    /// What a command that needs the store is refused with; `None` while it is open.
    pub(super) fn why(&self) -> Option<Cow<'static, str>> {
        self.is_closed.load(Ordering::Acquire).then(|| self.why.lock().clone())
    }
}
