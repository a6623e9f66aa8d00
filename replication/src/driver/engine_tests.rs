//! What the engine does with the shard's reports, where they cross its orders, and with what other nodes
//! send that is of no use.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use larder_net::{
    Identity, Shaper,
    ca::{self, Validity},
};
use larder_storage::{
    Directory, Opened, Store, StoreOptions, open, rewind::Rewind, state::DatabaseOptions,
};
use larder_types::{AckLevel, Epoch, NodeId, Position, SequenceNumber};
use tempfile::TempDir;
use tokio::{sync::mpsc, time::timeout};

use super::{
    Clock, Driver, DriverError, Found, Options, Order, Port, Report,
    engine::{Engine, Input},
    handle::Shared,
    rewind::Worked,
    served::tests::Master,
    snapshot::{Fetched, Gathering},
    start::engine,
};
use crate::core::{Action, Chunk, Event, Link, ReadGate, Session, Tail};

/// How long something is waited for that has to happen.
const SOON: Duration = Duration::from_secs(10);

fn options(root: &std::path::Path, directory: &Arc<Directory>) -> Options {
    let node: NodeId = "one".parse().unwrap();
    let lasting = Duration::from_secs(3_600);
    let validity = Validity { from: SystemTime::now() - Duration::from_secs(60), lasting };
    let authority = ca::init(root, &"test".parse().unwrap(), validity).unwrap();
    let files = ca::issue_node(root, &node, root, validity).unwrap();
    let identity = Identity::load(&authority.certificate, &files.certificate, &files.key);
    Options {
        node: node.clone(),
        region: "east".to_owned(),
        peers: Vec::new(),
        first_master: node,
        level: AckLevel::Local,
        lease: Duration::from_secs(3),
        listen: "127.0.0.1:0".parse().unwrap(),
        identity: Arc::new(identity.unwrap()),
        certificate: files.certificate,
        shaper: Shaper::new(1),
        directory: directory.clone(),
        database: database(),
    }
}

fn position() -> Position {
    Position { epoch: Epoch { term: 1, run: 1, id: 1 }, seq: SequenceNumber::FIRST }
}

fn database() -> DatabaseOptions {
    DatabaseOptions::new(8 << 20, 8 << 20)
}

fn opened(directory: &Directory, run: u64) -> Store {
    let mut options = StoreOptions::new(database());
    options.reserve_bytes = 0;
    open(directory, options, run, run).unwrap().store
}

/// A snapshot of nothing.
fn nothing() -> Box<Fetched> {
    Box::new(Fetched::Nothing(Gathering::default().try_lock_owned().unwrap()))
}

/// An engine over a store, whose orders are noted.
struct Node {
    engine: Engine,
    driver: Driver,
    directory: Arc<Directory>,
    store: Store,
    orders: Arc<Mutex<Vec<Order>>>,
    received: mpsc::Receiver<Input>,
    _dirs: [TempDir; 2],
}

impl Node {
    fn start() -> Self {
        let data = tempfile::tempdir().unwrap();
        let directory = Arc::new(Directory::open(data.path()).unwrap());
        let store = opened(&directory, 1);
        let found = Found { store: Some(store.clone()), rewind: None };
        Self::of(data, directory, store, found)
    }

    /// One that was stopped while it fetched the key that its last record had changed.
    fn rewinding() -> Self {
        let data = tempfile::tempdir().unwrap();
        let directory = Arc::new(Directory::open(data.path()).unwrap());
        let mut options = StoreOptions::new(database());
        options.reserve_bytes = 0;
        let Opened { mut writer, mut syncer, folder, store, .. } =
            open(&directory, options, 1, 1).unwrap();
        for value in [b"common", b"parted"] {
            let mut txn = writer.transaction(1);
            txn.put_string(b"key", value, None).unwrap();
            txn.commit().unwrap();
            writer.seal();
            syncer.commit(writer.take_batch().unwrap()).unwrap();
        }
        let parting = writer.last().seq;
        store.stop_folding();
        drop((writer, syncer));
        folder.run().unwrap();
        store.close();
        let mut rewind = Rewind::mark(&directory, &database(), parting, 1).unwrap();
        rewind.cut(&directory).unwrap();
        let found = Found { store: None, rewind: Some(rewind) };
        Self::of(data, directory, store, found)
    }

    fn of(data: TempDir, directory: Arc<Directory>, store: Store, found: Found) -> Self {
        let root = tempfile::tempdir().unwrap();
        let (inputs, received) = mpsc::channel(64);
        let driver = Driver { inputs, shared: Arc::new(Shared::new(Clock::start())) };
        let orders = Arc::new(Mutex::new(Vec::new()));
        let port = Port {
            order: Arc::new({
                let orders = orders.clone();
                move |order| orders.lock().unwrap().push(order)
            }),
            visible: Arc::new(|_| ()),
        };
        let options = options(root.path(), &directory);
        let mut engine = engine(options, found, port, &driver).unwrap();
        engine.settle();
        Self { engine, driver, directory, store, orders, received, _dirs: [root, data] }
    }
}

