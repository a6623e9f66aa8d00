//! A node of a cluster: its part in the replication of its log, and what clients may ask of it
//! because of that.
//!
//! ```text
//! connections ──admit──> Replica <──status── driver (larder-replication)
//!                                              │ Order        ▲ Report
//!                                              ▼              │
//!                                            steward: a thread that works on the shard
//! ```

mod admission;
mod duty;
mod loading;
mod start;
mod steward;
mod token;

use std::{
    borrow::Cow,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption, Guard};
use larder_config::NodeConfig;
use larder_net::Shaper;
use larder_replication::{
    core::{Need, Status},
    driver::Driver,
};
use larder_storage::Directory;
use larder_types::{AckLevel, NodeId, Position};
use tokio::sync::watch;

pub use admission::touches_keys;
pub use duty::Duty;
pub use start::{Failed, StartError, Started, start};
pub use token::{Token, Whereabouts};

use loading::Loading;

/// How often the figures that INFO, ROLE and the metrics show are taken.
const STATUS_EVERY: Duration = Duration::from_millis(200);

/// This node's part in the replication of its log; a handle for connections.
pub struct Replica {
    /// Who this node is, and who its peers are.
    pub node: NodeConfig,
    /// The namespace's level.
    pub level: AckLevel,
    /// How long a write may wait for its level.
    pub ack_timeout: Duration,
    /// What joins the core to the shard and the network.
    pub driver: Driver,
    /// What the lab does to datagrams; `None` where it is not enabled.
    pub shaper: Option<Shaper>,
    /// The data directory.
    pub directory: Arc<Directory>,
    loading: Arc<Loading>,
    duty: Arc<ArcSwap<Duty>>,
    status: ArcSwapOption<Status>,
    visible: watch::Receiver<u64>,
    /// Writes that KV.ACK made wait and that did not get as far.
    unreached: AtomicU64,
}

impl Replica {
    /// What this node does now.
    pub fn duty(&self) -> Guard<Arc<Duty>> {
        self.duty.load()
    }

    /// What commands that need the store are refused with; `None` while it is open.
    pub fn loading(&self) -> Option<Cow<'static, str>> {
        self.loading.why()
    }

    /// How things stood a moment ago; `None` at the very start.
    pub fn status(&self) -> Option<Arc<Status>> {
        self.status.load_full()
    }

    /// Where the clients of a node connect.
    pub fn resp_of(&self, node: &NodeId) -> Option<SocketAddr> {
        self.node.peer(node).map(|peer| peer.resp)
    }

    /// Writes of which nobody knows what becomes of them, because KV.ACK asked for more than was
    /// reached.
    pub fn unreached(&self) -> u64 {
        self.unreached.load(Ordering::Relaxed)
    }

    /// Changes whenever readers see more of the log.
    pub fn visible(&self) -> watch::Receiver<u64> {
        self.visible.clone()
    }

    /// Waits until a write has reached a level beyond the namespace's; false where it has not in
    /// time.
    pub async fn reach(&self, written: Position, level: AckLevel) -> bool {
        let need = Need::Level(level);
        let reached = self.driver.reach(Some(written), need, self.ack_timeout).await;
        let reached = reached.is_ok_and(|(reached, _)| reached);
        if !reached {
            self.unreached.fetch_add(1, Ordering::Relaxed);
        }
        reached
    }

    /// Takes figures for those who cannot wait for them, until the driver ends.
    pub async fn keep_status(self: Arc<Self>) {
        while let Ok(status) = self.driver.status().await {
            self.status.store(Some(Arc::new(status)));
            tokio::time::sleep(STATUS_EVERY).await;
        }
    }
}
