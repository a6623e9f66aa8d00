//! What the tests of this suite share.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use larder_tests::{
    client::Client,
    cluster::{Cluster, Node, Plan},
    deadline::Deadline,
    process::{kvd_path, skip},
};

/// How long something may take that follows by itself.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A cluster of the plan; `None` where there is no kvd to run.
pub(crate) fn cluster(plan: &Plan) -> Result<Option<Cluster>> {
    match kvd_path() {
        Ok(binary) => Cluster::start(&binary, plan).map(Some),
        Err(missing) => {
            skip("replication", &missing);
            Ok(None)
        }
    }
}

/// Waits until the node answers a key with this value.
pub(crate) fn wait_for_value(node: &Node, key: &str, value: &str) -> Result<()> {
    let mut client = node.client()?;
    let mut last = String::new();
    Deadline::after(SOON)
        .wait_for("a value to arrive", || {
            let reply = client.call(&["GET", key])?;
            last = reply.describe();
            Ok((reply.text() == value.as_bytes()).then_some(()))
        })
        .with_context(|| format!("{key} at {} is {last}, not {value}", node.name))
}

/// Writes keys `PREFIX0` and so on; every one is acknowledged.
pub(crate) fn write_keys(client: &mut Client, prefix: &str, count: usize) -> Result<()> {
    for n in 0..count {
        client.expect_ok(&["SET", &format!("{prefix}{n}"), &n.to_string()])?;
    }
    Ok(())
}

/// Every one of these keys is there with its value.
pub(crate) fn expect_keys(client: &mut Client, prefix: &str, count: usize) -> Result<()> {
    for n in 0..count {
        let key = format!("{prefix}{n}");
        let reply = client.call(&["GET", &key])?;
        ensure!(reply.text() == n.to_string().as_bytes(), "{key} is {}", reply.describe());
    }
    Ok(())
}
