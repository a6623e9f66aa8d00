//! The way of finished work back to the threads that serve connections.
//!
//! To wake a task of a runtime from another thread costs a system call. What a batch answers is
//! therefore laid into the mailbox of each thread, which is woken once for all of it; the tasks are
//! then woken by their own thread, which costs none.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::work::Work;

/// Where the work of one thread's connections comes back.
#[derive(Default)]
pub struct Mailbox {
    finished: Mutex<Vec<Work>>,
    filled: Notify,
}

impl Mailbox {
    /// Hands what comes to the connections. To be run on the thread that serves them; never ends.
    pub async fn deliver(&self) {
        loop {
            self.filled.notified().await;
            let finished = std::mem::take(&mut *self.finished.lock());
            finished.into_iter().for_each(Work::deliver);
        }
    }
}

/// Sends work back to its connections, which may have gone meanwhile: what it wrote stays.
pub(super) fn answer(works: impl IntoIterator<Item = Work>) {
    let mut filled: Vec<Arc<Mailbox>> = Vec::new();
    for mut work in works {
        let Some(mailbox) = work.mailbox.take() else {
            work.deliver();
            continue;
        };
        mailbox.finished.lock().push(work);
        // There are as many as there are threads.
        if !filled.iter().any(|known| Arc::ptr_eq(known, &mailbox)) {
            filled.push(mailbox);
        }
    }
    filled.iter().for_each(|mailbox| mailbox.filled.notify_one());
}
