//! Puts a replicated shard together: shard, steward, driver.

use std::{
    cell::Cell,
    io,
    sync::{Arc, OnceLock, mpsc},
    thread,
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use larder_config::{NodeConfig, ReplicationConfig};
use larder_net::{Identity, Shaper};
use larder_replication::driver::{
    self, Driver, DriverError, Found, Member, Options, Port, REWINDING, Report,
};
use larder_storage::{Directory, StoreOptions, fs::RealFs, log, rewind::Rewind};
use larder_types::{LogId, SequenceNumber};
use rand::Rng as _;
use tokio::sync::{oneshot, watch};

use super::{Duty, Replica, loading::Loading, steward::Steward};
use crate::shard::{Happened, Place, Replicated, Shard, ShardError, Threads};

/// How often writes are looked at that wait for other nodes.
const EXPIRE_EVERY: Duration = Duration::from_millis(20);

/// Why a node of a cluster did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Replication did not start.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// The shard did not.
    #[error(transparent)]
    Shard(#[from] ShardError),
    /// The steward did not.
    #[error("start the steward's thread: {0}")]
    Thread(#[source] io::Error),
}

/// Told, perhaps several times, why the process must end.
pub type Failed = Arc<dyn Fn(StartError) + Send + Sync>;

/// What was started.
pub struct Started {
    /// For connections.
    pub replica: Arc<Replica>,
    /// Where the shard is once its store is open: at once, unless a rewind was under way.
    pub shard: Place,
    /// The shard's threads, from then on.
    pub threads: oneshot::Receiver<Threads>,
    /// The driver's thread.
    pub thread: driver::Thread,
}

/// What is passed on from one part to another that is made later.
#[derive(Clone, Default)]
struct Places {
    driver: Arc<OnceLock<Driver>>,
    shard: Place,
    loading: Arc<Loading>,
}

/// Starts a node of a cluster. Blocks until the directory was looked at.
///
/// # Errors
/// When a certificate, the UDP address, the directory or a thread cannot be had.
pub fn start(
    node: &NodeConfig,
    replication: &ReplicationConfig,
    is_lab: bool,
    directory: Arc<Directory>,
    options: StoreOptions,
    failed: &Failed,
) -> Result<Started, StartError> {
    let identity = Identity::load(&node.ca, &node.certificate, &node.key);
    let identity = Arc::new(identity.map_err(DriverError::from)?);
    let places = Places::default();
    let (opened, threads) = oneshot::channel();
    let open = opener(&directory, &options, replication, &places, failed, opened);
    let database = options.database.clone();
    let rewind = Rewind::pending(&directory, &database).map_err(DriverError::from)?;
    // With records still to be cut, or keys still to be fetched, the store does not open.
    if rewind.as_ref().is_none_or(|rewind| rewind.marker().is_whole()) {
        open()?;
    } else {
        places.loading.begin(REWINDING.into());
    }
    let store = places.shard.get().map(|shard| (**shard.store()).clone());
    let found = Found { store, rewind };
    let (orders, received) = mpsc::channel();
    let duty = Arc::new(ArcSwap::from_pointee(Duty::Joining));
    let (visible, seen) = watch::channel(0);
    let shaper = Shaper::new(rand::rng().random());
    let (driver, thread) = driver::start(
        driver_options(node, replication, identity, &shaper, directory.clone(), database),
        found,
        Port { order: ordered(orders), visible: released(&places, visible) },
    )?;
    // Nobody else sets it.
    let _ = places.driver.set(driver.clone());
    start_steward(received, &places, duty.clone(), open, failed.clone())?;
    let replica = Arc::new(Replica {
        node: node.clone(),
        level: replication.level,
        ack_timeout: Duration::from_millis(replication.ack_timeout_ms),
        driver,
        shaper: is_lab.then_some(shaper),
        directory,
        loading: places.loading.clone(),
        duty,
        status: ArcSwapOption::empty(),
        visible: seen,
        unreached: 0.into(),
    });
    tokio::spawn(expire(places.shard.clone(), Arc::downgrade(&replica)));
    tokio::spawn(replica.clone().keep_status());
    Ok(Started { replica, shard: places.shard, threads, thread })
}

fn driver_options(
    node: &NodeConfig,
    replication: &ReplicationConfig,
    identity: Arc<Identity>,
    shaper: &Shaper,
    directory: Arc<Directory>,
    database: larder_storage::state::DatabaseOptions,
) -> Options {
    let peers = node.peers.iter().map(|peer| Member {
        node: peer.id.clone(),
        region: peer.region.clone(),
        address: peer.address,
    });
    Options {
        node: node.id.clone(),
        region: node.region.clone(),
        peers: peers.collect(),
        first_master: replication.first_master.clone().unwrap_or_else(|| node.id.clone()),
        level: replication.level,
        lease: Duration::from_millis(replication.lease_ms),
        listen: node.listen,
        identity,
        certificate: node.certificate.clone(),
        shaper: shaper.clone(),
        directory,
        database,
    }
}

type Open = Box<dyn Fn() -> Result<(), ShardError> + Send>;

/// What opens the shard for the first time.
fn opener(
    directory: &Arc<Directory>,
    options: &StoreOptions,
    replication: &ReplicationConfig,
    places: &Places,
    failed: &Failed,
    opened: oneshot::Sender<Threads>,
) -> Open {
    let (directory, places, failed) = (directory.clone(), places.clone(), failed.clone());
    let options = StoreOptions {
        digest_every: replication.digest_records,
        // Until the driver says what others need, which it cannot while the store is opened.
        retain_from: Some(SequenceNumber::FIRST),
        ..options.clone()
    };
    let (level, ack_timeout) =
        (replication.level, Duration::from_millis(replication.ack_timeout_ms));
    let opened = parking_lot::Mutex::new(Some(opened));
    Box::new(move || {
        let driver = places.driver.clone();
        let tell = move |happened| {
            let Some(driver) = driver.get() else { return };
            match happened {
                Happened::Durable(seq) => driver.durable(seq),
                Happened::Failed => driver.renews(),
                // Where nobody takes it, the driver has ended.
                Happened::Reopened(store) => drop(driver.report(Report::Opened(store))),
            }
        };
        // A log is made where there is none; where there is one, it stays what it is.
        let head = log::head(&RealFs, &directory.log()).map_err(ShardError::from)?;
        let new_log = head.is_none().then(|| LogId::from_bytes(rand::rng().random()));
        let replicated = Replicated { level, ack_timeout, tell: Arc::new(tell), new_log };
        let failed = failed.clone();
        let started =
            Shard::start(directory.clone(), options.clone(), Some(replicated), move |error| {
                failed(error.into());
            });
        let (shard, threads) = started?;
        let _ = places.shard.set(shard);
        if let Some(opened) = opened.lock().take() {
            let _ = opened.send(threads);
        }
        Ok(())
    })
}

fn ordered(orders: mpsc::Sender<driver::Order>) -> Arc<dyn Fn(driver::Order) + Send + Sync> {
    Arc::new(move |order| {
        // Where the steward has ended, the shard has.
        let _ = orders.send(order);
    })
}

fn released(places: &Places, seen: watch::Sender<u64>) -> Arc<dyn Fn(u64) + Send + Sync> {
    let shard = places.shard.clone();
    Arc::new(move |visible| {
        if let Some(shard) = shard.get() {
            shard.release(visible);
        }
        seen.send_replace(visible);
    })
}

fn start_steward(
    orders: mpsc::Receiver<driver::Order>,
    places: &Places,
    duty: Arc<ArcSwap<Duty>>,
    open: Open,
    failed: Failed,
) -> Result<(), StartError> {
    let failed_to_open = failed.clone();
    let steward = Steward {
        orders,
        driver: places.driver.clone(),
        shard: places.shard.clone(),
        duty,
        refused: Cell::default(),
        loading: places.loading.clone(),
        open: Box::new(move || match open() {
            Ok(()) => true,
            Err(error) => {
                failed_to_open(error.into());
                false
            }
        }),
        failed: Box::new(move |error| failed(ShardError::Order(error).into())),
    };
    let thread = thread::Builder::new().name("steward".into()).spawn(move || steward.run());
    thread.map(drop).map_err(StartError::Thread)
}

/// Answers writes whose time is up, until the replica is gone.
async fn expire(shard: Place, replica: std::sync::Weak<Replica>) {
    let mut every = tokio::time::interval(EXPIRE_EVERY);
    while replica.strong_count() > 0 {
        every.tick().await;
        if let Some(shard) = shard.get() {
            shard.expire();
        }
    }
}
