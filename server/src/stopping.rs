//! A stop from its beginning to its bound: who asks for it, and how long the process may take to end.
//!
//! A process that has not ended by then kills itself, as it does at the second signal. That costs the
//! next start a replay and nothing else: what was acknowledged is in the log. It is SIGKILL and no exit
//! code, because an exit waits for RocksDB's threads, and they for the disk.

use std::{
    io, process,
    sync::{Arc, OnceLock, mpsc::sync_channel},
    thread,
    time::Duration,
};

use rustix::process::{Signal, getpid, kill_process};
use tokio::sync::mpsc;

use crate::{
    connection::Stop,
    node::{Node, Phase},
};

/// How long a stop may take beyond `drain_ms`: for opening that is under way, for the end of
/// replication, for folding, flushing and closing.
const CLOSING_MAX: Duration = Duration::from_secs(20);
/// How long the last line of the log may take: nobody may be reading it.
const LAST_LINE_MAX: Duration = Duration::from_secs(1);

/// The node, once its store is open or waits for a rewind.
type Started = Arc<OnceLock<Arc<Node>>>;

/// Asks for the stop at the first of the signals, which come by their names, unless a client does.
/// From then on the process ends in time, and at once when another signal comes.
pub(crate) async fn oversee(
    mut signals: mpsc::Receiver<&'static str>,
    stop: Arc<Stop>,
    started: Started,
    drain: Duration,
) {
    let signal = tokio::select! {
        Some(signal) = signals.recv() => Some(signal),
        () = stop.requested() => None,
    };
    stop.request();
    let node = started.get();
    // Before the store is open there is nobody to be answered.
    let bound = node.map_or(Duration::ZERO, |_| drain) + CLOSING_MAX;
    let watched = started.clone();
    // On a thread of its own: whatever hangs does not keep it.
    let watching = thread::Builder::new().name("deadline".into()).spawn(move || {
        thread::sleep(bound);
        kill(&format!("the stop took longer than {bound:?}"), &watched);
    });
    if let Err(error) = watching {
        tracing::warn!(%error, "nothing bounds the stop");
    }
    if let Some(node) = node {
        node.enter(Phase::Draining);
    }
    tracing::info!(by = signal.unwrap_or("SHUTDOWN"), "kvd drains");
    if let Some(signal) = signals.recv().await {
        kill(&format!("{signal} came while it stopped"), &started);
    }
}

/// Ends the process here and now, after a line that says why and what was left.
fn kill(why: &str, started: &Started) -> ! {
    let (said, waits) = sync_channel(1);
    let (why, started) = (why.to_owned(), started.clone());
    let saying = move || {
        let left = left(&started);
        tracing::error!(left, "{why}; kvd kills itself: nothing acknowledged is lost");
        // Whoever waits may have given up.
        let _ = said.send(());
    };
    let _: io::Result<_> = thread::Builder::new().spawn(saying);
    let _ = waits.recv_timeout(LAST_LINE_MAX);
    let _ = kill_process(getpid(), Signal::KILL);
    // The first process of a container is spared by its own SIGKILL.
    process::abort();
}

fn left(started: &Started) -> String {
    let Some(node) = started.get() else { return "the opening of the store".to_owned() };
    let watermarks = node.watermarks();
    let replayed = watermarks.durable.saturating_sub(watermarks.persisted);
    let clients = node.clients.len();
    format!("{clients} clients, and {replayed} records that the next start replays")
}