impl Node {
    /// What the engine makes of work on the directory.
    async fn worked(&mut self) -> Option<Event> {
        loop {
            let received = timeout(SOON, self.received.recv()).await;
            let received = received.ok().flatten().expect("the directory is worked on");
            if let Input::Worked(worked) = received {
                self.engine.take(Input::Worked(worked));
                return self.engine.events.pop_front();
            }
        }
    }
}

/// How often the store was ordered to be closed.
fn closes(orders: &Mutex<Vec<Order>>) -> usize {
    let orders = orders.lock().unwrap();
    orders.iter().filter(|order| matches!(order, Order::Close(_))).count()
}

#[tokio::test]
async fn a_snapshot_that_comes_after_replication_began_anew_is_not_installed() {
    let mut node = Node::start();
    let Node { engine, directory, store, orders, .. } = &mut node;
    let (link, log) = (Link(1), store.log().id());
    let comes = || Input::SnapshotFetched { link, log, fetched: Ok(nothing()) };
    engine.fetching = Some(link);
    // The state failed, and the shard has opened it again.
    store.close();
    engine.take(Input::Report(Report::Opened(opened(directory, 2))));
    engine.settle();
    engine.take(comes());
    engine.settle();
    assert_eq!(closes(orders), 0, "nobody asked for it");
    engine.fetching = Some(link);
    engine.take(comes());
    assert_eq!(closes(orders), 1, "the store is closed for one that was asked for");
}

#[tokio::test]
async fn a_snapshot_that_is_in_place_in_part_ends_the_process_and_one_of_which_nothing_is_does_not()
{
    // A file where a directory has to be made to gather in; a directory where the decision has to be
    // written; and a link to nowhere where log and state have to be set aside.
    for (blocked, is_decided) in [("incoming", false), ("INSTALL.tmp", false), ("set-aside", true)]
    {
        let mut node = Node::start();
        let path = node.directory.root().join(blocked);
        match blocked {
            "INSTALL.tmp" => std::fs::create_dir(path).unwrap(),
            "set-aside" => std::os::unix::fs::symlink("nowhere", path).unwrap(),
            _ => std::fs::write(path, "").unwrap(),
        }
        node.engine.install(Link(1), node.store.log().id(), nothing());
        node.store.close();
        node.engine.take(Input::Report(Report::Closed));
        node.worked().await;
        assert_eq!(node.directory.root().join("INSTALL").exists(), is_decided);
        let failure = &node.engine.failure;
        assert_eq!(matches!(failure, Some(DriverError::Snapshot(_))), is_decided, "{failure:?}");
        let opens = matches!(node.orders.lock().unwrap().last(), Some(Order::Open(None)));
        assert_eq!(opens, !is_decided, "what was there is opened again if it is whole");
    }
}

#[tokio::test]
async fn a_state_that_was_opened_again_is_not_read_before_replication_has_begun_anew() {
    let mut node = Node::start();
    let Node { engine, driver, directory, store, .. } = &mut node;
    // It is the master, which goes on by beginning an epoch of its own.
    engine.standing.leads = Some(1);
    engine.shared.set_reads(ReadGate::Open);
    assert!(driver.may_read());
    driver.renews();
    assert!(!driver.may_read(), "readers may see it from now on");
    store.close();
    engine.take(Input::Report(Report::Opened(opened(directory, 2))));
    engine.settle();
    assert!(!driver.may_read(), "what the core said before was said of another state");
    engine.perform(Action::Reads(ReadGate::Open));
    assert!(driver.may_read());
}

#[tokio::test]
async fn frames_are_given_up_once_they_are_not_wanted_and_those_that_come_later_are_not() {
    let mut node = Node::start();
    let frames = || Action::Append {
        chunk: Chunk { prev: Tail::EMPTY, last: position(), last_crc: 0, frames: Bytes::new() },
    };
    let turn = |orders: &Mutex<Vec<Order>>| match orders.lock().unwrap().last() {
        Some(Order::Accept { turn, .. }) => *turn,
        other => panic!("{other:?}"),
    };
    node.engine.perform(frames());
    let first = turn(&node.orders);
    assert!(!node.driver.gives_up(first));
    node.engine.perform(Action::GiveUpAppending);
    assert!(node.driver.gives_up(first));
    node.engine.perform(frames());
    let second = turn(&node.orders);
    assert!(!node.driver.gives_up(second));
    // All but the last record of its log is durable.
    let appended = node.store.watermarks().durable + 1;
    let refused = |turn| Input::Report(Report::Refused { turn, appended, why: None });
    node.engine.take(refused(first));
    assert!(node.driver.gives_up(second), "it goes on from what was refused");
    node.engine.take(refused(second));
    let told = |engine: &Engine| {
        engine.events.iter().filter(|it| matches!(it, Event::AppendRefused { .. })).count()
    };
    assert_eq!(told(&node.engine), 0, "what was appended before them is not durable yet");
    node.engine.told.durable = SequenceNumber::new(appended);
    node.engine.tell_refused();
    assert_eq!(told(&node.engine), 1, "once for both");
}

