//! A cluster of real `kvd` processes on loopback, with certificates of its own, lines that can be
//! shaped, and the admin port of each node.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail, ensure};
use larder_net::ca;
use larder_types::{ClusterId, NodeId};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value as Json, json};
use tempfile::TempDir;

use crate::{
    client::Client,
    deadline::Deadline,
    process::{Server, free_address},
};

/// How long a cluster may take until every node streams from the master.
pub const STREAMING_DEADLINE: Duration = Duration::from_secs(60);
/// How long the admin port may take for what it waits for itself.
const ADMIN_PATIENCE: Duration = Duration::from_secs(60);

/// The three nodes of most tests, each in a region of its own.
pub const THREE: [(&str, &str); 3] =
    [("shenzhen-1", "shenzhen"), ("tianjin-1", "tianjin"), ("shanghai-1", "shanghai")];

/// How a cluster is made.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Names and regions; the first begins the log.
    pub nodes: Vec<(&'static str, &'static str)>,
    /// The level of every node.
    pub level: &'static str,
    /// More of every node's configuration, before its first table.
    pub more: String,
    /// More of `[replication]`.
    pub replication: String,
}

impl Plan {
    /// Three nodes in three regions.
    pub fn three(level: &'static str) -> Self {
        Self { nodes: THREE.to_vec(), level, more: String::new(), replication: String::new() }
    }
}

/// A node, whether it runs or not.
#[derive(Debug)]
pub struct Node {
    /// Its name.
    pub name: &'static str,
    /// Where its clients connect.
    pub resp: SocketAddr,
    /// Its admin port.
    pub admin: SocketAddr,
    udp: SocketAddr,
    region: &'static str,
    home: PathBuf,
    server: Option<Server>,
}

/// The cluster.
#[derive(Debug)]
pub struct Cluster {
    binary: PathBuf,
    /// Its nodes, in the plan's order.
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

    /// Makes certificates and configurations.
    ///
    /// # Errors
    /// When a file cannot be written or no port is free.
    pub fn prepare(binary: &Path, plan: &Plan) -> Result<Self> {
        let root = TempDir::with_prefix("larder-cluster-")?;
        let ca = root.path().join("ca");
        let cluster = ClusterId::new("tests").context("a name")?;
        ca::init(&ca, &cluster, valid())?;
        let mut nodes = Vec::new();
        for (name, region) in &plan.nodes {
            let home = root.path().join(name);
            std::fs::create_dir(&home)?;
            let id = NodeId::new(name).context("a name")?;
            ca::issue_node(&ca, &id, &home, valid())?;
            nodes.push(Node {
                name,
                region,
                resp: free_address()?,
                admin: free_address()?,
                udp: free_address()?,
                home,
                server: None,
            });
        }
        for index in 0..nodes.len() {
            let text = configuration(&nodes, index, plan, &ca);
            std::fs::write(nodes[index].home.join("kvd.toml"), text)?;
        }
        Ok(Self { binary: binary.to_owned(), nodes, root })
    }

    /// Where the cluster's files are; gone with it.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// Starts a node that does not run.
    ///
    /// # Errors
    /// When it does not start.
    pub fn launch(&mut self, index: usize) -> Result<()> {
        let node = &mut self.nodes[index];
        let mut command = Command::new(&self.binary);
        command.arg("--config").arg(node.home.join("kvd.toml"));
        let scratch = TempDir::with_prefix("larder-node-")?;
        node.server = Some(Server::start(node.name, command, node.resp, scratch)?);
        Ok(())
    }

    /// Ends a node at once.
    pub fn kill(&mut self, index: usize) {
        if let Some(mut server) = self.nodes[index].server.take() {
            server.kill();
        }
    }

    /// Waits until `master` leads and every other node streams from it.
    ///
    /// # Errors
    /// When that does not come about in time; with what each node printed last.
    pub fn wait_until_streaming(&self, master: usize) -> Result<()> {
        let nodes: Vec<usize> = (0..self.nodes.len()).collect();
        self.wait_for_members(master, &nodes)
    }

    /// The same, for some of the nodes.
    ///
    /// # Errors
    /// The same.
    pub fn wait_for_members(&self, master: usize, nodes: &[usize]) -> Result<()> {
        let mut last = Json::Null;
        Deadline::after(STREAMING_DEADLINE)
            .wait_for("every node to stream from the master", || {
                let Ok(view) = self.nodes[master].get("/replication") else { return Ok(None) };
                let is_streaming = |name: &str| {
                    let members = view["members"].as_array().into_iter().flatten();
                    members.into_iter().any(|member| {
                        let state = member["state"].as_str();
                        member["node"] == name && matches!(state, Some("streaming" | "master"))
                    })
                };
                let all = nodes.iter().all(|index| is_streaming(self.nodes[*index].name));
                let is_there = view["role"] == "master" && all;
                last = view;
                Ok(is_there.then_some(()))
            })
            .with_context(|| format!("last seen: {last}\n{}", self.printed()))
    }

