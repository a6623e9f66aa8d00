//! The connections that are open, by node: so that none has too many, and those of a node that is
//! no longer allowed can be cut.

use std::sync::Weak;

use larder_types::NodeId;
use parking_lot::Mutex;

use crate::{Error, Result, connection::Open};

/// Connections that one node may have here. One is in use; others are from before a restart or
/// a cut that this side has not noticed yet.
pub(crate) const CONNECTIONS_PER_NODE_MAX: usize = 4;

#[derive(Debug, Default)]
pub(crate) struct Registry(Mutex<Vec<(NodeId, Weak<Open>)>>);

impl Registry {
    /// Takes a connection in; `Err` if its node has too many.
    pub(crate) fn add(&self, node: &NodeId, connection: Weak<Open>) -> Result<()> {
        let mut open = self.0.lock();
        open.retain(|(_, connection)| connection.upgrade().is_some_and(|open| open.is_alive()));
        let connections = open.iter().filter(|(known, _)| known == node).count();
        if connections >= CONNECTIONS_PER_NODE_MAX {
            return Err(Error::TooManyConnections { node: node.clone(), connections });
        }
        open.push((node.clone(), connection));
        Ok(())
    }

    /// Closes every connection with a node for which `stays` answers no.
    pub(crate) fn retain(&self, stays: impl Fn(&NodeId) -> bool) {
        let cut: Vec<_> = {
            let mut open = self.0.lock();
            let cut = open.iter().filter(|(node, _)| !stays(node));
            let cut = cut.filter_map(|(_, connection)| connection.upgrade()).collect();
            open.retain(|(node, _)| stays(node));
            cut
        };
        for connection in cut {
            connection.cut();
        }
    }
}
