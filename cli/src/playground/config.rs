//! The configuration files of the nodes.

use std::path::Path;

use larder_types::NodeId;
use serde::Serialize;

use super::layout::{Ports, Region};
use crate::args::Level;
use crate::failure::Failure;

/// How long a stop waits for requests that have been sent: nobody serious is connected.
const DRAIN_MS: u64 = 1000;
/// Each node's caches: three nodes share the machine with all else.
const CACHE_BYTES: &str = "64 MiB";

/// A file as kvd reads it.
#[derive(Serialize)]
struct File<'a> {
    data: &'a Path,
    resp: String,
    admin: String,
    drain_ms: u64,
    state: State,
    node: Node<'a>,
    replication: Replication,
    lab: Lab,
}

#[derive(Serialize)]
struct State {
    block_cache_bytes: &'static str,
    write_buffer_bytes: &'static str,
    hot_cache_bytes: &'static str,
}

#[derive(Serialize)]
struct Node<'a> {
    id: NodeId,
    region: &'static str,
    listen: String,
    ca: &'a Path,
    certificate: &'a Path,
    key: &'a Path,
    peers: Vec<Peer>,
}

#[derive(Serialize)]
struct Peer {
    id: NodeId,
    region: &'static str,
    address: String,
    resp: String,
}

#[derive(Serialize)]
struct Replication {
    level: Level,
    first_master: NodeId,
}

#[derive(Serialize)]
struct Lab {
    enabled: bool,
}

/// Files that a node's configuration names.
pub(crate) struct Paths<'a> {
    /// The data directory.
    pub(crate) data: &'a Path,
    /// The authority's certificate.
    pub(crate) ca: &'a Path,
    /// The node's certificate.
    pub(crate) certificate: &'a Path,
    /// The node's key.
    pub(crate) key: &'a Path,
}

/// The configuration of a region's node, as TOML.
///
/// # Errors
/// A path is no UTF-8, which TOML cannot say.
pub(crate) fn of(
    region: Region,
    ports: Ports,
    level: Level,
    paths: &Paths<'_>,
) -> Result<String, Failure> {
    let peers = region.others().map(|peer| Peer {
        id: peer.node(),
        region: peer.name(),
        address: ports.nodes(peer).to_string(),
        resp: ports.resp(peer).to_string(),
    });
    let file = File {
        data: paths.data,
        resp: ports.resp(region).to_string(),
        admin: ports.admin(region).to_string(),
        drain_ms: DRAIN_MS,
        state: State {
            block_cache_bytes: CACHE_BYTES,
            write_buffer_bytes: CACHE_BYTES,
            hot_cache_bytes: CACHE_BYTES,
        },
        node: Node {
            id: region.node(),
            region: region.name(),
            listen: ports.nodes(region).to_string(),
            ca: paths.ca,
            certificate: paths.certificate,
            key: paths.key,
            peers: peers.collect(),
        },
        replication: Replication { level, first_master: Region::ALL[0].node() },
        lab: Lab { enabled: true },
    };
    toml::to_string(&file)
        .map_err(|error| Failure::Usage(format!("a path cannot stand in a configuration: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_told_of_itself_and_of_every_other() {
        let at = Path::new("/x/\"quoted\"");
        let paths = Paths { data: at, ca: at, certificate: at, key: at };
        let text = of(Region::Tianjin, Ports(6380), Level::Majority, &paths).unwrap();
        let file: toml::Table = text.parse().unwrap();
        assert_eq!(file["data"].as_str(), at.to_str());
        assert_eq!(file["node"]["id"].as_str(), Some("tianjin-1"));
        assert_eq!(file["node"]["listen"].as_str(), Some("127.0.0.1:7381"));
        assert_eq!(file["replication"]["first_master"].as_str(), Some("shenzhen-1"));
        assert_eq!(file["replication"]["level"].as_str(), Some("majority"));
        assert_eq!(file["lab"]["enabled"].as_bool(), Some(true));
        let peers = file["node"]["peers"].as_array().unwrap();
        let named: Vec<_> = peers.iter().map(|peer| peer["id"].as_str().unwrap()).collect();
        assert_eq!(named, ["shenzhen-1", "shanghai-1"]);
        assert_eq!(peers[1]["resp"].as_str(), Some("127.0.0.1:6382"));
        assert_eq!(peers[1]["address"].as_str(), Some("127.0.0.1:7382"));
    }
}
