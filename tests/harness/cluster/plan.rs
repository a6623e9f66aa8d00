//! How a cluster is made, and what its nodes' configuration files say.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Node;

/// The three nodes of most tests, each in a region of its own.
pub const THREE: [(&str, &str); 3] =
    [("shenzhen-1", "shenzhen"), ("tianjin-1", "tianjin"), ("shanghai-1", "shanghai")];
/// The lease in these clusters: short, because tests wait for its end.
pub const LEASE: Duration = Duration::from_millis(1_000);
/// How long a write waits for its level.
const ACK_TIMEOUT: Duration = Duration::from_millis(2_000);

/// How a cluster is made.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Names and regions; the first begins the log.
    pub nodes: Vec<(&'static str, &'static str)>,
    /// The level of every node.
    pub level: &'static str,
    /// Data directories of nodes that do not keep them in their home.
    pub data: BTreeMap<usize, PathBuf>,
    /// More of every node's `[log]`.
    pub log: &'static str,
    /// More of every node's `[state]`.
    pub state: &'static str,
    /// More of every node's `[replication]`.
    pub replication: &'static str,
}

impl Plan {
    /// Three nodes in three regions.
    pub fn three(level: &'static str) -> Self {
        Self {
            nodes: THREE.to_vec(),
            level,
            data: BTreeMap::new(),
            log: "",
            state: "",
            replication: "",
        }
    }
}

/// The configuration of a node, as TOML.
pub(super) fn configuration(nodes: &[Node], index: usize, plan: &Plan, ca: &Path) -> String {
    let node = &nodes[index];
    let (name, home) = (node.name, node.home().display());
    let mut text = format!(
        "data = \"{}\"\nresp = \"{}\"\nadmin = \"{}\"\ndrain_ms = 500\n\
         [log]\nreserve_bytes = \"1 MiB\"\n{}\n\
         [state]\nblock_cache_bytes = \"16 MiB\"\nwrite_buffer_bytes = \"16 MiB\"\n\
         hot_cache_bytes = \"16 MiB\"\n{}\n\
         [node]\nid = \"{name}\"\nregion = \"{}\"\nlisten = \"{}\"\nca = \"{}\"\n\
         certificate = \"{home}/{name}.pem\"\nkey = \"{home}/{name}.key\"\n",
        node.data().display(),
        node.resp,
        node.admin,
        plan.log,
        plan.state,
        node.region,
        node.udp,
        ca.display(),
    );
    for peer in nodes.iter().filter(|peer| peer.name != name) {
        text.push_str(&format!(
            "[[node.peers]]\nid = \"{}\"\nregion = \"{}\"\naddress = \"{}\"\nresp = \"{}\"\n",
            peer.name, peer.region, peer.udp, peer.resp
        ));
    }
    text.push_str(&format!(
        "[replication]\nlevel = \"{}\"\nfirst_master = \"{}\"\nlease_ms = {}\nack_timeout_ms = {}\n\
         {}\n[lab]\nenabled = true\n",
        plan.level,
        nodes[0].name,
        LEASE.as_millis(),
        ACK_TIMEOUT.as_millis(),
        plan.replication
    ));
    text
}
