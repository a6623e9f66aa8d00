//! The state fails under load, for real: RocksDB's directory is taken away, so that its next flush
//! cannot make a file. The shard must open itself again with nothing lost and nobody cut off, and
//! must give up, with exit code 74, when that happens again at once.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
};

use crate::support::{Client, Kvd, wait_for};

const WRITERS: usize = 4;

/// Clients that write numbered keys one after the other and count what was acknowledged.
struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<[AtomicU64; WRITERS]>,
    writers: Vec<JoinHandle<(u64, bool)>>,
}

impl Load {
    fn start(address: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged: Arc<[AtomicU64; WRITERS]> = Arc::default();
        let writers = (0..WRITERS).map(|writer| {
            let (stop, acknowledged) = (stop.clone(), acknowledged.clone());
            let mut client = Client::connect(address);
            thread::spawn(move || {
                let (mut number, mut refusals) = (0, 0);
                while !stop.load(Ordering::Acquire) {
                    match client.try_ask(&format!("SET {writer}:{number} value-{number}")) {
                        Some(reply) if reply == "+OK" => {
                            number += 1;
                            acknowledged[writer].store(number, Ordering::Release);
                        }
                        Some(reply) => {
                            assert!(reply.contains("try again"), "{reply}");
                            refusals += 1;
                        }
                        None => return (refusals, true),
                    }
                }
                (refusals, false)
            })
        });
        let writers = writers.collect();
        Self { stop, acknowledged, writers }
    }

    fn counts(&self) -> [u64; WRITERS] {
        std::array::from_fn(|writer| self.acknowledged[writer].load(Ordering::Acquire))
    }

    fn wait_for_more(&self, more: u64) {
        let before = self.counts();
        wait_for("further acknowledgements", || {
            self.counts().iter().zip(before).all(|(now, before)| *now >= before + more)
        });
    }

    /// What was acknowledged to each, how often they were refused, and how many were cut off.
    fn end(self) -> ([u64; WRITERS], u64, usize) {
        self.stop.store(true, Ordering::Release);
        let ends: Vec<(u64, bool)> =
            self.writers.into_iter().map(|writer| writer.join().expect("a writer")).collect();
        let counts = std::array::from_fn(|at| self.acknowledged[at].load(Ordering::Acquire));
        let refusals = ends.iter().map(|(refusals, _)| refusals).sum();
        (counts, refusals, ends.iter().filter(|(_, cut_off)| *cut_off).count())
    }
}

fn assert_all_there(node: &Kvd, counts: [u64; WRITERS]) {
    let mut client = node.client();
    for (writer, count) in counts.into_iter().enumerate() {
        for number in 0..count {
            let found = client.get(&format!("{writer}:{number}"));
            assert_eq!(found, Some(format!("value-{number}")), "{writer}:{number} of {count}");
        }
    }
}

/// Takes RocksDB's directory away and asks for a flush, which then fails.
fn break_state(data: &Path, client: &mut Client, name: &str) {
    fs::rename(data.join("state"), data.join(name)).expect("the state is moved away");
    assert_eq!(client.ask("BGSAVE"), "+Background saving started");
}

#[test]
fn a_state_that_fails_is_opened_again_and_nothing_acknowledged_is_lost() {
    let scratch = tempfile::tempdir().expect("a directory");
    let data = scratch.path().join("data");
    let node = Kvd::start(&data, &[]);
    let mut client = node.client();
    let load = Load::start(node.resp);
    load.wait_for_more(200);
    assert_eq!(client.ask("BGSAVE"), "+Background saving started");
    wait_for("a flush", || node.metric("larder_state_persisted_seq") > 0);
    load.wait_for_more(50);

    break_state(&data, &mut client, "gone");
    wait_for("the state to be opened again", || node.metric("larder_state_reopened_total") == 1);
    load.wait_for_more(200);
    assert_eq!(client.get("0:0").as_deref(), Some("value-0"), "a connection from before");
    assert_eq!(node.metric("larder_state_failed"), 0);
    let (counts, refusals, cut_off) = load.end();
    println!("acknowledged {counts:?}, refused {refusals}, cut off {cut_off}");
    assert_eq!(cut_off, 0);
    assert_all_there(&node, counts);
    assert_eq!(node.stop().0, Some(0));
    assert!(data.join("state").is_dir());
    let node = Kvd::start(&data, &[]);
    assert_all_there(&node, counts);
}

