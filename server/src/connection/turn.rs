//! A turn of a thread that serves connections: what it does from one rest to the next.
//!
//! What its connections stage is committed when it ends (docs/adr/0007-a-runtime-a-thread.md). While
//! some are always ready the thread never rests, so that it must end its turn now and then without.

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    task::Poll,
    time::{Duration, Instant},
};

use tokio::{sync::Mutex, task::yield_now};

use crate::shard::Mailbox;

/// A turn in which so many commands were read for ends, where each reads one small key some 0.3 ms after
/// it began: writes of the same thread wait for that. Pieces of work that write are bounded by who
/// stages them.
const READS_MAX: u32 = 256;

/// Work that took longer than this is a large piece of it: a request waits for two to four such pieces, until it is
/// read, committed and answered. A rest takes some 5 us.
const LONG: Duration = Duration::from_micros(100);

/// The present turn of a thread.
pub(super) struct Turn {
    /// Lets the shard commit what was staged.
    commit: Box<dyn Fn() + Send + Sync>,
    mailbox: Arc<Mailbox>,
    /// Changed by the thread itself only.
    reads: AtomicU32,
    began: Instant,
    /// When the connection that has the thread went on, in ns since `began`. Changed by the thread itself only.
    went_on_ns: AtomicU64,
    /// Held by who rests after a large piece of work, and given to those who wait for it in their order.
    rest: Mutex<()>,
}

impl Turn {
    pub(super) fn new(commit: impl Fn() + Send + Sync + 'static) -> Self {
        Self {
            commit: Box::new(commit),
            mailbox: Arc::default(),
            reads: AtomicU32::new(0),
            began: Instant::now(),
            went_on_ns: AtomicU64::new(0),
            rest: Mutex::new(()),
        }
    }

    /// Where the work comes back that the thread hands in.
    pub(super) const fn mailbox(&self) -> &Arc<Mailbox> {
        &self.mailbox
    }

    /// Counts a command that was read for.
    pub(super) fn count_read(&self) {
        let reads = self.reads.load(Ordering::Relaxed) + 1;
        self.reads.store(reads, Ordering::Relaxed);
        if reads >= READS_MAX {
            self.end();
        }
    }

    /// A connection goes on: it has the thread from now until it waits for anything.
    pub(super) fn goes_on(&self) {
        self.went_on_ns.store(self.began.elapsed().as_nanos() as u64, Ordering::Relaxed);
    }

    /// Whether the connection that has the thread has had it for long.
    pub(super) fn is_long(&self) -> bool {
        let went_on = Duration::from_nanos(self.went_on_ns.load(Ordering::Relaxed));
        self.began.elapsed().saturating_sub(went_on) > LONG
    }

    /// Lets the others be served, as [`Turn::rest`] does, where this connection has had the thread for long.
    pub(super) async fn rest_after_long(&self) {
        if self.is_long() {
            self.rest().await;
        }
    }

    /// Lets the others be served after a large piece of work, before any other such piece: however many clients
    /// have large work, whoever has not waits for one piece at a time.
    async fn rest(&self) {
        self.end();
        let _alone = self.rest.lock().await;
        yield_now().await;
    }

    /// Ends it, and begins the next.
    pub(super) fn end(&self) {
        self.reads.store(0, Ordering::Relaxed);
        (self.commit)();
    }
}