#[tokio::test]
async fn a_snapshot_over_a_connection_that_was_just_lost_has_failed() {
    let mut node = Node::start();
    let log = node.store.log().id();
    node.engine.perform(Action::StartSnapshot { link: Link(1), session: Session(1), log });
    let failed = node.engine.events.pop_front();
    assert!(matches!(failed, Some(Event::SnapshotFailed { link: Link(1), .. })), "{failed:?}");
}

#[tokio::test]
async fn a_store_that_opens_by_itself_just_before_it_is_closed_for_a_rewind_is_not_used() {
    let mut node = Node::start();
    let Node { engine, directory, store, orders, received, .. } = &mut node;
    engine.start_rewind(SequenceNumber::FIRST);
    assert_eq!(closes(orders), 1);
    // Meanwhile the state failed, and the shard has opened it again.
    store.close();
    let again = opened(directory, 2);
    engine.take(Input::Report(Report::Opened(again.clone())));
    engine.settle();
    assert!(engine.store.is_none(), "it is closed next");
    again.close();
    engine.take(Input::Report(Report::Closed));
    engine.settle();
    let Ok(Some(Input::Worked(worked))) = timeout(SOON, received.recv()).await else {
        panic!("the directory of a closed store is worked on");
    };
    assert!(matches!(*worked, Worked::Marked(Ok(_))), "the rewind goes on");
}

#[tokio::test]
async fn keys_that_are_malformed_or_were_not_asked_for_end_no_process_and_are_asked_for_again() {
    let mut node = Node::rewinding();
    let request = |event| match event {
        Some(Event::KeysListed { request, .. }) => request,
        other => panic!("{other:?}"),
    };
    node.engine.list_keys(true);
    let changed = request(node.worked().await);
    for useless in [&b""[..], b"malformed", b"\x01", b"\x02short"] {
        node.engine.apply_keys(Bytes::from_static(useless));
        let event = node.worked().await;
        assert!(matches!(event, Some(Event::KeysUseless)), "{event:?}");
        assert!(node.engine.failure.is_none(), "the disk is in order");
        node.engine.list_keys(false);
        assert_eq!(request(node.worked().await), changed);
    }
    // No hash was changed.
    node.engine.apply_keys(Bytes::from_static(b"\x02"));
    assert!(matches!(node.worked().await, Some(Event::KeysApplied)));
    node.engine.list_keys(false);
    let keys = request(node.worked().await);
    // The key "kez" is absent, the key "key" is.
    for (useless, reply) in [(true, b"\x01\x03\0\0\0kez\0"), (false, b"\x01\x03\0\0\0key\0")] {
        node.engine.list_keys(false);
        assert_eq!(request(node.worked().await), keys);
        node.engine.apply_keys(Bytes::from_static(reply));
        let event = node.worked().await;
        assert_eq!(matches!(event, Some(Event::KeysUseless)), useless, "{event:?}");
        assert_eq!(matches!(event, Some(Event::KeysApplied)), !useless, "{event:?}");
    }
    assert!(node.engine.failure.is_none());
}

#[tokio::test]
async fn a_snapshot_that_is_made_when_its_slaves_connection_is_gone_is_there_when_it_comes_again() {
    let (mut node, mut master) = (Node::start(), Master::new());
    let slave: NodeId = "two".parse().unwrap();
    let engine = &mut node.engine;
    let number = engine.served.want(Link(1), slave.clone(), Session(1)).expect("it is the first");
    let first = SequenceNumber::FIRST;
    engine.take(Input::SnapshotMade { number, made: Ok(master.snapshot()) });
    assert!(engine.served.any(&slave, first).is_some());
}

#[tokio::test]
async fn a_late_report_of_a_pause_that_was_undone_does_not_end_the_next_one() {
    let mut node = Node::start();
    node.engine.perform(Action::PauseWrites);
    let first = node.engine.pauses;
    node.engine.perform(Action::ResumeWrites);
    node.engine.perform(Action::PauseWrites);
    let second = node.engine.pauses;
    let ordered = |number: u64| {
        let orders = node.orders.lock().unwrap();
        orders.iter().any(|order| matches!(order, Order::Pause(pause) if *pause == number))
    };
    assert!(first != second && ordered(first) && ordered(second));
    let paused = |engine: &Engine| {
        engine.events.iter().filter(|event| matches!(event, Event::WritesPaused)).count()
    };
    node.engine.take(Input::Report(Report::Paused { pause: first, appended: 0 }));
    assert_eq!(paused(&node.engine), 0, "writes may still be taken");
    node.engine.take(Input::Report(Report::Paused { pause: second, appended: 0 }));
    assert_eq!(paused(&node.engine), 1);
}