/// Clients wait for the fold, and the fold for compactions: one that gave way would have them wait for
/// whatever else wants a processor (docs/adr/0020-no-thread-gives-way.md).
#[test]
fn no_thread_gives_way_also_once_the_state_was_opened_again() {
    let scratch = tempfile::tempdir().expect("a directory");
    let data = scratch.path().join("data");
    let node = Kvd::start(&data, &[]);
    let inherited = node.niceness("kvd")[0];
    let are_alike = || {
        ["syncer", "folder", "rocksdb:low", "rocksdb:high"].into_iter().all(|name| {
            let found = node.niceness(name);
            !found.is_empty() && found.iter().all(|niceness| *niceness == inherited)
        })
    };
    let mut client = node.client();
    // Each save leaves a file in level 0, of which eight are compacted: a thread of RocksDB would take
    // its priority up with its first work.
    for save in 1..=16 {
        assert_eq!(client.ask(&format!("SET key {save}")), "+OK");
        assert_eq!(client.ask("BGSAVE"), "+Background saving started");
        wait_for("a flush", || node.metric("larder_state_persisted_seq") > save);
    }
    wait_for("a compaction", || node.metric("larder_state_level0_files") < 8);
    assert!(are_alike());
    assert_eq!(client.ask("SET key value"), "+OK");
    break_state(&data, &mut client, "gone");
    wait_for("the state to be opened again", || node.metric("larder_state_reopened_total") == 1);
    wait_for("the threads of the state opened again", are_alike);
    assert_eq!(client.ask("SET key other"), "+OK");
}

#[test]
fn a_stop_while_the_state_is_opened_again_ends_in_order() {
    let scratch = tempfile::tempdir().expect("a directory");
    let data = scratch.path().join("data");
    let node = Kvd::start(&data, &[]);
    let mut client = node.client();
    let load = Load::start(node.resp);
    load.wait_for_more(100);
    break_state(&data, &mut client, "gone");
    // RocksDB waits a second before it lets a database that failed be closed.
    wait_for("the failure", || node.metric("larder_state_failed") == 1);
    assert_eq!(client.get("0:0").as_deref(), Some("value-0"), "what is in memory is readable");
    assert_eq!(node.stop().0, Some(0));
    let (counts, ..) = load.end();
    let node = Kvd::start(&data, &[]);
    assert_all_there(&node, counts);
}

#[test]
fn a_state_that_fails_again_at_once_ends_the_process_and_the_restart_has_everything() {
    let scratch = tempfile::tempdir().expect("a directory");
    let data = scratch.path().join("data");
    let mut node = Kvd::start(&data, &[]);
    let mut client = node.client();
    let load = Load::start(node.resp);
    load.wait_for_more(100);
    break_state(&data, &mut client, "gone");
    wait_for("the state to be opened again", || node.metric("larder_state_reopened_total") == 1);
    load.wait_for_more(100);
    break_state(&data, &mut client, "gone-too");
    assert_eq!(node.exit_code(), Some(74));
    let (counts, _, cut_off) = load.end();
    assert_eq!(cut_off, WRITERS);
    let node = Kvd::start(&data, &[]);
    assert_all_there(&node, counts);
}

#[test]
fn a_save_counts_once_it_is_on_disk() {
    let saved_s = |client: &mut Client| -> u64 {
        client.ask("LASTSAVE").trim_start_matches(':').parse().expect("seconds")
    };
    let scratch = tempfile::tempdir().expect("a directory");
    let data = scratch.path().join("data");
    let node = Kvd::start(&data, &[]);
    let mut client = node.client();
    let started_s = saved_s(&mut client);
    let time_s = |client: &mut Client| -> u64 {
        assert_eq!(client.ask("TIME"), "*2");
        let parts: Vec<String> = (0..4).map(|_| client.line()).collect();
        parts[1].parse().expect("seconds")
    };
    wait_for("another second", || time_s(&mut client) > started_s);
    assert_eq!(client.ask("SET key value"), "+OK");
    break_state(&data, &mut client, "gone");
    wait_for("the failure", || node.metric("larder_state_failed") == 1);
    assert_eq!(saved_s(&mut client), started_s, "the flush failed");
    wait_for("the state to be opened again", || node.metric("larder_state_reopened_total") == 1);
    assert_eq!(client.ask("BGSAVE"), "+Background saving started");
    wait_for("the save", || saved_s(&mut client) > started_s);
    assert!(node.metric("larder_state_persisted_seq") > 0);
}
