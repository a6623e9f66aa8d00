//! A node's life: opens the store, serves, and ends in order.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use larder_config::{Config, ConfigError, Durability};
use larder_replication::driver::DriverError;
use larder_storage::{
    self as storage, Directory, DirectoryError, FileError, LogError, StoreError, StoreOptions,
    Visibility, log::ReadError, rewind::RewindError, state::DatabaseOptions,
};
use larder_types::AckLevel;
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
    task::{JoinHandle, spawn_blocking},
    time::timeout,
};

use crate::{
    admin,
    connection::{Stop, Workers, serve},
    node::{Node, Phase},
    replica::{self, Replica, StartError},
    shard::{Place, Shard, ShardError, Threads},
    stopping::oversee,
};

/// How long a node whose log failed waits for its threads: a disk that hangs must not keep it.
const FAILED_STOP: Duration = Duration::from_secs(5);
/// How long the end of replication may take: the other nodes notice by themselves too.
const REPLICATION_STOP: Duration = Duration::from_secs(2);

/// Why a node did not start, or ended before it was asked to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The configuration was refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An address could not be listened on.
    #[error("cannot listen on {key} = \"{address}\": {source}")]
    Listen {
        /// The key of the address.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Replication did not start, or ended.
    #[error(transparent)]
    Cluster(#[from] StartError),
    /// The node ended before its store was open.
    #[error("the node ends before its store was open")]
    Interrupted,
    /// The threads that serve connections were refused.
    #[error(
        "cannot start the threads that serve connections: {0}; lower `threads`, or raise what the system allows"
    )]
    Workers(#[source] io::Error),
    /// The shard failed while it was at work. What was acknowledged is safe; a restart finds it.
    #[error(transparent)]
    Failed(ShardError),
    /// The shard was refused, or ended.
    #[error(transparent)]
    Shard(#[from] ShardError),
    /// A task that opens or closes the store panicked.
    #[error("a task of the node ended unexpectedly: {0}")]
    Task(#[from] tokio::task::JoinError),
}

impl RunError {
    /// The exit code of the process, after BSD's `sysexits.h`: 65 for damaged data, 70 for a
    /// defect, 73 for what cannot be made or locked, 74 for failing input or output, 78 for the
    /// configuration.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) => 78,
            Self::Listen { .. } => 73,
            Self::Failed(_) => 74,
            Self::Task(_) | Self::Interrupted | Self::Workers(_) => 70,
            Self::Shard(shard) | Self::Cluster(StartError::Shard(shard)) => shard_code(shard),
            Self::Cluster(StartError::Driver(driver)) => driver_code(driver),
            Self::Cluster(_) => 70,
        }
    }
}

fn shard_code(error: &ShardError) -> u8 {
    match error {
        ShardError::Directory(directory) => directory_code(directory),
        ShardError::Log(log) => log_code(log),
        ShardError::Store(store) => store_code(store),
        _ => 70,
    }
}

fn store_code(error: &StoreError) -> u8 {
    match error {
        StoreError::Directory(directory) => directory_code(directory),
        StoreError::Log(log) => log_code(log),
        StoreError::State(state) if state.is_io() => 74,
        StoreError::File(file) => file_code(file),
        StoreError::Thread(_) => 70,
        _ => 65,
    }
}

const fn file_code(error: &FileError) -> u8 {
    match error {
        FileError::Io { .. } => 74,
        _ => 65,
    }
}

/// Certificates are configuration; the UDP address is one that cannot be had.
fn driver_code(error: &DriverError) -> u8 {
    match error {
        DriverError::OtherNode { .. } => 78,
        DriverError::Net(larder_net::Error::Bind { .. }) => 73,
        DriverError::Net(_) => 78,
        DriverError::Store(store) => store_code(store),
        DriverError::Read(ReadError::Log(log)) => log_code(log),
        DriverError::Read(_) | DriverError::ReplicaSet { .. } => 65,
        DriverError::Rewind(RewindError::File(file)) => file_code(file),
        DriverError::Rewind(RewindError::DamagedKey) => 65,
        DriverError::Standing { .. } | DriverError::Rewind(_) | DriverError::Snapshot(_) => 74,
        _ => 70,
    }
}

/// The exit code for a data directory that was refused.
pub fn directory_code(error: &DirectoryError) -> u8 {
    match error {
        DirectoryError::Damaged { .. } => 65,
        _ => 73,
    }
}

