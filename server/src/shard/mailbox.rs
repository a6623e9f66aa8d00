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

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot::{self, Receiver, error::TryRecvError};

    use super::*;
    use crate::shard::Task;

    /// Work that its connection waits for, on the thread of the mailbox if there is one.
    fn work(mailbox: Option<&Arc<Mailbox>>) -> (Work, Receiver<Work>) {
        let (done, waits) = oneshot::channel();
        let work = Work { done: Some(done), mailbox: mailbox.cloned(), ..Work::of(Task::Seal) };
        (work, waits)
    }

    /// Whether it has come back.
    fn came(waits: &mut Receiver<Work>) -> bool {
        waits.try_recv().is_ok()
    }

    /// Lets the thread of the mailbox run until there is nothing in it.
    async fn run(mailbox: &Mailbox) {
        tokio::select! {
            biased;
            () = mailbox.deliver() => {}
            () = tokio::task::yield_now() => {}
        }
    }

    #[tokio::test]
    async fn what_a_batch_answers_comes_back_to_each_thread_when_that_runs() {
        let (here, there) = (Arc::<Mailbox>::default(), Arc::<Mailbox>::default());
        let (one, mut waits_one) = work(Some(&here));
        let (other, mut waits_other) = work(Some(&there));
        let (third, mut waits_third) = work(Some(&here));
        answer([one, other, third]);
        assert!(waits_one.try_recv().is_err_and(|why| why == TryRecvError::Empty));
        run(&here).await;
        assert!(came(&mut waits_one) && came(&mut waits_third));
        assert!(!came(&mut waits_other), "its thread has not run");
        run(&there).await;
        assert!(came(&mut waits_other));
    }

    #[tokio::test]
    async fn what_comes_while_a_thread_is_woken_is_delivered_too() {
        let mailbox = Arc::<Mailbox>::default();
        let (one, mut waits_one) = work(Some(&mailbox));
        let (other, mut waits_other) = work(Some(&mailbox));
        answer([one]);
        answer([other]);
        run(&mailbox).await;
        assert!(came(&mut waits_one) && came(&mut waits_other));
        let (later, mut waits_later) = work(Some(&mailbox));
        answer([later]);
        run(&mailbox).await;
        assert!(came(&mut waits_later));
    }

    #[test]
    fn work_of_no_thread_that_serves_connections_comes_back_at_once() {
        let (work, mut waits) = work(None);
        answer([work]);
        assert!(came(&mut waits));
    }

    #[tokio::test]
    async fn a_connection_that_has_gone_keeps_nothing_from_the_others() {
        let mailbox = Arc::<Mailbox>::default();
        let (gone, waits_gone) = work(Some(&mailbox));
        let (one, mut waits_one) = work(Some(&mailbox));
        drop(waits_gone);
        answer([gone, one]);
        run(&mailbox).await;
        assert!(came(&mut waits_one));
        assert_eq!(Arc::strong_count(&mailbox), 1, "nothing is left that names it");
    }
}
