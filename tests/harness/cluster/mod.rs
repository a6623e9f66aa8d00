//! Clusters of real `kvd` processes on loopback, each node with certificates, configuration and data
//! of its own and lines that can be shaped; and clients that keep a record of what they were told.

mod authority;
mod node;
mod plan;
pub mod registers;
mod target;
pub mod writers;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use larder_net::ca;
use serde_json::{Value as Json, json};
use tempfile::TempDir;

pub use authority::{expired, init_authority, issue, valid};
pub use node::Node;
pub use plan::{LEASE, Plan, THREE};

use crate::deadline::Deadline;
use crate::process::{Server, lasting_address};

/// How long a cluster may take until every node streams from the master.
pub const STREAMING_DEADLINE: Duration = Duration::from_secs(30);
/// How long a promotion may be refused because grants have not run out.
const PROMOTION_DEADLINE: Duration = Duration::from_secs(15);

/// What a line between two nodes loses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Everything, both ways.
    Both,
    /// What goes from the first to the second.
    OneWay,
}

/// A cluster.
#[derive(Debug)]
pub struct Cluster {
    binary: PathBuf,
    /// Its nodes, in the plan's order. Declared before the directory that they use.
    pub nodes: Vec<Node>,
    root: TempDir,
}

impl Cluster {
    /// Starts every node, and waits until all of them stream from the first.
    ///
    /// # Errors
    /// When a node does not start, or the cluster does not come together in time.
    pub fn start(binary: &Path, plan: &Plan) -> Result<Self> {
        let mut cluster = Self::prepare(binary, plan)?;
        for index in 0..cluster.nodes.len() {
            cluster.launch(index)?;
        }
        cluster.wait_until_streaming(0)?;
        Ok(cluster)
    }

    /// Makes certificates and configurations, and starts nothing.
    ///
    /// # Errors
    /// When a file cannot be written or no port is free.
    pub fn prepare(binary: &Path, plan: &Plan) -> Result<Self> {
        let root = TempDir::with_prefix("larder-cluster-")?;
        let authority = root.path().join("ca");
        init_authority(&authority, "tests")?;
        let mut nodes = Vec::new();
        for (index, (name, region)) in plan.nodes.iter().enumerate() {
            let home = root.path().join(name);
            std::fs::create_dir(&home)?;
            issue(&authority, name, &home, valid())?;
            let data = plan.data.get(&index).cloned().unwrap_or_else(|| home.join("data"));
            nodes.push(Node::new(name, region, home, data)?);
        }
        for index in 0..nodes.len() {
            let text =
                plan::configuration(&nodes, index, plan, &authority.join(ca::CERTIFICATE_FILE));
            std::fs::write(nodes[index].configuration(), text)?;
        }
        Ok(Self { binary: binary.to_owned(), nodes, root })
    }

    /// Where the cluster's files are; gone with it.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// The directory of the cluster's authority.
    pub fn authority(&self) -> PathBuf {
        self.root.path().join("ca")
    }

    /// Starts a node that does not run, and waits until it answers.
    ///
    /// # Errors
    /// When it does not start.
    pub fn launch(&mut self, index: usize) -> Result<()> {
        self.spawn(index)?;
        let ready = self.nodes[index].server()?.wait_until_ready();
        if ready.is_err() {
            self.kill(index);
        }
        ready
    }

    /// Starts a node that does not run, which may take long before it answers.
    ///
    /// # Errors
    /// When it does not start.
    pub fn spawn(&mut self, index: usize) -> Result<()> {
        let node = &mut self.nodes[index];
        let mut command = Command::new(&self.binary);
        command.arg("--config").arg(node.configuration());
        let scratch = TempDir::with_prefix("larder-node-")?;
        let server = Server::spawn(node.name, command, node.resp, scratch)?;
        node.run(server);
        Ok(())
    }

    /// Kills a node.
    pub fn kill(&mut self, index: usize) {
        if let Some(mut server) = self.nodes[index].take() {
            server.kill();
        }
    }

    /// Waits until `master` leads, with a lease where its level needs one, and every other node
    /// streams from it.
    ///
    /// # Errors
    /// When that does not come about in time; with what each node printed last.
    pub fn wait_until_streaming(&self, master: usize) -> Result<()> {
        let nodes: Vec<_> = (0..self.nodes.len()).collect();
        self.wait_for_members(master, &nodes)
    }

    /// The same, for some of the nodes.
    ///
    /// # Errors
    /// The same.
    pub fn wait_for_members(&self, master: usize, nodes: &[usize]) -> Result<()> {
        let streams = |view: &Json| {
            let states = nodes.iter().map(|index| member(view, self.nodes[*index].name));
            let may_serve = view["lease_ms_left"].as_f64().is_none_or(|left| left > 0.0);
            view["role"] == "master"
                && may_serve
                && states
                    .into_iter()
                    .all(|member| matches!(member["state"].as_str(), Some("streaming" | "master")))
        };
        self.wait_for_view(
            master,
            "every node to stream from the master",
            STREAMING_DEADLINE,
            streams,
        )
    }