/// The exit code for a log that was refused or failed.
pub fn log_code(error: &LogError) -> u8 {
    match error {
        LogError::UnsupportedVersion { .. } | LogError::UnsupportedKind { .. } => 73,
        _ if error.is_io() => 74,
        _ => 65,
    }
}

/// Runs a node until the first of `signals`, which come by their names, a client sends SHUTDOWN, or
/// the shard fails. At most `tables_open_max` tables of its state are open at once.
///
/// Requests that were read before the stop are answered for at most `drain_ms`; then everything
/// is folded and flushed, so that the next start has nothing to replay. A stop that takes too long, or
/// that another signal cuts short, kills the process.
///
/// # Errors
/// Why the node did not start or could not go on; [`RunError::exit_code`] is what the process
/// should end with.
pub async fn run(
    config: Config,
    tables_open_max: u32,
    signals: mpsc::Receiver<&'static str>,
) -> Result<(), RunError> {
    config.validate()?;
    let resp = listen("resp", config.resp).await?;
    let resp_address = resp.local_addr().unwrap_or(config.resp);
    let stop = Arc::new(Stop::default());
    let started = Arc::new(OnceLock::new());
    let drain = Duration::from_millis(config.drain_ms);
    // To the end: what comes after this function is bounded too.
    tokio::spawn(oversee(signals, stop.clone(), started.clone(), drain));
    let admin = start_admin(&config, started.clone()).await?;

    let (failed, mut failures) = mpsc::channel(1);
    let Opened { shard, mut opening, cluster } = open(&config, tables_open_max, failed).await?;
    forgo_huge_pages();
    let replica = cluster.as_ref().map(|cluster| cluster.replica.clone());
    let node = Arc::new(Node::new(config, shard, replica, resp_address)?);
    let workers = Workers::start(node.config.threads, &node).map_err(RunError::Workers)?;
    // Nobody else sets it.
    let _ = started.set(node.clone());
    if stop.is_requested() {
        node.enter(Phase::Draining);
    } else {
        tracing::info!(address = %resp_address, "kvd serves");
    }
    if matches!(opening, Opening::Done(_)) {
        node.enter(Phase::Serving);
    }

    let outcome = tokio::select! {
        () = serve(resp, &workers, node.clone(), stop.clone(), drain) => Ok(()),
        cause = failure(&node, &mut opening, &mut failures) => Err(cause),
    };
    node.enter(Phase::Draining);
    if let Some(cluster) = cluster {
        cluster.end().await;
    }
    let threads = match &outcome {
        Ok(()) => opening.end().await,
        Err(_) => timeout(FAILED_STOP, opening.end()).await.ok().flatten(),
    };
    let closing = node.clone();
    let stopped = spawn_blocking(move || {
        if let Some(threads) = threads {
            threads.stop();
        }
        if let Some(store) = closing.store() {
            store.close();
        }
    });
    if outcome.is_err() {
        // What failed can neither be synced nor closed: what is on disk is for the next start. But
        // RocksDB's threads must have ended before the process does, unless the disk hangs.
        let _ = timeout(FAILED_STOP, stopped).await;
        return outcome;
    }
    stopped.await?;
    if let Some(admin) = admin {
        admin.abort();
    }
    if let Ok(cause) = failures.try_recv() {
        return Err(cause);
    }
    tracing::info!("kvd ends; everything is on disk");
    Ok(())
}

/// What ends the node before it is asked to. Notes meanwhile that the store is open, where a rewind
/// had to end first.
async fn failure(
    node: &Node,
    opening: &mut Opening,
    failures: &mut mpsc::Receiver<RunError>,
) -> RunError {
    if let Opening::Awaited(threads) = opening {
        let opened = tokio::select! {
            opened = threads => opened,
            Some(cause) = failures.recv() => return cause,
        };
        if let Ok(threads) = opened {
            *opening = Opening::Done(threads);
            node.enter(Phase::Serving);
        } else {
            *opening = Opening::Ended;
            // What ended it is told by another thread, perhaps a little later.
            let cause = timeout(FAILED_STOP, failures.recv()).await;
            return cause.ok().flatten().unwrap_or(RunError::Interrupted);
        }
    }
    match failures.recv().await {
        Some(cause) => cause,
        None => std::future::pending().await,
    }
}

async fn listen(key: &'static str, address: SocketAddr) -> Result<TcpListener, RunError> {
    TcpListener::bind(address).await.map_err(|source| RunError::Listen { key, address, source })
}

