//! A cluster's authority, and the certificates that it issues.

use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use larder_net::ca;
use larder_types::{ClusterId, NodeId};

/// Makes an authority for a cluster of this name.
///
/// # Errors
/// When its files cannot be written.
pub fn init_authority(dir: &Path, cluster: &str) -> Result<()> {
    let cluster = ClusterId::new(cluster).context("a name of a cluster")?;
    ca::init(dir, &cluster, valid())?;
    Ok(())
}

/// Makes a node's certificate.
///
/// # Errors
/// When it is there already or cannot be written.
pub fn issue(authority: &Path, node: &str, dir: &Path, validity: ca::Validity) -> Result<()> {
    let node = NodeId::new(node).context("a name of a node")?;
    ca::issue_node(authority, &node, dir, validity)?;
    Ok(())
}

/// From a minute ago, for a day.
pub fn valid() -> ca::Validity {
    let (minute, day) = (Duration::from_secs(60), Duration::from_secs(86_400));
    ca::Validity { from: SystemTime::now() - minute, lasting: day }
}

/// Over for an hour.
pub fn expired() -> ca::Validity {
    let (day, lasting) = (Duration::from_secs(86_400), Duration::from_secs(82_800));
    ca::Validity { from: SystemTime::now() - day, lasting }
}