    /// What each node printed last.
    pub fn printed(&self) -> String {
        let printed = self.nodes.iter().filter_map(|node| {
            let server = node.server.as_ref()?;
            Some(format!("--- {}\n{}", node.name, server.stderr()))
        });
        printed.collect()
    }

    /// Shapes the line between two nodes, in both directions; `None` makes it as it is.
    ///
    /// # Errors
    /// When an admin port refuses.
    pub fn shape(&self, one: usize, other: usize, shape: Option<&Json>) -> Result<()> {
        for (from, to) in [(one, other), (other, one)] {
            let (node, peer) = (&self.nodes[from], self.nodes[to].name);
            if node.server.is_none() {
                continue;
            }
            match shape {
                Some(shape) => {
                    let mut line = shape.clone();
                    line["peer"] = json!(peer);
                    node.send("PUT", "/lab/shapes", &line)?;
                }
                None => drop(node.send("DELETE", &format!("/lab/shapes/{peer}"), &Json::Null)?),
            }
        }
        Ok(())
    }
}

impl Node {
    /// A connection of a client.
    ///
    /// # Errors
    /// When it is refused.
    pub fn client(&self) -> Result<Client> {
        Client::connect(self.resp)
    }

    /// The process.
    pub fn server(&mut self) -> Option<&mut Server> {
        self.server.as_mut()
    }

    /// Its data directory.
    pub fn data(&self) -> PathBuf {
        self.home.join("data")
    }

    /// Where its configuration and its certificates are.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Stops the process where it is, or lets it go on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let server = self.server.as_ref().context("the node does not run")?;
        let pid = Pid::from_raw(i32::try_from(server.pid())?).context("a process")?;
        Ok(kill_process(pid, signal)?)
    }

    /// Asks the admin port.
    ///
    /// # Errors
    /// When it does not answer, or refuses.
    pub fn get(&self, path: &str) -> Result<Json> {
        let (status, body) = self.exchange("GET", path, &Json::Null)?;
        ensure!(status == 200, "GET {path}: {status} {body}");
        Ok(body)
    }

    /// Asks the admin port to do something.
    ///
    /// # Errors
    /// When it does not answer, or refuses.
    pub fn send(&self, method: &str, path: &str, body: &Json) -> Result<Json> {
        let (status, answer) = self.exchange(method, path, body)?;
        ensure!(status == 200, "{method} {path}: {status} {answer}");
        Ok(answer)
    }

    /// One request to the admin port, and its answer, a refusal included.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn exchange(&self, method: &str, path: &str, body: &Json) -> Result<(u16, Json)> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let mut stream = TcpStream::connect(self.admin)?;
        stream.set_read_timeout(Some(ADMIN_PATIENCE))?;
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            self.admin,
            body.len()
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let Some((head, body)) = answer.split_once("\r\n\r\n") else {
            bail!("{method} {path}: no HTTP: {answer:?}")
        };
        let status =
            head.split(' ').nth(1).and_then(|code| code.parse().ok()).context("a status")?;
        let body = if body.is_empty() { Json::Null } else { serde_json::from_str(body)? };
        Ok((status, body))
    }
}

/// From a minute ago, for a day.
fn valid() -> ca::Validity {
    ca::Validity {
        from: SystemTime::now() - Duration::from_secs(60),
        lasting: Duration::from_secs(86_400),
    }
}

fn configuration(nodes: &[Node], index: usize, plan: &Plan, ca: &Path) -> String {
    let node = &nodes[index];
    let home = node.home.display();
    let mut text = format!(
        "data = \"{home}/data\"\nresp = \"{}\"\nadmin = \"{}\"\ndrain_ms = 1000\n{}\n\
         [log]\nreserve_bytes = 0\n\
         [state]\nblock_cache_bytes = \"16 MiB\"\nwrite_buffer_bytes = \"16 MiB\"\n\
         hot_cache_bytes = \"16 MiB\"\n\
         [node]\nid = \"{name}\"\nregion = \"{}\"\nlisten = \"{}\"\nca = \"{}/ca.pem\"\n\
         certificate = \"{home}/{name}.pem\"\nkey = \"{home}/{name}.key\"\n",
        node.resp,
        node.admin,
        plan.more,
        node.region,
        node.udp,
        ca.display(),
        name = node.name,
    );
    for (other, peer) in nodes.iter().enumerate() {
        if other != index {
            text.push_str(&format!(
                "[[node.peers]]\nid = \"{}\"\nregion = \"{}\"\naddress = \"{}\"\nresp = \"{}\"\n",
                peer.name, peer.region, peer.udp, peer.resp
            ));
        }
    }
    text.push_str(&format!(
        "[replication]\nlevel = \"{}\"\nfirst_master = \"{}\"\n{}\n[lab]\nenabled = true\n",
        plan.level, nodes[0].name, plan.replication
    ));
    text
}