/// The admin port answers while the store is being opened, so that a watcher sees a start from a
/// hang.
async fn start_admin(
    config: &Config,
    started: Arc<OnceLock<Arc<Node>>>,
) -> Result<Option<JoinHandle<()>>, RunError> {
    let Some(address) = config.admin else { return Ok(None) };
    let listener = listen("admin", address).await?;
    let address = listener.local_addr().unwrap_or(address);
    tracing::info!(%address, "metrics and health are served");
    Ok(Some(tokio::spawn(async move {
        if let Err(error) = admin::serve(listener, started).await {
            tracing::error!(%error, "the admin port ended");
        }
    })))
}

/// Memory in pages of the usual size, as redis-server has it: to clear a huge one takes a thread of
/// connections a millisecond and more, which all its clients wait. Not before the store is open: what a
/// start replays comes in at once, and sooner with them (docs/adr/0014-no-huge-pages.md).
fn forgo_huge_pages() {
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::warn!(%error, "huge pages stay on, and writes may wait while one is cleared");
    }
}

/// What a node consists of, beside its connections.
struct Opened {
    shard: Place,
    opening: Opening,
    cluster: Option<Cluster>,
}

/// The opening of the shard's store.
enum Opening {
    /// It is open, and these threads work with it.
    Done(Threads),
    /// It will be open when a rewind is done.
    Awaited(oneshot::Receiver<Threads>),
    /// It will not be.
    Ended,
}

impl Opening {
    /// The threads to be stopped. Once replication has ended: an opening that is under way is waited
    /// for, since RocksDB's threads must have ended before the process does.
    async fn end(self) -> Option<Threads> {
        match self {
            Self::Done(threads) => Some(threads),
            Self::Awaited(threads) => threads.await.ok(),
            Self::Ended => None,
        }
    }
}

/// What a node of a cluster runs beside its shard.
struct Cluster {
    replica: Arc<Replica>,
    watcher: JoinHandle<()>,
}

impl Cluster {
    /// Ends replication: the other nodes are told.
    async fn end(self) {
        let _ = timeout(REPLICATION_STOP, self.replica.driver.end()).await;
        self.watcher.abort();
    }
}

async fn open(
    config: &Config,
    tables_open_max: u32,
    failed: mpsc::Sender<RunError>,
) -> Result<Opened, RunError> {
    let (root, options) = (config.data.clone(), store_options(config, tables_open_max));
    let directory = spawn_blocking(move || Directory::open(&root)).await?;
    let directory = Arc::new(directory.map_err(ShardError::from)?);
    let Some(node) = config.node.clone() else {
        let opened = spawn_blocking(move || {
            Shard::start(directory, options, None, move |error| {
                // The first failure is what ends the node, which may have ended already.
                let _ = failed.try_send(RunError::Failed(error));
            })
        });
        let (shard, threads) = opened.await??;
        let (shard, opening) = (Arc::new(shard.into()), Opening::Done(threads));
        return Ok(Opened { shard, opening, cluster: None });
    };
    let (replication, is_lab, told) =
        (config.replication.clone(), config.lab.enabled, failed.clone());
    let started = spawn_blocking(move || {
        let failed: replica::Failed = Arc::new(move |error| {
            // The first failure is what ends the node.
            let _ = told.try_send(match error {
                StartError::Shard(shard) => RunError::Failed(shard),
                error => RunError::Cluster(error),
            });
        });
        replica::start(&node, &replication, is_lab, directory, options, &failed)
    });
    let replica::Started { replica, shard, mut threads, thread } = started.await??;
    let watcher = tokio::spawn(async move {
        let ended = spawn_blocking(move || thread.join().expect("a panic ends the process")).await;
        if let Ok(Err(error)) = ended {
            let _ = failed.try_send(RunError::Cluster(error.into()));
        }
    });
    let opening = match threads.try_recv() {
        Ok(threads) => Opening::Done(threads),
        Err(_) => Opening::Awaited(threads),
    };
    Ok(Opened { shard, opening, cluster: Some(Cluster { replica, watcher }) })
}

