//! The threads that serve connections, each with a runtime of its own.
//!
//! A connection stays on the thread that it was given to. Runtimes that steal work from each other
//! wake a thread for nearly every request of a slow client, which costs more than the request
//! (docs/adr/0007-a-runtime-a-thread.md).

use std::{
    future::Future,
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
    task::JoinSet,
};

use super::turn::Turn;
use crate::node::Node;

/// After a thread was told to end, blocking calls of its connections are left behind after this
/// time.
const END: Duration = Duration::from_secs(1);

/// The threads. They end when this is dropped.
pub struct Workers {
    workers: Vec<Worker>,
}

struct Worker {
    handle: Handle,
    connections: Arc<AtomicUsize>,
    turn: Arc<Turn>,
    /// Its drop ends the thread.
    _end: oneshot::Sender<()>,
    _thread: JoinHandle<()>,
}

impl Workers {
    /// Starts so many threads; 0 for one a processor but one, which is left to the sync thread, the
    /// fold and replication. A thread that has served whoever was ready lets the shard commit what
    /// they wrote.
    ///
    /// # Errors
    /// When the system refuses a thread or what a runtime needs.
    pub fn start(count: usize, node: &Arc<Node>) -> io::Result<Self> {
        let count = match count {
            0 => thread::available_parallelism()?.get().saturating_sub(1).max(1),
            count => count,
        };
        let start = |_| Worker::start(node.clone());
        Ok(Self { workers: (0..count).map(start).collect::<io::Result<_>>()? })
    }

    /// Runs a connection on the thread that has the fewest. It holds what counts it there: an `async`
    /// block here that awaited it would take its memory twice.
    pub(super) fn spawn<F>(
        &self,
        connections: &mut JoinSet<()>,
        connection: impl FnOnce(Arc<Turn>, Counted) -> F,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let load = |worker: &&Worker| worker.connections.load(Ordering::Relaxed);
        let worker = self.workers.iter().min_by_key(load).expect("at least one was started");
        let counted = Counted::new(&worker.connections);
        connections.spawn_on(connection(worker.turn.clone(), counted), &worker.handle);
    }
}

impl Worker {
    fn start(node: Arc<Node>) -> io::Result<Self> {
        let turn = Arc::new(Turn::new(move || {
            if let Some(shard) = node.shard() {
                shard.commit_staged();
            }
        }));
        let resting = turn.clone();
        let runtime = Builder::new_current_thread()
            .enable_all()
            .on_thread_park(move || resting.end())
            .build()?;
        let handle = runtime.handle().clone();
        let mailbox = turn.mailbox().clone();
        handle.spawn(async move { mailbox.deliver().await });
        let (end, ended) = oneshot::channel::<()>();
        let serve = move || {
            // An error says that the other end was dropped, which is how it is told.
            let _ = runtime.block_on(ended);
            runtime.shutdown_timeout(END);
        };
        let thread = thread::Builder::new().name("connections".into()).spawn(serve)?;
        Ok(Self { handle, connections: Arc::default(), turn, _end: end, _thread: thread })
    }
}

/// Counts a connection while it is held.
pub(super) struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(connections: &Arc<AtomicUsize>) -> Self {
        connections.fetch_add(1, Ordering::Relaxed);
        Self(connections.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