/// Lets the connections of this thread that are ready be served before this one goes on, each once:
/// replies that leave one after the other wake a client's process once
/// (docs/adr/0019-replies-leave-together.md). Unlike tokio's `yield_now`, it does not let in who gets
/// ready meanwhile: nobody waits for the same others twice.
pub(super) async fn after_those_ready() {
    let mut is_behind_them = false;
    poll_fn(|context| {
        if std::mem::replace(&mut is_behind_them, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::{io::AsyncReadExt as _, net::UnixStream, task::JoinSet};

    use super::*;

    #[tokio::test]
    async fn all_who_are_ready_are_served_before_any_reply_and_who_comes_meanwhile_after_it() {
        let noted = Arc::new(Mutex::new(Vec::<String>::new()));
        let note = |noted: &Mutex<Vec<String>>, what: String| noted.lock().unwrap().push(what);
        let (mut server, client) = UnixStream::pair().unwrap();
        client.writable().await.unwrap();
        let late = {
            let noted = noted.clone();
            async move {
                server.read_u8().await.unwrap();
                note(&noted, "c is served".to_owned());
            }
        };
        let mut clients = JoinSet::new();
        clients.spawn(late);
        yield_now().await;
        client.try_write(b"c").unwrap();
        for name in ["a", "b"] {
            let noted = noted.clone();
            clients.spawn(async move {
                note(&noted, format!("{name} is served"));
                after_those_ready().await;
                note(&noted, format!("{name} is answered"));
            });
        }
        clients.join_all().await;
        let story = ["a is served", "b is served", "a is answered", "b is answered", "c is served"];
        assert_eq!(*noted.lock().unwrap(), story);
    }

    #[tokio::test]
    async fn who_has_worked_for_long_lets_the_others_be_served_before_more() {
        let mut turn = Turn::new(|| {});
        turn.began = turn.began.checked_sub(Duration::from_secs(1)).unwrap();
        let turn = Arc::new(turn);
        // Yet to come, and a second ago.
        for (went_on_ns, story) in [(u64::MAX, ["more", "other"]), (0, ["other", "more"])] {
            turn.went_on_ns.store(went_on_ns, Ordering::Relaxed);
            let noted = Arc::new(Mutex::new(Vec::new()));
            let (turn, working, waiting) = (turn.clone(), noted.clone(), noted.clone());
            let mut clients = JoinSet::new();
            clients.spawn(async move {
                turn.rest_after_long().await;
                working.lock().unwrap().push("more");
            });
            clients.spawn(async move { waiting.lock().unwrap().push("other") });
            clients.join_all().await;
            assert_eq!(*noted.lock().unwrap(), story);
        }
    }

    #[test]
    fn who_has_waited_has_the_thread_from_then_on() {
        let mut turn = Turn::new(|| {});
        turn.began = turn.began.checked_sub(Duration::from_secs(1)).unwrap();
        assert!(turn.is_long());
        turn.goes_on();
        assert!(turn.went_on_ns.load(Ordering::Relaxed) >= 1_000_000_000);
    }

    #[tokio::test]
    async fn of_many_who_have_large_work_one_does_a_piece_of_it_before_the_others_are_served_again()
    {
        const LARGE: usize = 5;
        let turn = Arc::new(Turn::new(|| {}));
        let noted = Arc::new(Mutex::new(Vec::new()));
        let mut clients = JoinSet::new();
        for _ in 0..LARGE {
            let (turn, noted) = (turn.clone(), noted.clone());
            clients.spawn(async move {
                for _ in 0..3 {
                    turn.rest().await;
                    noted.lock().unwrap().push("large");
                }
            });
        }
        let waiting = noted.clone();
        clients.spawn(async move {
            for _ in 0..3 * LARGE {
                yield_now().await;
                waiting.lock().unwrap().push("small");
            }
        });
        clients.join_all().await;
        let noted = noted.lock().unwrap();
        assert_eq!(noted.iter().filter(|what| **what == "large").count(), 3 * LARGE);
        // Of those who rested together it is tokio's affair who comes first.
        assert!(noted.windows(3).all(|some| some.contains(&"small")), "{noted:?}");
    }

    #[test]
    fn what_is_staged_beside_readers_that_never_rest_is_committed() {
        let commits = Arc::new(AtomicU32::new(0));
        let counted = commits.clone();
        let turn = Turn::new(move || {
            counted.fetch_add(1, Ordering::Relaxed);
        });
        let read = |reads: u32| (0..reads).for_each(|_| turn.count_read());
        read(READS_MAX - 1);
        assert_eq!(commits.load(Ordering::Relaxed), 0);
        read(1);
        assert_eq!(commits.load(Ordering::Relaxed), 1);
        turn.end();
        read(READS_MAX);
        assert_eq!(commits.load(Ordering::Relaxed), 3, "a rest begins the count anew");
    }
}