fn store_options(config: &Config, tables_open_max: u32) -> StoreOptions {
    let (log, state) = (&config.log, &config.state);
    let database = DatabaseOptions::new(
        state.block_cache_bytes.as_usize(),
        state.write_buffer_bytes.as_usize(),
    )
    .with_tables_open_max(tables_open_max);
    StoreOptions {
        durability: match config.namespace.durability {
            Durability::Fsync => storage::Durability::Fsync,
            Durability::Interval(interval) => storage::Durability::Interval(
                u64::try_from(interval.as_millis()).unwrap_or(u64::MAX),
            ),
        },
        segment_bytes: log.segment_bytes.0,
        reserve_bytes: log.reserve_bytes.0,
        hot_tail_bytes: log.hot_tail_bytes.as_usize(),
        hot_cache_bytes: state.hot_cache_bytes.0,
        layer_bytes: state.layer_bytes.0,
        unapplied_bytes_max: state.unapplied_bytes_max.0,
        visibility: match config.replication.level {
            AckLevel::Local => Visibility::Durable,
            AckLevel::Near | AckLevel::Majority | AckLevel::All => Visibility::Committed,
        },
        retain_bytes_max: config.replication.retain_bytes_max.0,
        ..StoreOptions::new(database)
    }
}

#[cfg(test)]
mod tests {
    use larder_storage::state::{StateError, TABLES_OPEN_MIN};

    use super::*;

    #[test]
    fn a_default_configuration_is_what_the_store_was_tuned_for() {
        let configured = store_options(&Config::default(), TABLES_OPEN_MIN);
        let tuned = StoreOptions::new(DatabaseOptions::new(8 << 20, 8 << 20));
        assert_eq!(configured.durability, tuned.durability);
        assert_eq!(configured.segment_bytes, tuned.segment_bytes);
        assert_eq!(configured.reserve_bytes, tuned.reserve_bytes);
        assert_eq!(configured.hot_tail_bytes, tuned.hot_tail_bytes);
        assert_eq!(configured.hot_cache_bytes, tuned.hot_cache_bytes);
        assert_eq!(configured.layer_bytes, tuned.layer_bytes);
        assert_eq!(configured.unapplied_bytes_max, tuned.unapplied_bytes_max);
    }

    #[test]
    fn what_is_wrong_decides_the_exit_code() {
        let path = || std::path::PathBuf::from("/data");
        let code = |error: ShardError| RunError::from(error).exit_code();
        assert_eq!(code(DirectoryError::Locked { path: path() }.into()), 73);
        let damaged = LogError::UnexpectedFile { path: path() };
        assert_eq!(code(StoreError::from(damaged).into()), 65);
        let version = LogError::UnsupportedVersion { segment: "1".into(), found: 9, supported: 1 };
        assert_eq!(code(StoreError::from(version).into()), 73);
        let thread = StoreError::Thread(io::ErrorKind::WouldBlock.into());
        assert_eq!(code(thread.into()), 70);
        let full = LogError::Poisoned { cause: "no space".into() };
        assert_eq!(code(full.into()), 74);
        let damaged = LogError::UnexpectedFile { path: path() };
        assert_eq!(RunError::Failed(damaged.into()).exit_code(), 74);
    }

    #[test]
    fn a_disk_that_fails_a_read_of_a_start_is_told_from_damage() {
        let path = || std::path::PathBuf::from("/data");
        let broken = || io::Error::from_raw_os_error(5);
        let (operation, damage) = ("read", "a marker".to_owned());
        let read = || LogError::Io { operation, path: path(), source: broken() };
        let expected: [(StoreError, u8); 5] = [
            (read().into(), 74),
            (StateError::Files { path: path(), source: broken() }.into(), 74),
            (StateError::DamagedPosition { path: path() }.into(), 65),
            (FileError::Io { path: path(), source: broken() }.into(), 74),
            (FileError::Damaged { path: path(), expected: damage }.into(), 65),
        ];
        for (error, code) in expected {
            let told = error.to_string();
            assert_eq!(driver_code(&DriverError::Store(error)), code, "{told}");
        }
        let file = |is_read: bool| match is_read {
            false => FileError::Io { path: path(), source: broken() },
            true => FileError::Damaged { path: path(), expected: "a marker".to_owned() },
        };
        for (rewind, code) in [
            (RewindError::File(file(false)), 74),
            (RewindError::File(file(true)), 65),
            (RewindError::DamagedKey, 65),
        ] {
            assert_eq!(driver_code(&DriverError::Rewind(rewind)), code);
        }
        assert_eq!(driver_code(&DriverError::Read(ReadError::Log(read()))), 74);
        let state = StoreError::from(StateError::Files { path: path(), source: broken() });
        assert_eq!(RunError::from(ShardError::from(state)).exit_code(), 74);
    }
}
