//! What the engine does with the shard's reports, where they cross its orders.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use larder_net::{
    Identity, Shaper,
    ca::{self, Validity},
};
use larder_storage::{Directory, Store, StoreOptions, open, state::DatabaseOptions};
use larder_types::{AckLevel, NodeId, SequenceNumber};
use tokio::{sync::mpsc, time::timeout};

use super::{
    Clock, Driver, Found, Options, Order, Port, Report,
    engine::{Engine, Input},
    handle::Shared,
    rewind::Worked,
    start::engine,
};

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

fn database() -> DatabaseOptions {
    DatabaseOptions::new(8 << 20, 8 << 20)
}

fn opened(directory: &Directory, run: u64) -> Store {
    let mut options = StoreOptions::new(database());
    options.reserve_bytes = 0;
    open(directory, options, run, run).unwrap().store
}

#[tokio::test]
async fn a_store_that_opens_by_itself_just_before_it_is_closed_for_a_rewind_is_not_used() {
    let (root, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let directory = Arc::new(Directory::open(data.path()).unwrap());
    let store = opened(&directory, 1);
    let (inputs, mut received) = mpsc::channel(64);
    let driver = Driver { inputs, shared: Arc::new(Shared::new(Clock::start())) };
    let orders = Arc::new(Mutex::new(Vec::new()));
    let port = Port {
        order: Arc::new({
            let orders = orders.clone();
            move |order| orders.lock().unwrap().push(order)
        }),
        visible: Arc::new(|_| ()),
    };
    let found = Found { store: Some(store.clone()), rewind: None };
    let mut engine: Engine =
        engine(options(root.path(), &directory), found, port, &driver).unwrap();
    engine.settle();

    engine.start_rewind(SequenceNumber::FIRST);
    let is_close = |order: &Order| matches!(order, Order::Close(_));
    assert_eq!(orders.lock().unwrap().iter().filter(|order| is_close(order)).count(), 1);
    // Meanwhile the state failed, and the shard has opened it again.
    store.close();
    let again = opened(&directory, 2);
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