    /// Waits until what a node says of replication is as wanted.
    ///
    /// # Errors
    /// When it is not in time; with the last view and what each node printed last.
    pub fn wait_for_view(
        &self,
        index: usize,
        what: &str,
        allowed: Duration,
        wanted: impl Fn(&Json) -> bool,
    ) -> Result<()> {
        let mut last = Json::Null;
        Deadline::after(allowed)
            .wait_for(what, || {
                // Where it does not answer, it is asked again.
                last = self.nodes[index].get("/replication").unwrap_or_default();
                Ok(wanted(&last).then_some(()))
            })
            .with_context(|| {
                format!("{} last said: {last}\n{}", self.nodes[index].name, self.printed())
            })
    }

    /// Promotes without force, as soon as the replicas allow it. Returns who leads then.
    ///
    /// # Errors
    /// When it is still refused at the deadline.
    pub fn promote(&self, index: usize) -> Result<usize> {
        let mut last = Json::Null;
        let promoted = Deadline::after(PROMOTION_DEADLINE)
            .wait_for("a promotion without force", || {
                let (status, answer) =
                    self.nodes[index].exchange("POST", "/replication/promote", &json!({}))?;
                last = answer;
                Ok((status == 200).then(|| last.clone()))
            })
            .with_context(|| format!("last refused with {last}\n{}", self.printed()))?;
        self.index_of(&promoted["master"])
    }

    /// Promotes by force, which loses what only the lost nodes have. Returns who leads then.
    ///
    /// # Errors
    /// When it is not refused without force, or refused with it.
    pub fn promote_by_force(&self, index: usize) -> Result<usize> {
        let promote = |body| self.nodes[index].exchange("POST", "/replication/promote", &body);
        let (status, refusal) = promote(json!({}))?;
        ensure!(status == 409, "a promotion that may lose was not refused: {status} {refusal}");
        let term = refusal["term"].as_u64().with_context(|| format!("no term in {refusal}"))?;
        let (status, promoted) = promote(json!({"force_term": term}))?;
        ensure!(status == 200, "refused with force: {status} {promoted}");
        self.index_of(&promoted["master"])
    }

    /// The place of a node that an answer names.
    ///
    /// # Errors
    /// When it names none.
    pub fn index_of(&self, name: &Json) -> Result<usize> {
        let found = self.nodes.iter().position(|node| *name == node.name);
        found.with_context(|| format!("{name} is no node of the cluster"))
    }

    /// Cuts the line between two nodes.
    ///
    /// # Errors
    /// When an admin port refuses.
    pub fn cut(&self, from: usize, to: usize, cut: Cut) -> Result<()> {
        match cut {
            Cut::Both => self.shape(from, to, &json!({"cut_send": true, "cut_receive": true})),
            Cut::OneWay => self.shape_one_way(from, to, &json!({"cut_send": true})),
        }
    }

    /// Cuts a node off from every other one.
    ///
    /// # Errors
    /// When an admin port refuses.
    pub fn cut_off(&self, index: usize) -> Result<()> {
        let mut others = (0..self.nodes.len()).filter(|other| *other != index);
        others.try_for_each(|other| self.cut(index, other, Cut::Both))
    }

    /// Shapes what goes from a node to another.
    ///
    /// # Errors
    /// When the admin port refuses.
    pub fn shape_one_way(&self, from: usize, to: usize, shape: &Json) -> Result<()> {
        self.nodes[from].shape(self.nodes[to].name, shape)
    }

    /// Shapes the line between two nodes, at both ends.
    ///
    /// # Errors
    /// When an admin port refuses.
    pub fn shape(&self, one: usize, other: usize, shape: &Json) -> Result<()> {
        for (from, to) in [(one, other), (other, one)] {
            if self.nodes[from].is_running() {
                self.shape_one_way(from, to, shape)?;
            }
        }
        Ok(())
    }

    /// Gives every line between two nodes this delay, one way.
    ///
    /// # Errors
    /// When an admin port refuses.
    pub fn delay(&self, delay: Duration) -> Result<()> {
        let shape = json!({"delay_ms": delay.as_secs_f64() * 1e3});
        for one in 0..self.nodes.len() {
            for other in one + 1..self.nodes.len() {
                self.shape(one, other, &shape)?;
            }
        }
        Ok(())
    }

    /// Makes every line whole, between the nodes that run.
    ///
    /// # Errors
    /// When an admin port refuses.
    pub fn heal(&self) -> Result<()> {
        self.delay(Duration::ZERO)
    }

    /// What each node printed last.
    pub fn printed(&self) -> String {
        self.nodes.iter().map(|node| format!("--- {}\n{}", node.name, node.printed())).collect()
    }
}

/// What a view says of a node; null where it says nothing.
pub fn member<'a>(view: &'a Json, name: &str) -> &'a Json {
    let members = view["members"].as_array().map_or(&[][..], Vec::as_slice);
    members.iter().find(|member| member["node"] == name).unwrap_or(&Json::Null)
}

/// An address for a node, of clients, of its admin port, and of other nodes.
fn addresses() -> Result<[std::net::SocketAddr; 3]> {
    Ok([lasting_address()?, lasting_address()?, lasting_address()?])
}
