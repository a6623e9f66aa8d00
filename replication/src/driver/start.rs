//! Starting a driver: its thread, its endpoint, and what the core begins with.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, mpsc as std_mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

use larder_net::{Endpoint, Identity, Shaper};
use larder_storage::{Directory, Store, rewind::Rewind, state::DatabaseOptions};
use larder_types::{AckLevel, NodeId, SequenceNumber};
use rand::Rng as _;
use tokio::{runtime::Builder, sync::mpsc};

use super::{
    Clock, Driver, DriverError, Port,
    engine::{Engine, Told},
    feed::Feeds,
    handle::Shared,
    links::Links,
    log_state,
    packing::{self, Packer, Unpacker},
    rewind::{Rewinding, marker_of},
    served::Served,
    snapshot::{Gathering, Pace},
    standing,
    works::Works,
};
use crate::core::{Boot, Config, Core, Peer};

/// What reaches the driver and was not looked at yet. Readers of connections wait beyond it, and
/// with them the other ends.
const INPUTS_MAX: usize = 1_024;
/// Bytes of records on their way to one slave: what a line of 1 Gbit/s and 100 ms holds.
const WINDOW_BYTES: usize = 13 << 20;

/// Another node of the cluster.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its name.
    pub node: NodeId,
    /// Its region's name.
    pub region: String,
    /// Where it listens.
    pub address: SocketAddr,
}

/// What a driver is told.
pub struct Options {
    /// This node.
    pub node: NodeId,
    /// Its region's name.
    pub region: String,
    /// Every other node.
    pub peers: Vec<Member>,
    /// Who makes the log of a new cluster.
    pub first_master: NodeId,
    /// The namespace's level.
    pub level: AckLevel,
    /// How long a slave's grant lasts.
    pub lease: Duration,
    /// The UDP address.
    pub listen: SocketAddr,
    /// Who this node is, by its certificate.
    pub identity: Arc<Identity>,
    /// Where the certificate was read, for errors.
    pub certificate: PathBuf,
    /// What the socket does to datagrams.
    pub shaper: Shaper,
    /// The data directory.
    pub directory: Arc<Directory>,
    /// How RocksDB is opened.
    pub database: DatabaseOptions,
}

/// What is on the disk.
#[derive(Default)]
pub struct Found {
    /// The open store; `None` while keys of a rewind are missing, without which it does not open.
    pub store: Option<Store>,
    /// A rewind that is not over.
    pub rewind: Option<Rewind>,
}

/// The thread of a driver; answers why it ended when that was not asked for.
pub type Thread = JoinHandle<Result<(), DriverError>>;

/// Starts replication on a thread of its own.
///
/// # Errors
/// When the certificate is not this node's, the address cannot be had, or the log cannot be read.
pub fn start(options: Options, found: Found, port: Port) -> Result<(Driver, Thread), DriverError> {
    if options.identity.node() != &options.node {
        let Options { certificate, node: expected, identity, .. } = options;
        let found = identity.node().clone();
        return Err(DriverError::OtherNode { certificate, found, expected });
    }
    let runtime =
        Builder::new_current_thread().enable_all().build().map_err(DriverError::Thread)?;
    let (inputs, receiver) = mpsc::channel(INPUTS_MAX);
    let clock = Clock::start();
    let driver = Driver { inputs, shared: Arc::new(Shared::new(clock)) };
    let (started, has_started) = std_mpsc::channel();
    let handle = driver.clone();
    let run = move || {
        runtime.block_on(async move {
            match engine(options, found, port, &handle) {
                Ok(mut engine) => {
                    // Whoever started it waits for this.
                    let _ = started.send(Ok(()));
                    drop(handle);
                    engine.settle();
                    engine.run(receiver).await
                }
                Err(error) => {
                    let _ = started.send(Err(error));
                    Ok(())
                }
            }
        })
    };
    let thread = thread::Builder::new().name("replication".into()).spawn(run);
    let thread = thread.map_err(DriverError::Thread)?;
    match has_started.recv() {
        Ok(Ok(())) => Ok((driver, thread)),
        Ok(Err(error)) => Err(error),
        Err(_) => unreachable!("the thread says how it started"),
    }
}

pub(super) fn engine(
    options: Options,
    found: Found,
    port: Port,
    driver: &Driver,
) -> Result<Engine, DriverError> {
    let Driver { inputs, shared } = driver.clone();
    let config = config(&options);
    let standing = standing::load(&options.directory)?;
    let keeper = standing::keeper(&options.directory, inputs.clone())?;
    let Found { store, rewind } = found;
    let log = match &store {
        Some(store) => log_state::of(store)?,
        None => log_state::at_rest(&options.directory, &options.database)?,
    };
    let marker = rewind.as_ref().map(marker_of);
    let rewinding = rewind.map(|rewind| Rewinding { rewind: Some(rewind) });
    let boot = Boot { standing: standing.clone(), log, marker, entropy: rand::rng().random() };
    let links = links(&options, driver)?;
    let mut actions = Vec::new();
    let log = boot.log.clone();
    let now = shared.clock.now();
    let core = Core::new(config.clone(), boot, now, &mut actions);
    let mut engine = Engine {
        core,
        config,
        clock: shared.clock,
        shared,
        inputs,
        events: VecDeque::new(),
        actions,
        links,
        feeds: Feeds::default(),
        packer: Packer::default(),
        unpacker: Unpacker::default(),
        port,
        directory: options.directory,
        database: options.database,
        store,
        standing,
        keeper,
        works: Works::start()?,
        told: Told::default(),
        committed: None,
        retain_from: Some(SequenceNumber::FIRST),
        pausing: None,
        pauses: 0,
        closed: None,
        opening: None,
        rewinding,
        ending: None,
        fetching: None,
        wanted_from: 0,
        refused: None,
        served: Served::default(),
        pace: Pace::default(),
        gathering: Gathering::default(),
        asked: 0,
        requests: HashMap::new(),
        reaches: HashMap::new(),
        failure: None,
    };
    engine.know(log.as_ref());
    Ok(engine)
}

fn config(options: &Options) -> Config {
    let peers = options.peers.iter().map(|peer| Peer {
        node: peer.node.clone(),
        region: peer.region.clone(),
        voter: true,
    });
    Config {
        node: options.node.clone(),
        region: options.region.clone(),
        peers: peers.collect(),
        first_master: options.first_master.clone(),
        level: options.level,
        lease: options.lease,
        window_bytes: WINDOW_BYTES,
        #[cfg(feature = "planted-bugs")]
        planted: None,
    }
}

fn links(options: &Options, driver: &Driver) -> Result<Links, DriverError> {
    let net = larder_net::Options {
        allowed: options.peers.iter().map(|peer| peer.node.clone()).collect(),
        features: packing::ZSTD,
        ..larder_net::Options::default()
    };
    let identity = options.identity.clone();
    let endpoint = Endpoint::bind(options.listen, identity, &options.shaper, net)?;
    let addresses: HashMap<_, _> =
        options.peers.iter().map(|peer| (peer.node.clone(), peer.address)).collect();
    let sent_bytes = driver.shared.stats.sent_bytes.clone();
    Ok(Links::new(endpoint, addresses, driver.inputs.clone(), sent_bytes))
}
